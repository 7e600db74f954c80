//! Dead letters: messages that nobody could handle, kept for a person. They are a queue of the same log, under a name that no
//! endpoint has.

pub use marram_core::log::{DEAD_LETTERS, Removed};
use marram_core::{queue::ITEM_OVERHEAD, time::UtcMillis};

use super::{AppendError, Death, EndpointId, Entry, How, Log, Place, ReadError, Reference, Stored};

/// Bytes that are moved at once when an endpoint goes.
pub(super) const STEP: usize = 64 << 10;

/// Why a dead letter could not be made or brought back.
#[derive(Debug, thiserror::Error)]
pub enum Replay {
    /// There is none of this sequence.
    #[error("there is no message {0} in this queue")]
    Unknown(u64),
    /// It cannot be stored.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Log {
    /// Makes a message a dead letter: it is done for its endpoint. The oldest dead letters go when there are too many.
    ///
    /// # Errors
    /// It is not there (damaged or settled), or cannot be stored; then it stays where it is.
    pub fn bury(&mut self, place: Place, reason: &str, at: UtcMillis) -> Result<u64, Replay> {
        let stored = self.get(place)?.ok_or(Replay::Unknown(place.sequence))?;
        let sequence = self.bury_stored(&stored, reason, at)?;
        self.give_room_back();
        Ok(sequence)
    }

    pub(super) fn bury_stored(&mut self, stored: &Stored, reason: &str, at: UtcMillis) -> Result<u64, AppendError> {
        let dead = self.endpoint(DEAD_LETTERS);
        let endpoint = self.endpoints.names.get(&stored.place.endpoint.0).cloned().unwrap_or_default();
        let death = Death { endpoint, reason: reason.into(), attempts: stored.attempts, at };
        let reference = Reference { endpoint: dead, priority: 0, deadline: None, max_attempts: None };
        let entry = Entry { message: &stored.accepted, references: &[reference] };
        let mut done = self.next_sequence..self.next_sequence;
        self.append_all(&[entry], Some(&death), &mut done)?;
        self.settle_when_safe(stored.place, How::DeadLettered);
        self.bound_dead_letters(dead);
        Ok(done.start)
    }

    fn bound_dead_letters(&mut self, dead: EndpointId) {
        let key = dead.key(0);
        while self.live_bytes(dead) > self.options.dead_letter_bytes && self.queues.get(&key).is_some_and(|q| q.len > 1)
        {
            let Ok(Some((_, oldest))) = self.next_live(key, None) else { break };
            self.settle_at(key, oldest.sequence, Some(How::Dropped));
        }
    }

    /// Bytes on disk of what waits for an endpoint.
    fn live_bytes(&self, endpoint: EndpointId) -> u64 {
        self.keys_of(endpoint).map(|key| self.live_bytes_of(key)).sum()
    }

    pub(super) fn live_bytes_of(&self, key: super::Key) -> u64 {
        self.all_segments().filter_map(|segment| segment.queue(key)).map(super::segment::Queue::live_bytes).sum()
    }

    pub(super) fn keys_of(&self, endpoint: EndpointId) -> impl Iterator<Item = super::Key> {
        self.queues.range((endpoint.0, 0)..=(endpoint.0, u8::MAX)).map(|(key, _)| *key)
    }

    /// One message, if it is there and not settled.
    ///
    /// # Errors
    /// The disk cannot be read now.
    pub fn get(&mut self, place: Place) -> Result<Option<Stored>, ReadError> {
        let key = place.endpoint.key(place.priority);
        let before = place.sequence.checked_sub(1);
        match self.next_live(key, before)? {
            Some((at, spot)) if spot.sequence == place.sequence => self.load_or_give_up(at, key, spot),
            _ => Ok(None),
        }
    }

    /// The dead letters behind `after`, oldest first; as [`Log::read`].
    ///
    /// # Errors
    /// The disk cannot be read now.
    pub fn dead_letters(&mut self, after: Option<u64>, max_bytes: usize) -> Result<Vec<Stored>, ReadError> {
        let (dead, mut letters) = (self.endpoint(DEAD_LETTERS), Vec::new());
        self.read(dead, 0, after, max_bytes, &mut letters)?;
        Ok(letters)
    }

    /// Sends a dead letter again: it is a new message for these, and a dead letter no more.
    ///
    /// # Errors
    /// There is none of this sequence, or it cannot be stored; then it stays a dead letter.
    pub fn replay(&mut self, sequence: u64, to: &[Reference]) -> Result<u64, Replay> {
        let place = Place { endpoint: self.endpoint(DEAD_LETTERS), priority: 0, sequence };
        let letter = self.get(place)?.ok_or(Replay::Unknown(sequence))?;
        let entry = Entry { message: &letter.accepted, references: to };
        let mut done = self.next_sequence..self.next_sequence;
        self.append_all(&[entry], None, &mut done)?;
        self.settle_when_safe(place, How::Delivered);
        self.give_room_back();
        Ok(done.start)
    }

    /// Forgets a dead letter. False: there is none of this sequence.
    pub fn purge(&mut self, sequence: u64) -> bool {
        let place = Place { endpoint: self.endpoint(DEAD_LETTERS), priority: 0, sequence };
        self.settle(place, How::Dropped)
    }

    /// Forgets all dead letters; returns how many.
    pub fn purge_all(&mut self) -> u64 {
        let dead = self.endpoint(DEAD_LETTERS);
        let purged = self.drop_queue(dead.key(0));
        self.give_room_back();
        purged
    }

    fn drop_queue(&mut self, key: super::Key) -> u64 {
        (0..=self.segments.len()).map(|place| self.settle_queue(place, key, How::Dropped)).sum()
    }

    /// Makes dead letters of messages of an endpoint that is gone, so many that others need not wait long; of more than the dead letters
    /// take, the newest. Counts them in `removed`. False: there are no more.
    ///
    /// # Errors
    /// They cannot be stored or read; what is not a dead letter yet stays where it is, and the call may be made again. What was done before
    /// is counted.
    pub fn remove_endpoint(
        &mut self,
        endpoint: EndpointId,
        reason: &str,
        at: UtcMillis,
        removed: &mut Removed,
    ) -> Result<bool, Replay> {
        let (keys, mut bytes) = (self.keys_of(endpoint).collect::<Vec<_>>(), 0);
        for key in keys {
            for place in 0..=self.segments.len() {
                let live =
                    self.segment(place).and_then(|segment| segment.queue(key)).map_or(0, |queue| queue.live_bytes());
                if live > 0 && self.live_bytes(endpoint) >= live + self.options.dead_letter_bytes {
                    removed.dropped += self.settle_queue(place, key, How::Dropped);
                }
            }
            let mut after = None;
            while self.live_bytes(endpoint) > self.options.dead_letter_bytes
                && let Some((_, oldest)) = self.next_live(key, after)?
            {
                after = Some(oldest.sequence);
                removed.dropped += u64::from(self.settle_at(key, oldest.sequence, Some(How::Dropped)));
            }
            loop {
                let mut batch = Vec::new();
                self.read(endpoint, key.1, after, STEP - bytes, &mut batch)?;
                let Some(last) = batch.last() else { break };
                after = Some(last.place.sequence);
                for stored in &batch {
                    self.bury_stored(stored, reason, at)?;
                    removed.buried += 1;
                    bytes += stored.accepted.message.size() + ITEM_OVERHEAD;
                }
                self.give_room_back();
                if bytes >= STEP {
                    return Ok(true);
                }
            }
        }
        self.removed.push(endpoint.0);
        Ok(false)
    }
}
