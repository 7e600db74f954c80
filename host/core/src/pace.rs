//! How long a sender is waited for that sends little: the slowest rate, with an allowance for pauses. Reads no clock: the
//! waits are arguments, and only they count, so that nobody is blamed for the time that our own disk takes.
//!
//! The rate alone would not do: whoever announces much may then send nothing for hours. Nor would a pause alone: a byte
//! every few seconds ends it. So waiting is paid from an account that holds one window at most and that bytes fill.
//!
//! - Who sends what `rate` makes of a window in every interval of that length passes, in whatever lumps.
//! - All that bytes are waited for is at most one window, and the time that they take at `rate`.

use std::time::Duration;

/// The slowest sender that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slowest {
    /// Bytes a second, at least 1.
    pub rate: u32,
    /// Longest pause, and how long a sender may stay below the rate.
    pub window: Duration,
}

impl Default for Slowest {
    /// 2 KiB/s is half of what GPRS gives. Thirty seconds bridge a change of the radio cell; twice that would only let who
    /// drips keep a place of downloads twice as long.
    fn default() -> Self {
        Self { rate: 2 << 10, window: Duration::from_secs(30) }
    }
}

/// One transfer.
#[derive(Debug, Clone)]
pub struct Pace {
    slowest: Slowest,
    /// The time for which the sender is waited yet.
    left: Duration,
}

impl Pace {
    /// Before the first byte: there is a whole window.
    #[must_use]
    pub fn new(slowest: Slowest) -> Self {
        Self { slowest, left: slowest.window }
    }

    /// How long the next piece is waited for. Zero: the sender is too slow.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.left
    }

    /// A piece of so many bytes came after this wait.
    pub fn received(&mut self, waited: Duration, bytes: usize) {
        let rate = u128::from(self.slowest.rate.max(1));
        // Rounded up: whoever is just fast enough is never too slow.
        let nanos = (bytes as u128).saturating_mul(1_000_000_000).div_ceil(rate);
        let earned = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.left = self.left.saturating_sub(waited).saturating_add(earned).min(self.slowest.window);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How long a sender is waited for in all, and whether it was borne to the end.
    fn waited(slowest: Slowest, pieces: impl IntoIterator<Item = (Duration, usize)>) -> (Duration, bool) {
        let (mut pace, mut sum) = (Pace::new(slowest), Duration::ZERO);
        for (wait, bytes) in pieces {
            if wait >= pace.patience() {
                return (sum + pace.patience(), false);
            }
            pace.received(wait, bytes);
            sum += wait;
        }
        (sum, true)
    }

    fn default_bears(pieces: impl IntoIterator<Item = (u64, usize)>) -> bool {
        let pieces = pieces.into_iter().map(|(millis, bytes)| (Duration::from_millis(millis), bytes));
        waited(Slowest::default(), pieces).1
    }

    #[test]
    fn two_kib_a_second_are_borne_for_hours_and_a_little_less_is_not() {
        assert!(default_bears([(500, 1024)].into_iter().cycle().take(100_000)));
        assert!(default_bears([(29_000, 58 << 10)].into_iter().cycle().take(1000)), "in lumps");
        assert!(!default_bears([(500, 1000)].into_iter().cycle().take(100_000)));
    }

    #[test]
    fn a_byte_now_and_then_is_borne_for_one_window() {
        let drops = [(Duration::from_secs(1), 1)].into_iter().cycle().take(10_000);
        let (borne, to_the_end) = waited(Slowest::default(), drops);
        assert!(!to_the_end && borne < Duration::from_secs(31), "{borne:?}");
    }

    #[test]
    fn a_fast_beginning_buys_no_more_than_a_window() {
        let mut pace = Pace::new(Slowest::default());
        pace.received(Duration::from_millis(1), 100 << 20);
        assert_eq!(pace.patience(), Slowest::default().window);
    }

    fn any_slowest() -> impl Strategy<Value = Slowest> {
        (1_u32..5000, 1_u64..5000).prop_map(|(rate, millis)| Slowest { rate, window: Duration::from_millis(millis) })
    }

    proptest! {
        #[test]
        fn all_waiting_is_bounded_by_a_window_and_what_came(
            slowest in any_slowest(),
            pieces in prop::collection::vec((0_u64..2000, 0_usize..3000), 0..60),
        ) {
            let pieces = pieces.into_iter().map(|(millis, bytes)| (Duration::from_millis(millis), bytes));
            let (mut pace, mut sum, mut bytes) = (Pace::new(slowest), Duration::ZERO, 0);
            for (wait, piece) in pieces {
                sum += wait.min(pace.patience());
                let earned = Duration::from_secs_f64(bytes as f64 / f64::from(slowest.rate));
                prop_assert!(sum <= slowest.window + earned + Duration::from_micros(1));
                if wait >= pace.patience() {
                    break;
                }
                pace.received(wait, piece);
                bytes += piece;
            }
        }

        /// Slots of one second each; `window` of them in a row hold what the rate asks for, in any order.
        #[test]
        fn who_sends_enough_in_each_window_passes(
            window in 1_usize..6,
            rate in 1_u32..50,
            mut slots in prop::collection::vec(prop_oneof![Just(0_usize), 0_usize..300], 1..40),
        ) {
            for slot in window.saturating_sub(1)..slots.len() {
                let there: usize = slots[slot + 1 - window..=slot].iter().sum();
                slots[slot] += (window * rate as usize).saturating_sub(there);
            }
            let slowest = Slowest { rate, window: Duration::from_millis(window as u64 * 1000 + 1) };
            let (mut pieces, mut wait) = (Vec::new(), Duration::ZERO);
            for bytes in slots {
                wait += Duration::from_secs(1);
                if bytes > 0 {
                    pieces.push((std::mem::take(&mut wait), bytes));
                }
            }
            prop_assert!(waited(slowest, pieces).1);
        }
    }
}
