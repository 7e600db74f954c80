//! What waits to be tried again, and what it holds up.

use std::{collections::VecDeque, sync::Arc};

use super::Item;
use crate::time::Uptime;

/// The unit within which order is kept: a priority, the backlog or what is live, and a source; where no order is kept, each message is one
/// of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stream {
    pub(super) priority: u8,
    pub(super) live: bool,
    source: Arc<str>,
    /// Of the message, where no order is kept.
    sequence: Option<u64>,
}

/// A stream whose first message waits to be tried again.
#[derive(Debug)]
pub(super) struct Blocked {
    pub(super) until: Uptime,
    /// Its first message is out for delivery: the sequence of it.
    pub(super) probing: Option<u64>,
    pub(super) items: VecDeque<Item>,
}

impl Stream {
    pub(super) fn of(item: &Item, unordered: bool) -> Self {
        let sequence = unordered.then_some(item.accepted.sequence);
        Self { priority: item.priority, live: item.live, source: item.accepted.source.clone(), sequence }
    }

    /// Whether a later message belongs to it.
    pub(super) fn holds_up(&self, item: &Item) -> bool {
        let is_same = (self.priority, self.live) == (item.priority, item.live) && self.source == item.accepted.source;
        is_same && self.sequence.is_none()
    }
}

impl Blocked {
    pub(super) fn is_due(&self, now: Uptime) -> bool {
        self.probing.is_none() && self.until <= now
    }

    /// Puts a message back before all later ones. Earlier ones may have come back before it, when several batches were out.
    pub(super) fn put_back(&mut self, item: Item) {
        if self.probing == Some(item.accepted.sequence) {
            self.probing = None;
        }
        let earlier = |other: &Item| other.accepted.sequence < item.accepted.sequence;
        let place = self.items.iter().take_while(|other| earlier(other)).count();
        self.items.insert(place, item);
    }
}
