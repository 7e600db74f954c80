//! What is meant by a manifest once it has been read: plain data that the planner, the router and the supervisor share.

mod digest;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::{Map, Value};

use crate::{name::ModuleName, route::Route};

/// An accepted deployment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Deployment {
    /// The modules by name.
    pub modules: BTreeMap<ModuleName, ModuleSpec>,
    /// The routes, in the order of the document.
    pub routes: Vec<RouteSpec>,
    /// Desired properties of each module that has a section in the document; a module without one keeps its twin.
    pub twins: BTreeMap<ModuleName, Map<String, Value>>,
    /// Credentials for registries, from `registryCredentials`.
    pub registry_credentials: Vec<RegistryCredential>,
    /// `storeAndForwardConfiguration.timeToLiveSecs`; none = never expires.
    pub time_to_live: Option<Duration>,
    /// `marram` of `$edgeAgent`.
    pub rollout: RolloutOptions,
    /// `runtime` of `$edgeAgent`, as far as it means nothing to the host.
    pub runtime: WrittenRuntime,
    /// The same of each module.
    pub written: BTreeMap<ModuleName, WrittenModule>,
}

/// What the reported properties repeat of `runtime`. No credentials: who reads what a device reports need not know them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WrittenRuntime {
    /// `type`; empty when there is none.
    pub kind: String,
    /// `settings` without `registryCredentials`.
    pub settings: Map<String, Value>,
}

/// What the reported properties repeat of a module. A change of it alone touches no instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WrittenModule {
    /// `type`.
    pub kind: String,
    /// The text of `settings.createOptions`, its pieces put together.
    pub create_options: Option<String>,
    /// `settings.sandbox`.
    pub sandbox: Option<Value>,
}

/// When a deployment counts as good, and what happens if it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RolloutOptions {
    /// `rollback`: the last good deployment takes the place of this one if it is not good.
    pub rollback: bool,
    /// `probation`: how long a module has to be up without a failure to be healthy.
    pub probation: Duration,
    /// `healthTimeout`: how long a module may take to become healthy; none = the probation and [`HEALTH_ALLOWANCE`].
    pub health_timeout: Option<Duration>,
    /// `waitForNetwork`: time in which images are fetched, or cannot be reached, does not count.
    pub wait_for_network: bool,
}

/// Default of `probation`. A minute: most of what is wrong with a new version shows in its first seconds.
pub const DEFAULT_PROBATION: Duration = Duration::from_secs(60);
/// Default of `healthTimeout`, beside the probation: four back-offs (10, 20, 40, 80 s) and the starts between, so that a module
/// which waits for another one to come up is not given up for that.
pub const HEALTH_ALLOWANCE: Duration = Duration::from_secs(240);

impl Default for RolloutOptions {
    fn default() -> Self {
        Self { rollback: true, probation: DEFAULT_PROBATION, health_timeout: None, wait_for_network: true }
    }
}

impl RolloutOptions {
    /// How long a module may take to become healthy.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.health_timeout.unwrap_or_else(|| self.probation.saturating_add(HEALTH_ALLOWANCE))
    }
}

/// One module as the manifest wants it. Two specs that are equal need no restart; [`ModuleSpec::settings_digest`] tells more.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleSpec {
    /// Its name.
    pub name: ModuleName,
    /// Free text; a change of it restarts the module.
    pub version: String,
    /// Image reference as written, trimmed: `[registry/]repo[:tag][@digest]` or `oci:PATH[:TAG]`.
    pub image: String,
    /// Running or stopped.
    pub desired_status: DesiredStatus,
    /// When to start it again after it ended.
    pub restart_policy: RestartPolicy,
    /// `limits.maxRestarts`: restarts in a row, without ten minutes of running between, before it is given up until its
    /// settings change; none = it never is.
    pub max_restarts: Option<u32>,
    /// `health`: how it is asked whether it is well; none = it is not asked.
    pub health: Option<HealthCheck>,
    /// Whether the image may be fetched.
    pub pull_policy: PullPolicy,
    /// Lower ones are started first. Default: last.
    pub startup_order: u32,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Limits and grants (`settings.sandbox`).
    pub sandbox: Sandbox,
}

/// `status` in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DesiredStatus {
    /// Keep it running.
    Running,
    /// Keep it stopped.
    Stopped,
}

/// `restartPolicy` in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Stays down after any exit.
    Never,
    /// Exit 0 is done; anything else restarts after a back-off.
    OnFailure,
    /// As `on-failure`, and what its health check finds unhealthy is ended and counts as failed. The default.
    OnUnhealthy,
    /// Restarts after a back-off, whatever the exit.
    Always,
}

/// `imagePullPolicy` in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// Fetch when the module is created.
    OnCreate,
    /// Use only what is on the device.
    Never,
}

/// `health` of a module: a method of its own that is called again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// `method`: what is called; any answer with a status of 200 to 299 says that the module is well.
    pub method: String,
    /// `interval`: from the end of a call to the next one.
    pub interval: Duration,
    /// `timeout`: how long an answer may take, the wait for the module's turn included.
    pub timeout: Duration,
    /// `failures`: so many in a row make it unhealthy.
    pub failures: u32,
}

/// Default of a check's `interval`, of its `timeout` and of its `failures`: those of Docker's health checks.
pub const DEFAULT_HEALTH_INTERVAL: Duration = Duration::from_secs(30);
/// See [`DEFAULT_HEALTH_INTERVAL`].
pub const DEFAULT_HEALTH_TIMEOUT: Duration = Duration::from_secs(30);
/// See [`DEFAULT_HEALTH_INTERVAL`].
pub const DEFAULT_HEALTH_FAILURES: u32 = 3;

/// Limits and grants of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// `limits.memory`: bytes over all linear memories, tables and held messages, and what the host keeps for the parts of an
    /// instance.
    pub memory_bytes: u64,
    /// `limits.handlerTime`: processor time of one handler call, waiting not counted.
    pub handler_time: Duration,
    /// `limits.handlerWall`: wall-clock bound of one handler call, waiting included.
    pub handler_wall: Duration,
    /// `filesystem`: folders that the module may see.
    pub mounts: Vec<Mount>,
    /// `args`: command line of a program, without its name.
    pub args: Vec<String>,
}

/// Default of `limits.memory`. 64 MiB holds a small JavaScript or Python guest; a Rust or C one needs a few MiB.
pub const DEFAULT_MEMORY_BYTES: u64 = 64 << 20;
/// Default of `limits.handlerTime`.
pub const DEFAULT_HANDLER_TIME: Duration = Duration::from_secs(5);
/// Default of `limits.handlerWall`.
pub const DEFAULT_HANDLER_WALL: Duration = Duration::from_secs(60);

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            memory_bytes: DEFAULT_MEMORY_BYTES,
            handler_time: DEFAULT_HANDLER_TIME,
            handler_wall: DEFAULT_HANDLER_WALL,
            mounts: Vec::new(),
            args: Vec::new(),
        }
    }
}

/// A folder of the device that a module may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path on the device.
    pub host: PathBuf,
    /// Absolute path in the module.
    pub guest: String,
    /// Whether it may write there.
    pub writable: bool,
}

/// A route and how it delivers.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteSpec {
    /// Its name in the document.
    pub name: String,
    /// From where to where.
    pub route: Route,
    /// 0 (most urgent) to 9, then [`DEFAULT_PRIORITY`].
    pub priority: u8,
    /// Time to live of its messages; none = the deployment's.
    pub time_to_live: Option<Duration>,
    /// Our additions (`marram`).
    pub options: RouteOptions,
}

/// The priority of a route that names none: after 0 to 9.
pub const DEFAULT_PRIORITY: u8 = 10;
/// Number of priorities.
pub const PRIORITIES: usize = DEFAULT_PRIORITY as usize + 1;

/// The `marram` object of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteOptions {
    /// How long `send` waits for room before it answers `full`; zero = not at all.
    pub send_timeout: Duration,
    /// Deliveries of one message before it becomes a dead letter; none = no limit (always so for `$upstream`).
    pub max_attempts: Option<u32>,
    /// What its messages survive.
    pub durability: Durability,
    /// Of its endpoint.
    pub queue: QueueOptions,
}

/// What a route says of its endpoint's queue; all routes into one say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueOptions {
    /// What a full queue does with one message more.
    pub overflow: Overflow,
    /// `ordering: none`: a message in back-off holds up no other.
    pub unordered: bool,
    /// `drain: live-first`: what comes while the receiver is up goes before what has waited.
    pub live_first: bool,
    /// Messages whose time to live is over are dead letters.
    pub expired_to_dead_letter: bool,
}

/// `overflow` of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The sender waits, and hears `full`.
    #[default]
    RejectNew,
    /// The oldest messages that wait go, whatever their priority.
    DropOldest,
    /// The oldest of the least urgent go, if they are less urgent than the new one; else the sender waits.
    DropLowestPriority,
}

/// `durability` of a route: what a message survives once `send` has said that it is accepted. The later ones include the
/// earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Durability {
    /// Whatever happens to modules; not the end of the host.
    Memory,
    /// A kill of the host: it is written before `send` returns. The default: it costs a write, and no wear that the sync
    /// of a few seconds later would not cost.
    #[default]
    Crash,
    /// A loss of power: it is synced before `send` returns.
    Power,
}

/// Default of `sendTimeout`.
pub const DEFAULT_SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Default of `maxAttempts` for modules.
pub const DEFAULT_MAX_ATTEMPTS: u32 = 20;

impl Default for RouteOptions {
    fn default() -> Self {
        Self {
            send_timeout: DEFAULT_SEND_TIMEOUT,
            max_attempts: Some(DEFAULT_MAX_ATTEMPTS),
            durability: Durability::default(),
            queue: QueueOptions::default(),
        }
    }
}

/// One entry of `registryCredentials`.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistryCredential {
    /// Host and port of the registry.
    pub address: String,
    /// User name.
    pub username: String,
    /// Password or token; never printed.
    pub password: String,
}

impl std::fmt::Debug for RegistryCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RegistryCredential({}@{})", self.username, self.address)
    }
}
