//! Downloads that broke off: what has arrived of a blob stays under the blob's digest, over restarts and a kill of the
//! host, until the rest is there.
//!
//! What stands in these files is never trusted: whoever goes on with one computes the digest over all of it. The folder is
//! bounded; the part that was written to longest ago goes first.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use marram_core::{ports::KeptPart, time::UtcMillis};

use crate::{
    digest::{Digest, Hasher},
    failure::Failure,
};

/// Piece in which a part is read.
const READ_BYTES: usize = 256 << 10;

/// What a folder of parts holds.
#[derive(Default)]
pub(crate) struct Parts {
    /// Those whose name is in `busy` are held.
    pub(crate) parts: Vec<(KeptPart, PathBuf)>,
    /// What is no part of ours, with whether it is a folder.
    pub(crate) strangers: Vec<(PathBuf, bool)>,
    /// Of the strangers that are files.
    pub(crate) strange_bytes: u64,
}

impl Parts {
    /// Reads a folder. `busy`: digests that are being downloaded.
    pub(crate) fn of(folder: &Path, busy: &HashSet<String>) -> io::Result<Self> {
        let mut found = Self::default();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Finished or given up meanwhile by the one who downloads it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let digest = format!("sha256:{}", entry.file_name().to_string_lossy());
            if !metadata.is_file() || Digest::parse(&digest).is_err() {
                found.strange_bytes += if metadata.is_dir() { 0 } else { metadata.len() };
                found.strangers.push((entry.path(), metadata.is_dir()));
                continue;
            }
            let (last_use, held) = (millis(metadata.modified()?), busy.contains(&digest));
            found.parts.push((KeptPart { digest, bytes: metadata.len(), last_use, held }, entry.path()));
        }
        Ok(found)
    }

    /// Deletes what is no part of ours.
    pub(crate) fn remove_strangers(&self) -> io::Result<()> {
        self.strangers.iter().try_for_each(|(path, is_folder)| remove(path, *is_folder))
    }

    /// Deletes the parts of these digests that are not held.
    pub(crate) fn remove(&self, digests: &HashSet<String>) -> io::Result<()> {
        let gone = self.parts.iter().filter(|(part, _)| !part.held && digests.contains(&part.digest));
        gone.into_iter().try_for_each(|(_, path)| remove(path, false))
    }
}

/// Of the wall clock.
pub(crate) fn millis(time: SystemTime) -> UtcMillis {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UtcMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Deletes stale parts, and the oldest ones until no more than `limit` bytes are left. Those in `busy` stay. What is no
/// part of ours goes too.
pub(crate) fn tidy(folder: &Path, limit: u64, busy: &HashSet<String>) -> io::Result<()> {
    let found = Parts::of(folder, busy)?;
    found.remove_strangers()?;
    let now = millis(SystemTime::now());
    let mut free: Vec<_> = found.parts.iter().filter(|(part, _)| !part.held).collect();
    // The youngest first.
    free.sort_by_key(|(part, path)| (std::cmp::Reverse(part.last_use), path));
    let mut bytes = 0;
    for (part, path) in free {
        bytes += part.bytes;
        if bytes > limit || part.is_stale(now) {
            remove(path, false)?;
        }
    }
    Ok(())
}

fn remove(path: &Path, folder: bool) -> io::Result<()> {
    let removed = if folder { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// What has arrived of a blob. Stays when dropped, unless it is nothing.
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    file: File,
}

impl Part {
    /// Opens what is there of `digest`, or begins; at its end. Also returns the digest's state over its bytes and their
    /// number. One with more than `size` bytes is emptied.
    pub(crate) fn open(folder: &Path, digest: &Digest, size: u64) -> Result<(Self, Hasher, u64), Failure> {
        let path = folder.join(digest.hex());
        let mut options = OpenOptions::new();
        // A link would lead out of the folder.
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let file = options.open(&path).map_err(Failure::disk("open", &path))?;
        let mut part = Self { path, file };
        let failed = Failure::disk("read", &part.path);
        let (hasher, bytes) = part.read(size).map_err(failed)?;
        Ok((part, hasher, bytes))
    }

    fn read(&mut self, size: u64) -> io::Result<(Hasher, u64)> {
        let mut hasher = Hasher::new();
        if self.file.metadata()?.len() > size {
            self.file.set_len(0)?;
        }
        let (mut piece, mut bytes) = (vec![0; READ_BYTES], 0);
        loop {
            match self.file.read(&mut piece)? {
                0 => return Ok((hasher, bytes)),
                read => {
                    hasher.update(&piece[..read]);
                    bytes += read as u64;
                }
            }
        }
    }

    /// The first bytes, at most as many as asked for.
    pub(crate) fn beginning(&mut self, bytes: usize) -> Result<Vec<u8>, Failure> {
        let mut read = || {
            let mut head = Vec::new();
            let end = self.file.stream_position()?;
            self.file.rewind()?;
            Read::by_ref(&mut self.file).take(bytes as u64).read_to_end(&mut head)?;
            self.file.seek(io::SeekFrom::Start(end))?;
            Ok(head)
        };
        read().map_err(Failure::disk("read", &self.path))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(Failure::disk("write", &self.path))
    }

    /// Forgets what is there.
    pub(crate) fn empty(&mut self) -> Result<(), Failure> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(Failure::disk("write", &self.path))
    }

    pub(crate) fn sync(&self) -> Result<(), Failure> {
        self.file.sync_all().map_err(Failure::disk("sync", &self.path))
    }

    /// Not worth keeping.
    pub(crate) fn discard(&self) {
        let _ = fs::remove_file(&self.path); // what stays is found wrong the next time
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            self.discard();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn folder_with(sizes: &[(&str, usize, u64)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes, age) in sizes {
            let path = folder.path().join(Digest::of(name.as_bytes()).hex());
            fs::write(&path, vec![0; *bytes]).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(*age)).unwrap();
        }
        folder
    }

    /// Those of these parts that are there; there is nothing else.
    fn left<'a>(folder: &Path, names: &[&'a str]) -> Vec<&'a str> {
        let is_there = |name: &&str| folder.join(Digest::of(name.as_bytes()).hex()).exists();
        let left: Vec<_> = names.iter().copied().filter(is_there).collect();
        assert_eq!(fs::read_dir(folder).unwrap().count(), left.len());
        left
    }

    #[test]
    fn the_oldest_parts_go_until_the_rest_is_within_the_bound() {
        let folder = folder_with(&[("new", 40, 10), ("middle", 40, 20), ("old", 40, 30), ("busy", 900, 40)]);
        tidy(folder.path(), 80, &HashSet::from([Digest::of(b"busy").to_string()])).unwrap();
        assert_eq!(left(folder.path(), &["new", "middle", "old", "busy"]), ["new", "middle", "busy"]);
    }

    #[test]
    fn a_part_that_nobody_wrote_to_for_a_week_goes() {
        let week = 7 * 86_400;
        let folder = folder_with(&[("stale", 1, week + 60), ("fresh", 1, week - 60)]);
        fs::create_dir(folder.path().join("folder")).unwrap();
        fs::write(folder.path().join("strange"), "").unwrap();
        tidy(folder.path(), 1000, &HashSet::new()).unwrap();
        assert_eq!(left(folder.path(), &["stale", "fresh"]), ["fresh"]);
    }

    #[test]
    fn a_part_goes_on_where_it_ended_and_one_that_is_too_long_begins_anew() {
        let (folder, digest) = (tempfile::tempdir().unwrap(), Digest::of(b"abcdef"));
        let (mut part, _, had) = Part::open(folder.path(), &digest, 6).unwrap();
        assert_eq!(had, 0);
        part.write(b"abc").unwrap();
        let (mut part, mut hasher, had) = Part::open(folder.path(), &digest, 6).unwrap();
        assert_eq!((had, &part.beginning(2).unwrap()[..]), (3, &b"ab"[..]));
        part.write(b"def").unwrap();
        hasher.update(b"def");
        assert_eq!(hasher.finish(), digest);
        assert_eq!(Part::open(folder.path(), &digest, 6).unwrap().2, 6);
        assert_eq!(Part::open(folder.path(), &digest, 5).unwrap().2, 0);
    }

    #[test]
    fn a_link_is_not_followed() {
        let (folder, digest) = (tempfile::tempdir().unwrap(), Digest::of(b"x"));
        let target = folder.path().join("target");
        fs::write(&target, b"precious").unwrap();
        std::os::unix::fs::symlink(&target, folder.path().join(digest.hex())).unwrap();
        assert!(Part::open(folder.path(), &digest, 1).is_err());
        assert_eq!(fs::read(&target).unwrap(), b"precious");
    }
}
