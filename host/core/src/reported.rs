//! The reported properties of `$edgeAgent` and `$edgeHub` (IoT Edge semantics, 1.7), made from plain facts. Sends nothing.

use serde_json::{Map, Value, json};

use crate::{
    deployment::{ModuleSpec, WrittenModule, WrittenRuntime},
    manifest::{Faults, Finding},
    planner::Told,
    ports::Exit,
    time::UtcMillis,
};

const WASM: &str = "wasm";
/// Characters of a piece of `createOptions`, and the most pieces (IoT Edge's numbers).
const PIECE: usize = 512;
const MAX_PIECES: usize = 100;

/// The host and its device.
#[derive(Debug, Clone, Copy)]
pub struct HostFacts<'a> {
    /// Version of the host.
    pub version: &'a str,
    /// The commit that it was built from; empty: not known.
    pub commit: &'a str,
    /// The device's id.
    pub device_id: &'a str,
    /// As `x86_64`.
    pub architecture: &'a str,
    /// When it started.
    pub started: UtcMillis,
}

/// What became of the desired document tried last: a code in the manner of HTTP, and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Its version.
    pub version: u64,
    /// What became of it.
    pub code: Code,
    /// Why; empty for [`Code::Success`].
    pub description: String,
}

/// `lastDesiredStatus.code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// All is as it is desired.
    Success = 200,
    /// The document has faults.
    BadFormat = 400,
    /// It is being carried out, or no longer: the host stops.
    InProgress = 406,
    /// Its schema is of another version.
    BadSchema = 412,
    /// It is empty, or there is none yet.
    Empty = 417,
    /// It could not be carried out as a whole, or was rolled back.
    Failed = 500,
}

/// Why a document was refused, for both parts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Of the document as a whole.
    pub code: Code,
    /// Its first fault, and how many more there are.
    pub description: String,
    /// The same of `$edgeHub` alone, if it has faults.
    pub hub: Option<String>,
}

/// A module as it is.
#[derive(Debug, Clone)]
pub struct ModuleFacts<'a> {
    /// As it is desired.
    pub spec: &'a ModuleSpec,
    /// What else was written of it; none: nothing is known.
    pub written: Option<&'a WrittenModule>,
    /// What it does, in Marram's words: `preparing`, `starting`, `running`, `unhealthy`, `stopping`, `stopped`, `backoff`,
    /// `failed`; anything else: it is not known.
    pub status: &'a str,
    /// The same for people.
    pub description: &'a str,
    /// Digest of the image that runs.
    pub digest: Option<&'a str>,
    /// Of the last instance that ended.
    pub exit_code: Option<i32>,
    /// None: nothing is observed of it yet.
    pub told: Option<&'a Told>,
    /// [`Told::last_pull_failure`] on the wall clock.
    pub last_pull_failure: Option<UtcMillis>,
    /// Of the last instance.
    pub last_start: Option<UtcMillis>,
    /// Of the last instance.
    pub last_exit: Option<UtcMillis>,
    /// Of the last instance that was not the first.
    pub last_restart: Option<UtcMillis>,
}

/// Says why a text with these faults is refused. IoT Edge tells an empty document and a schema of another version apart from
/// all else.
#[must_use]
pub fn refusal(text: &str, faults: &Faults) -> Refusal {
    let told = |only: &str| {
        let mut faults = faults.0.iter().filter(|fault| fault.at.contains(only));
        let first = faults.next()?.to_string();
        Some(match faults.count() {
            0 => first,
            more => format!("{first} (and {more} more)"),
        })
    };
    let schema = |fault: &Finding| fault.at.ends_with("$edgeAgent.properties.desired.schemaVersion");
    let code = match () {
        () if is_empty(text) => Code::Empty,
        () if faults.0.iter().any(schema) => Code::BadSchema,
        () => Code::BadFormat,
    };
    Refusal { code, description: told("").unwrap_or_default(), hub: told("$edgeHub") }
}

/// Whether nothing is desired of `$edgeAgent`.
fn is_empty(text: &str) -> bool {
    if text.trim().is_empty() {
        return true;
    }
    let Ok(document) = serde_json::from_str::<Value>(text.trim_start_matches('\u{feff}')) else { return false };
    let content = document.get("content").unwrap_or(&document);
    let desired = &content["modulesContent"]["$edgeAgent"]["properties.desired"];
    document.is_object() && (desired.is_null() || desired.as_object().is_some_and(Map::is_empty))
}

/// The reported properties of `$edgeAgent`.
#[must_use]
pub fn agent(
    host: &HostFacts<'_>,
    runtime: Option<&WrittenRuntime>,
    tried: &Tried,
    modules: &[ModuleFacts<'_>],
) -> Value {
    let runtime = runtime.filter(|runtime| !runtime.kind.is_empty());
    let own = |order: Option<u32>| {
        let mut own = json!({
            "type": "wasm", "status": "running", "restartPolicy": "always", "imagePullPolicy": "never", "version": host.version,
            "settings": { "image": "" }, "env": {}, "exitCode": 0, "statusDescription": "part of the host",
            "lastStartTimeUtc": time(Some(host.started)), "lastExitTimeUtc": time(None), "restartCount": 0,
            "lastRestartTimeUtc": time(None), "runtimeStatus": "running",
        });
        if let Some(order) = order {
            own["startupOrder"] = order.into();
        }
        own
    };
    json!({
        "schemaVersion": "1.0",
        "version": version(host),
        "lastDesiredVersion": tried.version,
        "lastDesiredStatus": desired_status(tried.code, &tried.description),
        "runtime": {
            "type": runtime.map_or(WASM, |runtime| &runtime.kind),
            "settings": runtime.map(|runtime| runtime.settings.clone()).unwrap_or_default(),
            "platform": { "os": "linux", "architecture": host.architecture, "version": host.version },
        },
        "systemModules": { "edgeAgent": own(None), "edgeHub": own(Some(0)) },
        "modules": modules.iter().map(|module| (module.spec.name.to_string(), reported(module))).collect::<Map<_, _>>(),
    })
}

/// The reported properties of `$edgeHub`. `refused`: why its part of the document tried last was.
#[must_use]
pub fn hub(host: &HostFacts<'_>, tried: u64, refused: Option<&str>, modules: &[ModuleFacts<'_>]) -> Value {
    let code = if refused.is_some() { Code::BadFormat } else { Code::Success };
    let client = |module: &ModuleFacts<'_>| {
        let connected = matches!(module.status, "running" | "unhealthy" | "stopping");
        let key = escaped(&format!("{}/{}", host.device_id, module.spec.name));
        let client = json!({
            "status": if connected { "Connected" } else { "Disconnected" },
            "lastConnectedTimeUtc": time(module.last_start),
            "lastDisconnectedTimeUtc": time(module.last_exit),
        });
        (key, client)
    };
    json!({
        "schemaVersion": "1.0",
        "version": version(host),
        "lastDesiredVersion": tried,
        "lastDesiredStatus": desired_status(code, refused.unwrap_or_default()),
        "clients": modules.iter().filter(|module| module.last_start.is_some()).map(client).collect::<Map<_, _>>(),
    })
}

/// The desired fields, and what is. What a manifest keeps in `env` may be secret: this goes where the manifest came from.
fn reported(module: &ModuleFacts<'_>) -> Value {
    let (spec, told) = (module.spec, module.told);
    let env: Map<String, Value> =
        spec.env.iter().map(|(name, value)| (name.clone(), json!({ "value": value }))).collect();
    let settings = settings(module);
    // What it was asked to end with, and not what it did: a plan tells by this whether it ended by itself.
    let exit_code = if told.is_some_and(|told| told.was_stopped) && module.exit_code.is_some() {
        Some(Exit::STOPPED)
    } else {
        module.exit_code
    };
    let mut reported = json!({
        "type": module.written.map_or(WASM, |written| &written.kind),
        "status": spec.desired_status,
        "restartPolicy": spec.restart_policy,
        "imagePullPolicy": spec.pull_policy,
        "startupOrder": spec.startup_order,
        "version": spec.version,
        "settings": settings,
        "settingsDigest": told.map_or_else(|| spec.settings_digest(), |told| told.settings_digest.clone()),
        "env": env,
        "exitCode": exit_code.unwrap_or(0),
        "statusDescription": module.description,
        "lastStartTimeUtc": time(module.last_start),
        "lastExitTimeUtc": time(module.last_exit),
        "restartCount": told.map_or(0, |told| told.restart_count),
        "lastRestartTimeUtc": time(module.last_restart),
        "runtimeStatus": runtime_status(module.status),
    });
    if module.last_pull_failure.is_some() {
        reported["lastPullFailureTimeUtc"] = time(module.last_pull_failure).into();
    }
    reported
}

/// `settings` as they are desired, and the digest of what runs.
fn settings(module: &ModuleFacts<'_>) -> Value {
    let mut settings = json!({ "image": module.spec.image });
    if let Some(digest) = module.digest {
        settings["imageHash"] = digest.into();
    }
    let Some(written) = module.written else { return settings };
    if let Some(sandbox) = &written.sandbox {
        settings["sandbox"] = sandbox.clone();
    }
    for (number, piece) in pieces(written.create_options.as_deref().unwrap_or_default()).into_iter().enumerate() {
        let number = if number == 0 { String::new() } else { format!("{number:02}") };
        settings[format!("createOptions{number}")] = piece.into();
    }
    settings
}

/// A text in pieces, as IoT Edge writes it; none of one that is too long for that.
fn pieces(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let pieces: Vec<String> = characters.chunks(PIECE).map(|piece| piece.iter().collect()).collect();
    if pieces.len() > MAX_PIECES { Vec::new() } else { pieces }
}

/// IoT Edge's word. What has not run yet is `unknown` there, too.
fn runtime_status(status: &str) -> &'static str {
    match status {
        "running" | "stopping" => "running",
        "unhealthy" => "unhealthy",
        "stopped" => "stopped",
        "backoff" => "backoff",
        "failed" => "failed",
        _ => "unknown",
    }
}

fn desired_status(code: Code, description: &str) -> Value {
    json!({ "code": code as u16, "description": description })
}

fn version(host: &HostFacts<'_>) -> Value {
    json!({ "version": host.version, "build": "", "commit": host.commit })
}

/// As .NET writes no time.
fn time(time: Option<UtcMillis>) -> String {
    time.map_or_else(|| "0001-01-01T00:00:00".into(), |time| time.to_string())
}

/// Keys of twins hold none of these.
fn escaped(key: &str) -> String {
    key.chars().fold(String::new(), |mut text, c| {
        match c {
            '%' => text.push_str("%25"),
            '.' => text.push_str("%2E"),
            '$' => text.push_str("%24"),
            '#' => text.push_str("%23"),
            ' ' => text.push_str("%20"),
            c => text.push(c),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        deployment::{DesiredStatus, PullPolicy, RestartPolicy, Sandbox},
        manifest::{Context, read, read_runtime},
        name::ModuleName,
        planner::{RuntimeStatus, explain, uptime},
    };

    const HOST: HostFacts<'_> = HostFacts {
        version: "1.2.3",
        commit: "",
        device_id: "pump 7.a",
        architecture: "x86_64",
        started: UtcMillis(1_000),
    };

    fn spec() -> ModuleSpec {
        ModuleSpec {
            name: ModuleName::new("fil.ter").unwrap(),
            version: "1".into(),
            image: "r.example/f:1".into(),
            desired_status: DesiredStatus::Running,
            restart_policy: RestartPolicy::OnUnhealthy,
            max_restarts: None,
            health: None,
            pull_policy: PullPolicy::OnCreate,
            startup_order: 3,
            env: BTreeMap::from([("A".into(), "b".into())]),
            sandbox: Sandbox::default(),
        }
    }

    fn facts<'a>(spec: &'a ModuleSpec, status: &'a str) -> ModuleFacts<'a> {
        ModuleFacts {
            spec,
            written: None,
            status,
            description: "exit 1: why",
            digest: Some("sha256:0"),
            exit_code: Some(1),
            told: None,
            last_pull_failure: None,
            last_start: Some(UtcMillis(2_000)),
            last_exit: Some(UtcMillis(3_000)),
            last_restart: None,
        }
    }

    #[test]
    fn an_agent_reports_what_is_desired_and_what_is() {
        let (spec, tried) = (spec(), Tried { version: 4, code: Code::Failed, description: "why".into() });
        let document = agent(&HOST, None, &tried, &[facts(&spec, "backoff")]);
        assert_eq!(document["schemaVersion"], "1.0");
        assert_eq!(document["version"]["version"], "1.2.3");
        assert_eq!(document["lastDesiredVersion"], 4);
        assert_eq!(document["lastDesiredStatus"], json!({ "code": 500, "description": "why" }));
        assert_eq!(document["runtime"]["platform"]["os"], "linux");
        assert_eq!(document["systemModules"]["edgeHub"]["runtimeStatus"], "running");
        assert!(document["systemModules"]["edgeAgent"].get("startupOrder").is_none());
        let expected = json!({
            "type": "wasm", "status": "running", "restartPolicy": "on-unhealthy", "imagePullPolicy": "on-create", "startupOrder": 3,
            "version": "1", "settings": { "image": "r.example/f:1", "imageHash": "sha256:0" },
            "settingsDigest": spec.settings_digest(), "env": { "A": { "value": "b" } },
            "exitCode": 1, "statusDescription": "exit 1: why", "lastStartTimeUtc": "1970-01-01T00:00:02Z",
            "lastExitTimeUtc": "1970-01-01T00:00:03Z", "restartCount": 0, "lastRestartTimeUtc": "0001-01-01T00:00:00",
            "runtimeStatus": "backoff",
        });
        assert_eq!(document["modules"]["fil.ter"], expected);
    }

    #[test]
    fn what_is_reported_of_a_module_is_a_copy_of_what_is_desired() {
        let options =
            json!({ "HostConfig": { "LogConfig": { "Type": "é".repeat(600) } }, "marram": { "args": ["a"] } })
                .to_string();
        let (first, second): (String, String) =
            (options.chars().take(20).collect(), options.chars().skip(20).collect());
        let wanted = json!({
            "type": "docker", "status": "running", "restartPolicy": "always", "imagePullPolicy": "never", "startupOrder": 3, "version": "1",
            "env": { "A": { "value": "b" } },
            "settings": { "image": "r.example/f:1", "createOptions": first, "createOptions01": second },
        });
        let own = json!({ "type": "wasm", "status": "running", "settings": { "image": "r.example/f:2", "sandbox": { "args": ["b"] } } });
        let settings = json!({ "minDockerVersion": "v1.25", "loggingOptions": "", "registryCredentials": {
            "r": { "address": "r.example", "username": "u", "password": "s3cret" } } });
        let manifest = json!({ "modulesContent": { "$edgeAgent": { "properties.desired": {
            "schemaVersion": "1.1", "runtime": { "type": "docker", "settings": settings }, "modules": { "f": wanted, "own": own } } } } });
        let deployment = read(&manifest.to_string(), &Context::new(&|_| Ok(()))).unwrap().deployment;
        let facts = deployment
            .modules
            .values()
            .map(|spec| ModuleFacts { written: deployment.written.get(&spec.name), ..facts(spec, "running") });
        let tried = Tried { version: 1, code: Code::Success, description: String::new() };
        let document = agent(&HOST, Some(&deployment.runtime), &tried, &facts.collect::<Vec<_>>());
        let told = &document["modules"]["f"];
        for (key, value) in wanted.as_object().unwrap().iter().filter(|(key, _)| *key != "settings") {
            assert_eq!(&told[key], value, "{key}");
        }
        let pieces: Vec<&str> = ["createOptions", "createOptions01"]
            .map(|piece| told["settings"][piece].as_str().unwrap())
            .into_iter()
            .collect();
        assert_eq!((pieces.concat(), pieces[0].chars().count()), (options, 512));
        assert!(told["settings"].get("createOptions02").is_none());
        assert_eq!(told["settings"]["image"], "r.example/f:1");
        let told = &document["modules"]["own"];
        assert_eq!((&told["type"], &told["settings"]["sandbox"]), (&json!("wasm"), &json!({ "args": ["b"] })));
        let runtime = &document["runtime"];
        assert_eq!(runtime["type"], "docker");
        assert_eq!(runtime["settings"], json!({ "minDockerVersion": "v1.25", "loggingOptions": "" }));
        assert!(!document.to_string().contains("s3cret"));
    }

    #[test]
    fn a_module_that_has_never_run_is_no_client() {
        let spec = spec();
        let never = ModuleFacts { last_start: None, last_exit: None, ..facts(&spec, "preparing") };
        assert_eq!(hub(&HOST, 4, None, &[never])["clients"], json!({}));
    }

    #[test]
    fn what_an_agent_reports_can_be_planned_from() {
        let spec = spec();
        for (status, read_as) in [
            ("running", RuntimeStatus::Running),
            ("unhealthy", RuntimeStatus::Unhealthy),
            ("stopping", RuntimeStatus::Running),
            ("stopped", RuntimeStatus::Stopped),
            ("backoff", RuntimeStatus::Backoff),
            ("failed", RuntimeStatus::Failed),
            ("preparing", RuntimeStatus::Unknown),
            ("starting", RuntimeStatus::Unknown),
        ] {
            let tried = Tried { version: 1, code: Code::Success, description: String::new() };
            let document = agent(&HOST, None, &tried, &[facts(&spec, status)]);
            let runtime = read_runtime(&document.to_string()).unwrap();
            assert_eq!(runtime.modules[&spec.name].status, read_as, "{status}");
            let desired = crate::deployment::Deployment {
                modules: BTreeMap::from([(spec.name.clone(), spec.clone())]),
                ..Default::default()
            };
            let now = UtcMillis(4_000);
            let plan = explain(&desired, &runtime.observed(&desired, now), uptime(now), now);
            assert!(
                plan.steps.iter().all(|step| step.action.as_str() != "update"),
                "its settings are the same: {plan:?}"
            );
        }
    }

    #[test]
    fn a_hub_reports_which_modules_are_connected_under_keys_that_a_twin_can_hold() {
        let spec = spec();
        let document = hub(&HOST, 4, None, &[facts(&spec, "running")]);
        assert_eq!(document["lastDesiredStatus"], json!({ "code": 200, "description": "" }));
        let client = json!({
            "status": "Connected", "lastConnectedTimeUtc": "1970-01-01T00:00:02Z", "lastDisconnectedTimeUtc": "1970-01-01T00:00:03Z",
        });
        assert_eq!(document["clients"], json!({ "pump%207%2Ea/fil%2Eter": client }));
        let document = hub(&HOST, 5, Some("no such sink"), &[facts(&spec, "backoff")]);
        assert_eq!(document["lastDesiredStatus"], json!({ "code": 400, "description": "no such sink" }));
        assert_eq!(document["clients"]["pump%207%2Ea/fil%2Eter"]["status"], "Disconnected");
    }

    #[test]
    fn a_refusal_is_told_by_what_is_wrong() {
        let refused = |text: &str| {
            let faults = read(text, &Context::new(&|_| Ok(()))).unwrap_err();
            refusal(text, &faults)
        };
        for empty in [
            "",
            " \n",
            "{}",
            r#"{"modulesContent":{}}"#,
            r#"{"modulesContent":{"$edgeAgent":{"properties.desired":{}}}}"#,
        ] {
            assert_eq!(refused(empty).code, Code::Empty, "{empty:?}");
        }
        let with = |agent: &str, routes: &str| {
            format!(
                r#"{{"modulesContent":{{"$edgeAgent":{{"properties.desired":{{{agent}}}}},
                "$edgeHub":{{"properties.desired":{{"schemaVersion":"1.1","routes":{{{routes}}},"storeAndForwardConfiguration":{{"timeToLiveSecs":1}}}}}}}}}}"#
            )
        };
        assert_eq!(refused("{").code, Code::BadFormat);
        assert_eq!(refused(&with(r#""schemaVersion":"2.0""#, "")).code, Code::BadSchema);
        assert_eq!(refused(&with(r#""modules":{}"#, "")).code, Code::BadSchema);
        let bad = refused(&with(r#""schemaVersion":"1.1","modules":{"a":{}}"#, r#""up":"FROM","down":"INTO""#));
        assert_eq!(bad.code, Code::BadFormat);
        assert!(bad.description.contains("modules.a.type: is missing (and "), "{}", bad.description);
        assert!(
            bad.hub.as_ref().is_some_and(|hub| hub.contains("routes.up") && hub.ends_with("(and 1 more)")),
            "{bad:?}"
        );
        assert_eq!(refused(&with(r#""schemaVersion":"1.1","modules":{"a":{}}"#, "")).hub, None);
    }
}
