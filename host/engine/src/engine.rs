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
use wasmtime::{Engine, component::Linker};

use crate::{
    cache::{Cache, Entry, digest_of, hex},
    check::survey,
    compile::compile,
    component::WasmComponent,
    link::linker,
    settings::Settings,
    state::GuestState,
    ticker::Ticker,
};

/// Runs components on wasmtime. One for each host process.
pub struct WasmEngine(Arc<Shared>);

struct Shared {
    settings: Settings,
    engine: Engine,
    linker: Linker<GuestState>,
    ticker: Arc<Ticker>,
    cache: Cache,
    /// One slot for each component digest; whoever holds its lock is the one who loads.
    slots: Mutex<HashMap<String, Slot>>,
}

type Slot = Arc<tokio::sync::Mutex<Weak<WasmComponent>>>;

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
        let engine = Engine::new(&settings.profile.config()).map_err(wasmtime)?;
        let linker = linker(&engine).map_err(wasmtime)?;
        let ticker = Arc::new(Ticker::start(&engine).map_err(EngineError::Thread)?);
        Ok(Self(Arc::new(Shared { settings, engine, linker, ticker, cache, slots: Mutex::default() })))
    }
}

impl ports::Engine for WasmEngine {
    fn load(&self, artifact: &Artifact) -> BoxFuture<'_, Result<Arc<dyn ports::Component>, LoadError>> {
        let artifact = artifact.clone();
        Box::pin(async move { Ok(self.0.load(&artifact).await? as Arc<dyn ports::Component>) })
    }
}

impl Shared {
    async fn load(self: &Arc<Self>, artifact: &Artifact) -> Result<Arc<WasmComponent>, LoadError> {
        let digest = hex_part(&artifact.component_digest)?;
        let slot = self.slot(digest);
        let mut loaded = slot.lock().await;
        if let Some(component) = loaded.upgrade() {
            return Ok(component);
        }
        let entry = self.cache.entry(digest);
        let component = match self.load_entry(entry.clone()).await? {
            Some(component) => component,
            None => {
                self.compile(&artifact.path, digest, &entry).await?;
                self.load_entry(entry).await?.ok_or_else(|| LoadError("the compiled component vanished".into()))?
            }
        };
        *loaded = Arc::downgrade(&component);
        Ok(component)
    }

    fn slot(&self, digest: &str) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody uses and nobody waits for are dropped, or a long-lived host would keep all it ever ran.
        slots
            .retain(|_, slot| Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|weak| weak.strong_count() > 0));
        slots.entry(digest.to_owned()).or_default().clone()
    }

    async fn load_entry(self: &Arc<Self>, entry: Entry) -> Result<Option<Arc<WasmComponent>>, LoadError> {
        let shared = self.clone();
        blocking(move || {
            let component = entry.load(&shared.engine).map_err(|error| disk(&shared.settings.cache, &error))?;
            let Some((component, cost)) = component else { return Ok(None) };
            let linked = WasmComponent::link(&shared.linker, &component, cost, shared.ticker.clone())?;
            Ok(Some(Arc::new(linked)))
        })
        .await
    }

    async fn compile(self: &Arc<Self>, input: &Path, digest: &str, entry: &Entry) -> Result<(), LoadError> {
        let (path, expected) = (input.to_owned(), digest.to_owned());
        let cost = blocking(move || check_file(&path, &expected)).await?;
        let Settings { helper, limits, profile, .. } = &self.settings;
        let output = Temporary(self.cache.temporary());
        let started = std::time::Instant::now();
        compile(helper, *limits, *profile, input, &output.0)
            .await
            .map_err(|error| LoadError(format!("component sha256:{digest}: {}", chain(&error))))?;
        tracing::info!(component = digest, milliseconds = started.elapsed().as_millis(), "compiled");
        let (shared, entry) = (self.clone(), entry.clone());
        blocking(move || {
            shared.cache.commit(&output.0, &entry, cost).map_err(|error| disk(&shared.settings.cache, &error))
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

/// A file that goes away unless it was renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0); // absent after a success
    }
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
