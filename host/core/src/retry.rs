//! Whether, and after how long, a request to a registry is made again within one fetch. Reads no clock and draws no lots:
//! chance is an argument, and the wait is an answer.
//!
//! It bridges seconds: a connection that broke, a registry that restarts, one that asks for a pause. What lasts longer is
//! the supervisor's, which begins the whole fetch again after [`crate::planner::backoff`]; what has been downloaded by then
//! is on the disk. A refusal is no fault here: it is never tried again.

use std::time::Duration;

/// How often and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Most tries of a request, the first one counted.
    pub tries: u32,
    /// Longest wait after the first try; each later one may be twice as long.
    pub first: Duration,
    /// Longest wait that is ours. It does not bound what a registry asks for.
    pub longest: Duration,
    /// Longest pause asked for by a registry that is waited for.
    pub longest_asked: Duration,
}

impl Default for Policy {
    /// Four tries within some seven seconds: enough for a router that reconnects or a registry that restarts. A longer
    /// one would keep other images waiting for this one's place.
    fn default() -> Self {
        Self {
            tries: 4,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(8),
            longest_asked: Duration::from_secs(30),
        }
    }
}

/// What went wrong, as far as another try is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No connection, or no answer in time: the device may be offline.
    NoAnswer,
    /// The source cannot serve now (408, 429, 5xx), and perhaps says when to come back.
    Busy {
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The transfer broke off in its middle, or was given up as too slow ([`crate::pace`]).
    BrokeOff,
    /// It will be the same in a few seconds: a certificate that is not accepted.
    Lasting,
}

/// What there is if this source fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standby {
    /// Nothing.
    Nothing,
    /// A copy on the device: one that may well be offline does not wait for the network.
    Copy,
    /// Another source, which is asked at once.
    Source,
}

/// The tries of one request, or of one download.
#[derive(Debug, Clone)]
pub struct Tries {
    policy: Policy,
    standby: Standby,
    made: u32,
}

impl Tries {
    /// Before the first.
    #[must_use]
    pub fn new(policy: Policy, standby: Standby) -> Self {
        Self { policy, standby, made: 0 }
    }

    /// A try has failed: the wait before the next, or none when it was the last. `chance` is drawn evenly from all of
    /// `u32`; it spreads the wait over the upper half of its range, so that devices that failed together do not come back
    /// together.
    pub fn failed(&mut self, fault: Fault, chance: u32) -> Option<Duration> {
        self.made = self.made.saturating_add(1);
        let asked = match (fault, self.standby) {
            (Fault::Lasting, _) | (_, Standby::Source) | (Fault::NoAnswer, Standby::Copy) => return None,
            (Fault::Busy { retry_after }, _) => retry_after.unwrap_or_default(),
            (Fault::NoAnswer | Fault::BrokeOff, _) => Duration::ZERO,
        };
        if self.made >= self.policy.tries || asked > self.policy.longest_asked {
            return None;
        }
        Some(asked.max(self.spread(chance)))
    }

    /// The request got somewhere before it failed: what it needs is patience, and the count begins anew.
    pub fn progressed(&mut self) {
        self.made = 0;
    }

    fn spread(&self, chance: u32) -> Duration {
        let doublings = self.made.saturating_sub(1).min(16);
        let whole = self.policy.first.saturating_mul(1 << doublings).min(self.policy.longest);
        let half = whole / 2;
        half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUSY: Fault = Fault::Busy { retry_after: None };

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn asks_for(seconds: u64) -> Fault {
        Fault::Busy { retry_after: Some(secs(seconds)) }
    }

    fn waits(standby: Standby, faults: &[Fault]) -> Vec<Option<Duration>> {
        let mut tries = Tries::new(Policy::default(), standby);
        faults.iter().map(|fault| tries.failed(*fault, u32::MAX)).collect()
    }

    #[test]
    fn waits_double_and_the_fourth_failure_is_the_last() {
        let expected = [Some(secs(1)), Some(secs(2)), Some(secs(4)), None, None];
        assert_eq!(waits(Standby::Nothing, &[Fault::NoAnswer, BUSY, Fault::BrokeOff, BUSY, BUSY]), expected);
    }

    #[test]
    fn the_pause_that_a_registry_asks_for_is_kept_unless_it_is_long() {
        assert_eq!(waits(Standby::Nothing, &[asks_for(20), asks_for(0)]), [Some(secs(20)), Some(secs(2))]);
        assert_eq!(waits(Standby::Nothing, &[asks_for(31)]), [None]);
    }

    #[test]
    fn what_lasts_is_not_tried_again() {
        assert_eq!(waits(Standby::Nothing, &[Fault::Lasting]), [None]);
    }

    #[test]
    fn a_device_with_a_copy_does_not_wait_for_a_network_that_may_be_away() {
        assert_eq!(waits(Standby::Copy, &[Fault::NoAnswer]), [None]);
        assert_eq!(waits(Standby::Copy, &[BUSY, Fault::BrokeOff]), [Some(secs(1)), Some(secs(2))]);
    }

    #[test]
    fn the_next_source_is_asked_at_once() {
        for fault in [Fault::NoAnswer, BUSY, asks_for(1), Fault::BrokeOff] {
            assert_eq!(waits(Standby::Source, &[fault]), [None], "{fault:?}");
        }
    }

    fn any_fault() -> impl Strategy<Value = Fault> {
        prop_oneof![
            Just(Fault::NoAnswer),
            Just(Fault::BrokeOff),
            Just(Fault::Lasting),
            proptest::option::of(0_u64..60).prop_map(|s| Fault::Busy { retry_after: s.map(secs) }),
        ]
    }

    proptest! {
        #[test]
        fn tries_are_bounded_and_each_wait_is_within_its_bounds(
            faults in proptest::collection::vec((any_fault(), any::<u32>()), 1..40),
            tries in 0_u32..8,
            first in 1_u64..20_000,
            longest in 1_u64..20_000,
        ) {
            let policy = Policy {
                tries,
                first: Duration::from_millis(first),
                longest: Duration::from_millis(longest),
                ..Policy::default()
            };
            let mut state = Tries::new(policy, Standby::Nothing);
            let mut waits = 0;
            for (fault, chance) in faults {
                let Some(wait) = state.failed(fault, chance) else { break };
                waits += 1;
                let asked = match fault {
                    Fault::Busy { retry_after: Some(asked) } => asked,
                    _ => Duration::ZERO,
                };
                let least = policy.first.min(policy.longest) / 2;
                prop_assert!(wait >= asked.max(least), "{wait:?}");
                prop_assert!(wait <= policy.longest.max(asked) && wait <= policy.longest.max(policy.longest_asked));
            }
            prop_assert!(waits < tries.max(1));
        }
    }
}
