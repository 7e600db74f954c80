//! The agent as the outside sees it: starts, takes messages, shuts down. What is deployed is in [`deploying`], what may be asked in
//! [`modules`].

mod deploying;
mod edge_agent;
mod invoking;
mod module_logs;
mod modules;
mod reported;
mod rollout;
mod sections;
mod sequences;
mod stored;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use marram_core::{
    elapsed::Clocks,
    log::{Damage, MessageLog},
    message::{Accepted, Message},
    ports::{CoreDumps, Documents, Engine, Images, Room, SendError, States, Upstream, UpstreamEvent, UpstreamTwins},
    route::{Origin, TWIN_CHANGES, module_output},
    time::UtcMillis,
};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use self::{deploying::InForce, sequences::first_sequence};
pub use self::{
    deploying::{Applied, ApplyError},
    modules::{ModuleError, TwinView},
    rollout::Deployments,
    stored::ReadError,
};
pub(crate) use self::{sequences::RUN_BITS, stored::read_stored};
use crate::{
    cache::{Caches, Collector},
    clock::{Clock, Time},
    methods::Methods,
    router::Router,
    state::StateCells,
    storage::Storage,
    supervisor::{EVENTS, Event, Supervisor, Worlds},
    traps::TrapKeeper,
    twins::{self, Notices, SyncTask, Twins},
    upstream::{DRAIN, UpstreamTask},
};

/// How long the message log may take to be synced at the end, and the last documents to be written. A disk that takes longer hangs; what was written survives that.
const LAST_WRITE: Duration = Duration::from_secs(10);

/// What an agent is made of.
pub struct Config {
    /// The device's id.
    pub device_id: String,
    /// Runs components.
    pub engine: Arc<dyn Engine>,
    /// Brings components.
    pub images: Arc<dyn Images>,
    /// The last hop of `$upstream`.
    pub upstream: Arc<dyn Upstream>,
    /// The twins' side of it.
    pub upstream_twins: Arc<dyn UpstreamTwins>,
    /// Keeps deployments and their history, twins, traps.
    pub documents: Arc<dyn Documents>,
    /// Keeps messages; just opened.
    pub log: Box<dyn MessageLog>,
    /// What its opening found damaged.
    pub damage: Vec<Damage>,
    /// Reads the clocks for the log: [`crate::clocks`], unless a test knows better.
    pub clocks: fn() -> Clocks,
    /// How long messages that survive a crash may be unsynced; none = for ever.
    pub sync_after: Option<Duration>,
    /// Keeps the modules' key-value state.
    pub states: Arc<dyn States>,
    /// Checks an image reference while a manifest is read.
    pub check_image: fn(&str) -> Result<(), String>,
    /// Ceiling on the memory limits of all modules that are to run, in bytes; none = any sum is accepted.
    pub max_memory: Option<u64>,
    /// The files of core dumps, which the engine writes if the owner wants that; none: nowhere.
    pub core_dumps: Option<Arc<dyn CoreDumps>>,
    /// Bodies of messages at which instances trap are kept with the traps.
    pub trap_bodies: bool,
    /// What is cleaned up once a deployment has settled and before a download; none = nothing is.
    pub caches: Option<Caches>,
    /// A manifest to begin with, instead of the deployment that is stored. If it is bad, the stored one is resumed.
    pub initial: Option<String>,
}

/// The running agent. Dropping it does not stop it; [`Agent::shut_down`] does.
pub struct Agent {
    device_id: Box<str>,
    clock: Clock,
    router: Arc<Router>,
    methods: Arc<Methods>,
    twins: Arc<Twins>,
    documents: Arc<dyn Documents>,
    states: Arc<StateCells>,
    traps: Arc<TrapKeeper>,
    check_image: fn(&str) -> Result<(), String>,
    max_memory: Option<u64>,
    events: mpsc::Sender<Event>,
    collector: Option<Arc<Collector>>,
    /// One deployment at a time, from its text to the supervisor.
    in_force: Arc<tokio::sync::Mutex<InForce>>,
    /// One call at a time reads logs for `GetModuleLogs`.
    log_turn: Arc<Semaphore>,
    deployment_version: AtomicU64,
    upstream_task: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
    sync_task: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
    upstream_events: mpsc::Sender<UpstreamEvent>,
    stopped: watch::Sender<bool>,
    failed: watch::Sender<bool>,
    initial: std::sync::OnceLock<Result<Applied, ApplyError>>,
    /// Told when a section of a twin could not be stored.
    missing_sections: watch::Sender<()>,
}

/// Each time all modules have come to rest.
async fn clean_up(collector: Arc<Collector>, settled: Arc<Notify>) {
    loop {
        settled.notified().await;
        collector.collect(0).await;
    }
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The owner of the message log has no thread.
    #[error("cannot start the thread of the message log")]
    Thread(#[source] std::io::Error),
}

impl Agent {
    /// Starts the agent with the deployment that is stored, without asking any network.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub async fn start(config: Config) -> Result<Arc<Self>, StartError> {
        Self::start_on(Clock::start_with(config.clocks), config).await
    }

    /// The same in a simulation, whose runtime has a clock of its own.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub async fn start_simulated(config: Config, time: Time) -> Result<Arc<Self>, StartError> {
        Self::start_on(Clock::simulated(config.clocks, time), config).await
    }

    async fn start_on(clock: Clock, config: Config) -> Result<Arc<Self>, StartError> {
        let first_sequence = first_sequence(&config.documents, clock.utc()).await;
        let removed = Arc::default();
        let storage = Storage::start(config.log, &config.damage, clock, config.sync_after, Arc::clone(&removed))
            .map_err(StartError::Thread)?;
        let router = Arc::new(Router::new(clock, first_sequence, storage, removed));
        let methods = Arc::new(Methods::new(clock, router.clone()));
        let notices = Notices { router: router.clone(), device: config.device_id.as_str().into() };
        let twins = Arc::new(Twins::new(config.documents.clone(), clock, Some(notices)));
        let (events, receiver) = mpsc::channel(EVENTS);
        let (upstream_closing, closing) = watch::channel(false);
        let traps = Arc::new(TrapKeeper::new(config.documents.clone(), config.core_dumps, config.trap_bodies));
        let states = Arc::new(StateCells::new(config.states));
        let (judgements, judged) = watch::channel(None);
        let (upstream_events, sync_events) = mpsc::channel(twins::EVENTS);
        let sync = SyncTask {
            clock,
            twins: twins.clone(),
            upstream: config.upstream_twins,
            events: sync_events,
            closing: closing.clone(),
        };
        let upstream = UpstreamTask { clock, router: router.clone(), upstream: config.upstream, closing };
        let collector = config.caches.map(|caches| Arc::new(Collector::new(caches)));
        let settled = Arc::new(Notify::new());
        if let Some(collector) = &collector {
            tokio::spawn(clean_up(collector.clone(), settled.clone()));
        }
        let device_id = config.device_id.as_str().into();
        let worlds = Worlds {
            clock,
            device_id: config.device_id,
            router: router.clone(),
            twins: twins.clone(),
            states: states.clone(),
            methods: methods.clone(),
            engine: config.engine,
            images: config.images,
            room: collector.clone().map(|collector| collector as Arc<dyn Room>),
            settled,
            upstream_closing,
            judgements,
            traps: traps.clone(),
            first_sequence,
            max_memory: config.max_memory,
        };
        let agent = Arc::new(Self {
            device_id,
            clock,
            router,
            methods,
            twins,
            documents: config.documents,
            states,
            traps,
            check_image: config.check_image,
            max_memory: config.max_memory,
            events: events.clone(),
            collector,
            in_force: Arc::default(),
            log_turn: Arc::new(Semaphore::new(1)),
            deployment_version: AtomicU64::new(0),
            upstream_task: tokio::sync::Mutex::new(Some(tokio::spawn(upstream.run()))),
            sync_task: tokio::sync::Mutex::new(Some(tokio::spawn(sync.run()))),
            upstream_events,
            stopped: watch::channel(false).0,
            failed: watch::channel(false).0,
            initial: std::sync::OnceLock::new(),
            missing_sections: watch::channel(()).0,
        });
        tokio::spawn(sections::complete(Arc::downgrade(&agent), agent.missing_sections.subscribe()));
        agent.clone().watch(tokio::spawn(Supervisor::new(worlds, receiver, events).run()));
        agent.clone().watch_log();
        tokio::spawn(agent.clone().judge(judged));
        agent.recall().await;
        match config.initial {
            Some(text) => agent.begin_with(&text).await,
            None => agent.resume().await,
        }
        agent.tidy().await;
        Ok(agent)
    }

    /// Notices when the supervisor dies of a defect: the host is of no use then, and whoever started it should know.
    fn watch(self: Arc<Self>, supervisor: tokio::task::JoinHandle<()>) {
        tokio::spawn(async move {
            if let Err(error) = supervisor.await {
                tracing::error!(%error, "the supervisor has died");
                self.failed.send_replace(true);
            }
        });
    }

    /// The same for the owner of the message log.
    fn watch_log(self: Arc<Self>) {
        tokio::spawn(async move {
            self.router.storage().ended().await;
            if !self.in_force.lock().await.stopping {
                tracing::error!("the owner of the message log has died");
                self.failed.send_replace(true);
            }
        });
    }

    /// Ends when a task that the host cannot do without has died of a defect; otherwise never.
    pub async fn failed(&self) {
        let mut failed = self.failed.subscribe();
        if failed.wait_for(|failed| *failed).await.is_err() {
            std::future::pending().await // the sender lives in self: not while we are borrowed
        }
    }

    /// Sends a message that does not come from a module here: from a device behind this gateway, or from a bench. Waits until it is
    /// stored, where its routes ask for that, and never for room. `source` is as in IoT Edge, e.g. `/messages` for a device's telemetry.
    ///
    /// # Errors
    /// Too large, a receiver or the message log is full, or the disk fails: nothing was stored.
    pub async fn publish(&self, source: &str, message: &Arc<Message>) -> Result<(), SendError> {
        self.router.publish(source, message).await
    }

    /// Takes what a cloud session has to tell; waits while earlier ones are dealt with.
    pub async fn upstream_event(&self, event: UpstreamEvent) {
        let _ = self.upstream_events.send(event).await; // an error: the host ends
    }

    /// Messages that an input of a module has handled since the host started; 0 if no route leads there.
    #[must_use]
    pub fn delivered(&self, module: &str, input: &str) -> u64 {
        let endpoints = self.router.inputs_of(module);
        endpoints
            .iter()
            .filter(|endpoint| *endpoint.input == *input)
            .map(|endpoint| endpoint.stats().handled.total())
            .sum()
    }

    /// Stops the modules in order, hands what is accepted for upstream over, and ends. Takes `grace` for the modules and
    /// some seconds more for upstream at the most. What was accepted for upstream but not taken in that time is counted in
    /// the log.
    pub async fn shut_down(&self, grace: Duration) {
        // A deployment that is being put in force comes first; the next one is refused.
        {
            let mut in_force = self.in_force.lock().await;
            in_force.stopping = true;
            self.note_stop(&mut in_force).await;
        }
        let (reply, done) = oneshot::channel();
        if self.events.send(Event::Shutdown { grace, reply }).await.is_ok() {
            let _ = done.await;
        }

        if let Some(task) = self.sync_task.lock().await.take() {
            let _ = task.await; // it bounds its time itself
        }
        let documents = async {
            self.twins.flush().await;
            self.traps.close().await;
        };
        if tokio::time::timeout(LAST_WRITE, documents).await.is_err() {
            tracing::error!("not all twins and traps could be stored before the stop; their disk hangs");
        }
        if let Some(mut task) = self.upstream_task.lock().await.take()
            && tokio::time::timeout(DRAIN, &mut task).await.is_err()
        {
            task.abort();
            let stats = self.router.upstream().map(|endpoint| endpoint.stats()).unwrap_or_default();
            tracing::error!(
                lost = stats.unstored,
                kept = stats.len.saturating_sub(stats.unstored),
                "upstream did not take all messages before the stop; those in memory alone are lost"
            );
        }
        if tokio::time::timeout(LAST_WRITE, self.router.storage().stop()).await.is_err() {
            tracing::error!("the message log could not be synced before the stop; its disk hangs");
        }
        self.stopped.send_replace(true);
    }

    /// Who sent a message, for conditions.
    pub(crate) fn origin(&self, accepted: &Accepted) -> Origin {
        let source = &*accepted.source;
        if source == TWIN_CHANGES {
            let module = accepted.message.property("moduleId").map(Into::into);
            return Origin { device: Some(self.device_id.clone()), module, output: None };
        }
        match module_output(source) {
            Some((module, output)) => Origin {
                device: Some(self.device_id.clone()),
                module: Some(module.into()),
                output: Some(output.into()),
            },
            None => Origin::default(),
        }
    }

    pub(crate) fn now(&self) -> UtcMillis {
        self.clock.utc()
    }

    pub(crate) fn router(&self) -> &Arc<Router> {
        &self.router
    }

    pub(crate) fn twins(&self) -> &Twins {
        &self.twins
    }

    pub(crate) fn methods(&self) -> &Methods {
        &self.methods
    }

    /// Ends when [`Agent::shut_down`] has.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        // The sender lives in self: this cannot fail while we are borrowed.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}
