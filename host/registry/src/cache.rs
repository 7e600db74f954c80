//! The device's copies: blobs by content, and what each image reference was resolved to last.
//!
//! ```text
//! blobs/sha256/<hex>   verified when written, and again before the first use in a process
//! refs/<hex>.json      one reference record; <hex> is the digest of the image's canonical text
//! tmp/                 small files being written
//! partial/<hex>        what has arrived of a blob; see `partial`
//! ```
//! The folder is its owner's alone, as that of compiled code is: a file is read once in a process to be verified, so
//! nobody else may change it afterwards, and nobody else may say what a tag means.
//!
//! A name in `blobs` or `refs` appears by rename after fsync: a crash leaves the old file, the new one or none. Nothing is
//! removed here except what is damaged (`keep` removes more); it does not know which modules exist.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::{
    digest::{Digest, Hasher},
    failure::Failure,
    image::Image,
    inspect::{PREAMBLE_BYTES, is_component},
    partial::{self, Part},
};

/// Largest reference record; ours have some hundred bytes.
pub(crate) const MAX_RECORD_BYTES: u64 = 64 << 10;
/// Most bytes of downloads that broke off and that nobody goes on with now: one component of the largest size. More would
/// be flash that no module uses.
const MAX_PARTIAL_BYTES: u64 = 128 << 20;
/// Piece in which a blob is read to be verified.
const READ_BYTES: usize = 256 << 10;

/// A cache folder, used by one process. Its methods block on the disk.
pub(crate) struct Cache {
    pub(crate) root: PathBuf,
    /// Set once the folders stand and the leftovers of a crash are gone.
    prepared: Mutex<bool>,
    /// Files that this process has verified, as they were then.
    pub(crate) verified: Mutex<HashMap<Digest, Stamp>>,
    /// Blobs that are in use, with how often. Its lock is also held by whoever adds or removes records.
    pub(crate) held: Mutex<HashMap<Digest, usize>>,
    downloads: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    serial: AtomicU64,
}

/// Tells a file from a changed one without reading it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { inode: metadata.ino(), bytes: metadata.len(), changed: (metadata.ctime(), metadata.ctime_nsec()) }
    }
}

/// What an image reference was resolved to.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Canonical text of the image.
    pub(crate) image: String,
    /// The manifest, or the index that leads to it.
    pub(crate) manifest: Digest,
}

impl Cache {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            prepared: Mutex::default(),
            verified: Mutex::default(),
            held: Mutex::default(),
            downloads: Mutex::default(),
            serial: AtomicU64::new(0),
        }
    }

    /// Makes or checks the folders, which are for their owner only, and clears what a crash left in `tmp`. Does its work
    /// once.
    pub(crate) fn prepare(&self) -> Result<(), Failure> {
        let mut prepared = lock(&self.prepared);
        if *prepared {
            return Ok(());
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root);
        made.map_err(Failure::disk("create the folder", &self.root))?;
        let metadata = fs::symlink_metadata(&self.root).map_err(Failure::disk("read", &self.root))?;
        check_private(&metadata).map_err(Failure::disk("use the cache folder", &self.root))?;
        let temporary = self.root.join("tmp");
        match fs::remove_dir_all(&temporary) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(Failure::disk("clear", &temporary)(err)),
            _ => {}
        }
        for folder in [self.blobs(), self.refs(), temporary, self.partial()] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(Failure::disk("create the folder", &folder))?;
        }
        *prepared = true;
        Ok(())
    }

    /// Held while a blob is fetched, so that it is fetched once.
    pub(crate) fn download_lock(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut downloads = lock(&self.downloads);
        downloads.retain(|_, held| Arc::strong_count(held) > 1);
        downloads.entry(*digest).or_default().clone()
    }

    /// The file of a blob that is here and intact; a damaged one is deleted.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<PathBuf>, Failure> {
        let path = self.blob_path(digest);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(Failure::disk("read", &path)(err)),
        };
        let stamp = Stamp::of(&metadata);
        if lock(&self.verified).get(digest) == Some(&stamp) {
            return Ok(Some(path));
        }
        if metadata.is_file() && digest_of_file(&path).map_err(Failure::disk("read", &path))? == *digest {
            lock(&self.verified).insert(*digest, stamp);
            return Ok(Some(path));
        }
        tracing::warn!(path = %path.display(), "a cached blob is damaged; it is deleted and will be fetched again");
        fs::remove_file(&path).map_err(Failure::disk("delete the damaged", &path))?;
        Ok(None)
    }

    /// Contents of a small blob that is here and intact.
    pub(crate) fn small_blob(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
        let Some(path) = self.blob(digest)? else { return Ok(None) };
        let bytes = read_bounded(&path, limit).map_err(Failure::disk("read", &path))?;
        Ok(bytes.filter(|bytes| Digest::of(bytes) == *digest))
    }

    /// Keeps a small blob.
    pub(crate) fn put_small_blob(&self, bytes: &[u8]) -> Result<(), Failure> {
        let digest = Digest::of(bytes);
        if self.blob(&digest)?.is_some() {
            return Ok(());
        }
        let path = self.blob_path(&digest);
        self.put(&path, bytes)?;
        self.mark_verified(&digest, &path)
    }

    /// What the image was resolved to; none also when the record is damaged.
    pub(crate) fn record(&self, image: &Image) -> Result<Option<Record>, Failure> {
        let path = self.record_path(image);
        let bytes = match read_bounded(&path, MAX_RECORD_BYTES) {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(Failure::disk("read", &path)(err)),
        };
        let record = serde_json::from_slice::<Record>(&bytes).ok().filter(|record| record.image == image.to_string());
        if record.is_none() {
            tracing::warn!(path = %path.display(), "a reference record is damaged; it is ignored");
        }
        Ok(record)
    }

    /// Remembers what the image was resolved to.
    pub(crate) fn put_record(&self, image: &Image, manifest: Digest) -> Result<(), Failure> {
        // Not between a sweep's look at the records and its look at the blobs.
        let _held = lock(&self.held);
        if self.record(image)?.is_some_and(|record| record.manifest == manifest) {
            return Ok(());
        }
        let record = Record { image: image.to_string(), manifest };
        let path = self.record_path(image);
        let bytes = serde_json::to_vec(&record).map_err(|err| Failure::disk("write", &path)(err.into()))?;
        self.put(&path, &bytes)
    }

    /// What has arrived of a blob of `size` bytes, for the holder of its download lock: to be written on, with the digest's
    /// state and the number of its bytes. Others make room: all that nobody is downloading has at most `MAX_PARTIAL_BYTES`.
    pub(crate) fn part(&self, digest: &Digest, size: u64) -> Result<(Part, Hasher, u64), Failure> {
        let folder = self.partial();
        self.with_busy(|mut busy| {
            busy.insert(digest.to_string());
            partial::tidy(&folder, MAX_PARTIAL_BYTES, &busy).map_err(Failure::disk("tidy", &folder))
        })?;
        Part::open(&folder, digest, size)
    }

    /// Does something to the parts, told which are being downloaded. Who begins a download later opens what is left then.
    pub(crate) fn with_busy<T>(&self, work: impl FnOnce(HashSet<String>) -> T) -> T {
        let downloads = lock(&self.downloads);
        let busy = downloads.iter().filter(|(_, held)| Arc::strong_count(held) > 1);
        work(busy.map(|(digest, _)| digest.to_string()).collect())
    }

    /// An empty file for a small blob or a record.
    fn temporary(&self) -> Result<Temporary, Failure> {
        let path = self.root.join("tmp").join(self.serial.fetch_add(1, Ordering::Relaxed).to_string());
        let file = create(&path).map_err(Failure::disk("create", &path))?;
        Ok(Temporary { path, file })
    }

    /// Puts a finished download in its place. Its content has been verified by the caller.
    pub(crate) fn keep(&self, part: &Part, digest: &Digest) -> Result<PathBuf, Failure> {
        let path = self.blob_path(digest);
        part.sync()?;
        rename(&part.path, &path).map_err(Failure::disk("write", &path))?;
        self.mark_verified(digest, &path)?;
        Ok(path)
    }

    /// Does something to the blob that changes its time, but not its content: what was verified stays so.
    pub(crate) fn with_same_content(&self, digest: &Digest, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let path = self.blob_path(digest);
        let mut verified = lock(&self.verified);
        let before = Stamp::of(&fs::symlink_metadata(&path)?);
        change()?;
        if verified.get(digest) == Some(&before) {
            verified.insert(*digest, Stamp::of(&fs::symlink_metadata(&path)?));
        }
        Ok(())
    }

    /// Whether a blob is here and starts as a component does. Not verified.
    pub(crate) fn is_component(&self, digest: &Digest) -> bool {
        head_of(&self.blob_path(digest)).is_ok_and(|(head, _)| is_component(&head))
    }

    fn mark_verified(&self, digest: &Digest, path: &Path) -> Result<(), Failure> {
        let metadata = fs::symlink_metadata(path).map_err(Failure::disk("read", path))?;
        lock(&self.verified).insert(*digest, Stamp::of(&metadata));
        Ok(())
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let mut temporary = self.temporary()?;
        let written = temporary.file.write_all(bytes).and_then(|()| temporary.file.sync_all());
        written.map_err(Failure::disk("write", &temporary.path))?;
        rename(&temporary.path, path).map_err(Failure::disk("write", path))
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(crate) fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    fn record_path(&self, image: &Image) -> PathBuf {
        self.refs().join(format!("{}.json", Digest::of(image.to_string().as_bytes()).hex()))
    }
}

/// A file in `tmp/`; deleted when dropped, unless it was renamed.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Not there after a rename.
        let _ = fs::remove_file(&self.path);
    }
}

/// A new file for its owner only.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Moves a synced file to its place and makes the new name safe against loss of power.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    match to.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// The file's bytes, or none when there are more than `limit`.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// The first bytes of a file, and how many it has.
pub(crate) fn head_of(path: &Path) -> io::Result<(Vec<u8>, u64)> {
    let (mut head, file) = (Vec::new(), File::open(path)?);
    let bytes = file.metadata()?.len();
    file.take(PREAMBLE_BYTES as u64).read_to_end(&mut head)?;
    Ok((head, bytes))
}

/// The rule of the engine's folder of compiled code.
fn check_private(metadata: &Metadata) -> io::Result<()> {
    let problem = if !metadata.is_dir() {
        "it is not a folder".to_owned()
    } else if metadata.uid() != rustix::process::geteuid().as_raw() {
        format!("it belongs to user {}", metadata.uid())
    } else if metadata.mode() & 0o077 != 0 {
        format!("others may enter it (mode {:o}); try chmod 700", metadata.mode() & 0o7777)
    } else {
        return Ok(());
    };
    let text = format!("components are only taken from a folder of this user alone: {problem}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

fn digest_of_file(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut piece = vec![0; READ_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&piece[..read]),
        }
    }
}

/// The data behind these locks is whole after a panic: each change is one insertion.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("cache"));
        cache.prepare().unwrap();
        (folder, cache)
    }

    #[test]
    fn a_blob_that_changed_on_disk_is_deleted_even_if_it_was_verified_before() {
        let (_folder, cache) = cache();
        let digest = Digest::of(b"content");
        cache.put_small_blob(b"content").unwrap();
        let path = cache.blob(&digest).unwrap().unwrap();
        fs::write(&path, b"CONTENT").unwrap();
        assert_eq!(cache.blob(&digest).unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn a_record_is_read_only_for_the_image_that_it_names() {
        let (_folder, cache) = cache();
        let [a, b] = ["a.example/x:1", "b.example/x:1"].map(|text| Image::parse(text).unwrap());
        cache.put_record(&a, Digest::of(b"1")).unwrap();
        assert_eq!(cache.record(&a).unwrap().unwrap().manifest, Digest::of(b"1"));
        assert_eq!(cache.record(&b).unwrap(), None);
        fs::copy(cache.record_path(&a), cache.record_path(&b)).unwrap();
        assert_eq!(cache.record(&b).unwrap(), None);
        fs::write(cache.record_path(&a), b"{").unwrap();
        assert_eq!(cache.record(&a).unwrap(), None);
    }

    #[test]
    fn a_folder_that_others_may_enter_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("cache");
        let prepare = || Cache::new(root.clone()).prepare();
        let chmod = |mode| fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
        prepare().unwrap();
        for mode in [0o750, 0o702, 0o755] {
            chmod(mode);
            let said = prepare().unwrap_err().to_string();
            assert!(said.contains("chmod 700") && said.contains(&*root.to_string_lossy()), "{said}");
        }
        chmod(0o700);
        prepare().unwrap();
        fs::rename(&root, folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &root).unwrap();
        assert!(prepare().unwrap_err().to_string().contains("not a folder"));
    }

    #[test]
    fn a_dropped_temporary_leaves_nothing_and_a_crashed_one_is_cleared() {
        let (folder, cache) = cache();
        let files = || fs::read_dir(folder.path().join("cache/tmp")).unwrap().count();
        let temporary = cache.temporary().unwrap();
        assert_eq!(files(), 1);
        drop(temporary);
        assert_eq!(files(), 0);
        std::mem::forget(cache.temporary().unwrap());
        Cache::new(folder.path().join("cache")).prepare().unwrap();
        assert_eq!(files(), 0);
    }
}
