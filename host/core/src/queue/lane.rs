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
    /// Of each side: something came back to the front, or was read from the log, after one that had come later.
    is_disordered: [bool; 2],
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
        let last = self.side(item.live).back().map(|last| last.arrival);
        self.note_order(item.live, last.map(|last| last <= item.arrival));
        self.side(item.live).push_back(item);
    }

    pub(super) fn push_front(&mut self, item: Item) {
        let first = self.side(item.live).front().map(|first| first.arrival);
        self.note_order(item.live, first.map(|first| item.arrival <= first));
        self.side(item.live).push_front(item);
    }

    /// Whether the next one comes in its order; none = there is no other.
    fn note_order(&mut self, live: bool, in_order: Option<bool>) {
        let is_disordered = &mut self.is_disordered[usize::from(live)];
        *is_disordered = in_order.is_some_and(|in_order| !in_order || *is_disordered);
    }

    /// Sees which sides are in order again. Looks at all messages only where one was not.
    pub(super) fn check_order(&mut self) {
        for (side, live) in [false, true].into_iter().enumerate() {
            if self.is_disordered[side] {
                self.is_disordered[side] = !self.side(live).iter().is_sorted_by_key(|item| item.arrival);
            }
        }
    }

    /// The message of a side that came first to the queue, with its place: the one at the front, as long as there is order.
    pub(super) fn oldest(&self, side: usize) -> Option<(usize, &Item)> {
        let items = self.sides()[side];
        let asked = if self.is_disordered[side] { items.len() } else { items.len().min(1) };
        #[cfg(test)]
        LOOKED_AT.set(LOOKED_AT.get() + asked);
        items.iter().take(asked).enumerate().min_by_key(|(_, item)| item.arrival)
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

#[cfg(test)]
thread_local! {
    /// Messages that were looked at for the oldest, in this thread.
    pub(super) static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}
