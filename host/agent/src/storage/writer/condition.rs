//! What a person may know of the log: its facts, and whether it takes messages.

use std::{sync::PoisonError, time::Duration};

use marram_core::{
    log::{DEAD_LETTERS, LogError},
    time::Uptime,
};

use super::Writer;

/// Shortest time between two lines of the host's log about whether messages are taken. A log at its bound takes one and refuses the next, many
/// times a second.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Whether the log takes messages.
#[derive(Debug, Default)]
pub(super) struct Condition {
    /// Bytes of the message that was refused last; none = messages are taken.
    refused: Option<usize>,
    lines: Lines,
}

/// What the host's log was told last of something that fails.
#[derive(Debug, Default)]
pub(super) struct Lines {
    is_failing: bool,
    quiet_until: Uptime,
}

impl Lines {
    /// Whether a line is due.
    pub(super) fn tell(&mut self, is_failing: bool, now: Uptime) -> bool {
        if self.is_failing == is_failing || now < self.quiet_until {
            return false;
        }
        *self = Self { is_failing, quiet_until: now.after(BETWEEN_LINES) };
        true
    }
}

impl Condition {
    /// Whether there is something to look for again.
    pub(super) fn is_open(&self) -> bool {
        self.refused.is_some() || self.lines.is_failing
    }
}

impl Writer {
    /// Messages are taken.
    pub(in crate::storage) fn note_stored(&mut self) {
        if self.condition.refused.take().is_some() {
            self.set_error(None);
        }
    }

    /// A message of so many bytes was not taken.
    pub(in crate::storage) fn note_refused(&mut self, error: &LogError, bytes: usize) {
        // Others say something of the message, not of the log.
        if matches!(error, LogError::Full(_) | LogError::Disk(_)) {
            self.condition.refused = Some(bytes);
            self.set_error(Some(error.to_string()));
        }
    }

    /// Looks whether a log that took no messages does again: perhaps nobody sends any more.
    pub(super) fn look_for_room(&mut self) {
        let Some(bytes) = self.condition.refused else { return self.tell_condition() };
        self.expire(self.clock.uptime());
        match self.log.probe(bytes, &self.clock.clocks()) {
            Ok(()) => self.note_stored(),
            Err(error) => self.note_refused(&error, bytes),
        }
    }

    fn set_error(&mut self, error: Option<String>) {
        self.storage.facts.lock().unwrap_or_else(PoisonError::into_inner).error = error;
        self.tell_condition();
    }

    fn tell_condition(&mut self) {
        let is_failing = self.condition.refused.is_some();
        if !self.condition.lines.tell(is_failing, self.clock.uptime()) {
            return;
        }
        match self.storage.facts().error {
            Some(error) => tracing::error!(%error, "the message log takes no messages; senders get `full`"),
            None => tracing::info!("the message log takes messages again"),
        }
    }

    /// Notes what a person may ask.
    pub(in crate::storage) fn note_facts(&mut self) {
        let damage = self.log.take_damage();
        let letters = self.log.endpoints().into_iter().find(|usage| *usage.name == *DEAD_LETTERS);
        let mut facts = self.storage.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.count(&damage);
        facts.room = self.log.room();
        facts.dead_letters = letters.iter().flat_map(|usage| &usage.queues).map(|queue| queue.messages).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_comes_at_once_and_a_log_that_comes_and_goes_fills_no_log_of_the_host() {
        let mut lines = Lines::default();
        assert!(!lines.tell(false, Uptime(0)), "nothing has happened");
        assert!(lines.tell(true, Uptime(1)));
        let told = (2..10_001).filter(|now| lines.tell(now % 2 == 0, Uptime(*now))).count();
        assert_eq!(told, 0);
        assert!(!lines.tell(true, Uptime(10_001)), "as was told");
        assert!(lines.tell(false, Uptime(10_002)));
    }
}
