//! An endpoint and the message log: what of its messages is in memory, and what is told to the log.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use marram_core::{
    backlog::{Held, Reading},
    deployment::{Durability, QueueOptions},
    log::{EndpointId, Expired, QueueUsage},
    queue::{DropReason, Dropped, Item},
    route::Sink,
    time::Uptime,
};

use super::{Endpoint, INPUT_QUEUE_BYTES, Inner, UPSTREAM_QUEUE_BYTES};
use crate::counts::OTHERS;

/// Between two looks for what has expired behind the window of a full queue: shorter than senders wait, long beside what it costs.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Whether the log may give up what has expired behind the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// It is not in memory, and never was.
    IsUntouched,
    /// Live messages among them have been in memory, and what became of them the log knows when it has done what it was told.
    WasPassed,
    /// Such are out for delivery, and must not become dead letters meanwhile.
    IsUnclear,
}

impl Endpoint {
    /// Its name in the log.
    pub(crate) fn name(&self) -> Box<str> {
        self.sink.queue_name().into()
    }

    /// Its number in the log, once it is open.
    pub(crate) fn id(&self) -> Option<EndpointId> {
        self.id.get().copied()
    }

    /// Whether what it accepts goes into the log. Changes only with the routes.
    pub(crate) fn is_durable(&self) -> bool {
        self.durable.load(SeqCst)
    }

    /// Sets what the routes say: of its queue, and what its messages must outlive, as one of so many inputs.
    pub(crate) fn configure(&self, options: QueueOptions, durability: Durability, inputs: usize) {
        let durable = durability > Durability::Memory;
        let is_upstream = self.sink == Sink::Upstream;
        let in_memory = if is_upstream { UPSTREAM_QUEUE_BYTES } else { INPUT_QUEUE_BYTES };
        let mut inner = self.lock();
        inner.options = options;
        inner.queue.set_unordered(options.unordered);
        inner.durable = durable;
        inner.power_safe = durability == Durability::Power;
        if inner.power_safe {
            self.power_safe.store(true, SeqCst);
        }
        inner.bounds = [in_memory, self.storage.share(is_upstream, inputs)];
        self.durable.store(durable, SeqCst);
        inner.account();
        self.note_promises(&inner);
    }

    /// Forgets what former routes have promised once nothing is left of that time.
    fn note_promises(&self, inner: &Inner) {
        if !inner.power_safe && inner.queue.is_empty() && !inner.in_log && self.power_safe.load(SeqCst) {
            self.power_safe.store(false, SeqCst);
        }
    }

    /// Whether one of its routes promises that a loss of power costs nothing, or one did when something came that still waits.
    pub(crate) fn is_power_safe(&self) -> bool {
        self.power_safe.load(SeqCst)
    }

    /// What the log holds for it. Called once, by the log's owner, before anything is accepted.
    pub(crate) fn opened(&self, id: EndpointId, queues: &[QueueUsage]) {
        let mut inner = self.lock();
        let _ = self.id.set(id);
        for queue in queues {
            inner.backlog.restore(queue.priority, queue.messages, queue.bytes);
            // The log does not know under which routes they came.
            self.power_safe.store(true, SeqCst);
        }
        inner.loading = true; // the owner reads now
        inner.account();
    }

    /// Whether a message goes into the log, under a lock that the caller holds: also one of a route that does not ask for it, as long as
    /// others wait there. They go first.
    pub(crate) fn stores(inner: &Inner) -> bool {
        inner.goes_into_log()
    }

    /// Sets bytes aside for a message on its way into the log, under a lock that the caller holds.
    pub(crate) fn reserve(inner: &mut Inner, size: usize) {
        inner.backlog.reserve(size);
        inner.account();
    }

    /// The message was not stored.
    pub(crate) fn release(&self, size: usize) {
        let mut inner = self.lock();
        inner.backlog.release(size);
        inner.account();
        drop(inner);
        self.consumer.ring(); // it may wait for this one
        self.room.notify_waiters();
    }

    /// A message for which bytes were set aside is stored, or was sent to another one that stores it.
    pub(crate) fn arrived(self: &Arc<Self>, mut item: Item) {
        let mut inner = self.lock();
        inner.backlog.release(item.size);
        inner.accepted += 1;
        let priority = item.priority;
        let is_live = self.takes_live(&inner);
        let stays = match item.stored {
            // What is in the log of a closed endpoint is removed there.
            Some(place) if !inner.closed => {
                let (held, live_bytes) = (inner.held(priority), inner.queue.live_bytes());
                item.live = is_live && inner.backlog.passes(priority, place.sequence, live_bytes);
                item.live || inner.backlog.stored(priority, place.sequence, item.size, held)
            }
            stored => {
                item.live = is_live;
                stored.is_none()
            }
        };
        if stays {
            inner.queue.push(item);
        }
        inner.account();
        if inner.closed {
            inner.queue.remove_all();
            self.note_drops(&mut inner, Uptime(0));
        } else if !stays {
            self.read_on(&mut inner);
        }
        drop(inner);
        self.ring(priority);
    }

    /// A message that was a dead letter is in the log for it again.
    pub(crate) fn revived(self: &Arc<Self>, priority: u8, size: usize) {
        let mut inner = self.lock();
        inner.accepted += 1;
        inner.backlog.stored_unseen(priority, size);
        self.read_on(&mut inner);
    }

    /// The log holds messages that are neither in memory nor behind the window: they were given up when there was no room for dead letters. All
    /// are read again from the beginning, once nothing is in memory that would come twice. False: not now.
    pub(crate) fn read_again(self: &Arc<Self>, queues: &[QueueUsage]) -> bool {
        let mut inner = self.lock();
        if inner.closed {
            return true; // they are buried with the rest
        }
        if !inner.queue.is_empty() || inner.in_log || inner.loading {
            return false;
        }
        for queue in queues {
            inner.backlog.restore(queue.priority, queue.messages, queue.bytes);
        }
        self.read_on(&mut inner);
        true
    }

    /// Asks the log to read on if there is room in memory.
    pub(super) fn read_on(self: &Arc<Self>, inner: &mut Inner) {
        inner.account();
        self.note_promises(inner);
        if inner.in_log && !inner.loading && !inner.closed && inner.reading().is_some() {
            inner.loading = true;
            self.storage.load(self.clone());
        }
    }

    /// What the log's owner is to read next; none = enough for now.
    pub(crate) fn next_reading(&self) -> Option<Reading> {
        let mut inner = self.lock();
        let reading = inner.reading().filter(|_| !inner.closed);
        inner.loading = reading.is_some();
        if reading.is_none() {
            drop(inner);
            self.consumer.ring(); // it may wait for the end of the reading
        }
        reading
    }

    /// What was read, in its order, and how many are lost; `is_all`: there is no more of this priority.
    pub(crate) fn loaded(&self, priority: u8, items: impl Iterator<Item = Item>, lost: u64, is_all: bool, now: Uptime) {
        let mut inner = self.lock();
        let mut dropped = Vec::new();
        for item in items {
            let Some(place) = item.stored else { continue };
            if !inner.backlog.read(priority, place.sequence, item.size) {
                continue; // a live one
            }
            let is_spent = item.max_attempts.is_some_and(|most| item.attempts >= most);
            let reason = if item.deadline.is_some_and(|deadline| deadline <= now) {
                DropReason::Expired
            } else if is_spent {
                DropReason::TooManyAttempts
            } else {
                let suspect = item.suspect && self.sink != Sink::Upstream;
                inner.queue.push(Item { suspect, ..item });
                continue;
            };
            let (source, sequence, attempts) = (item.accepted.source, item.accepted.sequence, item.attempts);
            dropped.push(Dropped { source, sequence, attempts, reason, stored: Some(place) });
        }
        if lost > 0 {
            inner.backlog.lost(priority, lost);
        }
        if is_all {
            inner.backlog.came_to_the_end(priority);
        }
        inner.account();
        self.note_dropped(&mut inner, dropped, now);
        if inner.closed {
            inner.queue.remove_all();
            self.note_drops(&mut inner, now);
        }
        drop(inner);
        self.ring(priority);
        self.room.notify_waiters();
    }

    /// Gives up what has expired in memory.
    pub(crate) fn expire(self: &Arc<Self>, now: Uptime) -> Behind {
        let mut inner = self.lock();
        inner.queue.drop_expired(now);
        let behind = match (inner.backlog.has_passed(), inner.queue.has_live_out()) {
            (false, _) => Behind::IsUntouched,
            (true, false) => Behind::WasPassed,
            (true, true) => Behind::IsUnclear,
        };
        if self.note_drops(&mut inner, now) {
            self.read_on(&mut inner);
            drop(inner);
            self.consumer.ring();
            self.room.notify_waiters();
        }
        behind
    }

    /// The priorities that have messages behind the window, each with the last one before them.
    pub(crate) fn backlogs(&self) -> Vec<(u8, Option<u64>)> {
        self.lock().backlog.behind().collect()
    }

    /// Whether what expires becomes a dead letter.
    pub(crate) fn keeps_expired(&self) -> bool {
        self.lock().options.expired_to_dead_letter
    }

    /// Messages behind the window have expired and are gone from the log.
    pub(crate) fn expired_behind(self: &Arc<Self>, priority: u8, expired: &Expired) {
        let Expired { messages, left_messages, .. } = *expired;
        let reason = DropReason::Expired.label();
        let mut inner = self.lock();
        inner.backlog.expired(priority, expired);
        inner.given_up.add(&OTHERS.into(), reason, messages);
        self.read_on(&mut inner);
        drop(inner);
        tracing::warn!(endpoint = %self.sink, messages, left_messages, reason, "gave up messages that nobody had asked for yet");
        self.consumer.ring(); // it may wait for the end of the backlog
        self.room.notify_waiters();
    }

    /// Asks the log to look for what has expired behind the window: senders are refused for it. Not each time that one is.
    pub(super) fn ask_for_expired(self: &Arc<Self>, inner: &mut Inner, now: Uptime) {
        if inner.backlog.is_behind() && inner.look_again_at <= now {
            inner.look_again_at = now.after(BETWEEN_LOOKS);
            self.storage.expire(self.clone());
        }
    }

    /// Whether no route leads here any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Bytes in memory.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.lock().queue.bytes()
    }

    /// Whether messages are on their way into memory or into the log: a consumer that finds nothing waits for them.
    pub(crate) fn awaits_log(&self) -> bool {
        !self.storage.has_ended() && Self::has_under_way(&self.lock())
    }

    pub(super) fn has_under_way(inner: &Inner) -> bool {
        inner.loading || inner.backlog.is_storing()
    }

    /// Whether room is set aside for messages that are on their way into the log.
    #[cfg(test)]
    pub(crate) fn is_storing(&self) -> bool {
        self.lock().backlog.is_storing()
    }

    /// The log has ended: who waits for it hears of that.
    pub(crate) fn look_again(&self) {
        self.consumer.ring();
        self.room.notify_waiters();
    }
}

impl Inner {
    fn held(&self, priority: u8) -> Held {
        let bytes = self.queue.bytes() - self.queue.live_bytes();
        Held { bytes, lane_is_idle: !self.queue.has_backlog_ready(priority) }
    }

    fn reading(&self) -> Option<Reading> {
        self.backlog.next_reading(|priority| self.held(priority))
    }

    fn goes_into_log(&self) -> bool {
        self.in_log || self.durable
    }

    /// What is in the log counts against the bound of the queue, which is that of the place where messages go now.
    fn account(&mut self) {
        self.queue.set_beside(self.backlog.bytes());
        self.in_log = self.backlog.is_behind() || self.backlog.is_storing();
        self.queue.set_max_bytes(self.bounds[usize::from(self.goes_into_log())]);
    }
}
