//! One endpoint's queue: what waits for an input or for upstream, and the bookkeeping of its delivery.
//!
//! First in, first out within (source, priority); more urgent priorities first. A message that must be tried again
//! blocks only later messages of its own source and priority. Bounded by bytes; what is out for delivery still counts.
//! One consumer, which may hold several batches. No clock, no lock, no waking: those are the agent's.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    deployment::{Overflow, PRIORITIES},
    log::Place,
    message::Accepted,
    ports::Settlement,
    time::{Uptime, UtcMillis},
};

/// Bytes that a queued message counts beside its own, so that empty ones are bounded too: about what its bookkeeping takes.
pub const ITEM_OVERHEAD: usize = 128;

/// A message in a queue.
#[derive(Debug, Clone)]
pub struct Item {
    /// What was accepted.
    pub accepted: Accepted,
    /// Its bytes in the queue's account: the message's size and [`ITEM_OVERHEAD`].
    pub size: usize,
    /// 0 to 10.
    pub priority: u8,
    /// When it expires, in elapsed time; none = never.
    pub deadline: Option<Uptime>,
    /// Deliveries made so far.
    pub attempts: u32,
    /// Deliveries allowed; none = no limit.
    pub max_attempts: Option<u32>,
    /// Where it is in the log; none = it is in memory alone.
    pub stored: Option<Place>,
    /// It waited in the log when the host started, and may have been what ended the host before: it is delivered alone, and its attempt
    /// is noted before.
    pub suspect: bool,
}

/// A message that will not be delivered, and why. Its body is gone: a list of these must not hold what the queue's bound
/// has just given back.
#[derive(Debug, Clone)]
pub struct Dropped {
    /// Where it came from.
    pub source: Arc<str>,
    /// Its number there.
    pub sequence: u64,
    /// Deliveries made.
    pub attempts: u32,
    /// Why.
    pub reason: DropReason,
    /// Where it is in the log.
    pub stored: Option<Place>,
}

/// Why a message left a queue without having been handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropReason {
    /// Its time to live was over.
    Expired,
    /// The receiver rejected it, with these words.
    Rejected(String),
    /// It was delivered as often as its route allows.
    TooManyAttempts,
    /// No route leads to its endpoint any more.
    EndpointRemoved,
    /// The queue was full, and gave it up for another one.
    Overflow,
}

impl DropReason {
    /// The word in counters (`ttl_expiry` is IoT Edge's).
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            DropReason::Expired => "ttl_expiry",
            DropReason::Rejected(_) => "rejected",
            DropReason::TooManyAttempts => "max_attempts",
            DropReason::EndpointRemoved => "endpoint_removed",
            DropReason::Overflow => "overflow",
        }
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DropReason::Rejected(words) => write!(f, "{}: {words}", self.label()),
            _ => f.write_str(self.label()),
        }
    }
}

/// A priority and a source: the unit within which order is kept; where it is not, each message is one of its own, by its sequence.
type Stream = (u8, Arc<str>, u64);

/// In the place of a source: the lane of a priority. No source has this name.
const READY: &str = "";

/// The queue of one endpoint.
#[derive(Debug, Default)]
pub struct EndpointQueue {
    max_bytes: usize,
    /// A message in back-off holds up no other.
    unordered: bool,
    bytes: usize,
    /// Bytes of the endpoint that are not in this queue and count like those that are.
    beside: usize,
    len: usize,
    ready: [VecDeque<Item>; PRIORITIES],
    blocked: BTreeMap<Stream, Blocked>,
    dropped: Vec<Dropped>,
    /// No message in the queue expires before; one that is out may.
    earliest_deadline: Option<Uptime>,
}

/// A stream whose first message waits to be tried again.
#[derive(Debug)]
struct Blocked {
    until: Uptime,
    /// Its first message is out for delivery: the sequence of it.
    probing: Option<u64>,
    items: VecDeque<Item>,
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

    /// Bytes that wait or are out for delivery.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `size` more bytes fit without dropping anything; a message always fits into an empty queue.
    #[must_use]
    pub fn fits(&self, size: usize) -> bool {
        self.bytes.saturating_add(self.beside).saturating_add(size) <= self.max_bytes
            || (self.len == 0 && self.beside == 0)
    }

    /// Whether what waits in memory would make room for `size` bytes of this priority, if the policy gave it up.
    #[must_use]
    pub fn can_make_room(&self, size: usize, priority: u8, policy: Overflow) -> bool {
        let wanted = self.bytes.saturating_add(self.beside).saturating_add(size).saturating_sub(self.max_bytes);
        let droppable: usize = match policy {
            Overflow::RejectNew => 0,
            Overflow::DropOldest => self.waiting().map(|item| item.size).sum(),
            Overflow::DropLowestPriority => {
                self.waiting().filter(|item| item.priority > priority).map(|item| item.size).sum()
            }
        };
        droppable >= wanted
    }

    /// Gives up messages by the policy until `size` bytes of this priority fit.
    pub fn make_room(&mut self, size: usize, priority: u8, policy: Overflow) {
        while !self.fits(size) {
            let stream = match policy {
                Overflow::RejectNew => None,
                Overflow::DropOldest => self.first_by(|item| item.accepted.enqueued.0),
                Overflow::DropLowestPriority => {
                    self.first_by(|item| u64::from(u8::MAX - item.priority)).filter(|stream| stream.0 > priority)
                }
            };
            let Some(item) = stream.and_then(|stream| self.pop_first(&stream)) else { return };
            self.forget(item, DropReason::Overflow);
        }
    }

    /// Where the first message with the least value is, among the first ones of the lanes and of the streams in back-off.
    fn first_by(&self, value: impl Fn(&Item) -> u64) -> Option<Stream> {
        let ready = self.ready.iter().filter_map(VecDeque::front);
        let ready = ready.map(|item| (value(item), (item.priority, READY.into(), 0)));
        let blocked = self.blocked.iter();
        let blocked = blocked.filter_map(|(stream, blocked)| Some((value(blocked.items.front()?), stream.clone())));
        ready.chain(blocked).min_by_key(|(value, _)| *value).map(|(_, stream)| stream)
    }

    fn pop_first(&mut self, stream: &Stream) -> Option<Item> {
        if &*stream.1 == READY {
            return self.ready.get_mut(usize::from(stream.0))?.pop_front();
        }
        let blocked = self.blocked.get_mut(stream)?;
        let first = blocked.items.pop_front();
        if blocked.items.is_empty() && blocked.probing.is_none() {
            self.blocked.remove(stream);
        }
        first
    }

    fn waiting(&self) -> impl Iterator<Item = &Item> {
        self.ready.iter().flatten().chain(self.blocked.values().flat_map(|blocked| &blocked.items))
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

    /// Whether a message of this priority could be delivered now.
    #[must_use]
    pub fn has_ready(&self, priority: u8) -> bool {
        self.ready.get(usize::from(priority)).is_some_and(|lane| !lane.is_empty())
    }

    /// Whether `size` more bytes fit. When they do not, what has expired is dropped first.
    pub fn has_room(&mut self, size: usize, now: Uptime) -> bool {
        if !self.fits(size) {
            self.drop_expired(now);
        }
        self.fits(size)
    }

    /// Adds a message at the end of its stream. The caller has asked [`EndpointQueue::has_room`].
    pub fn push(&mut self, item: Item) {
        self.bytes += item.size;
        self.len += 1;
        self.note_deadline(&item);
        if !self.blocked.is_empty()
            && let Some(blocked) = self.blocked.get_mut(&stream(&item, self.unordered))
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
            self.blocked.iter().filter(|(_, blocked)| blocked.is_due(now)).map(|((priority, ..), _)| *priority).min();
        [ready, due].into_iter().flatten().min()
    }

    /// Takes up to `max` messages for delivery, most urgent first. Those that have expired are dropped on the way.
    /// Every batch must come back through [`EndpointQueue::finish`]. Batches may be out at once and come back in any order:
    /// what is not done returns to its place among its own source and priority.
    pub fn take(&mut self, now: Uptime, max: usize) -> Batch {
        let mut batch = Batch { unordered: self.unordered, ..Batch::default() };
        for priority in 0..PRIORITIES {
            self.take_due(priority, now, max, &mut batch);
            while batch.has_place(max) {
                let Some(item) = self.ready[priority].pop_front_if(|item| batch.takes(item)) else { break };
                batch.is_full |= item.suspect;
                self.keep_or_drop(item, now, &mut batch);
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
            .filter(|((p, ..), blocked)| usize::from(*p) == priority && blocked.is_due(now))
            .map(|(stream, _)| stream.clone())
            .take(max.saturating_sub(batch.waiting.len()))
            .collect();
        for stream in due {
            let Some(blocked) = self.blocked.get_mut(&stream) else { continue };
            if !batch.has_place(max) || blocked.items.front().is_some_and(|item| !batch.takes(item)) {
                return;
            }
            match blocked.items.pop_front() {
                Some(item) if !is_expired(&item, now) => {
                    blocked.probing = Some(item.accepted.sequence);
                    batch.is_full |= item.suspect;
                    batch.probes.push((stream, item.accepted.sequence));
                    batch.waiting.push_back(item);
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

    fn keep_or_drop(&mut self, item: Item, now: Uptime, batch: &mut Batch) {
        if is_expired(&item, now) {
            self.forget(item, DropReason::Expired);
        } else {
            batch.waiting.push_back(item);
        }
    }

    /// Takes a batch back: what was settled leaves the account, what was not comes back to the front in its order.
    /// A delivery that was taken from the batch but not settled (its instance ended) counts as an attempt.
    pub fn finish(&mut self, mut batch: Batch, now: Uptime) {
        batch.settle_unfinished(now);
        self.credit(&mut batch);
        for (item, until) in &batch.failed {
            self.block(stream(item, self.unordered), *until);
        }
        batch.skipped.extend(batch.waiting.drain(..));
        for item in batch.skipped.drain(..).rev() {
            self.put_back(item);
        }
        for (item, _) in batch.failed.drain(..) {
            self.put_back(item);
        }
        for (item, reason) in batch.dead.drain(..) {
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

    /// Takes what a batch has done so far off the account, while the rest of it is still out. Returns how many that were.
    pub fn credit(&mut self, batch: &mut Batch) -> usize {
        let done = std::mem::take(&mut batch.done);
        self.bytes -= std::mem::take(&mut batch.done_bytes);
        self.len -= done;
        done
    }

    /// Blocks a stream until then; what waits in the ready lane of it moves, in order.
    fn block(&mut self, stream: Stream, until: Uptime) {
        if let Some(blocked) = self.blocked.get_mut(&stream) {
            blocked.until = blocked.until.max(until); // no message of the stream may come before its time
            return;
        }
        let lane = &mut self.ready[usize::from(stream.0)];
        let mut same = VecDeque::new();
        if !self.unordered {
            (same, *lane) = lane.drain(..).partition(|item| item.accepted.source == stream.1);
        }
        self.blocked.insert(stream, Blocked { until, probing: None, items: same });
    }

    /// Puts an item back before all later ones of its stream.
    fn put_back(&mut self, item: Item) {
        self.note_deadline(&item);
        if !self.blocked.is_empty()
            && let Some(blocked) = self.blocked.get_mut(&stream(&item, self.unordered))
        {
            if blocked.probing == Some(item.accepted.sequence) {
                blocked.probing = None;
            }
            // Earlier ones may have come back before it, when several batches were out.
            let earlier = |other: &Item| other.accepted.sequence < item.accepted.sequence;
            let place = blocked.items.iter().take_while(|other| earlier(other)).count();
            blocked.items.insert(place, item);
            return;
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
        let lane = &mut self.ready[usize::from(stream.0)];
        for item in blocked.items.into_iter().rev() {
            lane.push_front(item);
        }
    }

    fn forget(&mut self, item: Item, reason: DropReason) {
        self.bytes -= item.size;
        self.len -= 1;
        let Item { accepted, attempts, stored, .. } = item;
        let (source, sequence) = (accepted.source, accepted.sequence);
        self.dropped.push(Dropped { source, sequence, attempts, reason, stored });
    }

    /// Gives up what has expired, except what is out for delivery.
    pub fn drop_expired(&mut self, now: Uptime) {
        if self.earliest_deadline.is_none_or(|deadline| deadline > now) {
            return; // nothing to find: a full queue is asked often
        }
        let mut expired = Vec::new();
        for lane in &mut self.ready {
            let (gone, kept) = lane.drain(..).partition(|item| is_expired(item, now));
            *lane = kept;
            let gone: VecDeque<Item> = gone;
            expired.extend(gone);
        }
        let mut freed = Vec::new();
        for (stream, blocked) in &mut self.blocked {
            if blocked.probing.is_none() && blocked.items.front().is_some_and(|first| is_expired(first, now)) {
                freed.push(stream.clone()); // the one that held up the others goes
            }
            let (gone, kept) = blocked.items.drain(..).partition(|item| is_expired(item, now));
            blocked.items = kept;
            let gone: VecDeque<Item> = gone;
            expired.extend(gone);
        }
        for stream in &freed {
            self.release(stream);
        }
        for item in expired {
            self.forget(item, DropReason::Expired);
        }
        let ready = self.ready.iter().flatten();
        let blocked = self.blocked.values().flat_map(|blocked| &blocked.items);
        self.earliest_deadline = ready.chain(blocked).filter_map(|item| item.deadline).min();
    }

    /// When the oldest message that waits was accepted, by the device's clock; those out for delivery do not count. Looks at
    /// all of them: for a person who asks, not for a delivery.
    #[must_use]
    pub fn oldest(&self) -> Option<UtcMillis> {
        let blocked = self.blocked.values().flat_map(|blocked| &blocked.items);
        self.ready.iter().flatten().chain(blocked).map(|item| item.accepted.enqueued).min()
    }

    /// Most bytes that it takes.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Messages that wait and are in memory alone. Looks at all of them, as [`EndpointQueue::oldest`].
    #[must_use]
    pub fn unstored(&self) -> usize {
        let blocked = self.blocked.values().flat_map(|blocked| &blocked.items);
        self.ready.iter().flatten().chain(blocked).filter(|item| item.stored.is_none()).count()
    }

    /// Messages that are out for delivery.
    #[must_use]
    pub fn out(&self) -> usize {
        let ready: usize = self.ready.iter().map(VecDeque::len).sum();
        let blocked: usize = self.blocked.values().map(|blocked| blocked.items.len()).sum();
        self.len - ready - blocked
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
        let mut items: Vec<Item> = self.ready.iter_mut().flat_map(|lane| lane.drain(..)).collect();
        for blocked in std::mem::take(&mut self.blocked).into_values() {
            items.extend(blocked.items);
        }
        for item in items {
            self.forget(item, DropReason::EndpointRemoved);
        }
    }
}

impl Blocked {
    fn is_due(&self, now: Uptime) -> bool {
        self.probing.is_none() && self.until <= now
    }
}

fn stream(item: &Item, unordered: bool) -> Stream {
    (item.priority, item.accepted.source.clone(), if unordered { item.accepted.sequence } else { 0 })
}

fn lane(item: &Item) -> usize {
    usize::from(item.priority).min(PRIORITIES - 1)
}

fn is_expired(item: &Item, now: Uptime) -> bool {
    item.deadline.is_some_and(|deadline| deadline <= now)
}

/// Messages that are out for delivery.
#[derive(Debug, Default)]
pub struct Batch {
    waiting: VecDeque<Item>,
    current: Option<Item>,
    done: usize,
    done_bytes: usize,
    /// Nothing more goes into it.
    is_full: bool,
    unordered: bool,
    /// Those of the done ones that are in the log.
    done_stored: Vec<Place>,
    failed: Vec<(Item, Uptime)>,
    skipped: Vec<Item>,
    dead: Vec<(Item, DropReason)>,
    /// Streams whose blocking message is in this batch, and its sequence.
    probes: Vec<(Stream, u64)>,
}

impl Batch {
    /// Messages not yet delivered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when none is left to deliver.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The messages not yet delivered, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Item> {
        self.waiting.iter()
    }

    /// Priority of the next to deliver.
    #[must_use]
    pub fn next_priority(&self) -> Option<u8> {
        self.waiting.front().map(|item| item.priority)
    }

    /// The next to deliver. Those behind a failed one of their own stream are passed over, they return to the queue; those
    /// that have expired meanwhile are given up. `now` is asked only for messages that can expire.
    pub fn next_item(&mut self, now: impl Fn() -> Uptime) -> Option<&Item> {
        loop {
            let item = self.waiting.pop_front()?;
            if item.deadline.is_some() && is_expired(&item, now()) {
                self.dead.push((item, DropReason::Expired));
                continue;
            }
            if !self.unordered && self.failed.iter().any(|(failed, _)| same_stream(failed, &item)) {
                self.skipped.push(item);
                continue;
            }
            return Some(self.current.insert(item));
        }
    }

    /// Says what became of the one that [`Batch::next_item`] gave last. `jitter` in 0..1 spreads the back-off.
    pub fn settle(&mut self, settlement: Settlement, now: Uptime, jitter: f64) {
        let Some(mut item) = self.current.take() else { return };
        item.attempts += 1;
        match settlement {
            Settlement::Done => self.note_done(&item),
            Settlement::Reject(reason) => self.give_up(item, DropReason::Rejected(reason)),
            Settlement::Retry(_) if item.max_attempts.is_some_and(|max| item.attempts >= max) => {
                self.give_up(item, DropReason::TooManyAttempts);
            }
            Settlement::Retry(delay) => {
                let delay = delay.unwrap_or_else(|| retry_delay(item.attempts, jitter)).min(MAX_RETRY_AFTER);
                self.failed.push((item, now.after(delay)));
            }
        }
    }

    /// The first `count` of those waiting are done (for receivers that take many at once).
    pub fn settle_first(&mut self, count: usize) {
        for _ in 0..count.min(self.waiting.len()) {
            if let Some(item) = self.waiting.pop_front() {
                self.note_done(&item);
            }
        }
    }

    fn note_done(&mut self, item: &Item) {
        self.done += 1;
        self.done_bytes += item.size;
        self.done_stored.extend(item.stored);
    }

    /// What is done and in the log, since the last call.
    pub fn take_done_stored(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.done_stored)
    }

    /// The message whose attempt is to be noted in the log before it is delivered, and how many it is then. It is the only one.
    #[must_use]
    pub fn suspect(&self) -> Option<(Place, u32)> {
        let item = self.waiting.front().or(self.current.as_ref()).filter(|item| item.suspect)?;
        Some((item.stored?, item.attempts.saturating_add(1)))
    }

    /// Ends the deliveries: one that was not settled counts as an attempt. Returns the attempts of those that are in the log and will be
    /// tried again.
    pub fn close(&mut self, now: Uptime) -> Vec<(Place, u32)> {
        self.settle_unfinished(now);
        self.failed.iter().filter_map(|(item, _)| Some((item.stored?, item.attempts))).collect()
    }

    /// The one that [`Batch::next_item`] gave last has not been delivered after all: no attempt was made.
    pub fn take_back(&mut self) {
        if let Some(item) = self.current.take() {
            self.waiting.push_front(item);
        }
    }

    /// How many will be tried again.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.failed.len()
    }

    fn has_place(&self, max: usize) -> bool {
        self.waiting.len() < max && !self.is_full
    }

    /// Suspects are delivered alone; one that comes after others ends the batch.
    fn takes(&mut self, item: &Item) -> bool {
        self.is_full = item.suspect && !self.waiting.is_empty();
        !self.is_full
    }

    fn give_up(&mut self, item: Item, reason: DropReason) {
        self.dead.push((item, reason));
    }

    fn settle_unfinished(&mut self, now: Uptime) {
        if self.current.is_some() {
            self.settle(Settlement::Retry(None), now, 0.5);
        }
    }
}

fn same_stream(a: &Item, b: &Item) -> bool {
    a.priority == b.priority && a.accepted.source == b.accepted.source
}

/// First wait before a message is delivered again (IoT Edge's numbers here and below).
pub const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait of the host's own back-off.
pub const MAX_RETRY: Duration = Duration::from_secs(60);
/// Longest wait that a receiver may ask for: a day. Longer ones are typing errors in units.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(86_400);

/// Back-off before the next delivery after `attempts` failed ones: 1, 2, 4 … 60 s, spread by ±20 % (`jitter` in 0..1).
#[must_use]
pub fn retry_delay(attempts: u32, jitter: f64) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(6));
    doubled.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0)).min(MAX_RETRY)
}

#[cfg(test)]
mod tests;
