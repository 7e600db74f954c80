//! How a segment looks on disk: its header, its tail, and the frame around each record. Pure: no file is touched here.
//!
//! ```text
//! header   64 bytes: "marram log" | version u16 | crc of these | salt u64 | generation u64 | base sequence u64
//!          | base elapsed u64 | base utc u64 | kind u8 | 0 0 0 | crc of bytes 16 to 60
//! records  word u32 (length of the payload, 24 bits; kind, 8 bits) | check u16 | crc u32 | payload
//! end      the word 0 and its check, behind the last record; the next record is written over it
//! …
//! tail     80 bytes at the end of the file: the header again | place of the summary u32 | end of data u32 | 0 u32 | crc u32;
//!          these 16 are zeros until the segment is sealed
//! ```
//!
//! All numbers are little-endian. `check` and `crc` begin with the salt (of the start that wrote the segment), the segment's generation, the record's place and
//! its word, so a record counts only where and when it was written: neither the former content of a recycled file nor bytes that a module
//! put into a body can pass for one. `check` protects the length: behind a damaged payload the next record is found at once.

use crc32fast::Hasher;

/// What this version writes and reads.
pub(super) const VERSION: u16 = 1;
const MAGIC: &[u8; 10] = b"marram log";

pub(super) const HEADER_BYTES: usize = 64;
/// Header and trailer at the end of a file.
pub(super) const TAIL_BYTES: usize = HEADER_BYTES + TRAILER_BYTES;
pub(super) const TRAILER_BYTES: usize = 16;
/// Word, check and crc before a payload.
pub(super) const HEAD_BYTES: usize = 10;
/// Word and check behind the last record.
pub(super) const END_BYTES: usize = 6;
/// No payload is longer: the largest message with a thousand receivers is half of it, the index of one queue over a segment of
/// 8 MiB a quarter.
pub(super) const MAX_PAYLOAD: usize = 2 << 20;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Message = 1,
    Settled = 2,
    Attempts = 3,
    Endpoints = 4,
    Sources = 5,
    Checkpoint = 6,
    CheckpointEnd = 7,
    Stamp = 8,
    Index = 9,
    Summary = 10,
    Replaces = 11,
    Freed = 12,
    Copied = 13,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::{
            Attempts, Checkpoint, CheckpointEnd, Copied, Endpoints, Freed, Index, Message, Replaces, Settled, Sources,
            Stamp, Summary,
        };
        let all = [
            Message,
            Settled,
            Attempts,
            Endpoints,
            Sources,
            Checkpoint,
            CheckpointEnd,
            Stamp,
            Index,
            Summary,
            Replaces,
            Freed,
            Copied,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// How a segment came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Written as messages came: part of the stream of settlements and checkpoints.
    Stream,
    /// Made of what was left of others; begins with a record that names them.
    Compact,
}

/// The head of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) salt: u64,
    pub(super) generation: u64,
    pub(super) origin: Origin,
    pub(super) base: Base,
}

/// What records of a segment count from, so that their numbers are short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Base {
    pub(super) sequence: u64,
    pub(super) elapsed: u64,
    pub(super) utc: u64,
}

/// Why bytes are no header of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// Of a version that we do not know.
    Newer(u16),
    Damaged,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..10].copy_from_slice(MAGIC);
        bytes[10..12].copy_from_slice(&VERSION.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let Base { sequence, elapsed, utc } = self.base;
        for (slot, value) in [self.salt, self.generation, sequence, elapsed, utc].into_iter().enumerate() {
            bytes[16 + 8 * slot..24 + 8 * slot].copy_from_slice(&value.to_le_bytes());
        }
        bytes[56] = self.origin as u8;
        let crc = crc32fast::hash(&bytes[16..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let bytes: &[u8; HEADER_BYTES] = bytes.try_into().map_err(|_| BadHeader::Damaged)?;
        if &bytes[..10] != MAGIC || u32_at(bytes, 12) != crc32fast::hash(&bytes[..12]) {
            return Err(BadHeader::Damaged);
        }
        let version = u16::from_le_bytes([bytes[10], bytes[11]]);
        if version != VERSION {
            return Err(BadHeader::Newer(version));
        }
        if u32_at(bytes, 60) != crc32fast::hash(&bytes[16..60]) {
            return Err(BadHeader::Damaged);
        }
        let origin = match bytes[56] {
            0 => Origin::Stream,
            _ => Origin::Compact,
        };
        let base = Base { sequence: u64_at(bytes, 32), elapsed: u64_at(bytes, 40), utc: u64_at(bytes, 48) };
        Ok(Self { salt: u64_at(bytes, 16), generation: u64_at(bytes, 24), origin, base })
    }

    pub(super) fn frame(&self) -> Frame {
        Frame::new(self.salt, self.generation)
    }
}

/// Frames records of one segment.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    start: u32,
}

/// What stands at a place where a record may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// A record of so many bytes, its head included, whose payload is to be checked.
    Record {
        kind: Kind,
        total: usize,
    },
    /// The end of data.
    End,
    Bad,
}

impl Frame {
    pub(super) fn new(salt: u64, generation: u64) -> Self {
        let mut hash = Hasher::new();
        hash.update(&salt.to_le_bytes());
        hash.update(&generation.to_le_bytes());
        Self { start: hash.finalize() }
    }

    fn seed(&self, at: u64, word: u32) -> u32 {
        let mut hash = Hasher::new_with_initial(self.start);
        // No segment is as long as 4 GiB.
        hash.update(&(at << 32 >> 32 | u64::from(word) << 32).to_le_bytes());
        hash.finalize()
    }

    /// Adds a record to `buffer`, whose first byte goes to `start` of the file. Returns its length.
    pub(super) fn push(
        &self,
        buffer: &mut Vec<u8>,
        start: u64,
        kind: Kind,
        payload: impl FnOnce(&mut Vec<u8>),
    ) -> usize {
        let head = buffer.len();
        buffer.extend_from_slice(&[0; HEAD_BYTES]);
        payload(buffer);
        let len = buffer.len() - head - HEAD_BYTES;
        let word = len as u32 | u32::from(kind as u8) << 24;
        let seed = self.seed(start + head as u64, word);
        let crc = checksum(seed, &buffer[head + HEAD_BYTES..]);
        buffer[head..head + 4].copy_from_slice(&word.to_le_bytes());
        buffer[head + 4..head + 6].copy_from_slice(&check(seed).to_le_bytes());
        buffer[head + 6..head + HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        len + HEAD_BYTES
    }

    /// The mark behind the last record.
    pub(super) fn end(&self, at: u64) -> [u8; END_BYTES] {
        let check = check(self.seed(at, 0)).to_le_bytes();
        [0, 0, 0, 0, check[0], check[1]]
    }

    /// Reads the head at `at`; `bytes` begin there.
    pub(super) fn head(&self, bytes: &[u8], at: u64) -> Head {
        if bytes.len() < END_BYTES {
            return Head::Bad;
        }
        let word = u32_at(bytes, 0);
        let kind = Kind::of((word >> 24) as u8);
        let len = (word & 0xff_ffff) as usize;
        // Before the checksum: in search of a record most places end here.
        if (word != 0 && kind.is_none()) || len > MAX_PAYLOAD {
            return Head::Bad;
        }
        if u16::from_le_bytes([bytes[4], bytes[5]]) != check(self.seed(at, word)) {
            return Head::Bad;
        }
        kind.map_or(Head::End, |kind| Head::Record { kind, total: len + HEAD_BYTES })
    }

    /// The payload of a whole record at `at`, if it is as it was written.
    pub(super) fn payload<'r>(&self, record: &'r [u8], at: u64) -> Option<&'r [u8]> {
        let (head, payload) = record.split_at_checked(HEAD_BYTES)?;
        (u32_at(head, 6) == checksum(self.seed(at, u32_at(head, 0)), payload)).then_some(payload)
    }

    /// The last bytes of a sealed segment.
    pub(super) fn trailer(&self, trailer: Trailer) -> [u8; TRAILER_BYTES] {
        let mut bytes = [0; TRAILER_BYTES];
        bytes[..4].copy_from_slice(&trailer.summary_at.to_le_bytes());
        bytes[4..8].copy_from_slice(&trailer.data_end.to_le_bytes());
        let crc = checksum(self.start, &bytes[..12]);
        bytes[12..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn read_trailer(&self, bytes: &[u8]) -> Option<Trailer> {
        let bytes: &[u8; TRAILER_BYTES] = bytes.try_into().ok()?;
        let trailer = Trailer { summary_at: u32_at(bytes, 0), data_end: u32_at(bytes, 4) };
        (self.trailer(trailer) == *bytes).then_some(trailer)
    }
}

/// Where the parts of a sealed segment are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) summary_at: u32,
    /// Behind it no record of the stream; the index begins there.
    pub(super) data_end: u32,
}

fn check(seed: u32) -> u16 {
    (seed ^ (seed >> 16)) as u16
}

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hash = Hasher::new_with_initial(seed);
    hash.update(bytes);
    hash.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { salt: 7, generation: 3, origin: Origin::Compact, base: Base { sequence: 9, elapsed: 8, utc: 7 } };

    #[test]
    fn a_header_is_read_as_written_and_no_flipped_bit_passes() {
        let bytes = HEADER.encode();
        assert_eq!(Header::decode(&bytes), Ok(HEADER));
        for bit in 0..8 * HEADER_BYTES {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), Err(BadHeader::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = HEADER.encode();
        bytes[10] = 2;
        let crc = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes[20] = 99; // the rest may look as it likes
        assert_eq!(Header::decode(&bytes), Err(BadHeader::Newer(2)));
    }

    #[test]
    fn a_record_counts_only_in_its_place_its_segment_and_its_log() {
        let frame = HEADER.frame();
        let mut record = Vec::new();
        let total = frame.push(&mut record, 100, Kind::Message, |payload| payload.extend_from_slice(b"hello"));
        assert_eq!(frame.head(&record, 100), Head::Record { kind: Kind::Message, total });
        assert_eq!(frame.payload(&record, 100), Some(&b"hello"[..]));
        for (other, at) in [(Frame::new(7, 3), 101), (Frame::new(7, 4), 100), (Frame::new(8, 3), 100)] {
            assert_eq!(other.payload(&record, at), None);
        }
        // The same payload under each of the next million generations: never by chance.
        for generation in 4..1_000_000 {
            assert_eq!(Frame::new(7, generation).payload(&record, 100), None, "{generation}");
        }
    }

    #[test]
    fn no_flipped_bit_of_a_record_passes() {
        let frame = HEADER.frame();
        let mut record = Vec::new();
        frame.push(&mut record, 64, Kind::Settled, |payload| payload.extend_from_slice(b"0123456789"));
        for bit in 0..8 * record.len() {
            let mut bad = record.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let good_head = matches!(frame.head(&bad, 64), Head::Record { total, .. } if total == bad.len());
            assert!(!good_head || frame.payload(&bad, 64).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_trailer_of_another_segment_is_none() {
        let trailer = Trailer { summary_at: 1000, data_end: 900 };
        let bytes = Frame::new(1, 2).trailer(trailer);
        assert_eq!(Frame::new(1, 2).read_trailer(&bytes), Some(trailer));
        assert_eq!(Frame::new(1, 3).read_trailer(&bytes), None);
        assert_eq!(Frame::new(1, 2).read_trailer(&[0; TRAILER_BYTES]), None);
    }
}
