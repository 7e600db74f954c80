//! What `marram list` and the console show: plain data, made from what the supervisor observes.

use std::collections::BTreeMap;

use marram_core::{
    deployment::DesiredStatus,
    health::{Checks, Health},
    name::ModuleName,
    planner::Told,
    time::UtcMillis,
};
use serde::{Deserialize, Serialize};

/// The host as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the host.
    pub version: String,
    /// The device's id.
    pub device_id: String,
    /// Version of the deployment in force; 0 = none yet.
    pub deployment_version: u64,
    /// Milliseconds since the host started.
    pub uptime_ms: u64,
    /// The modules by name.
    pub modules: Vec<ModuleStatus>,
    /// The queues, upstream's first.
    pub queues: Vec<QueueStatus>,
    /// Messages that no route wanted.
    pub no_route: u64,
    /// Messages that were given up because no route led to their queue any more.
    #[serde(default)]
    pub endpoint_removed: u64,
    /// Why upstream does not take messages; none while it does, or has not been asked.
    #[serde(default)]
    pub upstream_error: Option<String>,
    /// The message log.
    #[serde(default)]
    pub message_log: MessageLogStatus,
}

/// The message log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageLogStatus {
    /// Bytes of all its files.
    pub bytes: u64,
    /// Most bytes of them.
    pub max_bytes: u64,
    /// Places that were found damaged since the host started, its opening included.
    pub damaged: u64,
    /// Messages that were lost by that, as far as they could be counted, and given-up ones that can never be dead letters.
    pub lost: u64,
    /// Dead letters that are kept.
    #[serde(default)]
    pub dead_letters: u64,
    /// Why it takes no messages; none while it does.
    pub error: Option<String>,
}

/// One module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModuleStatus {
    /// Its name.
    pub name: ModuleName,
    /// `preparing`, `starting`, `running`, `unhealthy`, `stopping`, `stopped`, `backoff`, `failed`.
    pub status: String,
    /// One line for people: since when, why.
    pub description: String,
    /// What the deployment wants.
    pub desired_status: DesiredStatus,
    /// The image as written.
    pub image: String,
    /// Digest of what runs, once it is known.
    pub digest: Option<String>,
    /// Exit code of the last instance that ended.
    pub exit_code: Option<i32>,
    /// Restarts since it was deployed in this version.
    pub restart_count: u32,
    /// When the last instance started.
    #[serde(rename = "lastStartMs")]
    pub last_start: Option<UtcMillis>,
    /// When the last instance ended.
    #[serde(rename = "lastExitMs")]
    pub last_exit: Option<UtcMillis>,
    /// When an instance that was not the first one of its version started last.
    #[serde(default, rename = "lastRestartMs")]
    pub last_restart: Option<UtcMillis>,
    /// Symbolised frames of the last trap, innermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backtrace: Vec<String>,
    /// Messages that were accepted from it since the host started.
    #[serde(default)]
    pub sent: u64,
    /// Deliveries that it has settled since the host started, whatever the answer.
    #[serde(default)]
    pub received: u64,
    /// Bytes that the instance holds now.
    pub memory_bytes: u64,
    /// Its limit.
    pub memory_limit: u64,
    /// What its health checks tell of the instance that runs; none: it has none, or does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthStatus>,
    /// For the reported properties only.
    #[serde(skip)]
    pub told: Option<Told>,
}

/// What health checks tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthStatus {
    /// `unknown` (none has passed yet, or the last one failed), `healthy`, `unhealthy`.
    pub state: String,
    /// Checks that have failed in a row.
    pub failures: u32,
    /// Why the last one did; none: it passed, or there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl HealthStatus {
    pub(crate) fn of(checks: &Checks) -> Self {
        let state = match checks.health() {
            Health::Unknown => "unknown",
            Health::Healthy { .. } => "healthy",
            Health::Unhealthy => "unhealthy",
        };
        Self { state: state.into(), failures: checks.failures(), reason: checks.reason().map(str::to_owned) }
    }
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// `$upstream` or `module/input`.
    pub endpoint: String,
    /// Messages that wait or are out for delivery.
    pub length: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Most bytes that it takes.
    #[serde(default)]
    pub max_bytes: usize,
    /// Milliseconds that the oldest message has waited; none when none waits. Those out for delivery do not count.
    #[serde(default)]
    pub oldest_ms: Option<u64>,
    /// Accepted since the host started.
    pub accepted: u64,
    /// Handled since the host started.
    pub delivered: u64,
    /// Deliveries since the host started that failed and are made again.
    #[serde(default)]
    pub retried: u64,
    /// Given up since the host started, by reason.
    pub dropped: BTreeMap<String, u64>,
}
