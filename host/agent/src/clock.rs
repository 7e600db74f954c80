//! The clocks of the device, read here and nowhere else in the agent.

use std::{
    path::Path,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use marram_core::{
    elapsed::Clocks,
    time::{Uptime, UtcMillis},
};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Is there once systemd-timesyncd has set the clock in this boot. The kernel knows too, but only tells by `adjtimex`, for which no safe
/// call is at hand; without the file the clock counts as not synchronised, and a message lives too long rather than too short.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// Another source of time than the device's clocks: that of a simulation.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// Milliseconds since the boot, suspended time included; never falls.
    pub since_boot: fn() -> u64,
    /// The wall clock.
    pub utc: fn() -> UtcMillis,
}

/// Reads time for the pure parts, which take it as an argument.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    /// Milliseconds from the boot to the start.
    started: u64,
    /// The same moment on the clock of timers, which stands while the device is suspended.
    began: tokio::time::Instant,
    read: fn() -> Clocks,
    /// None: the device's clocks, read without a detour, because each message is stamped.
    time: Option<Time>,
}

impl Clock {
    /// A clock whose [`Uptime`] starts now.
    #[cfg(test)]
    pub(crate) fn start() -> Self {
        Self::start_with(clocks)
    }

    /// A clock whose [`Uptime`] starts now; `read` reads what the message log notes.
    pub(crate) fn start_with(read: fn() -> Clocks) -> Self {
        Self { started: since_boot(), began: tokio::time::Instant::now(), read, time: None }
    }

    /// A clock of a simulation.
    pub(crate) fn simulated(read: fn() -> Clocks, time: Time) -> Self {
        Self { started: (time.since_boot)(), began: tokio::time::Instant::now(), read, time: Some(time) }
    }

    /// Monotonic time since [`Clock::start`], suspended time included: what a time to live is spent in.
    #[must_use]
    pub(crate) fn uptime(&self) -> Uptime {
        let since_boot = self.time.map_or_else(since_boot, |time| (time.since_boot)());
        Uptime(since_boot.saturating_sub(self.started))
    }

    /// How much of the uptime the device was suspended; to some milliseconds.
    #[must_use]
    pub(crate) fn suspended(&self) -> Duration {
        Duration::from_millis(self.uptime().0).saturating_sub(self.began.elapsed())
    }

    /// The instant of an uptime, for timers.
    #[must_use]
    pub(crate) fn instant(&self, at: Uptime) -> tokio::time::Instant {
        // A century is for ever; it keeps the sum in range.
        let left = Duration::from_millis(at.0.saturating_sub(self.uptime().0));
        tokio::time::Instant::now() + left.min(Duration::from_secs(100 * 365 * 86_400))
    }

    /// The device's wall clock.
    #[must_use]
    pub(crate) fn utc(&self) -> UtcMillis {
        if let Some(time) = self.time {
            return (time.utc)();
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UtcMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The wall clock to the kernel's tick (1 to 10 ms), a quarter of the price: stamped on each message.
    #[must_use]
    pub(crate) fn utc_coarse(&self) -> UtcMillis {
        self.time.map_or_else(|| UtcMillis(millis(clock_gettime(ClockId::RealtimeCoarse))), |time| (time.utc)())
    }

    /// Something in 0..1 that differs between messages and devices; in a simulation always the same.
    pub(crate) fn jitter(&self) -> f64 {
        self.time.map_or_else(jitter, |_| 0.5)
    }

    /// What the message log notes.
    pub(crate) fn clocks(&self) -> Clocks {
        (self.read)()
    }
}

/// No need for it to be hard to guess.
fn jitter() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(0) >> 11) as f64 / (1u64 << 53) as f64
}

/// What the clocks of this device show now.
#[must_use]
pub fn clocks() -> Clocks {
    Clocks {
        boot: boot(),
        since_boot: since_boot(),
        utc: UtcMillis(millis(clock_gettime(ClockId::Realtime))),
        synchronised: Path::new(SYNCHRONISED).exists(),
    }
}

fn since_boot() -> u64 {
    millis(clock_gettime(ClockId::Boottime))
}

fn millis(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)).unwrap_or(0)
}

/// The kernel's random number of this boot.
fn boot() -> [u8; 16] {
    static BOOT: OnceLock<[u8; 16]> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: Vec<u8> =
            text.chars().filter_map(|c| c.to_digit(16)).filter_map(|digit| u8::try_from(digit).ok()).collect();
        let mut boot = [0; 16];
        for (byte, pair) in boot.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        boot
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_has_a_number() {
        let now = clocks();
        assert_ne!(now.boot, [0; 16]);
        assert_eq!(now.boot, clocks().boot);
        assert!(now.since_boot > 0 && now.utc > UtcMillis(1_600_000_000_000));
    }

    #[tokio::test]
    async fn a_timer_of_an_uptime_is_due_when_the_clock_shows_it() {
        let clock = Clock::start();
        let at = clock.uptime().after(Duration::from_millis(20));
        tokio::time::sleep_until(clock.instant(at)).await;
        assert!(clock.uptime() >= at);
    }
}
