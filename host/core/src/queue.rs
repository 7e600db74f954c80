//! One endpoint's queue: what waits for an input or for upstream, and the bookkeeping of its delivery.
//!
//! First in, first out within (source, priority); more urgent priorities first. Live messages, where there are any, have an order of their
//! own and go before the backlog of their priority, but for every fourth. A message that must be tried again
//! blocks only later messages of its own source and priority. Bounded by bytes; what is out for delivery still counts.
//! One consumer, which may hold several batches. No clock, no lock, no waking: those are the agent's.

mod batch;
mod blocked;
mod item;
mod lane;
mod retry;
mod room;

use std::collections::BTreeMap;

pub use self::{
    batch::{Batch, Done},
    item::{Arrival, DropReason, Dropped, ITEM_OVERHEAD, Item},
    retry::{FIRST_RETRY, MAX_RETRY, MAX_RETRY_AFTER, retry_delay},
};
use self::{
    blocked::{Blocked, Stream},
    lane::Lane,
};
use crate::{
    deployment::PRIORITIES,
    time::{Uptime, UtcMillis},
};

/// The queue of one endpoint.
#[derive(Debug, Default)]
pub struct EndpointQueue {
    max_bytes: usize,
    /// A message in back-off holds up no other.
    unordered: bool,
    bytes: usize,
    /// Of these, of live messages.
    live_bytes: usize,
    /// Bytes of the endpoint that are not in this queue and count like those that are.
    beside: usize,
    len: usize,
    /// Of these, by priority.
    len_of: [usize; PRIORITIES],
    /// Bytes that wait and are not out for delivery, by priority.
    waiting_of: [usize; PRIORITIES],
    ready: [Lane; PRIORITIES],
    blocked: BTreeMap<Stream, Blocked>,
    dropped: Vec<Dropped>,
    /// Of all that came.
    latest: Arrival,
    /// No message in the queue expires before; one that is out may.
    earliest_deadline: Option<Uptime>,
}

impl EndpointQueue {
    /// An empty queue for at most `max_bytes` (messages and overhead, those out for delivery included).
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, ..Self::default() }
    }

    /// Messages that wait or are out for delivery.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing waits and nothing is out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Messages that wait or are out for delivery, by priority.
    #[must_use]
    pub fn len_of(&self) -> [usize; PRIORITIES] {
        self.len_of
    }

    /// Bytes that wait or are out for delivery.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn waiting(&self) -> impl Iterator<Item = &Item> {
        self.ready.iter().flat_map(Lane::iter).chain(self.blocked.values().flat_map(|blocked| &blocked.items))
    }

    /// Says whether a message in back-off holds up the later ones of its source and priority.
    pub fn set_unordered(&mut self, unordered: bool) {
        self.unordered = unordered;
    }

    /// Says how many bytes of the endpoint are elsewhere (in the log), and count against the bound of this queue.
    pub fn set_beside(&mut self, bytes: usize) {
        self.beside = bytes;
    }

    /// Changes the bound; what is above it stays.
    pub fn set_max_bytes(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
    }

    /// Bytes of live messages that wait or are out for delivery.
    #[must_use]
    pub fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// Whether a message of this priority that is not live could be delivered now.
    #[must_use]
    pub fn has_backlog_ready(&self, priority: u8) -> bool {
        self.ready.get(usize::from(priority)).is_some_and(Lane::has_backlog)
    }

    /// Adds a message at the end of its stream. The caller has asked [`EndpointQueue::has_room`].
    pub fn push(&mut self, mut item: Item) {
        item.arrival = self.latest.next(item.stored);
        self.latest = self.latest.max(item.arrival);
        self.bytes += item.size;
        self.live_bytes += item.live_size();
        self.len += 1;
        self.len_of[lane(&item)] += 1;
        self.waiting_of[lane(&item)] += item.size;
        self.note_deadline(&item);
        if !self.blocked.is_empty()
            && let Some(blocked) = self.blocked.get_mut(&Stream::of(&item, self.unordered))
        {
            blocked.items.push_back(item);
            return;
        }
        self.ready[lane(&item)].push_back(item);
    }

    /// Priority of the message that [`EndpointQueue::take`] would give first.
    #[must_use]
    pub fn most_urgent(&self, now: Uptime) -> Option<u8> {
        let ready =
            self.ready.iter().position(|lane| !lane.is_empty()).map(|lane| u8::try_from(lane).unwrap_or(u8::MAX));
        let due =
            self.blocked.iter().filter(|(_, blocked)| blocked.is_due(now)).map(|(stream, _)| stream.priority).min();
        [ready, due].into_iter().flatten().min()
    }

    /// Takes up to `max` messages for delivery, most urgent first. Those that have expired are dropped on the way.
    /// Every batch must come back through [`EndpointQueue::finish`]. Batches may be out at once and come back in any order:
    /// what is not done returns to its place among its own source and priority.
    pub fn take(&mut self, now: Uptime, max: usize) -> Batch {
        let mut batch = Batch::new(self.unordered);
        for priority in 0..PRIORITIES {
            self.take_due(priority, now, max, &mut batch);
            while batch.has_place(max) {
                let Some(item) = self.ready[priority].pop_if(|item| batch.takes(item)) else { break };
                if item.is_expired(now) {
                    self.forget(item, DropReason::Expired);
                } else {
                    self.send(item, &mut batch);
                }
            }
        }
        batch
    }

    /// Ends the back-offs that are over for a consumer that holds several messages: it is given the repetition and goes on with
    /// what is behind it, where another one would see first whether the repetition works.
    pub fn release_due(&mut self, now: Uptime) {
        let due: Vec<Stream> =
            self.blocked.iter().filter(|(_, blocked)| blocked.is_due(now)).map(|(stream, _)| stream.clone()).collect();
        for stream in &due {
            self.release(stream);
        }
    }

    /// The first message of each stream of this priority whose back-off is over.
    fn take_due(&mut self, priority: usize, now: Uptime, max: usize, batch: &mut Batch) {
        if self.blocked.is_empty() {
            return;
        }
        let due: Vec<Stream> = self
            .blocked
            .iter()
            .filter(|(stream, blocked)| usize::from(stream.priority) == priority && blocked.is_due(now))
            .map(|(stream, _)| stream.clone())
            .take(max.saturating_sub(batch.waiting.len()))
            .collect();
        for stream in due {
            let Some(blocked) = self.blocked.get_mut(&stream) else { continue };
            if !batch.has_place(max) || blocked.items.front().is_some_and(|item| !batch.takes(item)) {
                return;
            }
            match blocked.items.pop_front() {
                Some(item) if !item.is_expired(now) => {
                    blocked.probing = Some(item.accepted.sequence);
                    batch.probes.push((stream, item.accepted.sequence));
                    self.send(item, batch);
                }
                Some(item) => {
                    // The one that held up the others is gone: they are free, in order.
                    self.forget(item, DropReason::Expired);
                    self.release(&stream);
                }
                None => self.release(&stream),
            }
        }
    }

    fn send(&mut self, mut item: Item, batch: &mut Batch) {
        self.waiting_of[lane(&item)] -= item.size;
        self.ready[lane(&item)].count(&mut item);
        batch.is_full |= item.suspect;
        batch.waiting.push_back(item);
    }

    /// Takes a batch back: what was settled leaves the account, what was not comes back to the front in its order.
    /// A delivery that was taken from the batch but not settled (its instance ended) counts as an attempt.
    pub fn finish(&mut self, mut batch: Batch, now: Uptime) {
        batch.settle_unfinished(now);
        self.credit(&mut batch);
        for (item, until) in &batch.failed {
            self.block(Stream::of(item, self.unordered), *until);
        }
        batch.skipped.extend(batch.waiting.drain(..));
        for item in batch.skipped.drain(..).rev() {
            self.ready[lane(&item)].take_back(&item);
            self.put_back(item);
        }
        for (item, _) in batch.failed.drain(..) {
            self.put_back(item);
        }
        for (item, reason) in batch.dead.drain(..) {
            if reason == DropReason::Expired {
                self.ready[lane(&item)].take_back(&item);
            }
            self.waiting_of[lane(&item)] += item.size;
            self.forget(item, reason);
        }
        // What came back is no probe any more; the message of those that still are is settled: the way is free, unless
        // another one of the stream, which was out at the same time, has failed meanwhile.
        for (stream, sequence) in &batch.probes {
            let Some(blocked) = self.blocked.get_mut(stream) else { continue };
            if blocked.probing == Some(*sequence) {
                blocked.probing = None;
                if blocked.until <= now {
                    self.release(stream);
                }
            }
        }
    }

    /// Takes what a batch has done so far off the account, while the rest of it is still out. Returns what that was.
    pub fn credit(&mut self, batch: &mut Batch) -> Vec<Done> {
        let done = std::mem::take(&mut batch.done);
        self.bytes -= std::mem::take(&mut batch.done_bytes);
        self.live_bytes -= std::mem::take(&mut batch.done_live_bytes);
        for Done { priority, messages, .. } in &done {
            self.len -= messages;
            self.len_of[lane_of(*priority)] -= messages;
        }
        done
    }

    /// Blocks a stream until then; what waits in the ready lane of it moves, in order.
    fn block(&mut self, stream: Stream, until: Uptime) {
        if let Some(blocked) = self.blocked.get_mut(&stream) {
            blocked.until = blocked.until.max(until); // no message of the stream may come before its time
            return;
        }
        let items = match self.unordered {
            true => [].into(),
            false => self.ready[usize::from(stream.priority)].take_stream(&stream),
        };
        self.blocked.insert(stream, Blocked { until, probing: None, items });
    }

    /// Puts an item back before all later ones of its stream.
    fn put_back(&mut self, item: Item) {
        self.waiting_of[lane(&item)] += item.size;
        self.note_deadline(&item);
        if !self.blocked.is_empty()
            && let Some(blocked) = self.blocked.get_mut(&Stream::of(&item, self.unordered))
        {
            return blocked.put_back(item);
        }
        self.ready[lane(&item)].push_front(item);
    }

    fn note_deadline(&mut self, item: &Item) {
        if let Some(deadline) = item.deadline {
            self.earliest_deadline = Some(self.earliest_deadline.map_or(deadline, |earliest| earliest.min(deadline)));
        }
    }

    /// Ends the back-off of a stream: its messages go before the others of their priority.
    fn release(&mut self, stream: &Stream) {
        let Some(blocked) = self.blocked.remove(stream) else { return };
        let lane = &mut self.ready[usize::from(stream.priority)];
        for item in blocked.items.into_iter().rev() {
            lane.push_front(item);
        }
    }

    /// Gives up a message that waits.
    fn forget(&mut self, item: Item, reason: DropReason) {
        self.bytes -= item.size;
        self.waiting_of[lane(&item)] -= item.size;
        self.live_bytes -= item.live_size();
        self.len -= 1;
        self.len_of[lane(&item)] -= 1;
        let Item { accepted, attempts, stored, .. } = item;
        let (source, sequence) = (accepted.source, accepted.sequence);
        self.dropped.push(Dropped { source, sequence, attempts, reason, stored });
    }

    /// When the oldest message that waits was accepted, by the device's clock; those out for delivery do not count. Looks at
    /// all of them: for a person who asks, not for a delivery.
    #[must_use]
    pub fn oldest(&self) -> Option<UtcMillis> {
        self.waiting().map(|item| item.accepted.enqueued).min()
    }

    /// Most bytes that it takes.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Messages that wait and are in memory alone. Looks at all of them, as [`EndpointQueue::oldest`].
    #[must_use]
    pub fn unstored(&self) -> usize {
        self.waiting().filter(|item| item.stored.is_none()).count()
    }

    /// Messages that are out for delivery.
    #[must_use]
    pub fn out(&self) -> usize {
        let ready: usize = self.ready.iter().map(Lane::len).sum();
        let blocked: usize = self.blocked.values().map(|blocked| blocked.items.len()).sum();
        self.len - ready - blocked
    }

    /// Whether live messages are out for delivery. Looks at all that wait.
    #[must_use]
    pub fn has_live_out(&self) -> bool {
        self.live_bytes > self.waiting().map(Item::live_size).sum()
    }

    /// When the next blocked stream may be tried again; none = nothing waits for time.
    #[must_use]
    pub fn next_due(&self) -> Option<Uptime> {
        self.blocked.values().filter(|blocked| blocked.probing.is_none()).map(|blocked| blocked.until).min()
    }

    /// What was dropped since the last call.
    pub fn take_dropped(&mut self) -> Vec<Dropped> {
        std::mem::take(&mut self.dropped)
    }

    /// Ends every back-off: the receiver was replaced or has come back.
    pub fn retry_now(&mut self) {
        for blocked in self.blocked.values_mut() {
            blocked.until = Uptime(0);
        }
    }

    /// Empties the queue because its endpoint is gone; everything becomes [`DropReason::EndpointRemoved`]. A batch that
    /// is out comes back later and is dropped by the next call.
    pub fn remove_all(&mut self) {
        let mut items: Vec<Item> =
            self.ready.iter_mut().flat_map(Lane::sides_mut).flat_map(|side| side.drain(..)).collect();
        for blocked in std::mem::take(&mut self.blocked).into_values() {
            items.extend(blocked.items);
        }
        for item in items {
            self.forget(item, DropReason::EndpointRemoved);
        }
    }
}

fn lane(item: &Item) -> usize {
    lane_of(item.priority)
}

fn lane_of(priority: u8) -> usize {
    usize::from(priority).min(PRIORITIES - 1)
}

#[cfg(test)]
mod tests;
