//! Files that are set aside: for the next segment, and for settlements when the disk is full.

use std::{io, sync::Arc};

use super::{AppendError, Log, disk::SegmentFile, file_name, segment::Segment, spare_name};

/// Spares that are kept for recycling. One is for settlements alone; the other is the next segment.
pub(super) const SPARES: usize = 2;

/// A file that is set aside.
pub(super) struct Spare {
    pub(super) name: String,
    pub(super) file: Arc<dyn SegmentFile>,
    pub(super) len: u64,
}

impl Log {
    pub(super) fn remove_file(&mut self, name: &str) {
        if let Err(error) = self.folder.remove(name) {
            tracing::warn!(%error, name, "cannot remove a file of the message log; the next start does");
        }
        self.names_dirty = true;
    }

    /// The file of a segment without messages becomes a spare, or goes.
    pub(super) fn set_aside(&mut self, segment: &Segment, file: Arc<dyn SegmentFile>) {
        let generation = segment.generation();
        self.files.forget(generation);
        let name = spare_name(generation);
        let wanted = self.wants_spare() && segment.len == self.options.segment_bytes && !segment.suspect;
        if wanted && self.folder.rename(&file_name(generation), &name).is_ok() {
            self.spares.push(Spare { name, file, len: segment.len });
            self.names_dirty = true;
        } else {
            self.remove_file(&file_name(generation));
        }
    }

    /// One at any price, a second within the cap.
    pub(super) fn wants_spare(&self) -> bool {
        let fits = self.disk_bytes() + self.options.segment_bytes <= self.options.max_bytes;
        self.spares.is_empty() || (self.spares.len() < SPARES && fits)
    }

    /// Has at least so many spares ready, within the cap.
    pub(super) fn ensure_spares(&mut self, count: usize) -> Result<(), AppendError> {
        while self.spares.len() < count {
            // One segment's room is left for copying.
            let within = self.disk_bytes() + 2 * self.options.segment_bytes <= self.options.max_bytes;
            let made = if within { self.make_spare().map_err(Some) } else { Err(None) };
            let Err(error) = made else { continue };
            if !self.reclaim_for_room() {
                return Err(match error {
                    None => AppendError::Full { max_bytes: self.options.max_bytes },
                    Some(error) => self.append_error(error),
                });
            }
        }
        Ok(())
    }

    pub(super) fn make_spare(&mut self) -> io::Result<()> {
        let (name, len) = (spare_name(self.next_generation), self.options.segment_bytes);
        self.next_generation += 1;
        let file = self.folder.create(&name, len)?;
        self.names_dirty = true;
        self.spares.push(Spare { name, file, len });
        Ok(())
    }
}
