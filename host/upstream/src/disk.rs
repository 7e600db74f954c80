//! The few file operations under the journal, behind private traits so that a test can fail or cut each of them short.
//! Knows no line and no file name.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The folder's operations.
pub(crate) trait Disk: Send {
    /// Opens a file for appending, for its owner only; makes it when there is none.
    fn open(&mut self, path: &Path) -> io::Result<Box<dyn LogFile>>;
    /// Removes a file.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
    /// Makes the folder's names safe against loss of power.
    fn sync_folder(&mut self) -> io::Result<()>;
}

/// A file that only grows at its end, or is cut there.
pub(crate) trait LogFile: Send {
    /// Appends some of the bytes; returns how many.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Cuts the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Makes all of it safe against loss of power.
    fn sync(&mut self) -> io::Result<()>;
}

/// The operating system's.
#[derive(Debug)]
pub(crate) struct RealDisk {
    pub(crate) folder: PathBuf,
}

impl Disk for RealDisk {
    fn open(&mut self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(OpenOptions::new().append(true).create(true).mode(0o600).open(path)?))
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            // Someone tidied up before us: as wanted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

impl LogFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data() // with the length, without the times
    }
}
