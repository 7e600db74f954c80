//! Segments begin and end here: spare files, the checkpoint of a new one, the footer of a full one, and what happens when the disk
//! does not take what was written.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    AppendError, Log,
    disk::SegmentFile,
    file_name,
    format::{Base, END_BYTES, Frame, HEADER_BYTES, Header, Kind, Origin, TAIL_BYTES, TRAILER_BYTES, Trailer},
    record::put_names,
    segment::{IndexAt, Segment, Sources},
    spares::Spare,
};

/// Sources of a segment that have a number; the names of further ones stand in each record. They take 20 KiB of memory.
pub(super) const MAX_SOURCES: usize = 256;
/// What stays of a buffer between two writes.
const KEEP_BUFFER: usize = 256 << 10;

/// The segment that is written.
pub(super) struct Active {
    pub(super) segment: Segment,
    pub(super) file: Arc<dyn SegmentFile>,
    pub(super) frame: Frame,
    /// Something was written since the last sync.
    pub(super) dirty: bool,
    /// Behind the end may be what a failed write left: nothing more is written here.
    pub(super) spoiled: bool,
    /// Nothing more is written here, for another reason.
    pub(super) closed: bool,
    sources: BTreeMap<Arc<str>, u32>,
    /// Of these sources the names are on the disk.
    written_sources: usize,
}

impl Active {
    pub(super) fn new(segment: Segment, file: Arc<dyn SegmentFile>) -> Self {
        let names = match &segment.sources {
            Sources::Memory(names) => names.clone(),
            Sources::Disk(_) => Arc::default(),
        };
        let sources: BTreeMap<Arc<str>, u32> = names.iter().cloned().zip(0..).collect();
        let (frame, written_sources) = (segment.header.frame(), names.len());
        Self { segment, file, frame, dirty: false, spoiled: false, closed: false, sources, written_sources }
    }

    pub(super) fn base(&self) -> Base {
        self.segment.header.base
    }

    /// Bytes that records may still take.
    pub(super) fn room(&self) -> usize {
        if self.spoiled || self.closed {
            return 0;
        }
        let taken = self.segment.data_end + self.segment.footer_bound() + (TAIL_BYTES + END_BYTES) as u64;
        self.segment.len.saturating_sub(taken) as usize
    }

    /// The number of a source; a new one is noted, its name is yet to be written.
    pub(super) fn source(&mut self, name: &Arc<str>) -> Option<u32> {
        if let Some(number) = self.sources.get(name) {
            return Some(*number);
        }
        let Sources::Memory(names) = &self.segment.sources else { return None };
        if names.len() >= MAX_SOURCES {
            return None;
        }
        if name.is_empty() {
            return None; // stands for one that was lost
        }
        let number = self.segment.add_source(name)?;
        self.sources.insert(name.clone(), number);
        Some(number)
    }

    /// Puts the names of new sources before the records that need them, twice: without one, several messages would be lost.
    pub(super) fn put_sources(&mut self, buffer: &mut Vec<u8>) {
        let Sources::Memory(names) = &self.segment.sources else { return };
        if names.len() == self.written_sources {
            return;
        }
        let new = || names.iter().enumerate().skip(self.written_sources).map(|(number, name)| (number as u32, &**name));
        for _ in 0..2 {
            self.frame.push(buffer, self.segment.data_end, Kind::Sources, |out| put_names(out, new()));
        }
    }

    /// Forgets sources whose names were not written.
    pub(super) fn take_back_sources(&mut self) {
        let Sources::Memory(names) = &self.segment.sources else { return };
        for name in names.iter().skip(self.written_sources) {
            self.sources.remove(name);
        }
        self.segment.take_back_sources(self.written_sources);
    }

    /// Writes records behind the last one, with the mark of the end. After an error nothing of them counts.
    pub(super) fn write(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let (at, len) = (self.segment.data_end, buffer.len());
        buffer.extend_from_slice(&self.frame.end(at + len as u64));
        if let Err(error) = self.file.write_at(buffer, at) {
            // Records of it may be there: they must not come to light when the next write stands before them.
            buffer.fill(0);
            buffer[..END_BYTES].copy_from_slice(&self.frame.end(at));
            self.spoiled = self.file.write_at(buffer, at).is_err();
            return Err(error);
        }
        self.segment.data_end += len as u64;
        self.dirty = true;
        if let Sources::Memory(names) = &self.segment.sources {
            self.written_sources = names.len();
        }
        Ok(())
    }
}

impl Log {
    /// Begins the next segment, with a checkpoint that is safe when this returns, and ends the one before. Takes a spare; the
    /// caller has seen to it. After an error the segment before is still written.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        self.begin_next()?;
        self.copy_suspects();
        Ok(())
    }

    /// The same, and suspects stay.
    pub(super) fn begin_next(&mut self) -> io::Result<()> {
        let spare = self.spares.pop().ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
        // The checkpoint says what is settled: what that has become must be safe before.
        if self.active.as_mut().is_some_and(|active| active.dirty && active.file.sync().is_err()) {
            self.lay_active_aside();
        }
        let next = self.begin(&spare).inspect_err(|_| {
            // Whatever the file holds now, it has no messages.
            let _ = self.folder.remove(&spare.name);
        })?;
        (self.pending, self.held) = Default::default();
        self.unsaid_copies.clear();
        self.endpoints.new.clear();
        if let Some(old) = self.active.replace(next) {
            self.seal(old);
        }
        for (generation, _) in std::mem::take(&mut self.obsolete) {
            self.files.forget(generation);
            self.remove_file(&file_name(generation));
        }
        Ok(())
    }

    fn begin(&mut self, spare: &Spare) -> io::Result<Active> {
        let generation = self.next_generation;
        self.next_generation += 1;
        let header = self.header(generation, Origin::Stream, self.next_sequence);
        let frame = header.frame();
        let mut buffer = header.encode().to_vec();
        self.put_checkpoint(&mut buffer, &frame, header.base);
        let data_end = buffer.len() as u64;
        buffer.extend_from_slice(&frame.end(data_end));
        self.sync_names_if_dirty()?;
        spare.file.write_at(&buffer, 0)?;
        spare.file.write_at(&tail(&header), spare.len - TAIL_BYTES as u64)?;
        spare.file.sync()?;
        self.name(spare, generation)?;
        Ok(Active::new(Segment::new(header, spare.len, data_end), spare.file.clone()))
    }

    pub(super) fn header(&self, generation: u64, origin: Origin, sequence: u64) -> Header {
        let base = Base { sequence, elapsed: self.stamp.elapsed.0, utc: self.stamp.clocks.utc.0 };
        Header { salt: self.salt, generation, origin, base }
    }

    /// A spare becomes a segment: from here on an opening sees it. After an error it may do so as well, until [`Log::clear_strays`]
    /// has succeeded.
    pub(super) fn name(&mut self, spare: &Spare, generation: u64) -> io::Result<()> {
        self.clear_strays()?;
        let name = file_name(generation);
        let named = self.folder.rename(&spare.name, &name).and_then(|()| self.folder.sync_names());
        named.inspect_err(|_| {
            self.strays.push(name);
            let _ = self.clear_strays();
        })
    }

    /// Removes what must never be seen by an opening: a checkpoint that is newer than what is written on, or a copy of what is still in
    /// use. Before each write, which the next opening might not see otherwise.
    pub(super) fn clear_strays(&mut self) -> io::Result<()> {
        if self.strays.is_empty() {
            return Ok(());
        }
        for name in &self.strays {
            self.folder.remove(name)?;
        }
        // A loss of power must not bring one back either.
        self.folder.sync_names()?;
        self.strays.clear();
        Ok(())
    }

    pub(super) fn sync_names_if_dirty(&mut self) -> io::Result<()> {
        if self.names_dirty {
            // Otherwise a loss of power could bring back the former name over the new content.
            self.folder.sync_names()?;
            self.names_dirty = false;
        }
        Ok(())
    }

    /// Ends a segment. One without messages left gives its room back; the checkpoint after it is safe.
    fn seal(&mut self, active: Active) {
        let Active { mut segment, file, frame, spoiled, .. } = active;
        if segment.live == 0 {
            self.set_aside(&segment, file);
            return;
        }
        let written =
            if spoiled { Err(io::ErrorKind::Other.into()) } else { write_footer(&mut segment, &*file, &frame) };
        match written {
            Ok(indexes) => {
                for (queue, at) in segment.queues.iter_mut().zip(indexes) {
                    queue.index = IndexAt::Disk(at);
                }
            }
            Err(error) => {
                tracing::error!(%error, segment = segment.generation(), "the disk does not keep what was written to a segment of the \
                                message log; its messages are copied");
                (segment.suspect, segment.unsafe_on_disk) = (true, true);
            }
        }
        // Walks over it go on in its index on the disk.
        self.keep(segment);
    }

    /// Notes a full segment with messages left.
    pub(super) fn keep(&mut self, segment: Segment) {
        let place = self.segments.partition_point(|other| other.first < segment.first);
        self.segments.insert(place, segment);
    }

    /// Makes everything safe that was written. After an error the segment is given up where it was last safe: its messages are
    /// copied, and the next write begins a new one. The same bytes are never synced again: the kernel has dropped them.
    ///
    /// # Errors
    /// What the disk said; also if messages that it has refused to keep earlier cannot be copied yet.
    pub fn sync(&mut self) -> io::Result<()> {
        let flushed = self.flush();
        self.make_safe(0)?;
        flushed
    }

    /// The same for messages from this sequence on.
    pub(super) fn make_safe(&mut self, from: u64) -> io::Result<()> {
        self.sync_active()?;
        if self.is_any_unsafe(from) {
            self.copy_suspects();
        }
        if self.is_any_unsafe(from) {
            return Err(io::Error::other("messages that the disk did not keep cannot be copied yet"));
        }
        Ok(())
    }

    /// Whether the disk does not keep a message of a full segment, from this sequence on.
    fn is_any_unsafe(&self, from: u64) -> bool {
        self.segments.iter().any(|segment| segment.unsafe_on_disk && segment.last >= from)
    }

    /// The same for the segment that is written alone.
    pub(super) fn sync_active(&mut self) -> io::Result<()> {
        self.write_waiting()?;
        let is_dirty = self.active.as_ref().is_some_and(|active| active.dirty);
        self.sync_file()?;
        if is_dirty {
            self.unsaid_copies.clear();
        }
        Ok(())
    }

    /// The same, and nothing is written before.
    pub(super) fn sync_file(&mut self) -> io::Result<()> {
        let synced = match self.active.as_mut().filter(|active| active.dirty) {
            Some(active) => active.file.sync().inspect(|()| active.dirty = false),
            None => Ok(()),
        };
        match synced {
            Ok(()) => {
                if !self.is_any_unsafe(0) {
                    self.pending.take(&mut self.held);
                }
                Ok(())
            }
            Err(error) => {
                self.give_up_active();
                Err(error)
            }
        }
    }

    fn give_up_active(&mut self) {
        self.lay_active_aside();
        self.copy_suspects();
    }

    /// The disk has refused to keep what was written last: its messages are to be copied.
    fn lay_active_aside(&mut self) {
        let Some(Active { mut segment, .. }) = self.active.take() else { return };
        if segment.live > 0 {
            (segment.suspect, segment.unsafe_on_disk) = (true, true);
            self.keep(segment);
        } else {
            // What it says is settled is not safe: only a checkpoint can tell it again.
            self.pending.incomplete = true;
            self.obsolete.push((segment.generation(), segment.len));
        }
    }

    pub(super) fn append_error(&self, source: io::Error) -> AppendError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::DiskFull(source),
            _ => AppendError::Io { path: self.path.clone(), source },
        }
    }

    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.shrink_to(KEEP_BUFFER);
        buffer
    }
}

/// The last bytes of a segment that is not full yet.
pub(super) fn tail(header: &Header) -> [u8; TAIL_BYTES] {
    let mut tail = [0; TAIL_BYTES];
    tail[..HEADER_BYTES].copy_from_slice(&header.encode());
    tail
}

/// Writes index, names and summary behind the records, and syncs. Returns the places of the indexes.
pub(super) fn write_footer(segment: &mut Segment, file: &dyn SegmentFile, frame: &Frame) -> io::Result<Vec<u32>> {
    let start = segment.data_end;
    let (mut buffer, mut indexes) = (Vec::new(), Vec::new());
    for queue in &segment.queues {
        indexes.push((start + buffer.len() as u64) as u32);
        let bytes = queue.in_memory().unwrap_or_default();
        frame.push(&mut buffer, start, Kind::Index, |out| out.extend_from_slice(bytes));
    }
    let mut sources_at = 0;
    if let Sources::Memory(names) = &segment.sources
        && !names.is_empty()
    {
        sources_at = (start + buffer.len() as u64) as u32;
        let names = names.iter().enumerate().map(|(number, name)| (number as u32, &**name));
        frame.push(&mut buffer, start, Kind::Sources, |out| put_names(out, names));
    }
    let summary_at = (start + buffer.len() as u64) as u32;
    let summary = segment.summary(sources_at, |n| indexes[n]);
    frame.push(&mut buffer, start, Kind::Summary, |out| summary.put(out, segment.header.base));
    buffer.extend_from_slice(&frame.end(start + buffer.len() as u64));
    file.write_at(&buffer, start)?;
    let trailer = frame.trailer(Trailer { summary_at, data_end: start as u32 });
    file.write_at(&trailer, segment.len - TRAILER_BYTES as u64)?;
    file.sync()?;
    segment.sources = Sources::Disk(sources_at);
    Ok(indexes)
}
