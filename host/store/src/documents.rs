//! [`Folder`]: small JSON documents as files of one folder, replaced atomically, two generations each.
//!
//! ```text
//! NAME.json      the newest generation
//! NAME.json.1    the one before
//! NAME.json.tmp  a write that has not finished; removed at open
//! ```
//!
//! A write goes: temporary file, fsync; newest becomes previous; temporary becomes newest; fsync of the folder. Two plain
//! renames need nothing special of the file system (FAT has no links), and stop them where you will, in whichever order
//! they reach the disk: a good generation stands under one of the two names. A damaged newest generation is never made
//! the previous one: that would cost the last good copy.
//!
//! No caching: a document is read a few times at a start and then lives in the agent's memory.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use marram_core::ports::{DocumentError, Documents, StoredDocument};
use rustix::io::Errno;
use serde::de::IgnoredAny;

use crate::{
    disk::{Disk, RealDisk, create_private_folder},
    encoding::{check_name, decode, encode, file_stem},
};

/// Largest document. A deployment takes at most 2 MiB, a twin 64 KiB; a larger file is damage, and
/// reading it whole would cost a small device its memory.
pub const MAX_DOCUMENT_BYTES: usize = 8 * 1024 * 1024;

/// The most that a good file takes: its document and less than 1 KiB around it. A byte more shows that it is too large.
const MAX_FILE_BYTES: u64 = MAX_DOCUMENT_BYTES as u64 + 1024;

/// A folder of documents. Shared by reference; its calls block on the disk and come one after another.
///
/// One process a folder: see [`crate::lock_data_dir`].
pub struct Folder {
    path: PathBuf,
    disk: Box<dyn Disk>,
    // Two writers would share a temporary file; a reader between two renames would see the newest missing.
    turn: Mutex<()>,
}

/// The folder could not be made or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the folder {}; it must be writable by this user", .folder.display())]
pub struct OpenError {
    folder: PathBuf,
    #[source]
    source: io::Error,
}

impl OpenError {
    pub(crate) fn new(folder: PathBuf, source: io::Error) -> Self {
        Self { folder, source }
    }
}

impl Folder {
    /// Opens a folder, makes it (owner-only) when there is none, and removes what interrupted writes left.
    ///
    /// # Errors
    /// The folder cannot be made, listed or cleaned.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = path.into();
        create_private_folder(&path).map_err(|source| OpenError { folder: path.clone(), source })?;
        Self::open_on(path, Box::new(RealDisk))
    }

    fn open_on(path: PathBuf, disk: Box<dyn Disk>) -> Result<Self, OpenError> {
        let folder = Self { path, disk, turn: Mutex::new(()) };
        match folder.settle() {
            Ok(()) => Ok(folder),
            Err(source) => Err(OpenError { folder: folder.path, source }),
        }
    }

    /// Makes what is seen now final: a reader must not see a document that a loss of power takes back.
    fn settle(&self) -> io::Result<()> {
        for path in self.disk.list(&self.path)? {
            if path.as_os_str().as_encoded_bytes().ends_with(b".json.tmp") {
                tracing::info!(path = %path.display(), "removing an unfinished write; the document before it is in force");
                self.disk.remove(&path)?;
            }
        }
        self.disk.sync_folder(&self.path)
    }

    fn files(&self, name: &str) -> Result<Files, DocumentError> {
        check_name(name).map_err(DocumentError::Failed)?;
        let stem = file_stem(name);
        let file = |suffix: &str| self.path.join(format!("{stem}{suffix}"));
        Ok(Files { newest: file(".json"), previous: file(".json.1"), temporary: file(".json.tmp") })
    }

    fn generation(&self, name: &str, path: &Path) -> Result<Generation, DocumentError> {
        let bytes = match self.disk.read(path, MAX_FILE_BYTES + 1) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Generation::Missing),
            Err(error) if is_damage(&error) => return Ok(Generation::Damaged(error.to_string())),
            // Too many open files, no permission: the file may be good, so the older one must not take its place.
            Err(error) => return Err(DocumentError::Failed(format!("cannot read {}: {error}", path.display()))),
        };
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Ok(Generation::Damaged(format!("it is larger than {MAX_FILE_BYTES} bytes")));
        }
        Ok(decode(name, bytes).map_or_else(Generation::Damaged, Generation::Good))
    }

    fn replace(&self, files: &Files, content: &[u8], keep_newest: bool) -> io::Result<()> {
        let prepared = self.disk.write_synced(&files.temporary, content).and_then(|()| match keep_newest {
            true => self.disk.rename(&files.newest, &files.previous),
            false => Ok(()),
        });
        if prepared.is_err() {
            self.discard(&files.temporary);
            return prepared;
        }
        let done = self.disk.rename(&files.temporary, &files.newest).and_then(|()| self.disk.sync_folder(&self.path));
        if done.is_err() {
            self.undo(files, keep_newest);
        }
        done
    }

    /// After a failure past the point where the newest generation was moved away: the caller will be told that the old
    /// document is in force, so those who read it before the next start must find it.
    fn undo(&self, files: &Files, kept_newest: bool) {
        self.discard(&files.temporary);
        let undone = match kept_newest {
            true => self.disk.rename(&files.previous, &files.newest),
            // There was no newest one, or a damaged one.
            false => self.disk.remove(&files.newest),
        };
        if let Err(error) = undone {
            let path = files.newest.display();
            tracing::warn!(%path, %error, "cannot undo a failed write; the next start may find the new document");
        }
    }

    /// Best effort: the error that led here is the one to report, and the next open removes what stays.
    fn discard(&self, temporary: &Path) {
        if let Err(error) = self.disk.remove(temporary) {
            tracing::debug!(path = %temporary.display(), %error, "cannot remove an unfinished write");
        }
    }

    fn take_turn(&self) -> MutexGuard<'_, ()> {
        // It guards files and no memory: a panic elsewhere cannot have broken anything behind it.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Documents for Folder {
    fn read(&self, name: &str) -> Result<Option<StoredDocument>, DocumentError> {
        let files = self.files(name)?;
        let _turn = self.take_turn();
        let fault = match self.generation(name, &files.newest)? {
            Generation::Good(bytes) => return Ok(Some(StoredDocument { bytes, recovered: None })),
            Generation::Damaged(how) => Some(how),
            Generation::Missing => None,
        };
        let newest = files.newest.display();
        let previous = files.previous.display();
        match (self.generation(name, &files.previous)?, fault) {
            (Generation::Good(bytes), fault) => {
                let fault = fault.unwrap_or_else(|| "it is missing".to_owned());
                let recovered =
                    format!("{newest} could not be used: {fault}; {previous}, the document before it, is in force");
                Ok(Some(StoredDocument { bytes, recovered: Some(recovered) }))
            }
            (Generation::Missing, None) => Ok(None),
            (older, fault) => Err(DocumentError::Damaged(format!(
                "no generation of document `{name}` can be used: {newest}: {}; {previous}: {}; restore one of them from a \
                 backup, or delete both and set the document again",
                fault.unwrap_or_else(|| "it is missing".to_owned()),
                older.fault(),
            ))),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DocumentError> {
        let files = self.files(name)?;
        check_document(name, bytes)?;
        let _turn = self.take_turn();
        let newest = self.generation(name, &files.newest)?;
        let done = match &newest {
            // Spares the flash. The folder is synced all the same: whoever wrote it may have died just before.
            Generation::Good(same) if same == bytes => self.disk.sync_folder(&self.path),
            _ => self.replace(&files, &encode(name, bytes), matches!(newest, Generation::Good(_))),
        };
        done.map_err(|error| {
            let path = files.newest.display();
            DocumentError::Failed(format!(
                "cannot write {path}: {error}; the document before it stays in force{}",
                hint(&error)
            ))
        })
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>, DocumentError> {
        let _turn = self.take_turn();
        let paths = self
            .disk
            .list(&self.path)
            .map_err(|error| DocumentError::Failed(format!("cannot list {}: {error}", self.path.display())))?;
        let stem = |path: &PathBuf| {
            let file = path.file_name()?.to_str()?;
            let name = file.strip_suffix(".json").or_else(|| file.strip_suffix(".json.1"))?;
            // One that stands as it is; of others the file alone does not tell the name.
            (name.starts_with(prefix) && file_stem(name) == name).then(|| name.to_owned())
        };
        Ok(paths.iter().filter_map(stem).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn remove(&self, name: &str) -> Result<(), DocumentError> {
        let files = self.files(name)?;
        let _turn = self.take_turn();
        // The older one first, and for good: otherwise a loss of power could bring it back as the document.
        [&files.temporary, &files.previous, &files.newest]
            .into_iter()
            .try_for_each(|path| {
                self.disk.remove(path)?;
                self.disk.sync_folder(&self.path)
            })
            .map_err(|error| DocumentError::Failed(format!("cannot remove {}: {error}", files.newest.display())))
    }
}

struct Files {
    newest: PathBuf,
    previous: PathBuf,
    temporary: PathBuf,
}

enum Generation {
    Good(Vec<u8>),
    Damaged(String),
    Missing,
}

impl Generation {
    fn fault(self) -> String {
        match self {
            Generation::Good(_) => "it is good".to_owned(),
            Generation::Damaged(how) => how,
            Generation::Missing => "it is missing".to_owned(),
        }
    }
}

/// Whether an error speaks of the file itself (bad sector, file system's own checksum, a folder in its place) and not
/// of this moment.
fn is_damage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::ISDIR))
}

fn hint(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC | Errno::DQUOT) => "; free some space on that file system",
        Some(Errno::ROFS) => "; the file system is mounted read-only",
        _ => "",
    }
}

fn check_document(name: &str, bytes: &[u8]) -> Result<(), DocumentError> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        let size = bytes.len();
        return Err(DocumentError::Failed(format!(
            "document `{name}` has {size} bytes; the most is {MAX_DOCUMENT_BYTES}"
        )));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| not_json(name, &error))?;
    serde_json::from_str::<IgnoredAny>(text).map(|_| ()).map_err(|error| not_json(name, &error))
}

fn not_json(name: &str, error: &dyn std::error::Error) -> DocumentError {
    DocumentError::Failed(format!("document `{name}` is not JSON, nothing was written: {error}"))
}

#[cfg(test)]
mod tests;
