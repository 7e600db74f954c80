//! Settlements of messages whose place in their segment cannot be told now: their index cannot be read (too many open files, a disk that does
//! not answer). They are written as any other, for a settlement names no place; the segment hears of them later.

use std::{collections::BTreeSet, io};

use super::{How, Key, Log, record::Range};

/// Settled, and not yet marked in their segments. Each is one of a message that was in memory.
#[derive(Debug, Default)]
pub(super) struct Deferred(BTreeSet<(Key, u64)>);

impl Deferred {
    pub(super) fn contains(&self, key: Key, sequence: u64) -> bool {
        !self.0.is_empty() && self.0.contains(&(key, sequence))
    }

    /// As ranges of one message each.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range> {
        self.0.iter().map(|(key, sequence)| Range { key: *key, first: *sequence, last: *sequence })
    }
}

impl Log {
    /// Settles a message though its index cannot be read. False: it was.
    pub(super) fn defer(&mut self, key: Key, sequence: u64, how: Option<How>, error: &io::Error) -> bool {
        if !self.deferred.0.insert((key, sequence)) {
            return false;
        }
        if self.deferred.0.len() == 1 {
            tracing::warn!(%error, "an index of the message log cannot be read; its segment hears later of what is settled");
        }
        self.attempts.remove(&(key, sequence));
        self.pending.settle_range(Range { key, first: sequence, last: sequence });
        self.count_settled(key, 1, how);
        true
    }

    /// Tells the segments what was settled while their indexes could not be read. What cannot be told now waits on.
    pub(super) fn settle_deferred(&mut self) {
        for (key, sequence) in std::mem::take(&mut self.deferred.0) {
            match self.mark(key, sequence) {
                Ok(Some(_)) => {}
                // It had been settled before, or has gone with its segment: it was counted twice.
                Ok(None) => self.count_again(key, 1),
                Err(_) => {
                    self.deferred.0.insert((key, sequence));
                }
            }
        }
    }

    /// A range of a queue is being settled: those of it that are deferred have been counted.
    pub(super) fn forget_deferred(&mut self, Range { key, first, last }: Range) {
        let deferred: Vec<(Key, u64)> = self.deferred.0.range((key, first)..=(key, last)).copied().collect();
        for message in &deferred {
            self.deferred.0.remove(message);
        }
        self.count_again(key, deferred.len() as u64);
    }

    fn count_again(&mut self, key: Key, count: u64) {
        if let Some(state) = self.queues.get_mut(&key) {
            state.len += count;
        }
    }
}
