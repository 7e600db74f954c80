//! Memory for instances that are to be started: the limits of all that there are stay within the owner's ceiling, also while versions
//! take over from each other.

use super::{
    Decision, ModuleState, NextState, Observed, ObservedModule, Step, backoff, end_if_unhealthy, needs_new_instance,
};
use crate::{
    deployment::{Deployment, DesiredStatus, ModuleSpec},
    time::Uptime,
};

/// What the instances may take, and take. In bytes of their limits.
pub(super) struct Room {
    most: u64,
    in_use: u64,
    /// The same when all that is on its way has ended: old versions are gone, and what is being stopped.
    at_rest: u64,
}

impl Room {
    /// A deployment that was accepted under a higher ceiling goes on: what it takes is allowed.
    pub(super) fn of(desired: &Deployment, observed: &Observed) -> Self {
        let wanted = |spec: &&ModuleSpec| spec.desired_status == DesiredStatus::Running;
        let needed = sum(desired.modules.values().filter(wanted).map(memory));
        let runs_on = |module: &&ObservedModule| desired.modules.get(&module.spec.name).filter(wanted).is_some();
        Self {
            most: observed.max_memory.map_or(u64::MAX, |most| most.max(needed)),
            in_use: observed.memory_in_use(),
            at_rest: sum(observed.modules.values().filter(runs_on).map(at_rest)),
        }
    }

    /// What becomes of a decision to start something. True: it has to wait for room.
    pub(super) fn allow(
        &mut self,
        spec: &ModuleSpec,
        module: Option<&ObservedModule>,
        decision: Decision,
        now: Uptime,
    ) -> (Decision, bool) {
        let Some(module) = module else { return (decision, false) };
        match (&decision.step, &module.next) {
            (Some(Step::Start(_)), _) => {
                let needed = memory(&module.spec);
                if self.fits(needed) {
                    self.take(needed, needed);
                    return (decision, false);
                }
                (instead_of_start(spec, module, now), true)
            }
            (Some(Step::StartUpdate(name)), Some(next)) => {
                let (needed, old) = (memory(&next.spec), memory(&module.spec));
                if self.fits(needed) {
                    self.take(needed, needed.saturating_sub(old));
                    return (decision, false);
                }
                // What is on its way will make room for both.
                let fits_later = self.at_rest.saturating_add(needed) <= self.most;
                let takes_place = !fits_later && self.in_use.saturating_sub(old).saturating_add(needed) <= self.most;
                if takes_place {
                    return (Decision::act(Step::Stop(name.clone())), false);
                }
                // The wait may be long.
                (end_if_unhealthy(spec, module, now), true)
            }
            _ => (decision, false),
        }
    }

    fn fits(&self, bytes: u64) -> bool {
        self.in_use.saturating_add(bytes) <= self.most
    }

    fn take(&mut self, bytes: u64, at_rest: u64) {
        self.in_use = self.in_use.saturating_add(bytes);
        self.at_rest = self.at_rest.saturating_add(at_rest);
    }
}

impl Observed {
    /// The limits of all instances that there are, those of updates included.
    #[must_use]
    pub fn memory_in_use(&self) -> u64 {
        sum(self.modules.values().map(|module| {
            let own = if module.state.has_instance() { memory(&module.spec) } else { 0 };
            let is_there = |next: &&super::NextVersion| next.state.has_instance() || next.state == NextState::Stopping;
            own.saturating_add(module.next.as_ref().filter(is_there).map_or(0, |next| memory(&next.spec)))
        }))
    }
}

fn memory(spec: &ModuleSpec) -> u64 {
    spec.sandbox.memory_bytes
}

fn sum(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}

/// What a module that runs on takes once its update is over.
fn at_rest(module: &ObservedModule) -> u64 {
    match &module.next {
        Some(next) if next.state.has_instance() => memory(&next.spec),
        Some(next) if next.state == NextState::Ready && module.state == ModuleState::Stopping => memory(&next.spec),
        _ if module.state.has_instance() => memory(&module.spec),
        _ => 0,
    }
}

/// There is no room for what was to be started. If that is an old version which stands in for an update that has failed, the
/// update is tried again all the same: it may be the smaller one.
fn instead_of_start(spec: &ModuleSpec, module: &ObservedModule, now: Uptime) -> Decision {
    match &module.next {
        Some(next) if needs_new_instance(&module.spec, spec) => match next.state {
            NextState::Failed { at } => {
                Decision::act_at(at.after(backoff(next.failures)), now, || Step::Prepare(spec.clone()))
            }
            _ => Decision::WAIT,
        },
        _ => Decision::WAIT,
    }
}
