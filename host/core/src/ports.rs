//! The narrow traits between the agent and the worlds, with their promises in words.
//!
//! They stand in `core`, not beside the agent, because the boundary has two sides: the agent calls the engine, and a
//! guest inside the engine calls back. Both sides depend on this page and on nothing of each other.

use std::{
    any::Any,
    fmt,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::{
    deployment::{ModuleSpec, PullPolicy, RegistryCredential},
    message::{Accepted, Message},
    methods::{InvokeError, MethodRequest, MethodResponse},
    name::ModuleName,
    state::{StateError, Write},
    time::UtcMillis,
    timers::DurableTimer,
    traps::{CoreDump, During},
    twin::CloudTwin,
};

/// A future that a port returns; boxed once a batch or once a step, never once a message.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

// ---- artifacts ----

/// Brings components to the device.
pub trait Images: Send + Sync {
    /// Resolves an image, downloads what is missing, verifies every digest and returns the component's file, which stays
    /// valid and unchanged until the module is removed.
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Artifact, FetchError>>;
}

/// What to fetch.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// As in [`ModuleSpec::image`].
    pub image: String,
    /// Whether the network may be asked.
    pub policy: PullPolicy,
    /// True: a copy on the device is good enough and is not refreshed (start from the stored deployment, restart).
    pub prefer_cached: bool,
    /// From the manifest; the owner's own come first.
    pub credentials: Vec<RegistryCredential>,
    /// Written while the component is downloaded; for people.
    pub progress: Arc<Progress>,
    /// Asked for room before a component is downloaded; none = nobody minds.
    pub room: Option<Arc<dyn Room>>,
}

/// How far a transfer is, told by the one who transfers. Shows as `3.1 of 17.5 MiB`.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Bytes that are done, of so many.
    pub fn set(&self, done: u64, total: u64) {
        self.done.store(done, Relaxed);
        self.total.store(total, Relaxed);
    }

    /// True: it has begun, and some bytes are missing.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.done.load(Relaxed) < self.total.load(Relaxed)
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, total) = (self.done.load(Relaxed), self.total.load(Relaxed));
        let (unit, name) = if total < 1 << 20 { (1 << 10, "KiB") } else { (1 << 20, "MiB") };
        let [done, total] = [done, total].map(|bytes| bytes as f64 / f64::from(unit));
        write!(f, "{done:.1} of {total:.1} {name}")
    }
}

/// Makes room on the device.
pub trait Room: Send + Sync + std::fmt::Debug {
    /// Removes what nobody needs, until a component of so many bytes fits. Where that is not possible the component is
    /// fetched all the same: what is deployed comes before the cap.
    fn make(&self, bytes: u64) -> BoxFuture<'_, ()>;
}

/// A verified component on this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Digest of the manifest: `sha256:…`. What is pinned and shown.
    pub manifest_digest: String,
    /// Digest of the component's bytes: `sha256:…`. The key of the compiled cache.
    pub component_digest: String,
    /// The component's bytes, not to be changed.
    pub path: PathBuf,
    /// True: the source was out of reach, and this is the copy of an earlier fetch.
    pub stale: bool,
    /// The file stays as long as this or a copy of it lives.
    pub lease: Lease,
}

/// Keeps something in a cache as long as it or a copy of it lives. Says nothing about what: all are equal.
#[derive(Clone, Default)]
pub struct Lease(Option<Arc<dyn Any + Send + Sync>>);

impl Lease {
    /// `hold` gives up what it keeps when it is dropped.
    #[must_use]
    pub fn new(hold: impl Any + Send + Sync) -> Self {
        Self(Some(Arc::new(hold)))
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Lease" } else { "no Lease" })
    }
}

impl PartialEq for Lease {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Lease {}

/// Why a component could not be had. `message` is one line that says what, where and what to try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FetchError {
    /// For people.
    pub message: String,
    /// True: trying again later may help (network, 5xx). False: only a change will (unknown image, digest mismatch).
    pub transient: bool,
}

// ---- what is kept on the device ----

/// Keeps fetched components.
pub trait ComponentCache: Send + Sync {
    /// All that is kept. `images`, as in [`ModuleSpec::image`]: each is named by the component that it leads to.
    fn components(&self, images: Vec<String>) -> BoxFuture<'_, Result<KeptComponents, CacheError>>;

    /// Removes these components (digests) with the images that lead to them, and whatever nothing leads to; but nothing that
    /// is held. A crash in the middle leaves no image that leads to something that is gone.
    fn remove_components(&self, digests: Vec<String>) -> BoxFuture<'_, Result<(), CacheError>>;

    /// Removes what has arrived of these components (digests), but nothing that is being downloaded.
    fn remove_parts(&self, digests: Vec<String>) -> BoxFuture<'_, Result<(), CacheError>>;
}

/// All that is kept of images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeptComponents {
    /// The components.
    pub components: Vec<KeptComponent>,
    /// What has arrived of components whose download broke off or goes on.
    pub parts: Vec<KeptPart>,
    /// Bytes of all else, to which nothing leads; the next removal takes them along.
    pub other_bytes: u64,
    /// Now, by the clock of the times of last use.
    pub now: UtcMillis,
}

/// A component that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptComponent {
    /// `sha256:…` of its bytes.
    pub digest: String,
    /// The images that lead to it, in full.
    pub images: Vec<String>,
    /// Those of the images that were asked about.
    pub named: Vec<String>,
    /// Its bytes, and those of the documents that lead to it.
    pub bytes: u64,
    /// When it was fetched, started or stopped last; at most a day too early.
    pub last_use: UtcMillis,
    /// Being fetched, or an [`Artifact`] of it lives.
    pub held: bool,
}

/// What has arrived of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPart {
    /// `sha256:…` of all bytes of the component.
    pub digest: String,
    /// Those that are here.
    pub bytes: u64,
    /// When the last of them came.
    pub last_use: UtcMillis,
    /// Being downloaded now.
    pub held: bool,
}

/// Keeps machine code.
pub trait CodeCache: Send + Sync {
    /// All that is kept.
    fn code(&self) -> BoxFuture<'_, Result<Vec<KeptCode>, CacheError>>;

    /// Removes these ([`KeptCode::name`]), but none that is loaded or being made.
    fn remove_code(&self, names: Vec<String>) -> BoxFuture<'_, Result<(), CacheError>>;
}

/// Machine code that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCode {
    /// Its name in the cache.
    pub name: String,
    /// `sha256:…` of the component that it was made of.
    pub component: String,
    /// In bytes.
    pub bytes: u64,
    /// Whether this engine could load it: one of another version or with other settings could not.
    pub usable: bool,
    /// Loaded, or being made.
    pub held: bool,
}

/// What failed with a cache, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CacheError(pub String);

// ---- the engine, called by the agent ----

/// Runs components.
pub trait Engine: Send + Sync {
    /// Compiles (in a child process) or takes code that was compiled before, and checks that every import can be met. Does
    /// not run any of the component's code. `image` is the reference that led to the artifact, for messages.
    fn load(&self, artifact: &Artifact, image: &str) -> BoxFuture<'_, Result<Arc<dyn Component>, LoadError>>;
}

/// Why a component cannot run here; one line that names the imports, the rule or the tool to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// A component that is ready to be instantiated, shared by the modules that use it.
pub trait Component: Send + Sync {
    /// What the host may call.
    fn exports(&self) -> Exports;

    /// Whether it imports `marram:edge/inbox`: a program that takes messages.
    fn imports_inbox(&self) -> bool;

    /// Whether it imports `marram:edge/durable-timers`: only then they are read, and fire.
    fn imports_durable_timers(&self) -> bool;

    /// Makes an isolated instance. Runs initialisers; an error of theirs is an [`Exit`].
    fn instantiate(
        &self,
        spec: &ModuleSpec,
        host: Arc<dyn ModuleHost>,
    ) -> BoxFuture<'_, Result<Box<dyn Instance>, Exit>>;
}

/// Which exports a component has; each is optional, but not all of them may be missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exports {
    /// `wasi:cli/run`: a program.
    pub run: bool,
    /// `marram:edge/start-handler`.
    pub start: bool,
    /// `marram:edge/input-handler`.
    pub input: bool,
    /// `marram:edge/twin-handler`.
    pub twin: bool,
    /// `marram:edge/timer-handler`.
    pub timer: bool,
    /// `marram:edge/method-handler`.
    pub method: bool,
}

/// One running instance. One call at a time. After an `Err(Exit)` it is dead: it may only be dropped.
pub trait Instance: Send {
    /// Runs a program to its end.
    fn run(&mut self) -> BoxFuture<'_, Exit>;

    /// Calls `start-handler`. The inner error is the guest's.
    fn start(&mut self) -> BoxFuture<'_, Result<Result<(), String>, Exit>>;

    /// Takes deliveries from `inbox` and calls `input-handler` for each until `inbox` has no more. Each is settled
    /// through `inbox` before the next is taken; the one during which the instance ended is not settled.
    fn handle_batch<'a>(&'a mut self, inbox: &'a mut dyn Inbox) -> BoxFuture<'a, Result<(), Exit>>;

    /// Calls `timer-handler`.
    fn fire(&mut self, name: &str, missed: u64) -> BoxFuture<'_, Result<(), Exit>>;

    /// Calls `twin-handler`.
    fn desired_changed(&mut self, patch_json: &str, version: u64) -> BoxFuture<'_, Result<TwinAnswer, Exit>>;

    /// Calls `method-handler`. The answer is the guest's word, not checked.
    fn invoke(&mut self, name: &str, payload: &str) -> BoxFuture<'_, Result<(i32, String), Exit>>;

    /// Bytes that the instance's memories, tables and held messages take now, for `list`.
    fn memory_bytes(&self) -> u64;
}

/// Answer of a `twin-handler`.
pub type TwinAnswer = Result<Option<TwinAck>, TwinAck>;

/// The guest's word on a change of its desired properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinAck {
    /// In the manner of HTTP.
    pub code: u16,
    /// For people.
    pub description: String,
}

/// Source of deliveries for one batch; synchronous, called between two guest calls.
pub trait Inbox: Send {
    /// The next delivery, or none: nothing is left, or something more urgent waits.
    fn next(&mut self) -> Option<Delivery>;
    /// The guest's result for the delivery taken last.
    fn settle(&mut self, settlement: Settlement);
}

/// A message on its way to an input.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The input's name.
    pub input: Arc<str>,
    /// What was accepted.
    pub accepted: Accepted,
    /// 1 for the first time.
    pub attempt: u32,
}

/// What becomes of a delivered message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Handled.
    Done,
    /// Again, not before this delay; none = the host's back-off.
    Retry(Option<Duration>),
    /// Never: a dead letter with this reason.
    Reject(String),
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// 0 done, 1 a program's own failure (WASI 0.2 tells success and failure, no number), 134 trap, 137 memory limit,
    /// 124 deadline, 125 unhealthy, 143 stopped.
    pub code: i32,
    /// One line for people.
    pub reason: String,
    /// Symbolised guest frames, innermost first; empty when there are none.
    pub backtrace: Vec<String>,
    /// What the host had called it for, if that is known.
    pub during: Option<Box<During>>,
    /// What it had in memory, if it trapped and the owner wants that.
    pub core_dump: Option<Box<CoreDump>>,
}

impl Exit {
    /// A program that returned ok.
    pub const DONE: i32 = 0;
    /// A call or start exceeded its time.
    pub const DEADLINE: i32 = 124;
    /// The host ended it because its health check had failed too often.
    pub const UNHEALTHY: i32 = 125;
    /// The guest trapped (`unreachable`, a panic, an out-of-bounds access).
    pub const TRAP: i32 = 134;
    /// It asked for more memory or handles than its limit.
    pub const MEMORY: i32 = 137;
    /// The host stopped it.
    pub const STOPPED: i32 = 143;

    /// An exit without a backtrace.
    #[must_use]
    pub fn new(code: i32, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), backtrace: Vec::new(), during: None, core_dump: None }
    }

    /// The same, with what it was called for.
    #[must_use]
    pub fn during(self, during: During) -> Self {
        Self { during: Some(Box::new(during)), ..self }
    }
}

// ---- the agent, called by a guest through the engine ----

/// What one module's instance may ask of the host. Methods without a future never wait.
pub trait ModuleHost: Send + Sync {
    /// Sends if there is room now; the common case, without allocating a future. [`Sent::Wait`] says: a receiver
    /// is full, call [`ModuleHost::send`]; [`Sent::Storing`]: wait for that answer.
    fn try_send(&self, output: &str, message: &Arc<Message>) -> Sent;

    /// Sends, waiting for room for at most the route's send time-out.
    fn send(&self, output: String, message: Arc<Message>) -> BoxFuture<'static, Result<u64, SendError>>;

    /// The desired properties now.
    fn desired(&self) -> TwinDocument;
    /// The reported properties now.
    fn reported(&self) -> TwinDocument;
    /// Merges a patch into the reported properties; returns the new version once it is stored.
    fn report(&self, merge_patch_json: String) -> BoxFuture<'static, Result<u64, ReportError>>;

    /// What of the desired properties is news to this instance, once there is some: all of them the first time; none when
    /// `patience` has passed.
    fn next_change(&self, patience: Duration) -> BoxFuture<'static, Result<Option<TwinChange>, WatchError>>;
    /// The module's answer to a version of its desired properties; returns the version of the reported ones once it is stored.
    fn acknowledge(&self, version: u64, ack: TwinAck) -> BoxFuture<'static, Result<u64, ReportError>>;

    /// The next message for a program, once there is one; none when `patience` has passed. A program may hold
    /// [`MAX_UNSETTLED`] of them, each until it is settled. Dropping the future takes nothing.
    fn receive(&self, patience: Duration) -> BoxFuture<'static, Result<Option<Received>, ReceiveError>>;
    /// Settles what [`ModuleHost::receive`] gave; false when it is settled already. What the instance leaves unsettled at
    /// its end returns to the queue, and counts as delivered.
    fn settle(&self, ticket: u64, settlement: Settlement) -> bool;

    /// A value of the module's durable state.
    fn state_get(&self, bucket: String, key: String) -> BoxFuture<'static, Result<Option<Bytes>, StateError>>;
    /// As [`State::keys`].
    fn state_keys(
        &self,
        bucket: String,
        prefix: String,
        after: Option<String>,
        max: usize,
    ) -> BoxFuture<'static, Result<Vec<Box<str>>, StateError>>;
    /// As [`State::write`]; a module that writes without end waits for its turn.
    fn state_write(&self, writes: Vec<Write>) -> BoxFuture<'static, Result<(), StateError>>;

    /// Sets or replaces a timer.
    ///
    /// # Errors
    /// A name, an interval or the number of timers is out of its limits.
    fn set_timer(&self, name: &str, interval: Duration, periodic: bool) -> Result<(), TimerError>;
    /// Removes a timer; false when there was none.
    fn cancel_timer(&self, name: &str) -> bool;

    /// Calls a method of another module and waits for the answer.
    fn invoke(&self, target: String, request: MethodRequest)
    -> BoxFuture<'static, Result<MethodResponse, InvokeError>>;

    /// As [`crate::timers::DurableTimers::set`]; stored when it returns.
    fn set_durable_timer(
        &self,
        name: String,
        interval: Duration,
        periodic: bool,
    ) -> BoxFuture<'static, Result<(), DurableTimerError>>;
    /// Removes a durable timer; false when there was none.
    fn cancel_durable_timer(&self, name: String) -> BoxFuture<'static, Result<bool, DurableTimerError>>;
    /// Those that are set.
    fn durable_timers(&self) -> Vec<DurableTimer>;

    /// Who and where the module is.
    fn info(&self) -> ModuleInfo;

    /// One line of the module's output, without its end-of-line, already bounded in length.
    fn log(&self, stream: LogStream, line: &str);
}

/// Result of [`ModuleHost::try_send`].
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// In every receiver's queue, under this sequence.
    Accepted(u64),
    /// Handed over, and not stored yet.
    Storing(Storing),
    /// Refused; waiting would not help.
    Refused(SendError),
    /// A receiver is full: nothing was stored.
    Wait,
}

/// A message that is on its way into the message log. The future answers as that of [`ModuleHost::send`] does: where it was not stored it
/// has waited for that.
pub struct Storing(pub BoxFuture<'static, Result<u64, SendError>>);

impl std::fmt::Debug for Storing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storing").finish_non_exhaustive()
    }
}

impl PartialEq for Storing {
    /// No message is another one.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Storing {}

/// Messages that a program may hold unsettled. Enough to join a minute of readings into one; not more, because what a
/// program holds for long keeps its queue full.
pub const MAX_UNSETTLED: usize = 256;

/// A message that a program has received.
#[derive(Debug, Clone)]
pub struct Received {
    /// What it is settled by; never used twice for one instance.
    pub ticket: u64,
    /// The message.
    pub delivery: Delivery,
}

/// Why a program receives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveError {
    /// The module is being stopped.
    Stopping,
    /// It holds [`MAX_UNSETTLED`] messages.
    TooManyUnsettled,
}

/// Why a message was not accepted. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The largest size in bytes.
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    /// A receiver stayed full.
    #[error("a receiver's queue is full")]
    Full,
    /// Bad output name or policy.
    #[error("{0}")]
    Denied(String),
    /// The module is being stopped.
    #[error("the host is stopping this module")]
    ShuttingDown,
    /// A store that failed, and the like.
    #[error("{0}")]
    Other(String),
}

/// JSON text of a twin section and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinDocument {
    /// A JSON object.
    pub json: String,
    /// Rises by one with each change.
    pub version: u64,
}

/// Why a report was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Breaks a rule; names the path.
    #[error("{0}")]
    Invalid(String),
    /// Could not be stored.
    #[error("{0}")]
    Other(String),
}

/// A change of the desired properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwinChange {
    /// What differs from what the instance was told last.
    pub merge_patch_json: String,
    /// The version that it leads to.
    pub version: u64,
}

/// Why a program hears of no change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchError {
    /// The module is being stopped.
    Stopping,
}

/// Why a timer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimerError {
    /// Empty or longer than 64 bytes.
    #[error("a timer's name has 1 to 64 bytes")]
    BadName,
    /// Too short or above 31 days.
    #[error("the delay or period is too short, or above 31 days")]
    BadInterval,
    /// 64 timers stand already.
    #[error("there are 64 timers already")]
    TooMany,
    /// The module does not export `timer-handler`.
    #[error("the module does not export `timer-handler`")]
    NoHandler,
}

/// Why a durable timer was refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurableTimerError {
    /// A limit.
    #[error(transparent)]
    Timer(#[from] TimerError),
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] StateError),
}

/// Who and where a module is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleInfo {
    /// The device's id.
    pub device_id: String,
    /// The module's name.
    pub module_id: ModuleName,
    /// Version of the deployment at the instance's start.
    pub deployment_version: u64,
    /// Restarts since it was deployed.
    pub restart_count: u32,
}

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

// ---- upstream ----

/// The last hop of `$upstream`: a local journal, later the cloud session.
pub trait Upstream: Send + Sync {
    /// Takes messages in order and returns how many of the first are safe there; the rest is offered again. Returns at
    /// least 1 or an error.
    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<usize, UpstreamError>>;

    /// Makes all that was taken safe against loss of power. Called at a clean stop.
    fn flush(&self) -> BoxFuture<'_, Result<(), UpstreamError>>;
}

/// The twins' side of upstream. It tells the agent of connections and changes by [`UpstreamEvent`]s, which are not taken while one of these
/// calls waits: an answer must not need that an event is taken first. A call may be broken off when the host stops.
pub trait UpstreamTwins: Send + Sync {
    /// Takes a patch of a module's reported properties; it is safe there when it returns. After an error it comes again, with what was
    /// reported since.
    fn report<'a>(&'a self, reported: &'a Reported) -> BoxFuture<'a, Result<(), UpstreamError>>;

    /// A module's whole twin as upstream has it; none: this upstream keeps no desired properties, as the journal.
    fn twin<'a>(&'a self, module: &'a ModuleName) -> BoxFuture<'a, Result<Option<CloudTwin>, UpstreamError>>;
}

/// What upstream does not have yet of a module's reported properties.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// Whose.
    pub module: ModuleName,
    /// The version that the patch leads to.
    pub version: u64,
    /// A merge patch, with null for what is gone.
    pub patch: serde_json::Map<String, serde_json::Value>,
    /// Now.
    pub at: UtcMillis,
}

/// What a cloud session tells the agent of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamEvent {
    /// There is a connection again.
    Connected,
    /// Desired properties were changed in the cloud: `{…, "$version": n}`.
    DesiredChanged {
        /// Whose.
        module: ModuleName,
        /// The merge patch.
        patch_json: String,
    },
}

/// A message for upstream.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// What was accepted.
    pub accepted: Accepted,
    /// 1 for the first time.
    pub attempt: u32,
}

/// Why upstream did not take a message. It is tried again, with back-off, for ever.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UpstreamError(pub String);

/// Whom upstream hands the calls of methods that come from the cloud.
pub trait DirectMethods: Send + Sync {
    /// Calls a method of a module, of `$edgeAgent` or of `$edgeHub`. [`InvokeError::status`] is what the cloud is told of a call that
    /// its handler has not answered. Dropping the future gives up the wait; a handler that has begun runs on.
    fn invoke<'a>(
        &'a self,
        target: &'a str,
        request: MethodRequest,
    ) -> BoxFuture<'a, Result<MethodResponse, InvokeError>>;
}

// ---- documents ----

/// The files of core dumps, which the engine writes. Calls block on the disk.
pub trait CoreDumps: Send + Sync {
    /// Where this one lies; none when it is there no more.
    fn path(&self, file: &str) -> Option<PathBuf>;
    /// Removes it, if it is there.
    fn remove(&self, file: &str);
    /// Removes those of earlier runs of the host that are not among these: nothing leads to them.
    fn keep_only(&self, files: &[&str]);
}

/// Small documents that survive a crash: deployments and their history, twins, traps. Calls block on the disk; the agent makes them
/// from blocking threads.
pub trait Documents: Send + Sync {
    /// Reads a document. A damaged one falls back to its previous generation, and `recovered` says so.
    ///
    /// # Errors
    /// Neither generation of it can be used, or whether that is so cannot be told now.
    fn read(&self, name: &str) -> Result<Option<StoredDocument>, DocumentError>;

    /// Replaces a document atomically; safe against loss of power when it returns.
    ///
    /// # Errors
    /// It could not be written; the old one is still in force.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DocumentError>;

    /// Names that begin so, of those that consist of lower-case letters, digits, `-` and `_`; in any order.
    ///
    /// # Errors
    /// They cannot be listed.
    fn names(&self, prefix: &str) -> Result<Vec<String>, DocumentError>;

    /// Removes a document and its previous generation; no error when there is none.
    ///
    /// # Errors
    /// It could not be removed.
    fn remove(&self, name: &str) -> Result<(), DocumentError>;
}

/// Durable key-value state of modules. Calls block on the disk; the agent makes them from blocking threads.
pub trait States: Send + Sync {
    /// Opens the state of a module; one that never wrote has an empty one. At most one is open for each module.
    ///
    /// # Errors
    /// It cannot be read.
    fn open(&self, module: &ModuleName) -> Result<Box<dyn State>, StateError>;

    /// Forgets all that a module keeps; its state is not open. Only ever on request: modules come back.
    ///
    /// # Errors
    /// It could not be removed.
    fn remove(&self, module: &ModuleName) -> Result<(), StateError>;
}

/// The open state of one module. Names and bounds are those of [`crate::state`].
pub trait State: Send {
    /// A value; none when there is no such entry.
    ///
    /// # Errors
    /// The disk.
    fn get(&self, bucket: &str, key: &str) -> Result<Option<Bytes>, StateError>;

    /// The keys of a bucket that begin with `prefix`, in the order of their bytes, those after `after`, at most `max`.
    fn keys(&self, bucket: &str, prefix: &str, after: Option<&str>, max: usize) -> Vec<Box<str>>;

    /// Makes all of these writes or none. They are safe against loss of power when it returns. Conditions are compared with
    /// what was before all of them.
    ///
    /// # Errors
    /// A bound, a condition or the disk; nothing has changed.
    fn write(&mut self, writes: &[Write]) -> Result<(), StateError>;
}

/// A document as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDocument {
    /// Its bytes, as written.
    pub bytes: Vec<u8>,
    /// Some: the newest generation was damaged (this says how) and these are the bytes of the one before.
    pub recovered: Option<String>,
}

/// What failed with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// No generation of it can be used, and none will be by itself.
    #[error("{0}")]
    Damaged(String),
    /// The disk or the device, which may pass; or the document is not one that is taken.
    #[error("{0}")]
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_shows_in_the_unit_of_the_whole() {
        let progress = Progress::default();
        assert!(!progress.is_under_way(), "not begun");
        progress.set(3_250_586, 18_350_080);
        assert_eq!(progress.to_string(), "3.1 of 17.5 MiB");
        assert!(progress.is_under_way());
        progress.set(2048, 2048);
        assert_eq!(progress.to_string(), "2.0 of 2.0 KiB");
        assert!(!progress.is_under_way(), "done");
    }
}
