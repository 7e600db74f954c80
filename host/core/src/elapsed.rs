//! Time that is spent: how a time to live goes on over restarts of the host and of the device, whatever the wall clock does.
//!
//! Elapsed time counts from the making of a log and never runs backwards. A [`Stamp`] in the log says what the clocks showed
//! at one moment of it; from the last stamp and the clocks of a new start follows how much has passed since:
//!
//! - in the same boot, what the kernel's boot-time clock says: exact, suspended time included;
//! - in another boot, the difference of the wall clocks if both were synchronised;
//! - otherwise the time between the stamp and the start of this boot is unknown and counts as zero. A device without a battery
//!   clock boots in 1970 and is set years ahead later: a message that lives a little too long is the smaller harm.
//!
//! What this boot has lasted is known in any case.

use serde::{Deserialize, Serialize};

use crate::time::UtcMillis;

/// Milliseconds of elapsed time since a log was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Elapsed(pub u64);

/// What the clocks of a device show at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Clocks {
    /// The kernel's random number of this boot.
    pub boot: [u8; 16],
    /// Milliseconds since the boot, suspended time included.
    pub since_boot: u64,
    /// The wall clock.
    pub utc: UtcMillis,
    /// Whether the wall clock was set by an authority (NTP, the cloud) in this boot.
    pub synchronised: bool,
}

/// What the clocks showed at a moment of elapsed time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// The moment.
    pub elapsed: Elapsed,
    /// The clocks then.
    pub clocks: Clocks,
}

impl Stamp {
    /// The moment at which the clocks show `now`; never before the stamp.
    #[must_use]
    pub fn at(&self, now: &Clocks) -> Elapsed {
        let then = &self.clocks;
        let passed = if then.boot == now.boot {
            now.since_boot.saturating_sub(then.since_boot)
        } else if then.synchronised && now.synchronised {
            now.utc.0.saturating_sub(then.utc.0).max(now.since_boot)
        } else {
            now.since_boot
        };
        Elapsed(self.elapsed.0.saturating_add(passed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400_000;

    fn clocks(boot: u8, since_boot: u64, utc: u64, synchronised: bool) -> Clocks {
        Clocks { boot: [boot; 16], since_boot, utc: UtcMillis(utc), synchronised }
    }

    fn check(then: Clocks, now: Clocks, passed: u64) {
        let stamp = Stamp { elapsed: Elapsed(1000), clocks: then };
        assert_eq!(stamp.at(&now), Elapsed(1000 + passed));
    }

    #[test]
    fn within_a_boot_no_step_of_the_wall_clock_counts() {
        check(clocks(1, 5000, 0, true), clocks(1, 8000, 56 * 365 * DAY, true), 3000);
        check(clocks(1, 5000, 2 * DAY, true), clocks(1, 8000, DAY, true), 3000);
    }

    #[test]
    fn over_boots_the_wall_clocks_count_when_both_are_synchronised() {
        check(clocks(1, 5000, DAY, true), clocks(2, 8000, 3 * DAY, true), 2 * DAY);
    }

    #[test]
    fn over_boots_an_unknown_gap_counts_as_zero_and_this_boot_counts() {
        check(clocks(1, 5000, DAY, false), clocks(2, 8000, 3 * DAY, true), 8000);
        check(clocks(1, 5000, DAY, true), clocks(2, 8000, 56 * 365 * DAY, false), 8000);
        check(clocks(1, 5000, 3 * DAY, true), clocks(2, 8000, DAY, true), 8000);
    }

    fn any_clocks() -> impl Strategy<Value = Clocks> {
        (0u8..3, any::<u64>(), any::<u64>(), any::<bool>())
            .prop_map(|(boot, since_boot, utc, synchronised)| clocks(boot, since_boot, utc, synchronised))
    }

    proptest! {
        #[test]
        fn elapsed_time_never_runs_backwards(elapsed: u64, then in any_clocks(), now in any_clocks()) {
            let stamp = Stamp { elapsed: Elapsed(elapsed), clocks: then };
            prop_assert!(stamp.at(&now) >= stamp.elapsed);
        }

        #[test]
        fn without_two_synchronised_clocks_utc_has_no_say(then in any_clocks(), now in any_clocks(), other: u64) {
            prop_assume!(then.boot == now.boot || !(then.synchronised && now.synchronised));
            let stamp = Stamp { elapsed: Elapsed(0), clocks: then };
            let stepped = Clocks { utc: UtcMillis(other), ..now };
            prop_assert_eq!(stamp.at(&now), stamp.at(&stepped));
        }
    }
}
