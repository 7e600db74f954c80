//! The outer layers of a manifest: `content`, `modulesContent`, and the desired properties of each section.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    Context, agent,
    fields::Field,
    findings::{At, Findings, shown},
    hub,
    json::{Node, to_map},
};
use crate::{deployment::Deployment, name::ModuleName, twin::twin_faults};

const DESIRED: &str = "properties.desired";
const LAYERED: &str = "properties.desired.";

/// Reads a whole document.
pub(super) fn read(document: &Node, context: &Context<'_>, found: &mut Findings) -> Deployment {
    let Some(sections) = sections(document, found) else { return Deployment::default() };
    let agent = match sections.agent {
        Some(section) => desired(&section, found).map(|desired| agent::read(&desired, context, found)),
        None => {
            found.fault(&sections.at.key("$edgeAgent"), "is missing: it lists the modules");
            None
        }
    };
    let agent = agent.unwrap_or_default();
    let hub = match sections.hub {
        Some(section) => desired(&section, found).map(|desired| hub::read(&desired, &agent.names, found)),
        None => {
            found.warn(&sections.at.key("$edgeHub"), "is missing: no message goes anywhere");
            None
        }
    };
    let hub = hub.unwrap_or_default();
    let mut deployment = Deployment {
        modules: agent.modules,
        routes: hub.routes,
        registry_credentials: agent.registry_credentials,
        time_to_live: hub.time_to_live,
        rollout: agent.rollout,
        runtime: agent.runtime,
        written: agent.written,
        ..Deployment::default()
    };
    for (name, section) in sections.modules {
        if let Some(properties) = twin(name, &section, &agent.names, found)
            && let Ok(name) = ModuleName::new(name)
        {
            deployment.twins.insert(name, properties);
        }
    }
    deployment
}

/// The entries of `modulesContent`.
struct Sections<'a> {
    at: At,
    agent: Option<Field<'a>>,
    hub: Option<Field<'a>>,
    modules: Vec<(&'a str, Field<'a>)>,
}

fn sections<'a>(document: &'a Node, found: &mut Findings) -> Option<Sections<'a>> {
    let mut root = Field { node: document, at: At::root() }.fields(found)?;
    let content = root.optional("content", found);
    let mut holder = match &content {
        Some(content) => {
            if let Some(second) = root.optional("modulesContent", found) {
                found.fault_hint(&second.at, "stands beside `content`", "keep one of the two");
            }
            content.fields(found)?
        }
        None => root,
    };
    let modules_content = holder.take("modulesContent", found);
    // `$schema…` is written by editors and templates.
    let unknown = holder.rest().into_iter().filter(|(key, _)| !key.starts_with("$schema"));
    for (key, field) in unknown {
        let hint = found.nearest(key, ["content", "modulesContent"]).map(|name| format!("did you mean `{name}`?"));
        found.warn_hint(&field.at, "unknown key, ignored", hint);
    }
    let Some(modules_content) = modules_content else {
        let hint = "a deployment manifest is {\"modulesContent\": {\"$edgeAgent\": {\"properties.desired\": {…}}, …}}";
        found.fault_hint(&holder.at().key("modulesContent"), "is missing", hint);
        return None;
    };
    let mut fields = modules_content.fields(found)?;
    let (agent, hub) = (fields.take("$edgeAgent", found), fields.take("$edgeHub", found));
    Some(Sections { at: modules_content.at.clone(), agent, hub, modules: fields.rest() })
}

/// What stands under `properties.desired` of a section.
fn desired<'a>(section: &Field<'a>, found: &mut Findings) -> Option<Field<'a>> {
    let mut fields = section.fields(found)?;
    let desired = fields.take(DESIRED, found);
    let mut explained = desired.is_some();
    for (key, field) in fields.rest() {
        let is_layered = key.get(..LAYERED.len()).is_some_and(|start| start.eq_ignore_ascii_case(LAYERED));
        if is_layered {
            let message = "is an entry of a layered deployment: the cloud merges layers before a device sees them";
            found.fault_hint(&field.at, message, "apply the merged manifest, with one `properties.desired` a section");
            explained = true;
        } else if key.eq_ignore_ascii_case("properties") && desired.is_none() {
            let message = "the key is `properties.desired`, one key with a dot, not two nested ones";
            found.fault(&field.at, message);
            explained = true;
        } else {
            let hint = found.nearest(key, [DESIRED]).map(|name| format!("did you mean `{name}`?"));
            found.warn_hint(&field.at, "unknown key, ignored", hint);
        }
    }
    if !explained {
        found.fault(&section.at.key(DESIRED), "is missing");
    }
    desired
}

/// The desired properties of a deployed module, within the limits of twins.
fn twin(
    name: &str,
    section: &Field<'_>,
    deployed: &BTreeSet<String>,
    found: &mut Findings,
) -> Option<Map<String, Value>> {
    let desired = desired(section, found)?;
    let properties = to_map(desired.entries(found)?);
    for fault in twin_faults(&properties) {
        found.fault(&desired.at.below(&fault.path), fault.rule.to_string());
    }
    if deployed.contains(name) {
        return Some(properties);
    }
    let message = format!("there is no module `{}` in this deployment: its properties are ignored", shown(name));
    let hint = found.nearest(name, deployed.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
    found.warn_hint(&section.at, message, hint);
    None
}
