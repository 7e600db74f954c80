//! Two clocks, two types, so that they cannot be mixed up.

mod rfc3339;

use std::time::Duration;

pub use self::rfc3339::as_text;

/// Monotonic time since the host process started, in milliseconds: back-off, time-outs, time to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uptime(pub u64);

impl Uptime {
    /// This time plus `by`; never overflows.
    #[must_use]
    pub fn after(self, by: Duration) -> Uptime {
        Uptime(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Uptime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The device's wall clock, milliseconds since 1970-01-01 UTC. For people and for messages; no decision is taken by it.
/// Shown as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct UtcMillis(pub u64);
