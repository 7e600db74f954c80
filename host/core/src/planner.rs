//! Decides what to do next for each module. Reads no clock, touches no disk, starts nothing: it answers with a [`Plan`],
//! which `agent::supervisor` carries out and whose results come back as [`Observed`].

use std::{collections::BTreeMap, time::Duration};

use crate::{
    deployment::{Deployment, ModuleSpec},
    name::ModuleName,
    time::Uptime,
};

/// First wait before a restart (IoT Edge's cool-off unit).
pub const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// Longest back-off. Five minutes keeps a broken module cheap, and a repaired one is back before an operator has finished
/// the phone call (IoT Edge's number).
pub const MAX_BACKOFF: Duration = Duration::from_secs(300);
/// A module that ran this long is healthy: its next back-off starts at [`FIRST_BACKOFF`] again (IoT Edge's number).
pub const HEALTHY_AFTER: Duration = Duration::from_secs(600);

/// What the supervisor knows of each module that it has or had.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// By name; a module that is only desired is missing.
    pub modules: BTreeMap<ModuleName, ObservedModule>,
}

/// One module as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedModule {
    /// The spec that `state` is about: what was prepared, runs or ran. The desired one may differ: then it is updated.
    pub spec: ModuleSpec,
    /// What it is doing.
    pub state: ModuleState,
    /// Failures in a row, of preparing or running; sets the next back-off. Zero after [`HEALTHY_AFTER`] of running.
    pub failures: u32,
    /// What the supervisor has been asked to prepare meanwhile (an update): the spec, and how it stands.
    pub next: Option<NextVersion>,
}

/// States of a module; each carries only the data that it needs.
#[derive(Debug, Clone, PartialEq)]
pub enum ModuleState {
    /// Being fetched, verified and compiled.
    Preparing,
    /// Could not be prepared; may be tried again.
    PrepareFailed {
        /// When.
        at: Uptime,
    },
    /// Ready to be started; has not run with this spec yet.
    Prepared,
    /// Being instantiated.
    Starting,
    /// Runs.
    Running {
        /// Since when.
        since: Uptime,
    },
    /// Asked to stop.
    Stopping,
    /// Not running because it was asked to stop or has not been asked to start.
    Stopped,
    /// Ended by itself.
    Exited {
        /// Exit code; 0 is done.
        code: i32,
        /// When.
        at: Uptime,
        /// How long it had run.
        ran: Duration,
    },
}

/// The version that is prepared while the old one still runs.
#[derive(Debug, Clone, PartialEq)]
pub struct NextVersion {
    /// What is prepared.
    pub spec: ModuleSpec,
    /// How it stands.
    pub state: NextState,
    /// Failures in a row of preparing it.
    pub failures: u32,
}

/// How the preparation of an update stands.
#[derive(Debug, Clone, PartialEq)]
pub enum NextState {
    /// Under way.
    Preparing,
    /// Failed; the old version runs on.
    Failed {
        /// When.
        at: Uptime,
    },
    /// Ready: the old version may be stopped and the new one started.
    Ready,
}

/// What to do now and when to ask again.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// At most one a module, in the order in which they are to be issued.
    pub steps: Vec<Step>,
    /// When something becomes due by itself; none = only an event changes anything.
    pub wake_at: Option<Uptime>,
}

/// One thing to do for one module.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Fetch, verify, compile this spec. Becomes the module's spec (or its `next` while an old one runs).
    Prepare(ModuleSpec),
    /// Start what is prepared.
    Start(ModuleName),
    /// Stop the running instance.
    Stop(ModuleName),
    /// Forget a module that is not desired any more and does not run.
    Remove(ModuleName),
    /// The update is ready and the old instance is down: put `next` in place of `spec`.
    Promote(ModuleName),
}

/// Says what is to be done.
#[must_use]
pub fn plan(desired: &Deployment, observed: &Observed, now: Uptime) -> Plan {
    let _ = (desired, observed, now);
    Plan::default()
}
