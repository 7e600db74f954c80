//! What goes in and out of the log.

use std::{
    io,
    path::{Path, PathBuf},
};

use marram_core::elapsed::Elapsed;
pub use marram_core::log::{
    Damage, Death, EndpointId, EndpointUsage, Entry, How, Loss, Place, QueueUsage, Reference, Safety, Stored,
};

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
    /// The disk does not answer. Nothing was changed by that.
    #[error("the disk cannot read the message log {}; see whether it is there and sound, and start again", .path.display())]
    Disk {
        /// What could not be read.
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
        let path = path.to_owned();
        match super::medium::bad_page(&source) {
            Some(_) => Self::Disk { path, source },
            None => Self::Io { path, source },
        }
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
