//! The few file operations under the logs of messages and of modules' state, behind narrow traits so that a test can fail, tear or lose each of them. Knows
//! names and bytes, no record.

use std::{
    fs::{self, File, OpenOptions},
    io,
    num::NonZeroU64,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{Advice, FallocateFlags, fadvise, fallocate},
    io::Errno,
};

use crate::disk::create_private_folder;

/// The folder of a log. An operation that fails may have been done in part; nothing is done after it returned.
pub(crate) trait SegmentFolder: Send + Sync {
    /// Every file in it, with its length.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// Makes a file of `len` bytes that read as zeros, or anything if one of that name was there; its room is set aside where the
    /// file system can.
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn SegmentFile>>;
    /// Opens one that exists.
    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>>;
    /// Atomic; replaces `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// No error when there is none.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all names safe against loss of power.
    fn sync_names(&self) -> io::Result<()>;
}

/// Bytes of a file.
pub(crate) trait Readable: Send + Sync {
    /// Bytes from `at`, fewer only at the end of the file.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;
}

/// One file. Written in place, by one writer.
pub(crate) trait SegmentFile: Readable {
    /// The same, as far as possible from the medium and not from memory.
    fn read_anew(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all bytes at `at`. After an error some of them may be there.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Cuts it, or makes it longer by zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes what was written safe against loss of power.
    fn sync(&self) -> io::Result<()>;
}

/// The operating system's.
#[derive(Debug, Clone)]
pub(crate) struct RealFolder(PathBuf);

impl RealFolder {
    /// Makes it, owner-only, when there is none; its own name is safe then.
    pub(crate) fn make(path: &Path) -> io::Result<Self> {
        create_private_folder(path)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self(path.to_owned()))
    }
}

impl SegmentFolder for RealFolder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if let (Ok(name), true) = (entry.file_name().into_string(), entry.file_type()?.is_file()) {
                files.push((name, entry.metadata()?.len()));
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let path = self.0.join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let allocated = match fallocate(&file, FallocateFlags::empty(), 0, len) {
            // FAT and some network file systems cannot: a file of that length is the next best, its writes may meet a full disk.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(len),
            done => done.map_err(io::Error::from),
        };
        if let Err(error) = allocated {
            let _ = fs::remove_file(&path); // the disk may be full: half a file must not stay
            return Err(error);
        }
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.0.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}

impl Readable for File {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match FileExt::read_at(self, &mut bytes[done..], at + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

impl SegmentFile for File {
    fn read_anew(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        // Whole pages are dropped, not dirty ones, and not on each file system: it is the best that can be asked for.
        let pages = (at + bytes.len() as u64).next_multiple_of(4096) - at / 4096 * 4096;
        let _ = fadvise(self, at / 4096 * 4096, NonZeroU64::new(pages), Advice::DontNeed);
        Readable::read_at(self, bytes, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
