//! An endpoint's queue with its lock, its consumer's doorbell and its counters. The order and the bounds are
//! [`EndpointQueue`]'s and [`Backlog`]'s; nothing is decided here. What concerns the message log is in [`stored`].

mod stored;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use marram_core::{
    backlog::Backlog,
    deployment::QueueOptions,
    log::EndpointId,
    queue::{Batch, DropReason, Dropped, EndpointQueue, Item},
    route::Sink,
    time::{Uptime, UtcMillis},
};
use tokio::sync::Notify;

pub(crate) use self::stored::Behind;
use crate::{
    counts::{GivenUp, Handled, Lengths},
    doorbell::Doorbell,
    storage::{Outcome, Storage},
};

/// Bytes that wait for one input in memory alone. 1 MiB is four of the largest messages or some thousand readings; with 30 inputs
/// it is half of a 64 MiB device, so not twice as large.
pub(crate) const INPUT_QUEUE_BYTES: usize = 1 << 20;
/// The same for upstream: 4 MiB, an hour of 4 readings of 300 bytes a second. The message log takes longer outages.
pub(crate) const UPSTREAM_QUEUE_BYTES: usize = 4 << 20;
/// Shortest time between two lines of the log about drops of one queue. All of them are counted.
const BETWEEN_DROP_LINES: Duration = Duration::from_secs(1);

/// The queue of one sink.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Where it leads.
    pub(crate) sink: Sink,
    /// The input's name; empty for upstream.
    pub(crate) input: Arc<str>,
    inner: Mutex<Inner>,
    consumer: Arc<Doorbell>,
    /// Senders wait here for room.
    room: Notify,
    /// A sender was refused for want of room since the consumer looked last.
    wanted: AtomicBool,
    /// The router's count of messages whose endpoint was removed: this endpoint's own counters go with it.
    removed: Arc<AtomicU64>,
    storage: Arc<Storage>,
    /// Its number in the log.
    id: OnceLock<EndpointId>,
    /// What is accepted goes into the log.
    durable: AtomicBool,
    /// Something that waits was promised to outlive a loss of power, perhaps by routes that are not in force any more.
    power_safe: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    /// What is in memory.
    queue: EndpointQueue,
    /// What is in the log and not in memory.
    backlog: Backlog,
    /// Messages are there, or on their way.
    in_log: bool,
    /// The log has been asked to read on.
    loading: bool,
    /// Not asked before then to look for what has expired behind the window.
    look_again_at: Uptime,
    /// What its routes say of it.
    options: QueueOptions,
    /// New messages go into the log.
    durable: bool,
    /// New messages outlive a loss of power.
    power_safe: bool,
    /// Most bytes while messages go into memory alone, and while they go into the log.
    bounds: [usize; 2],
    /// No route leads here any more; nothing is accepted.
    closed: bool,
    accepted: u64,
    handled: Handled,
    retried: u64,
    given_up: GivenUp,
    unlogged: Unlogged,
}

/// Drops that the log has not told yet.
#[derive(Debug, Default)]
struct Unlogged {
    count: usize,
    first: Option<Dropped>,
    /// No line before.
    quiet_until: Uptime,
}

/// Counters of an endpoint since the host started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EndpointStats {
    /// Messages that wait or are out for delivery.
    pub(crate) len: usize,
    /// The same by priority.
    pub(crate) len_of: Lengths,
    /// Their bytes.
    pub(crate) bytes: usize,
    /// Those that wait in memory alone.
    pub(crate) unstored: usize,
    /// Accepted so far.
    pub(crate) accepted: u64,
    /// Handled so far.
    pub(crate) handled: Handled,
    /// Deliveries that failed and are made again, so far.
    pub(crate) retried: u64,
    /// Given up so far.
    pub(crate) given_up: GivenUp,
    /// When the oldest message that waits was accepted.
    pub(crate) oldest: Option<UtcMillis>,
    /// Most bytes that it takes.
    pub(crate) max_bytes: usize,
}

/// Whether an endpoint takes a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Yes,
    /// By giving up others; see [`Endpoint::make_room`].
    Makeable,
    Full,
    /// No route leads here any more.
    Closed,
}

impl Endpoint {
    pub(crate) fn new(sink: Sink, consumer: Arc<Doorbell>, removed: Arc<AtomicU64>, storage: Arc<Storage>) -> Self {
        let input = match &sink {
            Sink::Upstream => "".into(),
            Sink::Input { input, .. } => Arc::from(&**input),
        };
        let inner = Inner {
            queue: EndpointQueue::new(0),
            backlog: Backlog::default(),
            in_log: false,
            loading: false,
            look_again_at: Uptime(0),
            options: QueueOptions::default(),
            durable: false,
            power_safe: false,
            bounds: [0; 2],
            closed: false,
            accepted: 0,
            handled: Handled::default(),
            retried: 0,
            given_up: GivenUp::default(),
            unlogged: Unlogged::default(),
        };
        let (inner, wanted) = (Mutex::new(inner), AtomicBool::new(false));
        let (id, durable, room) = (OnceLock::new(), AtomicBool::new(false), Notify::new());
        let power_safe = AtomicBool::new(false);
        Self { sink, input, inner, consumer, room, wanted, removed, storage, id, durable, power_safe }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // The queue's methods do not panic half-way through a change of their account.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `size` bytes are taken, under a lock that the caller holds. The clock is read only by an endpoint that looks
    /// full: then what has expired is given up first.
    pub(crate) fn room_for(
        self: &Arc<Self>,
        inner: &mut Inner,
        size: usize,
        priority: u8,
        now: impl Fn() -> Uptime,
    ) -> Room {
        if inner.closed {
            return Room::Closed;
        }
        if inner.queue.fits(size) {
            return Room::Yes;
        }
        let now = now();
        let has_room = inner.queue.has_room(size, now);
        if self.note_drops(inner, now) {
            self.read_on(inner);
            self.consumer.ring(); // what was behind the expired ones may be free now
        }
        if has_room {
            return Room::Yes;
        }
        self.ask_for_expired(inner, now);
        if inner.queue.can_make_room(size, priority, inner.options.overflow) {
            return Room::Makeable;
        }
        self.wanted.store(true, Relaxed);
        Room::Full
    }

    /// Gives up what its routes allow for a message, under a lock that the caller holds.
    pub(crate) fn make_room(self: &Arc<Self>, inner: &mut Inner, size: usize, priority: u8, now: Uptime) {
        inner.queue.make_room(size, priority, inner.options.overflow);
        self.note_drops(inner, now);
        self.read_on(inner);
    }

    /// Adds a message under a lock that the caller holds; the caller rings afterwards.
    pub(crate) fn push(&self, inner: &mut Inner, item: Item) {
        inner.accepted += 1;
        let live = self.takes_live(inner);
        inner.queue.push(Item { live, ..item });
    }

    /// Whether what comes now is live.
    fn takes_live(&self, inner: &Inner) -> bool {
        inner.options.live_first && self.consumer.is_attended()
    }

    /// Tells the consumer that there is something of this priority.
    pub(crate) fn ring(&self, priority: u8) {
        self.consumer.ring_for(priority);
    }

    /// Takes up to `max` messages for delivery.
    #[must_use]
    pub(crate) fn take(self: &Arc<Self>, now: Uptime, max: usize) -> Batch {
        let mut inner = self.lock();
        let batch = inner.queue.take(now, max);
        self.note_taken(&mut inner, now);
        batch
    }

    /// Takes one message for a consumer that may hold others; see [`EndpointQueue::release_due`].
    #[must_use]
    pub(crate) fn take_one(self: &Arc<Self>, now: Uptime) -> Batch {
        let mut inner = self.lock();
        inner.queue.release_due(now);
        let batch = inner.queue.take(now, 1);
        self.note_taken(&mut inner, now);
        batch
    }

    /// What has expired was given up on the way: its room is free.
    fn note_taken(self: &Arc<Self>, inner: &mut Inner, now: Uptime) {
        if self.note_drops(inner, now) {
            self.room.notify_waiters();
        }
        self.read_on(inner);
    }

    /// Gives the room of what a batch has done so far to senders that were refused; nothing to do while none was. Called
    /// after each message, so it is one load then.
    pub(crate) fn credit(&self, batch: &mut Batch) {
        if !self.wanted.load(Relaxed) || !self.wanted.swap(false, Relaxed) {
            return;
        }
        let mut inner = self.lock();
        let done = inner.queue.credit(batch);
        inner.handled.add_done(&done);
        // Under the lock: who finds nothing in memory can rely on the log's knowing what became of it.
        self.storage.tell(Outcome { done: batch.take_done_stored(), ..Outcome::default() });
        drop(inner);
        self.room.notify_waiters();
    }

    /// Takes a batch back with its settlements, and lets senders that wait for room try again.
    pub(crate) fn finish(self: &Arc<Self>, mut batch: Batch, now: Uptime) {
        let tried = batch.close(now);
        let retried = batch.failed();
        self.storage.tell(Outcome { done: batch.take_done_stored(), tried, ..Outcome::default() });
        let mut inner = self.lock();
        inner.retried += retried as u64;
        let done = inner.queue.credit(&mut batch);
        inner.handled.add_done(&done);
        inner.queue.finish(batch, now);
        if inner.closed {
            inner.queue.remove_all();
        }
        self.note_drops(&mut inner, now);
        self.read_on(&mut inner);
        drop(inner);
        self.room.notify_waiters();
    }

    /// Whether there is anything to deliver now, and its priority.
    pub(crate) fn most_urgent(&self, now: Uptime) -> Option<u8> {
        self.lock().queue.most_urgent(now)
    }

    /// When the next message that is in back-off may be tried again.
    pub(crate) fn next_due(&self) -> Option<Uptime> {
        self.lock().queue.next_due()
    }

    /// Ends every back-off: its receiver was replaced, or there is little time left.
    pub(crate) fn retry_now(&self) {
        self.lock().queue.retry_now();
        self.consumer.ring();
    }

    /// Nothing more is accepted; what waits is given up, what is out when it comes back.
    pub(crate) fn close(&self, now: Uptime) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.backlog.clear();
        inner.queue.remove_all();
        self.note_drops(&mut inner, now);
        drop(inner);
        self.room.notify_waiters();
    }

    /// A future that ends when room was made after this call, or when the routes have changed.
    pub(crate) fn room(&self) -> tokio::sync::futures::Notified<'_> {
        self.room.notified()
    }

    /// Lets senders that wait look again.
    pub(crate) fn wake_senders(&self) {
        self.room.notify_waiters();
    }

    /// Counters.
    #[must_use]
    pub(crate) fn stats(&self) -> EndpointStats {
        let inner = self.lock();
        let mut len_of = inner.queue.len_of().map(|len| len as u64);
        (0..).zip(&mut len_of).for_each(|(priority, len)| *len += inner.backlog.messages_of(priority));
        EndpointStats {
            len_of,
            len: inner.queue.len() + usize::try_from(inner.backlog.messages()).unwrap_or(usize::MAX),
            bytes: inner.queue.bytes().saturating_add(inner.backlog.bytes()),
            unstored: inner.queue.unstored(),
            accepted: inner.accepted,
            handled: inner.handled.clone(),
            retried: inner.retried,
            given_up: inner.given_up.clone(),
            oldest: inner.queue.oldest(),
            max_bytes: inner.queue.max_bytes(),
        }
    }

    /// Nothing waits, nothing is out; or what waits is not due before `until`.
    pub(crate) fn is_drained(&self, now: Uptime, until: Uptime) -> bool {
        let inner = self.lock();
        let queue = &inner.queue;
        if !self.storage.has_ended() && Self::has_under_way(&inner) {
            return false;
        }
        let hopeless =
            queue.out() == 0 && queue.most_urgent(now).is_none() && queue.next_due().is_none_or(|due| due > until);
        queue.is_empty() || hopeless
    }

    /// Counts what the queue has given up and tells the log, which must not drown in it. True: there was something.
    fn note_drops(&self, inner: &mut Inner, now: Uptime) -> bool {
        let dropped = inner.queue.take_dropped();
        self.note_dropped(inner, dropped, now)
    }

    fn note_dropped(&self, inner: &mut Inner, dropped: Vec<Dropped>, now: Uptime) -> bool {
        let any = !dropped.is_empty();
        let mut outcome = Outcome::default();
        for drop in dropped {
            match (drop.stored, &drop.reason) {
                (None, _) => {}
                // The log removes them all together, and counts them.
                (Some(_), DropReason::EndpointRemoved) => continue,
                (Some(place), DropReason::Expired) if !inner.options.expired_to_dead_letter => {
                    outcome.expired.push(place);
                }
                (Some(place), DropReason::Overflow) => outcome.overflown.push(place),
                (Some(place), reason) => outcome.dead.push((place, drop.attempts, reason.to_string())),
            }
            if drop.reason == DropReason::EndpointRemoved {
                self.removed.fetch_add(1, Relaxed);
            }
            inner.given_up.add(&drop.source, drop.reason.label(), 1);
            inner.unlogged.count += 1;
            inner.unlogged.first.get_or_insert(drop);
        }
        self.storage.tell(outcome);
        let Some(first) = inner.unlogged.first.take_if(|_| inner.unlogged.quiet_until <= now) else { return any };
        inner.unlogged.quiet_until = now.after(BETWEEN_DROP_LINES);
        tracing::warn!(
            endpoint = %self.sink,
            messages = std::mem::take(&mut inner.unlogged.count),
            source = %first.source,
            sequence = first.sequence,
            attempts = first.attempts,
            reason = ?first.reason,
            "gave up messages (the first is shown)"
        );
        any
    }
}
