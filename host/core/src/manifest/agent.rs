//! `$edgeAgent`: which modules, and from where (IoT Edge semantics, 1.2 and 1.3).

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Context, ceiling,
    fields::Field,
    findings::{At, Findings, shown},
    json::Node,
    rollout, settings, values,
};
use crate::{
    deployment::{
        DesiredStatus, ModuleSpec, PullPolicy, RegistryCredential, RestartPolicy, RolloutOptions, WrittenModule,
        WrittenRuntime,
    },
    name::ModuleName,
};

/// What `$edgeAgent` says.
#[derive(Default)]
pub(super) struct Agent {
    pub(super) modules: BTreeMap<ModuleName, ModuleSpec>,
    /// Every name under `modules`, those of faulty ones too, so that no second fault follows from a first.
    pub(super) names: BTreeSet<String>,
    pub(super) registry_credentials: Vec<RegistryCredential>,
    pub(super) rollout: RolloutOptions,
    pub(super) runtime: WrittenRuntime,
    pub(super) written: BTreeMap<ModuleName, WrittenModule>,
}

const STATUS: [(&str, DesiredStatus); 2] = [("running", DesiredStatus::Running), ("stopped", DesiredStatus::Stopped)];
/// In the order of IoT Edge's numbers for them.
const RESTART_POLICIES: [(&str, RestartPolicy); 4] = [
    ("never", RestartPolicy::Never),
    ("on-failure", RestartPolicy::OnFailure),
    ("on-unhealthy", RestartPolicy::OnUnhealthy),
    ("always", RestartPolicy::Always),
];
const DOCKER: &str = "docker";
const RUNTIMES: [(&str, &str); 2] = [(DOCKER, DOCKER), ("wasm", "wasm")];
const TYPES: [(&str, &str); 2] = [("wasm", "wasm"), (DOCKER, DOCKER)];
const PULL_POLICIES: [(&str, PullPolicy); 2] = [("on-create", PullPolicy::OnCreate), ("never", PullPolicy::Never)];

/// Reads the desired properties of `$edgeAgent`.
pub(super) fn read(desired: &Field<'_>, context: &Context<'_>, found: &mut Findings) -> Agent {
    let mut agent = Agent::default();
    let Some(mut fields) = desired.fields(found) else { return agent };
    if let Some(version) = fields.required("schemaVersion", found) {
        check_schema_version(&version, found);
    }
    if let Some(runtime) = fields.optional("runtime", found) {
        (agent.registry_credentials, agent.runtime) = read_runtime(&runtime, found);
    }
    if let Some(system) = fields.optional("systemModules", found)
        && let Some(entries) = system.entries(found)
    {
        let names = entries.iter().map(|(name, _)| shown(name)).collect::<Vec<_>>().join(", ");
        found.note(&system.at, format!("accepted and not started ({names}): marram does their work itself"));
    }
    if let Some(integrity) = fields.optional("integrity", found) {
        found.warn(&integrity.at, "the signature of a manifest is not verified by this version");
    }
    if let Some(modules) = fields.optional("modules", found) {
        read_modules(&modules, context, &mut agent, found);
        ceiling::check(&modules.at, &agent.modules, context.max_memory, found);
    }
    if let Some(marram) = fields.optional("marram", found) {
        agent.rollout = rollout::read(&marram, found);
    }
    fields.warn_of_rest(found);
    agent
}

fn check_schema_version(field: &Field<'_>, found: &mut Findings) {
    if let Some(version) = values::schema_version(field, found)
        && (version.0 != 1 || version > (1, 1, 0))
    {
        found.fault(&field.at, "this version of $edgeAgent's schema is not known (1.0 and 1.1 are)");
    }
}

fn read_runtime(runtime: &Field<'_>, found: &mut Findings) -> (Vec<RegistryCredential>, WrittenRuntime) {
    let (mut credentials, mut written) = (Vec::new(), WrittenRuntime::default());
    let Some(mut fields) = runtime.fields(found) else { return (credentials, written) };
    if let Some(field) = fields.required("type", found)
        && let Some(kind) = values::word(&field, "runtime", &RUNTIMES, found)
    {
        written.kind = kind.into();
        if kind == DOCKER {
            found.note(&field.at, "accepted without a container engine: marram runs components itself");
        }
    }
    if let Some(settings) = fields.optional("settings", found)
        && let Some(mut settings) = settings.fields(found)
    {
        for key in ["minDockerVersion", "loggingOptions"] {
            let kept = settings.optional(key, found).map(|field| (key.to_owned(), field.node.to_value()));
            written.settings.extend(kept);
        }
        if let Some(entries) = settings.optional("registryCredentials", found)
            && let Some(mut entries) = entries.fields(found)
        {
            credentials = entries.rest().iter().filter_map(|(_, entry)| read_credential(entry, found)).collect();
        }
        settings.warn_of_rest(found);
    }
    fields.warn_of_rest(found);
    (credentials, written)
}

fn read_credential(entry: &Field<'_>, found: &mut Findings) -> Option<RegistryCredential> {
    let mut fields = entry.fields(found)?;
    let [address, username, password] = ["address", "username", "password"].map(|name| {
        let field = fields.required(name, found)?;
        let text = values::non_blank(&field, found)?;
        // A password is kept to the last blank.
        Some(if name == "password" { field.text(found)? } else { text }.to_owned())
    });
    fields.warn_of_rest(found);
    Some(RegistryCredential { address: address?, username: username?, password: password? })
}

fn read_modules(modules: &Field<'_>, context: &Context<'_>, agent: &mut Agent, found: &mut Findings) {
    let Some(entries) = modules.entries(found) else { return };
    let mut spellings: BTreeMap<String, &str> = BTreeMap::new();
    for (text, node) in entries {
        let module = Field { node, at: modules.at.key(text) };
        match spellings.insert(text.to_ascii_lowercase(), text) {
            Some(other) if other != text => {
                let other = shown(other);
                let message = format!("differs from the module `{other}` only in case, which routes do not tell apart");
                found.fault(&module.at, message);
            }
            _ => {}
        }
        agent.names.insert(text.clone());
        let name = ModuleName::new(text).map_err(|bad| found.fault(&module.at, bad.to_string()));
        let read = read_module(&module, name.as_ref().ok(), context, found);
        if let (Ok(name), Some((spec, written))) = (name, read) {
            agent.written.insert(name.clone(), written);
            agent.modules.insert(name, spec);
        }
    }
}

/// Reads a module; without a name only to find its faults.
fn read_module(
    module: &Field<'_>,
    name: Option<&ModuleName>,
    context: &Context<'_>,
    found: &mut Findings,
) -> Option<(ModuleSpec, WrittenModule)> {
    let mut fields = module.fields(found)?;
    let kind = fields.required("type", found).and_then(|kind| values::word(&kind, "module type", &TYPES, found));
    let desired_status = fields.required("status", found).and_then(|f| values::word(&f, "status", &STATUS, found));
    let restart_policy = fields.not_null("restartPolicy", found).and_then(|f| read_restart_policy(&f, found));
    let pull_policy =
        fields.optional("imagePullPolicy", found).and_then(|f| values::word(&f, "pull policy", &PULL_POLICIES, found));
    let startup_order = fields.not_null("startupOrder", found).and_then(|f| values::integer(&f, 0..=u32::MAX, found));
    let version = fields.optional("version", found).and_then(|f| f.text(found)).unwrap_or_default();
    let env = fields.optional("env", found).map(|f| read_env(&f, found)).unwrap_or_default();
    let settings = fields.required("settings", found).and_then(|f| settings::read(&f, context, found));
    fields.warn_of_rest(found);
    let settings = settings?;
    let spec = ModuleSpec {
        name: name?.clone(),
        version: version.to_owned(),
        image: settings.image,
        desired_status: desired_status?,
        restart_policy: restart_policy.unwrap_or(RestartPolicy::OnUnhealthy),
        max_restarts: settings.sandbox.max_restarts,
        health: settings.sandbox.health,
        pull_policy: pull_policy.unwrap_or(PullPolicy::OnCreate),
        startup_order: startup_order.unwrap_or(u32::MAX),
        env,
        sandbox: settings.sandbox.sandbox,
    };
    let written = WrittenModule {
        kind: kind?.into(),
        create_options: settings.create_options,
        sandbox: settings.written_sandbox,
    };
    Some((spec, written))
}

/// A word, or IoT Edge's number for it.
fn read_restart_policy(field: &Field<'_>, found: &mut Findings) -> Option<RestartPolicy> {
    match field.node {
        Node::Number(_) => {
            let number = values::integer(field, 0..=3_u32, found)?;
            RESTART_POLICIES.get(number as usize).map(|(_, policy)| *policy)
        }
        _ => values::word(field, "restart policy", &RESTART_POLICIES, found),
    }
}

fn read_env(env: &Field<'_>, found: &mut Findings) -> BTreeMap<String, String> {
    let Some(mut variables) = env.fields(found) else { return BTreeMap::new() };
    let mut read = BTreeMap::new();
    for (name, variable) in variables.rest() {
        check_env_name(name, &variable.at, found);
        let Some(mut fields) = variable.fields(found) else { continue };
        let value = fields.required("value", found).and_then(|field| read_env_value(&field, found));
        fields.warn_of_rest(found);
        if let Some(value) = value {
            read.insert(name.to_owned(), value);
        }
    }
    read
}

fn check_env_name(name: &str, at: &At, found: &mut Findings) {
    if name.is_empty() || name.contains(['=', '\0']) {
        found.fault(at, "the name of a variable may not be empty nor contain `=` or a NUL");
    }
}

/// Scalars become text, in JSON's spelling.
fn read_env_value(field: &Field<'_>, found: &mut Findings) -> Option<String> {
    match field.node {
        Node::Text(text) if text.contains('\0') => {
            found.fault(&field.at, "a value may not contain a NUL");
            None
        }
        Node::Text(text) => Some(text.clone()),
        Node::Number(number) => Some(number.to_string()),
        Node::Bool(value) => Some(value.to_string()),
        Node::Null | Node::List(_) | Node::Object(_) => field.expected("a string, a number or a boolean", found),
    }
}
