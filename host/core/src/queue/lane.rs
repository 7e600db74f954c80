//! What could be delivered now, of one priority, and what of it goes first.

use std::collections::VecDeque;

use super::{Item, blocked::Stream};

/// Live messages that go one after another while the backlog waits: so every fourth is one of the backlog.
const LIVE_IN_A_ROW: i32 = 3;

/// The messages of one priority that are not in back-off.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// All, where nothing is live.
    backlog: VecDeque<Item>,
    live: VecDeque<Item>,
    /// Live ones that have gone past a waiting backlog since the last one of it went.
    passed: i32,
}

impl Lane {
    pub(super) fn is_empty(&self) -> bool {
        self.backlog.is_empty() && self.live.is_empty()
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.backlog.len() + self.live.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.backlog.iter().chain(&self.live)
    }

    /// The two in which order is kept: the backlog, and what is live.
    pub(super) fn sides_mut(&mut self) -> [&mut VecDeque<Item>; 2] {
        [&mut self.backlog, &mut self.live]
    }

    pub(super) fn sides(&self) -> [&VecDeque<Item>; 2] {
        [&self.backlog, &self.live]
    }

    pub(super) fn push_back(&mut self, item: Item) {
        self.side(item.live).push_back(item);
    }

    pub(super) fn push_front(&mut self, item: Item) {
        self.side(item.live).push_front(item);
    }

    /// Takes the next, if it is wanted. It does not count as gone before [`Lane::count`].
    pub(super) fn pop_if(&mut self, wanted: impl FnOnce(&mut Item) -> bool) -> Option<Item> {
        let live = !self.live.is_empty() && (self.backlog.is_empty() || self.passed < LIVE_IN_A_ROW);
        self.side(live).pop_front_if(wanted)
    }

    /// Takes all that this stream holds up, in order.
    pub(super) fn take_stream(&mut self, stream: &Stream) -> VecDeque<Item> {
        let side = self.side(stream.live);
        let (same, others) = side.drain(..).partition(|item| stream.holds_up(item));
        *side = others;
        same
    }

    /// Notes that a message goes out for delivery.
    pub(super) fn count(&mut self, item: &mut Item) {
        item.turn = match (item.live, self.backlog.is_empty()) {
            (true, true) => 0, // it passes nobody
            (true, false) => 1,
            (false, _) => -self.passed,
        };
        self.passed += item.turn;
    }

    /// Notes that it has come back undelivered.
    pub(super) fn take_back(&mut self, item: &Item) {
        self.passed -= item.turn;
    }

    fn side(&mut self, live: bool) -> &mut VecDeque<Item> {
        if live { &mut self.live } else { &mut self.backlog }
    }
}
