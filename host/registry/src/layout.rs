//! OCI image-layout folders: `oci-layout`, `index.json`, `blobs/sha256/…`. Reads what others wrote, writes our own.
//!
//! Paths are made of digests that have been parsed, so a layout cannot name a file outside itself. Blocks on the disk.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use marram_core::retry::Fault;
use serde_json::{Value, json};

use crate::{
    cache::{create, read_bounded, rename},
    digest::Digest,
    failure::Failure,
    image::LayoutImage,
    manifest::{Descriptor, MEDIA_TYPE_INDEX, MEDIA_TYPE_MANIFEST},
};

/// Carries the tag of an entry of `index.json`.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
/// A file in the making. One name is enough, for pushes hold a lock, and lets the next push replace what a killed one left.
const TEMPORARY: &str = ".push.tmp";
/// Most entries whose manifests are read to find out what they refer to.
const MAX_SEARCHED: usize = 1024;
/// Most names that an error lists.
const MAX_LISTED: usize = 8;

/// A layout folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    folder: PathBuf,
    max_index_bytes: u64,
}

impl Layout {
    pub(crate) fn new(folder: &Path, max_index_bytes: u64) -> Self {
        Self { folder: folder.to_owned(), max_index_bytes }
    }

    /// The manifest or index that the image means.
    pub(crate) fn resolve(&self, image: &LayoutImage) -> Result<Digest, Failure> {
        if let Some(digest) = image.digest {
            return Ok(digest);
        }
        let index = self.read_index()?;
        let entries = entries_of(&index);
        let named = |tag: &str| entries.iter().filter(move |entry| name_of(entry) == Some(tag)).collect::<Vec<_>>();
        let found = match &image.tag {
            Some(tag) => named(tag),
            None => entries.iter().collect(),
        };
        match (found.as_slice(), &image.tag) {
            ([only], _) => digest_of(only),
            ([], None) => Err(Failure::refused("the layout is empty")),
            ([], Some(tag)) => Err(Failure::refused(format!("the layout has no tag `{tag}` ({})", tags(entries)))),
            (_, None) => Err(Failure::refused(format!(
                "the layout has several images; append one of its tags ({})",
                tags(entries)
            ))),
            (_, Some(tag)) => Err(Failure::refused(format!("the layout has the tag `{tag}` more than once"))),
        }
    }

    /// The manifest or index under a tag, if it is there once.
    pub(crate) fn tagged(&self, tag: &str) -> Result<Option<Digest>, Failure> {
        let index = self.read_index()?;
        match entries_of(&index).iter().filter(|entry| name_of(entry) == Some(tag)).collect::<Vec<_>>()[..] {
            [only] => digest_of(only).map(Some),
            _ => Ok(None),
        }
    }

    /// An index of the entries whose manifest names this one as its subject; none when there is no such entry.
    pub(crate) fn referrers(&self, subject: &Digest, limit: u64) -> Result<Option<Vec<u8>>, Failure> {
        let (index, subject) = (self.read_index()?, subject.to_string());
        let refers = |entry: &&Value| {
            let Ok(digest) = digest_of(entry) else { return false };
            let bytes = read_bounded(&self.blob_path(&digest), limit).ok().flatten().unwrap_or_default();
            serde_json::from_slice::<Value>(&bytes).is_ok_and(|manifest| manifest["subject"]["digest"] == subject)
        };
        let found: Vec<&Value> = entries_of(&index).iter().take(MAX_SEARCHED).filter(refers).collect();
        let list = json!({"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX, "manifests": found});
        Ok((!found.is_empty()).then(|| list.to_string().into_bytes()))
    }

    /// Opens a blob. Its size and content are for the caller to check.
    pub(crate) fn open(&self, digest: &Digest) -> Result<File, Failure> {
        let path = self.blob_path(digest);
        let missing = |err: io::Error| match err.kind() {
            io::ErrorKind::NotFound => Failure::refused(format!("the layout lacks the blob {digest}; copy it again")),
            _ => Failure::disk("read", &path)(err),
        };
        // Not opened when it is a pipe: that would wait for ever.
        if !fs::metadata(&path).map_err(missing)?.is_file() {
            return Err(Failure::refused(format!("{} is not a file", path.display())));
        }
        File::open(&path).map_err(Failure::disk("read", &path))
    }

    /// Adds blobs and an image under a tag; other tags stay. The index is replaced last and at once.
    pub(crate) fn push(&self, blobs: &[&[u8]], manifest: &[u8], tag: Option<&str>) -> Result<(), Failure> {
        let folder = self.folder.join("blobs/sha256");
        fs::create_dir_all(&folder).map_err(Failure::disk("create the folder", &folder))?;
        // The marker is also the lock against another push into the same folder.
        let marker = self.folder.join(MARKER);
        let mut lock = File::options().read(true).append(true).create(true).open(&marker);
        let lock = lock
            .as_mut()
            .map_err(|err| Failure::disk("create", &marker)(io::Error::new(err.kind(), err.to_string())))?;
        lock.lock().map_err(Failure::disk("lock", &marker))?;
        if lock.metadata().map_err(Failure::disk("read", &marker))?.len() == 0 {
            lock.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(Failure::disk("write", &marker))?;
        }
        for blob in blobs.iter().chain([&manifest]) {
            self.put(&self.blob_path(&Digest::of(blob)), blob)?;
        }
        let index = self.indexed(manifest, tag)?;
        self.put(&self.folder.join(INDEX), index.to_string().as_bytes())
    }

    /// The index with this image in place of the one that had the tag.
    fn indexed(&self, manifest: &[u8], tag: Option<&str>) -> Result<Value, Failure> {
        let mut index = match self.folder.join(INDEX).try_exists() {
            Ok(false) => json!({"schemaVersion": 2, "mediaType": MEDIA_TYPE_INDEX, "manifests": []}),
            _ => self.read_index()?,
        };
        let digest = Digest::of(manifest).to_string();
        let mut entry = json!({"mediaType": MEDIA_TYPE_MANIFEST, "digest": digest, "size": manifest.len()});
        if let Some(tag) = tag {
            entry["annotations"] = json!({ REF_NAME: tag });
        }
        if let Some(entries) = index.get_mut("manifests").and_then(Value::as_array_mut) {
            entries.retain(|old| name_of(old) != tag || (tag.is_none() && old["digest"] != entry["digest"]));
            entries.push(entry);
        }
        Ok(index)
    }

    fn read_index(&self) -> Result<Value, Failure> {
        let path = self.folder.join(INDEX);
        let bytes = read_bounded(&path, self.max_index_bytes).map_err(|err| self.missing(&path, err))?;
        let bytes = bytes.ok_or_else(|| Failure::refused(format!("{} is too large", path.display())))?;
        let index: Value = serde_json::from_slice(&bytes)
            .map_err(|err| Failure::refused(format!("{} cannot be read: {err}", path.display())))?;
        if index["schemaVersion"] != 2 || !index["manifests"].is_array() {
            return Err(Failure::refused(format!("{} is not the index of an OCI image layout", path.display())));
        }
        Ok(index)
    }

    /// A folder that is away may come back (a stick, a mount), and a copy may stand in; one without an index is wrong.
    fn missing(&self, path: &Path, err: io::Error) -> Failure {
        let folder = self.folder.display();
        match (err.kind(), self.folder.is_dir()) {
            (io::ErrorKind::NotFound, false) => {
                Failure::unreachable(Fault::Lasting, format!("the folder {folder} does not exist"))
            }
            (io::ErrorKind::NotFound, true) => {
                Failure::refused(format!("the folder {folder} is not an OCI image layout (it has no {INDEX})"))
            }
            _ => Failure::disk("read", path)(err),
        }
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
        let temporary = self.folder.join(TEMPORARY);
        // Of a push that was killed: the lock is held.
        let _ = fs::remove_file(&temporary);
        let write = || {
            let mut file = create(&temporary)?;
            file.write_all(bytes)?;
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            file.sync_all()?;
            rename(&temporary, path)
        };
        write().map_err(|err| {
            let _ = fs::remove_file(&temporary);
            Failure::disk("write", path)(err)
        })
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }
}

fn entries_of(index: &Value) -> &[Value] {
    index["manifests"].as_array().map_or(&[], Vec::as_slice)
}

fn name_of(entry: &Value) -> Option<&str> {
    entry["annotations"][REF_NAME].as_str()
}

fn digest_of(entry: &Value) -> Result<Digest, Failure> {
    let descriptor = serde_json::from_value::<Descriptor>(entry.clone());
    descriptor.map(|d| d.digest).map_err(|err| Failure::refused(format!("the layout's index has a bad entry: {err}")))
}

fn tags(entries: &[Value]) -> String {
    let names: Vec<&str> = entries.iter().filter_map(name_of).take(MAX_LISTED).collect();
    if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) }
}
