//! Open files of full segments, the few that were used last, and windows of bytes that were read ahead. Knows no record
//! beyond its frame.

use std::{io, sync::Arc};

use super::{
    disk::{Readable, SegmentFile, SegmentFolder},
    file_name,
    format::{Frame, HEAD_BYTES, Head, Kind},
    medium::{BadPages, PAGE, is_bad_medium, read_pages},
};

/// Open files of full segments. Eight serve as many queues that are read at different ages; devices allow few.
const MAX_OPEN: usize = 8;
/// Bytes that are read at once: some two hundred small messages. Whatever the number of queues, there are two such windows: with
/// one, queues that are read side by side at the place where it ends would read it again and again.
const WINDOW: usize = 64 << 10;

/// Names of sources in one segment, by number.
pub(super) type Names = Arc<Vec<Arc<str>>>;

#[derive(Default)]
pub(super) struct Files {
    /// Used last comes last.
    open: Vec<Open>,
    /// Used last comes first.
    windows: [Window; 2],
    pub(super) bad: BadPages,
}

struct Open {
    generation: u64,
    file: Arc<dyn SegmentFile>,
    sources: Option<Names>,
}

/// Bytes of one file.
pub(super) struct Window {
    generation: u64,
    start: u64,
    bytes: Vec<u8>,
    /// So many of the bytes are of the file.
    filled: usize,
    ahead: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self::of(u64::MAX)
    }
}

impl Files {
    fn entry(&mut self, folder: &dyn SegmentFolder, generation: u64) -> io::Result<&mut Open> {
        match self.open.iter().position(|open| open.generation == generation) {
            Some(place) => self.open[place..].rotate_left(1),
            None => {
                let file = folder.open(&file_name(generation))?;
                if self.open.len() >= MAX_OPEN {
                    self.open.remove(0);
                }
                self.open.push(Open { generation, file, sources: None });
            }
        }
        let last = self.open.len() - 1;
        Ok(&mut self.open[last])
    }

    pub(super) fn file(&mut self, folder: &dyn SegmentFolder, generation: u64) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(self.entry(folder, generation)?.file.clone())
    }

    /// The names that [`Files::keep_sources`] was given for this segment.
    pub(super) fn sources(&self, generation: u64) -> Option<Names> {
        self.open.iter().find(|open| open.generation == generation)?.sources.clone()
    }

    pub(super) fn keep_sources(
        &mut self,
        folder: &dyn SegmentFolder,
        generation: u64,
        names: &Names,
    ) -> io::Result<()> {
        self.entry(folder, generation)?.sources = Some(names.clone());
        Ok(())
    }

    /// The segment is gone, or its bytes have changed.
    pub(super) fn forget(&mut self, generation: u64) {
        self.open.retain(|open| open.generation != generation);
        self.bad.forget(generation);
        for window in &mut self.windows {
            if window.generation == generation {
                *window = Window::default();
            }
        }
    }

    /// A record whose payload is good; `None`: what is there is none. `end`: no byte behind it is read.
    pub(super) fn record(
        &mut self,
        file: &dyn Readable,
        generation: u64,
        frame: &Frame,
        at: u64,
        end: u64,
    ) -> io::Result<Option<(Kind, &[u8])>> {
        let has = |window: &Window| window.generation == generation && window.has(at, HEAD_BYTES);
        if !has(&self.windows[0]) {
            self.windows.swap(0, 1);
        }
        let window = &mut self.windows[0];
        if window.generation != generation {
            // Its memory serves on.
            let bytes = std::mem::take(&mut window.bytes);
            *window = Window { bytes, ..Window::of(generation) };
        }
        window.record(file, frame, at, end)
    }
}

impl Window {
    pub(super) fn of(generation: u64) -> Self {
        Self { generation, start: 0, bytes: Vec::new(), filled: 0, ahead: WINDOW }
    }

    /// For a single record: reads little ahead.
    pub(super) fn lean(generation: u64) -> Self {
        Self { ahead: 4 << 10, ..Self::of(generation) }
    }

    /// A record whose payload is good; `None`: what is there is none. `end`: no byte behind it is read.
    pub(super) fn record(
        &mut self,
        file: &dyn Readable,
        frame: &Frame,
        at: u64,
        end: u64,
    ) -> io::Result<Option<(Kind, &[u8])>> {
        let Head::Record { kind, total } = frame.head(self.get(file, at, HEAD_BYTES, end)?, at) else {
            return Ok(None);
        };
        let record = self.get(file, at, total, end)?;
        Ok(frame.payload(record, at).map(|payload| (kind, payload)))
    }

    /// `len` bytes at `at`, fewer only at `end` or at the end of the file.
    pub(super) fn get(&mut self, file: &dyn Readable, at: u64, len: usize, end: u64) -> io::Result<&[u8]> {
        let len = len.min(end.saturating_sub(at).try_into().unwrap_or(usize::MAX));
        if !self.has(at, len) {
            self.fill(file, at, len, end)?;
        }
        let from = (at - self.start) as usize;
        let to = (from + len).min(self.filled);
        Ok(&self.bytes[from..to])
    }

    fn has(&self, at: u64, len: usize) -> bool {
        at >= self.start && at + len as u64 <= self.start.saturating_add(self.filled as u64)
    }

    fn fill(&mut self, file: &dyn Readable, at: u64, len: usize, end: u64) -> io::Result<()> {
        let ahead = end.saturating_sub(at).min(self.ahead as u64) as usize;
        (self.start, self.filled) = (at, 0);
        if self.bytes.capacity() > WINDOW && len <= WINDOW {
            self.bytes.truncate(WINDOW); // of a large message
            self.bytes.shrink_to(WINDOW);
        }
        let wanted = len.max(ahead);
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
        let bytes = &mut self.bytes[..wanted];
        let read = match file.read_at(bytes, at) {
            // One bad page must not cost what stands before it: no further than what is asked for, and its page.
            Err(error) if is_bad_medium(&error) => {
                let asked = (at + len as u64).next_multiple_of(PAGE) - at;
                let asked = usize::try_from(asked).unwrap_or(wanted).min(wanted);
                read_pages(file, &mut bytes[..asked], at, |_, error, _| Err(error))
            }
            read => read,
        };
        self.filled = read?;
        Ok(())
    }
}
