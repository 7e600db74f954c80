//! What the disk does not give back. That a read fails says little of the bytes: a controller that is reset, a cable, a file server fail all
//! reads for a while. So a page is given up only when it has failed again and again while the disk could read something else; until then
//! it is an error, and nothing that it holds is called lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::io::Errno;

use super::disk::{Readable, SegmentFile, SegmentFolder};

/// What kernels read at once: nothing less can be had of what is around a bad sector.
pub(super) const PAGE: u64 = 4096;
/// After so many tries a page is given up. Readings are tried again each second, and few disks need ten to come back; a queue waits as
/// long for what is really lost.
const TRIES: u32 = 10;
/// The same at an opening, which does not wait: in between something else is read from the disk.
const OPENING_TRIES: usize = 3;
/// Other files that are asked whether the disk is there.
const MOST_ASKED: usize = 8;

/// Why bytes could not be read: not for want of files, memory or permission.
#[derive(Debug, thiserror::Error)]
#[error("the disk cannot read the page at {at}")]
struct BadPage {
    at: u64,
    source: io::Error,
}

/// The place of the page of which an error speaks; none = it speaks of something else.
pub(super) fn bad_page(error: &io::Error) -> Option<u64> {
    Some(error.get_ref()?.downcast_ref::<BadPage>()?.at)
}

/// Whether an error speaks of the medium.
pub(super) fn is_bad_medium(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::BADMSG | Errno::UCLEAN)) || bad_page(error).is_some()
}

/// Pages that could not be read, and how often.
#[derive(Default)]
pub(super) struct BadPages(BTreeMap<(u64, u64), u32>);

impl BadPages {
    /// A page could not be read though others could. True: it is given up.
    pub(super) fn failed(&mut self, generation: u64, at: u64) -> bool {
        let tries = self.0.entry((generation, at / PAGE)).or_default();
        *tries = tries.saturating_add(1);
        *tries >= TRIES
    }

    pub(super) fn give_up(&mut self, generation: u64, pages: impl IntoIterator<Item = u64>) {
        self.0.extend(pages.into_iter().map(|page| ((generation, page), TRIES)));
    }

    /// Bytes of a segment have been read.
    pub(super) fn read(&mut self, generation: u64, at: u64, len: u64) {
        if self.0.is_empty() {
            return;
        }
        for page in at / PAGE..=(at + len) / PAGE {
            self.0.remove(&(generation, page));
        }
    }

    pub(super) fn forget(&mut self, generation: u64) {
        self.0.retain(|(other, _), _| *other != generation);
    }

    /// A segment's file, in which the pages that are given up, where they cannot be read, are zeros.
    pub(super) fn patch(&self, generation: u64, file: Arc<dyn SegmentFile>) -> Patched {
        let pages = self.0.range((generation, 0)..=(generation, u64::MAX));
        let given_up = pages.filter(|(_, tries)| **tries >= TRIES).map(|((_, page), _)| *page).collect();
        Patched { file, given_up }
    }
}

/// A file with pages that are given up. No checksum takes zeros for a record.
pub(super) struct Patched {
    file: Arc<dyn SegmentFile>,
    given_up: BTreeSet<u64>,
}

impl Readable for Patched {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        match self.file.read_at(bytes, at) {
            Err(error) if is_bad_medium(&error) => read_pages(&*self.file, bytes, at, |at, error, _| {
                if self.given_up.contains(&(at / PAGE)) { Ok(None) } else { Err(error) }
            }),
            read => read,
        }
    }
}

/// A file at an opening. Pages that cannot be read are zeros, if the disk can read something else.
pub(super) struct Patient {
    file: Arc<dyn SegmentFile>,
    folder: Arc<dyn SegmentFolder>,
    given_up: Mutex<BTreeSet<u64>>,
}

impl Patient {
    pub(super) fn new(file: Arc<dyn SegmentFile>, folder: &Arc<dyn SegmentFolder>) -> Self {
        Self { file, folder: folder.clone(), given_up: Mutex::default() }
    }

    pub(super) fn file(&self) -> &Arc<dyn SegmentFile> {
        &self.file
    }

    pub(super) fn given_up(&self) -> BTreeSet<u64> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn try_again(&self, at: u64, mut error: io::Error, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        let page = at / PAGE;
        if self.given_up().contains(&page) {
            return Ok(None);
        }
        for _ in 0..OPENING_TRIES {
            if !answers(&*self.folder, &*self.file, at) {
                return Err(error);
            }
            match self.file.read_at(bytes, at) {
                Err(again) if is_bad_medium(&again) => error = again,
                read => return read.map(Some),
            }
        }
        tracing::error!(%error, at, "a page of the message log cannot be read");
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).insert(page);
        Ok(None)
    }
}

impl Readable for Patient {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        match self.file.read_at(bytes, at) {
            Err(error) if is_bad_medium(&error) => {
                read_pages(&*self.file, bytes, at, |at, error, page| self.try_again(at, error, page))
            }
            read => read,
        }
    }
}

/// Reads page by page. `failed`: what of a page was read after all; none: it is zeros.
pub(super) fn read_pages(
    file: &dyn Readable,
    bytes: &mut [u8],
    at: u64,
    failed: impl Fn(u64, io::Error, &mut [u8]) -> io::Result<Option<usize>>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        let from = at + done as u64;
        let step = ((PAGE - from % PAGE) as usize).min(bytes.len() - done);
        let page = &mut bytes[done..done + step];
        let read = match file.read_at(page, from) {
            Err(error) if is_bad_medium(&error) => failed(from, error, page).map_err(|error| bad(from, error))?,
            read => Some(read?),
        };
        match read {
            Some(read) => {
                done += read;
                if read < step {
                    break;
                }
            }
            None => {
                page.fill(0);
                done += step;
            }
        }
    }
    Ok(done)
}

fn bad(at: u64, source: io::Error) -> io::Error {
    match bad_page(&source) {
        Some(_) => source,
        None if is_bad_medium(&source) => io::Error::new(source.kind(), BadPage { at, source }),
        None => source,
    }
}

/// Whether the disk can read something else than this page of a file. What is in memory is no answer.
pub(super) fn answers(folder: &dyn SegmentFolder, file: &dyn SegmentFile, at: u64) -> bool {
    let reads = |file: &dyn SegmentFile, at| file.read_anew(&mut [0], at).is_ok_and(|count| count > 0);
    if at >= PAGE && reads(file, 0) {
        return true;
    }
    // The last page of a segment is written when it begins: also that of the same file, if its first one is bad.
    let files = folder.list().unwrap_or_default();
    let segments = files.iter().filter(|(name, _)| name.ends_with(".log"));
    segments.rev().take(MOST_ASKED).any(|(name, len)| {
        len.checked_sub(1).is_some_and(|last| folder.open(name).is_ok_and(|file| reads(&*file, last)))
    })
}
