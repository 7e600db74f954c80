//! What is counted of one module since the host started, for the metrics.

use marram_core::time::Uptime;

/// Of one module.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Instances that were started.
    pub(super) starts: u64,
    /// Instances that were asked to end.
    pub(super) stops: u64,
    /// Updates whose preparation was begun.
    updates: u64,
    /// It was up and in charge.
    pub(super) running: Span,
    /// Its deployment wanted it running.
    pub(super) expected: Span,
}

/// The same as plain numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ModuleNumbers {
    pub(crate) starts: u64,
    pub(crate) stops: u64,
    pub(crate) updates: u64,
    /// Milliseconds.
    pub(crate) running: u64,
    /// Milliseconds.
    pub(crate) expected: u64,
}

/// Time that is summed up while something lasts.
#[derive(Debug, Default)]
pub(super) struct Span {
    millis: u64,
    since: Option<Uptime>,
}

impl Tally {
    /// Only what is to run is prepared.
    pub(super) fn preparing(&mut self, is_update: bool, now: Uptime) {
        self.updates += u64::from(is_update);
        self.expected.begin(now);
    }

    pub(super) fn numbers(&self, now: Uptime) -> ModuleNumbers {
        let Self { starts, stops, updates, running, expected } = self;
        let (running, expected) = (running.millis(now), expected.millis(now));
        ModuleNumbers { starts: *starts, stops: *stops, updates: *updates, running, expected }
    }
}

impl Span {
    /// It lasts from now on, if it did not before.
    pub(super) fn begin(&mut self, now: Uptime) {
        self.since.get_or_insert(now);
    }

    pub(super) fn end(&mut self, now: Uptime) {
        self.millis = self.millis(now);
        self.since = None;
    }

    fn millis(&self, now: Uptime) -> u64 {
        let last = self.since.map_or(0, |since| now.0.saturating_sub(since.0));
        self.millis.saturating_add(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_summed_up_while_it_lasts() {
        let mut span = Span::default();
        assert_eq!(span.millis(Uptime(5)), 0);
        span.begin(Uptime(10));
        span.begin(Uptime(20)); // it lasts already
        assert_eq!(span.millis(Uptime(25)), 15);
        span.end(Uptime(30));
        span.end(Uptime(90));
        assert_eq!(span.millis(Uptime(99)), 20);
        span.begin(Uptime(100));
        assert_eq!(span.millis(Uptime(101)), 21);
    }
}
