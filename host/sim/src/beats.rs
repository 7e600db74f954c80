//! Durable timers in a simulation: each module that has one is told of each beat, however often it is ended, and however often its
//! host is. Nothing that is stored is lost by a kill: that is the promise of the store's writes, and what its own attacks show.

use std::collections::BTreeMap;

use crate::time::now;

/// Beats that a module that is up may be late: a call that runs, and a start.
const LATE: u64 = 30_000;

/// The timers of all modules, over all lives of the host.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    timers: BTreeMap<String, Timer>,
    pub(crate) broken: Vec<String>,
}

/// A periodic timer.
#[derive(Debug, Clone, Copy)]
struct Timer {
    period: u64,
    /// Beats are at this and so many periods later.
    set: u64,
    /// The last beat that its module has heard of.
    told: u64,
    /// The last one of which the disk knows that.
    stored: u64,
}

impl Beats {
    /// A module has set its timer, and was told that it is stored. One of the same period goes on.
    pub(crate) fn set(&mut self, module: &str, period: u64) {
        let new = Timer { period, set: now(), told: now(), stored: now() };
        let timer = self.timers.entry(module.into()).or_insert(new);
        if timer.period != period {
            *timer = new;
        }
    }

    /// The disk has taken what is known of the timers of a module.
    pub(crate) fn stored(&mut self, module: &str) {
        if let Some(timer) = self.timers.get_mut(module) {
            timer.stored = timer.told;
        }
    }

    /// A module hears a beat, and of so many missed ones. Returns the last of them, for its end.
    pub(crate) fn begins(&mut self, module: &str, missed: u64) -> u64 {
        let Some(Timer { period, set, told, stored }) = self.timers.get(module).copied() else {
            self.check(false, "a timer that was never set does not fire", module);
            return 0;
        };
        let last = now() - (now() - set) % period;
        let first = last.saturating_sub(missed.saturating_mul(period));
        self.check(last > stored, "no beat is told before it is due, and none again that is known to be heard", module);
        // After the module was away its timers may be those of the disk.
        let follows = [told, stored].contains(&(first.saturating_sub(period)));
        self.check(follows, "each beat is told, as a call or as a missed one", module);
        last
    }

    /// It has returned from that.
    pub(crate) fn ends(&mut self, module: &str, last: u64) {
        // It may have been set anew meanwhile.
        if let Some(timer) = self.timers.get_mut(module).filter(|timer| timer.set <= last) {
            timer.told = timer.told.max(last);
        }
    }

    /// The host has ended: it knows what the disk knows.
    pub(crate) fn forget(&mut self) {
        self.timers.values_mut().for_each(|timer| timer.told = timer.stored);
    }

    /// A module has been up for long, and nothing fails.
    pub(crate) fn invariant_beats_are_told_while_a_module_is_up(&mut self, module: &str) {
        if let Some(Timer { period, told, .. }) = self.timers.get(module).copied() {
            self.check(now() <= told + period + LATE, "beats are told while a module is up", module);
        }
    }

    fn check(&mut self, holds: bool, name: &str, module: &str) {
        if !holds {
            self.broken.push(format!("{name}: {module} at {} ms", now()));
        }
    }
}
