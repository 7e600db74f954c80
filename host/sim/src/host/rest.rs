//! What must hold of a host after each event, and when it has come to rest.

use marram_agent::ModuleStatus;
use marram_core::rollout::Outcome;

use super::Host;
use crate::{invariants::Wanted, said};

impl Host {
    /// Also after a kill, and after one that could not be stored.
    pub(super) fn invariant_the_stored_deployment_is_in_force(&mut self) {
        let (version, stored) = loop {
            let stored = self.world.lock().rollouts.version;
            let version = self.block(async |agent| {
                // Not before the host has been told of what it stores now.
                let _ = agent.deployments().await;
                agent.status().await.map(|status| status.deployment_version)
            });
            if stored == self.world.lock().rollouts.version {
                break (version, stored);
            }
        };
        self.check(version.ok() == Some(stored), "the stored deployment is in force");
    }

    /// At the next look at the latest: documents are read by another thread, and the first look may come between that and the word.
    pub(super) fn invariant_what_was_recovered_is_said(&mut self) {
        let (to_say, said) = (std::mem::take(&mut self.world.lock().disk.to_say), said::take());
        let is_said = |reason: &String| said.iter().any(|line| line.contains(reason));
        for reason in std::mem::take(&mut self.unsaid) {
            self.check(is_said(&reason), &format!("what is read from its previous generation is said: {reason}"));
        }
        self.unsaid = to_say.into_iter().filter(|reason| !is_said(reason)).collect();
    }

    /// When nothing fails any more, and has not failed for good before, it is good.
    pub(super) fn invariant_the_deployment_is_decided(&mut self) {
        let deployments = self.block(async |agent| agent.deployments().await);
        let newest = deployments.deployments.iter().find(|entry| entry.accepted.version == deployments.in_force);
        let has_failed = self.modules().iter().any(|module| module.status == "failed");
        let decided =
            newest.is_none_or(|entry| entry.outcome == Outcome::Good || (has_failed && entry.outcome == Outcome::Bad));
        if !decided {
            self.broken.push(format!("each deployment is decided in the end: {newest:?}"));
        }
    }

    /// After the long rest. Of a version that does not ask for them they are kept, and do not fire.
    pub(super) fn invariant_timers_fire_while_their_module_runs(&mut self) {
        let mut inner = self.world.lock();
        for module in inner.watch.in_charge().into_keys() {
            if inner.has_beats(&module) {
                inner.beats.invariant_beats_are_told_while_a_module_is_up(&module);
            }
        }
    }

    pub(super) fn invariant_all_is_as_it_is_desired(&mut self) {
        let desired = self.world.lock().watch.deployments[0].clone();
        let in_charge = self.world.lock().watch.in_charge();
        let modules = self.modules();
        let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
        let all = desired.keys().eq(names.iter().copied()) && in_charge.keys().all(|name| desired.contains_key(name));
        let each = modules.iter().all(|module| {
            let running = in_charge.get(module.name.as_str()) == Some(&1);
            desired.get(module.name.as_str()).is_some_and(|wanted| is_as_desired(wanted, module, running))
        });
        if !(all && each) {
            self.broken.push(format!("all is as it is desired in the end: {desired:?} {modules:?} {in_charge:?}"));
        }
    }
}

fn is_as_desired(wanted: &Wanted, module: &ModuleStatus, running: bool) -> bool {
    let version = module.digest.as_deref() == Some(&format!("sha256:{}", wanted.image));
    let done = match module.status.as_str() {
        "stopped" => module.exit_code == Some(0) && wanted.policy != "always",
        "failed" => wanted.policy == "never" || wanted.max_restarts.is_some(),
        _ => false,
    };
    match (wanted.runs, running) {
        (false, running) => !running && module.status == "stopped",
        (true, true) => version && module.status == "running",
        (true, false) => version && done,
    }
}
