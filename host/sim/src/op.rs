//! What happens to a simulated host from outside, as it is written in scenarios.

use std::time::Duration;

use crate::{
    cloud::Heard,
    disk::Fault,
    invariants::{Deployment, Wanted},
};

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Time passes.
    Pass,
    /// A manifest is applied.
    Apply(Deployment),
    /// A manifest with faults is applied.
    ApplyBad,
    /// An operator restarts a module.
    Restart(String),
    /// An operator calls a method of a module, with these milliseconds for the module to run and for the answer.
    Call(String, u64, u64),
    /// An operator sets the desired property `k` of a module.
    Twin(String, u64),
    /// The disk fails, or is well again.
    Disk(Option<Fault>),
    /// Registries cannot be reached, or can again.
    Away(bool),
    /// There is a connection to the cloud, or none.
    Connect(bool),
    /// A desired property of a module is changed in the cloud, or removed.
    Cloud(String, Option<u64>, Heard),
    /// The host is killed, and started again. The newest generation of this document cannot be read any more.
    Kill(Option<String>),
    /// The host is stopped, and started again.
    Stop,
    /// The wall clock is set, by so many milliseconds.
    Clock(i64),
    /// The device is suspended, for so many milliseconds.
    Suspend(u64),
    /// The owner sets the ceiling on memory, in MiB, or takes it away. From the next start of the host on.
    Ceiling(Option<u64>),
    /// Nothing fails any more.
    Calm,
    /// A module's twin is shown.
    ShowTwin(String),
    /// The modules are shown.
    Status,
    /// An operator wants the last good deployment.
    Rollback,
    /// The deployments are shown.
    History,
}

/// The method that a module is asked for its health by.
pub(crate) const HEALTH: &str = "alive";

pub(crate) const POLICIES: [&str; 4] = ["never", "on-failure", "on-unhealthy", "always"];

impl Op {
    /// Reads `apply a=a:1,policy=never b=b:1`, `kill` and so on.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        Ok(match words.as_slice() {
            ["pass"] => Self::Pass,
            ["apply", "bad"] => Self::ApplyBad,
            ["apply", modules @ ..] => Self::Apply(modules.iter().map(|text| module(text)).collect::<Result<_, _>>()?),
            ["restart", module] => Self::Restart((*module).into()),
            ["call", module, timeouts @ ..] => {
                let (mut connect, mut response) = (0, 30_000);
                for timeout in timeouts {
                    match timeout.split_once('=') {
                        Some(("connect", time)) => connect = millis(time)?,
                        Some(("response", time)) => response = millis(time)?,
                        _ => return Err(bad(text)),
                    }
                }
                Self::Call((*module).into(), connect, response)
            }
            ["twin", module] => Self::ShowTwin((*module).into()),
            ["twin", module, value] => Self::Twin((*module).into(), value.parse().map_err(|_| bad(text))?),
            ["full"] => Self::Disk(Some(Fault::Full)),
            ["disk", "fails"] => Self::Disk(Some(Fault::Io)),
            ["disk", "syncs", "not"] => Self::Disk(Some(Fault::Sync)),
            ["room" | "mended"] => Self::Disk(None),
            ["away"] => Self::Away(true),
            ["near"] => Self::Away(false),
            ["connect"] => Self::Connect(true),
            ["disconnect"] => Self::Connect(false),
            ["cloud", module, value, how @ ..] => {
                let heard = match how {
                    [] => Heard::Once,
                    ["twice"] => Heard::Twice,
                    ["unheard"] => Heard::Never,
                    _ => return Err(bad(text)),
                };
                let value = if *value == "none" { None } else { Some(value.parse().map_err(|_| bad(text))?) };
                Self::Cloud((*module).into(), value, heard)
            }
            ["kill"] => Self::Kill(None),
            ["kill", "damages", document] => Self::Kill(Some((*document).into())),
            ["stop"] => Self::Stop,
            ["clock", by] => {
                let (sign, rest) = if let Some(rest) = by.strip_prefix('-') { (-1, rest) } else { (1, *by) };
                let millis = duration(rest.trim_start_matches('+'))?.as_millis();
                Self::Clock(sign * i64::try_from(millis).map_err(|_| bad(text))?)
            }
            ["suspend", time] => Self::Suspend(millis(time)?),
            ["ceiling", "none"] => Self::Ceiling(None),
            ["ceiling", mib] => Self::Ceiling(Some(mib.parse().map_err(|_| bad(text))?)),
            ["calm"] => Self::Calm,
            ["status"] => Self::Status,
            ["rollback"] => Self::Rollback,
            ["history"] => Self::History,
            _ => return Err(bad(text)),
        })
    }
}

fn bad(text: &str) -> String {
    format!("what does `{text}` mean?")
}

/// `a=a:1`, `a=a:1,stopped,policy=never,max=2,order=1,health=30s,memory=16`.
fn module(text: &str) -> Result<(String, Wanted), String> {
    let mut parts = text.split(',');
    let (name, image) = parts.next().and_then(|first| first.split_once('=')).ok_or_else(|| bad(text))?;
    let mut wanted = Wanted {
        image: image.into(),
        runs: true,
        policy: "on-unhealthy",
        max_restarts: None,
        order: u32::MAX,
        health: None,
        memory: 64,
    };
    for part in parts {
        match part.split_once('=') {
            None if part == "stopped" => wanted.runs = false,
            Some(("policy", policy)) => {
                wanted.policy = POLICIES.into_iter().find(|it| *it == policy).ok_or_else(|| bad(text))?;
            }
            Some(("max", most)) => wanted.max_restarts = Some(most.parse().map_err(|_| bad(text))?),
            Some(("health", interval)) => wanted.health = Some(millis(interval)?),
            Some(("memory", mib)) => wanted.memory = mib.parse().map_err(|_| bad(text))?,
            Some(("order", order)) => wanted.order = order.parse().map_err(|_| bad(text))?,
            _ => return Err(bad(text)),
        }
    }
    Ok((name.into(), wanted))
}

/// The same in milliseconds.
pub(crate) fn millis(text: &str) -> Result<u64, String> {
    duration(text).map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// `250ms`, `5s`, `10m`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| bad(text))?;
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad(text)),
    };
    number.parse::<u64>().map(|number| Duration::from_millis(number * factor)).map_err(|_| bad(text))
}

/// The manifest of a deployment.
pub(crate) fn manifest(deployment: &Deployment) -> String {
    let module = |wanted: &Wanted| {
        let mut module = serde_json::json!({
            "type": "wasm",
            "status": if wanted.runs { "running" } else { "stopped" },
            "restartPolicy": wanted.policy,
            "startupOrder": wanted.order,
            "settings": { "image": wanted.image, "sandbox": {} },
        });
        let mut limits = serde_json::json!({ "memory": format!("{}MiB", wanted.memory) });
        if let Some(most) = wanted.max_restarts {
            limits["maxRestarts"] = most.into();
        }
        module["settings"]["sandbox"]["limits"] = limits;
        if let Some(interval) = wanted.health {
            module["settings"]["sandbox"]["health"] = serde_json::json!({
                "method": HEALTH, "interval": format!("{interval}ms"), "timeout": "20s", "failures": 2,
            });
        }
        module
    };
    let modules: serde_json::Map<_, _> =
        deployment.iter().map(|(name, wanted)| (name.clone(), module(wanted))).collect();
    serde_json::json!({ "modulesContent": {
        "$edgeAgent": { "properties.desired": { "schemaVersion": "1.1", "modules": modules } },
        "$edgeHub": { "properties.desired": { "schemaVersion": "1.1", "routes": {},
            "storeAndForwardConfiguration": { "timeToLiveSecs": 7200 } } },
    }})
    .to_string()
}
