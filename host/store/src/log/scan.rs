//! Walks the records of a segment from its first to its last, and finds the way behind damaged ones.

use std::io;

use super::{
    disk::Readable,
    files::Window,
    format::{END_BYTES, Frame, HEAD_BYTES, HEADER_BYTES, Head, Kind},
};

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'w> {
    Record {
        kind: Kind,
        at: u64,
        total: usize,
        payload: &'w [u8],
    },
    /// Bytes that are no record though one follows. With its kind, if it is surely one record.
    Damaged {
        at: u64,
        bytes: u64,
        kind: Option<Kind>,
    },
    /// The mark at the end of data.
    End {
        at: u64,
    },
    /// No record, no mark, and nothing behind it.
    Torn {
        at: u64,
    },
}

/// A walk.
pub(super) struct Scanner<'f> {
    file: &'f dyn Readable,
    frame: Frame,
    at: u64,
    limit: u64,
    /// The records go up to the limit: a mark of the end before it is that of an earlier write.
    is_known: bool,
    window: Window,
}

enum At {
    Record(Kind, usize),
    /// Its head is good, its payload is not.
    BadPayload(Kind, usize),
    End,
    Bad,
}

impl<'f> Scanner<'f> {
    /// From the first record; nothing from `limit` on is read.
    pub(super) fn new(file: &'f dyn Readable, generation: u64, frame: Frame, limit: u64) -> Self {
        Self { file, frame, at: HEADER_BYTES as u64, limit, is_known: false, window: Window::of(generation) }
    }

    /// From the first record to the last, which ends there. In between may be blocks that a write did not reach.
    pub(super) fn up_to(file: &'f dyn Readable, generation: u64, frame: Frame, end: u64) -> Self {
        Self { is_known: true, ..Self::new(file, generation, frame, end) }
    }

    pub(super) fn next(&mut self) -> io::Result<Found<'_>> {
        let at = self.at;
        match self.look(at)? {
            At::Record(kind, total) => {
                self.at += total as u64;
                let record = self.window.get(self.file, at, total, self.limit)?;
                Ok(Found::Record { kind, at, total, payload: &record[HEAD_BYTES..] })
            }
            At::End if !self.is_known => Ok(Found::End { at }),
            At::BadPayload(kind, total) => {
                let next = at + total as u64;
                if next == self.limit || !matches!(self.look(next)?, At::Bad) {
                    self.at = next;
                    return Ok(Found::Damaged { at, bytes: total as u64, kind: Some(kind) });
                }
                self.search(at)
            }
            At::Bad | At::End => self.search(at),
        }
    }

    fn look(&mut self, at: u64) -> io::Result<At> {
        let head = self.frame.head(self.window.get(self.file, at, HEAD_BYTES, self.limit)?, at);
        let Head::Record { kind, total } = head else {
            return Ok(if head == Head::End { At::End } else { At::Bad });
        };
        if at + total as u64 > self.limit {
            return Ok(At::Bad);
        }
        let good = self.frame.payload(self.window.get(self.file, at, total, self.limit)?, at).is_some();
        Ok(if good { At::Record(kind, total) } else { At::BadPayload(kind, total) })
    }

    /// The next whole record behind `at`. An end mark is no proof: 16 bits meet by chance.
    fn search(&mut self, at: u64) -> io::Result<Found<'_>> {
        for place in at + 1..self.limit.saturating_sub(HEAD_BYTES as u64 - 1) {
            if let At::Record(..) = self.look(place)? {
                self.at = place;
                return Ok(Found::Damaged { at, bytes: place - at, kind: None });
            }
        }
        if at + END_BYTES as u64 > self.limit {
            return Ok(Found::End { at });
        }
        Ok(Found::Torn { at })
    }
}
