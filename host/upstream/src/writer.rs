//! The one owner of the journal's files: appends lines, rotates, syncs. Blocks on the disk, so it lives in a thread of its
//! own (`journal`); knows no future and no channel.

use std::{collections::VecDeque, fs::File, io, path::PathBuf, time::Instant};

use marram_core::ports::{Outgoing, UpstreamError};

use crate::{
    disk::{Disk, LogFile},
    files::{count_lines, file_name, numbered_files, whole_len},
    journal::{Settings, SyncPolicy},
    line,
};

/// Most that is written at once, unless one line is larger. Bounds the memory of a batch; a larger batch is taken in
/// parts. Larger gains nothing: one write call of this size costs far more than the call itself.
const MAX_WRITE_BYTES: usize = 256 * 1024;

pub(crate) struct Writer {
    disk: Box<dyn Disk>,
    settings: Settings,
    /// Oldest first; the last one is written to.
    files: VecDeque<(u64, PathBuf)>,
    last_number: u64,
    /// None before the first message, and when a rotation failed half-way.
    current: Option<Current>,
    unsynced: Unsynced,
    /// What a sync in the background met; told once, by the next flush.
    failed_sync: Option<String>,
}

struct Current {
    file: Box<dyn LogFile>,
    /// End of the last whole line.
    len: u64,
    /// There may be a part of a line after `len`.
    torn: bool,
}

/// What a loss of power would take.
#[derive(Default)]
struct Unsynced {
    bytes: u64,
    since: Option<Instant>,
    folder: bool,
}

impl Writer {
    /// Takes up the files of the folder; cuts a torn last line off.
    pub(crate) fn open(settings: Settings, mut disk: Box<dyn Disk>) -> io::Result<Self> {
        let files = VecDeque::from(numbered_files(&settings.folder)?);
        let mut current = None;
        if let Some((_, path)) = files.back() {
            let found = File::open(path)?;
            let (all, whole) = (found.metadata()?.len(), whole_len(&found, found.metadata()?.len())?);
            let mut file = disk.open(path)?;
            if whole < all {
                let path = path.display();
                tracing::warn!(%path, bytes = all - whole, "cutting off the unfinished end that a crash left in the journal");
                file.truncate(whole)?;
            }
            // A killed predecessor had written, not synced; now it is as if we had written it.
            file.sync()?;
            disk.sync_folder()?;
            current = Some(Current { file, len: whole, torn: false });
        }
        let last_number = files.back().map_or(0, |(number, _)| *number);
        Ok(Self { disk, settings, files, last_number, current, unsynced: Unsynced::default(), failed_sync: None })
    }

    /// Appends the first messages of a batch and returns how many; see [`marram_core::ports::Upstream::publish`].
    pub(crate) fn append(&mut self, batch: &[Outgoing], now: Instant) -> Result<usize, UpstreamError> {
        self.try_append(batch, now).map_err(|error| self.describe("write", &error))
    }

    /// When [`Writer::sync_in_background`] is due; none while there is nothing to sync.
    pub(crate) fn sync_due(&self) -> Option<Instant> {
        let since = self.unsynced.since?;
        match self.settings.sync {
            SyncPolicy::Window { bytes, .. } if self.unsynced.bytes >= bytes => Some(since),
            SyncPolicy::Window { interval, .. } => since.checked_add(interval),
            SyncPolicy::EachBatch | SyncPolicy::OnFlush => None,
        }
    }

    /// Syncs; a failure waits for the next flush, and is logged.
    pub(crate) fn sync_in_background(&mut self) {
        if let Err(error) = self.sync() {
            let error = self.describe("sync", &error).0;
            tracing::error!(%error, "the last messages of the journal may not survive a loss of power");
            self.failed_sync.get_or_insert(error);
        }
    }

    /// Makes all lines safe against loss of power. An earlier failure in the background is this one's error.
    pub(crate) fn flush(&mut self) -> Result<(), UpstreamError> {
        let done = self.sync().map_err(|error| self.describe("sync", &error));
        match self.failed_sync.take() {
            Some(earlier) => done.and(Err(UpstreamError(earlier))),
            None => done,
        }
    }

    fn try_append(&mut self, batch: &[Outgoing], now: Instant) -> io::Result<usize> {
        let lines = self.encode(batch)?;
        let current = self.current.as_mut().ok_or_else(|| io::Error::other("no file is open"))?;
        let len_before = current.len;
        let written = current.append(&lines);
        if current.len > len_before {
            self.unsynced.bytes += current.len - len_before;
            self.unsynced.since.get_or_insert(now);
        }
        if matches!(self.settings.sync, SyncPolicy::EachBatch) && written.is_ok() {
            self.sync()?; // after an error the lines stay and the messages come again: at least once
        }
        written
    }

    /// The lines that fit into the current file, at least one; opens the next file when that one does not fit.
    fn encode(&mut self, batch: &[Outgoing]) -> io::Result<Lines> {
        let mut lines = Lines::default();
        for outgoing in batch {
            let before = lines.bytes.len();
            line::append(&mut lines.bytes, outgoing)?;
            if before == 0 {
                self.make_room(lines.bytes.len() as u64)?;
            } else if lines.bytes.len() > MAX_WRITE_BYTES || !self.fits(lines.bytes.len() as u64) {
                lines.bytes.truncate(before);
                break;
            }
            lines.ends.push(lines.bytes.len());
        }
        Ok(lines)
    }

    fn fits(&self, bytes: u64) -> bool {
        self.current.as_ref().is_some_and(|current| current.len.saturating_add(bytes) <= self.settings.max_file_bytes)
    }

    /// A whole file in front, ready for a first line of this length. A line larger than a file gets a file of its own.
    fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        if let Some(current) = &mut self.current {
            current.repair()?;
            if current.len == 0 {
                return Ok(());
            }
        }
        if self.fits(bytes) { Ok(()) } else { self.rotate() }
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.unsynced.since.is_some() {
            self.sync_in_background(); // later syncs reach only the next file
        }
        self.current = None;
        self.delete_oldest()?;
        let number = self.last_number + 1;
        let path = self.settings.folder.join(file_name(number));
        let file = self.disk.open(&path)?;
        self.current = Some(Current { file, len: 0, torn: false });
        self.files.push_back((number, path));
        self.last_number = number;
        self.unsynced.folder = true;
        Ok(())
    }

    /// Before the next file is made, so that the limit holds at every moment and a full disk gets its space.
    fn delete_oldest(&mut self) -> io::Result<()> {
        while self.files.len() >= self.settings.max_files.max(1) {
            let Some((_, path)) = self.files.front() else { break };
            let messages = count_lines(path).unwrap_or(0);
            self.disk.remove(path)?;
            tracing::warn!(path = %path.display(), messages, "deleted the oldest file of the journal, the limit is reached");
            self.files.pop_front();
            self.unsynced.folder = true;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        // A file is not tried again after an error: the kernel reports it once and may have dropped the pages, so that a
        // second sync would only pretend.
        self.unsynced.bytes = 0;
        if let (Some(_), Some(current)) = (self.unsynced.since.take(), &mut self.current) {
            current.file.sync()?;
        }
        if self.unsynced.folder {
            self.disk.sync_folder()?;
            self.unsynced.folder = false;
        }
        Ok(())
    }

    fn describe(&self, what: &str, error: &io::Error) -> UpstreamError {
        let hint = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space on that file system",
            io::ErrorKind::ReadOnlyFilesystem => "; the file system is mounted read-only",
            _ => "",
        };
        UpstreamError(format!("cannot {what} the journal in {}: {error}{hint}", self.settings.folder.display()))
    }
}

/// Encoded lines and where each ends.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Current {
    /// Appends lines and returns how many are whole in the file, at least 1; what else was written is cut off again.
    fn append(&mut self, lines: &Lines) -> io::Result<usize> {
        let (written, error) = self.write_all(&lines.bytes);
        let whole = lines.ends.partition_point(|end| *end <= written);
        self.len += lines.ends[..whole].last().map_or(0, |end| *end as u64);
        let Some(error) = error else { return Ok(whole) };
        self.torn = true;
        if let Err(error) = self.repair() {
            tracing::warn!(%error, "cannot cut off an unfinished line of the journal yet; trying again before the next one");
        }
        if whole > 0 { Ok(whole) } else { Err(error) }
    }

    /// In one write call, when the system lets it.
    fn write_all(&mut self, bytes: &[u8]) -> (usize, Option<io::Error>) {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }

    fn repair(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.truncate(self.len)?;
            self.torn = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
