//! Code that was compiled elsewhere, in folders that the device's owner fills. Read, never written; nothing is removed.
//!
//! What lies there is executed as machine code, so folder and files must belong to the owner (root, or the user of the
//! host) and be writable by nobody else; each code file has a record with its digest and with all that it depends on.
//! Whoever may write there may run any code as this user: signatures would change that, and are not here yet.
//!
//! What is mapped is a copy in the cache of compiled code, made once: whoever has a right to a file may write into it, with a
//! `cp` for instance, and code that changes while it runs ends the host or worse.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use wasmtime::{Engine, component::Component};

use crate::{
    cache::{Cache, REVISION, WASMTIME, digest_of, digest_of_file, hex},
    settings::Profile,
};

/// Largest record; one has some 400 bytes.
const MAX_RECORD_BYTES: u64 = 16 << 10;

/// All that code depends on besides the component. Another key, other code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// `aarch64-linux`.
    pub(crate) target: String,
    pub(crate) profile: Profile,
}

/// What a record says: the file beside the code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// `sha256:…` of the component that was compiled.
    pub(crate) component: String,
    /// `sha256:…` of the code.
    pub(crate) code: String,
    /// Bytes of the code.
    pub(crate) size: u64,
    pub(crate) wasmtime: String,
    pub(crate) target: String,
    pub(crate) profile: String,
    pub(crate) revision: u32,
    /// Of [`crate::check::Surface::instance_bytes`].
    pub(crate) instance_bytes: u64,
}

impl Key {
    /// Name of the files of a component's code (64 hexadecimal digits), without an ending.
    pub(crate) fn stem(&self, component: &str) -> String {
        format!("{component}-{WASMTIME}-{}-{}-{REVISION}", self.target, self.profile)
    }

    /// The record of finished code.
    pub(crate) fn record(&self, component: &str, code: [u8; 32], size: u64, instance_bytes: u64) -> Record {
        Record {
            component: format!("sha256:{component}"),
            code: format!("sha256:{}", hex(&code)),
            size,
            wasmtime: WASMTIME.to_owned(),
            target: self.target.clone(),
            profile: self.profile.to_string(),
            revision: REVISION,
            instance_bytes,
        }
    }
}

/// Why code that is there is not used; one line that names the file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unusable(pub(crate) String);

/// Looks for the code of a component (64 hexadecimal digits) in a folder, and maps the copy of it in `cache`. None: it has
/// none, or is not there. Returns also what instances of it cost.
///
/// # Errors
/// Outer: want of memory, descriptors or room for the copy, which says nothing about the code. Inner: the folder or the code
/// is refused.
pub(crate) fn find(
    folder: &Path,
    key: &Key,
    component: &str,
    engine: &Engine,
    cache: &Cache,
) -> io::Result<Result<Option<(Component, u64)>, Unusable>> {
    let found = open_entry(folder, key, component);
    match found.and_then(|entry| entry.map(|entry| entry.load(component, engine, cache)).transpose()) {
        Ok(loaded) => Ok(Ok(loaded)),
        Err(Fault::System(error)) => Err(error),
        Err(Fault::Refused(why)) => Ok(Err(why)),
    }
}

enum Fault {
    System(io::Error),
    Refused(Unusable),
}

/// Code whose record fits.
struct Entry {
    path: PathBuf,
    file: File,
    /// 64 hexadecimal digits, as the record says.
    digest: String,
    cost: u64,
}

fn open_entry(folder: &Path, key: &Key, component: &str) -> Result<Option<Entry>, Fault> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let directory = match openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(fault(folder, error)),
    };
    check_owner(folder, &directory, FileType::Directory)?;
    // Everything else is opened below this very folder, whoever renames what is above it; links are not followed.
    let open = |name: &str| -> Result<Option<File>, Fault> {
        let path = folder.join(name);
        let file = match openat(&directory, name, flags | OFlags::NOFOLLOW | OFlags::NONBLOCK, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(fault(&path, error)),
        };
        check_owner(&path, &file, FileType::RegularFile)?;
        Ok(Some(File::from(file)))
    };
    let stem = key.stem(component);
    let (record, code) = (format!("{stem}.json"), format!("{stem}.cwasm"));
    let path = folder.join(&code);
    match (open(&record)?, open(&code)?) {
        (None, None) => Ok(None),
        (Some(record), Some(file)) => {
            let Record { code, instance_bytes: cost, .. } = check(&record, &file, key, component, &path)?;
            let digest = code.trim_start_matches("sha256:").to_owned();
            Ok(Some(Entry { path, file, digest, cost }))
        }
        (None, Some(_)) => Err(refused(&path, "its record (.json) is missing; copy both files")),
        (Some(_), None) => Err(refused(&folder.join(record), "the code (.cwasm) is missing; copy both files")),
    }
}

/// The record, if it is of this component under this key, and the code has its size.
fn check(record: &File, code: &File, key: &Key, component: &str, path: &Path) -> Result<Record, Fault> {
    let mut text = Vec::new();
    record.take(MAX_RECORD_BYTES).read_to_end(&mut text).map_err(|error| read_fault(path, error))?;
    let told: Record =
        serde_json::from_slice(&text).map_err(|error| refused(path, &format!("its record cannot be read: {error}")))?;
    let size = code.metadata().map_err(|error| read_fault(path, error))?.len();
    if told.size != size {
        let why = format!("it has {size} bytes, its record says {}; copy it again", told.size);
        return Err(refused(path, &why));
    }
    let expected = Record { code: told.code.clone(), ..key.record(component, [0; 32], size, told.instance_bytes) };
    if told != expected {
        return Err(refused(path, "it was renamed: its record is of another component or for another host"));
    }
    Ok(told)
}

impl Entry {
    fn load(self, component: &str, engine: &Engine, cache: &Cache) -> Result<(Component, u64), Fault> {
        let of_the_copy = |error: io::Error| {
            let text = format!("its copy in {}: {error}", cache.folder.display());
            Fault::System(io::Error::new(error.kind(), text))
        };
        let kept = cache.entry(component);
        if kept.is(&self.digest, self.cost).map_err(of_the_copy)?
            && let Some(loaded) = kept.load(engine).map_err(of_the_copy)?
        {
            return Ok(loaded);
        }
        // What is damaged is not even copied: the module is tried again and again, and flash wears.
        let digest = digest_of_file(&self.file).map_err(|error| read_fault(&self.path, error))?;
        let copy = if hex(&digest) == self.digest { Some(cache.copy(&self.file).map_err(of_the_copy)?) } else { None };
        // The copy counts: somebody may have written into the file meanwhile.
        match copy {
            Some(copy) if digest_of(&copy.0).map_err(of_the_copy)? == digest => {
                cache.commit(&copy.0, &kept, digest, self.cost).map_err(of_the_copy)?;
            }
            _ => return Err(refused(&self.path, "it is damaged (its digest is not the record's); copy it again")),
        }
        kept.load(engine).map_err(of_the_copy)?.ok_or_else(|| refused(&self.path, "it is for another engine"))
    }
}

/// Root's or ours, writable by nobody else, and of the expected kind. A write bit of the group also stands for access
/// control lists.
fn check_owner(path: &Path, file: impl AsFd, expected: FileType) -> Result<(), Fault> {
    let stat = fstat(file).map_err(|error| fault(path, error))?;
    owner_fault(&stat, rustix::process::geteuid().as_raw(), expected).map_or(Ok(()), |why| Err(refused(path, &why)))
}

fn owner_fault(stat: &Stat, user: u32, expected: FileType) -> Option<String> {
    if FileType::from_raw_mode(stat.st_mode) != expected {
        return Some(
            if expected == FileType::Directory { "it is not a folder" } else { "it is not a file" }.to_owned(),
        );
    }
    if stat.st_uid != 0 && stat.st_uid != user {
        return Some(format!("it belongs to user {}, only root and user {user} are trusted with code", stat.st_uid));
    }
    let mode = stat.st_mode & 0o7777;
    (mode & 0o022 != 0).then(|| format!("others may write it (mode {mode:o}); try chmod go-w"))
}

fn refused(path: &Path, why: &str) -> Fault {
    Fault::Refused(Unusable(format!("{}: {why}", path.display())))
}

/// A file that cannot be opened is refused; a system that has nothing left to open it with says nothing about it.
fn fault(path: &Path, error: Errno) -> Fault {
    match error {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::INTR => Fault::System(error.into()),
        Errno::LOOP => refused(path, "it is a link; put the file itself there"),
        _ => refused(path, &format!("cannot be opened: {error}")),
    }
}

fn read_fault(path: &Path, error: io::Error) -> Fault {
    refused(path, &format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(of: &Path) -> Stat {
        rustix::fs::stat(of).unwrap()
    }

    #[test]
    fn only_root_and_the_own_user_are_trusted() {
        let mut file = stat(Path::new("/proc/self/exe"));
        for (owner, mode, trusted) in
            [(0, 0o755, true), (7, 0o644, true), (8, 0o644, false), (0, 0o775, false), (7, 0o646, false)]
        {
            file.st_uid = owner;
            file.st_mode = (file.st_mode & !0o7777) | mode;
            assert_eq!(owner_fault(&file, 7, FileType::RegularFile).is_none(), trusted, "{owner} {mode:o}");
        }
        assert!(owner_fault(&stat(Path::new("/")), 0, FileType::RegularFile).is_some());
    }

    #[test]
    fn a_name_holds_all_that_the_code_depends_on() {
        let key = Key { target: "aarch64-linux".into(), profile: Profile::Narrow };
        assert_eq!(key.stem("ab"), format!("ab-{WASMTIME}-aarch64-linux-narrow-{REVISION}"));
    }
}
