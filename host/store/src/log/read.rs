//! A queue's messages in order, from the disk.

use std::{io, sync::Arc};

use marram_core::queue::ITEM_OVERHEAD;

use super::{
    Damage, EndpointId, Key, Log, Loss, Place, Reference, Stored, Walk, file_name,
    files::Names,
    format::Kind,
    index::Spot,
    medium,
    record::{take_head, take_name},
    scan::{Found, Scanner},
    segment::{Segment, Sources},
    wire::Take,
};

/// Why a queue could not be read on.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", .path.display())]
pub struct ReadError {
    path: std::path::PathBuf,
    #[source]
    source: io::Error,
}

impl Log {
    /// Adds the messages of a queue behind `after` (none = from its beginning) that are not settled to `into`, in their order, until
    /// they take `max_bytes` (bodies, properties, and [`ITEM_OVERHEAD`] each) or there are none; at least one. What is damaged is passed over, and tells
    /// [`Log::take_damage`]. Times to live are the caller's to judge.
    ///
    /// # Errors
    /// The disk cannot be read now (too many open files, or it does not answer). What was read before stands in `into`.
    pub fn read(
        &mut self,
        endpoint: EndpointId,
        priority: u8,
        after: Option<u64>,
        max_bytes: usize,
        into: &mut Vec<Stored>,
    ) -> Result<(), ReadError> {
        let key = endpoint.key(priority);
        let (mut after, mut bytes) = (after, 0);
        while bytes < max_bytes.max(1) {
            let Some((place, spot)) = self.next_live(key, after)? else { break };
            if after.is_some_and(|after| spot.sequence <= after) {
                break; // an index that is none
            }
            after = Some(spot.sequence);
            if let Some(stored) = self.load_or_give_up(place, key, spot)? {
                bytes += stored.accepted.message.size() + ITEM_OVERHEAD;
                into.push(stored);
            }
        }
        self.give_room_back();
        Ok(())
    }

    /// The message at a place; none = it is lost, which is told.
    pub(super) fn load_or_give_up(&mut self, place: usize, key: Key, spot: Spot) -> Result<Option<Stored>, ReadError> {
        let names = self.names_of(place).map_err(|source| self.read_error(place, source))?;
        let loaded = match self.load(place, key, spot, &names) {
            Err(error) if self.is_lost(place, &error) => Ok(None),
            loaded => loaded,
        };
        let stored = loaded.map_err(|source| self.read_error(place, source))?;
        match (&stored, self.segment(place).map(Segment::generation)) {
            (Some(stored), Some(generation)) => {
                self.files.bad.read(generation, u64::from(spot.at), stored.accepted.message.size() as u64);
            }
            _ => self.give_up(place, key, spot),
        }
        Ok(stored)
    }

    /// Whether bytes of a segment that could not be read are lost, and not only out of reach: it was tried often enough, while the disk
    /// could read others. Counts the tries.
    pub(super) fn is_lost(&mut self, place: usize, error: &io::Error) -> bool {
        let (Some(at), Some(segment)) = (medium::bad_page(error), self.segment(place)) else { return false };
        let generation = segment.generation();
        self.may_be_lost(place, error) && self.files.bad.failed(generation, at)
    }

    /// Whether it is this page, and not the disk, that cannot be read now.
    pub(super) fn may_be_lost(&mut self, place: usize, error: &io::Error) -> bool {
        let (Some(at), Some(segment)) = (medium::bad_page(error), self.segment(place)) else { return false };
        let file = self.files.file(&*self.folder, segment.generation());
        file.is_ok_and(|file| medium::answers(&*self.folder, &*file, at))
    }

    /// The next message of a queue that is not settled.
    pub(super) fn next_live(&mut self, key: Key, after: Option<u64>) -> Result<Option<(usize, Spot)>, ReadError> {
        let first = match after {
            Some(after) => self.segments.partition_point(|segment| segment.last <= after),
            None => 0,
        };
        for place in first..=self.segments.len() {
            let queue = self.segment(place).and_then(|segment| segment.queue(key));
            if queue.is_none_or(|queue| queue.live() == 0 || after.is_some_and(|after| queue.last <= after)) {
                continue;
            }
            let found = self.next_live_in(place, key, after).map_err(|source| self.read_error(place, source))?;
            if let Some(spot) = found {
                return Ok(Some((place, spot)));
            }
        }
        Ok(None)
    }

    pub(super) fn next_live_in(&mut self, place: usize, key: Key, after: Option<u64>) -> io::Result<Option<Spot>> {
        let generation = self.segment(place).map(Segment::generation);
        let walk = self.queues.get_mut(&key).and_then(|state| state.reader.take());
        let walk = match walk.filter(|walk| Some(walk.generation) == generation) {
            Some(walk) => Some(walk),
            None => self.walk(place, key)?,
        };
        let Some(mut walk) = walk else { return Ok(None) };
        self.ready(&mut walk, place, key)?;
        match after {
            Some(after) => self.seek(&mut walk, place, key, after),
            None => walk.finder.begin(),
        }
        let found = self.unsettled_from(&mut walk, place, key);
        if let Some(state) = self.queues.get_mut(&key) {
            state.reader = Some(walk);
        }
        Ok(found)
    }

    fn read_error(&self, place: usize, source: io::Error) -> ReadError {
        let generation = self.segment(place).map_or(0, Segment::generation);
        ReadError { path: self.path.join(file_name(generation)), source }
    }

    fn unsettled_from(&self, walk: &mut Walk, place: usize, key: Key) -> Option<Spot> {
        let queue = self.segment(place)?.queue(key)?;
        let index = walk.index.as_deref().or(queue.in_memory())?;
        walk.finder.skip_to(queue.settled.prefix());
        loop {
            let spot = walk.finder.next(index)?;
            if !queue.settled.contains(spot.ordinal) && !self.deferred.contains(key, spot.sequence) {
                return Some(spot);
            }
        }
    }

    /// The message at a place; none = it is damaged.
    fn load(&mut self, place: usize, key: Key, spot: Spot, names: &Names) -> io::Result<Option<Stored>> {
        let Some(segment) = self.segment(place) else { return Ok(None) };
        let (header, end, frame) = (segment.header, segment.data_end, segment.header.frame());
        let file = match &self.active {
            Some(active) if place == self.segments.len() => active.file.clone(),
            _ => self.files.file(&*self.folder, header.generation)?,
        };
        let record = self.files.record(&*file, header.generation, &frame, u64::from(spot.at), end)?;
        let Some((Kind::Message, payload)) = record else { return Ok(None) };
        let Some(head) = take_head(payload, header.base).filter(|head| head.sequence == spot.sequence) else {
            return Ok(None);
        };
        let reference = head.references.iter().find(|reference| reference.endpoint.key(reference.priority) == key);
        let Some(Reference { endpoint, priority, deadline, max_attempts }) = reference.copied() else {
            return Ok(None);
        };
        let Some((accepted, death)) = head.message(|number| name_of(names, number)) else {
            return Ok(None);
        };
        let place = Place { endpoint, priority, sequence: spot.sequence };
        let attempts = self.attempts.get(&(key, spot.sequence)).copied().unwrap_or(0);
        Ok(Some(Stored { place, accepted, deadline, max_attempts, attempts, death }))
    }

    /// Notes that a message is lost.
    fn give_up(&mut self, place: usize, key: Key, spot: Spot) {
        let generation = self.segment(place).map_or(0, Segment::generation);
        let path = self.path.join(file_name(generation));
        self.report(Damage { path, at: u64::from(spot.at), bytes: 0, loss: Loss::Messages(1) });
        if self.settle_at(key, spot.sequence, None)
            && let Some(state) = self.queues.get_mut(&key)
        {
            state.lost += 1;
        }
    }

    /// The names of a segment's sources.
    pub(super) fn names_of(&mut self, place: usize) -> io::Result<Names> {
        let Some(segment) = self.segment(place) else { return Ok(Names::default()) };
        let at = match &segment.sources {
            Sources::Memory(names) => return Ok(names.clone()),
            Sources::Disk(0) => return Ok(Names::default()),
            Sources::Disk(at) => *at,
        };
        let (header, end, data_end) = (segment.header, segment.len, segment.data_end);
        if let Some(names) = self.files.sources(header.generation) {
            return Ok(names);
        }
        let file = self.files.file(&*self.folder, header.generation)?;
        let mut window = super::files::Window::lean(header.generation);
        let mut names = Vec::new();
        match window.record(&*file, &header.frame(), u64::from(at), end) {
            Ok(Some((Kind::Sources, payload))) => add_names(&mut names, payload),
            Err(error) if medium::bad_page(&error).is_none() => return Err(error),
            _ => {
                // They stand before the messages as well.
                let patched = self.files.bad.patch(header.generation, file);
                let mut scanner = Scanner::up_to(&patched, header.generation, header.frame(), data_end);
                loop {
                    match scanner.next() {
                        Ok(Found::Record { kind: Kind::Sources, payload, .. }) => add_names(&mut names, payload),
                        Ok(Found::End { .. } | Found::Torn { .. }) => break,
                        Ok(Found::Record { .. } | Found::Damaged { .. }) => {}
                        Err(error) => {
                            self.is_lost(place, &error); // then the next try passes over it
                            return Err(error);
                        }
                    }
                }
            }
        }
        let names: Names = Arc::new(names);
        self.files.keep_sources(&*self.folder, header.generation, &names)?;
        Ok(names)
    }
}

/// A name; none = it was lost.
pub(super) fn name_of(names: &Names, number: u32) -> Option<Arc<str>> {
    names.get(number as usize).filter(|name| !name.is_empty()).cloned()
}

/// Notes the names in a record; one that is there already is the same.
pub(super) fn add_names(names: &mut Vec<Arc<str>>, payload: &[u8]) {
    let mut take = Take(payload);
    while let Some((number, name)) = take_name(&mut take) {
        let number = number as usize;
        // A gap is a lost record: its messages will find no name, or the second copy fills it.
        if number < super::rotate::MAX_SOURCES {
            if names.len() <= number {
                names.resize(number + 1, Arc::from(""));
            }
            names[number] = name.into();
        }
    }
}
