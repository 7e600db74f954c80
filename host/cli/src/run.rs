//! `marram run`: opens the worlds, starts the agent over them, and ends it in order. What to do with modules and messages
//! is decided elsewhere.

mod deploy;
mod logging;
mod signals;
mod view;

use std::{
    ffi::OsString,
    fs,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use marram_agent::Agent;
use marram_engine::{CompileLimits, HelperCommand, WasmEngine};
use marram_registry::Registry;
use marram_store::{Folder, LockError, lock_data_dir};
use marram_upstream::Journal;

use crate::{
    args::Run,
    check::check_image,
    client::socket_path,
    config::{self, Config},
    failure::{Code, Failure, chain},
};
use deploy::Deployer;
use signals::Signals;

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
    let host = Host { socket, deployment: args.deployment, grace: Duration::from_secs(args.grace), console };
    let result = runtime.block_on(Box::pin(host.live(agent)));
    runtime.shutdown_timeout(LAST_THREADS);
    result
}

/// Opens the worlds that the agent joins.
fn open(config: &Config, data: &Path) -> Result<marram_agent::Config, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::failed(error);
    let documents = Folder::open(data.join("store")).map_err(|error| failed(&error))?;
    let journal = Journal::open(config.upstream.journal(data.join("upstream"))).map_err(|error| failed(&error))?;
    let registry = Registry::new(config.registry(&data.join("cache"))?)
        .map_err(|error| Failure::new(Code::BadConfig, chain(&error)))?;
    let engine = WasmEngine::new(marram_engine::Settings {
        profile: config.profile,
        cache: data.join("compiled"),
        helper: HelperCommand::Process { program: own_binary()?, args: vec![OsString::from("compile-helper")] },
        limits: CompileLimits::default(),
    })
    .map_err(|error| failed(&error))?;
    Ok(marram_agent::Config {
        device_id: config.device_id()?,
        engine: Arc::new(engine),
        images: Arc::new(registry),
        upstream: Arc::new(journal),
        documents: Arc::new(documents),
        check_image,
    })
}

/// The running binary, even after an update has put another one in its place: code of one version only loads in it.
fn own_binary() -> Result<PathBuf, Failure> {
    let link = PathBuf::from("/proc/self/exe");
    match fs::symlink_metadata(&link) {
        Ok(_) => Ok(link),
        Err(_) => std::env::current_exe()
            .map_err(|error| Failure::new(Code::Failed, format!("cannot find the marram binary: {error}"))),
    }
}

/// A host from its start to its end.
struct Host {
    socket: PathBuf,
    deployment: Option<PathBuf>,
    grace: Duration,
    console: logging::Console,
}

impl Host {
    async fn live(self, config: marram_agent::Config) -> Result<(), Failure> {
        let mut signals = Signals::listen(self.console.has_view())?;
        let agent = Agent::start(config).await.map_err(|error| Failure::failed(&error))?;
        let result = self.serve(&agent, &mut signals).await;
        let end = agent.shut_down(self.grace);
        tokio::pin!(end);
        tokio::select! {
            () = &mut end => {}
            signal = signals.next() => {
                tracing::warn!(%signal, "stopping at once; modules are cut off");
                self.console.close();
                std::process::exit(signal.exit_code()); // what upstream took is on its way to the disk already
            }
        }
        tracing::info!("stopped");
        self.console.close();
        result
    }

    /// Until a signal comes.
    async fn serve(&self, agent: &Arc<Agent>, signals: &mut Signals) -> Result<(), Failure> {
        marram_agent::serve(agent.clone(), &self.socket).map_err(|error| Failure::failed(&error))?;
        match &self.deployment {
            Some(path) => {
                let deployer = Deployer::begin(agent.clone(), path).await?;
                tokio::spawn(deployer.watch());
            }
            None => tell_if_nothing_is_deployed(agent).await,
        }
        tracing::info!(version = env!("CARGO_PKG_VERSION"), socket = %self.socket.display(), "host is up");
        self.console.show(agent.clone());
        let signal = signals.next().await;
        tracing::info!(%signal, grace_seconds = self.grace.as_secs(), "stopping; a second signal ends at once");
        Ok(())
    }
}

async fn tell_if_nothing_is_deployed(agent: &Agent) {
    if agent.status().await.is_ok_and(|status| status.deployment_version == 0) {
        tracing::info!("no deployment is stored; `marram apply FILE` brings one");
    }
}
