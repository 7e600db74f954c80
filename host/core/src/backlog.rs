//! What of an endpoint's stored messages is not in memory: behind the window that [`crate::queue::EndpointQueue`] holds, in the
//! log, and when to read on. So memory does not grow with the backlog.
//!
//! For each priority the window is a prefix of what the log holds: what is stored while something is behind the window stays behind it, and
//! readings go on where the last one ended. So the order of the log is the order of delivery.
//!
//! Live messages (of a queue that is drained live first) go past what is behind the window. Which those were is known until a reading has
//! passed them as well, for they are not to come twice: not the single ones, but from where to where all were live.

use std::collections::VecDeque;

use crate::{deployment::PRIORITIES, log::Expired};

/// Bytes in memory from which on nothing more is read ahead: some 600 readings of 300 bytes, so that a reading from the disk serves
/// ten batches. Twice as much would gain nothing, and cost each endpoint that lags as much again.
pub const WINDOW_BYTES: usize = 256 << 10;

/// Bytes in memory up to which a priority that has nothing to deliver gets its next message, whatever else is held: messages in back-off fill
/// the window and must not keep others away. Beyond it they do: a backlog of one source that is in back-off is held in memory, and that must
/// have an end.
pub const MOST_BYTES: usize = 1 << 20;

/// Bytes of live messages in memory from which on those that come are of the backlog, until half of it is free again: a receiver that does
/// not keep up must not fill memory. As much as for the window of the backlog.
pub const LIVE_BYTES: usize = WINDOW_BYTES;

/// Most gaps between live messages that have gone past a backlog: 16 KiB. One comes with each time that the receiver was away. When there
/// are more, what comes is of the backlog until readings have passed some.
const MOST_PASSED: usize = 1024;

/// The messages of an endpoint that are in the log and not in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backlog {
    lanes: [Lane; PRIORITIES],
    /// Accepted by the endpoint, and on their way into the log.
    under_way: usize,
    under_way_bytes: usize,
    /// There are too many live messages in memory for more.
    live_is_full: bool,
}

/// Of one priority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Lane {
    /// There may be messages behind `read_to`. Decides; the numbers below only tell.
    behind: bool,
    messages: u64,
    bytes: usize,
    /// The last message, by its number in the log, that is or was in memory.
    read_to: Option<u64>,
    /// Live messages behind `read_to`, in order: all of this priority from the one number to the other. At most [`MOST_PASSED`].
    passed: VecDeque<(u64, u64)>,
    /// The last message that was stored is the last of `passed`.
    is_passing: bool,
}

/// What an endpoint holds in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Bytes of all its priorities, those out for delivery included, without live messages.
    pub bytes: usize,
    /// Nothing of the priority in question could be delivered now.
    pub lane_is_idle: bool,
}

/// What to read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Of which priority.
    pub priority: u8,
    /// Behind which message; none = from the beginning.
    pub after: Option<u64>,
    /// How many bytes; at least one message.
    pub max_bytes: usize,
}

impl Held {
    fn has_room(self) -> bool {
        self.bytes < WINDOW_BYTES || (self.lane_is_idle && self.bytes < MOST_BYTES)
    }

    /// Whether it is time to read on: not for each message that leaves a full window.
    fn is_low(self) -> bool {
        self.bytes < WINDOW_BYTES / 2 || (self.lane_is_idle && self.bytes < MOST_BYTES)
    }
}

impl Backlog {
    /// Notes what the log holds of a priority when its endpoint is opened.
    pub fn restore(&mut self, priority: u8, messages: u64, bytes: u64) {
        let Some(lane) = self.lane_mut(priority) else { return };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        *lane = Lane { behind: true, messages, bytes, ..Lane::default() };
    }

    /// A message of so many bytes is on its way into the log.
    pub fn reserve(&mut self, bytes: usize) {
        self.under_way += 1;
        self.under_way_bytes += bytes;
    }

    /// It is there, or will not be.
    pub fn release(&mut self, bytes: usize) {
        self.under_way = self.under_way.saturating_sub(1);
        self.under_way_bytes = self.under_way_bytes.saturating_sub(bytes);
    }

    /// A live message is in the log. True: it goes into memory, whatever is behind the window. False: it is one of the backlog.
    #[must_use]
    pub fn passes(&mut self, priority: u8, sequence: u64, live_bytes: usize) -> bool {
        self.live_is_full = live_bytes >= if self.live_is_full { LIVE_BYTES / 2 } else { LIVE_BYTES };
        if self.live_is_full {
            return false;
        }
        let Some(lane) = self.lane_mut(priority) else { return false };
        if !lane.behind {
            lane.read_to = Some(sequence);
            return true;
        }
        let is_full = lane.passed.len() >= MOST_PASSED;
        match lane.passed.back_mut().filter(|_| lane.is_passing) {
            Some((_, last)) => *last = sequence,
            None if is_full => return false,
            None => lane.passed.push_back((sequence, sequence)),
        }
        lane.is_passing = true;
        true
    }

    /// A message of the backlog is in the log. True: it goes into memory as well.
    #[must_use]
    pub fn stored(&mut self, priority: u8, sequence: u64, bytes: usize, held: Held) -> bool {
        let Some(lane) = self.lane_mut(priority) else { return false };
        if !lane.behind && held.has_room() {
            lane.read_to = Some(sequence);
            return true;
        }
        self.stored_unseen(priority, bytes);
        false
    }

    /// A message is in the log that is not at hand: it is to be read.
    pub fn stored_unseen(&mut self, priority: u8, bytes: usize) {
        let Some(lane) = self.lane_mut(priority) else { return };
        lane.behind = true;
        lane.is_passing = false;
        lane.messages += 1;
        lane.bytes = lane.bytes.saturating_add(bytes);
    }

    /// What to read into memory now, the most urgent first. `held` tells what is there, for a priority.
    #[must_use]
    pub fn next_reading(&self, held: impl Fn(u8) -> Held) -> Option<Reading> {
        (0..).zip(&self.lanes).find_map(|(priority, lane)| {
            let held = held(priority);
            let max_bytes = WINDOW_BYTES.saturating_sub(held.bytes).max(1);
            (lane.behind && held.is_low()).then_some(Reading { priority, after: lane.read_to, max_bytes })
        })
    }

    /// A message was read. True: it is in memory from now on, or has expired. False: it went past as a live one, and is or was in memory.
    #[must_use]
    pub fn read(&mut self, priority: u8, sequence: u64, bytes: usize) -> bool {
        let Some(lane) = self.lane_mut(priority) else { return false };
        lane.read_to = Some(sequence);
        while lane.passed.pop_front_if(|(_, last)| *last < sequence).is_some() {}
        if lane.passed.front().is_some_and(|(first, _)| *first <= sequence) {
            return false;
        }
        lane.messages = lane.messages.saturating_sub(1);
        lane.bytes = lane.bytes.saturating_sub(bytes);
        true
    }

    /// The priorities that may have messages behind the window, each with the last one that is or was in memory: none behind that one is.
    pub fn behind(&self) -> impl Iterator<Item = (u8, Option<u64>)> {
        (0..).zip(&self.lanes).filter(|(_, lane)| lane.behind).map(|(priority, lane)| (priority, lane.read_to))
    }

    /// Whether live ones have gone past them.
    #[must_use]
    pub fn has_passed(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.passed.is_empty())
    }

    /// Messages behind the window have expired and are gone, unread.
    pub fn expired(&mut self, priority: u8, expired: &Expired) {
        let Some(lane) = self.lane_mut(priority) else { return };
        if expired.left_messages == 0 {
            self.came_to_the_end(priority);
            return;
        }
        lane.messages = lane.messages.saturating_sub(expired.messages);
        // The log counts what they take on disk, this what they take in memory: both shrink alike.
        let (left, all) = (u128::from(expired.left_bytes), u128::from(expired.left_bytes + expired.bytes));
        let bytes = lane.bytes as u128 * left / all.max(1);
        lane.bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    }

    /// So many messages behind the window are lost.
    pub fn lost(&mut self, priority: u8, messages: u64) {
        let Some(lane) = self.lane_mut(priority) else { return };
        let left = lane.messages.saturating_sub(messages);
        let bytes = lane.bytes as u128 * u128::from(left) / u128::from(lane.messages.max(1));
        lane.bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        lane.messages = left;
    }

    /// A reading came to the end: nothing is behind the window any more.
    pub fn came_to_the_end(&mut self, priority: u8) {
        if let Some(lane) = self.lane_mut(priority) {
            // Later readings begin behind what has passed.
            let read_to = lane.read_to.max(lane.passed.back().map(|(_, last)| *last));
            *lane = Lane { read_to, ..Lane::default() };
        }
    }

    /// The endpoint is gone, and what the log holds is no concern of it any more.
    pub fn clear(&mut self) {
        self.lanes = Default::default();
    }

    /// Messages in the log and not in memory.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.messages).sum()
    }

    /// The same of one priority.
    #[must_use]
    pub fn messages_of(&self, priority: u8) -> u64 {
        self.lanes.get(usize::from(priority)).map_or(0, |lane| lane.messages)
    }

    /// Their bytes, and of those on their way there: exact for what this run of the host stored.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lanes.iter().fold(self.under_way_bytes, |sum, lane| sum.saturating_add(lane.bytes))
    }

    /// Whether there may be messages that are not in memory.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.lanes.iter().any(|lane| lane.behind)
    }

    /// Whether messages are on their way into the log.
    #[must_use]
    pub fn is_storing(&self) -> bool {
        self.under_way > 0
    }

    fn lane_mut(&mut self, priority: u8) -> Option<&mut Lane> {
        self.lanes.get_mut(usize::from(priority))
    }
}

#[cfg(test)]
mod tests;
