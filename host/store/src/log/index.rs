//! Where the records of one queue are in one segment, and which of them are settled. Pure.
//!
//! An index is a list of (sequence, place), coded as differences: three or four bytes a message. The n-th entry has ordinal n.
//! A segment that is being written builds its index in memory; a sealed one has it in its footer.

use super::wire::{Put, Take};

/// One message of a queue in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) ordinal: u32,
    pub(super) sequence: u64,
    pub(super) at: u32,
}

/// An index that grows.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    pub(super) bytes: Vec<u8>,
    last: (u64, u32),
}

impl Index {
    /// Adds an entry; sequences and places rise.
    pub(super) fn push(&mut self, sequence: u64, at: u32) {
        self.bytes.put(sequence.wrapping_sub(self.last.0));
        self.bytes.put(u64::from(at.wrapping_sub(self.last.1)));
        self.last = (sequence, at);
    }
}

/// Walks an index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    position: usize,
    ordinal: u32,
    last: (u64, u32),
}

impl Cursor {
    /// The next entry; `None` at the end.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Option<Spot> {
        #[cfg(test)]
        STEPS.set(STEPS.get() + 1);
        let rest = bytes.get(self.position..)?;
        let mut take = Take(rest);
        let sequence = self.last.0.wrapping_add(take.number()?);
        let at = self.last.1.wrapping_add(take.small()?);
        self.position += rest.len() - take.0.len();
        let spot = Spot { ordinal: self.ordinal, sequence, at };
        self.ordinal += 1;
        self.last = (sequence, at);
        Some(spot)
    }

    /// Whether an entry is before it that is not before `sequence`.
    fn is_past(&self, sequence: u64) -> bool {
        self.ordinal > 0 && self.last.0 >= sequence
    }
}

/// Finds entries of one index, forwards and back: places on the way are noted, so that a step back is no walk from the beginning.
#[derive(Debug, Clone, Default)]
pub(super) struct Finder {
    cursor: Cursor,
    /// The n-th stands before the entry of ordinal n · [`EVERY`].
    marks: Vec<Cursor>,
}

/// Entries between two marks. A mark takes 32 bytes, an entry three or four: a seventh of the index, for steps of at most so many.
const EVERY: u32 = 64;

impl Finder {
    /// Goes back to the first entry.
    pub(super) fn begin(&mut self) {
        self.cursor = Cursor::default();
    }

    /// The next entry; `None` at the end.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Option<Spot> {
        if u64::from(self.cursor.ordinal) == self.marks.len() as u64 * u64::from(EVERY) {
            self.marks.push(self.cursor);
        }
        self.cursor.next(bytes)
    }

    /// The next entry if it is not behind `last`.
    pub(super) fn next_until(&mut self, bytes: &[u8], last: u64) -> Option<Spot> {
        let before = self.cursor;
        let spot = self.next(bytes).filter(|spot| spot.sequence <= last);
        if spot.is_none() {
            self.cursor = before;
        }
        spot
    }

    /// The entry of this sequence.
    pub(super) fn find(&mut self, bytes: &[u8], sequence: u64) -> Option<Spot> {
        let Cursor { ordinal, last, .. } = self.cursor;
        if let Some(ordinal) = ordinal.checked_sub(1).filter(|_| last.0 == sequence) {
            return Some(Spot { ordinal, sequence, at: last.1 }); // first tried, then settled
        }
        self.go_before(sequence);
        loop {
            let before = self.cursor;
            let spot = self.next(bytes)?;
            if spot.sequence == sequence {
                return Some(spot);
            }
            if spot.sequence > sequence {
                self.cursor = before;
                return None;
            }
        }
    }

    /// Goes to before the first entry behind `sequence`.
    pub(super) fn seek_behind(&mut self, bytes: &[u8], sequence: u64) {
        if self.cursor.ordinal > 0 && self.cursor.last.0 == sequence {
            return; // as it is when a reading goes on
        }
        self.go_before(sequence);
        while self.next_until(bytes, sequence).is_some() {}
    }

    /// Goes on to the entry of this ordinal, as far as the way is known.
    pub(super) fn skip_to(&mut self, ordinal: u32) {
        let mark = self.marks.get((ordinal / EVERY) as usize).or(self.marks.last());
        self.cursor = mark.filter(|mark| mark.ordinal > self.cursor.ordinal).copied().unwrap_or(self.cursor);
    }

    /// Goes to a known place before which all entries are before `sequence`: the last one.
    fn go_before(&mut self, sequence: u64) {
        let known = self.marks.partition_point(|mark| !mark.is_past(sequence));
        let mark = known.checked_sub(1).map_or(Cursor::default(), |n| self.marks[n]);
        if self.cursor.is_past(sequence) || mark.ordinal > self.cursor.ordinal {
            self.cursor = mark;
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Entries that were decoded in this thread: what a settlement costs.
    pub(super) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Which messages of a queue in a segment are settled: a prefix, which is what order makes, and single ones behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settled {
    prefix: u32,
    done: u32,
    // A bit an ordinal, from 0; none = nothing behind the prefix.
    extra: Option<Box<[u64]>>,
}

impl Settled {
    /// All before this ordinal are.
    pub(super) fn prefix(&self) -> u32 {
        self.prefix
    }

    /// How many are.
    pub(super) fn done(&self) -> u32 {
        self.done
    }

    pub(super) fn contains(&self, ordinal: u32) -> bool {
        ordinal < self.prefix || self.has_extra(ordinal)
    }

    fn has_extra(&self, ordinal: u32) -> bool {
        let word = self.extra.as_ref().and_then(|words| words.get(ordinal as usize / 64));
        word.is_some_and(|word| word >> (ordinal % 64) & 1 == 1)
    }

    /// Settles one of `count`; false when it was.
    pub(super) fn insert(&mut self, ordinal: u32, count: u32) -> bool {
        if self.contains(ordinal) {
            return false;
        }
        self.done += 1;
        if ordinal != self.prefix {
            self.insert_extra(ordinal, count);
            return true;
        }
        self.prefix += 1;
        while self.has_extra(self.prefix) {
            self.prefix += 1;
        }
        if self.done == self.prefix {
            self.extra = None;
        }
        true
    }

    fn insert_extra(&mut self, ordinal: u32, count: u32) {
        let words = (count.max(ordinal + 1) as usize).div_ceil(64);
        let extra = self.extra.get_or_insert_with(|| vec![0; words].into());
        if extra.len() < words {
            // The segment is still being written.
            let mut longer = std::mem::take(extra).into_vec();
            longer.resize(words.next_power_of_two(), 0);
            *extra = longer.into();
        }
        extra[ordinal as usize / 64] |= 1 << (ordinal % 64);
    }

    /// Settles all `count`; returns how many were not.
    pub(super) fn insert_all(&mut self, count: u32) -> u32 {
        let new = count - self.done.min(count);
        *self = Self { prefix: count, done: count, extra: None };
        new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn index_of(sequences: &BTreeSet<u64>) -> Index {
        let mut index = Index::default();
        for (n, sequence) in sequences.iter().enumerate() {
            index.push(*sequence, 64 + 40 * n as u32);
        }
        index
    }

    proptest! {
        #[test]
        fn every_entry_is_found_in_any_order(sequences: BTreeSet<u64>, order: Vec<proptest::sample::Index>, other: u64) {
            prop_assume!(!sequences.is_empty());
            let index = index_of(&sequences);
            let all: Vec<u64> = sequences.iter().copied().collect();
            let mut cursor = Finder::default();
            for pick in order {
                let n = pick.index(all.len());
                let spot = cursor.find(&index.bytes, all[n]);
                prop_assert_eq!(spot, Some(Spot { ordinal: n as u32, sequence: all[n], at: 64 + 40 * n as u32 }));
            }
            prop_assert_eq!(cursor.find(&index.bytes, other).is_some(), sequences.contains(&other));
            cursor.seek_behind(&index.bytes, other);
            prop_assert_eq!(cursor.next(&index.bytes).map(|spot| spot.sequence), all.into_iter().find(|s| *s > other));
        }

        #[test]
        fn settled_is_a_set(count in 1u32..300, picks: Vec<u32>) {
            let (mut settled, mut model) = (Settled::default(), BTreeSet::new());
            for pick in picks {
                let ordinal = pick % count;
                prop_assert_eq!(settled.insert(ordinal, count), model.insert(ordinal));
                prop_assert_eq!(settled.done() as usize, model.len());
            }
            for ordinal in 0..count {
                prop_assert_eq!(settled.contains(ordinal), model.contains(&ordinal));
            }
            prop_assert_eq!(settled.insert_all(count) as usize, count as usize - model.len());
            prop_assert!((0..count).all(|ordinal| settled.contains(ordinal)));
        }
    }

    #[test]
    fn what_is_settled_in_order_takes_no_memory() {
        let mut settled = Settled::default();
        for ordinal in [1, 0, 2, 4, 3, 5] {
            assert!(settled.insert(ordinal, 1000));
        }
        assert_eq!(settled.extra, None);
    }
}
