//! `marram run`: opens the worlds, starts the agent over them, and ends it in order. What to do with modules and messages
//! is decided elsewhere.

mod deploy;
mod logging;
mod notify;
mod signals;
#[cfg(feature = "console")]
mod view;
#[cfg(not(feature = "console"))]
#[path = "run/no_view.rs"]
mod view;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use marram_agent::{Agent, Caches};
use marram_core::ports::CoreDumps;
use marram_engine::{CompileLimits, DumpFolder, Dumps, HelperCommand, WasmEngine};
use marram_registry::Registry;
use marram_store::{Folder, LockError, StateFolder, lock_data_dir, log};
use marram_upstream::{Journal, TwinJournal};

use crate::{
    args::Run,
    check::check_image,
    client::socket_path,
    config::{self, Config},
    failure::{Code, Failure, chain},
};
use deploy::Deployer;
use signals::{Signal, Signals};

/// Most worker threads. Guests of a small device do not fill more, and each thread costs memory.
const MAX_WORKERS: usize = 4;
/// How long threads that hang in the kernel (a dead disk, a terminal on hold) may delay the end.
const LAST_THREADS: Duration = Duration::from_secs(2);

pub(crate) fn run(args: Run) -> Result<(), Failure> {
    let config = config::load(args.place.config.as_deref())?;
    let data = config::data_folder(&args.place, Some(&config))?;
    let socket = socket_path(&data)?;
    let console = logging::start(&args)?;
    for warning in &config.warnings {
        tracing::warn!(hint = warning.hint, "{warning}");
    }
    // Held until all threads have ended.
    let _lock = lock_data_dir(&data).map_err(|error| match &error {
        LockError::Held { .. } => Failure::new(Code::InUse, error.to_string()),
        LockError::Io { .. } => Failure::failed(&error),
    })?;
    let agent = open(&config, &data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_WORKERS))
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Failed, format!("cannot start the threads of the host: {error}")))?;
    let host = Host {
        socket,
        metrics: config.metrics,
        deployment: args.deployment,
        grace: Duration::from_secs(args.grace),
        console,
    };
    let result = runtime.block_on(Box::pin(host.live(agent)));
    runtime.shutdown_timeout(LAST_THREADS);
    result
}

/// Opens the worlds that the agent joins.
fn open(config: &Config, data: &Path) -> Result<marram_agent::Config, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::failed(error);
    let documents = Folder::open(data.join("store")).map_err(|error| failed(&error))?;
    let states = StateFolder::open(data.join("state")).map_err(|error| failed(&error))?;
    let options = log::Options::within(config.messages.max_bytes);
    let opened = log::Log::open(data.join("messages"), options, &marram_agent::clocks());
    let (log, recovery) = opened.map_err(|error| failed(&error))?;
    tell_recovery(&recovery);
    let journal = Journal::open(config.upstream.journal(data.join("upstream"))).map_err(|error| failed(&error))?;
    let twin_journal = TwinJournal::open(data.join("upstream/twins")).map_err(|error| failed(&error))?;
    let registry = Registry::new(config.registry(&data.join("cache"))?)
        .map_err(|error| Failure::new(Code::BadConfig, chain(&error)))?;
    let core_dumps = core_dumps(config, &data.join("dumps")).map_err(|error| failed(&error))?;
    let dumps = core_dumps.clone().zip(config.modules.core_dump_max_bytes);
    let dumps = dumps.map(|(folder, max_bytes)| Dumps { folder, max_bytes });
    let engine = marram_engine::Settings { dumps, ..engine_settings(config, data)? };
    let engine = WasmEngine::new(engine).map_err(|error| failed(&error))?;
    let (engine, registry) = (Arc::new(engine), Arc::new(registry));
    let caches = Caches { components: registry.clone(), code: engine.clone(), max_bytes: config.cache.max_bytes };
    Ok(marram_agent::Config {
        device_id: config.device_id()?,
        engine,
        images: registry,
        caches: Some(caches),
        upstream: Arc::new(journal),
        upstream_twins: Arc::new(twin_journal),
        documents: Arc::new(documents),
        log: Box::new(log),
        damage: recovery.damage,
        clocks: marram_agent::clocks,
        sync_after: (config.messages.sync_seconds > 0).then(|| Duration::from_secs(config.messages.sync_seconds)),
        states: Arc::new(states),
        check_image,
        max_memory: config.modules.max_memory_bytes,
        core_dumps: core_dumps.map(|folder| folder as Arc<dyn CoreDumps>),
        trap_bodies: config.modules.trap_bodies,
        initial: None,
    })
}

/// The folder of core dumps. Also where no more are wanted, if it is there: its files go with their traps. Else none is made: a full disk
/// must not keep the host from its start for that.
fn core_dumps(config: &Config, folder: &Path) -> io::Result<Option<Arc<DumpFolder>>> {
    match config.modules.core_dump_max_bytes.is_some() || folder.try_exists()? {
        true => DumpFolder::open(folder).map(Arc::new).map(Some),
        false => Ok(None),
    }
}

/// Damage has been told by the log itself.
fn tell_recovery(recovery: &log::Recovery) {
    for torn in &recovery.torn {
        tracing::info!(file = %torn.path.display(), at = torn.at, "the last write to the message log had broken off; its rest was cut off");
    }
    if recovery.references > 0 {
        tracing::info!(messages = recovery.references, "messages of the last run wait");
    }
}

/// This binary in a process of its own.
#[cfg(feature = "compiler")]
pub(crate) fn compiler() -> Result<HelperCommand, Failure> {
    Ok(HelperCommand::Process { program: own_binary()?, args: vec!["compile-helper".into()] })
}

#[cfg(not(feature = "compiler"))]
fn compiler() -> Result<HelperCommand, Failure> {
    Ok(HelperCommand::Nobody)
}

pub(crate) fn engine_settings(config: &Config, data: &Path) -> Result<marram_engine::Settings, Failure> {
    Ok(marram_engine::Settings {
        profile: config.engine.profile,
        cache: data.join("compiled"),
        precompiled: config.engine.precompiled.clone(),
        private: ["store", "state", "messages", "upstream", "cache", "dumps"].map(|folder| data.join(folder)).to_vec(),
        helper: compiler()?,
        limits: CompileLimits::default(),
        dumps: None,
    })
}

/// The running binary, even after an update has put another one in its place: code of one version only loads in it.
#[cfg(any(feature = "compiler", feature = "author"))]
pub(crate) fn own_binary() -> Result<PathBuf, Failure> {
    let link = PathBuf::from("/proc/self/exe");
    match std::fs::symlink_metadata(&link) {
        Ok(_) => Ok(link),
        Err(_) => std::env::current_exe()
            .map_err(|error| Failure::new(Code::Failed, format!("cannot find the marram binary: {error}"))),
    }
}

/// A host from its start to its end.
struct Host {
    socket: PathBuf,
    /// Where numbers are served.
    metrics: Option<SocketAddr>,
    deployment: Option<PathBuf>,
    grace: Duration,
    console: logging::Console,
}

impl Host {
    async fn live(self, config: marram_agent::Config) -> Result<(), Failure> {
        let mut signals = Signals::listen(self.console.has_view())?;
        let result = match self.begin(config, &mut signals).await {
            Ok(Some((agent, deployer))) => self.live_on(&agent, deployer, &mut signals).await,
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        tracing::info!("stopped");
        self.console.close();
        result
    }

    /// Starts the agent with the file, if there is one. None: a signal came first, and nothing is to be ended.
    async fn begin(
        &self,
        mut config: marram_agent::Config,
        signals: &mut Signals,
    ) -> Result<Option<(Arc<Agent>, Option<Deployer>)>, Failure> {
        let mut deployer = None;
        if let Some(path) = &self.deployment {
            deployer = tokio::select! {
                opened = Deployer::open(path) => Some(opened?),
                signal = signals.next() => {
                    self.tell_stopping(signal);
                    return Ok(None);
                }
            };
        }
        config.initial = deployer.as_ref().and_then(Deployer::text);
        let start = Agent::start(config);
        tokio::pin!(start);
        let agent = tokio::select! {
            started = &mut start => started,
            signal = signals.next() => {
                self.tell_stopping(signal);
                tokio::select! {
                    // It may have started modules: those are ended in order.
                    started = &mut start => {
                        let agent = started.map_err(|error| Failure::failed(&error))?;
                        self.end(&agent, signals).await;
                    }
                    () = tokio::time::sleep(self.grace) => tracing::warn!("the start hangs; ending nevertheless"),
                    signal = signals.next() => self.end_at_once(signal),
                }
                return Ok(None);
            }
        };
        Ok(Some((agent.map_err(|error| Failure::failed(&error))?, deployer)))
    }

    /// Until a signal comes, or the host is of no use any more; then ends in order.
    async fn live_on(
        &self,
        agent: &Arc<Agent>,
        deployer: Option<Deployer>,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let result = tokio::select! {
            result = self.serve(agent, deployer) => result.map(|never| match never {}),
            () = agent.failed() => {
                let message = "a part of the host has died of a defect; its log says which";
                tracing::error!("{message}");
                Err(Failure::new(Code::Failed, message).hint("please report the log"))
            }
            signal = signals.next() => {
                self.tell_stopping(signal);
                Ok(())
            }
        };
        self.end(agent, signals).await;
        result
    }

    /// For ever, unless something cannot be had that a host needs.
    async fn serve(&self, agent: &Arc<Agent>, deployer: Option<Deployer>) -> Result<Infallible, Failure> {
        marram_agent::serve(agent.clone(), &self.socket).map_err(|error| Failure::failed(&error))?;
        if let Some(address) = self.metrics {
            marram_agent::serve_metrics(agent.clone(), address);
        }
        match deployer {
            Some(mut deployer) => {
                deployer.began(agent).await?;
                // On its own: what is being applied is not to be dropped halfway.
                tokio::spawn(deployer.watch(agent.clone()));
            }
            None => tell_if_nothing_is_deployed(agent).await,
        }
        tracing::info!(version = env!("CARGO_PKG_VERSION"), socket = %self.socket.display(), "host is up");
        notify::up(agent.clone());
        self.console.show(agent.clone());
        std::future::pending().await
    }

    async fn end(&self, agent: &Agent, signals: &mut Signals) {
        notify::stopping(self.grace);
        tokio::select! {
            () = agent.shut_down(self.grace) => {}
            signal = signals.next() => self.end_at_once(signal),
        }
    }

    /// What upstream took is on its way to the disk already.
    fn end_at_once(&self, signal: Signal) -> ! {
        tracing::warn!(%signal, "stopping at once; modules are cut off");
        self.console.close();
        std::process::exit(signal.exit_code());
    }

    fn tell_stopping(&self, signal: Signal) {
        tracing::info!(%signal, grace_seconds = self.grace.as_secs(), "stopping; a second signal ends at once");
    }
}

async fn tell_if_nothing_is_deployed(agent: &Agent) {
    if agent.status().await.is_ok_and(|status| status.deployment_version == 0) {
        tracing::info!("no deployment is stored; `marram apply FILE` brings one");
    }
}
