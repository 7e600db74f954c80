//! Checkpoints: at the head of each segment, all that earlier records of the stream say, so that those need not be read again.

use std::io;

use super::{
    Key, Log,
    format::{Base, Frame, Kind},
    index::Cursor,
    pending::CHUNK,
    record::{Checkpoint, Range, Tried, put_names, put_ranges, put_tried},
    segment::Segment,
};

/// Names in one record.
const NAMES: usize = 64;

impl Log {
    /// Adds the records of a checkpoint to a buffer that begins with the file. Names stand in it twice: without one, messages would
    /// have no receiver.
    pub(super) fn put_checkpoint(&mut self, buffer: &mut Vec<u8>, frame: &Frame, base: Base) {
        self.forget_endpoints();
        let room = (self.options.segment_bytes / 4) as usize;
        let ranges = self.settled_ranges(room / 16);
        let segments = self.all_segments().filter(|segment| segment.live > 0);
        let checkpoint = Checkpoint {
            stamp: self.stamp,
            next_sequence: self.next_sequence,
            next_endpoint: self.endpoints.next,
            segments: segments
                .map(|segment| (segment.generation(), segment.live - self.deferred_in(segment)))
                .collect(),
        };
        frame.push(buffer, 0, Kind::Checkpoint, |out| checkpoint.put(out));
        self.put_all_names(buffer, frame);
        for ranges in ranges.chunks(CHUNK) {
            frame.push(buffer, 0, Kind::Settled, |out| put_ranges(out, base, ranges));
        }
        let tried = self.attempts.iter().take(room / 16);
        let tried: Vec<Tried> = tried
            .map(|((key, sequence), attempts)| Tried { key: *key, sequence: *sequence, attempts: *attempts })
            .collect();
        for tried in tried.chunks(CHUNK) {
            frame.push(buffer, 0, Kind::Attempts, |out| put_tried(out, base, tried));
        }
        self.put_all_names(buffer, frame);
        frame.push(buffer, 0, Kind::CheckpointEnd, |_| {});
    }

    /// Settled in a segment that has not heard of it.
    fn deferred_in(&self, segment: &Segment) -> u64 {
        let is_in = |range: &Range| segment.first <= range.first && range.first <= segment.last;
        (self.deferred.ranges().filter(is_in).count() as u64).min(segment.live)
    }

    fn put_all_names(&self, buffer: &mut Vec<u8>, frame: &Frame) {
        let names: Vec<(u32, &str)> = self.endpoints.names.iter().map(|(number, name)| (*number, &**name)).collect();
        for names in names.chunks(NAMES) {
            frame.push(buffer, 0, Kind::Endpoints, |out| put_names(out, names.iter().copied()));
        }
    }

    /// Names that [`Log::remove_endpoint`] has freed and no message needs.
    fn forget_endpoints(&mut self) {
        for number in std::mem::take(&mut self.removed) {
            if self.queues.range((number, 0)..=(number, u8::MAX)).all(|(_, state)| state.len == 0) {
                self.endpoints.remove(number);
                self.queues.retain(|key, _| key.0 != number);
            } else {
                self.removed.push(number);
            }
        }
    }

    /// What is settled among the messages of segments that are kept, as ranges. What order leaves comes first; of single ones
    /// behind it as many as there is room for: the others are delivered again after a restart.
    fn settled_ranges(&mut self, most: usize) -> Vec<Range> {
        let keys: Vec<Key> = self.queues.keys().copied().collect();
        let (mut ranges, mut singles) = (Vec::new(), Vec::new());
        for key in keys {
            let mut run: Option<Range> = None;
            for place in 0..=self.segments.len() {
                let Some(queue) = self.segment(place).filter(|s| s.live > 0).and_then(|s| s.queue(key)) else {
                    continue;
                };
                let (done, first, last) = (queue.settled.done(), queue.first, queue.last);
                if done == queue.count {
                    run = Some(Range { key, first: run.map_or(first, |run| run.first), last });
                    continue;
                }
                if done > 0 {
                    match self.partial_ranges(place, key) {
                        Ok(parts) => merge(&mut run, first, parts, &mut ranges, &mut singles),
                        Err(error) => {
                            tracing::warn!(%error, "an index of the message log cannot be read; some messages may come again")
                        }
                    }
                }
                ranges.extend(run.take());
            }
            ranges.extend(run);
        }
        ranges.extend(self.deferred.ranges());
        ranges.extend(singles);
        ranges.truncate(most.max(64));
        ranges
    }

    /// What is settled of a queue in one segment.
    fn partial_ranges(&mut self, place: usize, key: Key) -> io::Result<Vec<Range>> {
        let index = self.index_of(place, key)?;
        let queue = self.segment(place).and_then(|segment: &Segment| segment.queue(key));
        let Some(queue) = queue else { return Ok(Vec::new()) };
        let bytes = index.as_deref().or(queue.in_memory()).unwrap_or_default();
        let mut ranges: Vec<Range> = Vec::new();
        let (mut cursor, mut adjacent) = (Cursor::default(), false);
        while let Some(spot) = cursor.next(bytes) {
            let settled = queue.settled.contains(spot.ordinal);
            match ranges.last_mut().filter(|_| adjacent) {
                Some(range) if settled => range.last = spot.sequence,
                _ if settled => ranges.push(Range { key, first: spot.sequence, last: spot.sequence }),
                _ => {}
            }
            adjacent = settled;
        }
        Ok(ranges)
    }
}

/// The first part continues what was settled in earlier segments, if it begins with this segment's first message.
fn merge(run: &mut Option<Range>, first: u64, parts: Vec<Range>, ranges: &mut Vec<Range>, singles: &mut Vec<Range>) {
    for part in parts {
        if part.first == first {
            *run = Some(Range { first: run.map_or(first, |run| run.first), ..part });
        } else {
            ranges.extend(run.take());
            singles.push(part);
        }
    }
}
