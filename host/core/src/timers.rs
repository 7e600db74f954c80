//! The named timers of one module: when each is due, free of drift, late ones once. Here: those that live as long as an instance;
//! `durable`: those that outlive it.

mod durable;

use std::{collections::BTreeMap, time::Duration};

pub use self::durable::{DueTimer, DurableTimer, DurableTimers};
use crate::{ports::TimerError, time::Uptime};

/// Most timers of a module. A driver polls a few devices; more is a leak.
pub const MAX_TIMERS: usize = 64;
/// Longest name in bytes.
pub const MAX_TIMER_NAME: usize = 64;
/// Longest delay or period: 31 days.
pub const MAX_INTERVAL: Duration = Duration::from_secs(31 * 86_400);

/// Timers by name.
#[derive(Debug, Clone, Default)]
pub struct Timers(BTreeMap<Box<str>, Timer>);

#[derive(Debug, Clone)]
struct Timer {
    due: Uptime,
    /// In milliseconds; none = once.
    period: Option<u64>,
}

impl Timers {
    /// Sets a timer; one of that name is replaced.
    ///
    /// # Errors
    /// A limit is exceeded; nothing changes.
    pub fn set(&mut self, name: &str, interval: Duration, periodic: bool, now: Uptime) -> Result<(), TimerError> {
        check_name(name)?;
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 || interval > MAX_INTERVAL {
            return Err(TimerError::BadInterval);
        }
        if self.0.len() >= MAX_TIMERS && !self.0.contains_key(name) {
            return Err(TimerError::TooMany);
        }
        self.0.insert(name.into(), Timer { due: now.after(interval), period: periodic.then_some(millis) });
        Ok(())
    }

    /// Removes a timer; false when there is none of that name.
    pub fn cancel(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// When the next one is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Uptime> {
        self.0.values().map(|timer| timer.due).min()
    }

    /// The timer that has been due longest, and how many further times it was due meanwhile. It is set anew if periodic,
    /// on the same beat, and gone otherwise.
    pub fn pop_due(&mut self, now: Uptime) -> Option<(Box<str>, u64)> {
        let (name, timer) =
            self.0.iter_mut().filter(|(_, timer)| timer.due <= now).min_by_key(|(_, timer)| timer.due)?;
        let name = name.clone();
        let Some(period) = timer.period else {
            self.0.remove(&name);
            return Some((name, 0));
        };
        let missed = (now.0 - timer.due.0) / period;
        timer.due = Uptime(timer.due.0 + period * (missed + 1));
        Some((name, missed))
    }
}

fn check_name(name: &str) -> Result<(), TimerError> {
    if name.is_empty() || name.len() > MAX_TIMER_NAME { Err(TimerError::BadName) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_periodic_timer_keeps_its_beat_and_counts_what_it_missed() {
        let mut timers = Timers::default();
        timers.set("t", ms(100), true, Uptime(0)).unwrap();
        assert_eq!(timers.pop_due(Uptime(99)), None);
        assert_eq!(timers.pop_due(Uptime(130)), Some(("t".into(), 0)));
        assert_eq!(timers.next_due(), Some(Uptime(200)), "not 230");
        assert_eq!(timers.pop_due(Uptime(555)), Some(("t".into(), 3)));
        assert_eq!(timers.next_due(), Some(Uptime(600)));
    }

    #[test]
    fn a_one_shot_timer_fires_once_and_the_longest_due_goes_first() {
        let mut timers = Timers::default();
        timers.set("late", ms(50), false, Uptime(0)).unwrap();
        timers.set("early", ms(20), false, Uptime(0)).unwrap();
        assert_eq!(timers.pop_due(Uptime(60)), Some(("early".into(), 0)));
        assert_eq!(timers.pop_due(Uptime(60)), Some(("late".into(), 0)));
        assert_eq!(timers.pop_due(Uptime(1000)), None);
    }

    #[test]
    fn limits_are_checked_and_replacing_is_not_one_more() {
        let mut timers = Timers::default();
        assert_eq!(timers.set("", ms(1), false, Uptime(0)), Err(TimerError::BadName));
        assert_eq!(timers.set("t", ms(0), true, Uptime(0)), Err(TimerError::BadInterval));
        assert_eq!(timers.set("t", MAX_INTERVAL + ms(1), true, Uptime(0)), Err(TimerError::BadInterval));
        for n in 0..MAX_TIMERS {
            timers.set(&n.to_string(), ms(1), true, Uptime(0)).unwrap();
        }
        assert_eq!(timers.set("x", ms(1), true, Uptime(0)), Err(TimerError::TooMany));
        assert_eq!(timers.set("7", ms(9), true, Uptime(0)), Ok(()));
        assert!(timers.cancel("7"));
        assert!(!timers.cancel("7"));
    }
}
