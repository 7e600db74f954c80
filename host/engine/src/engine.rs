//! The engine: from a verified artifact to a component that can be instantiated. Compiles each component once, shares its
//! code between the modules that use it.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use marram_core::ports::{self, Artifact, BoxFuture, LoadError};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::{
    Engine,
    component::{Component, Linker},
};

use crate::{
    cache::{Cache, Entry, REVISION, Temporary, WASMTIME, digest_of, hex},
    check::survey,
    compile::compile,
    component::WasmComponent,
    link::linker,
    precompiled::{self, Key},
    settings::{HelperCommand, Settings},
    state::GuestState,
    target,
    ticker::Ticker,
    wasi::Walls,
};

/// Runs components on wasmtime. One for each host process.
pub struct WasmEngine(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    settings: Settings,
    engine: Engine,
    linker: Linker<GuestState>,
    ticker: Arc<Ticker>,
    pub(crate) cache: Cache,
    /// Of code that was made ahead.
    key: Key,
    /// What no module is granted.
    walls: Arc<Walls>,
    /// One slot for each component digest; whoever holds its lock is the one who loads.
    pub(crate) slots: Mutex<HashMap<String, Slot>>,
    /// See [`READS`] and [`COMPILES`].
    reads: Semaphore,
    compiles: Semaphore,
}

/// What the owner's folders have of a component.
enum Shelf {
    Has(Arc<WasmComponent>),
    /// Nothing that may be used; said of each file that may not.
    Lacks(Vec<String>),
}

/// Compiled components that are read and checked at once. More would gain nothing on a small device's flash, and each takes
/// a thread.
const READS: usize = 4;

/// Components that are compiled at once. A compiler takes some 300 MiB for a large one, and a small device has not more
/// cores than this. What is compiled already does not wait behind them.
const COMPILES: usize = 2;

pub(crate) type Slot = Arc<tokio::sync::Mutex<Weak<WasmComponent>>>;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The folder of compiled components.
    #[error("cannot use {0} for compiled components")]
    Cache(PathBuf, #[source] io::Error),
    /// wasmtime refused its settings.
    #[error("cannot set up the WebAssembly engine: {0}")]
    Wasmtime(String),
    /// No thread for the clock of the guests' deadlines.
    #[error("cannot start the engine's clock")]
    Thread(#[source] io::Error),
}

impl WasmEngine {
    /// Sets up the engine: makes or checks the cache folder, links the host's interfaces, starts the ticker.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn new(settings: Settings) -> Result<Self, EngineError> {
        raise_descriptors();
        let cache = Cache::open(&settings.cache, settings.profile)
            .map_err(|error| EngineError::Cache(settings.cache.clone(), error))?;
        let wasmtime = |error: wasmtime::Error| EngineError::Wasmtime(format!("{error:#}"));
        let mut config = settings.profile.config();
        // Not part of what code is compiled for. It lists the parts of the store beside the error of a trap, and copies none.
        config.coredump_on_trap(settings.dumps.is_some());
        let engine = Engine::new(&config).map_err(wasmtime)?;
        let linker = linker(&engine).map_err(wasmtime)?;
        let ticker = Arc::new(Ticker::start(&engine).map_err(EngineError::Thread)?);
        let key = Key { target: target::here(), profile: settings.profile };
        let walls = Arc::new(Walls::of(&settings));
        Ok(Self(Arc::new(Shared {
            settings,
            engine,
            linker,
            ticker,
            cache,
            key,
            walls,
            slots: Mutex::default(),
            reads: Semaphore::new(READS),
            compiles: Semaphore::new(COMPILES),
        })))
    }
}

impl ports::Engine for WasmEngine {
    fn load(&self, artifact: &Artifact, image: &str) -> BoxFuture<'_, Result<Arc<dyn ports::Component>, LoadError>> {
        let (artifact, image) = (artifact.clone(), image.to_owned());
        Box::pin(async move { Ok(self.0.load(&artifact, &image).await? as Arc<dyn ports::Component>) })
    }
}

impl Shared {
    async fn load(self: &Arc<Self>, artifact: &Artifact, image: &str) -> Result<Arc<WasmComponent>, LoadError> {
        let digest = hex_part(&artifact.component_digest)?;
        let slot = self.slot(digest);
        let mut loaded = slot.lock().await;
        if let Some(component) = loaded.upgrade() {
            return Ok(component);
        }
        let component = match self.load_precompiled(digest).await? {
            Shelf::Has(component) => component,
            Shelf::Lacks(refused) => self.load_own(artifact, digest, image, &refused).await?,
        };
        *loaded = Arc::downgrade(&component);
        Ok(component)
    }

    /// From the cache, or compiled now; `refused` is said of code that was made ahead and is not used.
    async fn load_own(
        self: &Arc<Self>,
        artifact: &Artifact,
        digest: &str,
        image: &str,
        refused: &[String],
    ) -> Result<Arc<WasmComponent>, LoadError> {
        let entry = self.cache.entry(digest);
        if let Some(component) = self.load_entry(entry.clone()).await? {
            return Ok(component);
        }
        if matches!(self.settings.helper, HelperCommand::Nobody) {
            return Err(self.no_code(artifact, image, refused));
        }
        self.compile(&artifact.path, digest, &entry).await?;
        self.load_entry(entry).await?.ok_or_else(|| LoadError("the compiled component vanished".into()))
    }

    /// The first whole entry of the owner's folders.
    async fn load_precompiled(self: &Arc<Self>, digest: &str) -> Result<Shelf, LoadError> {
        if self.settings.precompiled.is_empty() {
            return Ok(Shelf::Lacks(Vec::new()));
        }
        let (shared, digest) = (self.clone(), digest.to_owned());
        let _reading = self.read_permit().await;
        blocking(move || {
            let mut refused = Vec::new();
            for folder in &shared.settings.precompiled {
                let found = precompiled::find(folder, &shared.key, &digest, &shared.engine, &shared.cache);
                match found.map_err(|error| disk(folder, &error))? {
                    Ok(Some((component, cost))) => return shared.link(&component, cost).map(Shelf::Has),
                    Ok(None) => {}
                    Err(why) => {
                        tracing::warn!("precompiled code is not used: {}", why.0);
                        refused.push(why.0);
                    }
                }
            }
            Ok(Shelf::Lacks(refused))
        })
        .await
    }

    /// What a host without a compiler says: what is missing, and how to make it.
    fn no_code(&self, artifact: &Artifact, image: &str, refused: &[String]) -> LoadError {
        let Artifact { component_digest, manifest_digest, .. } = artifact;
        let Key { target, profile } = &self.key;
        let folders: Vec<_> = self.settings.precompiled.iter().map(|folder| folder.display().to_string()).collect();
        let (looked, into) = match folders.first() {
            Some(first) => (folders.join(", "), first.clone()),
            None => ("no folder, for `engine.precompiled` in marram.toml is empty".into(), "one".into()),
        };
        let refused = if refused.is_empty() { String::new() } else { format!("; refused: {}", refused.join("; ")) };
        let pinned = if image.contains('@') { image.to_owned() } else { format!("{image}@{manifest_digest}") };
        LoadError(format!(
            "component {component_digest} has no machine code here, and this host has no compiler; needed: wasmtime \
             {WASMTIME}, {target}, profile {profile}, revision {REVISION}; looked in {looked}{refused}; where the full \
             build of marram {} is, run `marram compile {pinned} --target {target} --profile {profile} --output FOLDER`, \
             and copy the files of FOLDER into {into}",
            env!("CARGO_PKG_VERSION"),
        ))
    }

    /// Nobody closes the semaphore: there is a permit, sooner or later.
    async fn read_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.reads.acquire().await.ok()
    }

    fn link(&self, component: &Component, cost: u64) -> Result<Arc<WasmComponent>, LoadError> {
        let (ticker, walls, dumps) = (self.ticker.clone(), self.walls.clone(), self.settings.dumps.clone());
        WasmComponent::link(&self.linker, component, cost, ticker, walls, dumps).map(Arc::new)
    }

    pub(crate) fn slot(&self, digest: &str) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody uses and nobody waits for are dropped, or a long-lived host would keep all it ever ran.
        slots
            .retain(|_, slot| Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|weak| weak.strong_count() > 0));
        slots.entry(digest.to_owned()).or_default().clone()
    }

    async fn load_entry(self: &Arc<Self>, entry: Entry) -> Result<Option<Arc<WasmComponent>>, LoadError> {
        let shared = self.clone();
        let _reading = self.read_permit().await;
        blocking(move || {
            let component = entry.load(&shared.engine).map_err(|error| disk(&shared.settings.cache, &error))?;
            component.map(|(component, cost)| shared.link(&component, cost)).transpose()
        })
        .await
    }

    async fn compile(self: &Arc<Self>, input: &Path, digest: &str, entry: &Entry) -> Result<(), LoadError> {
        let _compiling = self.compiles.acquire().await;
        let (path, expected) = (input.to_owned(), digest.to_owned());
        let cost = blocking(move || check_file(&path, &expected)).await?;
        let Settings { helper, limits, profile, .. } = &self.settings;
        let output = Temporary(self.cache.temporary());
        let started = std::time::Instant::now();
        compile(helper, *limits, *profile, None, input, &output.0)
            .await
            .map_err(|error| LoadError(format!("component sha256:{digest}: {}", chain(&error))))?;
        tracing::info!(component = digest, milliseconds = started.elapsed().as_millis(), "compiled");
        let (shared, entry) = (self.clone(), entry.clone());
        blocking(move || {
            let done = digest_of(&output.0).and_then(|digest| shared.cache.commit(&output.0, &entry, digest, cost));
            done.map_err(|error| disk(&shared.settings.cache, &error))
        })
        .await
    }
}

/// Guests may hold files open, some dozens each; the usual soft limit of 1024 is for programs that use `select`.
fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the number of open files to the hard limit: {error}");
    }
}

/// The component's bytes are those of the digest, and nothing in them is sure to fail later. Returns what its instances
/// cost.
fn check_file(path: &Path, expected: &str) -> Result<u64, LoadError> {
    let actual = hex(&digest_of(path).map_err(|error| disk(path, &error))?);
    if actual != expected {
        let text = format!("{} has digest sha256:{actual}, expected sha256:{expected}", path.display());
        return Err(LoadError(text));
    }
    let bytes = std::fs::read(path).map_err(|error| disk(path, &error))?;
    survey(&bytes)
        .and_then(|surface| surface.check().map(|_| surface.instance_bytes))
        .map_err(|refusal| LoadError(format!("component sha256:{expected}: {refusal}")))
}

/// The digits of `sha256:…`; also keeps anything but digits out of file names.
fn hex_part(digest: &str) -> Result<&str, LoadError> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        .ok_or_else(|| LoadError(format!("`{digest}` is not a digest of the form sha256:<64 hexadecimal digits>")))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| Err(LoadError(format!("loading a component failed: {panic}"))))
}

fn disk(path: &Path, error: &io::Error) -> LoadError {
    LoadError(format!("cannot read or write {}: {error}", path.display()))
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
