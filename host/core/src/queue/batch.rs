//! Messages that are out for delivery, and what became of them.

use std::{collections::VecDeque, sync::Arc};

use super::{DropReason, Item, MAX_RETRY_AFTER, blocked::Stream, retry_delay};
use crate::{log::Place, ports::Settlement, time::Uptime};

/// Messages of one source and priority that were handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Where they came from.
    pub source: Arc<str>,
    /// Their priority.
    pub priority: u8,
    /// How many.
    pub messages: usize,
}

/// Messages that are out for delivery.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) waiting: VecDeque<Item>,
    current: Option<Item>,
    /// One entry for all that came from one source in a row.
    pub(super) done: Vec<Done>,
    pub(super) done_bytes: usize,
    pub(super) done_live_bytes: usize,
    /// Nothing more goes into it.
    pub(super) is_full: bool,
    unordered: bool,
    /// Those of the done ones that are in the log.
    done_stored: Vec<Place>,
    pub(super) failed: Vec<(Item, Uptime)>,
    pub(super) skipped: Vec<Item>,
    pub(super) dead: Vec<(Item, DropReason)>,
    /// Streams whose blocking message is in this batch, and its sequence.
    pub(super) probes: Vec<(Stream, u64)>,
}

impl Batch {
    pub(super) fn new(unordered: bool) -> Self {
        Self { unordered, ..Self::default() }
    }

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

    /// The one that was delivered last, unless it is settled.
    #[must_use]
    pub fn current(&self) -> Option<&Item> {
        self.current.as_ref()
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
            if item.deadline.is_some() && item.is_expired(now()) {
                self.dead.push((item, DropReason::Expired));
                continue;
            }
            if !self.unordered && self.failed.iter().any(|(failed, _)| item.is_of_the_stream_of(failed)) {
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
        let source = &item.accepted.source;
        match self.done.last_mut() {
            Some(last) if last.priority == item.priority && is_same(&last.source, source) => last.messages += 1,
            _ => self.done.push(Done { source: source.clone(), priority: item.priority, messages: 1 }),
        }
        self.done_bytes += item.size;
        self.done_live_bytes += item.live_size();
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

    pub(super) fn has_place(&self, max: usize) -> bool {
        self.waiting.len() < max && !self.is_full
    }

    /// Suspects are delivered alone; one that comes after others ends the batch.
    pub(super) fn takes(&mut self, item: &Item) -> bool {
        self.is_full = item.suspect && !self.waiting.is_empty();
        !self.is_full
    }

    fn give_up(&mut self, item: Item, reason: DropReason) {
        self.dead.push((item, reason));
    }

    pub(super) fn settle_unfinished(&mut self, now: Uptime) {
        if self.current.is_some() {
            self.settle(Settlement::Retry(None), now, 0.5);
        }
    }
}

/// Messages of one sender share the text, mostly.
fn is_same(a: &Arc<str>, b: &Arc<str>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}
