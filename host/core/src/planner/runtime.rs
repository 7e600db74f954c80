//! Modules as a runtime reports them, in IoT Edge's words (`$edgeAgent`'s reported properties), and what the planner makes
//! of them. Wall-clock times are all that such a report has; the supervisor plans with its own picture and its own clock.

use std::{collections::BTreeMap, time::Duration};

use super::{HEALTHY_AFTER, ModuleState, Observed, ObservedModule, is_given_up, restarts};
use crate::{
    deployment::{Deployment, DesiredStatus, ModuleSpec, PullPolicy, RestartPolicy, Sandbox},
    name::ModuleName,
    ports::Exit,
    time::{Uptime, UtcMillis},
};

/// What a runtime reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtime {
    /// By name.
    pub modules: BTreeMap<ModuleName, RuntimeModule>,
}

/// What it reports of one module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeModule {
    /// `runtimeStatus`.
    pub status: RuntimeStatus,
    /// `exitCode` of the last instance that ended.
    pub exit_code: Option<i32>,
    /// `restartCount`: restarts since it was healthy for long.
    pub restart_count: u32,
    /// `lastStartTimeUtc`; none = it has never been started.
    pub last_start: Option<UtcMillis>,
    /// `lastExitTimeUtc`; none = it has never ended.
    pub last_exit: Option<UtcMillis>,
    /// `lastPullFailureTimeUtc`, our own: when it could not be fetched and compiled, if it waits because of that.
    pub last_pull_failure: Option<UtcMillis>,
    /// [`ModuleSpec::settings_digest`] of what it was made from; none = not told, taken for the desired one.
    pub settings_digest: Option<String>,
}

/// What is to be told of a module beside the times of its instances, so that the same is planned from it: the way back from
/// [`Runtime::observed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// `restartCount`, as [`RuntimeModule::restart_count`].
    pub restart_count: u32,
    /// It was stopped, with whatever code its instance ended then.
    pub was_stopped: bool,
    /// When it could not be prepared, if it waits because of that.
    pub last_pull_failure: Option<Uptime>,
    /// [`ModuleSpec::settings_digest`] of what it was made from, the desired one or an old one.
    pub settings_digest: String,
}

impl ObservedModule {
    /// What is to be told of it.
    #[must_use]
    pub fn told(&self, now: Uptime) -> Told {
        let restart_count = match self.state {
            // The failure that it waits for has had no restart yet.
            ModuleState::Exited { .. } | ModuleState::PrepareFailed { .. } => self.failures.saturating_sub(1),
            ModuleState::Running { since } if now.since(since) >= HEALTHY_AFTER => 0,
            _ => self.failures,
        };
        let last_pull_failure = match self.state {
            ModuleState::PrepareFailed { at } => Some(at),
            _ => None,
        };
        let was_stopped = self.state == ModuleState::Stopped;
        Told { restart_count, was_stopped, last_pull_failure, settings_digest: self.spec.settings_digest() }
    }

    /// What it does, in Marram's words: `preparing`, `starting`, `running`, `unhealthy`, `stopping`, `stopped`, `backoff`,
    /// `failed`.
    #[must_use]
    pub fn status(&self, wanted: &ModuleSpec) -> &'static str {
        let is_wanted = wanted.desired_status == DesiredStatus::Running;
        match self.state {
            ModuleState::Preparing => "preparing",
            // It was wanted running when this began; nothing follows now.
            ModuleState::Prepared | ModuleState::PrepareFailed { .. } | ModuleState::Exited { .. } if !is_wanted => {
                "stopped"
            }
            ModuleState::Prepared | ModuleState::Starting => "starting",
            ModuleState::Running { .. } if self.is_unhealthy() => "unhealthy",
            ModuleState::Running { .. } => "running",
            ModuleState::Ending { .. } => "unhealthy",
            ModuleState::Stopping => "stopping",
            // For a moment, or as long as the host stops: its update takes over.
            ModuleState::Stopped if self.next.as_ref().is_some_and(|next| next.state.has_instance()) => "stopping",
            ModuleState::Stopped => "stopped",
            ModuleState::PrepareFailed { .. } => "backoff",
            ModuleState::Exited { code, .. } if restarts(wanted, code, self.failures) => "backoff",
            ModuleState::Exited { code: Exit::DONE, .. } if !is_given_up(wanted, Exit::DONE, self.failures) => {
                "stopped"
            }
            ModuleState::Exited { .. } => "failed",
        }
    }
}

/// `runtimeStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeStatus {
    /// The runtime does not know, or has ended since.
    Unknown,
    /// Ended, and waits for its restart.
    Backoff,
    /// Runs.
    Running,
    /// Runs, and its health check fails.
    Unhealthy,
    /// Does not run: it was stopped, was never started, or has ended with code 0.
    Stopped,
    /// Ended by a failure.
    Failed,
    /// Cannot be used any more and has to be made anew.
    Dead,
}

/// The exit code where a runtime tells of a failure and not of its code.
const SOME_FAILURE: i32 = 1;

impl Runtime {
    /// What the planner reads of it. Times are those of the wall clock, so `now` is [`uptime`] of it. A time that lies ahead
    /// of `now`, because the clock was set back since, counts as `now`, and so does one that is missing: a back-off is waited
    /// for in full, never skipped.
    #[must_use]
    pub fn observed(&self, desired: &Deployment, now: UtcMillis) -> Observed {
        let module = |(name, module): (&ModuleName, &RuntimeModule)| {
            (name.clone(), module.observed(name, desired.modules.get(name), now))
        };
        Observed { modules: self.modules.iter().map(module).collect(), max_memory: None }
    }
}

/// The wall clock in place of the monotonic one.
#[must_use]
pub fn uptime(time: UtcMillis) -> Uptime {
    Uptime(time.0)
}

/// A time that cannot lie ahead, and is now if nobody knows it.
fn past(time: Option<UtcMillis>, now: UtcMillis) -> Uptime {
    uptime(time.unwrap_or(now).min(now))
}

impl RuntimeModule {
    fn observed(&self, name: &ModuleName, desired: Option<&ModuleSpec>, now: UtcMillis) -> ObservedModule {
        let spec = self.spec(name, desired);
        // Only what is to run can have the wrong health.
        let heeds_health = desired.is_some_and(|desired| {
            desired.desired_status == DesiredStatus::Running && desired.restart_policy >= RestartPolicy::OnUnhealthy
        });
        let state = self.state(heeds_health, now);
        let failures = match state {
            ModuleState::Exited { ran, .. } if ran >= HEALTHY_AFTER => 1,
            ModuleState::Exited { .. } | ModuleState::PrepareFailed { .. } => self.restart_count.saturating_add(1),
            ModuleState::Prepared => 0,
            _ => self.restart_count,
        };
        ObservedModule { failures, ..ObservedModule::new(spec, state) }
    }

    /// The desired one, unless the digest tells that it was made from another. Of that one no more is known; it has no
    /// image, as no desired one does.
    fn spec(&self, name: &ModuleName, desired: Option<&ModuleSpec>) -> ModuleSpec {
        let same = |desired: &&ModuleSpec| {
            self.settings_digest.as_ref().is_none_or(|digest| *digest == desired.settings_digest())
        };
        desired.filter(same).cloned().unwrap_or_else(|| ModuleSpec {
            name: name.clone(),
            version: String::new(),
            image: String::new(),
            desired_status: DesiredStatus::Running,
            restart_policy: RestartPolicy::Never,
            max_restarts: None,
            health: None,
            pull_policy: PullPolicy::Never,
            startup_order: 0,
            env: BTreeMap::new(),
            sandbox: Sandbox::default(),
        })
    }

    fn state(&self, heeds_health: bool, now: UtcMillis) -> ModuleState {
        let failure = self.exit_code.filter(|code| *code != 0).unwrap_or(SOME_FAILURE);
        match self.status {
            // The back-off counts from when it began to run: it has not ended.
            RuntimeStatus::Unhealthy if heeds_health => ModuleState::Exited {
                code: failure,
                at: past(self.last_start.max(self.last_exit), now),
                ran: Duration::ZERO,
            },
            RuntimeStatus::Running | RuntimeStatus::Unhealthy => {
                ModuleState::Running { since: past(self.last_start, now) }
            }
            RuntimeStatus::Backoff if self.waits_for_its_image() => {
                ModuleState::PrepareFailed { at: past(self.last_pull_failure, now) }
            }
            RuntimeStatus::Backoff => self.exited(self.exit_code.unwrap_or(SOME_FAILURE), now),
            RuntimeStatus::Failed => self.exited(failure, now),
            RuntimeStatus::Dead => ModuleState::PrepareFailed { at: past(self.last_exit, now) },
            RuntimeStatus::Stopped | RuntimeStatus::Unknown => self.down(now),
        }
    }

    /// Whether it has not ended but could not be made.
    fn waits_for_its_image(&self) -> bool {
        let has_ended = self.last_exit.is_some() || self.exit_code.unwrap_or(Exit::DONE) != Exit::DONE;
        self.last_pull_failure.is_some() || !has_ended
    }

    /// It is not told to have failed. What has ended by itself under its policy is told from what was stopped by the exit
    /// code.
    fn down(&self, now: UtcMillis) -> ModuleState {
        if self.last_start.is_none() && self.last_exit.is_none() {
            return ModuleState::Prepared;
        }
        let has_ended = self.last_exit >= self.last_start;
        match self.exit_code.unwrap_or(Exit::DONE) {
            Exit::STOPPED => ModuleState::Stopped,
            // It ran when the runtime was heard of last; modules do not outlive it.
            _ if self.status == RuntimeStatus::Unknown && !has_ended => ModuleState::Stopped,
            code => self.exited(code, now),
        }
    }

    fn exited(&self, code: i32, now: UtcMillis) -> ModuleState {
        let at = past(self.last_exit, now);
        let ran = match (self.last_start, self.last_exit) {
            (Some(start), Some(exit)) => exit.0.saturating_sub(start.0),
            _ => 0,
        };
        ModuleState::Exited { code, at, ran: Duration::from_millis(ran) }
    }
}
