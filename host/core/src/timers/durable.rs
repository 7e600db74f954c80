//! Timers that outlive an instance, the host and the boot: due in elapsed time, stored by the agent after each change.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{MAX_INTERVAL, MAX_TIMERS, check_name};
use crate::{
    elapsed::{Clocks, Elapsed, Stamp},
    ports::TimerError,
};

/// Shortest delay or period. Each firing is a write to flash: one a second is 86,400 a day, some 350 MB.
const MIN_DURABLE_INTERVAL: Duration = Duration::from_secs(1);

/// The durable timers of a module by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurableTimers(BTreeMap<Box<str>, Timer>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Timer {
    due: Elapsed,
    /// In milliseconds; none = once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    period: Option<u64>,
}

/// A timer that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTimer {
    /// Its name.
    pub name: Box<str>,
    /// How many further times it was due meanwhile.
    pub missed: u64,
    /// Since when.
    due: Elapsed,
}

/// A timer as it is shown to the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurableTimer {
    /// Its name.
    pub name: Box<str>,
    /// Until it is due; none left: it is.
    pub due_in: Duration,
    /// None: it fires once.
    pub period: Option<Duration>,
}

/// What is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    stamp: Stamp,
    timers: DurableTimers,
}

const FORMAT: u32 = 1;

impl DurableTimers {
    /// Sets a timer; one of that name is replaced, but for a periodic one with the same period, which keeps its beat. False:
    /// nothing has changed.
    ///
    /// # Errors
    /// A limit is exceeded; nothing changes.
    pub fn set(&mut self, name: &str, interval: Duration, periodic: bool, now: Elapsed) -> Result<bool, TimerError> {
        check_name(name)?;
        if !(MIN_DURABLE_INTERVAL..=MAX_INTERVAL).contains(&interval) {
            return Err(TimerError::BadInterval);
        }
        if self.0.len() >= MAX_TIMERS && !self.0.contains_key(name) {
            return Err(TimerError::TooMany);
        }
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        let period = periodic.then_some(millis);
        if periodic && self.0.get(name).is_some_and(|timer| timer.period == period) {
            return Ok(false);
        }
        self.0.insert(name.into(), Timer { due: Elapsed(now.0.saturating_add(millis)), period });
        Ok(true)
    }

    /// Removes a timer; false when there is none of that name.
    pub fn cancel(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    /// When the next one is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Elapsed> {
        self.0.values().map(|timer| timer.due).min()
    }

    /// The timer that has been due longest. It stays due until it has [fired](Self::fired).
    #[must_use]
    pub fn due(&self, now: Elapsed) -> Option<DueTimer> {
        let (name, timer) = self.0.iter().filter(|(_, timer)| timer.due <= now).min_by_key(|(_, timer)| timer.due)?;
        let missed = timer.period.map_or(0, |period| (now.0 - timer.due.0) / period.max(1));
        Some(DueTimer { name: name.clone(), missed, due: timer.due })
    }

    /// The module has heard this one: it is due again on its beat, or gone. If it was set anew meanwhile, that stays. False: nothing
    /// has changed.
    pub fn fired(&mut self, fired: &DueTimer) -> bool {
        let Some(timer) = self.0.get_mut(&fired.name).filter(|timer| timer.due == fired.due) else { return false };
        match timer.period {
            None => drop(self.0.remove(&fired.name)),
            Some(period) => {
                let beats = fired.missed.saturating_add(1);
                timer.due = Elapsed(timer.due.0.saturating_add(period.max(1).saturating_mul(beats)));
            }
        }
        true
    }

    /// Those that are set, by name.
    #[must_use]
    pub fn list(&self, now: Elapsed) -> Vec<DurableTimer> {
        let shown = |name: &str, timer: &Timer| DurableTimer {
            name: name.into(),
            due_in: Duration::from_millis(timer.due.0.saturating_sub(now.0)),
            period: timer.period.map(Duration::from_millis),
        };
        self.0.iter().map(|(name, timer)| shown(name, timer)).collect()
    }

    /// The document to store, at this moment.
    #[must_use]
    pub fn to_bytes(&self, now: Elapsed, clocks: Clocks) -> Vec<u8> {
        let stored = Stored { format: FORMAT, stamp: Stamp { elapsed: now, clocks }, timers: self.clone() };
        // Names and numbers always have a JSON text.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads a stored document, and tells the moment that these clocks show.
    ///
    /// # Errors
    /// It is damaged, or of a newer format than this version knows.
    pub fn from_bytes(bytes: &[u8], clocks: &Clocks) -> Result<(Self, Elapsed), String> {
        match serde_json::from_slice::<Stored>(bytes) {
            Ok(stored) if stored.format == FORMAT => Ok((stored.timers, stored.stamp.at(clocks))),
            Ok(stored) => {
                Err(format!("its timers were written by a newer version of Marram (format {})", stored.format))
            }
            Err(error) => Err(format!("its timers cannot be read: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::UtcMillis;

    const S: Duration = Duration::from_secs(1);

    fn clocks(boot: u8, since_boot: u64, utc: u64, synchronised: bool) -> Clocks {
        Clocks { boot: [boot; 16], since_boot, utc: UtcMillis(utc), synchronised }
    }

    fn periodic(seconds: u32) -> DurableTimers {
        let mut timers = DurableTimers::default();
        assert_eq!(timers.set("t", S * seconds, true, Elapsed(0)), Ok(true));
        timers
    }

    #[test]
    fn a_timer_is_due_until_it_has_fired_and_keeps_its_beat() {
        let mut timers = periodic(10);
        assert_eq!(timers.due(Elapsed(9_999)), None);
        let due = timers.due(Elapsed(10_300)).unwrap();
        assert_eq!((&*due.name, due.missed), ("t", 0));
        assert_eq!(timers.due(Elapsed(10_300)), Some(due.clone()), "it did not return");
        assert!(timers.fired(&due));
        assert_eq!(timers.next_due(), Some(Elapsed(20_000)), "not 20,300");
        assert!(!timers.fired(&due), "once");
        let late = timers.due(Elapsed(55_000)).unwrap();
        assert_eq!(late.missed, 3);
        timers.fired(&late);
        assert_eq!(timers.next_due(), Some(Elapsed(60_000)));
    }

    #[test]
    fn what_is_set_while_it_fires_stays() {
        let mut timers = DurableTimers::default();
        timers.set("once", S * 5, false, Elapsed(0)).unwrap();
        let due = timers.due(Elapsed(6_000)).unwrap();
        timers.set("once", S * 5, false, Elapsed(6_000)).unwrap();
        assert!(!timers.fired(&due));
        assert_eq!(timers.next_due(), Some(Elapsed(11_000)));
        let due = timers.due(Elapsed(11_000)).unwrap();
        assert!(timers.fired(&due));
        assert_eq!(timers, DurableTimers::default());
    }

    #[test]
    fn the_same_period_set_again_keeps_the_beat_and_another_begins_anew() {
        let mut timers = periodic(10);
        assert_eq!(timers.set("t", S * 10, true, Elapsed(7_000)), Ok(false));
        assert_eq!(timers.next_due(), Some(Elapsed(10_000)));
        assert_eq!(timers.set("t", S * 20, true, Elapsed(7_000)), Ok(true));
        assert_eq!(timers.next_due(), Some(Elapsed(27_000)));
    }

    #[test]
    fn limits_are_checked() {
        let mut timers = DurableTimers::default();
        assert_eq!(timers.set("", S, true, Elapsed(0)), Err(TimerError::BadName));
        assert_eq!(timers.set("t", S - Duration::from_millis(1), true, Elapsed(0)), Err(TimerError::BadInterval));
        assert_eq!(timers.set("t", MAX_INTERVAL + S, false, Elapsed(0)), Err(TimerError::BadInterval));
        for n in 0..MAX_TIMERS {
            timers.set(&n.to_string(), S, false, Elapsed(0)).unwrap();
        }
        assert_eq!(timers.set("x", S, false, Elapsed(0)), Err(TimerError::TooMany));
        assert_eq!(timers.set("7", S * 2, false, Elapsed(0)), Ok(true));
        assert!(timers.cancel("7") && !timers.cancel("7"));
    }

    #[test]
    fn over_a_restart_in_the_same_boot_the_time_between_counts_whatever_the_wall_clock_does() {
        let stored = periodic(10).to_bytes(Elapsed(2_000), clocks(1, 50_000, 0, false));
        let year = 365 * 86_400_000;
        let (timers, now) = DurableTimers::from_bytes(&stored, &clocks(1, 83_000, 56 * year, true)).unwrap();
        assert_eq!(now, Elapsed(35_000));
        assert_eq!(timers.due(now).map(|due| due.missed), Some(2), "due at 10, 20 and 30 s");
    }

    #[test]
    fn over_a_boot_with_an_unknown_gap_only_this_boot_counts() {
        let stored = periodic(10).to_bytes(Elapsed(2_000), clocks(1, 50_000, 0, false));
        let (timers, now) = DurableTimers::from_bytes(&stored, &clocks(2, 4_000, 1 << 40, true)).unwrap();
        assert_eq!((now, timers.due(now)), (Elapsed(6_000), None));
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        let newer = String::from_utf8(periodic(10).to_bytes(Elapsed(0), Clocks::default())).unwrap();
        let newer = newer.replace("\"format\":1", "\"format\":2");
        let read = |bytes: &[u8]| DurableTimers::from_bytes(bytes, &Clocks::default()).unwrap_err();
        assert!(read(newer.as_bytes()).contains("newer version of Marram (format 2)"));
        assert!(read(b"{").contains("cannot be read"));
    }

    proptest! {
        /// However the calls fall, over restarts at any moment, each beat is told exactly once: as a call or as a missed one.
        #[test]
        fn no_beat_is_told_twice_or_lost(
            period in 1_000_u64..5_000,
            steps in prop::collection::vec((0_u64..20_000, any::<bool>()), 1..40),
        ) {
            let mut timers = DurableTimers::default();
            timers.set("t", Duration::from_millis(period), true, Elapsed(0)).unwrap();
            let (mut now, mut since_boot, mut told) = (Elapsed(0), 0, 0);
            for (passed, restarts) in steps {
                now.0 += passed;
                if restarts {
                    let bytes = timers.to_bytes(now, clocks(1, since_boot, 0, false));
                    since_boot += passed;
                    let (read, at) = DurableTimers::from_bytes(&bytes, &clocks(1, since_boot, 0, true)).unwrap();
                    (timers, now) = (read, at);
                }
                let mut calls = 0;
                while let Some(due) = timers.due(now) {
                    told += 1 + due.missed;
                    calls += 1;
                    prop_assert!(timers.fired(&due));
                }
                prop_assert!(calls <= 1, "a burst");
                prop_assert_eq!(told, now.0 / period);
            }
        }
    }
}
