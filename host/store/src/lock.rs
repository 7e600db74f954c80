//! Keeps a data folder to one host process: an advisory lock on a file in it, which the kernel drops with the process,
//! however it ends. Nothing here looks at what the folder holds.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::disk::create_private_folder;

/// Name of the locked file in the data folder. It holds the process id of its last holder and stays there unlocked:
/// removing it would let two hosts lock two files of the same name.
pub const LOCK_FILE: &str = "host.lock";

/// The data folder is this process's as long as this value lives.
#[derive(Debug)]
pub struct DataLock {
    // Closing it gives the lock back. Opened close-on-exec, so that a child process does not hold it on.
    _file: File,
}

/// Why the data folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another host runs on it.
    #[error(
        "the data folder {} is in use by {}; stop that host, or give this one a folder of its own with --data",
        .folder.display(), .holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held {
        /// The data folder.
        folder: PathBuf,
        /// Process id as the holder wrote it, if it could be read; of the holder's pid namespace.
        holder: Option<u32>,
    },
    /// The folder or the lock file could not be made or opened.
    #[error("cannot lock the data folder {}; it must be writable by this user", .folder.display())]
    Io {
        /// The data folder.
        folder: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
}

/// Takes the data folder for this process, without waiting. Makes it (owner-only) when there is none.
///
/// # Errors
/// [`LockError`]: another process holds it, or it cannot be written.
pub fn lock_data_dir(path: &Path) -> Result<DataLock, LockError> {
    let io = |source| LockError::Io { folder: path.to_owned(), source };
    create_private_folder(path).map_err(io)?;
    // Not truncated: until the lock is ours, the content is another's.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK_FILE))
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(LockError::Held { folder: path.to_owned(), holder: holder(&mut file) });
        }
        Err(TryLockError::Error(source)) => return Err(io(source)),
    }
    if let Err(error) = sign(&mut file) {
        // The lock counts, the signature is a courtesy: on a full disk the host must still start.
        tracing::debug!(%error, "cannot write the process id into the lock file");
    }
    Ok(DataLock { _file: file })
}

fn sign(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_host_is_refused_and_told_who_holds_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _first = lock_data_dir(folder.path()).unwrap();
        let error = lock_data_dir(folder.path()).unwrap_err();
        assert!(matches!(error, LockError::Held { holder: Some(pid), .. } if pid == std::process::id()));
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    }

    #[test]
    fn a_dropped_lock_frees_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        drop(lock_data_dir(folder.path()).unwrap());
        lock_data_dir(folder.path()).unwrap();
    }

    #[test]
    fn the_folder_is_made_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let outer = tempfile::tempdir().unwrap();
        let data = outer.path().join("a/b");
        let _lock = lock_data_dir(&data).unwrap();
        for path in [outer.path().join("a"), data.clone()] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert_eq!(data.join(LOCK_FILE).metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_lock_file_without_a_readable_holder_is_still_a_lock() {
        let folder = tempfile::tempdir().unwrap();
        let _first = lock_data_dir(folder.path()).unwrap();
        std::fs::write(folder.path().join(LOCK_FILE), b"\xff rubbish").unwrap();
        assert!(matches!(lock_data_dir(folder.path()), Err(LockError::Held { holder: None, .. })));
    }
}
