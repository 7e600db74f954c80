//! The agent as the outside sees it: start, apply, ask, shut down.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{
    deployment::Deployment,
    elapsed::Clocks,
    log::{Damage, MessageLog},
    manifest::{self, Faults, Finding},
    message::Message,
    name::ModuleName,
    ports::{CacheError, DocumentError, Documents, Engine, Images, Room, SendError, States, Upstream},
    route::{Origin, module_output},
    time::UtcMillis,
    twin::{self, Twin},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{
    cache::{CacheStatus, Caches, Collector, PruneRequest, Pruned},
    clock::{Clock, Time},
    logs::{LogLine, LogQuery},
    router::Router,
    state::StateCells,
    status::Status,
    storage::Storage,
    supervisor::{Deployed, EVENTS, Event, Supervisor, Worlds},
    twins::{TwinError, TwinQuery, Twins, blocking},
    upstream::{DRAIN, UpstreamTask},
};

/// How long the message log may take to be synced at the end. A disk that takes longer hangs; what was written survives that.
const LAST_WRITE: Duration = Duration::from_secs(10);

/// The name of the stored deployment.
const DEPLOYMENT: &str = "deployment";

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
    /// Keeps deployment and twins.
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
    twins: Arc<Twins>,
    documents: Arc<dyn Documents>,
    check_image: fn(&str) -> Result<(), String>,
    events: mpsc::Sender<Event>,
    collector: Option<Arc<Collector>>,
    /// One deployment at a time, from its text to the supervisor.
    in_force: Arc<tokio::sync::Mutex<InForce>>,
    deployment_version: AtomicU64,
    upstream_task: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
    stopped: watch::Sender<bool>,
    failed: watch::Sender<bool>,
    initial: std::sync::OnceLock<Result<Applied, ApplyError>>,
}

/// What holds now.
#[derive(Default)]
struct InForce {
    deployment: Option<Arc<Deployment>>,
    version: u64,
    /// False: a twin section could not be stored; the same manifest may be applied again.
    complete: bool,
    /// The host is ending: nothing new is taken.
    stopping: bool,
}

/// The stored deployment.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    format: u32,
    version: u64,
    accepted_ms: u64,
    /// As it was written: the order of its keys matters, and numbers keep their text.
    manifest: Box<RawValue>,
}

const FORMAT: u32 = 1;

impl Stored {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice::<Self>(bytes) {
            Ok(stored) if stored.format == FORMAT => Ok(stored),
            Ok(stored) => Err(format!("was written by a newer version of Marram (format {})", stored.format)),
            Err(error) => Err(format!("cannot be read: {error}")),
        }
    }
}

/// The stored deployment cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the stored deployment {0}")]
pub struct ReadError(String);

/// The deployment that a host on these documents would begin with; none = none is stored.
pub(crate) fn read_stored(
    documents: &dyn Documents,
    check_image: fn(&str) -> Result<(), String>,
) -> Result<Option<Deployment>, ReadError> {
    let document = documents.read(DEPLOYMENT).map_err(|error| ReadError(format!("cannot be read: {error}")))?;
    let Some(document) = document else { return Ok(None) };
    let stored = Stored::read(&document.bytes).map_err(ReadError)?;
    let context = manifest::Context { check_image: &check_image };
    let reading = manifest::read(stored.manifest.get(), &context);
    reading.map(|reading| Some(reading.deployment)).map_err(|faults| ReadError(format!("is not valid here: {faults}")))
}

/// Each time all modules have come to rest.
async fn clean_up(collector: Arc<Collector>, settled: Arc<Notify>) {
    loop {
        settled.notified().await;
        collector.collect(0).await;
    }
}

/// Bits of a sequence for the messages of one run: 68 billion of each module, and 131,072 starts before a reader that takes
/// JSON numbers for doubles loses the last bit.
pub(crate) const RUN_BITS: u32 = 36;

/// The document that counts the starts of the host.
const HOST: &str = "host";

#[derive(Serialize, Deserialize)]
struct HostDocument {
    format: u32,
    starts: u64,
}

/// What became of a manifest that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// Version of the deployment in force.
    pub version: u64,
    /// False: it is the one that was in force already.
    pub changed: bool,
    /// Oddities that do not stop it.
    pub warnings: Vec<String>,
}

/// Why a manifest was not accepted. The deployment in force stays.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The document is bad.
    #[error("{0}")]
    Bad(Faults),
    /// It could not be stored.
    #[error("cannot store the deployment: {0}")]
    Store(DocumentError),
    /// It is in force, but a module's desired properties could not be stored.
    #[error("the deployment is in force, but the twin of `{module}` could not be changed: {source}")]
    Twin {
        /// Whose.
        module: ModuleName,
        /// Why.
        source: TwinError,
    },
    /// The host is ending.
    #[error("the host is stopping")]
    Stopping,
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be read.
    #[error("cannot read the stored deployment: {0}")]
    Documents(#[from] DocumentError),
    /// The owner of the message log has no thread.
    #[error("cannot start the thread of the message log")]
    Thread(#[source] std::io::Error),
}

/// A module's twin as the operator sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TwinView {
    /// The desired properties.
    pub desired: serde_json::Value,
    /// Their version.
    pub desired_version: u64,
    /// Who wrote them: `manifest` (with the deployment's version) or `local`.
    pub desired_origin: String,
    /// The reported properties.
    pub reported: serde_json::Value,
    /// Their version.
    pub reported_version: u64,
    /// Both as IoT Hub shows them to services, with `$version`, and in `$metadata` when what was last changed.
    #[serde(default)]
    pub properties: serde_json::Value,
}

/// Why a question about a module has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// No such module.
    #[error("there is no module `{0}` in the deployment; `marram list` shows the names")]
    Unknown(String),
    /// Its state does not allow it.
    #[error("{0}")]
    Refused(String),
    /// Its twin cannot be read or written.
    #[error(transparent)]
    Twin(#[from] TwinError),
    /// A cache cannot be read or changed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The host is ending.
    #[error("the host is stopping")]
    Stopping,
}

impl TwinView {
    fn of(twin: &Twin) -> Self {
        Self {
            desired: twin.desired().clone().into(),
            desired_version: twin.desired_version(),
            desired_origin: match twin.desired_origin() {
                twin::Origin::Manifest { deployment_version } => format!("manifest (deployment {deployment_version})"),
                twin::Origin::Local => "local".into(),
            },
            reported: twin.reported().clone().into(),
            reported_version: twin.reported_version(),
            properties: twin.properties(),
        }
    }
}

impl InForce {
    fn set(&mut self, deployment: Arc<Deployment>, version: u64, complete: bool) {
        self.deployment = Some(deployment);
        self.version = version;
        self.complete = complete;
    }
}

impl Agent {
    /// Starts the agent with the deployment that is stored, without asking any network.
    ///
    /// # Errors
    /// The data folder cannot be read.
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
        let twins = Arc::new(Twins::new(config.documents.clone(), clock));
        let (events, receiver) = mpsc::channel(EVENTS);
        let (upstream_closing, closing) = watch::channel(false);
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
            states: StateCells::new(config.states),
            engine: config.engine,
            images: config.images,
            room: collector.clone().map(|collector| collector as Arc<dyn Room>),
            settled,
            upstream_closing,
            first_sequence,
        };
        let agent = Arc::new(Self {
            device_id,
            clock,
            router,
            twins,
            documents: config.documents,
            check_image: config.check_image,
            events: events.clone(),
            collector,
            in_force: Arc::default(),
            deployment_version: AtomicU64::new(0),
            upstream_task: tokio::sync::Mutex::new(Some(tokio::spawn(upstream.run()))),
            stopped: watch::channel(false).0,
            failed: watch::channel(false).0,
            initial: std::sync::OnceLock::new(),
        });
        agent.clone().watch(tokio::spawn(Supervisor::new(worlds, receiver, events).run()));
        agent.clone().watch_log();
        match config.initial {
            Some(text) => agent.begin_with(&text).await?,
            None => agent.resume().await?,
        }
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

    /// Applies the manifest to begin with; a bad one leaves the stored deployment in force. One that says what is stored
    /// already is no new deployment, and is resumed like it: without any network.
    async fn begin_with(self: &Arc<Self>, text: &str) -> Result<(), StartError> {
        let stored = self.stored().await?;
        let old = stored.as_ref().and_then(|stored| self.read(stored.manifest.get()).ok());
        let new = self.read(text).ok();
        if let (Some(stored), Some((old, _)), Some((new, warnings))) = (&stored, old, new)
            && old == new
        {
            let warnings = warnings.iter().map(ToString::to_string).collect();
            let _ = self.initial.set(Ok(Applied { version: stored.version, changed: false, warnings }));
            return self.resume().await;
        }
        // Later deployments count on from the stored one, whether or not it is put in force.
        if let Some(stored) = stored {
            self.deployment_version.store(stored.version, SeqCst);
        }
        let result = self.apply(text).await;
        let resume = matches!(result, Err(ApplyError::Bad(_) | ApplyError::Store(_)));
        let _ = self.initial.set(result);
        if resume {
            self.resume().await?;
        }
        Ok(())
    }

    /// What became of [`Config::initial`]; none when there was none.
    #[must_use]
    pub fn initial(&self) -> Option<&Result<Applied, ApplyError>> {
        self.initial.get()
    }

    async fn stored(&self) -> Result<Option<Stored>, StartError> {
        let documents = self.documents.clone();
        let Some(document) = blocking(move || documents.read(DEPLOYMENT)).await? else { return Ok(None) };
        if let Some(reason) = document.recovered {
            tracing::warn!(reason, "the stored deployment was damaged; going on with the one before");
        }
        match Stored::read(&document.bytes) {
            Ok(stored) => Ok(Some(stored)),
            Err(why) => {
                tracing::error!("the stored deployment {why}; apply a manifest to replace it");
                Ok(None)
            }
        }
    }

    /// Puts the stored deployment in force.
    async fn resume(&self) -> Result<(), StartError> {
        let mut in_force = self.in_force.lock().await;
        let Some(stored) = self.stored().await? else { return Ok(()) };
        self.deployment_version.store(stored.version, SeqCst);
        let version = stored.version;
        match self.read(stored.manifest.get()) {
            Ok((deployment, _)) => {
                tracing::info!(version, modules = deployment.modules.len(), "resuming the stored deployment");
                let deployment = Arc::new(deployment);
                let complete = self.put_in_force(deployment.clone(), version, true).await;
                if let Err(error) = &complete {
                    tracing::error!(%error, "the stored deployment is not wholly in force");
                }
                in_force.set(deployment, version, complete.is_ok());
            }
            Err(faults) => tracing::error!(%faults, "the stored deployment is not valid for this version of Marram"),
        }
        Ok(())
    }

    pub(crate) fn read(&self, text: &str) -> Result<(Deployment, Vec<Finding>), Faults> {
        let context = manifest::Context { check_image: &self.check_image };
        manifest::read(text, &context).map(|reading| (reading.deployment, reading.warnings))
    }

    /// Checks a manifest, stores it and puts it in force. A bad one changes nothing. Once it is being stored it is put in force also
    /// when nobody waits for that any more.
    ///
    /// # Errors
    /// [`ApplyError`]; only [`ApplyError::Twin`] leaves the new deployment in force.
    pub async fn apply(self: &Arc<Self>, text: &str) -> Result<Applied, ApplyError> {
        let mut in_force = self.in_force.clone().lock_owned().await;
        if in_force.stopping {
            return Err(ApplyError::Stopping);
        }
        let (deployment, warnings) = self.read(text).map_err(ApplyError::Bad)?;
        let warnings = warnings.iter().map(ToString::to_string).collect();
        let (agent, text) = (self.clone(), text.to_owned());
        // A task: a caller who goes away amid it must not leave what is stored and what is in force different.
        let applying = tokio::spawn(async move { agent.apply_read(&mut in_force, &text, deployment.into()).await });
        let (version, changed) = match applying.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(result) => result?,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => return Err(ApplyError::Stopping),
        };
        Ok(Applied { version, changed, warnings })
    }

    async fn apply_read(
        &self,
        in_force: &mut InForce,
        text: &str,
        deployment: Arc<Deployment>,
    ) -> Result<(u64, bool), ApplyError> {
        if in_force.deployment.as_ref() == Some(&deployment) {
            let (version, changed) = (in_force.version, !in_force.complete);
            if changed {
                self.apply_sections(&deployment, version).await?;
                in_force.complete = true;
            }
            return Ok((version, changed));
        }
        let version = self.deployment_version.load(SeqCst) + 1;
        self.store(text, version).await.map_err(ApplyError::Store)?;
        self.deployment_version.store(version, SeqCst);
        tracing::info!(
            version,
            modules = deployment.modules.len(),
            routes = deployment.routes.len(),
            "deployment accepted"
        );
        let result = self.put_in_force(deployment.clone(), version, false).await;
        in_force.set(deployment, version, result.is_ok());
        result.map(|()| (version, true))
    }

    async fn store(&self, text: &str, version: u64) -> Result<(), DocumentError> {
        let internal = |error: serde_json::Error| DocumentError(format!("the manifest cannot be kept: {error}"));
        // As the reader does: some editors put a byte order mark first.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let manifest = RawValue::from_string(text.to_owned()).map_err(internal)?;
        let stored = Stored { format: FORMAT, version, accepted_ms: self.clock.utc().0, manifest };
        let bytes = serde_json::to_vec(&stored).map_err(internal)?;
        let documents = self.documents.clone();
        blocking(move || documents.write(DEPLOYMENT, &bytes)).await
    }

    /// Twins first, so that a module that starts sees its section; then routes, so that its first message finds them.
    async fn put_in_force(
        &self,
        deployment: Arc<Deployment>,
        version: u64,
        prefer_cached: bool,
    ) -> Result<(), ApplyError> {
        let sections = self.apply_sections(&deployment, version).await;
        self.router.apply(deployment.clone()).await;
        if let Some(collector) = &self.collector {
            // Before anything of it is asked for.
            collector.want(deployment.clone()).await;
        }
        let deployed = Deployed { deployment, version, prefer_cached };
        self.events.send(Event::Deployed(deployed)).await.map_err(|_| ApplyError::Stopping)?;
        sections
    }

    /// Applies the sections of all modules; the others too when one fails.
    async fn apply_sections(&self, deployment: &Deployment, version: u64) -> Result<(), ApplyError> {
        let mut result = Ok(());
        for (module, section) in &deployment.twins {
            if let Err(source) = self.apply_section(module, section.clone(), version).await {
                result = Err(ApplyError::Twin { module: module.clone(), source });
            }
        }
        result
    }

    async fn apply_section(
        &self,
        module: &ModuleName,
        section: serde_json::Map<String, serde_json::Value>,
        version: u64,
    ) -> Result<(), TwinError> {
        self.twins.cell(module).await?.apply_section(section, version).await
    }

    /// Sends a message that does not come from a module here: from a device behind this gateway, or from a bench. Waits until it is
    /// stored, where its routes ask for that, and never for room. `source` is as in IoT Edge, e.g. `/messages` for a device's telemetry.
    ///
    /// # Errors
    /// Too large, a receiver or the message log is full, or the disk fails: nothing was stored.
    pub async fn publish(&self, source: &str, message: &Arc<Message>) -> Result<(), SendError> {
        self.router.publish(source, message).await
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

    /// What everything is doing.
    ///
    /// # Errors
    /// The host is ending.
    pub async fn status(&self) -> Result<Status, ModuleError> {
        self.ask(|reply| Event::Status { reply }).await
    }

    /// The wanted lines of a module's log, oldest first; none when none came while the query waited.
    ///
    /// # Errors
    /// No such module, or the host is ending; a wait ends with it.
    pub async fn logs(&self, module: &str, query: &LogQuery) -> Result<Vec<LogLine>, ModuleError> {
        let name = known_name(module)?;
        let deadline = tokio::time::Instant::now() + query.wait;
        loop {
            let buffer = self.ask(|reply| Event::Logs { name: name.clone(), reply }).await?;
            let lines = async {
                match &buffer {
                    Some(buffer) => buffer.lines(query).await,
                    // Deployed, but never prepared (it is desired stopped): it has printed nothing, and has no log yet that
                    // could tell when it does.
                    None => {
                        let look = tokio::time::Instant::now() + Duration::from_secs(1);
                        tokio::time::sleep_until(look.min(deadline)).await;
                        Vec::new()
                    }
                }
            };
            if buffer.is_none() && !self.is_deployed(&name).await? {
                return Err(ModuleError::Unknown(module.into()));
            }
            let lines = tokio::select! {
                biased;
                lines = lines => lines,
                () = self.stopped() => return Err(ModuleError::Stopping),
            };
            if buffer.is_some() || tokio::time::Instant::now() >= deadline {
                return Ok(lines);
            }
        }
    }

    /// Replaces a module's instance by a new one.
    ///
    /// # Errors
    /// No such module, it is desired stopped, or the host is ending.
    pub async fn restart(&self, module: &str) -> Result<(), ModuleError> {
        let name = known_name(module)?;
        if !self.is_deployed(&name).await? {
            return Err(ModuleError::Unknown(module.into()));
        }
        self.ask(|reply| Event::Restart { name, reply }).await?.map_err(ModuleError::Refused)
    }

    /// A module's twin.
    ///
    /// # Errors
    /// No such module, or its twin cannot be read.
    pub async fn twin(&self, module: &str) -> Result<TwinView, ModuleError> {
        self.twin_news(module, &TwinQuery::default()).await
    }

    /// A module's twin, once it is not the one that the query knows, or as it is when the query has waited.
    ///
    /// # Errors
    /// No such module, its twin cannot be read, or the host is ending; a wait ends with it.
    pub async fn twin_news(&self, module: &str, query: &TwinQuery) -> Result<TwinView, ModuleError> {
        let cell = self.deployed_twin(module).await?;
        tokio::select! {
            biased;
            twin = cell.news(query) => Ok(TwinView::of(&twin)),
            () = self.stopped() => Err(ModuleError::Stopping),
        }
    }

    /// Merges a patch into a module's desired properties; returns their version.
    ///
    /// # Errors
    /// No such module, a patch that breaks a rule, or a disk that fails.
    pub async fn set_twin(&self, module: &str, merge_patch_json: &str) -> Result<u64, ModuleError> {
        let cell = self.deployed_twin(module).await?;
        Ok(cell.set_desired(merge_patch_json).await?)
    }

    async fn deployed_twin(&self, module: &str) -> Result<Arc<crate::twins::TwinCell>, ModuleError> {
        let name = known_name(module)?;
        if !self.is_deployed(&name).await? {
            return Err(ModuleError::Unknown(module.into()));
        }
        Ok(self.twins.cell(&name).await.map_err(TwinError::from)?)
    }

    async fn is_deployed(&self, name: &ModuleName) -> Result<bool, ModuleError> {
        self.ask(|reply| Event::IsDeployed { name: name.clone(), reply }).await
    }

    pub(crate) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, ModuleError> {
        let (reply, answer) = oneshot::channel();
        self.events.send(question(reply)).await.map_err(|_| ModuleError::Stopping)?;
        answer.await.map_err(|_| ModuleError::Stopping)
    }

    /// What the caches hold.
    ///
    /// # Errors
    /// There are none, they cannot be read, or the host is ending.
    pub async fn cache(&self) -> Result<CacheStatus, ModuleError> {
        let collector = self.collector.as_ref().ok_or_else(no_caches)?;
        Ok(collector.status(&self.ask(|reply| Event::Components { reply }).await?).await?)
    }

    /// Removes from the caches what nobody needs.
    ///
    /// # Errors
    /// There are none, they cannot be read or changed, or the host is ending.
    pub async fn prune(&self, request: PruneRequest) -> Result<Pruned, ModuleError> {
        let collector = self.collector.as_ref().ok_or_else(no_caches)?;
        Ok(collector.prune(request, &self.ask(|reply| Event::Components { reply }).await?).await?)
    }

    /// Stops the modules in order, hands what is accepted for upstream over, and ends. Takes `grace` for the modules and
    /// some seconds more for upstream at the most. What was accepted for upstream but not taken in that time is counted in
    /// the log.
    pub async fn shut_down(&self, grace: Duration) {
        // A deployment that is being put in force comes first; the next one is refused.
        self.in_force.lock().await.stopping = true;
        let (reply, done) = oneshot::channel();
        if self.events.send(Event::Shutdown { grace, reply }).await.is_ok() {
            let _ = done.await;
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

    /// Who sent a message from this source, for conditions.
    pub(crate) fn origin(&self, source: &str) -> Origin {
        match module_output(source) {
            Some((module, output)) => {
                Origin { device: Some(self.device_id.clone()), output: Some((module.into(), output.into())) }
            }
            None => Origin::default(),
        }
    }

    pub(crate) fn now(&self) -> UtcMillis {
        self.clock.utc()
    }

    pub(crate) fn router(&self) -> &Router {
        &self.router
    }

    /// Ends when [`Agent::shut_down`] has.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        // The sender lives in self: this cannot fail while we are borrowed.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

/// The number before the first sequence of this run: above all of earlier runs, because each start of the host on this
/// data folder has a number of its own in the upper bits.
async fn first_sequence(documents: &Arc<dyn Documents>, now: UtcMillis) -> u64 {
    let starts = match starts_so_far(documents.clone()).await {
        Ok(starts) => starts,
        Err(error) => {
            // The file is left alone: it may be readable later. Minutes since 1970 are far above any count of starts.
            tracing::error!(error, "the starts of this host cannot be counted; sequence numbers go on from the clock");
            return (now.0 / 60_000) << RUN_BITS;
        }
    };
    let next = serde_json::to_vec(&HostDocument { format: FORMAT, starts: starts + 1 }).unwrap_or_default();
    let write = documents.clone();
    if let Err(error) = blocking(move || write.write(HOST, &next)).await {
        tracing::error!(%error, "this start cannot be counted; sequence numbers of messages may repeat after the next");
    }
    starts << RUN_BITS
}

async fn starts_so_far(documents: Arc<dyn Documents>) -> Result<u64, String> {
    let stored = blocking(move || documents.read(HOST)).await.map_err(|error| error.to_string())?;
    let Some(stored) = stored else { return Ok(0) };
    let host: HostDocument = serde_json::from_slice(&stored.bytes).map_err(|error| error.to_string())?;
    if host.format != FORMAT {
        return Err(format!("its format is {}, of a newer version of Marram", host.format));
    }
    // The generation before the damaged one does not know of the last start.
    Ok(host.starts + u64::from(stored.recovered.is_some()))
}

fn no_caches() -> ModuleError {
    ModuleError::Refused("this host keeps no cache".into())
}

fn known_name(module: &str) -> Result<ModuleName, ModuleError> {
    ModuleName::new(module).map_err(|_| ModuleError::Unknown(module.into()))
}
