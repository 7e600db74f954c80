//! [`StateFolder`]: the durable key-value state of modules, one log file a module.
//!
//! ```text
//! NAME.log          "marram state 1\n\0", then records:
//!                   length u32 | first 8 bytes of the SHA-256 of the payload | payload; then zeros
//! NAME.log.tmp      a new file that has not taken the place of the old one; removed at open
//! NAME.log.damaged  the file as it was found with damage in its middle
//! ```
//!
//! A record holds the writes that were made together. They are safe when the call returns: one write and one fdatasync into room
//! that was set aside, which spares the journal of the file system. When more than half of a file is out of date, what is in
//! force is written to a new one. Values stay on disk; the keys are in memory.
//!
//! Why no library: `redb` (618 KiB of code) opens nothing any more after one bad byte, `fjall` needs unbounded memory, LMDB and
//! SQLite return damaged values as good ones, and all of them write three times as much flash.

mod file;
mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use marram_core::{
    name::ModuleName,
    ports::{State, States},
    state::{Index, StateError, Write},
};

use self::{file::LogFile, record::Place};
use crate::{
    documents::OpenError,
    encoding::{file_stem, name_of},
    log::disk::{RealFolder, SegmentFolder},
};

/// The states of all modules of a host.
pub struct StateFolder {
    path: PathBuf,
    folder: RealFolder,
}

impl StateFolder {
    /// Opens a folder, makes it (owner-only) when there is none, and removes what interrupted rewrites left.
    ///
    /// # Errors
    /// The folder cannot be made, listed or cleaned.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = path.into();
        // The folder's own name is safe then, before the first write in it is said to be.
        match RealFolder::make(&path).and_then(|folder| clean(&folder).map(|()| folder)) {
            Ok(folder) => Ok(Self { path, folder }),
            Err(source) => Err(OpenError::new(path, source)),
        }
    }
}

/// What a module keeps on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptState {
    /// The module's name; of a very long one, the name of its file.
    pub module: String,
    /// Bytes of its files, with the room that is set aside.
    pub bytes: u64,
}

impl KeptState {
    /// Whether it is this module's.
    #[must_use]
    pub fn is_of(&self, module: &ModuleName) -> bool {
        let stem = file_stem(module.as_str());
        self.module == module.as_str() || (name_of(&stem).is_none() && self.module == stem)
    }
}

/// The states in a folder, by name. Changes nothing, so that a host may run there.
///
/// # Errors
/// The folder cannot be listed; none is an empty one.
pub fn kept_states(path: &Path) -> io::Result<Vec<KeptState>> {
    let mut states = BTreeMap::new();
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let suffixes = [".log", ".log.damaged", ".log.tmp"];
        let stem = name.to_str().and_then(|name| suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)));
        if let Some(stem) = stem {
            *states.entry(name_of(stem).unwrap_or_else(|| stem.to_owned())).or_default() += entry.metadata()?.len();
        }
    }
    Ok(states.into_iter().map(|(module, bytes)| KeptState { module, bytes }).collect())
}

fn clean(folder: &dyn SegmentFolder) -> io::Result<()> {
    for (name, _) in folder.list()? {
        if name.ends_with(".log.tmp") {
            folder.remove(&name)?;
        }
    }
    Ok(())
}

fn file_of(module: &ModuleName) -> String {
    format!("{}.log", file_stem(module.as_str()))
}

impl States for StateFolder {
    fn open(&self, module: &ModuleName) -> Result<Box<dyn State>, StateError> {
        let name = file_of(module);
        let path = self.path.join(&name);
        match ModuleState::open(Box::new(self.folder.clone()), name, path.clone()) {
            Ok(state) => Ok(Box::new(state)),
            Err(error) => Err(failed("open", &path, &error)),
        }
    }

    fn remove(&self, module: &ModuleName) -> Result<(), StateError> {
        let name = file_of(module);
        // What is kept for the owner goes with it: it is the module's data as well.
        let files = [name.clone(), format!("{name}.damaged"), format!("{name}.tmp")];
        let removed =
            files.iter().try_for_each(|file| self.folder.remove(file)).and_then(|()| self.folder.sync_names());
        removed.map_err(|error| failed("remove", &self.path.join(name), &error))
    }
}

/// The state of one module.
struct ModuleState {
    folder: Box<dyn SegmentFolder>,
    /// Its file's, in the folder.
    name: String,
    /// For messages.
    path: PathBuf,
    /// None: nothing has ever been written.
    log: Option<LogFile>,
    index: Index<Place>,
    /// The file cannot be trusted beyond what is in the index: the next write goes into a new one.
    rewrite: bool,
    /// The file's name is safe against loss of power. Not known of one that is found: a host that was killed may have left it.
    named: bool,
}

/// A file is rewritten when it has more than this besides twice what is in force. A small state is rewritten once in some
/// hundred writes.
const SLACK_BYTES: u64 = 128 * 1024;

impl ModuleState {
    fn open(folder: Box<dyn SegmentFolder>, name: String, path: PathBuf) -> io::Result<Self> {
        let mut state = Self { folder, name, path, log: None, index: Index::default(), rewrite: false, named: false };
        let file = match state.folder.open(&state.name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(state),
            Err(error) => return Err(error),
        };
        let bytes = file::whole(&*file)?;
        let found = record::read(&bytes, &mut state.index)?;
        if let Some(damage) = found.damage {
            let kept = match state.keep_damaged(&bytes) {
                Ok(()) => format!("{}.damaged", state.path.display()),
                Err(error) => format!("not: {error}"),
            };
            tracing::error!(path = %state.path.display(), kept, "a module's state is damaged: {damage}; what can be read is in force");
            state.rewrite = true;
        }
        state.log = Some(LogFile::open(file, found.end, bytes.len() as u64)?);
        Ok(state)
    }

    fn keep_damaged(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.folder.create(&format!("{}.damaged", self.name), bytes.len() as u64)?.write_at(bytes, 0)
    }

    fn holds(&self, bucket: &str, key: &str, expected: Option<&Bytes>) -> io::Result<bool> {
        Ok(self.read(bucket, key)?.as_ref() == expected)
    }

    fn read(&self, bucket: &str, key: &str) -> io::Result<Option<Bytes>> {
        match (self.index.place(bucket, key), &self.log) {
            (Some(place), Some(log)) => log.read(*place).map(Some),
            _ => Ok(None),
        }
    }

    fn append(&mut self, writes: &[Write]) -> io::Result<()> {
        let due = self.log.as_ref().is_some_and(|log| log.end() > 2 * self.index.bytes() as u64 + SLACK_BYTES);
        if self.rewrite || due || self.log.is_none() {
            let rewritten = self.rewritten();
            if rewritten.is_err() {
                // Half a file would only take room on a disk that may be full. Not there after the rename.
                let _ = self.folder.remove(&self.temporary());
            }
            match rewritten {
                Ok(()) => {}
                // It was for economy: the old file takes writes still.
                Err(error) if due && !self.rewrite => {
                    tracing::warn!(path = %self.path.display(), %error, "cannot make a module's state smaller");
                }
                Err(error) => return Err(error),
            }
        }
        if !self.named {
            self.folder.sync_names()?;
            self.named = true;
        }
        let Some(log) = &mut self.log else { return Err(io::Error::other("no file")) };
        let payload = record::payload(writes);
        match log.append(&payload) {
            Ok(at) => record::apply(&payload, at, &mut self.index),
            Err(error) => {
                self.rewrite = true; // who knows what of it is on the disk
                Err(error)
            }
        }
    }

    fn temporary(&self) -> String {
        format!("{}.tmp", self.name)
    }

    /// Puts a file in place that has what is in force and no more.
    fn rewritten(&mut self) -> io::Result<()> {
        let temporary = self.temporary();
        let (mut log, mut index) = (LogFile::create(&*self.folder, &temporary)?, Index::default());
        let all: Vec<(&str, &str)> = self.index.iter().map(|(bucket, key, _)| (bucket, key)).collect();
        for (bucket, key) in all {
            let value = self.read(bucket, key)?;
            let payload = record::payload(&[Write { bucket: bucket.into(), key: key.into(), value, only_if: None }]);
            let at = log.append_unsynced(&payload)?;
            record::apply(&payload, at, &mut index)?;
        }
        log.sync()?;
        self.folder.rename(&temporary, &self.name)?;
        // From here on the old file has no name: whatever happens, nothing may be written to it any more.
        (self.log, self.index, self.rewrite, self.named) = (Some(log), index, false, false);
        Ok(())
    }
}

impl State for ModuleState {
    fn get(&self, bucket: &str, key: &str) -> Result<Option<Bytes>, StateError> {
        self.read(bucket, key).map_err(|error| failed("read", &self.path, &error))
    }

    fn keys(&self, bucket: &str, prefix: &str, after: Option<&str>, max: usize) -> Vec<Box<str>> {
        self.index.keys(bucket, prefix, after, max)
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), StateError> {
        self.index.check(writes)?;
        for write in writes {
            let Some(expected) = &write.only_if else { continue };
            match self.holds(&write.bucket, &write.key, expected.as_ref()) {
                Ok(true) => {}
                Ok(false) => return Err(StateError::Changed),
                Err(error) => return Err(failed("read", &self.path, &error)),
            }
        }
        let gone = |write: &Write| write.value.is_none() && self.index.place(&write.bucket, &write.key).is_none();
        if writes.iter().all(gone) {
            return Ok(()); // nothing is removed: spares the flash
        }
        self.append(writes).map_err(|error| failed("write", &self.path, &error))
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> StateError {
    StateError::Store(format!("cannot {what} the module's state {}: {error}", path.display()))
}
