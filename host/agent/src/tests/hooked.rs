//! The real message log, with a hook before the calls that tests want to hold up or refuse.

use std::{
    ops::Range,
    sync::{Arc, Condvar, Mutex},
};

use marram_core::{
    elapsed::{Clocks, Elapsed},
    log::{
        Damage, EndpointId, EndpointUsage, Entry, Expired, How, Letters, LogError, MessageLog, Place, QueueUsage,
        Reference, Removed, Room, Safety, Stored,
    },
    time::UtcMillis,
};
use marram_store::log::Log;
use tokio::sync::Notify;

use super::worlds::DEADLINE;

/// What the owner of the log is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Store so many messages.
    Append(usize, Safety),
    Probe,
    /// Count what waits for all endpoints.
    Endpoints,
    Read,
    Settle(Place, How),
    Bury(Place),
    /// Note that this is the n-th delivery of a message.
    Attempt(u32),
    Flush,
    Sync,
}

/// May wait; an error is the call's answer, where the call has one.
pub(super) type Hook = Arc<dyn Fn(Call) -> Result<(), LogError> + Send + Sync>;

pub(super) struct Hooked {
    pub(super) log: Log,
    pub(super) hook: Hook,
    /// Senders may write themselves. A hook that waits then holds up the test.
    pub(super) at_hand: bool,
}

/// What a hook has seen.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Vec<Call>>>);

impl Seen {
    pub(super) fn hook(&self) -> Hook {
        let seen = self.clone();
        Arc::new(move |call| {
            seen.0.lock().unwrap().push(call);
            Ok(())
        })
    }

    /// The writes since the last call.
    pub(super) fn take_appends(&self) -> Vec<Call> {
        self.take(|call| matches!(call, Call::Append(..)))
    }

    /// Of all calls since the last one of this those that are meant.
    pub(super) fn take(&self, is_meant: fn(&Call) -> bool) -> Vec<Call> {
        let mut seen = std::mem::take(&mut *self.0.lock().unwrap());
        seen.retain(is_meant);
        seen
    }

    pub(super) fn count(&self, what: fn(Call) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|call| what(**call)).count()
    }
}

/// Where a world waits for the test.
#[derive(Default)]
pub(super) struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
    reached: Notify,
}

impl Gate {
    pub(super) fn pass(&self) {
        self.reached.notify_one();
        let waiting = self.changed.wait_timeout_while(self.open.lock().unwrap(), DEADLINE, |open| !*open);
        assert!(*waiting.unwrap().0, "nobody has opened the gate");
    }

    /// Ends when somebody stands before it.
    pub(super) async fn reached(&self) {
        tokio::time::timeout(DEADLINE, self.reached.notified()).await.expect("nobody comes to the gate");
    }

    pub(super) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl MessageLog for Hooked {
    fn has_room_at_hand(&self, bytes: usize) -> bool {
        self.at_hand && MessageLog::has_room_at_hand(&self.log, bytes)
    }

    fn append(&mut self, entries: &[Entry<'_>], safety: Safety) -> Result<Range<u64>, LogError> {
        (self.hook)(Call::Append(entries.len(), safety))?;
        MessageLog::append(&mut self.log, entries, safety)
    }

    fn probe(&mut self, bytes: usize, clocks: &Clocks) -> Result<(), LogError> {
        (self.hook)(Call::Probe)?;
        MessageLog::probe(&mut self.log, bytes, clocks)
    }

    fn read(
        &mut self,
        endpoint: EndpointId,
        priority: u8,
        after: Option<u64>,
        max_bytes: usize,
        into: &mut Vec<Stored>,
    ) -> Result<(), LogError> {
        (self.hook)(Call::Read)?;
        MessageLog::read(&mut self.log, endpoint, priority, after, max_bytes, into)
    }

    fn attempt(&mut self, place: Place, attempts: u32) {
        let _ = (self.hook)(Call::Attempt(attempts));
        MessageLog::attempt(&mut self.log, place, attempts);
    }

    fn endpoint(&mut self, name: &str) -> EndpointId {
        MessageLog::endpoint(&mut self.log, name)
    }

    fn endpoints(&self) -> Vec<EndpointUsage> {
        let _ = (self.hook)(Call::Endpoints);
        MessageLog::endpoints(&self.log)
    }

    fn usage_of(&self, endpoint: EndpointId) -> Vec<QueueUsage> {
        self.log.usage_of(endpoint)
    }

    fn room(&self) -> Room {
        MessageLog::room(&self.log)
    }

    fn next_sequence(&self) -> u64 {
        MessageLog::next_sequence(&self.log)
    }

    fn stamp(&mut self, clocks: &Clocks) -> Elapsed {
        MessageLog::stamp(&mut self.log, clocks)
    }

    fn settle(&mut self, place: Place, how: How) -> bool {
        let _ = (self.hook)(Call::Settle(place, how));
        MessageLog::settle(&mut self.log, place, how)
    }

    fn bury(&mut self, place: Place, reason: &str, at: UtcMillis) -> Result<u64, LogError> {
        (self.hook)(Call::Bury(place))?;
        MessageLog::bury(&mut self.log, place, reason, at)
    }

    fn remove_endpoint(
        &mut self,
        endpoint: EndpointId,
        reason: &str,
        at: UtcMillis,
        removed: &mut Removed,
    ) -> Result<bool, LogError> {
        MessageLog::remove_endpoint(&mut self.log, endpoint, reason, at, removed)
    }

    fn expire(
        &mut self,
        endpoint: EndpointId,
        priority: u8,
        after: Option<u64>,
        now: Elapsed,
        letters: Option<Letters<'_>>,
    ) -> Option<Expired> {
        self.log.expire(endpoint, priority, after, now, letters)
    }

    fn dead_letters(&mut self, after: Option<u64>, max_bytes: usize) -> Result<Vec<Stored>, LogError> {
        MessageLog::dead_letters(&mut self.log, after, max_bytes)
    }

    fn replay(&mut self, sequence: u64, to: &[Reference]) -> Result<u64, LogError> {
        MessageLog::replay(&mut self.log, sequence, to)
    }

    fn purge(&mut self, sequence: u64) -> bool {
        MessageLog::purge(&mut self.log, sequence)
    }

    fn purge_all(&mut self) -> u64 {
        MessageLog::purge_all(&mut self.log)
    }

    fn tidy(&mut self) -> bool {
        MessageLog::tidy(&mut self.log)
    }

    fn flush(&mut self) -> Result<(), LogError> {
        (self.hook)(Call::Flush)?;
        MessageLog::flush(&mut self.log)
    }

    fn sync(&mut self) -> Result<(), LogError> {
        (self.hook)(Call::Sync)?;
        MessageLog::sync(&mut self.log)
    }

    fn take_lost(&mut self, endpoint: EndpointId, priority: u8) -> u64 {
        self.log.take_lost(endpoint, priority)
    }

    fn take_revived(&mut self) -> Vec<EndpointId> {
        self.log.take_revived()
    }

    fn take_damage(&mut self) -> Vec<Damage> {
        MessageLog::take_damage(&mut self.log)
    }
}
