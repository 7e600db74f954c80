//! What goes in and out of the log.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use marram_core::{elapsed::Elapsed, message::Accepted, time::UtcMillis};

/// Sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Bytes of a segment. Room comes back in such pieces; each takes some hundred bytes of memory a queue.
    pub segment_bytes: u64,
    /// Most bytes of all files together.
    pub max_bytes: u64,
    /// Most bytes of dead letters, about; the oldest go.
    pub dead_letter_bytes: u64,
}

impl Default for Options {
    /// 256 MiB: a day of 10 messages of 300 bytes a second.
    fn default() -> Self {
        Self { segment_bytes: 4 << 20, max_bytes: 256 << 20, dead_letter_bytes: 4 << 20 }
    }
}

impl Options {
    /// Sizes for a log of at most so many bytes: segments of 1 to 4 MiB.
    ///
    /// A cap below 8 MiB is taken for 8 MiB: less holds no more than one message of the largest kind beside what must stay free.
    #[must_use]
    pub fn within(max_bytes: u64) -> Self {
        let max_bytes = max_bytes.max(8 << 20);
        let segment_bytes = if max_bytes < 64 << 20 { 1 << 20 } else { 4 << 20 };
        Self { segment_bytes, max_bytes, dead_letter_bytes: (max_bytes / 16).min(4 << 20) }
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let Self { segment_bytes, max_bytes, .. } = self;
        if !(4 << 10..=8 << 20).contains(segment_bytes) {
            return Err(OpenError::Options(format!("a segment has 4 KiB to 8 MiB, not {segment_bytes} bytes")));
        }
        if *max_bytes < 5 * segment_bytes {
            return Err(OpenError::Options(format!(
                "the log needs room for 5 segments of {segment_bytes} bytes, not {max_bytes}"
            )));
        }
        Ok(())
    }
}

/// An endpoint's number in this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub(super) u32);

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub(super) const COUNT: usize = 4;
}

/// What the log takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all files.
    pub disk_bytes: u64,
    /// Most bytes of them.
    pub max_bytes: u64,
    /// Segments with messages, the one that is written included.
    pub segments: usize,
    /// Files that are set aside.
    pub spares: usize,
    /// Messages that wait, each counted once an endpoint.
    pub references: u64,
    pub(super) settled: [u64; How::COUNT],
}

impl Usage {
    /// Messages that were settled this way since the log was opened.
    #[must_use]
    pub fn settled(&self, how: How) -> u64 {
        self.settled[how as usize]
    }
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

/// What an opening found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Messages that wait, each counted once an endpoint.
    pub references: u64,
    /// Where a last write broke off. Nothing that was synced is lost by it.
    pub torn: Vec<Torn>,
    /// What was found damaged, and what was lost by it.
    pub damage: Vec<Damage>,
    /// Now, in the log's elapsed time.
    pub elapsed: Elapsed,
}

/// The end of a write that broke off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment's file.
    pub path: PathBuf,
    /// Where in it.
    pub at: u64,
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

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or the folder.
    #[error("cannot open the message log {}; it must be readable and writable by this user", .path.display())]
    Io {
        /// What could not be used.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Written by a version after this one.
    #[error(
        "the message log {} is of version {version}, this host knows {}; run the newer host, or move the folder away to begin \
         anew without its messages",
        .path.display(), super::format::VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u16,
    },
    /// The sizes do not fit together.
    #[error("the sizes of the message log cannot be used: {0}")]
    Options(String),
}

impl OpenError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The log has reached its cap and nothing can be freed. Room comes with settlements.
    #[error("the message log holds as much as it may ({max_bytes} bytes)")]
    Full {
        /// The cap.
        max_bytes: u64,
    },
    /// The file system has no room. The next append tries again.
    #[error("the file system of the message log is full; free some space on it")]
    DiskFull(#[source] io::Error),
    /// It fits no segment.
    #[error("a message of {bytes} bytes fits no segment of the message log; the most is {most}")]
    TooLarge {
        /// What it takes.
        bytes: usize,
        /// What a segment takes.
        most: usize,
    },
    /// A message must be for somebody, once each, and priorities end at 10.
    #[error("a message's references are no list of different known endpoints with priorities to 10")]
    References,
    /// The disk failed. Nothing counts as stored.
    #[error("cannot write the message log {}", .path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
