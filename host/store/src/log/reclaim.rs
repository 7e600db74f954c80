//! Room comes back: segments whose messages are settled or expired go, and few live messages are copied together.

use std::ops::Range;

use super::{How, Log, segment::Segment};

/// Segments are copied together when so many of a hundred bytes are live. Copying them costs at most a third of the room that it
/// brings; at twice as much it would cost more wear than room.
const WORTHWHILE: u64 = 25;
/// The same when there is no other room: then a message is worth the wear.
const IN_NEED: u64 = 75;

impl Log {
    /// Settles all messages of a queue in one segment; returns how many were not.
    pub(super) fn settle_queue(&mut self, place: usize, key: super::Key, how: How) -> u64 {
        let Some(segment) = self.segment_mut(place) else { return 0 };
        let settled = segment.settle_all(key);
        let is_empty = segment.live == 0;
        self.has_empty |= is_empty;
        let Some((count, range)) = settled else { return 0 };
        self.forget_attempts(range);
        self.forget_deferred(range);
        self.pending.settle_range(range);
        self.count_settled(key, u64::from(count), Some(how));
        u64::from(count)
    }

    /// Removes full segments without messages left. Their settlements are made safe before, so that an opening does not miss
    /// what is gone on purpose; on a full disk they go all the same.
    pub(super) fn give_room_back(&mut self) {
        if !std::mem::take(&mut self.has_empty) {
            return;
        }
        let empty: Vec<u64> =
            self.segments.iter().filter(|segment| segment.live == 0).map(Segment::generation).collect();
        if empty.is_empty() {
            return;
        }
        self.pending.freed(&empty);
        if let Err(error) = self.sync_active() {
            tracing::debug!(%error, "settlements are not on the disk; their messages may come again after a restart");
        }
        // One of them may have the last checkpoint, or what dead letters were made of that are not safe yet.
        if self.active.is_none() || !self.held.is_empty() {
            self.has_empty = true;
            return;
        }
        self.remove_segments(&empty);
    }

    /// Takes segments off the list, and their files off the disk or aside.
    pub(super) fn remove_segments(&mut self, generations: &[u64]) {
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.segments)
            .into_iter()
            .partition(|segment| generations.contains(&segment.generation()));
        self.segments = kept;
        for segment in gone {
            match self.files.file(&*self.folder, segment.generation()) {
                Ok(file) => self.set_aside(&segment, file),
                Err(_) => {
                    self.files.forget(segment.generation());
                    self.remove_file(&super::file_name(segment.generation()));
                }
            }
        }
    }

    /// Does one piece of housekeeping that is worth its wear: copies what is left of nearly empty segments together. For quiet moments;
    /// without it, it is done when room is needed. True: there may be more to do.
    pub fn tidy(&mut self) -> bool {
        self.tidy_up();
        self.copy_best(WORTHWHILE, |_| true)
    }

    /// The same when a segment is full, but for segments of which messages have been settled since the last one was: the rest is likely to
    /// be settled soon as well, and would have been copied in vain.
    pub(super) fn tidy_between(&mut self) {
        self.tidy_up();
        self.copy_best(WORTHWHILE, |segment| segment.was_live == Some(segment.live));
        for segment in &mut self.segments {
            segment.was_live = Some(segment.live);
        }
    }

    fn tidy_up(&mut self) {
        self.settle_deferred();
        self.give_room_back();
        self.copy_suspects();
    }

    /// Makes room at any price but messages. False: there is nothing to gain.
    pub(super) fn reclaim_for_room(&mut self) -> bool {
        self.copy_best(IN_NEED, |_| true)
    }

    fn copy_best(&mut self, percent: u64, may_go: impl Fn(&Segment) -> bool) -> bool {
        let is_unsaid = |log: &Self, run: &Range<usize>| {
            log.segments[run.clone()].iter().any(|segment| log.unsaid_copies.contains(&segment.generation()))
        };
        let Some(run) = self.find_run(percent, &may_go) else { return false };
        if !is_unsaid(self, &run) && self.held.is_empty() {
            return self.copy_run(run);
        }
        // A copy of a copy names only that one: what that one was made of must be known to be gone before. And what is settled is not
        // copied: what it has become must be safe.
        if let Err(error) = self.sync_active() {
            tracing::debug!(%error, "what was copied in the message log waits for the disk");
            return false;
        }
        match self.find_run(percent, &may_go).filter(|run| !is_unsaid(self, run)) {
            Some(run) => self.copy_run(run),
            None => false,
        }
    }

    fn copy_run(&mut self, run: Range<usize>) -> bool {
        match self.copy_together(run.clone(), false) {
            Ok(copied) => copied,
            Err(error) => {
                tracing::warn!(%error, "cannot copy what is left of old segments of the message log together");
                for segment in &mut self.segments[run] {
                    segment.full_at = segment.live;
                }
                false
            }
        }
    }

    /// Neighbours whose live messages fit into one segment, with the most room to gain.
    fn find_run(&self, percent: u64, may_go: impl Fn(&Segment) -> bool) -> Option<Range<usize>> {
        let mut best: Option<(u64, Range<usize>)> = None;
        for start in 0..self.segments.len() {
            let (mut len, mut live) = (0, 0);
            for end in start..self.segments.len() {
                let segment = &self.segments[end];
                let tried_in_vain = segment.live > segment.full_at.saturating_mul(3) / 4;
                len += segment.len;
                live += segment.live_bytes();
                if tried_in_vain || segment.suspect || !may_go(segment) || live > self.options.segment_bytes * 3 / 4 {
                    break;
                }
                let gain = len.saturating_sub(live);
                if live * 100 <= len * percent && best.as_ref().is_none_or(|(most, _)| gain > *most) {
                    best = Some((gain, start..end + 1));
                }
            }
        }
        best.map(|(_, run)| run)
    }
}
