//! What goes to the disk with the next write: settlements as ranges, attempts, a stamp. Pure.

use std::collections::BTreeMap;

use marram_core::elapsed::Stamp;

use super::{
    Key,
    format::{Base, Frame, Kind},
    record::{Range, Tried, put_ranges, put_stamp, put_tried},
    wire::Put,
};

/// Settlements that may wait. As many messages come again after a kill; in order they take a few bytes, so twice as many
/// would spare little.
const MAX_SETTLEMENTS: usize = 4096;
/// Ranges, and attempts, in one record: some kilobytes, so that damage costs little.
pub(super) const CHUNK: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Pending {
    ranges: Vec<Range>,
    tried: Vec<Tried>,
    settlements: usize,
    freed: Vec<u64>,
    copied: Vec<(u64, u64)>,
    /// Of the range of a queue that may grow: its place, its segment, and the last ordinal.
    open: BTreeMap<Key, (usize, u64, u32)>,
    pub(super) stamp: bool,
    /// Too much waited, and something was left out: only a checkpoint can tell all.
    pub(super) incomplete: bool,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
            && self.tried.is_empty()
            && self.freed.is_empty()
            && self.copied.is_empty()
            && !self.stamp
            && !self.incomplete
    }

    /// Whether it should be written soon.
    pub(super) fn is_due(&self) -> bool {
        self.settlements >= MAX_SETTLEMENTS || self.tried.len() >= MAX_SETTLEMENTS
    }

    /// One message: of a segment's queue, with its ordinal there.
    pub(super) fn settle(&mut self, key: Key, generation: u64, ordinal: u32, sequence: u64) {
        self.settlements += 1;
        match self.open.get_mut(&key) {
            Some((place, in_segment, last)) if *in_segment == generation && *last + 1 == ordinal => {
                self.ranges[*place].last = sequence;
                *last = ordinal;
            }
            _ => {
                self.open.insert(key, (self.ranges.len(), generation, ordinal));
                self.ranges.push(Range { key, first: sequence, last: sequence });
            }
        }
    }

    /// All messages of a queue between two.
    pub(super) fn settle_range(&mut self, range: Range) {
        self.settlements += 1;
        self.open.remove(&range.key);
        self.ranges.push(range);
    }

    /// The range of a queue that may grow does so no more.
    pub(super) fn forget_open(&mut self, key: Key) {
        self.open.remove(&key);
    }

    /// Takes over what another one holds back.
    pub(super) fn take(&mut self, held: &mut Self) {
        self.settlements += std::mem::take(&mut held.settlements);
        self.ranges.append(&mut held.ranges);
        held.open.clear();
    }

    /// Segments whose files go: an opening must not miss them.
    pub(super) fn freed(&mut self, generations: &[u64]) {
        self.freed.extend_from_slice(generations);
    }

    /// A segment that was made of others, with so many references: an opening must miss it.
    pub(super) fn copied(&mut self, generation: u64, live: u64) {
        self.copied.push((generation, live));
    }

    pub(super) fn tried(&mut self, tried: Tried) {
        self.tried.push(tried);
    }

    /// The disk does not take it: keeps memory within bounds.
    pub(super) fn bound(&mut self) {
        let longest = self.ranges.len().max(self.tried.len()).max(self.freed.len()).max(self.copied.len());
        if longest > 4 * MAX_SETTLEMENTS {
            *self = Self { incomplete: true, stamp: self.stamp, ..Self::default() };
        }
    }

    /// Bytes of its records at most.
    pub(super) fn bound_bytes(&self) -> usize {
        128 + self.ranges.len() * 28 + self.tried.len() * 22 + self.freed.len() * 10 + self.copied.len() * 30
    }

    /// Adds its records to a buffer that goes to `start` of the file.
    pub(super) fn put(&self, buffer: &mut Vec<u8>, start: u64, frame: &Frame, base: Base, stamp: &Stamp) {
        // Attempts first: a message that is settled needs none.
        for tried in self.tried.chunks(CHUNK) {
            frame.push(buffer, start, Kind::Attempts, |out| put_tried(out, base, tried));
        }
        for ranges in self.ranges.chunks(CHUNK) {
            frame.push(buffer, start, Kind::Settled, |out| put_ranges(out, base, ranges));
        }
        if !self.freed.is_empty() {
            frame.push(buffer, start, Kind::Freed, |out| self.freed.iter().for_each(|generation| out.put(*generation)));
        }
        for (generation, live) in &self.copied {
            frame.push(buffer, start, Kind::Copied, |out| {
                out.put(*generation);
                out.put(*live);
            });
        }
        if self.stamp {
            frame.push(buffer, start, Kind::Stamp, |out| put_stamp(out, stamp));
        }
    }
}
