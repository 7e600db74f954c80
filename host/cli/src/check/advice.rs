//! What is allowed in a deployment and probably not meant so, as far as this machine can tell: `marram check` says it, and
//! the host does not. Changes nothing, and finds no faults.

use std::fs;

use marram_core::{
    deployment::Deployment,
    manifest::Finding,
    name::ModuleName,
    route::{ModuleKey, Sink},
};
use marram_registry::Image;

use crate::output;

const MODULES: &str = "modulesContent.$edgeAgent.properties.desired.modules";
const ROUTES: &str = "modulesContent.$edgeHub.properties.desired.routes";

/// What there is to say.
#[derive(Debug, Default)]
pub(super) struct Advice {
    /// Probably not meant so.
    pub(super) warnings: Vec<Finding>,
    /// Maybe not meant so.
    pub(super) notes: Vec<Finding>,
}

/// `memory` is that of this machine in bytes, if it is known; `wrapped`: the document has a `content` around everything.
pub(super) fn advise(deployment: &Deployment, memory: Option<u64>, wrapped: bool) -> Advice {
    let root = if wrapped { "content." } else { "" };
    let module_at = |name: &ModuleName, key: &str| format!("{root}{MODULES}.{name}{key}");
    let mut advice = Advice::default();
    let finding = |at: String, message: String, hint: &str| Finding { at, message, hint: Some(hint.into()) };
    let mut warn = |at, message, hint| advice.warnings.push(finding(at, message, hint));
    for (name, spec) in &deployment.modules {
        if floats(&spec.image) {
            let hint = "write `…:TAG`, or pin it with `…@sha256:…`";
            warn(
                module_at(name, ".settings.image"),
                format!("`{}` names no version: `latest` is meant", spec.image),
                hint,
            );
        }
        if let Some(memory) = memory.filter(|memory| spec.sandbox.memory_bytes > *memory) {
            let (limit, own) = (output::bytes(spec.sandbox.memory_bytes), output::bytes(memory));
            let message = format!("the limit of {limit} is more than the {own} of this machine");
            warn(module_at(name, ".settings.sandbox.limits.memory"), message, "choose what the device can spare");
        }
        if !is_routed(deployment, name, &ModuleKey::new(name.as_str())) {
            let hint = "a module that neither sends nor receives needs none; `docs/routes.md` has examples";
            let message = "no route leads from or to this module".into();
            advice.notes.push(finding(module_at(name, ""), message, hint));
        }
    }
    let senders: Vec<ModuleKey> = deployment.modules.keys().map(|name| ModuleKey::new(name.as_str())).collect();
    for route in &deployment.routes {
        let sends = senders.iter().any(|key| route.route.source.may_match_module(key));
        if !sends && route.route.source.names_modules() {
            let message = "no module of this deployment sends what this route takes".into();
            warn(format!("{root}{ROUTES}.{}", route.name), message, "see the module's name after `/messages/modules/`");
        }
    }
    advice
}

/// Neither a tag nor a digest. A layout without a tag is the one image in it.
fn floats(image: &str) -> bool {
    match Image::parse(image) {
        Ok(Image::Remote(_)) => {
            let name = image.rsplit('/').next().unwrap_or(image);
            !name.contains([':', '@'])
        }
        _ => false,
    }
}

fn is_routed(deployment: &Deployment, name: &ModuleName, key: &ModuleKey) -> bool {
    deployment.routes.iter().any(|route| {
        let receives =
            matches!(&route.route.sink, Sink::Input { module, .. } if module.eq_ignore_ascii_case(name.as_str()));
        receives || route.route.source.may_match_module(key)
    })
}

/// Bytes of this machine's memory.
pub(super) fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use marram_core::manifest;
    use serde_json::json;

    use super::*;

    fn deployment(modules: &serde_json::Value, routes: &serde_json::Value) -> Deployment {
        let text = json!({ "modulesContent": {
            "$edgeAgent": { "properties.desired": { "schemaVersion": "1.1", "modules": modules } },
            "$edgeHub": { "properties.desired": {
                "schemaVersion": "1.1", "routes": routes, "storeAndForwardConfiguration": { "timeToLiveSecs": 60 },
            }},
        }});
        manifest::read(&text.to_string(), &manifest::Context::new(&|_| Ok(()))).unwrap().deployment
    }

    fn module(image: &str, memory: &str) -> serde_json::Value {
        let settings = json!({ "image": image, "sandbox": { "limits": { "memory": memory } } });
        json!({ "type": "wasm", "status": "running", "settings": settings })
    }

    fn ats(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.at.rsplit("desired.").next().unwrap()).collect()
    }

    #[test]
    fn images_without_a_version_limits_above_the_machine_and_loose_ends_are_told() {
        let modules = json!({
            "a": module("r.example/x", "64MiB"), "b": module("localhost:5000/x:1", "2GiB"),
            "c": module("oci:/srv/images", "64MiB"),
        });
        let routes = json!({
            "up": "FROM /messages/modules/a/outputs/* INTO $upstream",
            "down": "FROM /messages/modules/x/* INTO BrokeredEndpoint(\"/modules/B/inputs/in\")",
        });
        let advice = advise(&deployment(&modules, &routes), Some(1 << 30), false);
        let expected = ["modules.a.settings.image", "modules.b.settings.sandbox.limits.memory", "routes.down"];
        assert_eq!(ats(&advice.warnings), expected);
        assert_eq!(ats(&advice.notes), ["modules.c"]);
        let limit = &advice.warnings[1].message;
        assert!(limit.contains("2.0 GiB") && limit.contains("1.0 GiB"), "{limit}");
    }

    #[test]
    fn nothing_is_said_of_a_deployment_in_which_all_fits() {
        let modules = json!({ "a": module("r.example/x:1", "64MiB"), "b": module("x@sha256:00", "64MiB") });
        for source in ["/*", "/messages/*", "/messages/modules/*"] {
            let routes = json!({ "up": format!("FROM {source} INTO $upstream") });
            let advice = advise(&deployment(&modules, &routes), Some(1 << 30), false);
            assert!(advice.warnings.is_empty() && advice.notes.is_empty(), "{source}: {advice:?}");
        }
        assert!(memory().is_some_and(|memory| memory > 1 << 20));
    }
}
