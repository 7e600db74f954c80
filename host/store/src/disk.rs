//! The few file operations under the documents, behind a private trait so that a test can fail, tear or lose each of them.
//! Knows no document, no name and no checksum.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// File operations. An operation that fails may have been done in part; nothing is done after it returned.
pub(crate) trait Disk: Send + Sync {
    /// The whole file, or its first `limit` bytes.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Makes or replaces a file that only its owner reads, and returns when its content is safe against loss of power.
    /// Its name is safe only after [`Disk::sync_folder`].
    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Atomic; replaces `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// No error when there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder safe against loss of power.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Every file in a folder.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The operating system's.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }
}

/// Makes a folder and its missing parents, all of them owner-only. One that exists keeps its permissions: the owner
/// may have shared it on purpose.
pub(crate) fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
