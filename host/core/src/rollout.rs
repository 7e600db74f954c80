//! Whether a deployment is good, and which one takes the place of one that is not. Reads no clock, stores nothing and puts
//! nothing in force: [`Trial`] tells a [`Verdict`], [`History`] says what an earlier verdict means for now, and the agent does it.
//!
//! A deployment is good once all that it desires is stored, and all its modules are healthy at the same time: up, and without a
//! failure for the probation. It is bad once one of them has not become healthy in time, or never can. Time in which a module waits for the network, for
//! modules that start before it, or for those that make room for it, is not its own and does not count, unless the deployment says so.

mod history;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

pub use self::history::{
    Accepted, Entry, History, LONG_LIFE, MAX_ENTRIES, MAX_TEXT_BYTES, Outcome, Way, manifest_digest,
};
use crate::{
    deployment::{Deployment, DesiredStatus, ModuleSpec, RolloutOptions},
    health::Health,
    name::ModuleName,
    planner::{ModuleState, NextState, Observed, ObservedModule, held_up, is_given_up, needs_new_instance, restarts},
    time::Uptime,
};

/// How a module stands, as far as its health goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing more is asked of it: it is desired stopped, or has ended well and is done.
    Done,
    /// It is being fetched or compiled, or waits for modules that start before it, or that will make room for it.
    Waits,
    /// What it needs cannot be reached now; it is tried again. The earlier version goes on.
    Unreachable,
    /// The same, and there is no earlier version here that goes on: after a restart of the host. While the next try is under way it
    /// [waits](Self::Waits).
    Absent,
    /// It is being started, or stopped to be started again, or its last health check has not passed; or it has no room, and nothing is on
    /// its way that may make it.
    Starts,
    /// The wanted version runs since then, or has ended well then and is started again.
    Up {
        /// Since when.
        since: Uptime,
    },
    /// It ended badly, or cannot be had or started as it is; it is tried again.
    Failing,
    /// The same, and it is not tried again.
    Failed,
}

/// How a module stands with the version that is wanted. `unreachable`: what failed last with it was the network.
#[must_use]
pub fn standing(spec: &ModuleSpec, module: Option<&ObservedModule>, unreachable: bool) -> Standing {
    if spec.desired_status == DesiredStatus::Stopped {
        return Standing::Done;
    }
    let Some(module) = module else { return Standing::Waits };
    let failed_to_prepare = if unreachable { Standing::Unreachable } else { Standing::Failing };
    if needs_new_instance(&module.spec, spec) {
        return match module.next.as_ref().map(|next| &next.state) {
            None | Some(NextState::Preparing | NextState::Ready) => Standing::Waits,
            Some(NextState::Starting | NextState::Up { .. } | NextState::Stopping) => Standing::Starts,
            Some(NextState::Failed { .. }) => failed_to_prepare,
        };
    }
    match module.state {
        // While a try is under way, nobody knows yet: it may be a long download.
        ModuleState::PrepareFailed { .. } if unreachable => Standing::Absent,
        // One that is stopped and wanted is started at once, unless others start before it.
        ModuleState::Preparing | ModuleState::Prepared | ModuleState::Stopped => Standing::Waits,
        ModuleState::PrepareFailed { .. } => Standing::Failing,
        ModuleState::Starting | ModuleState::Stopping => Standing::Starts,
        ModuleState::Ending { .. } => Standing::Failing,
        ModuleState::Running { since } => match module.health {
            _ if spec.health.is_none() => Standing::Up { since },
            Health::Healthy { since: first } => Standing::Up { since: since.max(first) },
            Health::Unknown => Standing::Starts,
            Health::Unhealthy => Standing::Failing,
        },
        ModuleState::Exited { code, at, .. } => match (code, restarts(spec, code, module.failures)) {
            (0, true) => Standing::Up { since: at },
            (0, false) if !is_given_up(spec, code, module.failures) => Standing::Done,
            (_, true) => Standing::Failing,
            (_, false) => Standing::Failed,
        },
    }
}

/// How all modules of a deployment stand. `unreachable`: what failed last with this one was the network.
///
/// One that waits for room under the owner's ceiling waits as long as others are on their way or out of reach: they may be what makes it.
/// After that it counts as starting, or nobody's time would count, and the deployment would be on trial for ever.
#[must_use]
pub fn standings<'a>(
    desired: &'a Deployment,
    observed: &Observed,
    unreachable: impl Fn(&ModuleName) -> bool,
    now: Uptime,
) -> BTreeMap<&'a ModuleName, Standing> {
    let of = |(name, spec)| (name, standing(spec, observed.modules.get(name), unreachable(name)));
    let mut standings: BTreeMap<&ModuleName, Standing> = desired.modules.iter().map(of).collect();
    if observed.max_memory.is_none() || standings.values().all(|standing| *standing != Standing::Waits) {
        return standings;
    }
    let held_up = held_up(desired, observed, now);
    let moves = standings.iter().any(|(name, standing)| {
        let waits_for_others = held_up.by_room.contains(name) || held_up.by_order.contains(name);
        !waits_for_others && (standing.is_under_way() || matches!(standing, Standing::Unreachable | Standing::Absent))
    });
    let waits = |(name, standing): &(&&ModuleName, &mut Standing)| {
        **standing == Standing::Waits && held_up.by_room.contains(*name)
    };
    if !moves {
        standings.iter_mut().filter(waits).for_each(|(_, standing)| *standing = Standing::Starts);
    }
    standings
}

impl Standing {
    /// Whether what is desired of it is not there, and was tried in vain.
    #[must_use]
    pub fn is_unwell(self) -> bool {
        matches!(self, Self::Unreachable | Self::Absent | Self::Failing | Self::Failed)
    }

    /// Whether what is desired of it is on its way.
    #[must_use]
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Waits | Self::Starts)
    }

    /// How it has fared until now. `failed`: it has, and has not run long since.
    #[must_use]
    pub fn fitness(self, failed: bool, probation: Duration, now: Uptime) -> Fitness {
        match self {
            Self::Done => Fitness::Well,
            Self::Up { since } if now.since(since) >= probation => Fitness::Well,
            Self::Failing | Self::Failed => Fitness::Unwell,
            Self::Up { .. } | Self::Starts | Self::Waits if failed => Fitness::Unwell,
            Self::Up { .. } | Self::Starts | Self::Waits | Self::Unreachable | Self::Absent => Fitness::Unknown,
        }
    }
}

/// How a module has fared: what the next deployment, if it leaves the module as it is, can do nothing for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitness {
    /// It is healthy.
    Well,
    /// It fails, or has failed and not been healthy since.
    Unwell,
    /// It has done neither in this life of the host.
    Unknown,
}

/// Failures in a row of the version that is wanted.
#[must_use]
pub fn failures(spec: &ModuleSpec, module: &ObservedModule) -> u32 {
    match needs_new_instance(&module.spec, spec) {
        true => {
            module.next.as_ref().filter(|next| !needs_new_instance(&next.spec, spec)).map_or(0, |next| next.failures)
        }
        false => module.failures,
    }
}

/// What is thought of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Open,
    /// All its modules are healthy.
    Good,
    /// This module is not healthy.
    Bad {
        /// Which.
        module: ModuleName,
        /// Why it is not.
        fault: Fault,
    },
}

/// Why a module is not healthy, as far as a deployment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has failed and is not started again.
    Lasting,
    /// It did not become healthy in time.
    Late,
    /// It could not be reached in time; nothing is known against it.
    Absent,
    /// It was healthy at times, but all modules never were at the same time.
    InTurn,
    /// What the deployment desires of it could not be stored in time. That is the disk's doing, and nothing against the deployment.
    Unstored,
}

impl Fault {
    /// Nothing is held against the deployment: it may be tried again as it is.
    #[must_use]
    pub fn is_excused(self) -> bool {
        matches!(self, Self::Absent | Self::Unstored)
    }
}

/// A deployment may be on trial for so many time-outs together, if its modules become healthy only in turn. Each module has one; one that
/// waits for another by failing needs a second, and hardly a third: so four are more than enough, and the default comes to 20 minutes.
pub const MAX_TIMEOUTS: u32 = 4;

/// What was amiss before a deployment that leaves it as it is, and is not held against it. After one that is on trial itself, and in a
/// rollback, that is only so of what was amiss before that one too: the rest may be its doing, and would make the next one good by the
/// back door.
#[must_use]
pub fn excused(
    old: &Entry,
    way: &Way,
    amiss: BTreeSet<ModuleName>,
    before_old: &BTreeSet<ModuleName>,
) -> BTreeSet<ModuleName> {
    let is_suspect = old.outcome == Outcome::OnTrial || matches!(way, Way::Rollback { .. });
    amiss.into_iter().filter(|name| !is_suspect || before_old.contains(name)).collect()
}

/// An answer of [`Trial::look`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What is thought of it by now. A bad one that stays in force may become good.
    pub verdict: Verdict,
    /// When it is to be looked at again if nothing happens before; none = only an event changes anything.
    pub wake_at: Option<Uptime>,
}

/// A deployment that is watched until it is known whether it is good.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    options: RolloutOptions,
    /// Modules that failed before, and that the deployment did not change: nothing is held against it.
    exempt: BTreeSet<ModuleName>,
    /// Modules that the deployment which would take its place has running in another version.
    would_run: BTreeSet<ModuleName>,
    courses: BTreeMap<ModuleName, Course>,
    /// Its desired properties are not stored yet, and for how long.
    unstored: Option<(ModuleName, Duration)>,
    /// What is up shows only from then on that it bears the deployment, its twin, its routes, its policy: since the first look, since all
    /// of it is stored, or the last suspension of the device.
    began: Option<Uptime>,
    looked: Option<Uptime>,
    /// How long it has been open by its modules' own doing.
    open: Duration,
    /// It is.
    is_open: bool,
}

/// A module's way to health.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Course {
    /// Up since then without a failure.
    clean_since: Option<Uptime>,
    /// How long it has kept the deployment waiting by itself.
    spent: Duration,
    /// It does.
    spends: bool,
    /// It was absent, and is not here yet.
    absent: bool,
    /// It was absent or out of reach, and is not here yet.
    away: bool,
}

impl Trial {
    /// A trial that begins with the first look.
    #[must_use]
    pub fn new(options: RolloutOptions, exempt: BTreeSet<ModuleName>) -> Self {
        Self {
            options,
            exempt,
            would_run: BTreeSet::new(),
            courses: BTreeMap::new(),
            unstored: None,
            began: None,
            looked: None,
            open: Duration::ZERO,
            is_open: false,
        }
    }

    /// With modules that a rollback would have running. While one of them is absent its time counts, network or not: no device is to
    /// stand still for want of a version that it has never seen.
    #[must_use]
    pub fn or_else_run(self, would_run: BTreeSet<ModuleName>) -> Self {
        Self { would_run, ..self }
    }

    /// With a module whose desired properties could not be stored. Until [`Trial::is_stored`] the deployment is not good, whatever its
    /// modules do: they do it with an older twin.
    #[must_use]
    pub fn lacking(self, module: Option<ModuleName>) -> Self {
        Self { unstored: module.map(|module| (module, Duration::ZERO)), ..self }
    }

    /// All of the deployment is stored now: the modules' time begins.
    pub fn is_stored(&mut self, now: Uptime) {
        if self.unstored.take().is_none() {
            return;
        }
        self.began = Some(now);
        for course in self.courses.values_mut() {
            course.clean_since = course.clean_since.map(|since| since.max(now));
            course.spent = Duration::ZERO;
        }
    }

    /// The device was suspended for so long since the last look. Nothing ran meanwhile: no module has proved itself, and none is late by it.
    pub fn suspended(&mut self, by: Duration) {
        let Some(looked) = self.looked.map(|looked| looked.after(by)) else { return };
        (self.began, self.looked) = (Some(looked), Some(looked));
        for since in self.courses.values_mut().filter_map(|course| course.clean_since.as_mut()) {
            *since = since.after(by);
        }
    }

    /// Looks at all modules. To be done after each event: what has been between two looks is not seen.
    pub fn look<'a>(&mut self, standings: impl IntoIterator<Item = (&'a ModuleName, Standing)>, now: Uptime) -> Look {
        let began = *self.began.get_or_insert(now);
        let passed = self.looked.replace(now).map_or(Duration::ZERO, |looked| now.since(looked));
        if self.is_open {
            self.open = self.open.saturating_add(passed);
        }
        let mut look = Look { verdict: Verdict::Good, wake_at: None };
        look.awaits_storage(&mut self.unstored, passed, self.options.timeout(), now);
        // The first that is not healthy, and whether anything waits.
        let (mut unhealthy, mut waits) = (None, self.unstored.is_some());
        for (name, standing) in standings {
            if self.exempt.contains(name) {
                continue;
            }
            let standing = match standing {
                Standing::Up { since } => Standing::Up { since: since.max(began) },
                other => other,
            };
            let course = self.courses.entry(name.clone()).or_default();
            if course.spends {
                course.spent = course.spent.saturating_add(passed);
            }
            if standing != Standing::Waits {
                let absent = standing == Standing::Absent;
                if std::mem::replace(&mut course.absent, absent) && !absent && self.options.wait_for_network {
                    course.spent = Duration::ZERO; // it is here: its own time begins
                }
                course.away = absent || standing == Standing::Unreachable;
            }
            if course.is_healthy(standing, &self.options, now) {
                (course.spent, course.spends) = (Duration::ZERO, false);
                continue;
            }
            course.spends = match standing {
                Standing::Waits | Standing::Unreachable => !self.options.wait_for_network,
                Standing::Absent => !self.options.wait_for_network || self.would_run.contains(name),
                _ => true,
            };
            waits |= !course.spends;
            unhealthy = unhealthy.or(Some(name));
            let left = self.options.timeout().saturating_sub(course.spent);
            // It failed with an older twin.
            let lasting = standing == Standing::Failed && self.unstored.is_none();
            if lasting || left.is_zero() {
                let fault = match course.away {
                    _ if lasting => Fault::Lasting,
                    true => Fault::Absent,
                    false => Fault::Late,
                };
                look.fails(name, fault);
            } else if look.verdict == Verdict::Good {
                look.verdict = Verdict::Open;
            }
            let healthy_at = match standing {
                Standing::Up { .. } => course.clean_since.map(|since| since.after(self.options.probation)),
                _ => None,
            };
            let late_at = (course.spends && !lasting && !left.is_zero()).then(|| now.after(left));
            look.wake_at = [look.wake_at, healthy_at, late_at].into_iter().flatten().min();
        }
        self.is_open = look.verdict == Verdict::Open && !waits;
        if let Some(module) = unhealthy.filter(|_| self.is_open) {
            let left = self.options.timeout().saturating_mul(MAX_TIMEOUTS).saturating_sub(self.open);
            match left.is_zero() {
                true => look.fails(module, Fault::InTurn),
                false => look.wake_at = look.wake_at.into_iter().chain([now.after(left)]).min(),
            }
        }
        look
    }
}

impl Look {
    /// What is not stored is waited for as long as for a module.
    fn awaits_storage(
        &mut self,
        unstored: &mut Option<(ModuleName, Duration)>,
        passed: Duration,
        timeout: Duration,
        now: Uptime,
    ) {
        let Some((module, waited)) = unstored else { return };
        *waited = waited.saturating_add(passed);
        let left = timeout.saturating_sub(*waited);
        if left.is_zero() {
            self.fails(module, Fault::Unstored);
        } else {
            (self.verdict, self.wake_at) = (Verdict::Open, Some(now.after(left)));
        }
    }

    /// The first fault is the one that is told.
    fn fails(&mut self, module: &ModuleName, fault: Fault) {
        if !matches!(self.verdict, Verdict::Bad { .. }) {
            self.verdict = Verdict::Bad { module: module.clone(), fault };
        }
    }
}

impl Course {
    fn is_healthy(&mut self, standing: Standing, options: &RolloutOptions, now: Uptime) -> bool {
        match standing {
            Standing::Done => true,
            Standing::Up { since } => {
                let since = *self.clean_since.get_or_insert(since);
                now.since(since) >= options.probation
            }
            Standing::Failing | Standing::Failed => {
                self.clean_since = None;
                false
            }
            Standing::Waits | Standing::Unreachable | Standing::Absent | Standing::Starts => false,
        }
    }
}
