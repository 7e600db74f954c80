//! What comes out of the log: an endpoint's messages into its window, and what has expired behind it.

use std::sync::{Arc, Weak};

use marram_core::{
    log::Letters,
    queue::{Arrival, DropReason, ITEM_OVERHEAD, Item},
    time::Uptime,
};

use super::Writer;
use crate::endpoint::{Behind, Endpoint};

/// Bytes that are read for one endpoint before others have their turn: two windows, some milliseconds of a slow disk. A backlog of which all has
/// expired is read through to its end, and senders must not wait for that.
const LOAD_BYTES: usize = 512 << 10;

impl Writer {
    pub(super) fn open(&mut self, endpoint: Arc<Endpoint>) {
        let name = endpoint.name();
        let id = self.log.endpoint(&name);
        self.retired.remove(&id);
        // Its messages are not to be buried any more, if that has not been done yet.
        if let Some(keep) = &mut self.keep {
            keep.insert(name.clone());
        }
        endpoint.opened(id, &self.log.usage_of(id));
        self.endpoints.retain(|endpoint| endpoint.strong_count() > 0);
        self.endpoints.push(Arc::downgrade(&endpoint));
        self.load(endpoint);
    }

    /// Reads on into an endpoint's window, until it is full or there is nothing behind it; or for a while, and goes on after the jobs that
    /// have come meanwhile.
    pub(super) fn load(&mut self, endpoint: Arc<Endpoint>) {
        let Some(id) = endpoint.id() else { return };
        let mut read_bytes = 0;
        while let Some(reading) = endpoint.next_reading() {
            if read_bytes >= LOAD_BYTES {
                self.storage.load(endpoint);
                return;
            }
            let mut found = Vec::new();
            let read = self.log.read(id, reading.priority, reading.after, reading.max_bytes, &mut found);
            let bytes: usize = found.iter().map(|stored| stored.accepted.message.size() + ITEM_OVERHEAD).sum();
            read_bytes += bytes;
            let is_all = read.is_ok() && bytes < reading.max_bytes;
            let items = found.into_iter().map(|stored| Item {
                size: stored.accepted.message.size() + ITEM_OVERHEAD,
                priority: reading.priority,
                deadline: stored.deadline.map(|at| self.storage.uptime(at)),
                attempts: stored.attempts,
                max_attempts: stored.max_attempts,
                suspect: stored.place.sequence < self.first,
                stored: Some(stored.place),
                live: false,
                arrival: Arrival::default(),
                turn: 0,
                accepted: stored.accepted,
            });
            let lost = self.log.take_lost(id, reading.priority);
            endpoint.loaded(reading.priority, items, lost, is_all, self.clock.uptime());
            let (is_failing, now) = (read.is_err(), self.clock.uptime());
            let tells = self.unread_lines.tell(is_failing, now);
            if let Err(error) = read {
                if tells {
                    tracing::error!(endpoint = %endpoint.sink, %error, "messages cannot be read; trying again");
                }
                self.unread.push(endpoint);
                return;
            }
        }
    }

    /// Has endpoints give up what has expired.
    pub(super) fn expire(&mut self, now: Uptime) {
        for endpoint in self.endpoints.iter().filter_map(Weak::upgrade).collect::<Vec<_>>() {
            self.expire_of(&endpoint, now);
        }
    }

    /// What is in memory, and what the log can tell unread of what is behind. The rest is judged when it is read.
    pub(super) fn expire_of(&mut self, endpoint: &Arc<Endpoint>, now: Uptime) {
        match endpoint.expire(now) {
            Behind::IsUntouched => self.expire_behind(endpoint, now),
            Behind::WasPassed => self.storage.expire_behind(endpoint.clone(), now),
            Behind::IsUnclear => {}
        }
    }

    /// What the log can tell unread of what was behind the window at this moment.
    pub(super) fn expire_behind(&mut self, endpoint: &Arc<Endpoint>, at: Uptime) {
        let Some(id) = endpoint.id() else { return };
        let reason = DropReason::Expired.label();
        let letters = endpoint.keeps_expired().then(|| Letters { reason, at: self.clock.utc() });
        for (priority, read_to) in endpoint.backlogs() {
            if let Some(expired) = self.log.expire(id, priority, read_to, self.storage.elapsed(at), letters) {
                let now = self.clock.uptime();
                self.unflushed.get_or_insert(now);
                self.has_letters |= letters.is_some();
                endpoint.expired_behind(priority, &expired);
            }
        }
    }
}
