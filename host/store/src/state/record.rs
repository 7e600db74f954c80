//! How writes look in a file, and what is found in one after a crash. Pure: no file is touched here.

use std::io;

use marram_core::state::{Index, Write};
use sha2::{Digest, Sha256};

/// What a file begins with. The digit is the version of the form.
pub(super) const HEADER: &[u8; 16] = b"marram state 1\n\0";
const HEADER_NAME: &[u8] = b"marram state ";

/// Length and checksum before each payload.
pub(super) const HEAD_BYTES: usize = 4 + CHECKSUM_BYTES;
const CHECKSUM_BYTES: usize = 8;
/// Kind, and the lengths of bucket, key and value.
const WRITE_HEAD_BYTES: usize = 1 + 1 + 2 + 4;
/// No payload is longer: writes of a module's whole quota, each with its head.
const MAX_PAYLOAD_BYTES: usize = 4 << 20;

const REMOVE: u8 = 0;
const SET: u8 = 1;

/// Where a value is in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) len: usize,
}

/// The payload of writes that are made together.
pub(super) fn payload(writes: &[Write]) -> Vec<u8> {
    let mut payload = Vec::new();
    for Write { bucket, key, value, .. } in writes {
        payload.push(if value.is_some() { SET } else { REMOVE });
        // Bounded by `core::state` far below what these take.
        payload.push(bucket.len() as u8);
        payload.extend_from_slice(&(key.len() as u16).to_le_bytes());
        payload.extend_from_slice(&(value.as_ref().map_or(0, |value| value.len()) as u32).to_le_bytes());
        payload.extend_from_slice(bucket.as_bytes());
        payload.extend_from_slice(key.as_bytes());
        payload.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    payload
}

/// What stands before a payload at `at` (its head's place) of a file.
pub(super) fn head(at: u64, payload: &[u8]) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&checksum(at, payload));
    head
}

/// With the place, so that a record counts only where it was written.
fn checksum(at: u64, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hash = Sha256::new();
    hash.update(at.to_le_bytes());
    hash.update(payload);
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&hash.finalize()[..CHECKSUM_BYTES]);
    checksum
}

/// Notes the writes of a payload that is at `at` (its own place).
///
/// # Errors
/// It is none.
pub(super) fn apply(payload: &[u8], at: u64, index: &mut Index<Place>) -> io::Result<()> {
    let mut rest = payload;
    while !rest.is_empty() {
        let (kind, bucket, key, len) = next_write(&mut rest).ok_or_else(unknown)?;
        let place = at + (payload.len() - rest.len()) as u64;
        rest = rest.get(len..).ok_or_else(unknown)?;
        match kind {
            SET => index.insert(bucket, key, len, Place { at: place, len }),
            REMOVE => index.remove(bucket, key),
            _ => return Err(unknown()),
        }
    }
    Ok(())
}

/// Kind, bucket, key and length of the value, which is next then.
fn next_write<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a str, &'a str, usize)> {
    let (head, names) = rest.split_at_checked(WRITE_HEAD_BYTES)?;
    let bucket = usize::from(head[1]);
    let key = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let value = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let (bucket, names) = names.split_at_checked(bucket)?;
    let (key, values) = names.split_at_checked(key)?;
    *rest = values;
    Some((head[0], std::str::from_utf8(bucket).ok()?, std::str::from_utf8(key).ok()?, value))
}

fn unknown() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a record of it has a form that this version of marram does not know")
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where the next record goes.
    pub(super) end: u64,
    /// What could not be read, though there is more behind it. A torn end is none: nobody was told that it is safe.
    pub(super) damage: Option<String>,
}

/// Most bytes that are hashed in search of the next record behind a damaged one. A module chooses what its values look
/// like: without a bound, a damaged file of some megabytes could keep a device busy for minutes.
const SEARCH_BYTES: usize = 64 << 20;

/// Reads a file into the index.
///
/// # Errors
/// It is of a version that is not known.
pub(super) fn read(file: &[u8], index: &mut Index<Place>) -> io::Result<Found> {
    let mut damage = bad_header(file)?;
    let mut at = HEADER.len();
    let mut end = at;
    let mut budget = SEARCH_BYTES;
    while at < file.len() {
        if let Some(payload) = payload_at(file, at) {
            apply(payload, (at + HEAD_BYTES) as u64, index)?;
            at += HEAD_BYTES + payload.len();
            end = at;
            continue;
        }
        let next = (at + 1..file.len()).take_while(|at| {
            budget = budget.saturating_sub(length_at(file, *at).unwrap_or(0));
            budget > 0
        });
        let Some(next) = { next }.find(|at| payload_at(file, *at).is_some()) else {
            if budget == 0 {
                damage.get_or_insert_with(|| format!("bytes {at} to {} are not searched any further", file.len()));
            }
            break;
        };
        damage.get_or_insert_with(|| format!("bytes {at} to {next} are no record"));
        at = next;
    }
    Ok(Found { end: end as u64, damage })
}

fn bad_header(file: &[u8]) -> io::Result<Option<String>> {
    if file.starts_with(HEADER) {
        return Ok(None);
    }
    let version = file.strip_prefix(HEADER_NAME).and_then(|rest| rest.first());
    match version {
        Some(version @ b'0'..=b'9') if *version != HEADER[HEADER_NAME.len()] => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it was written by another version of marram; use that one, or move the file away to begin anew",
        )),
        _ => Ok(Some("its first bytes are not those of a state".into())),
    }
}

/// Bytes of the payload that the head at `at` announces, if it could be one and they are there.
fn length_at(file: &[u8], at: usize) -> Option<usize> {
    let head = file.get(at..at + HEAD_BYTES)?;
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    (len > 0 && len <= MAX_PAYLOAD_BYTES && file.len() - at - HEAD_BYTES >= len).then_some(len)
}

/// The payload of a record whose head is at `at`, if there is a whole one.
fn payload_at(file: &[u8], at: usize) -> Option<&[u8]> {
    let len = length_at(file, at)?;
    let (head, payload) = (&file[at..at + HEAD_BYTES], &file[at + HEAD_BYTES..at + HEAD_BYTES + len]);
    (head[4..] == checksum(at as u64, payload)).then_some(payload)
}
