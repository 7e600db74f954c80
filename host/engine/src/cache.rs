//! Compiled components on disk. What is loaded from here is executed as machine code, so the folder belongs to the owner
//! alone, and each entry carries a digest that is compared first. A damaged entry is removed and compiled again.
//! The digest guards against disks and crashes; against an attacker with the owner's rights nothing here would.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use crate::{compile::write_new, settings::Profile};

/// Version of wasmtime whose code the entries hold.
pub const WASMTIME: &str = "48.0.8";

/// Rises when entries of the same wasmtime become useless: other settings, other checks before compiling.
const REVISION: u32 = 1;

/// Age at which a temporary file is surely left over from a crash.
const STALE: Duration = Duration::from_secs(3600);

/// The folder.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    /// Short digest of all that an entry depends on besides the component.
    suffix: String,
    temporaries: AtomicU64,
}

/// One entry: machine code and the digest of it.
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
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        let key = format!("{WASMTIME}/{target}/{profile}/{REVISION}");
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

    /// Puts a finished file in the place of an entry. The digest comes last: without it the entry does not count.
    ///
    /// # Errors
    /// The disk's; the entry is then absent or the old one.
    pub(crate) fn commit(&self, finished: &Path, entry: &Entry) -> io::Result<()> {
        let digest = hex(&digest_of(finished)?);
        let beside = self.temporary();
        write_new(&beside, digest.as_bytes())?;
        fs::rename(finished, &entry.code)?;
        fs::rename(&beside, &entry.digest)?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Entry {
    /// Maps the entry's code, if there is one, it is whole and this engine can use it. Anything else is removed.
    ///
    /// # Errors
    /// The disk's, other than absence.
    pub(crate) fn load(&self, engine: &Engine) -> io::Result<Option<Component>> {
        let Some(recorded) = absent_as_none(fs::read(&self.digest))? else { return Ok(None) };
        let Some(actual) = absent_as_none(digest_of(&self.code))? else { return Ok(None) };
        if hex(&actual).as_bytes() != recorded {
            tracing::warn!(entry = %self.code.display(), "a compiled component is damaged; compiling it again");
            self.remove()?;
            return Ok(None);
        }
        // SAFETY: the file was written by our own compiler: it lies in a folder that only its owner may enter (checked
        // when the cache was opened), it is never changed in place, and it has the digest that was taken when it was
        // finished. wasmtime itself checks version, target and settings.
        #[allow(unsafe_code)]
        let loaded = unsafe { Component::deserialize_file(engine, &self.code) };
        match loaded {
            Ok(component) => Ok(Some(component)),
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

fn check_private(metadata: &fs::Metadata) -> io::Result<()> {
    let problem = if !metadata.is_dir() {
        "it is not a folder".to_owned()
    } else if metadata.uid() != rustix::process::geteuid().as_raw() {
        format!("it belongs to user {}", metadata.uid())
    } else if metadata.mode() & 0o077 != 0 {
        format!("others may enter it (mode {:o}); try chmod 700", metadata.mode() & 0o7777)
    } else {
        return Ok(());
    };
    let text = format!("compiled code is only loaded from a folder of this user alone: {problem}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for file in fs::read_dir(folder)? {
        let file = file?;
        let is_temporary = file.path().extension().is_some_and(|extension| extension == "tmp");
        let age =
            file.metadata().and_then(|metadata| metadata.modified()).map(|time| SystemTime::now().duration_since(time));
        if is_temporary && matches!(age, Ok(Ok(age)) if age > STALE) {
            absent_as_none(fs::remove_file(file.path()))?;
        }
    }
    Ok(())
}

/// SHA-256 of a file, read in pieces.
pub(crate) fn digest_of(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
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

fn absent_as_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
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
}
