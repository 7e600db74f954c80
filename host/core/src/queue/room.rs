//! Whether a message fits, and what is given up for it.

use std::{collections::VecDeque, ops::Range};

use super::{DropReason, EndpointQueue, Item, blocked::Stream, lane::Lane, lane_of};
use crate::{
    deployment::{Overflow, PRIORITIES},
    time::Uptime,
};

/// Where a message waits.
#[derive(Debug, Clone)]
enum Spot {
    /// In the lane of its priority, on this side, at this place.
    Ready(usize, usize, usize),
    /// Among those that this one of them holds up, at this place.
    Blocked(Stream, usize),
}

impl EndpointQueue {
    /// Whether `size` more bytes fit without dropping anything; a message always fits into an empty queue.
    #[must_use]
    pub fn fits(&self, size: usize) -> bool {
        self.bytes.saturating_add(self.beside).saturating_add(size) <= self.max_bytes
            || (self.len == 0 && self.beside == 0)
    }

    /// Whether `size` more bytes fit. When they do not, what has expired is dropped first.
    pub fn has_room(&mut self, size: usize, now: Uptime) -> bool {
        if !self.fits(size) {
            self.drop_expired(now);
        }
        self.fits(size)
    }

    /// Whether what waits in memory would make room for `size` bytes of this priority, if the policy gave it up.
    #[must_use]
    pub fn can_make_room(&self, size: usize, priority: u8, policy: Overflow) -> bool {
        let wanted = self.bytes.saturating_add(self.beside).saturating_add(size).saturating_sub(self.max_bytes);
        let droppable = match policy {
            Overflow::RejectNew => 0,
            Overflow::DropOldest => self.waiting_of.iter().sum(),
            Overflow::DropLowestPriority => self.waiting_of.iter().skip(usize::from(priority) + 1).sum::<usize>(),
        };
        droppable >= wanted
    }

    /// Gives up messages by the policy until `size` bytes of this priority fit.
    pub fn make_room(&mut self, size: usize, priority: u8, policy: Overflow) {
        self.ready.iter_mut().for_each(Lane::check_order);
        while !self.fits(size) {
            let spot = match policy {
                Overflow::RejectNew => None,
                Overflow::DropOldest => self.oldest_of(0..PRIORITIES),
                Overflow::DropLowestPriority => {
                    let least = (usize::from(priority) + 1..PRIORITIES).rev().find(|lane| self.waiting_of[*lane] > 0);
                    least.and_then(|least| self.oldest_of(least..least + 1))
                }
            };
            let Some(item) = spot.and_then(|spot| self.remove(&spot)) else { return };
            self.forget(item, DropReason::Overflow);
        }
    }

    /// Where the one of these lanes is that came first. Of each side and of each stream that is held up it is the first one, but where
    /// something that was in back-off stands before older ones of other sources.
    fn oldest_of(&self, lanes: Range<usize>) -> Option<Spot> {
        let sides = lanes.clone().flat_map(|priority| [(priority, 0), (priority, 1)]);
        let ready = sides.filter_map(|(priority, side)| {
            let (place, item) = self.ready[priority].oldest(side)?;
            Some((item.arrival, Spot::Ready(priority, side, place)))
        });
        let held_up = self.blocked.iter().filter(|(stream, _)| lanes.contains(&lane_of(stream.priority)));
        let held_up = held_up.filter_map(|(stream, blocked)| Some((blocked.items.front()?.arrival, stream)));
        let held_up = held_up.min_by_key(|(arrival, _)| *arrival);
        let held_up = held_up.map(|(arrival, stream)| (arrival, Spot::Blocked(stream.clone(), 0)));
        ready.chain(held_up).min_by_key(|(arrival, _)| *arrival).map(|(_, spot)| spot)
    }

    fn remove(&mut self, spot: &Spot) -> Option<Item> {
        match spot {
            Spot::Ready(priority, side, place) => self.ready[*priority].sides_mut()[*side].remove(*place),
            Spot::Blocked(stream, place) => {
                let blocked = self.blocked.get_mut(stream)?;
                let item = blocked.items.remove(*place);
                if blocked.items.is_empty() && blocked.probing.is_none() {
                    self.blocked.remove(stream);
                }
                item
            }
        }
    }

    /// Gives up what has expired, except what is out for delivery.
    pub fn drop_expired(&mut self, now: Uptime) {
        if self.earliest_deadline.is_none_or(|deadline| deadline > now) {
            return; // nothing to find: a full queue is asked often
        }
        let mut expired = Vec::new();
        for side in self.ready.iter_mut().flat_map(Lane::sides_mut) {
            expired.extend(take_expired(side, now));
        }
        let mut freed = Vec::new();
        for (stream, blocked) in &mut self.blocked {
            if blocked.probing.is_none() && blocked.items.front().is_some_and(|first| first.is_expired(now)) {
                freed.push(stream.clone()); // the one that held up the others goes
            }
            expired.extend(take_expired(&mut blocked.items, now));
        }
        for stream in &freed {
            self.release(stream);
        }
        for item in expired {
            self.forget(item, DropReason::Expired);
        }
        self.earliest_deadline = self.waiting().filter_map(|item| item.deadline).min();
    }
}

fn take_expired(items: &mut VecDeque<Item>, now: Uptime) -> VecDeque<Item> {
    let (expired, kept) = items.drain(..).partition(|item| item.is_expired(now));
    *items = kept;
    expired
}
