//! Messages that were given up become dead letters, and wait when the log has no room for that.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{PoisonError, Weak, atomic::Ordering::Relaxed},
};

use marram_core::{
    log::{DEAD_LETTERS, EndpointId, How, LogError, Place, Removed},
    queue::ITEM_OVERHEAD,
};

use super::{SYNC_BYTES, Writer, condition::Lines};

/// Messages that wait to become dead letters, in memory: some 100 bytes each, at most half a MiB with the words of their receivers.
/// With twice as many, little less would be delivered once more.
const MOST_WAITING: usize = 1024;

/// What was given up and is not a dead letter yet. It is in the log all the while, not settled: a kill loses nothing.
#[derive(Default)]
pub(super) struct Unburied {
    waiting: VecDeque<Letter>,
    /// Endpoints of more: what is known of those is in the log alone.
    beyond: BTreeSet<EndpointId>,
    /// The next piece of what endpoints that are gone have left is a job that waits.
    goes_on: bool,
    /// Of an endpoint that is gone, and not told yet.
    removed: Removed,
    /// Of endpoints that are gone.
    lines: Lines,
}

struct Letter {
    place: Place,
    reason: String,
}

impl Unburied {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.beyond.is_empty()
    }
}

impl Writer {
    pub(super) fn bury(&mut self, place: Place, attempts: u32, reason: String) {
        if self.unburied.waiting.len() >= MOST_WAITING {
            // Nothing is noted, not even the attempt: the log keeps that in memory too.
            if self.unburied.beyond.insert(place.endpoint) {
                tracing::warn!(
                    waiting = MOST_WAITING,
                    "there is no room for more dead letters; further messages that are given up stay in the message log and are delivered once more"
                );
            }
            return;
        }
        self.log.attempt(place, attempts);
        let letter = Letter { place, reason };
        // Where others wait there is no room.
        if !self.unburied.waiting.is_empty() || !self.try_bury(&letter) {
            self.unburied.waiting.push_back(letter);
        }
    }

    /// Tries those that wait, until there is no room.
    pub(super) fn bury_waiting(&mut self) {
        while let Some(letter) = self.unburied.waiting.pop_front() {
            if !self.try_bury(&letter) {
                self.unburied.waiting.push_front(letter);
                return;
            }
        }
        for endpoint in std::mem::take(&mut self.unburied.beyond) {
            if !self.read_again(endpoint) {
                self.unburied.beyond.insert(endpoint);
            }
        }
    }

    /// The same at the end.
    pub(super) fn bury_last(&mut self) {
        self.bury_waiting();
        let messages = self.unburied.waiting.len();
        if messages > 0 {
            tracing::warn!(
                messages,
                "there is no room for these dead letters; they stay in the message log, and are delivered once more after the next start"
            );
        }
    }

    /// False: there is no room, or the disk fails.
    fn try_bury(&mut self, letter: &Letter) -> bool {
        let Letter { place, reason } = letter;
        match self.log.bury(*place, reason, self.clock.utc()) {
            Ok(_) => {
                self.wrote(ITEM_OVERHEAD);
                // Its settlement waits, and a kill before would leave both.
                self.unflushed.get_or_insert(self.clock.uptime());
                self.has_letters = true;
            }
            Err(LogError::Unknown(_)) => {} // settled meanwhile, or damaged
            Err(LogError::Full(_) | LogError::Disk(_)) => return false,
            Err(error @ LogError::Refused(_)) => {
                tracing::error!(%error, sequence = place.sequence, reason, "a message can never be a dead letter and was dropped");
                self.log.settle(*place, How::Dropped);
                let now = self.clock.uptime();
                self.unflushed.get_or_insert(now);
                self.storage.facts.lock().unwrap_or_else(PoisonError::into_inner).lost += 1;
            }
        }
        true
    }

    /// Has endpoints read again what damage has brought back.
    pub(super) fn read_revived(&mut self) {
        self.unburied.beyond.extend(self.log.take_revived());
    }

    /// Has an endpoint read what is in the log and nobody knows. False: later.
    fn read_again(&mut self, id: EndpointId) -> bool {
        let mut endpoints = self.endpoints.iter().filter_map(Weak::upgrade);
        // Without an endpoint they are buried with all that waits for it.
        let Some(endpoint) = endpoints.find(|endpoint| endpoint.id() == Some(id) && !endpoint.is_closed()) else {
            return true;
        };
        endpoint.read_again(&self.log.usage_of(id))
    }

    /// Buries what waits for endpoints that are not in force. What cannot be done now is tried again.
    pub(super) fn bury_others(&mut self) {
        let Some(keep) = self.keep.as_ref().filter(|_| !self.unburied.goes_on) else { return };
        let others = self.log.endpoints().into_iter().filter(|usage| {
            *usage.name != *DEAD_LETTERS && !keep.contains(&*usage.name) && !self.retired.contains(&usage.id)
        });
        for usage in others.collect::<Vec<_>>() {
            let mut removed = Removed::default();
            let is_done = self.log.remove_endpoint(usage.id, "endpoint_removed", self.clock.utc(), &mut removed);
            self.removed.fetch_add(removed.buried + removed.dropped, Relaxed);
            self.unburied.removed.buried += removed.buried;
            self.unburied.removed.dropped += removed.dropped;
            if let Ok(true) = is_done {
                self.unburied.goes_on = true;
                return self.storage.keep_on(); // others have their turn: senders wait for the log
            }
            self.tell_removed(&usage.name);
            match is_done {
                Ok(_) => {
                    self.retired.insert(usage.id);
                }
                Err(error) => {
                    if self.unburied.lines.tell(true, self.clock.uptime()) {
                        tracing::warn!(endpoint = %usage.name, %error, "messages of a removed endpoint wait to become dead letters");
                    }
                    return;
                }
            }
        }
        self.keep = None;
        self.unburied.lines.tell(false, self.clock.uptime());
    }

    /// The next piece.
    pub(super) fn bury_on(&mut self) {
        self.unburied.goes_on = false;
        self.bury_others();
    }

    fn tell_removed(&mut self, name: &str) {
        let Removed { buried, dropped } = std::mem::take(&mut self.unburied.removed);
        if buried + dropped == 0 {
            return;
        }
        self.unflushed.get_or_insert(self.clock.uptime());
        self.has_letters = true;
        tracing::warn!(
            endpoint = %name,
            dead_letters = buried,
            dropped,
            "no route leads to this endpoint any more; its messages were given up"
        );
        self.wrote(SYNC_BYTES);
    }
}
