//! The log as the agent sees it. Its errors lose their types and keep their words.

use std::{error::Error, io, ops::Range};

use marram_core::{
    elapsed::{Clocks, Elapsed},
    log::{
        Damage, EndpointId, EndpointUsage, Entry, Expired, How, Letters, LogError, MessageLog, Place, QueueUsage,
        Reference, Removed, Room, Safety, Stored,
    },
    time::UtcMillis,
};

use super::{AppendError, Log, Options, ReadError, Replay};

impl MessageLog for Log {
    fn endpoint(&mut self, name: &str) -> EndpointId {
        self.endpoint(name)
    }

    fn endpoints(&self) -> Vec<EndpointUsage> {
        self.endpoints()
    }

    fn usage_of(&self, endpoint: EndpointId) -> Vec<QueueUsage> {
        self.usage_of(endpoint)
    }

    fn room(&self) -> Room {
        let Options { segment_bytes, max_bytes, dead_letter_bytes } = self.options;
        // Beside the messages: a spare for settlements, one for copies, the one that is being written. Of the others three quarters
        // are live, or a copy brings room; not quite, because indexes are copied as well and no message is cut in two.
        let segments = max_bytes.saturating_sub(3 * segment_bytes);
        let for_messages = (segments / 10 * 7).saturating_sub(dead_letter_bytes);
        Room { disk_bytes: self.usage().disk_bytes, max_bytes, for_messages }
    }

    fn next_sequence(&self) -> u64 {
        self.next_sequence()
    }

    fn stamp(&mut self, clocks: &Clocks) -> Elapsed {
        self.stamp(clocks)
    }

    fn has_room_at_hand(&self, bytes: usize) -> bool {
        self.has_room_at_hand(bytes)
    }

    fn append(&mut self, entries: &[Entry<'_>], safety: Safety) -> Result<Range<u64>, LogError> {
        Ok(self.append(entries, safety)?)
    }

    fn probe(&mut self, bytes: usize, clocks: &Clocks) -> Result<(), LogError> {
        Ok(self.probe(bytes, clocks)?)
    }

    fn read(
        &mut self,
        endpoint: EndpointId,
        priority: u8,
        after: Option<u64>,
        max_bytes: usize,
        into: &mut Vec<Stored>,
    ) -> Result<(), LogError> {
        Ok(self.read(endpoint, priority, after, max_bytes, into)?)
    }

    fn settle(&mut self, place: Place, how: How) -> bool {
        self.settle(place, how)
    }

    fn attempt(&mut self, place: Place, attempts: u32) {
        self.attempt(place, attempts);
    }

    fn bury(&mut self, place: Place, reason: &str, at: UtcMillis) -> Result<u64, LogError> {
        Ok(self.bury(place, reason, at)?)
    }

    fn remove_endpoint(
        &mut self,
        endpoint: EndpointId,
        reason: &str,
        at: UtcMillis,
        removed: &mut Removed,
    ) -> Result<bool, LogError> {
        Ok(self.remove_endpoint(endpoint, reason, at, removed)?)
    }

    fn expire(
        &mut self,
        endpoint: EndpointId,
        priority: u8,
        after: Option<u64>,
        now: Elapsed,
        letters: Option<Letters<'_>>,
    ) -> Option<Expired> {
        self.expire(endpoint, priority, after, now, letters)
    }

    fn dead_letters(&mut self, after: Option<u64>, max_bytes: usize) -> Result<Vec<Stored>, LogError> {
        Ok(self.dead_letters(after, max_bytes)?)
    }

    fn replay(&mut self, sequence: u64, to: &[Reference]) -> Result<u64, LogError> {
        Ok(self.replay(sequence, to)?)
    }

    fn purge(&mut self, sequence: u64) -> bool {
        self.purge(sequence)
    }

    fn purge_all(&mut self) -> u64 {
        self.purge_all()
    }

    fn tidy(&mut self) -> bool {
        self.tidy()
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.flush().map_err(|error| disk(&error))
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.sync().map_err(|error| disk(&error))
    }

    fn take_lost(&mut self, endpoint: EndpointId, priority: u8) -> u64 {
        self.take_lost(endpoint, priority)
    }

    fn take_revived(&mut self) -> Vec<EndpointId> {
        self.take_revived()
    }

    fn take_damage(&mut self) -> Vec<Damage> {
        self.take_damage()
    }
}

impl From<AppendError> for LogError {
    fn from(error: AppendError) -> Self {
        let words = chain(&error);
        match error {
            AppendError::Full { .. } | AppendError::DiskFull(_) => Self::Full(words),
            AppendError::Io { .. } => Self::Disk(words),
            AppendError::TooLarge { .. } | AppendError::References => Self::Refused(words),
        }
    }
}

impl From<ReadError> for LogError {
    fn from(error: ReadError) -> Self {
        Self::Disk(chain(&error))
    }
}

impl From<Replay> for LogError {
    fn from(error: Replay) -> Self {
        match error {
            Replay::Unknown(sequence) => Self::Unknown(sequence),
            Replay::Append(error) => error.into(),
            Replay::Read(error) => error.into(),
        }
    }
}

fn disk(error: &io::Error) -> LogError {
    LogError::Disk(format!("cannot write the message log: {error}"))
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}
