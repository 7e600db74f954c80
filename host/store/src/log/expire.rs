//! Gives up, unread, what of a queue has expired.

use marram_core::elapsed::Elapsed;
pub use marram_core::log::{Expired, Letters};

use super::{EndpointId, How, Key, Log, Replay, dead::STEP, segment::Queue};

/// What of a queue in one segment is behind a message, and not settled.
struct Part {
    place: usize,
    /// All of the queue's in this segment.
    is_whole: bool,
    /// Before the first of them.
    after: Option<u64>,
    last: u64,
    messages: u64,
    /// On disk, by the mean.
    bytes: u64,
    is_over: bool,
}

impl Log {
    /// Gives up what of a queue is behind `after` and stands in segments in which no message of the queue lives at `now`. It is not read, only
    /// `letters` are, what becomes dead letters: of more than these take, the newest. Where some live, single messages are judged when they
    /// are read, which is the caller's to do. What cannot be done now stays. None: nothing was given up.
    pub fn expire(
        &mut self,
        endpoint: EndpointId,
        priority: u8,
        after: Option<u64>,
        now: Elapsed,
        letters: Option<Letters<'_>>,
    ) -> Option<Expired> {
        let key = endpoint.key(priority);
        // Asked often, mostly in vain: what is left is counted only if something goes.
        let queues = self.all_segments().filter_map(|segment| segment.queue(key));
        if !queues.into_iter().any(|queue| queue.live() > 0 && is_behind(queue, after) && is_over(queue, now)) {
            return None;
        }
        let (over, left): (Vec<_>, Vec<_>) =
            self.parts_behind(key, after, now).into_iter().partition(|part| part.is_over);
        let mut expired = Expired::default();
        for part in left {
            expired.left_messages += part.messages;
            expired.left_bytes += part.bytes;
        }
        let mut waiting: u64 = over.iter().map(|part| part.bytes).sum();
        for part in over {
            waiting -= part.bytes;
            let gone = match letters.filter(|_| waiting < self.options.dead_letter_bytes) {
                // From the first letter on the places of parts are void: letters are written. No part is dropped any more.
                Some(letters) => self.bury_part(key, &part, letters),
                None => self.drop_part(key, &part),
            };
            let gone_bytes = part.bytes * gone / part.messages.max(1);
            expired.messages += gone;
            expired.bytes += gone_bytes;
            expired.left_messages += part.messages - gone;
            expired.left_bytes += part.bytes - gone_bytes;
        }
        self.give_room_back();
        self.flush_if_due();
        Some(expired).filter(|expired| expired.messages > 0)
    }

    fn parts_behind(&mut self, key: Key, after: Option<u64>, now: Elapsed) -> Vec<Part> {
        let mut parts = Vec::new();
        for place in 0..=self.segments.len() {
            let Some(queue) = self.segment(place).and_then(|segment| segment.queue(key)) else { continue };
            if queue.live() == 0 || !is_behind(queue, after) {
                continue;
            }
            let (first, last, all, bytes) = (queue.first, queue.last, u64::from(queue.live()), queue.live_bytes());
            let is_over = is_over(queue, now);
            let is_whole = after.is_none_or(|after| first > after);
            let after = if is_whole { first.checked_sub(1) } else { after };
            let (counted, is_all) = if is_whole { (all, true) } else { self.walk_behind(place, key, after, false) };
            // What cannot be counted is left alone, and not forgotten.
            let (messages, is_over) = if is_all { (counted, is_over) } else { (all, false) };
            let bytes = bytes * messages.min(all) / all;
            parts.push(Part { place, is_whole, after, last, messages, bytes, is_over });
        }
        parts
    }

    fn drop_part(&mut self, key: Key, part: &Part) -> u64 {
        if part.is_whole {
            return self.settle_queue(part.place, key, How::Expired);
        }
        self.walk_behind(part.place, key, part.after, true).0
    }

    /// Counts what of a queue in one segment is behind a message, and settles it. False: not all of it could be read.
    fn walk_behind(&mut self, place: usize, key: Key, after: Option<u64>, settles: bool) -> (u64, bool) {
        let (mut at, mut count) = (after, 0);
        loop {
            match self.next_live_in(place, key, at) {
                Ok(Some(spot)) if at.is_none_or(|at| spot.sequence > at) => {
                    at = Some(spot.sequence);
                    count += 1;
                    if settles {
                        self.settle_at(key, spot.sequence, Some(How::Expired));
                    }
                }
                Ok(_) => return (count, true),
                Err(error) => {
                    tracing::debug!(%error, "what has expired in the message log cannot be counted");
                    return (count, false);
                }
            }
        }
    }

    fn bury_part(&mut self, key: Key, part: &Part, letters: Letters<'_>) -> u64 {
        let mut buried = 0;
        let done = self.try_bury_part(key, part, letters, &mut buried);
        if let Err(error) = done {
            tracing::debug!(%error, "what has expired in the message log waits to become dead letters");
        }
        buried.min(part.messages)
    }

    fn try_bury_part(&mut self, key: Key, part: &Part, letters: Letters<'_>, buried: &mut u64) -> Result<(), Replay> {
        let Letters { reason, at } = letters;
        let mut after = part.after;
        loop {
            let mut batch = Vec::new();
            self.read(EndpointId(key.0), key.1, after, STEP, &mut batch)?;
            let Some(end) = batch.last().map(|stored| stored.place.sequence) else { return Ok(()) };
            for stored in batch.iter().take_while(|stored| stored.place.sequence <= part.last) {
                self.bury_stored(stored, reason, at)?;
                *buried += 1;
            }
            if end >= part.last {
                return Ok(());
            }
            after = Some(end);
        }
    }
}

/// Whether some of it may be behind a message.
fn is_behind(queue: &Queue, after: Option<u64>) -> bool {
    after.is_none_or(|after| queue.last > after)
}

fn is_over(queue: &Queue, now: Elapsed) -> bool {
    queue.deadline.is_some_and(|deadline| deadline <= now.0)
}
