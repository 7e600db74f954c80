//! Decides what to do next for each module. Reads no clock, touches no disk, starts nothing: it answers with a [`Plan`],
//! which `agent::supervisor` carries out and whose results come back as [`Observed`].
//!
//! Departures from IoT Edge, all towards fewer surprises: no restart without back-off, exit 0 is done under `on-failure`
//! and `on-unhealthy`, no limit of restarts unless the manifest sets one, a change of policy or order alone does not touch
//! the instance, and an old version runs until the instance of its update is up beside it.

mod explain;
mod observed;
mod room;
mod runtime;
#[cfg(test)]
mod tests;
mod update;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

pub use self::{
    explain::{Action, Explained, ExplainedStep, explain},
    observed::{Event, ModuleState, NextState, NextVersion, Observed, ObservedModule},
    runtime::{Runtime, RuntimeModule, RuntimeStatus, Told, uptime},
};
use self::{room::Room, update::update};
use crate::{
    deployment::{Deployment, DesiredStatus, ModuleSpec, RestartPolicy},
    name::ModuleName,
    ports::Exit,
    time::Uptime,
};

/// First wait before a restart (IoT Edge's cool-off unit).
pub const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// Longest back-off. Five minutes keeps a broken module cheap, and a repaired one is back before an operator has finished
/// the phone call (IoT Edge's number).
pub const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// A module that ran this long is healthy: its next back-off starts at [`FIRST_BACKOFF`] again (IoT Edge's number).
pub const HEALTHY_AFTER: Duration = Duration::from_secs(600);

/// What to do now and when to ask again. [`Observed::issued`] says what each step changes at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// At most one a module, in the order in which they are to be issued.
    pub steps: Vec<Step>,
    /// When to plan again if no event comes before: at the next thing that becomes due by itself; none = only an event
    /// changes anything. `now` as long as there are steps: once they are issued, others may be possible without an event
    /// (a promoted module can be started, a starting one can have its update prepared).
    pub wake_at: Option<Uptime>,
}

/// One thing to do for one module.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Fetch, verify, compile this spec. Becomes the module's spec (or its `next` while an old instance exists or would be
    /// started again). Takes the place of a preparation that is under way.
    Prepare(ModuleSpec),
    /// End the preparation that is under way: nobody wants what it is for any more, and nothing is heard of it. A module of
    /// which nothing else is known is forgotten with it.
    Cancel(ModuleName),
    /// Start what is prepared.
    Start(ModuleName),
    /// Stop the running instance.
    Stop(ModuleName),
    /// End the instance, which is unhealthy: it counts as failed, and is started again after its back-off.
    End(ModuleName),
    /// Start the update that is prepared, beside the old instance. It takes nothing before it is promoted.
    StartUpdate(ModuleName),
    /// End the update's instance: it is not wanted any more.
    StopUpdate(ModuleName),
    /// Forget a module that is not desired any more and does not run, and what is being prepared for it.
    Remove(ModuleName),
    /// The update is ready or up and the old instance is down: put `next` in place of `spec`.
    Promote(ModuleName),
    /// Put this spec in place of the old one and leave the instance alone: they differ only in what the planner reads
    /// (see [`needs_new_instance`]). For an old version that is not to come back, that is its desired status.
    Adopt(ModuleSpec),
}

/// The step's kind and its module, without the spec: its environment may hold secrets, and this is for logs.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Prepare(spec) => ("prepare", &spec.name),
            Self::Cancel(name) => ("cancel", name),
            Self::Start(name) => ("start", name),
            Self::Stop(name) => ("stop", name),
            Self::End(name) => ("end", name),
            Self::StartUpdate(name) => ("start-update", name),
            Self::StopUpdate(name) => ("stop-update", name),
            Self::Remove(name) => ("remove", name),
            Self::Promote(name) => ("promote", name),
            Self::Adopt(spec) => ("adopt", &spec.name),
        };
        write!(f, "{kind} {name}")
    }
}

/// Says what is to be done.
///
/// Every module is treated by itself, but for one rule: what has not been started yet waits until each module with a lower
/// `startup_order` is up or has failed; so does the change-over to an update. Restarts do not wait. No wait is for ever,
/// because an engine ends a start that takes too long.
///
/// And nothing is started that does not fit beside what there is into [`Observed::max_memory`]. An update that will not fit beside its old
/// version takes its place: the old one is stopped first, one at a time. What has run and is down for now keeps its place. One that waits
/// for room holds up first starts as any other, and no updates: they may be what makes the room.
///
/// A module that is desired stopped is not fetched: `stopped` costs neither network nor disk until it is wanted.
#[must_use]
pub fn plan(desired: &Deployment, observed: &Observed, now: Uptime) -> Plan {
    let mut plan = Plan::default();
    each_choice(desired, observed, now, |choice| plan.add(choice.decision));
    if !plan.steps.is_empty() {
        plan.wake_at = Some(now);
    }
    plan
}

/// What is ready to be started, itself or its update, and is not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldUp<'a> {
    /// For want of room under [`Observed::max_memory`].
    pub by_room: BTreeSet<&'a ModuleName>,
    /// By what has to start before.
    pub by_order: BTreeSet<&'a ModuleName>,
}

/// Says what waits for others, by the same decisions as [`plan`].
#[must_use]
pub fn held_up<'a>(desired: &'a Deployment, observed: &'a Observed, now: Uptime) -> HeldUp<'a> {
    let mut held_up = HeldUp::default();
    each_choice(desired, observed, now, |choice| {
        if choice.lacks_room {
            held_up.by_room.insert(choice.name);
        } else if choice.awaits.is_some() && choice.module.is_some_and(ObservedModule::is_ready) {
            held_up.by_order.insert(choice.name);
        }
    });
    held_up
}

/// What was decided for one module, and from what.
struct Choice<'a> {
    name: &'a ModuleName,
    /// None: it is not desired any more.
    spec: Option<&'a ModuleSpec>,
    /// None: nothing is known of it yet.
    module: Option<&'a ObservedModule>,
    /// What has to start before it does.
    awaits: Option<&'a ModuleSpec>,
    /// It would be started if there were room for it.
    lacks_room: bool,
    decision: Decision,
}

/// Decides for one module after another, in the order of the steps.
fn each_choice<'a>(desired: &'a Deployment, observed: &'a Observed, now: Uptime, mut each: impl FnMut(Choice<'a>)) {
    for (name, module) in &observed.modules {
        if !desired.modules.contains_key(name) {
            let decision = leave(name, module);
            each(Choice { name, spec: None, module: Some(module), awaits: None, lacks_room: false, decision });
        }
    }
    // What has to start before higher ones do, and before they change over to their updates.
    let (mut awaited, mut awaited_by_updates): (Option<&ModuleSpec>, Option<&ModuleSpec>) = (None, None);
    let mut room = Room::of(desired, observed);
    for spec in by_startup_order(desired) {
        let module = observed.modules.get(&spec.name);
        let is_lower = |first: &&ModuleSpec| first.startup_order < spec.startup_order;
        let (starts_after, updates_after) = (awaited.filter(is_lower), awaited_by_updates.filter(is_lower));
        let turn = Turn { to_start: starts_after.is_none(), to_update: updates_after.is_none() };
        let decision = decide(spec, module, turn, now);
        let starts = matches!(decision.step, Some(Step::Start(_))) && is_awaited(spec, module, &decision);
        let (decision, lacks_room) = room.allow(spec, module, decision, now);
        if starts || is_awaited(spec, module, &decision) {
            awaited.get_or_insert(spec);
            // The update of a higher one may be what has to make the room for it, and for what waits behind it.
            if !lacks_room && turn.to_start {
                awaited_by_updates.get_or_insert(spec);
            }
        }
        let is_update = module.is_some_and(|module| needs_new_instance(&module.spec, spec));
        let awaits = if is_update { updates_after } else { starts_after };
        each(Choice { name: &spec.name, spec: Some(spec), module, awaits, lacks_room, decision });
    }
}

/// Whether a change from `old` to `new` takes a new instance. Status, restart policy, limit of restarts, health check and
/// startup order do not: the instance knows nothing of them.
#[must_use]
pub fn needs_new_instance(old: &ModuleSpec, new: &ModuleSpec) -> bool {
    // Taken apart so that a new field cannot be forgotten here.
    let ModuleSpec {
        name,
        version,
        image,
        desired_status: _,
        restart_policy: _,
        max_restarts: _,
        health: _,
        pull_policy,
        startup_order: _,
        env,
        sandbox,
    } = old;
    *name != new.name
        || *version != new.version
        || *image != new.image
        || *pull_policy != new.pull_policy
        || *env != new.env
        || *sandbox != new.sandbox
}

/// The wait after so many failures in a row: 10 s, 20 s, 40 s … 300 s. Zero counts as one: no restart is without a wait.
#[must_use]
pub fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF)
}

/// Failures in a row after an exit of an instance that `ran` so long. Every exit by itself counts, one with code 0 too:
/// it matters only where the restart policy starts the module again. After [`HEALTHY_AFTER`] the count begins anew.
#[must_use]
pub fn after_exit(previous_failures: u32, ran: Duration) -> u32 {
    if ran >= HEALTHY_AFTER { 1 } else { previous_failures.saturating_add(1) }
}

/// The modules that have an instance, in the order in which to stop them: the last started group first; the modules of a
/// group may be stopped at the same time.
#[must_use]
pub fn shutdown_order(observed: &Observed) -> Vec<Vec<ModuleName>> {
    let mut groups: BTreeMap<Reverse<u32>, Vec<ModuleName>> = BTreeMap::new();
    for (name, module) in observed.modules.iter().filter(|(_, module)| module.state.has_instance()) {
        groups.entry(Reverse(module.spec.startup_order)).or_default().push(name.clone());
    }
    groups.into_values().collect()
}

impl Plan {
    fn add(&mut self, decision: Decision) {
        self.wake_at = match (self.wake_at, decision.due) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.steps.extend(decision.step);
    }
}

/// Whether all that has to start before a module has done so.
#[derive(Clone, Copy)]
struct Turn {
    to_start: bool,
    to_update: bool,
}

/// What to do for one module now, and when it becomes due otherwise.
#[derive(Default)]
struct Decision {
    step: Option<Step>,
    due: Option<Uptime>,
}

impl Decision {
    const WAIT: Self = Self { step: None, due: None };

    fn act(step: Step) -> Self {
        Self { step: Some(step), due: None }
    }

    fn act_if(condition: bool, step: impl FnOnce() -> Step) -> Self {
        Self { step: condition.then(step), due: None }
    }

    fn act_at(due: Uptime, now: Uptime, step: impl FnOnce() -> Step) -> Self {
        if due <= now { Self::act(step()) } else { Self { step: None, due: Some(due) } }
    }
}

fn by_startup_order(desired: &Deployment) -> Vec<&ModuleSpec> {
    let mut specs: Vec<&ModuleSpec> = desired.modules.values().collect();
    specs.sort_by_key(|spec| spec.startup_order); // stable: by name within an order
    specs
}

/// Whether higher startup orders must wait for this module: it is wanted, and its first start is not over. What has failed
/// is not waited for, not even while it is tried again.
fn is_awaited(spec: &ModuleSpec, module: Option<&ObservedModule>, decision: &Decision) -> bool {
    if spec.desired_status != DesiredStatus::Running {
        return false;
    }
    let Some(module) = module else { return true };
    let promotes = matches!(decision.step, Some(Step::Promote(_)));
    let updates = matches!(&decision.step, Some(Step::Prepare(new)) if needs_new_instance(&module.spec, new));
    let starts = matches!(decision.step, Some(Step::Start(_)));
    match module.state {
        ModuleState::Preparing | ModuleState::Starting => module.failures == 0,
        ModuleState::Prepared => !starts || module.failures == 0,
        ModuleState::Stopped => promotes || updates || (starts && module.failures == 0),
        // One that is started again meanwhile has not begun anew.
        ModuleState::PrepareFailed { .. } | ModuleState::Exited { .. } => {
            promotes || (updates && !module.stands_in(spec))
        }
        ModuleState::Running { .. } | ModuleState::Ending { .. } | ModuleState::Stopping => false,
    }
}

/// For a module that is not desired any more. What instances are about to do comes back as an event first, or the event
/// would tell of a module that nobody knows.
fn leave(name: &ModuleName, module: &ObservedModule) -> Decision {
    if module.next.as_ref().is_some_and(|next| next.state == NextState::Preparing) {
        return Decision::act(Step::Cancel(name.clone()));
    }
    if module.next.as_ref().is_some_and(|next| next.state.has_instance()) {
        return Decision::act(Step::StopUpdate(name.clone()));
    }
    let next_under_way = module.next.as_ref().is_some_and(|next| next.state.is_under_way());
    let step = match module.state {
        ModuleState::Starting | ModuleState::Ending { .. } | ModuleState::Stopping => None,
        ModuleState::Running { .. } => Some(Step::Stop(name.clone())),
        ModuleState::Preparing
        | ModuleState::PrepareFailed { .. }
        | ModuleState::Prepared
        | ModuleState::Stopped
        | ModuleState::Exited { .. } => (!next_under_way).then(|| Step::Remove(name.clone())),
    };
    Decision { step: step.or_else(|| let_go(module)), due: None }
}

/// The version in place is desired stopped, or not at all: it does not come back, should another one be wanted before it
/// is gone.
fn let_go(module: &ObservedModule) -> Option<Step> {
    let due = module.spec.desired_status != DesiredStatus::Stopped && module.state != ModuleState::Preparing;
    due.then(|| Step::Adopt(ModuleSpec { desired_status: DesiredStatus::Stopped, ..module.spec.clone() }))
}

fn decide(spec: &ModuleSpec, module: Option<&ObservedModule>, turn: Turn, now: Uptime) -> Decision {
    let Some(module) = module else {
        return Decision::act_if(spec.desired_status == DesiredStatus::Running, || Step::Prepare(spec.clone()));
    };
    let differs = needs_new_instance(&module.spec, spec);
    let is_wanted = |next: &NextVersion| {
        differs && spec.desired_status == DesiredStatus::Running && !needs_new_instance(&next.spec, spec)
    };
    if module.next.as_ref().is_some_and(|next| next.state.has_instance() && !is_wanted(next)) {
        return Decision::act(Step::StopUpdate(spec.name.clone()));
    }
    let is_updated = differs && spec.desired_status == DesiredStatus::Running;
    if module.next.as_ref().is_some_and(|next| next.state == NextState::Preparing) && !is_updated {
        return Decision::act(Step::Cancel(spec.name.clone()));
    }
    let mut decision = match spec.desired_status {
        DesiredStatus::Stopped => keep_stopped(spec, module),
        DesiredStatus::Running if differs => update(spec, module, turn, now),
        DesiredStatus::Running => keep_running(spec, module, turn.to_start, now),
    };
    // Last, because it can wait: decisions are taken by the desired spec anyway. Not while it is prepared: the event that
    // ends the preparation is about the spec that was asked for.
    let adoptable = module.spec != *spec && module.state != ModuleState::Preparing;
    if decision.step.is_none() && adoptable {
        decision.step = match spec.desired_status {
            _ if !differs => Some(Step::Adopt(spec.clone())),
            DesiredStatus::Stopped => let_go(module),
            DesiredStatus::Running => None,
        };
    }
    decision
}

fn keep_stopped(spec: &ModuleSpec, module: &ObservedModule) -> Decision {
    match module.state {
        ModuleState::Running { .. } => Decision::act(Step::Stop(spec.name.clone())),
        ModuleState::Preparing => Decision::act(Step::Cancel(spec.name.clone())),
        _ => Decision::WAIT,
    }
}

/// The spec in place is the wanted one; its state is to become running and to stay so.
fn keep_running(spec: &ModuleSpec, module: &ObservedModule, may_start: bool, now: Uptime) -> Decision {
    match module.state {
        // Another check has not found anything yet: it is adopted first.
        ModuleState::Running { .. } if module.spec.health != spec.health => Decision::WAIT,
        ModuleState::Running { .. } => end_if_unhealthy(spec, module, now),
        ModuleState::Preparing | ModuleState::Starting | ModuleState::Ending { .. } | ModuleState::Stopping => {
            Decision::WAIT
        }
        ModuleState::PrepareFailed { at } => {
            Decision::act_at(at.after(backoff(module.failures)), now, || Step::Prepare(spec.clone()))
        }
        ModuleState::Prepared | ModuleState::Stopped => {
            Decision::act_if(may_start || module.has_place, || Step::Start(spec.name.clone()))
        }
        ModuleState::Exited { code, .. } if !restarts(spec, code, module.failures) => Decision::WAIT,
        ModuleState::Exited { at, .. } => {
            Decision::act_at(at.after(backoff(module.failures)), now, || Step::Start(spec.name.clone()))
        }
    }
}

/// A module whose health check fails is ended if it is started again after that. One that is not is left as it is: it may do half
/// of its work, and may become well by itself.
fn end_if_unhealthy(spec: &ModuleSpec, module: &ObservedModule, now: Uptime) -> Decision {
    let ModuleState::Running { since } = module.state else { return Decision::WAIT };
    let comes_back = || {
        // The policy that it runs under as well as the one that is wanted now, if it is to be updated.
        module.spec.restart_policy.min(spec.restart_policy) >= RestartPolicy::OnUnhealthy
            && restarts(spec, Exit::UNHEALTHY, after_exit(module.failures, now.since(since)))
    };
    Decision::act_if(module.is_unhealthy() && comes_back(), || Step::End(spec.name.clone()))
}

/// Whether a module is started again after an exit with this code, with so many failures in a row, this one included.
#[must_use]
pub fn restarts(spec: &ModuleSpec, code: i32, failures: u32) -> bool {
    wants_restart(spec.restart_policy, code) && !is_over_limit(spec, failures)
}

/// Whether its policy would start it again, and it has been restarted as often as its spec allows.
#[must_use]
pub fn is_given_up(spec: &ModuleSpec, code: i32, failures: u32) -> bool {
    wants_restart(spec.restart_policy, code) && is_over_limit(spec, failures)
}

fn is_over_limit(spec: &ModuleSpec, failures: u32) -> bool {
    spec.max_restarts.is_some_and(|most| failures > most)
}

fn wants_restart(policy: RestartPolicy, code: i32) -> bool {
    match policy {
        RestartPolicy::Never => false,
        RestartPolicy::OnFailure | RestartPolicy::OnUnhealthy => code != 0,
        RestartPolicy::Always => true,
    }
}
