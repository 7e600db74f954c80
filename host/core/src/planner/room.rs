//! Memory for instances that are to be started: the limits of all that there are stay within the owner's ceiling, also while versions
//! take over from each other.
//!
//! Each module has a share: what its instances take, or what is kept for it while one that has run is down for now. A share grows only
//! into what the others leave. What needs no more than its share waits for nobody, so nothing that ran is kept down by what is new, and
//! an update that is not larger than its old version always has a way, whatever there is. As all that is desired fits, the last one does.

use std::collections::BTreeMap;

use super::{
    Decision, ModuleState, NextState, Observed, ObservedModule, Step, backoff, end_if_unhealthy, keep_running,
    needs_new_instance,
};
use crate::{
    deployment::{Deployment, DesiredStatus, ModuleSpec},
    name::ModuleName,
    time::Uptime,
};

/// What the modules may take, and take, in a plan. In bytes of their limits.
#[derive(Default)]
pub(super) struct Room<'a> {
    /// None: no bound, and nothing is counted.
    most: Option<u64>,
    shares: BTreeMap<&'a ModuleName, Share>,
    all: Share,
    /// An old version has made way for its update, which is not up yet.
    is_changing: bool,
}

#[derive(Clone, Copy, Default)]
struct Share {
    /// Its instances, or what is kept for them.
    now: u64,
    /// The same when all that is on its way has ended: old versions are gone, and what is being stopped.
    at_rest: u64,
}

impl<'a> Room<'a> {
    /// A deployment that was accepted under a higher ceiling goes on: what it takes is allowed.
    pub(super) fn of(desired: &'a Deployment, observed: &'a Observed) -> Self {
        let Some(most) = observed.max_memory else { return Self::default() };
        let wanted = |spec: &&ModuleSpec| spec.desired_status == DesiredStatus::Running;
        let needed = sum(desired.modules.values().filter(wanted).map(memory));
        let mut room = Self { most: Some(most.max(needed)), ..Self::default() };
        for (name, module) in &observed.modules {
            let spec = desired.modules.get(name).filter(wanted);
            let runs_on = spec.is_some();
            let share = Share { now: share(spec, module), at_rest: if runs_on { at_rest(module) } else { 0 } };
            room.all.now = room.all.now.saturating_add(share.now);
            room.all.at_rest = room.all.at_rest.saturating_add(share.at_rest);
            room.is_changing |= runs_on && is_changing(module);
            room.shares.insert(name, share);
        }
        // What an old version went for comes before all that is new.
        for (name, module) in &observed.modules {
            if let (ModuleState::Stopping | ModuleState::Stopped, Some(next)) = (&module.state, &module.next)
                && next.state == NextState::Ready
                && module.has_place
            {
                room.take(name, memory(&next.spec));
            }
        }
        room
    }

    /// What becomes of a decision to start something. True: it has to wait for room.
    pub(super) fn allow(
        &mut self,
        spec: &'a ModuleSpec,
        module: Option<&ObservedModule>,
        decision: Decision,
        now: Uptime,
    ) -> (Decision, bool) {
        let (Some(module), Some(_)) = (module, self.most) else { return (decision, false) };
        let (name, old) = (&spec.name, memory(&module.spec));
        match (&decision.step, &module.next) {
            (Some(Step::Start(_)), _) => {
                // An update that is not wanted any more may still be there.
                if self.take(name, old.saturating_add(of_update(module))) {
                    self.comes_to(name, old);
                    return (decision, false);
                }
                (instead_of_start(spec, module, now), true)
            }
            (Some(Step::StartUpdate(_)), Some(next)) => {
                let new = memory(&next.spec);
                let both = old.saturating_add(new);
                if self.take(name, both) {
                    self.comes_to(name, new);
                    return (decision, false);
                }
                // One at a time, and not if what is on its way will make room for both.
                if !self.is_changing && !self.will_fit(name, both) && self.take(name, new) {
                    self.comes_to(name, new);
                    self.is_changing = true;
                    return (Decision::act(Step::Stop(name.clone())), false);
                }
                // The wait may be long.
                (end_if_unhealthy(spec, module, now), true)
            }
            (Some(Step::Promote(_)), Some(next)) if next.state == NextState::Ready && module.has_place => {
                let new = memory(&next.spec);
                if self.take(name, new) {
                    self.comes_to(name, new);
                    return (decision, false);
                }
                let comes_back = module.stands_in(spec);
                (if comes_back { keep_running(spec, module, true, now) } else { Decision::WAIT }, true)
            }
            _ => (decision, false),
        }
    }

    /// Lets a module have so many bytes, if it has them already or the others leave as many. What it has more, it has until that has
    /// ended.
    fn take(&mut self, name: &'a ModuleName, bytes: u64) -> bool {
        let share = self.shares.entry(name).or_default();
        if bytes <= share.now {
            return true;
        }
        let all = self.all.now.saturating_sub(share.now).saturating_add(bytes);
        let fits = self.most.is_none_or(|most| all <= most);
        if fits {
            (share.now, self.all.now) = (bytes, all);
        }
        fits
    }

    /// Whether a module could have so many bytes once all that is on its way has ended.
    fn will_fit(&self, name: &ModuleName, bytes: u64) -> bool {
        let own = self.shares.get(name).map_or(0, |share| share.at_rest);
        let all = self.all.at_rest.saturating_sub(own).saturating_add(bytes);
        self.most.is_none_or(|most| all <= most)
    }

    fn comes_to(&mut self, name: &'a ModuleName, bytes: u64) {
        let share = self.shares.entry(name).or_default();
        self.all.at_rest = self.all.at_rest.saturating_sub(share.at_rest).saturating_add(bytes);
        share.at_rest = bytes;
    }
}

impl Observed {
    /// The limits of all instances that there are, those of updates included.
    #[must_use]
    pub fn memory_in_use(&self) -> u64 {
        sum(self.modules.values().map(|module| {
            let own = if module.state.has_instance() { memory(&module.spec) } else { 0 };
            own.saturating_add(of_update(module))
        }))
    }
}

fn memory(spec: &ModuleSpec) -> u64 {
    spec.sandbox.memory_bytes
}

fn sum(bytes: impl Iterator<Item = u64>) -> u64 {
    bytes.fold(0, u64::saturating_add)
}

/// What a module takes, or what is kept for it.
fn share(wanted: Option<&ModuleSpec>, module: &ObservedModule) -> u64 {
    // Then the old version does not come back, if that one is still wanted.
    let is_wanted = |next: &super::NextVersion| wanted.is_some_and(|spec| !needs_new_instance(&next.spec, spec));
    let is_up = |next: &super::NextVersion| matches!(next.state, NextState::Up { .. }) && is_wanted(next);
    let is_up = module.next.as_ref().is_some_and(is_up);
    let is_kept = module.has_place && !is_up;
    let own = if module.state.has_instance() || is_kept { memory(&module.spec) } else { 0 };
    own.saturating_add(of_update(module))
}

/// What the instance of its update takes, if there is one.
fn of_update(module: &ObservedModule) -> u64 {
    let is_there = |next: &&super::NextVersion| next.state.has_instance() || next.state == NextState::Stopping;
    module.next.as_ref().filter(is_there).map_or(0, |next| memory(&next.spec))
}

/// What a module that runs on takes once its update is over.
fn at_rest(module: &ObservedModule) -> u64 {
    let makes_way = matches!(module.state, ModuleState::Stopping | ModuleState::Stopped);
    match &module.next {
        Some(next) if next.state.has_instance() => memory(&next.spec),
        Some(next) if next.state == NextState::Ready && makes_way => memory(&next.spec),
        _ if module.state.has_instance() || module.has_place => memory(&module.spec),
        _ => 0,
    }
}

/// Whether it has been stopped for another instance, which is not there yet. One that fails holds up nothing.
fn is_changing(module: &ObservedModule) -> bool {
    let is_beside = module.next.as_ref().is_some_and(|next| next.state.has_instance());
    let is_down = match module.state {
        ModuleState::Stopping | ModuleState::Stopped | ModuleState::Prepared => true,
        ModuleState::Starting => module.failures == 0,
        _ => false,
    };
    is_down && module.has_place && !is_beside
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
