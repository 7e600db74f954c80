//! Messages out: what is settled, and how often it was tried.

use std::{io, sync::Arc};

use super::{
    Damage, How, Key, Log, Loss, Place, Walk,
    format::Kind,
    index::{Finder, Index, Spot},
    record::{Range, Tried, take_head},
    scan::{Found, Scanner},
    segment::{IndexAt, Segment},
};

impl Log {
    /// Notes that a message is done for its endpoint. False: it was, or is not there. Goes to the disk with the next write, or with
    /// [`Log::flush`]; a kill before that brings it again.
    pub fn settle(&mut self, place: Place, how: How) -> bool {
        let settled = self.settle_at(place.endpoint.key(place.priority), place.sequence, Some(how));
        if settled {
            self.give_room_back();
            self.flush_if_due();
        }
        settled
    }

    /// Notes that a message is about to be delivered for the n-th time. Call [`Log::flush`] before the delivery that may kill the host.
    pub fn attempt(&mut self, place: Place, attempts: u32) {
        let Place { endpoint, sequence, .. } = place;
        let key = endpoint.key(place.priority);
        let is_live = match self.spot(key, sequence) {
            Ok(spot) => spot.is_some_and(|(place, spot)| {
                let queue = self.segment(place).and_then(|segment| segment.queue(key));
                queue.is_some_and(|queue| !queue.settled.contains(spot.ordinal))
            }),
            // Rather one too many than none: it may be what ends the host.
            Err(_) => !self.deferred.contains(key, sequence),
        };
        if is_live {
            self.attempts.insert((key, sequence), attempts);
            self.pending.tried(Tried { key, sequence, attempts });
            self.flush_if_due();
        }
    }

    pub(super) fn flush_if_due(&mut self) {
        if self.pending.is_due()
            && let Err(error) = self.flush()
        {
            tracing::debug!(%error, "settlements wait for the disk");
        }
    }

    /// Settles one message in memory and has it written. `how`: none = it never was.
    pub(super) fn settle_at(&mut self, key: Key, sequence: u64, how: Option<How>) -> bool {
        match self.mark(key, sequence) {
            Ok(Some((generation, ordinal))) => self.pending.settle(key, generation, ordinal, sequence),
            Ok(None) => return false,
            Err(error) => return self.defer(key, sequence, how, &error),
        }
        self.settled_one(key, sequence, how);
        true
    }

    /// The same of a message that has become another one: written once that is safe, or a loss of power could leave neither.
    pub(super) fn settle_when_safe(&mut self, place: Place, how: How) {
        let (key, sequence) = (place.endpoint.key(place.priority), place.sequence);
        match self.mark(key, sequence) {
            Ok(Some((generation, ordinal))) => self.held.settle(key, generation, ordinal, sequence),
            Ok(None) => return,
            // It has just been read.
            Err(error) => {
                self.defer(key, sequence, Some(how), &error);
                return;
            }
        }
        self.settled_one(key, sequence, Some(how));
    }

    fn settled_one(&mut self, key: Key, sequence: u64, how: Option<How>) {
        if !self.attempts.is_empty() {
            self.attempts.remove(&(key, sequence));
        }
        self.count_settled(key, 1, how);
    }

    /// Marks a message as settled in its segment: which that is, and its ordinal there. None: it was, or is not there.
    pub(super) fn mark(&mut self, key: Key, sequence: u64) -> io::Result<Option<(u64, u32)>> {
        let Some((place, spot)) = self.spot(key, sequence)? else { return Ok(None) };
        let Some(segment) = self.segment_mut(place) else { return Ok(None) };
        let generation = segment.generation();
        if !segment.settle(key, spot.ordinal) {
            return Ok(None);
        }
        let is_empty = segment.live == 0;
        self.has_empty |= is_empty;
        Ok(Some((generation, spot.ordinal)))
    }

    pub(super) fn count_settled(&mut self, key: Key, count: u64, how: Option<How>) {
        if let Some(state) = self.queues.get_mut(&key) {
            state.len -= count.min(state.len);
        }
        if let Some(how) = how {
            self.settled[how as usize] += count;
        }
    }

    /// Where a message of a queue is: its segment's place and its own in the index. Also of one that is settled.
    pub(super) fn spot(&mut self, key: Key, sequence: u64) -> io::Result<Option<(usize, Spot)>> {
        let Some(place) = self.locate(sequence) else { return Ok(None) };
        let Some(generation) = self.segment(place).filter(|it| it.queue(key).is_some()).map(Segment::generation) else {
            return Ok(None);
        };
        let walk = self.queues.get_mut(&key).and_then(|state| state.settler.take());
        let walk = match walk.filter(|walk| walk.generation == generation) {
            Some(walk) => Some(walk),
            None => self.walk(place, key)?,
        };
        let Some(mut walk) = walk else { return Ok(None) };
        self.ready(&mut walk, place, key)?;
        let Some(queue) = self.segment(place).and_then(|segment| segment.queue(key)) else { return Ok(None) };
        let index = walk.index.as_deref().or(queue.in_memory()).unwrap_or_default();
        let spot = walk.finder.find(index, sequence);
        if let Some(state) = self.queues.get_mut(&key) {
            state.settler = Some(walk);
        }
        Ok(spot.map(|spot| (place, spot)))
    }

    /// A walk from the beginning of a queue's part of a segment.
    pub(super) fn walk(&mut self, place: usize, key: Key) -> io::Result<Option<Walk>> {
        let Some(generation) = self.segment(place).map(Segment::generation) else { return Ok(None) };
        // The other walk over this queue is often there already.
        let Some(state) = self.queues.get(&key) else { return Ok(None) };
        let same = [&state.reader, &state.settler].into_iter().flatten().find(|walk| walk.generation == generation);
        let index = match same.and_then(|walk| walk.index.clone()) {
            Some(index) => Some(index),
            None => self.index_of(place, key)?,
        };
        Ok(Some(Walk { generation, index, finder: Finder::default() }))
    }

    fn is_in_memory(&self, place: usize, key: Key) -> bool {
        let queue = self.segment(place).and_then(|segment| segment.queue(key));
        queue.is_some_and(|queue| queue.in_memory().is_some())
    }

    /// Has the index of a walk at hand that began while its segment was being written and goes on when it is full.
    pub(super) fn ready(&mut self, walk: &mut Walk, place: usize, key: Key) -> io::Result<()> {
        let queue = self.segment(place).and_then(|segment| segment.queue(key));
        if walk.index.is_none() && queue.is_some_and(|queue| queue.in_memory().is_none()) {
            walk.index = self.index_of(place, key)?;
            walk.finder = Finder::default(); // made again without a lost record, it is another one
        }
        Ok(())
    }

    /// The index of a queue in a full segment, from its footer; none = it is in memory.
    pub(super) fn index_of(&mut self, place: usize, key: Key) -> io::Result<Option<Arc<[u8]>>> {
        let Some(segment) = self.segments.get(place) else { return Ok(None) };
        let Some(queue) = segment.queue(key) else { return Ok(None) };
        let IndexAt::Disk(at) = queue.index else { return Ok(None) };
        let (generation, frame, end) = (segment.generation(), segment.header.frame(), segment.len);
        let (count, data_end) = (queue.count, segment.data_end);
        let file = self.files.file(&*self.folder, generation)?;
        // Past the window: it has records that are read next.
        let mut own = super::files::Window::lean(generation);
        let read = own.record(&*file, &frame, u64::from(at), end);
        match read {
            Ok(Some((Kind::Index, payload))) => return Ok(Some(payload.into())),
            Err(error) if super::medium::bad_page(&error).is_none() => return Err(error),
            _ => {}
        }
        self.index_by_scan(place, key, count, data_end).map(Some)
    }

    /// Makes a damaged index again from the records.
    fn index_by_scan(&mut self, place: usize, key: Key, count: u32, data_end: u64) -> io::Result<Arc<[u8]>> {
        let Some(segment) = self.segments.get(place) else { return Ok(Arc::default()) };
        let header = segment.header;
        tracing::warn!(
            segment = header.generation,
            "an index of the message log is damaged; it is made again from the messages"
        );
        let file = self.files.file(&*self.folder, header.generation)?;
        let patched = self.files.bad.patch(header.generation, file);
        let mut scanner = Scanner::up_to(&patched, header.generation, header.frame(), data_end);
        let (mut index, mut found) = (Index::default(), 0);
        loop {
            let next = match scanner.next() {
                Ok(next) => next,
                Err(error) => {
                    self.is_lost(place, &error); // then the next try passes over it
                    return Err(error);
                }
            };
            match next {
                Found::Record { kind: Kind::Message, at, payload, .. } => {
                    let Some(head) = take_head(payload, header.base) else { continue };
                    if head.references.iter().any(|reference| reference.endpoint.key(reference.priority) == key) {
                        index.push(head.sequence, at as u32);
                        found += 1;
                    }
                }
                Found::Record { .. } | Found::Damaged { .. } => {}
                Found::End { .. } | Found::Torn { .. } => break,
            }
        }
        if found < count {
            let (path, messages) = (self.path.join(super::file_name(header.generation)), u64::from(count - found));
            self.report(Damage { path, at: 0, bytes: 0, loss: Loss::Messages(messages) });
        }
        let index_bytes: Arc<[u8]> = index.bytes.clone().into();
        if let Some(segment) = self.segments.get_mut(place)
            && let Some(queue) = segment.queue_mut(key)
        {
            if found != count {
                // A record is lost as well: what is settled, by place in the index, cannot be told any more. Better twice than never.
                let lost_marks = queue.settled.done();
                queue.settled = super::index::Settled::default();
                queue.count = found;
                let live = u64::from(count.saturating_sub(lost_marks));
                segment.live = segment.live - live + u64::from(found);
                if let Some(state) = self.queues.get_mut(&key) {
                    state.len = state.len - live.min(state.len) + u64::from(found);
                    state.lost += live.saturating_sub(u64::from(found));
                    (state.reader, state.settler) = (None, None);
                }
                // Ordinals are others now: a range that went on would take what lies between for settled.
                self.pending.forget_open(key);
                self.held.forget_open(key);
                if lost_marks > 0 {
                    self.revived.insert(super::EndpointId(key.0));
                }
            }
            if let Some(queue) = self.segments.get_mut(place).and_then(|segment| segment.queue_mut(key)) {
                queue.index = IndexAt::Memory(Box::new(index));
            }
        }
        Ok(index_bytes)
    }

    /// Settles, at an opening, what a record says is settled. Nothing is written.
    pub(super) fn settle_again(&mut self, range: Range) -> io::Result<()> {
        let Range { key, first, last } = range;
        self.forget_attempts(range);
        for place in 0..=self.segments.len() {
            let Some(segment) = self.segment_mut(place) else { continue };
            if segment.last < first || segment.first > last {
                continue;
            }
            let Some(queue) = segment.queue(key) else { continue };
            if first <= queue.first && queue.last <= last {
                let count = segment.settle_all(key).map_or(0, |(count, _)| count);
                self.count_settled(key, u64::from(count), None);
                continue;
            }
            // An opening does not wait for a page: it is tried until it is given up, if the disk answers.
            while let Err(error) = self.settle_part(place, range) {
                if !self.may_be_lost(place, &error) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    pub(super) fn forget_attempts(&mut self, Range { key, first, last }: Range) {
        let tried = self.attempts.range((key, first)..=(key, last)).map(|(message, _)| *message);
        for message in tried.collect::<Vec<_>>() {
            self.attempts.remove(&message);
        }
    }

    fn settle_part(&mut self, place: usize, range: Range) -> io::Result<()> {
        let Range { key, first, last } = range;
        let Some(generation) = self.segment(place).map(Segment::generation) else { return Ok(()) };
        let walk = self.queues.get_mut(&key).and_then(|state| state.settler.take());
        let walk = match walk.filter(|walk| walk.generation == generation) {
            Some(walk) => Some(walk),
            None => self.walk(place, key)?,
        };
        let Some(mut walk) = walk.filter(|walk| walk.index.is_some() || self.is_in_memory(place, key)) else {
            return Ok(());
        };
        match first.checked_sub(1) {
            Some(before) => self.seek(&mut walk, place, key, before),
            None => walk.finder.begin(),
        }
        let mut count = 0;
        while let Some(spot) = self.next_until(&mut walk, place, key, last) {
            count += u64::from(self.segment_mut(place).is_some_and(|segment| segment.settle(key, spot.ordinal)));
        }
        self.count_settled(key, count, None);
        if let Some(state) = self.queues.get_mut(&key) {
            state.settler = Some(walk);
        }
        Ok(())
    }

    /// The next entry of a walk that is not behind `last`.
    fn next_until(&self, walk: &mut Walk, place: usize, key: Key, last: u64) -> Option<Spot> {
        let memory = self.segment(place)?.queue(key).and_then(|queue| queue.in_memory());
        walk.finder.next_until(walk.index.as_deref().or(memory)?, last)
    }

    pub(super) fn seek(&self, walk: &mut Walk, place: usize, key: Key, behind: u64) {
        let memory = self.segment(place).and_then(|segment| segment.queue(key)).and_then(|queue| queue.in_memory());
        walk.finder.seek_behind(walk.index.as_deref().or(memory).unwrap_or_default(), behind);
    }
}
