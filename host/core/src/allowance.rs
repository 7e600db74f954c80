//! How often something may be done that wears the flash: some at once, and after that at an average rate.

use std::time::{Duration, Instant};

/// One who does it. Reads no clock: times are arguments.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Time that each costs.
    each: Duration,
    /// So many at once, before that holds.
    burst: u32,
    /// Until when what was taken so far uses up what is allowed.
    paid_until: Option<Instant>,
}

impl Allowance {
    /// Of one who has done nothing yet.
    #[must_use]
    pub const fn new(each: Duration, burst: u32) -> Self {
        Self { each, burst, paid_until: None }
    }

    /// From when on the next may be done: now, or as soon as there is one left.
    #[must_use]
    pub fn next(&self, now: Instant) -> Instant {
        (self.from(now) + self.each).checked_sub(self.each * self.burst).map_or(now, |at| at.max(now))
    }

    /// So many are done at once, at this time or as soon as they may. More than all that is allowed at once wait no longer than one does, but
    /// what comes after them does.
    pub fn take(&mut self, count: u32, now: Instant) {
        self.paid_until = Some(self.from(now) + self.each * count);
    }

    fn from(&self, now: Instant) -> Instant {
        self.paid_until.map_or(now, |until| until.max(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EACH: Duration = Duration::from_secs(60);
    const BURST: u32 = 10;

    #[allow(clippy::disallowed_methods)] // the only way to have one
    fn some_moment() -> Instant {
        Instant::now()
    }

    fn take(allowance: &mut Allowance, count: u32, now: Instant) -> Instant {
        let at = allowance.next(now);
        allowance.take(count, now);
        at
    }

    #[test]
    fn ten_are_done_at_once_and_one_a_minute_after_that() {
        let (mut allowance, now) = (Allowance::new(EACH, BURST), some_moment());
        let waits: Vec<Duration> = (0..13).map(|_| take(&mut allowance, 1, now) - now).collect();
        assert_eq!(waits[..10], [Duration::ZERO; 10]);
        assert_eq!(waits[10..], [EACH, EACH * 2, EACH * 3]);
        let later = now + EACH * 12;
        assert_eq!(take(&mut allowance, 1, later) - later, Duration::ZERO, "time brings them back");
    }

    #[test]
    fn what_is_more_than_is_allowed_at_once_is_paid_for_by_the_next() {
        let (mut allowance, now) = (Allowance::new(EACH, BURST), some_moment());
        assert_eq!(take(&mut allowance, 25, now), now);
        assert_eq!(take(&mut allowance, 1, now) - now, EACH * 16);
    }

    proptest! {
        #[test]
        fn no_more_than_the_burst_and_what_the_time_brings_are_ever_done(
            gaps in proptest::collection::vec(0u64..200, 1..200),
        ) {
            let (mut allowance, begun) = (Allowance::new(EACH, BURST), some_moment());
            let mut now = begun;
            let mut done = Vec::new();
            for gap in gaps {
                now += Duration::from_secs(gap);
                let at = take(&mut allowance, 1, now);
                prop_assert!(at >= now);
                prop_assert!(done.last().is_none_or(|last| at >= *last), "in their order");
                done.push(at);
            }
            for (first, from) in done.iter().enumerate() {
                for (last, to) in done.iter().enumerate().skip(first) {
                    let brought = (*to - *from).as_secs() / EACH.as_secs();
                    prop_assert!((last - first) as u64 <= u64::from(BURST) + brought);
                }
            }
        }
    }
}
