//! Compiled components on disk. What is loaded from here is executed as machine code, so the folder belongs to the owner
//! alone, and each entry carries a digest that is compared first. A damaged entry is removed and made again: compiled, or
//! copied from where the owner put code that was made ahead (`precompiled`). A file is never written to under its name: it
//! appears by rename, and one that takes its place leaves the mapped one as it was.
//!
//! The digest guards against disks and crashes; against an attacker with the owner's rights nothing here would.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use crate::{compile::write_new, settings::Profile, target};

/// Version of wasmtime whose code the entries hold.
pub const WASMTIME: &str = "48.0.8";

/// Rises when entries of the same wasmtime become useless: other settings, other checks before compiling.
pub(crate) const REVISION: u32 = 2;

/// The folder.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) folder: PathBuf,
    /// Short digest of all that an entry depends on besides the component.
    pub(crate) suffix: String,
    temporaries: AtomicU64,
}

/// One entry: machine code, and beside it a file with its digest and what its instances cost.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    code: PathBuf,
    digest: PathBuf,
}

impl Cache {
    /// Makes or checks the folder and removes what a crash left.
    ///
    /// # Errors
    /// It cannot be made, or others than its owner may enter it.
    pub(crate) fn open(folder: &Path, profile: Profile) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        check_private(&fs::symlink_metadata(folder)?)?;
        remove_leftovers(folder)?;
        let key = format!("{WASMTIME}/{}/{profile}/{REVISION}", target::here());
        let suffix = hex(&Sha256::digest(key.as_bytes())[..8]);
        Ok(Self { folder: folder.to_owned(), suffix, temporaries: AtomicU64::new(0) })
    }

    /// Where the compiled form of the component with this digest (64 hexadecimal digits) is or will be.
    pub(crate) fn entry(&self, component: &str) -> Entry {
        let stem = format!("{component}-{}", self.suffix);
        Entry { code: self.folder.join(format!("{stem}.cwasm")), digest: self.folder.join(format!("{stem}.sha256")) }
    }

    /// A name for a file in the making.
    pub(crate) fn temporary(&self) -> PathBuf {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("{}-{number}.tmp", std::process::id()))
    }

    /// A file of our own with the content of an open one, on the disk.
    ///
    /// # Errors
    /// The disk's; nothing is left then.
    pub(crate) fn copy(&self, mut file: &File) -> io::Result<Temporary> {
        let copy = Temporary(self.temporary());
        let mut target = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy.0)?;
        file.rewind()?;
        // In the kernel, and where the file system can, without taking room of its own.
        io::copy(&mut file, &mut target)?;
        target.sync_all()?;
        Ok(copy)
    }

    /// Puts a finished file in the place of an entry. The digest comes last: without it the entry does not count.
    /// `digest` is that of the file, `cost` that of [`crate::check::Surface::instance_bytes`].
    ///
    /// # Errors
    /// The disk's; the entry is then absent or the old one.
    pub(crate) fn commit(&self, finished: &Path, entry: &Entry, digest: [u8; 32], cost: u64) -> io::Result<()> {
        let record = format!("{} {cost}\n", hex(&digest));
        let beside = self.temporary();
        write_new(&beside, record.as_bytes())?;
        fs::rename(finished, &entry.code)?;
        fs::rename(&beside, &entry.digest)?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Entry {
    /// Whether its record says that it is this code; what the code is like is seen when it is loaded.
    ///
    /// # Errors
    /// The disk's, other than absence.
    pub(crate) fn is(&self, digest: &str, cost: u64) -> io::Result<bool> {
        let recorded = absent_as_none(fs::read(&self.digest))?;
        Ok(recorded.is_some_and(|recorded| cost_in(&recorded, digest) == Some(cost)))
    }

    /// Maps the entry's code, if there is one, it is whole and this engine can use it. Anything else is removed. Returns
    /// also what instances of it cost.
    ///
    /// # Errors
    /// The disk's, other than absence, or want of memory; the entry stays.
    pub(crate) fn load(&self, engine: &Engine) -> io::Result<Option<(Component, u64)>> {
        let Some(recorded) = absent_as_none(fs::read(&self.digest))? else { return Ok(None) };
        let Some(actual) = absent_as_none(digest_of(&self.code))? else { return Ok(None) };
        let Some(cost) = cost_in(&recorded, &hex(&actual)) else {
            tracing::warn!(entry = %self.code.display(), "a compiled component is damaged; it is made again");
            self.remove()?;
            return Ok(None);
        };
        // SAFETY: the file was written by our own compiler, or is our copy of code that the device's owner trusts
        // (`precompiled` checks whose it is). It lies in a folder that only its owner may enter (checked when the cache was
        // opened), it is never changed in place, and it has the digest that was taken when it was finished. wasmtime itself
        // checks version, target and settings.
        #[allow(unsafe_code)]
        let loaded = unsafe { Component::deserialize_file(engine, &self.code) };
        match loaded {
            Ok(component) => Ok(Some((component, cost))),
            Err(error) if is_of_the_system(&error) => Err(io::Error::other(format!("{error:#}"))),
            Err(error) => {
                tracing::warn!(entry = %self.code.display(), "a compiled component is for another engine ({error:#})");
                self.remove()?;
                Ok(None)
            }
        }
    }

    fn remove(&self) -> io::Result<()> {
        absent_as_none(fs::remove_file(&self.digest))?;
        absent_as_none(fs::remove_file(&self.code))?;
        Ok(())
    }
}

/// A file that goes away unless it was renamed.
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // absent after a success
    }
}

/// The cost, if the record is of code with this digest.
fn cost_in(record: &[u8], digest: &str) -> Option<u64> {
    let (recorded, cost) = std::str::from_utf8(record).ok()?.trim_end().split_once(' ')?;
    if recorded == digest { cost.parse().ok() } else { None }
}

/// The system had no file or no memory to give: that says nothing about the entry.
pub(crate) fn is_of_the_system(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<io::Error>() || cause.is::<rustix::io::Errno>() || cause.is::<wasmtime::error::OutOfMemory>()
    })
}

pub(crate) fn check_private(metadata: &fs::Metadata) -> io::Result<()> {
    let problem = if !metadata.is_dir() {
        "it is not a folder".to_owned()
    } else if metadata.uid() != rustix::process::geteuid().as_raw() {
        format!("it belongs to user {}", metadata.uid())
    } else if metadata.mode() & 0o077 != 0 {
        format!("others may enter it (mode {:o}); try chmod 700", metadata.mode() & 0o7777)
    } else {
        return Ok(());
    };
    let text = format!("compiled code and core dumps are only kept in a folder of this user alone: {problem}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// One host at a time has the folder (it locks its data), so a temporary file is left over from a crash.
pub(crate) fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            absent_as_none(fs::remove_file(path))?;
        }
    }
    Ok(())
}

/// SHA-256 of a file, read in pieces.
pub(crate) fn digest_of(path: &Path) -> io::Result<[u8; 32]> {
    digest_of_file(&File::open(path)?)
}

/// SHA-256 of what follows in an open file.
pub(crate) fn digest_of_file(mut file: &File) -> io::Result<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finalize().into()),
            read => digest.update(&buffer[..read]),
        }
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn absent_as_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_names_the_wasmtime_that_is_built_in() {
        let lock = include_str!("../../../Cargo.lock");
        assert!(lock.contains(&format!("name = \"wasmtime\"\nversion = \"{WASMTIME}\"")), "update WASMTIME");
    }

    #[test]
    fn want_of_files_or_memory_does_not_condemn_an_entry() {
        let of_the_system = wasmtime::Error::from(io::Error::from_raw_os_error(24)).context("failed to map");
        assert!(is_of_the_system(&of_the_system));
        assert!(is_of_the_system(&rustix::io::Errno::NOMEM.into()));
        assert!(!is_of_the_system(&wasmtime::Error::msg("compiled with another version").context("cannot load")));
    }

    #[test]
    fn a_record_of_other_code_or_without_a_cost_does_not_count() {
        assert_eq!(cost_in(b"abc 17\n", "abc"), Some(17));
        for record in [&b"abc"[..], b"abd 17\n", b"abc x\n", b"", b"\xff 1"] {
            assert_eq!(cost_in(record, "abc"), None);
        }
    }
}
