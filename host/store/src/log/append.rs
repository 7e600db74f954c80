//! Messages in: a batch is encoded, written with one call, and noted in memory only when it is on the disk.

use std::{io, ops::Range};

use marram_core::elapsed::Clocks;

use super::{
    AppendError, Entry, How, Key, Log, Reference, Safety,
    format::{HEAD_BYTES, Kind},
    record::{message_bound, put_message, put_names},
    rotate::Active,
};

/// A record that stands in the buffer.
struct Staged {
    sequence: u64,
    at: u64,
    bytes: usize,
}

/// Names of sources and endpoints stand twice, each with its number and head.
const NAME_BYTES: usize = 2 * (HEAD_BYTES + 8);

/// What the name of a new endpoint takes at most.
fn name_bytes(name: &str) -> usize {
    2 * name.len() + NAME_BYTES
}

/// What a message of a few endpoints takes beside its own bytes.
const PROBE_BYTES: usize = 512;

impl Log {
    /// Stores messages, in order: all or none. With [`Safety::Synced`] they survive a loss of power when this returns. Returns their
    /// sequences.
    ///
    /// # Errors
    /// Nothing was stored, and what was stored before is as safe as it was. Where the disk failed amid the write or the
    /// sync, messages of the batch may still be found after a crash.
    pub fn append(&mut self, entries: &[Entry<'_>], safety: Safety) -> Result<Range<u64>, AppendError> {
        let mut done = self.next_sequence..self.next_sequence;
        let stored = self.append_all(entries, None, &mut done);
        let safe = stored.and_then(|()| match safety {
            Safety::Synced => self.make_safe(done.start).map_err(|error| self.append_error(error)),
            Safety::Written => Ok(()),
        });
        if safe.is_err() {
            self.void(entries, &done);
        }
        safe.map(|()| done)
    }

    /// Sees whether a message of so many bytes would be stored now: makes the room that it would take, and writes a stamp.
    ///
    /// # Errors
    /// Why it would not.
    pub fn probe(&mut self, bytes: usize, clocks: &Clocks) -> Result<(), AppendError> {
        self.make_room(bytes + PROBE_BYTES)?;
        self.stamp(clocks);
        self.write_waiting().map_err(|error| self.append_error(error))
    }

    /// Stores messages unsynced; `done` tells of those that are noted, also after an error.
    pub(super) fn append_all(
        &mut self,
        entries: &[Entry<'_>],
        death: Option<&super::Death>,
        done: &mut Range<u64>,
    ) -> Result<(), AppendError> {
        let bounds = entries.iter().map(|entry| self.check(entry, death)).collect::<Result<Vec<_>, _>>()?;
        self.make_room(bounds.iter().sum())?;
        let mut rest = 0;
        while rest < entries.len() {
            let count = self.append_part(&entries[rest..], &bounds[rest..], death)?;
            rest += count;
            done.end = self.next_sequence;
            if count == 0 {
                self.ensure_spares(2)?;
                self.rotate().map_err(|error| self.append_error(error))?;
                self.tidy_between();
            }
        }
        Ok(())
    }

    /// What a message takes at most.
    fn check(&self, entry: &Entry<'_>, death: Option<&super::Death>) -> Result<usize, AppendError> {
        let known = |reference: &Reference| {
            reference.priority <= 10 && self.endpoints.names.contains_key(&reference.endpoint.0)
        };
        let once = |n: usize, reference: &Reference| {
            entry.references[..n].iter().all(|other| other.endpoint != reference.endpoint)
        };
        let good = entry.references.iter().enumerate().all(|(n, reference)| known(reference) && once(n, reference));
        if entry.references.is_empty() || !good {
            return Err(AppendError::References);
        }
        let names = entry.references.iter().filter_map(|reference| self.endpoints.names.get(&reference.endpoint.0));
        let names = names.map(|name| name_bytes(name)).sum::<usize>();
        // Its index, and in the worst case a queue and a source of its own in the footer.
        let bytes = HEAD_BYTES
            + message_bound(entry.message, entry.references.len(), death)
            + entry.references.len() * 112
            + entry.message.source.len() * 3
            + 2 * NAME_BYTES;
        let most = (self.options.segment_bytes / 2) as usize;
        if bytes + names > most {
            return Err(AppendError::TooLarge { bytes, most });
        }
        Ok(bytes)
    }

    /// Whether to store messages of so many bytes, all told, is one write into a file that is there.
    #[must_use]
    pub fn has_room_at_hand(&self, bytes: usize) -> bool {
        let needed = bytes + self.pending.bound_bytes() + self.new_name_bytes();
        !self.pending.incomplete
            && self.strays.is_empty()
            && !self.spares.is_empty()
            && self.active.as_ref().is_some_and(|it| it.room() >= needed)
    }

    /// Sees to it that so many bytes can be written, and a spare is left for settlements.
    fn make_room(&mut self, bytes: usize) -> Result<(), AppendError> {
        self.clear_strays().map_err(|error| self.append_error(error))?;
        let needed = bytes + self.pending.bound_bytes() + self.new_name_bytes();
        if self.active.as_ref().is_some_and(|active| active.room() >= needed) && !self.pending.incomplete {
            return self.ensure_spares(1);
        }
        // A segment takes messages for half of its bytes at least: checkpoint and index have the rest, and one message that does
        // not fit any more.
        let segments = needed.div_ceil((self.options.segment_bytes / 2) as usize);
        self.ensure_spares(segments + 1)?;
        if self.active.is_none() || self.pending.incomplete {
            self.rotate().map_err(|error| self.append_error(error))?;
        }
        Ok(())
    }

    fn new_name_bytes(&self) -> usize {
        let names = self.endpoints.new.iter().filter_map(|number| self.endpoints.names.get(number));
        names.map(|name| name_bytes(name)).sum()
    }

    /// Writes as many messages as fit into the segment; returns how many.
    fn append_part(
        &mut self,
        entries: &[Entry<'_>],
        bounds: &[usize],
        death: Option<&super::Death>,
    ) -> Result<usize, AppendError> {
        let fixed = self.pending.bound_bytes() + self.new_name_bytes();
        let mut room = self.active.as_ref().map_or(0, Active::room).saturating_sub(fixed);
        let mut count = 0;
        while let Some(left) = bounds.get(count).and_then(|bound| room.checked_sub(*bound)) {
            (room, count) = (left, count + 1);
        }
        if count == 0 {
            return Ok(0);
        }
        let entries = &entries[..count];
        let (mut buffer, most) = (self.take_buffer(), self.active.as_ref().map_or(0, Active::room));
        let staged = self.stage(entries, death, &mut buffer);
        debug_assert!(buffer.len() <= most, "{} bytes where {most} are free", buffer.len());
        let Some(active) = &mut self.active else { return Ok(0) };
        let written = active.write(&mut buffer);
        if written.is_ok() {
            for (staged, entry) in staged.iter().zip(entries) {
                active.segment.add(staged.sequence, staged.at, staged.bytes, entry.references);
            }
        } else {
            active.take_back_sources();
        }
        self.buffer = buffer;
        // Also after an error: what may be left of the write must not share its numbers with what comes.
        self.next_sequence += count as u64;
        written.map_err(|error| self.append_error(error))?;
        self.pending = super::Pending::default();
        self.endpoints.new.clear();
        for reference in entries.iter().flat_map(|entry| entry.references) {
            self.queues.entry(reference.endpoint.key(reference.priority)).or_default().len += 1;
        }
        Ok(count)
    }

    /// Encodes what waits and these messages.
    fn stage(&mut self, entries: &[Entry<'_>], death: Option<&super::Death>, buffer: &mut Vec<u8>) -> Vec<Staged> {
        self.put_waiting(buffer);
        let first = self.next_sequence;
        let Some(active) = &mut self.active else { return Vec::new() };
        let (start, base) = (active.segment.data_end, active.base());
        let sources: Vec<Option<u32>> = entries.iter().map(|entry| active.source(&entry.message.source)).collect();
        active.put_sources(buffer);
        let mut staged = Vec::with_capacity(entries.len());
        for ((entry, source), sequence) in entries.iter().zip(sources).zip(first..) {
            let at = start + buffer.len() as u64;
            let bytes = active.frame.push(buffer, start, Kind::Message, |out| {
                put_message(out, base, sequence, entry.message, source, entry.references, death);
            });
            staged.push(Staged { sequence, at, bytes });
        }
        staged
    }

    /// Encodes new names of endpoints, twice, and what waits.
    fn put_waiting(&mut self, buffer: &mut Vec<u8>) {
        let Some(active) = &self.active else { return };
        let start = active.segment.data_end;
        if !self.endpoints.new.is_empty() {
            let names = &self.endpoints.names;
            let new = || self.endpoints.new.iter().filter_map(|number| Some((*number, &**names.get(number)?)));
            for _ in 0..2 {
                active.frame.push(buffer, start, Kind::Endpoints, |out| put_names(out, new()));
            }
        }
        self.pending.put(buffer, start, &active.frame, active.base(), &self.stamp);
    }

    /// Takes back what was noted of a batch that failed.
    fn void(&mut self, entries: &[Entry<'_>], done: &Range<u64>) {
        for (entry, sequence) in entries.iter().zip(done.clone()) {
            for reference in entry.references {
                let key: Key = reference.endpoint.key(reference.priority);
                self.settle_at(key, sequence, None::<How>);
            }
        }
        // So that they do not come to light after a kill; on a disk that fails they may.
        if !done.is_empty()
            && let Err(error) = self.flush()
        {
            tracing::debug!(%error, "a batch that failed may be found after a crash");
        }
        self.give_room_back();
    }

    /// Writes what waits: settlements, attempts, a stamp. Not synced. When it cannot be written it waits on; a message whose
    /// settlement is lost comes again. Dead letters are synced before what they were made of is settled on the disk.
    ///
    /// # Errors
    /// What the disk said; also while it does not keep a dead letter, whose original is not settled on the disk then. Nothing is lost for the
    /// callers of this process.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write_waiting()?;
        if !self.held.is_empty() {
            // They are in a segment that the disk did not keep: copies of them are safe.
            self.copy_suspects();
            self.write_waiting()?;
        }
        if self.held.is_empty() {
            return Ok(());
        }
        Err(io::Error::other("dead letters that the disk did not keep cannot be copied yet"))
    }

    /// The same, and what dead letters were made of may wait on.
    pub(super) fn write_waiting(&mut self) -> io::Result<()> {
        let is_new = self.active.is_none() && self.segments.is_empty() && self.obsolete.is_empty();
        if (self.pending.is_empty() && self.held.is_empty()) || is_new {
            return Ok(());
        }
        if !self.held.is_empty() {
            self.sync_file()?;
        }
        let flushed = self.try_flush();
        if flushed.is_err() {
            self.pending.bound();
        }
        flushed
    }

    fn try_flush(&mut self) -> io::Result<()> {
        self.clear_strays()?;
        let needed = self.pending.bound_bytes() + self.new_name_bytes();
        if self.pending.incomplete || self.active.as_ref().is_none_or(|active| active.room() < needed) {
            if self.spares.is_empty() && self.disk_bytes() + self.options.segment_bytes <= self.options.max_bytes {
                self.make_spare()?;
            }
            return self.rotate(); // its checkpoint says all that waits
        }
        let mut buffer = self.take_buffer();
        self.put_waiting(&mut buffer);
        let Some(active) = &mut self.active else { return Ok(()) };
        debug_assert!(buffer.len() <= active.room(), "{} bytes where {} are free", buffer.len(), active.room());
        let written = active.write(&mut buffer);
        self.buffer = buffer;
        written?;
        self.pending = super::Pending::default();
        self.endpoints.new.clear();
        Ok(())
    }
}
