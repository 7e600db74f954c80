//! The two clocks, read here and nowhere else in the agent.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use marram_core::time::{Uptime, UtcMillis};
use rustix::time::{ClockId, clock_gettime};

/// Reads time for the pure parts, which take it as an argument.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock whose [`Uptime`] starts now.
    #[must_use]
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Monotonic time since [`Clock::start`].
    #[must_use]
    pub(crate) fn uptime(&self) -> Uptime {
        Uptime(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The instant of an uptime, for timers.
    #[must_use]
    pub(crate) fn instant(&self, at: Uptime) -> tokio::time::Instant {
        // A century is for ever; it keeps the sum in range.
        let offset = Duration::from_millis(at.0).min(Duration::from_secs(100 * 365 * 86_400));
        (self.started + offset).into()
    }

    /// The device's wall clock.
    #[must_use]
    pub(crate) fn utc(&self) -> UtcMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UtcMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The wall clock to the kernel's tick (1 to 10 ms), a quarter of the price: stamped on each message.
    #[must_use]
    pub(crate) fn utc_coarse(&self) -> UtcMillis {
        let time = clock_gettime(ClockId::RealtimeCoarse);
        let millis = time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000);
        UtcMillis(u64::try_from(millis).unwrap_or(0))
    }
}
