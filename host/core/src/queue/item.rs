//! A message in a queue, and one that has left it unhandled.

use std::sync::Arc;

use crate::{log::Place, message::Accepted, time::Uptime};

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
    /// It came while its receiver was up, to a queue that is drained live first; all others are the backlog.
    pub live: bool,
    /// Given by [`EndpointQueue::push`](super::EndpointQueue::push); anything before.
    pub arrival: Arrival,
    /// Given by [`EndpointQueue::take`](super::EndpointQueue::take): what its going has changed in the count of its lane.
    pub turn: i32,
}

/// When a message came to its queue, beside the others there, whatever the clock says: by its number in the log; one that is in memory
/// alone comes after all that were in the log by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Arrival {
    /// The first number in the log that would be later.
    stored: u64,
    /// Those in memory alone, in their order.
    count: u64,
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

impl Arrival {
    /// Of one that comes now, where this is the latest so far.
    pub(super) fn next(self, stored: Option<Place>) -> Self {
        match stored {
            Some(place) => Self { stored: place.sequence.saturating_add(1), count: 0 },
            None => Self { count: self.count + 1, ..self },
        }
    }
}

impl Item {
    pub(super) fn live_size(&self) -> usize {
        if self.live { self.size } else { 0 }
    }

    pub(super) fn is_expired(&self, now: Uptime) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    pub(super) fn is_of_the_stream_of(&self, other: &Item) -> bool {
        (self.priority, self.live) == (other.priority, other.live) && self.accepted.source == other.accepted.source
    }
}
