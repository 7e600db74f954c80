//! One log file: where records end, and that they are safe. Knows nothing of what is in them.

use std::{io, sync::Arc};

use bytes::Bytes;

use super::record::{HEADER, Place, head};
use crate::log::disk::{SegmentFile, SegmentFolder};

/// Room that is set aside at once. The file's length changes only then: a sync of a longer file costs the flash four times
/// as much as one of the same length.
const CHUNK: u64 = 64 * 1024;

pub(super) struct LogFile {
    file: Arc<dyn SegmentFile>,
    end: u64,
    room: u64,
}

impl LogFile {
    /// A file without records, in place of any of that name.
    pub(super) fn create(folder: &dyn SegmentFolder, name: &str) -> io::Result<Self> {
        let file = folder.create(name, CHUNK)?;
        file.write_at(HEADER, 0)?;
        Ok(Self { file, end: HEADER.len() as u64, room: CHUNK })
    }

    /// A file of `room` bytes whose last record ends at `end`; what is behind it is forgotten.
    pub(super) fn open(file: Arc<dyn SegmentFile>, end: u64, room: u64) -> io::Result<Self> {
        let mut log = Self { file, end, room };
        if !log.is_zero_behind_end()? {
            log.file.set_len(end)?; // torn: its bytes must not be taken for a record some day
            log.file.sync()?;
            log.room = end;
        }
        Ok(log)
    }

    fn is_zero_behind_end(&self) -> io::Result<bool> {
        let (mut at, mut chunk) = (self.end, [0; 4096]);
        while at < self.room {
            match self.file.read_at(&mut chunk, at)? {
                0 => break,
                read if chunk[..read].iter().any(|byte| *byte != 0) => return Ok(false),
                read => at += read as u64,
            }
        }
        Ok(true)
    }

    /// Where the last record ends.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Adds a record; it is safe when this returns. Returns the place of the payload.
    pub(super) fn append(&mut self, payload: &[u8]) -> io::Result<u64> {
        let before = self.end;
        let at = self.append_unsynced(payload)?;
        if let Err(error) = self.sync() {
            self.end = before;
            self.take_back();
            return Err(error);
        }
        Ok(at)
    }

    /// Adds a record that is safe after the next [`LogFile::sync`].
    pub(super) fn append_unsynced(&mut self, payload: &[u8]) -> io::Result<u64> {
        let record = [&head(self.end, payload)[..], payload].concat();
        let end = self.end + record.len() as u64;
        if end > self.room {
            let room = end.next_multiple_of(CHUNK);
            self.file.set_len(room)?;
            self.room = room;
        }
        if let Err(error) = self.file.write_at(&record, self.end) {
            self.take_back();
            return Err(error);
        }
        let at = end - payload.len() as u64;
        self.end = end;
        Ok(at)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// The caller is told that the record at the end was not written: it should not be there after a restart either. Best effort.
    fn take_back(&self) {
        if let Err(error) = self.file.write_at(&[0; 4], self.end) {
            tracing::debug!(%error, "cannot take a failed write back");
        }
    }

    pub(super) fn read(&self, place: Place) -> io::Result<Bytes> {
        let mut bytes = vec![0; place.len];
        match self.file.read_at(&mut bytes, place.at)? {
            read if read == place.len => Ok(bytes.into()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// All bytes of a file.
pub(super) fn whole(file: &dyn SegmentFile) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let at = bytes.len();
        bytes.resize(at + CHUNK as usize, 0);
        let read = file.read_at(&mut bytes[at..], at as u64)?;
        if read < CHUNK as usize {
            bytes.truncate(at + read);
            return Ok(bytes);
        }
    }
}
