//! What goes into the log of messages and what comes out of it, and the log as the agent sees it: [`MessageLog`].

use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

use crate::{
    elapsed::{Clocks, Elapsed},
    message::Accepted,
    time::UtcMillis,
};

/// The endpoint of dead letters: a name that no sink has.
pub const DEAD_LETTERS: &str = "$dead-letters";

/// An endpoint's number in one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u32);

impl EndpointId {
    /// The queue of one of its priorities.
    #[must_use]
    pub fn key(self, priority: u8) -> (u32, u8) {
        (self.0, priority)
    }
}

/// That a message is for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// Who gets it.
    pub endpoint: EndpointId,
    /// 0 (most urgent) to 10.
    pub priority: u8,
    /// When it expires, in the log's elapsed time; none = never.
    pub deadline: Option<Elapsed>,
    /// Deliveries allowed; none = no limit.
    pub max_attempts: Option<u32>,
}

/// A message to be stored.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// What was sent.
    pub message: &'a Accepted,
    /// Who gets it: one reference an endpoint, at least one.
    pub references: &'a [Reference],
}

/// What a write must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Safety {
    /// A kill of the host.
    Written,
    /// A loss of power.
    Synced,
}

/// A message of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The queue's endpoint.
    pub endpoint: EndpointId,
    /// The queue's priority.
    pub priority: u8,
    /// The message's number in the log.
    pub sequence: u64,
}

/// A message as it is read.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Where it is; what a settlement names.
    pub place: Place,
    /// What was sent.
    pub accepted: Accepted,
    /// When it expires, in the log's elapsed time; none = never.
    pub deadline: Option<Elapsed>,
    /// Deliveries allowed; none = no limit.
    pub max_attempts: Option<u32>,
    /// Deliveries noted so far.
    pub attempts: u32,
    /// For dead letters: how it died.
    pub death: Option<Death>,
}

/// How a message became a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// Whose it was.
    pub endpoint: Arc<str>,
    /// Why it was not handled.
    pub reason: Arc<str>,
    /// Deliveries made.
    pub attempts: u32,
    /// When, by the wall clock.
    pub at: UtcMillis,
}

/// Why a message is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Handled.
    Delivered,
    /// Its time to live was over.
    Expired,
    /// It is among the dead letters now.
    DeadLettered,
    /// Given up; the reason is the caller's.
    Dropped,
}

impl How {
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// An endpoint and its queues that are not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUsage {
    /// Its number.
    pub id: EndpointId,
    /// Its name.
    pub name: Arc<str>,
    /// By priority.
    pub queues: Vec<QueueUsage>,
}

/// A queue that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueUsage {
    /// 0 to 10.
    pub priority: u8,
    /// How many wait.
    pub messages: u64,
    /// Their bytes on disk, by the mean of each segment.
    pub bytes: u64,
}

/// What became of the messages of an endpoint that is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// They are dead letters now.
    pub buried: u64,
    /// The oldest, for which the dead letters have no room.
    pub dropped: u64,
}

/// What of a queue was behind a message and has expired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// How many were given up.
    pub messages: u64,
    /// Their bytes on disk, by the mean of each segment.
    pub bytes: u64,
    /// How many are left behind that message.
    pub left_messages: u64,
    /// Their bytes on disk.
    pub left_bytes: u64,
}

/// That messages are to become dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Letters<'a> {
    /// Why they were not handled.
    pub reason: &'a str,
    /// When, by the wall clock.
    pub at: UtcMillis,
}

/// A part of the log that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment's file.
    pub path: PathBuf,
    /// Where in it.
    pub at: u64,
    /// How much of it.
    pub bytes: u64,
    /// What was lost by it.
    pub loss: Loss,
}

/// What damage costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// So many messages at most.
    Messages(u64),
    /// A whole segment, with so many references to messages; none = unknown.
    Segment(Option<u64>),
    /// What stood at the end of a segment, if anything.
    End,
    /// The name of an endpoint; its messages wait for one of another name.
    Name(u32),
    /// What was settled, or how often it was tried: some messages come again.
    Settlements,
    /// Nothing: it was found elsewhere.
    Nothing,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, at, bytes, loss } = self;
        write!(f, "{}, {bytes} bytes from {at}: ", path.display())?;
        match loss {
            Loss::Messages(count) => write!(f, "at most {count} message(s) lost"),
            Loss::Segment(Some(count)) => write!(f, "{count} waiting message(s) lost with the segment"),
            Loss::End => f.write_str("the end is damaged or missing; messages that stood there are lost"),
            Loss::Segment(None) => f.write_str("an unknown number of messages lost with the segment"),
            Loss::Name(number) => write!(f, "the name of an endpoint is lost, its messages wait for `$lost-{number}`"),
            Loss::Settlements => f.write_str("settlements lost, some messages are delivered again"),
            Loss::Nothing => f.write_str("nothing lost"),
        }
    }
}

/// What a log takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Bytes of all its files.
    pub disk_bytes: u64,
    /// Most bytes of them.
    pub max_bytes: u64,
    /// Of these, what the messages of all queues may take: while they do not, there is room for one more, whatever their sizes, and
    /// however many others beside them are settled already. The rest is for dead letters and the log's own needs.
    pub for_messages: u64,
}

/// Why the log did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The log has reached its bound, or the file system has no room. It goes on when there is room.
    #[error("{0}")]
    Full(String),
    /// The disk failed.
    #[error("{0}")]
    Disk(String),
    /// There is no such message.
    #[error("there is no message {0} in this queue")]
    Unknown(u64),
    /// The message can never be stored.
    #[error("{0}")]
    Refused(String),
}

/// The messages that outlive the host. One owner calls; each call blocks on the disk. What each promises is said in `docs/store.md`.
pub trait MessageLog: Send {
    /// The number of an endpoint; a name that is new gets one.
    fn endpoint(&mut self, name: &str) -> EndpointId;
    /// All endpoints with messages or with a name in the log.
    fn endpoints(&self) -> Vec<EndpointUsage>;
    /// The queues of one of them that are not empty.
    fn usage_of(&self, endpoint: EndpointId) -> Vec<QueueUsage>;
    /// What it takes.
    fn room(&self) -> Room;
    /// Number of the next message that is stored.
    fn next_sequence(&self) -> u64;
    /// Notes the clocks, which go to the disk with the next write. Returns the moment that they show, in elapsed time.
    fn stamp(&mut self, clocks: &Clocks) -> Elapsed;
    /// Whether to store messages of so many bytes, all told, is one write into a file that is there.
    fn has_room_at_hand(&self, bytes: usize) -> bool;
    /// Stores messages, in order, all or none; returns their numbers.
    ///
    /// # Errors
    /// Nothing was stored.
    fn append(&mut self, entries: &[Entry<'_>], safety: Safety) -> Result<Range<u64>, LogError>;
    /// Sees whether a message of so many bytes would be stored now: does what comes before, and writes a stamp.
    ///
    /// # Errors
    /// Why it would not.
    fn probe(&mut self, bytes: usize, clocks: &Clocks) -> Result<(), LogError>;
    /// Adds the messages of a queue behind `after` that are not settled to `into`, until they take `max_bytes` or there are none; at
    /// least one. Times to live are the caller's to judge.
    ///
    /// # Errors
    /// The disk cannot be read now. What was read before stands in `into`.
    fn read(
        &mut self,
        endpoint: EndpointId,
        priority: u8,
        after: Option<u64>,
        max_bytes: usize,
        into: &mut Vec<Stored>,
    ) -> Result<(), LogError>;
    /// Notes that a message is done for its endpoint; goes to the disk with the next write. False: it was.
    fn settle(&mut self, place: Place, how: How) -> bool;
    /// Notes that a message is about to be delivered for the n-th time; goes to the disk with the next write.
    fn attempt(&mut self, place: Place, attempts: u32);
    /// Makes a message a dead letter. The former is settled on the disk by the first [`MessageLog::flush`] from then on, which makes the letter
    /// safe before.
    ///
    /// # Errors
    /// It is not there, or cannot be stored; then it stays where it is.
    fn bury(&mut self, place: Place, reason: &str, at: UtcMillis) -> Result<u64, LogError>;
    /// Makes dead letters of some messages of an endpoint that is gone, and counts them in `removed`. False: it was the last of them.
    ///
    /// # Errors
    /// What is not a dead letter yet stays where it is, and the call may be made again. What was done before is counted.
    fn remove_endpoint(
        &mut self,
        endpoint: EndpointId,
        reason: &str,
        at: UtcMillis,
        removed: &mut Removed,
    ) -> Result<bool, LogError>;
    /// Gives up what of a queue behind `after` has expired at `now`, as far as that can be told without reading it: single messages among others
    /// that live are the caller's to judge. `letters`: of those, the newest become dead letters, as many as are kept. What cannot be done now stays.
    /// None: nothing was given up.
    fn expire(
        &mut self,
        endpoint: EndpointId,
        priority: u8,
        after: Option<u64>,
        now: Elapsed,
        letters: Option<Letters<'_>>,
    ) -> Option<Expired>;
    /// The dead letters behind `after`, oldest first, until they take `max_bytes` or there are none; at least one.
    ///
    /// # Errors
    /// The disk cannot be read now.
    fn dead_letters(&mut self, after: Option<u64>, max_bytes: usize) -> Result<Vec<Stored>, LogError>;
    /// Sends a dead letter again: it is a new message for these, of the returned number, and a dead letter no more.
    ///
    /// # Errors
    /// There is none of this sequence, or it cannot be stored; then it stays a dead letter.
    fn replay(&mut self, sequence: u64, to: &[Reference]) -> Result<u64, LogError>;
    /// Forgets a dead letter. False: there is none of this sequence.
    fn purge(&mut self, sequence: u64) -> bool;
    /// Forgets all dead letters; returns how many.
    fn purge_all(&mut self) -> u64;
    /// Does one piece of housekeeping. True: there may be more to do.
    fn tidy(&mut self) -> bool;
    /// Writes what waits: settlements, attempts, a stamp.
    ///
    /// # Errors
    /// What the disk said; it waits on.
    fn flush(&mut self) -> Result<(), LogError>;
    /// Writes what waits and makes all safe from a loss of power.
    ///
    /// # Errors
    /// What the disk said; it waits on.
    fn sync(&mut self) -> Result<(), LogError>;
    /// Messages of a queue that were found lost since the last call: they are counted no more.
    fn take_lost(&mut self, endpoint: EndpointId, priority: u8) -> u64;
    /// Endpoints of which messages that were settled wait again since the last call: damage has taken the marks.
    fn take_revived(&mut self) -> Vec<EndpointId>;
    /// Damage that was found since the last call.
    fn take_damage(&mut self) -> Vec<Damage>;
}
