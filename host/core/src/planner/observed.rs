//! What is known of each module, and how steps and events change it. Decides nothing; [`super::plan`] does.

use std::{collections::BTreeMap, time::Duration};

use super::{Step, after_exit, needs_new_instance, restarts};
use crate::{
    deployment::{DesiredStatus, ModuleSpec},
    health::Health,
    name::ModuleName,
    time::Uptime,
};

/// What the supervisor knows of each module that it has or had.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// By name; a module that is only desired is missing.
    pub modules: BTreeMap<ModuleName, ObservedModule>,
    /// Most bytes of the memory limits of all instances together; none = no bound. A deployment that was accepted with more has what it
    /// needs.
    pub max_memory: Option<u64>,
}

/// One module as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedModule {
    /// The spec that `state` is about: what was prepared, runs or ran. The desired one may differ: then it is updated. Its
    /// desired status is kept up to date all the same: `stopped` = it is not to come back while an update is prepared.
    pub spec: ModuleSpec,
    /// What it is doing.
    pub state: ModuleState,
    /// Failures in a row, of preparing or running; sets the next back-off. See [`after_exit`].
    pub failures: u32,
    /// What the supervisor has been asked to prepare meanwhile (an update): the spec, and how it stands.
    pub next: Option<NextVersion>,
    /// What the checks of the instance that runs tell.
    pub health: Health,
    /// It has run since it was desired running, it or the old version that has made way for it. While it is down, what it takes is kept
    /// for it, and it waits for no other one to start.
    pub has_place: bool,
}

/// States of a module; each carries only the data that it needs.
#[derive(Debug, Clone, PartialEq)]
pub enum ModuleState {
    /// Being fetched, verified and compiled.
    Preparing,
    /// Could not be prepared; may be tried again.
    PrepareFailed {
        /// When.
        at: Uptime,
    },
    /// Ready to be started; has not run with this spec yet.
    Prepared,
    /// Being instantiated.
    Starting,
    /// Runs.
    Running {
        /// Since when.
        since: Uptime,
    },
    /// Asked to end because it is unhealthy: its end is a failure.
    Ending {
        /// Since when it ran.
        since: Uptime,
    },
    /// Asked to stop.
    Stopping,
    /// Not running because it was asked to stop or has not been asked to start.
    Stopped,
    /// Ended by itself.
    Exited {
        /// Exit code; 0 is done.
        code: i32,
        /// When.
        at: Uptime,
        /// How long it had run.
        ran: Duration,
    },
}

/// The version that is prepared while the old one still runs, or would be started again.
#[derive(Debug, Clone, PartialEq)]
pub struct NextVersion {
    /// What is prepared.
    pub spec: ModuleSpec,
    /// How it stands.
    pub state: NextState,
    /// Failures in a row of preparing or starting it.
    pub failures: u32,
}

/// How the preparation of an update stands.
#[derive(Debug, Clone, PartialEq)]
pub enum NextState {
    /// Under way.
    Preparing,
    /// Failed; the old version runs on.
    Failed {
        /// When.
        at: Uptime,
    },
    /// Ready to be started beside the old version.
    Ready,
    /// Its instance is being made.
    Starting,
    /// Its instance is up and takes nothing yet: the old version may be stopped.
    Up {
        /// Since when.
        since: Uptime,
    },
    /// Its instance was asked to end: it is not wanted any more.
    Stopping,
}

/// What became of a step, or what a module did by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The spec asked for last by [`Step::Prepare`] is fetched and compiled.
    Prepared,
    /// It could not be had.
    PrepareFailed,
    /// The instance is up.
    Started,
    /// The instance ended with this code, before or after it was up. While [`ModuleState::Stopping`] that is the stop.
    Exited(i32),
    /// The instance was stopped, as asked.
    Stopped,
    /// A check of the instance that runs has told this.
    Checked(Health),
    /// The update's instance is up.
    UpdateStarted,
    /// The update's instance ended before it was promoted.
    UpdateExited,
}

impl NextState {
    /// Whether its instance is there and was not asked to end.
    #[must_use]
    pub fn has_instance(&self) -> bool {
        matches!(self, Self::Starting | Self::Up { .. })
    }

    /// Whether an event will come of it by itself.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        matches!(self, Self::Preparing | Self::Starting | Self::Stopping)
    }
}

impl Observed {
    /// Nothing is under way: each module runs, is down, or waits for its back-off.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.modules.values().all(|module| {
            let state = !matches!(
                module.state,
                ModuleState::Preparing
                    | ModuleState::Prepared
                    | ModuleState::Starting
                    | ModuleState::Ending { .. }
                    | ModuleState::Stopping
            );
            // It was wanted running when this began.
            let waits = module.state == ModuleState::Prepared && module.spec.desired_status == DesiredStatus::Stopped;
            let next = module.next.as_ref().is_none_or(|next| matches!(next.state, NextState::Failed { .. }));
            (state || waits) && next
        })
    }
}

impl Observed {
    /// Forgets what could not be prepared, so that it is tried at once and not after its back-off. Answers those whose update
    /// was forgotten.
    pub fn forget_refusals(&mut self) -> Vec<ModuleName> {
        self.modules.retain(|_, module| !matches!(module.state, ModuleState::PrepareFailed { .. }));
        let failed = |module: &mut ObservedModule| {
            module.next.take_if(|next| matches!(next.state, NextState::Failed { .. })).is_some()
        };
        self.modules.iter_mut().filter_map(|(name, module)| failed(module).then(|| name.clone())).collect()
    }
}

impl ModuleState {
    /// Whether an instance exists or is being made or ended.
    #[must_use]
    pub fn has_instance(&self) -> bool {
        matches!(self, Self::Starting | Self::Running { .. } | Self::Ending { .. } | Self::Stopping)
    }
}

impl Observed {
    /// Notes that a step has been issued. Steps about unknown modules (other than [`Step::Prepare`]) change nothing.
    pub fn issued(&mut self, step: &Step) {
        match step {
            Step::Prepare(spec) => match self.modules.get_mut(&spec.name) {
                Some(module) => module.prepare(spec),
                None => {
                    let module = ObservedModule::new(spec.clone(), ModuleState::Preparing);
                    self.modules.insert(spec.name.clone(), module);
                }
            },
            Step::Cancel(name) => self.cancelled(name),
            Step::Start(name) => self.set(name, ModuleState::Starting),
            Step::Stop(name) => self.set(name, ModuleState::Stopping),
            Step::End(name) => {
                if let Some(module) = self.modules.get_mut(name)
                    && let ModuleState::Running { since } = module.state
                {
                    module.state = ModuleState::Ending { since };
                }
            }
            Step::StartUpdate(name) => self.set_next(name, NextState::Starting),
            Step::StopUpdate(name) => self.set_next(name, NextState::Stopping),
            Step::Remove(name) => {
                self.modules.remove(name);
            }
            Step::Promote(name) => {
                if let Some(module) = self.modules.get_mut(name) {
                    module.promote();
                }
            }
            Step::Adopt(spec) => {
                if let Some(module) = self.modules.get_mut(&spec.name) {
                    module.adopt(spec);
                }
            }
        }
    }

    /// The device was suspended for so long before `now`. Nothing ran meanwhile: no module has proved itself by it. Back-offs go on.
    pub fn suspended(&mut self, by: Duration, now: Uptime) {
        let later = |since: &mut Uptime| *since = since.after(by).min(now);
        for module in self.modules.values_mut() {
            if let ModuleState::Running { since } | ModuleState::Ending { since } = &mut module.state {
                later(since);
            }
            if let Some(NextVersion { state: NextState::Up { since }, .. }) = &mut module.next {
                later(since);
            }
            if let Health::Healthy { since } = &mut module.health {
                later(since);
            }
        }
    }

    /// Notes what happened to a module at `now`. Events of unknown modules change nothing.
    pub fn happened(&mut self, name: &ModuleName, event: Event, now: Uptime) {
        let Some(module) = self.modules.get_mut(name) else { return };
        match event {
            Event::Prepared => module.prepared(),
            Event::PrepareFailed => module.prepare_failed(now),
            Event::Started => {
                module.state = ModuleState::Running { since: now };
                module.health = Health::Unknown;
                module.has_place |= module.spec.desired_status == DesiredStatus::Running;
            }
            Event::Checked(health) => module.health = health,
            Event::Exited(_) if module.state == ModuleState::Stopping => module.state = ModuleState::Stopped,
            Event::Exited(code) => module.exited(code, now),
            Event::Stopped => module.state = ModuleState::Stopped,
            Event::UpdateStarted => module.update_started(now),
            Event::UpdateExited => module.update_exited(now),
        }
    }

    fn cancelled(&mut self, name: &ModuleName) {
        let Some(module) = self.modules.get_mut(name) else { return };
        if module.next.take_if(|next| next.state == NextState::Preparing).is_none()
            && module.state == ModuleState::Preparing
        {
            self.modules.remove(name);
        }
    }

    fn set(&mut self, name: &ModuleName, state: ModuleState) {
        if let Some(module) = self.modules.get_mut(name) {
            module.state = state;
        }
    }

    fn set_next(&mut self, name: &ModuleName, state: NextState) {
        if let Some(next) = self.modules.get_mut(name).and_then(|module| module.next.as_mut()) {
            next.state = state;
        }
    }
}

impl ObservedModule {
    /// A module of which nothing has failed yet.
    #[must_use]
    pub fn new(spec: ModuleSpec, state: ModuleState) -> Self {
        Self { spec, state, failures: 0, next: None, health: Health::Unknown, has_place: false }
    }

    /// Whether it runs, and its health check has failed too often.
    #[must_use]
    pub fn is_unhealthy(&self) -> bool {
        matches!(self.state, ModuleState::Running { .. })
            && self.spec.health.is_some()
            && self.health == Health::Unhealthy
    }

    /// Whether it could be started, itself or its update.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, ModuleState::Prepared | ModuleState::Stopped)
            || self.next.as_ref().is_some_and(|next| next.state == NextState::Ready)
    }

    /// Whether nothing runs, but the version in place has run, or made another one go, and would be started again, by the policy that is wanted now:
    /// then it stays until another one is ready. Its spec says whether it was desired stopped since it ran; then it is over with it.
    pub(super) fn stands_in(&self, wanted: &ModuleSpec) -> bool {
        let comes_back = match self.state {
            ModuleState::Stopped => true,
            ModuleState::Prepared => self.has_place,
            ModuleState::Exited { code, .. } => restarts(wanted, code, self.failures),
            _ => false,
        };
        comes_back && self.spec.desired_status == DesiredStatus::Running
    }

    /// Beside an instance, or a version that stands in, the spec becomes `next`; otherwise it takes the place of the old
    /// one. Failures of another spec do not count against this one: a repaired module starts at once.
    fn prepare(&mut self, spec: &ModuleSpec) {
        let next = self.next.take().filter(|next| !needs_new_instance(&next.spec, spec));
        let failures = match next {
            Some(next) => next.failures,
            None if needs_new_instance(&self.spec, spec) => 0,
            None => self.failures,
        };
        if self.state.has_instance() || self.stands_in(spec) {
            self.next = Some(NextVersion { spec: spec.clone(), state: NextState::Preparing, failures });
        } else {
            self.spec = spec.clone();
            self.state = ModuleState::Preparing;
            self.failures = failures;
            self.has_place = false;
        }
    }

    fn prepared(&mut self) {
        if self.state == ModuleState::Preparing {
            self.state = ModuleState::Prepared;
            self.failures = 0; // those were of preparing; it has not run yet
        } else if let Some(next) = self.next.as_mut().filter(|next| next.state == NextState::Preparing) {
            // Its failures stay: it has not started yet, and may fail there again and again.
            next.state = NextState::Ready;
        }
    }

    fn prepare_failed(&mut self, at: Uptime) {
        if self.state == ModuleState::Preparing {
            self.state = ModuleState::PrepareFailed { at };
            self.failures = self.failures.saturating_add(1);
        } else if let Some(next) = self.next.as_mut().filter(|next| next.state == NextState::Preparing) {
            next.state = NextState::Failed { at };
            next.failures = next.failures.saturating_add(1);
        }
    }

    fn exited(&mut self, code: i32, at: Uptime) {
        let ran = match self.state {
            ModuleState::Running { since } | ModuleState::Ending { since } => at.since(since),
            _ => Duration::ZERO,
        };
        self.failures = after_exit(self.failures, ran);
        self.state = ModuleState::Exited { code, at, ran };
        // What is done or given up does not come back by itself.
        self.has_place &= restarts(&self.spec, code, self.failures);
    }

    fn update_started(&mut self, now: Uptime) {
        if let Some(next) = self.next.as_mut().filter(|next| next.state == NextState::Starting) {
            next.state = NextState::Up { since: now };
        }
    }

    /// One that was asked to end is forgotten; one that ended by itself has failed.
    fn update_exited(&mut self, at: Uptime) {
        let Some(next) = &mut self.next else { return };
        if next.state == NextState::Stopping {
            self.next = None;
        } else if next.state.has_instance() {
            next.state = NextState::Failed { at };
            next.failures = next.failures.saturating_add(1);
        }
    }

    fn promote(&mut self) {
        if let Some(next) = self.next.take() {
            let (state, has_place) = match next.state {
                NextState::Up { since } => (ModuleState::Running { since }, true),
                _ => (ModuleState::Prepared, self.has_place),
            };
            *self = Self { has_place, ..Self::new(next.spec, state) };
        }
    }

    /// A module that had ended by itself and is now wanted stopped counts as stopped, so that wanting it running again
    /// starts it, whatever its restart policy thought of the exit.
    fn adopt(&mut self, spec: &ModuleSpec) {
        if self.spec.health != spec.health {
            self.health = Health::Unknown; // another check has told what was known
        }
        self.spec = spec.clone();
        let runs = matches!(self.state, ModuleState::Running { .. });
        self.has_place = (self.has_place || runs) && spec.desired_status == DesiredStatus::Running;
        if spec.desired_status == DesiredStatus::Stopped && matches!(self.state, ModuleState::Exited { .. }) {
            self.state = ModuleState::Stopped;
            self.failures = 0;
        }
    }
}
