//! An endpoint's queue with its lock, its consumer's doorbell and its counters. The order and the bounds are
//! [`EndpointQueue`]'s; nothing is decided here.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use marram_core::{
    queue::{Batch, Dropped, EndpointQueue, Item},
    route::Sink,
    time::Uptime,
};
use tokio::sync::Notify;

use crate::doorbell::Doorbell;

/// Bytes that wait for one input. 1 MiB is four of the largest messages or some thousand readings; with 30 inputs
/// it is half of a 64 MiB device, so not twice as large.
pub const INPUT_QUEUE_BYTES: usize = 1 << 20;
/// Bytes that wait for upstream in memory: 4 MiB, an hour of 4 readings of 300 bytes a second. The durable store takes
/// longer outages.
pub const UPSTREAM_QUEUE_BYTES: usize = 4 << 20;

/// The queue of one sink.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it leads.
    pub sink: Sink,
    /// The input's name; empty for upstream.
    pub input: Arc<str>,
    inner: Mutex<Inner>,
    consumer: Arc<Doorbell>,
    /// Senders wait here for room.
    room: Notify,
    delivered: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) queue: EndpointQueue,
    /// No route leads here any more; nothing is accepted.
    pub(crate) closed: bool,
    accepted: u64,
    dropped: BTreeMap<&'static str, u64>,
}

/// Counters of an endpoint since the host started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointStats {
    /// Messages that wait or are out for delivery.
    pub len: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Accepted so far.
    pub accepted: u64,
    /// Handled so far.
    pub delivered: u64,
    /// Given up so far, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

impl Endpoint {
    pub(crate) fn new(sink: Sink, max_bytes: usize, consumer: Arc<Doorbell>) -> Self {
        let input = match &sink {
            Sink::Upstream => "".into(),
            Sink::Input { input, .. } => Arc::from(&**input),
        };
        let inner =
            Inner { queue: EndpointQueue::new(max_bytes), closed: false, accepted: 0, dropped: BTreeMap::new() };
        Self { sink, input, inner: Mutex::new(inner), consumer, room: Notify::new(), delivered: AtomicU64::new(0) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // The queue's methods do not panic half-way through a change of their account.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message under a lock that the caller holds; the caller rings afterwards.
    pub(crate) fn push(inner: &mut Inner, item: Item) {
        inner.accepted += 1;
        inner.queue.push(item);
    }

    /// Tells the consumer that there is something.
    pub(crate) fn ring(&self) {
        self.consumer.ring();
    }

    /// Takes up to `max` messages for delivery.
    #[must_use]
    pub fn take(&self, now: Uptime, max: usize) -> Batch {
        let mut inner = self.lock();
        let batch = inner.queue.take(now, max);
        self.report_drops(inner);
        batch
    }

    /// Takes a batch back with its settlements, and lets senders that wait for room try again.
    pub fn finish(&self, batch: Batch, now: Uptime) {
        let mut inner = self.lock();
        let before = inner.queue.len();
        inner.queue.finish(batch, now);
        if inner.closed {
            inner.queue.remove_all();
        }
        let dropped = self.count_drops(&mut inner);
        let handled = before.saturating_sub(inner.queue.len()).saturating_sub(dropped.len());
        drop(inner);
        self.delivered.fetch_add(handled as u64, Relaxed);
        self.room.notify_waiters();
        self.log_drops(&dropped);
    }

    /// Whether there is anything to deliver now, and its priority.
    pub(crate) fn most_urgent(&self, now: Uptime) -> Option<u8> {
        self.lock().queue.most_urgent(now)
    }

    /// When the next message that is in back-off may be tried again.
    pub(crate) fn next_due(&self) -> Option<Uptime> {
        self.lock().queue.next_due()
    }

    /// Ends every back-off: its receiver was replaced.
    pub(crate) fn retry_now(&self) {
        self.lock().queue.retry_now();
    }

    /// Nothing more is accepted; what waits is given up.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.queue.remove_all();
        self.report_drops(inner);
        self.room.notify_waiters();
    }

    /// A future that ends when room was made after this call.
    pub(crate) fn room(&self) -> tokio::sync::futures::Notified<'_> {
        self.room.notified()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> EndpointStats {
        let inner = self.lock();
        EndpointStats {
            len: inner.queue.len(),
            bytes: inner.queue.bytes(),
            accepted: inner.accepted,
            delivered: self.delivered.load(Relaxed),
            dropped: inner.dropped.clone(),
        }
    }

    /// Nothing is out for delivery and nothing can be delivered now.
    pub(crate) fn is_quiet(&self, now: Uptime) -> bool {
        let inner = self.lock();
        inner.queue.out() == 0 && inner.queue.most_urgent(now).is_none()
    }

    pub(crate) fn report_drops(&self, mut inner: MutexGuard<'_, Inner>) {
        let dropped = self.count_drops(&mut inner);
        drop(inner);
        self.log_drops(&dropped);
    }

    fn count_drops(&self, inner: &mut Inner) -> Vec<Dropped> {
        let dropped = inner.queue.take_dropped();
        for drop in &dropped {
            *inner.dropped.entry(drop.reason.label()).or_default() += 1;
        }
        dropped
    }

    fn log_drops(&self, dropped: &[Dropped]) {
        if let Some(first) = dropped.first() {
            tracing::warn!(
                endpoint = %self.sink,
                messages = dropped.len(),
                source = %first.item.accepted.source,
                sequence = first.item.accepted.sequence,
                attempts = first.item.attempts,
                reason = ?first.reason,
                "gave up messages (the first is shown)"
            );
        }
    }
}
