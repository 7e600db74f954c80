//! What the supervisor keeps of each module beside what the planner reads, and how it shows.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use marram_core::{
    deployment::{DesiredStatus, ModuleSpec},
    health::Health,
    name::ModuleName,
    planner::{ModuleState, NextState, ObservedModule, backoff, is_given_up, restarts},
    ports::{Artifact, Component, Exit, Progress},
    time::{Uptime, UtcMillis},
};

use tokio::{sync::oneshot, task::AbortHandle};

use super::{health::Watch, tally::Tally};
use crate::{
    clock::Clock,
    delivery::StopSignal,
    logs::LogBuffer,
    status::{HealthStatus, ModuleStatus},
};

/// The handles of one module.
pub(super) struct Record {
    pub(super) sequence: Arc<AtomicU64>,
    pub(super) logs: Arc<LogBuffer>,
    pub(super) memory: Arc<AtomicU64>,
    /// Deliveries that were settled.
    pub(super) received: Arc<AtomicU64>,
    pub(super) tally: Tally,
    pub(super) prepared: Option<Prepared>,
    pub(super) next: Option<Prepared>,
    /// The preparation under way.
    preparation: Option<Preparation>,
    /// What is being prepared takes the place of a running version later.
    prepares_next: bool,
    pub(super) prepare_error: Option<String>,
    /// What failed last while it was prepared was the network.
    pub(super) unreachable: bool,
    /// Of the preparation begun last.
    pub(super) progress: Arc<Progress>,
    pub(super) running: Option<Running>,
    /// The checks of what runs, if it has any.
    pub(super) watch: Option<Watch>,
    /// The instance of `next`, beside the running one.
    pub(super) update: Option<Update>,
    /// Why an earlier one did not come up.
    update_error: Option<String>,
    pub(super) restart_requested: bool,
    has_started: bool,
    pub(super) restart_count: u32,
    last_start: Option<UtcMillis>,
    last_restart: Option<UtcMillis>,
    last_exit: Option<(UtcMillis, Exit)>,
}

/// A preparation under way. Ends with this, and gives its place back, wherever it is.
pub(super) struct Preparation {
    /// Tells its event from that of an earlier one.
    pub(super) run: u64,
    pub(super) task: AbortHandle,
}

impl Drop for Preparation {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A component that is ready to be started.
pub(super) struct Prepared {
    pub(super) artifact: Artifact,
    pub(super) component: Arc<dyn Component>,
}

impl Prepared {
    /// By an input handler, or by asking for them.
    pub(super) fn takes_messages(&self) -> bool {
        self.component.exports().input || self.component.imports_inbox()
    }
}

/// An instance.
pub(super) struct Running {
    /// Tells its events from those of an earlier one.
    pub(super) run: u64,
    pub(super) stop: Arc<StopSignal>,
}

/// An update's instance that is not in charge yet.
pub(super) struct Update {
    pub(super) running: Running,
    /// Lets it begin.
    pub(super) open: oneshot::Sender<()>,
    /// When it was started.
    pub(super) at: UtcMillis,
}

impl Record {
    pub(super) fn new(name: &ModuleName, clock: Clock, sequence: Arc<AtomicU64>) -> Self {
        Self {
            sequence,
            logs: Arc::new(LogBuffer::new(name.clone(), clock)),
            memory: Arc::default(),
            received: Arc::default(),
            tally: Tally::default(),
            prepared: None,
            next: None,
            preparation: None,
            prepares_next: false,
            prepare_error: None,
            unreachable: false,
            progress: Arc::default(),
            running: None,
            watch: None,
            update: None,
            update_error: None,
            restart_requested: false,
            has_started: false,
            restart_count: 0,
            last_start: None,
            last_restart: None,
            last_exit: None,
        }
    }

    /// One that is under way is ended by the next.
    pub(super) fn preparing(&mut self, beside_old: bool, preparation: Preparation) {
        self.preparation = Some(preparation);
        self.prepares_next = beside_old;
        if !beside_old {
            self.begin_anew();
        }
    }

    /// What takes the place of the old version has not run yet.
    fn begin_anew(&mut self) {
        self.has_started = false;
        self.restart_count = 0;
        (self.last_start, self.last_restart, self.last_exit) = (None, None, None);
    }

    pub(super) fn is_preparing(&self, run: u64) -> bool {
        self.preparation.as_ref().is_some_and(|preparation| preparation.run == run)
    }

    pub(super) fn cancel(&mut self) {
        self.preparation = None;
        if self.prepares_next {
            self.forget_next();
        }
    }

    pub(super) fn prepared(&mut self, prepared: Prepared) {
        self.prepare_error = None;
        self.unreachable = false;
        if self.prepares_next {
            self.next = Some(prepared);
        } else {
            self.prepared = Some(prepared);
        }
    }

    /// True: the update's instance is up already, and is in charge now.
    pub(super) fn promote(&mut self, now: Uptime) -> bool {
        if let Some(next) = self.next.take() {
            self.prepared = Some(next);
        }
        self.update_error = None;
        let Some(Update { running, open, at }) = self.update.take() else {
            self.begin_anew();
            return false;
        };
        self.has_started = true;
        self.restart_count = 0;
        self.running = Some(running);
        self.last_start = Some(at);
        self.tally.running.begin(now);
        let _ = open.send(()); // an instance that has just ended says so itself
        true
    }

    pub(super) fn update_ended(&mut self, exit: &Exit) {
        self.update = None;
        if exit.code != Exit::STOPPED {
            self.update_error = Some(format!("exit {}: {}", exit.code, exit.reason));
        }
    }

    pub(super) fn forget_next(&mut self) {
        self.next = None;
        self.prepare_error = None;
        self.update_error = None;
    }

    /// What went wrong with it last, for people.
    pub(super) fn trouble(&self) -> Option<String> {
        let exit = || self.last_exit.as_ref().map(|(_, exit)| format!("exit {}: {}", exit.code, exit.reason));
        self.prepare_error.clone().or_else(|| self.update_error.clone()).or_else(|| self.sickness()).or_else(exit)
    }

    /// What its health check finds wrong with what runs.
    fn sickness(&self) -> Option<String> {
        self.watch.as_ref().and_then(|watch| watch.checks.trouble())
    }

    /// What it did last was to fail; the network is no failure.
    pub(super) fn has_failed(&self) -> bool {
        let ended_badly = |(_, exit): &(UtcMillis, Exit)| !matches!(exit.code, Exit::DONE | Exit::STOPPED);
        match &self.prepare_error {
            Some(_) => !self.unreachable,
            None => self.update_error.is_some() || self.last_exit.as_ref().is_some_and(ended_badly),
        }
    }

    /// Digests of the components that run or are ready to.
    pub(super) fn components(&self) -> impl Iterator<Item = &str> {
        self.prepared.iter().chain(&self.next).map(|prepared| prepared.artifact.component_digest.as_str())
    }

    pub(super) fn started(&mut self, at: UtcMillis) {
        if self.has_started {
            self.restart_count = self.restart_count.saturating_add(1);
            self.last_restart = Some(at);
        }
        self.has_started = true;
        self.last_start = Some(at);
    }

    /// All that there are, in charge or not.
    pub(super) fn instances(&self) -> impl Iterator<Item = &Running> {
        self.running.iter().chain(self.update.iter().map(|update| &update.running))
    }

    /// What runs takes what waits for it, or its update will.
    pub(super) fn takes_messages(&self) -> bool {
        let takes = |prepared: &Option<Prepared>| prepared.as_ref().is_some_and(Prepared::takes_messages);
        (self.running.is_some() && takes(&self.prepared)) || (self.update.is_some() && takes(&self.next))
    }

    /// What runs, or would, takes no messages: routes to it are dead ends.
    pub(super) fn is_dead_end(&self) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| !prepared.takes_messages())
    }

    pub(super) fn is_run(&self, run: u64) -> bool {
        self.running.as_ref().is_some_and(|running| running.run == run)
    }

    pub(super) fn is_update(&self, run: u64) -> bool {
        self.update.as_ref().is_some_and(|update| update.running.run == run)
    }

    /// Notes the end of the instance; true when an operator wants another at once.
    pub(super) fn ended(&mut self, exit: Exit, now: Uptime, at: UtcMillis) -> bool {
        self.running = None;
        self.tally.running.end(now);
        self.memory.store(0, Relaxed);
        self.last_exit = Some((at, exit));
        std::mem::take(&mut self.restart_requested)
    }
}

/// How a module shows in `list`.
pub(super) fn module_status(
    spec: &ModuleSpec,
    observed: Option<&ObservedModule>,
    record: Option<&Record>,
    sent: u64,
    now: Uptime,
) -> ModuleStatus {
    let last_exit = record.and_then(|record| record.last_exit.as_ref());
    let status = observed.map_or("stopped", |module| module.status(spec));
    let mut description = describe(spec, observed, record, now);
    if spec.desired_status == DesiredStatus::Running
        && let (Some(module), Some(record)) = (observed, record)
    {
        description += &describe_update(module, record);
    }
    ModuleStatus {
        name: spec.name.clone(),
        status: status.into(),
        description,
        desired_status: spec.desired_status,
        image: spec.image.clone(),
        digest: record.and_then(|record| record.prepared.as_ref()).map(|p| p.artifact.manifest_digest.clone()),
        exit_code: last_exit.map(|(_, exit)| exit.code),
        restart_count: record.map_or(0, |record| record.restart_count),
        last_start: record.and_then(|record| record.last_start),
        last_exit: last_exit.map(|(at, _)| *at),
        last_restart: record.and_then(|record| record.last_restart),
        backtrace: last_exit.map(|(_, exit)| exit.backtrace.clone()).unwrap_or_default(),
        sent,
        received: record.map_or(0, |record| record.received.load(Relaxed)),
        memory_bytes: record.map_or(0, |record| record.memory.load(Relaxed)),
        memory_limit: spec.sandbox.memory_bytes,
        health: record.and_then(|record| record.watch.as_ref()).map(|watch| HealthStatus::of(&watch.checks)),
        told: observed.map(|module| module.told(now)),
    }
}

fn describe(spec: &ModuleSpec, observed: Option<&ObservedModule>, record: Option<&Record>, now: Uptime) -> String {
    let Some(module) = observed else { return "not started".into() };
    let exit = record.and_then(|record| record.last_exit.as_ref()).map(|(_, exit)| exit);
    let exit_text = exit.map_or(String::new(), |exit| format!("exit {}: {}", exit.code, exit.reason));
    let prepare_error = record.and_then(|record| record.prepare_error.clone()).unwrap_or_default();
    let progress = record.map(|record| &record.progress).filter(|progress| progress.is_under_way());
    let pulling = progress.map(|progress| format!("pulling {progress}"));
    let stopped = || if exit_text.is_empty() { "stopped".into() } else { exit_text.clone() };
    match &module.state {
        ModuleState::Preparing => pulling.unwrap_or_else(|| "fetching and compiling".into()),
        ModuleState::Prepared | ModuleState::PrepareFailed { .. } | ModuleState::Exited { .. }
            if spec.desired_status == DesiredStatus::Stopped =>
        {
            stopped()
        }
        ModuleState::Prepared | ModuleState::Starting => "starting".into(),
        ModuleState::Running { since } => {
            let up = format!("up {}", duration(now.since(*since).as_secs()));
            match (module.health, record.and_then(Record::sickness)) {
                (_, Some(sickness)) => format!("{up}; {sickness}"),
                (Health::Healthy { .. }, None) => format!("{up}, healthy"),
                (Health::Unknown | Health::Unhealthy, None) => up,
            }
        }
        ModuleState::Ending { .. } => {
            let sickness = record.and_then(Record::sickness).unwrap_or_default();
            format!("being ended; {sickness}")
        }
        ModuleState::Stopping => "stopping".into(),
        // For a moment, or as long as the host stops.
        ModuleState::Stopped if record.is_some_and(|record| record.update.is_some()) => "its update takes over".into(),
        ModuleState::Stopped => stopped(),
        ModuleState::PrepareFailed { at } => {
            let due = at.after(backoff(module.failures));
            format!("{prepare_error}; tried again in {}", duration(due.since(now).as_secs()))
        }
        ModuleState::Exited { code, at, .. } => {
            if restarts(spec, *code, module.failures) {
                let due = at.after(backoff(module.failures));
                format!("{exit_text}; restarts in {}", duration(due.since(now).as_secs()))
            } else if is_given_up(spec, *code, module.failures) {
                let restarts = module.failures.saturating_sub(1);
                format!("{exit_text}; given up after {restarts} restarts (`maxRestarts`)")
            } else {
                exit_text
            }
        }
    }
}

/// What is worth telling of an update that is not in charge yet; empty: nothing.
fn describe_update(module: &ObservedModule, record: &Record) -> String {
    let Some(next) = &module.next else { return String::new() };
    if next.state == NextState::Preparing && record.progress.is_under_way() {
        format!("; its update: pulling {}", record.progress)
    } else if let Some(error) = &record.prepare_error {
        format!("; its update cannot be prepared: {error}")
    } else if let Some(error) = &record.update_error {
        format!("; its update does not start: {error}")
    } else {
        String::new()
    }
}

/// `5 s`, `3 min`, `7 h`, `2 d`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
