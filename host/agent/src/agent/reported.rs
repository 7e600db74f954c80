//! What the device reports of itself, for who asks at the device: the reported properties of `$edgeAgent` and `$edgeHub`.

use std::collections::BTreeMap;

use marram_core::{
    name::ModuleName,
    reported::{self, Code, HostFacts, ModuleFacts, Tried},
    rollout::{Standing, Way},
    time::{Uptime, UtcMillis},
};
use serde_json::{Value, json};

use super::{Agent, ModuleError, deploying::InForce};
use crate::{
    methods::{EDGE_AGENT, EDGE_HUB},
    status::{ModuleStatus, Status},
    supervisor::Event,
};

impl Agent {
    /// `{"$edgeAgent": …, "$edgeHub": …}`, each with its reported properties. While the host stops, they are what holds from then on, as with
    /// IoT Edge: the deployment is not in force (406), and what becomes of the modules is not known.
    ///
    /// # Errors
    /// The host is ending.
    pub async fn reported(&self) -> Result<Value, ModuleError> {
        let in_force = self.in_force.lock().await;
        let (status, standings) = self.ask(|reply| Event::Standings { reply }).await?;
        let (utc_now, now) = (self.clock.utc(), self.clock.uptime());
        let utc = |at: Uptime| UtcMillis(utc_now.0.saturating_sub(now.since(at).as_millis() as u64));
        let specs = in_force.deployment.iter().flat_map(|deployment| deployment.modules.values());
        let modules: Vec<ModuleFacts<'_>> = specs
            .filter_map(|spec| {
                let module = status.modules.iter().find(|module| module.name == spec.name)?;
                Some(ModuleFacts {
                    spec,
                    written: in_force.deployment.as_ref().and_then(|deployment| deployment.written.get(&spec.name)),
                    status: &module.status,
                    description: &module.description,
                    digest: module.digest.as_deref(),
                    exit_code: module.exit_code,
                    last_pull_failure: module.told.as_ref().and_then(|told| told.last_pull_failure).map(utc),
                    told: module.told.as_ref(),
                    last_start: module.last_start,
                    last_exit: module.last_exit,
                    last_restart: module.last_restart,
                })
            })
            .collect();
        let mut of_agent = modules.clone();
        if in_force.stopping {
            of_agent.iter_mut().for_each(|facts| facts.status = "unknown");
        }
        let host = HostFacts {
            version: &status.version,
            commit: option_env!("MARRAM_COMMIT").unwrap_or_default(),
            device_id: &self.device_id,
            architecture: std::env::consts::ARCH,
            started: UtcMillis(utc_now.0.saturating_sub(status.uptime_ms)),
        };
        let tried = tried(&in_force, &status, &standings);
        let hub_refused = in_force.refused.as_ref().and_then(|refusal| refusal.hub.as_deref());
        let hub_tried = if hub_refused.is_some() { tried.version } else { in_force.version };
        Ok(json!({
            (EDGE_AGENT): reported::agent(&host, in_force.deployment.as_ref().map(|deployment| &deployment.runtime), &tried, &of_agent),
            (EDGE_HUB): reported::hub(&host, hub_tried, hub_refused, &modules),
        }))
    }
}

/// What became of the deployment tried last. One that was refused has no version of its own: it would have had the next one.
fn tried(in_force: &InForce, status: &Status, standings: &BTreeMap<ModuleName, Standing>) -> Tried {
    let version = in_force.version;
    if in_force.stopping {
        return Tried { version, code: Code::InProgress, description: "the host is stopping".into() };
    }
    let told = |version, code, description: String| Tried { version, code, description };
    if let Some(refusal) = &in_force.refused {
        return told(version + 1, refusal.code, refusal.description.clone());
    }
    if let Some(lost) = &in_force.lost {
        let description = format!("deployment {} is not in force: {}", lost.version, lost.because);
        return Tried { version: lost.version, code: Code::Failed, description };
    }
    if version == 0 {
        return told(0, Code::Empty, "there is no deployment yet".into());
    }
    if let Some(Way::Rollback { of, to, because, .. }) = in_force.entry().map(|entry| &entry.accepted.way) {
        let rolled_back = format!("rolled back to deployment {to} (in force as {version}): {because}");
        return told(
            *of,
            Code::Failed,
            [Some(rolled_back), in_force.missing.why()].into_iter().flatten().collect::<Vec<_>>().join("; "),
        );
    }
    let of = |module: &ModuleStatus| standings.get(&module.name).copied();
    let troubled = |module: &&ModuleStatus| of(module).is_some_and(Standing::is_unwell);
    let mut troubles: Vec<String> =
        status.modules.iter().filter(troubled).map(|it| format!("{}: {}", it.name, it.description)).collect();
    troubles.extend(in_force.missing.why());
    if !troubles.is_empty() {
        return told(version, Code::Failed, troubles.join("; "));
    }
    // One that is ending, or is not of the deployment and still there, is under way as well.
    let moving = |module: &ModuleStatus| matches!(module.status.as_str(), "preparing" | "starting" | "stopping");
    let under_way = |module: &ModuleStatus| moving(module) || of(module).is_none_or(Standing::is_under_way);
    match status.modules.iter().find(|module| under_way(module)) {
        Some(module) if module.status == "running" && of(module) == Some(Standing::Waits) => {
            told(version, Code::InProgress, format!("{}: its update is on its way", module.name))
        }
        Some(module) => told(version, Code::InProgress, format!("{}: {}", module.name, module.description)),
        None => told(version, Code::Success, String::new()),
    }
}
