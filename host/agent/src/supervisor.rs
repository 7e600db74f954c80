//! Carries out what `core::planner` decides: one loop, one owner of the state, slow work comes back as an event.

mod health;
mod instance;
mod outcomes;
mod record;
mod shown;
mod shutdown;
mod steps;
pub(crate) mod tally;
mod trial;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use marram_core::{
    deployment::Deployment,
    methods::{InvokeError, MethodResponse},
    name::ModuleName,
    planner::{Explained, Observed, plan},
    ports::{Artifact, Component, Engine, Exit, Images, Room},
    rollout::{Fitness, Standing, Trial},
    time::{Uptime, UtcMillis},
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub(crate) use self::trial::{Judged, Judgement};
use self::{record::Record, trial::Watched};
use crate::{
    clock::Clock, logs::LogBuffer, methods::Methods, metrics::Numbers, router::Router, state::StateCells,
    status::Status, traps::TrapKeeper, twins::Twins,
};

/// Shortest sleep between two plans.
const SHORTEST: Duration = Duration::from_millis(5);

/// What the supervisor works with.
pub(crate) struct Worlds {
    pub(crate) clock: Clock,
    pub(crate) device_id: String,
    pub(crate) router: Arc<Router>,
    pub(crate) twins: Arc<Twins>,
    pub(crate) states: Arc<StateCells>,
    pub(crate) methods: Arc<Methods>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) images: Arc<dyn Images>,
    /// Asked before a component is downloaded.
    pub(crate) room: Option<Arc<dyn Room>>,
    /// Told when all modules have come to rest after a change.
    pub(crate) settled: Arc<Notify>,
    pub(crate) upstream_closing: watch::Sender<bool>,
    /// Told what becomes of deployments.
    pub(crate) judgements: watch::Sender<Option<Judged>>,
    pub(crate) traps: Arc<TrapKeeper>,
    /// The number before the first sequence of each module in this run.
    pub(crate) first_sequence: u64,
    /// The owner's ceiling on the memory limits of all instances.
    pub(crate) max_memory: Option<u64>,
}

/// What happens.
pub(crate) enum Event {
    /// Another deployment is in force.
    Deployed(Deployed),
    /// The desired properties of these modules, as the deployment of this version wants them, are stored now. `all`: nothing is missing any more.
    Stored { version: u64, modules: Vec<ModuleName>, all: bool },
    /// A component is ready, or not to be had.
    Prepared { name: ModuleName, run: u64, result: Result<(Artifact, Arc<dyn Component>), Unprepared> },
    /// An instance is ready for work.
    Up { name: ModuleName, run: u64 },
    /// An instance has ended.
    Ended { name: ModuleName, run: u64, exit: Exit },
    /// This call of a health check has come to its end.
    Checked { name: ModuleName, run: u64, call: u64, answer: Result<MethodResponse, InvokeError> },
    /// An operator wants a new instance.
    Restart { name: ModuleName, reply: oneshot::Sender<Result<(), String>> },
    /// Somebody wants to know.
    Status { reply: oneshot::Sender<Status> },
    /// Somebody wants to know what would be done for another deployment, now or at another time of the clock.
    Plan { desired: Box<Deployment>, at: Option<UtcMillis>, reply: oneshot::Sender<Explained> },
    /// Somebody wants to know all that is counted.
    Numbers { reply: oneshot::Sender<Numbers> },
    /// Somebody wants to know whether there is such a module. Asked before most questions, so it does not cost a status.
    IsDeployed { name: ModuleName, reply: oneshot::Sender<bool> },
    /// Somebody wants to know how the modules of the deployment stand, and the status at that moment.
    Standings { reply: oneshot::Sender<(Status, BTreeMap<ModuleName, Standing>)> },
    /// Somebody wants to know how the modules have fared.
    Fitness { reply: oneshot::Sender<BTreeMap<ModuleName, Fitness>> },
    /// Somebody wants to know which components the modules run or are about to.
    Components { reply: oneshot::Sender<Vec<(ModuleName, String)>> },
    /// Somebody wants to read a module's log.
    Logs { name: ModuleName, reply: oneshot::Sender<Option<Arc<LogBuffer>>> },
    /// The host ends.
    Shutdown { grace: Duration, reply: oneshot::Sender<()> },
}

/// Why a component is not ready.
#[derive(Debug)]
pub(crate) struct Unprepared {
    pub(crate) reason: String,
    /// The network, or who is behind it; not the image.
    pub(crate) unreachable: bool,
}

/// A deployment to be carried out.
pub(crate) struct Deployed {
    pub(crate) deployment: Arc<Deployment>,
    pub(crate) version: u64,
    /// From the stored document at boot: what is on the device is good enough.
    pub(crate) prefer_cached: bool,
    /// None: it is known to be good.
    pub(crate) trial: Option<Trial>,
    /// What of it could not be stored.
    pub(crate) unstored: Option<Unstored>,
}

/// Desired properties that could not be stored with their deployment.
#[derive(Debug, Clone)]
pub(crate) struct Unstored {
    pub(crate) module: ModuleName,
    /// For people.
    pub(crate) why: String,
}

/// Events under way: each module has at most four (prepared, up, ended, checked), and the control API waits for its answers.
pub(crate) const EVENTS: usize = 4096;

/// Events that one plan follows, if so many are there at once. Beyond, starts would wait for questions.
const EVENTS_A_PLAN: usize = 64;

pub(crate) struct Supervisor {
    worlds: Worlds,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    desired: Arc<Deployment>,
    version: u64,
    prefer_cached: bool,
    trial: Option<Watched>,
    unstored: Option<Unstored>,
    observed: Observed,
    records: BTreeMap<ModuleName, Record>,
    /// Something has changed since the modules were at rest last.
    unsettled: bool,
    /// How long the device had been suspended when that was heeded last.
    suspended: Duration,
    /// Kept also of modules that were removed: one that comes back goes on counting.
    sequences: BTreeMap<ModuleName, Arc<AtomicU64>>,
    runs: u64,
}

impl Supervisor {
    pub(crate) fn new(worlds: Worlds, events: mpsc::Receiver<Event>, sender: mpsc::Sender<Event>) -> Self {
        let observed = Observed { max_memory: worlds.max_memory, ..Observed::default() };
        let suspended = worlds.clock.suspended();
        Self {
            worlds,
            events,
            sender,
            desired: Arc::default(),
            version: 0,
            prefer_cached: false,
            trial: None,
            unstored: None,
            observed,
            records: BTreeMap::new(),
            unsettled: false,
            suspended,
            sequences: BTreeMap::new(),
            runs: 0,
        }
    }

    /// Runs until it is told to shut down.
    pub(crate) async fn run(mut self) {
        loop {
            let wake_at = self.carry_out_plan_and_checks();
            let wake_at = [wake_at, self.watch_trial()].into_iter().flatten().min();
            if self.unsettled && self.observed.is_settled() {
                self.unsettled = false;
                self.worlds.settled.notify_one();
            }
            let mut event = tokio::select! {
                // What has happened before what is due; and the same each time, where both are ready.
                biased;
                event = self.events.recv() => event,
                // Never in the past: a plan that asks again at once without a step must not spin.
                () = sleep_until(self.worlds.clock, wake_at.map(|at| at.max(self.worlds.clock.uptime().after(SHORTEST)))) => continue,
            };
            // One plan for all that has happened: a thousand modules that come up are not planned a thousand times.
            let mut more = EVENTS_A_PLAN;
            loop {
                match event {
                    Some(Event::Shutdown { grace, reply }) => {
                        self.shut_down(grace).await;
                        // The one who asked may have gone; we end all the same.
                        let _ = reply.send(());
                        return;
                    }
                    Some(event) => self.on(event),
                    None => return,
                }
                more -= 1;
                // What is taken is heard: none is taken for later.
                event = match (more > 0).then(|| self.events.try_recv()) {
                    Some(Ok(next)) => Some(next),
                    Some(Err(_)) | None => break,
                };
            }
        }
    }

    fn carry_out_plan_and_checks(&mut self) -> Option<Uptime> {
        self.heed_suspension();
        loop {
            let planned = self.carry_out_plan();
            let (news, checked) = self.check_health();
            if !news {
                return [planned, checked].into_iter().flatten().min();
            }
        }
    }

    fn carry_out_plan(&mut self) -> Option<Uptime> {
        loop {
            let now = self.worlds.clock.uptime();
            let plan = plan(&self.desired, &self.observed, now);
            for step in &plan.steps {
                self.observed.issued(step);
                self.issue(step);
            }
            // A wake-up that is due already asks for another plan at once.
            if plan.wake_at.is_none_or(|at| at > now) || plan.steps.is_empty() {
                return plan.wake_at;
            }
        }
    }

    fn on(&mut self, event: Event) {
        self.heed_suspension();
        match event {
            Event::Deployed(deployed) => {
                if deployed.deployment.registry_credentials != self.desired.registry_credentials {
                    self.forget_refusals();
                }
                self.unsettled = true;
                self.desired = deployed.deployment;
                self.version = deployed.version;
                self.prefer_cached = deployed.prefer_cached;
                let lacking = deployed.unstored.as_ref().map(|unstored| unstored.module.clone());
                self.trial = deployed.trial.map(|trial| Watched::new(trial.lacking(lacking)));
                self.unstored = deployed.unstored;
                self.check_anew();
                self.forget_updates_taken_back();
                self.expect_running();
                // Of modules that were forgotten before they were removed.
                self.records.retain(|name, _| {
                    self.desired.modules.contains_key(name) || self.observed.modules.contains_key(name)
                });
                for (name, record) in self.records.iter().filter(|(_, record)| record.is_dead_end()) {
                    self.warn_of_dead_end(name, record);
                }
            }
            Event::Stored { version, modules, all } if version == self.version => self.on_stored(&modules, all),
            Event::Stored { .. } => {}
            Event::Prepared { name, run, result } => self.on_prepared(&name, run, result),
            Event::Up { name, run } => self.on_up(&name, run),
            Event::Ended { name, run, exit } => self.on_ended(&name, run, exit),
            Event::Checked { name, run, call, answer } => self.on_checked(&name, (run, call), &answer),
            Event::Restart { name, reply } => {
                let _ = reply.send(self.restart(&name));
            }
            Event::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Event::Plan { desired, at, reply } => {
                let _ = reply.send(self.explain(&desired, at));
            }
            Event::Numbers { reply } => {
                let _ = reply.send(self.numbers());
            }
            Event::IsDeployed { name, reply } => {
                let known = self.desired.modules.contains_key(&name) || self.observed.modules.contains_key(&name);
                let _ = reply.send(known);
            }
            Event::Standings { reply } => {
                let standings = self.standings().map(|(name, standing)| (name.clone(), standing)).collect();
                let _ = reply.send((self.status(), standings));
            }
            Event::Fitness { reply } => {
                let _ = reply.send(self.fitness());
            }
            Event::Components { reply } => {
                let components = self.records.iter().flat_map(|(name, record)| {
                    record.components().map(|component| (name.clone(), component.to_owned()))
                });
                let _ = reply.send(components.collect());
            }
            Event::Logs { name, reply } => {
                let _ = reply.send(self.records.get(&name).map(|record| record.logs.clone()));
            }
            Event::Shutdown { .. } => {}
        }
    }
}

async fn sleep_until(clock: Clock, at: Option<Uptime>) {
    match at {
        Some(at) => tokio::time::sleep_until(clock.instant(at)).await,
        None => std::future::pending().await,
    }
}
