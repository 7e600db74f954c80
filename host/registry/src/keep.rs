//! What the cache keeps, and how it lets go: holds, the time of last use, and the sweep. Which components go is decided
//! elsewhere (`marram_core::cache`).
//!
//! The time of last use is the modification time of a component's file. It is written when the component is fetched, started
//! or stopped, but at most once a day: a device that restarts its modules all the time does not wear its flash with it.
//!
//! A sweep removes the records first, makes that safe, and then every blob to which no record leads. Stopped anywhere, it
//! leaves blobs that nothing names, which the next one removes; never a record of what is not there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use marram_core::{
    ports::{BoxFuture, CacheError, ComponentCache, KeptComponent, KeptComponents, Lease},
    time::UtcMillis,
};

use crate::{
    cache::{Cache, MAX_RECORD_BYTES, Record, lock, read_bounded},
    digest::Digest,
    failure::{Failure, blocking},
    fetch::{Registry, cached_layer, cached_manifest},
    image::Image,
    partial::{Parts, millis},
};

/// A use is written down unless the one before was less than this ago.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Blobs that a sweep leaves alone as long as this lives.
struct Hold {
    cache: Arc<Cache>,
    digests: Vec<Digest>,
    component: Digest,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = lock(&self.cache.held);
        for digest in &self.digests {
            if let Some(count) = held.get_mut(digest) {
                *count -= 1;
            }
        }
        held.retain(|_, count| *count > 0);
        drop(held);
        // That moment is its last use. Elsewhere, for it touches the disk.
        let (cache, component) = (self.cache.clone(), self.component);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || cache.used(&component))),
            Err(_) => cache.used(&component),
        }
    }
}

/// What a record leads to.
struct Reach {
    component: Digest,
    /// The component, its manifest, the config, and the indexes on the way.
    blobs: BTreeSet<Digest>,
}

/// A record as found.
struct Found {
    path: PathBuf,
    /// None: damaged, or something that it leads to is not here.
    image: Option<(String, Reach)>,
}

impl Cache {
    /// Keeps blobs, whether they are here already or not, until the lease ends.
    pub(crate) fn hold(self: &Arc<Self>, component: Digest, others: impl IntoIterator<Item = Digest>) -> Lease {
        let digests: Vec<Digest> = others.into_iter().chain([component]).collect();
        let mut held = lock(&self.held);
        digests.iter().for_each(|digest| *held.entry(*digest).or_default() += 1);
        drop(held);
        Lease::new(Hold { cache: self.clone(), digests, component })
    }

    /// Writes down that a component is used, unless that was written within a day. A clock that was set back writes nothing.
    pub(crate) fn used(&self, component: &Digest) {
        let path = self.blob_path(component);
        let touch = || -> io::Result<()> {
            let (now, before) = (SystemTime::now(), fs::metadata(&path)?.modified()?);
            if now.duration_since(before).is_ok_and(|ago| ago >= DAY) {
                self.with_same_content(component, || File::open(&path)?.set_modified(now))?;
            }
            Ok(())
        };
        match touch() {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(path = %path.display(), %err, "the time of last use cannot be written");
            }
            _ => {}
        }
    }

    /// All that is kept. `wanted`: references as written, with the image that each means.
    fn kept(&self, limit: u64, wanted: &[(String, String)]) -> Result<KeptComponents, Failure> {
        let held: BTreeSet<Digest> = lock(&self.held).keys().copied().collect();
        let sizes = self.sizes()?;
        let mut images: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        let mut blobs: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
        for (image, reach) in self.records(limit)?.into_iter().filter_map(|found| found.image) {
            images.entry(reach.component).or_default().push(image);
            blobs.entry(reach.component).or_default().extend(reach.blobs);
        }
        // Of an image whose tag has moved on; an instance of it still runs.
        for digest in held.iter().filter(|digest| sizes.contains_key(digest) && self.is_component(digest)) {
            blobs.entry(*digest).or_default().insert(*digest);
        }
        let mut counted = BTreeSet::new();
        let mut components = Vec::new();
        for (component, blobs) in blobs {
            // What several lead over is counted with the first.
            let own = blobs.iter().filter(|blob| counted.insert(**blob));
            let bytes = own.filter_map(|blob| sizes.get(blob)).sum();
            let mut images = images.remove(&component).unwrap_or_default();
            images.sort_unstable();
            let leads_here = |(_, image): &&(String, String)| images.contains(image);
            let named = wanted.iter().filter(leads_here).map(|(text, _)| text.clone()).collect();
            let (digest, last_use) = (component.to_string(), self.last_use(&component));
            components.push(KeptComponent { digest, images, named, bytes, last_use, held: held.contains(&component) });
        }
        let others = sizes.iter().filter(|(digest, _)| !counted.contains(digest)).map(|(_, bytes)| bytes).sum::<u64>();
        let Parts { parts, strange_bytes, .. } = self.parts()?;
        let parts = parts.into_iter().map(|(part, _)| part).collect();
        Ok(KeptComponents { components, parts, other_bytes: others + strange_bytes, now: millis(SystemTime::now()) })
    }

    fn parts(&self) -> Result<Parts, Failure> {
        let folder = self.partial();
        self.with_busy(|busy| Parts::of(&folder, &busy)).map_err(Failure::disk("read", &folder))
    }

    fn remove_parts(&self, digests: &HashSet<String>) -> Result<(), Failure> {
        let folder = self.partial();
        let removed = self.with_busy(|busy| Parts::of(&folder, &busy)?.remove(digests));
        removed.map_err(Failure::disk("tidy", &folder))
    }

    /// Removes components and all that nothing leads to.
    fn sweep(&self, limit: u64, components: &BTreeSet<Digest>) -> Result<(), Failure> {
        // To the end: what begins to be used meanwhile finds all of it, or nothing.
        let held = lock(&self.held);
        let mut roots: BTreeSet<Digest> = held.keys().copied().collect();
        let mut removed = false;
        for Found { path, image } in self.records(limit)? {
            match image {
                Some((_, reach)) if !components.contains(&reach.component) || held.contains_key(&reach.component) => {
                    roots.extend(reach.blobs);
                }
                _ => {
                    remove(&path)?;
                    removed = true;
                }
            }
        }
        if removed {
            let folder = self.refs();
            let synced = File::open(&folder).and_then(|folder| folder.sync_all());
            synced.map_err(Failure::disk("sync", &folder))?;
        }
        for digest in self.sizes()?.keys().filter(|digest| !roots.contains(digest)) {
            lock(&self.verified).remove(digest);
            remove(&self.blob_path(digest))?;
        }
        let parts = self.partial();
        self.parts()?.remove_strangers().map_err(Failure::disk("tidy", &parts))
    }

    /// All records, each with what it leads to.
    fn records(&self, limit: u64) -> Result<Vec<Found>, Failure> {
        let mut records = Vec::new();
        for path in files(&self.refs())? {
            let bytes = read_bounded(&path, MAX_RECORD_BYTES).map_err(Failure::disk("read", &path))?;
            let record = serde_json::from_slice::<Record>(&bytes.unwrap_or_default()).ok();
            let image = match record {
                Some(record) => self.reach(&record, limit)?.map(|reach| (record.image, reach)),
                None => None,
            };
            records.push(Found { path, image });
        }
        Ok(records)
    }

    fn reach(&self, record: &Record, limit: u64) -> Result<Option<Reach>, Failure> {
        let Some((documents, manifest)) = cached_manifest(self, record.manifest, limit).or_else(nowhere)? else {
            return Ok(None);
        };
        let Some(layer) = cached_layer(self, &manifest).or_else(nowhere)? else { return Ok(None) };
        if !self.blob_path(&layer.digest).is_file() {
            return Ok(None);
        }
        let blobs = documents.into_iter().chain([manifest.config.digest, layer.digest]).collect();
        Ok(Some(Reach { component: layer.digest, blobs }))
    }

    /// Bytes of all blobs.
    fn sizes(&self) -> Result<HashMap<Digest, u64>, Failure> {
        let blob = |path: PathBuf| {
            let digest = Digest::parse(&format!("sha256:{}", path.file_name()?.to_str()?)).ok()?;
            Some((digest, fs::symlink_metadata(&path).ok()?.len()))
        };
        Ok(files(&self.blobs())?.into_iter().filter_map(blob).collect())
    }

    fn last_use(&self, component: &Digest) -> UtcMillis {
        let time = fs::metadata(self.blob_path(component)).and_then(|file| file.modified());
        time.map_or(UtcMillis(0), millis)
    }
}

/// A manifest that makes no sense leads nowhere.
fn nowhere<T>(failure: Failure) -> Result<Option<T>, Failure> {
    match failure {
        Failure::Refused(_) => Ok(None),
        other => Err(other),
    }
}

/// The files of a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>();
    read().map_err(Failure::disk("read", folder))
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(Failure::disk("delete", path)(err)),
        _ => Ok(()),
    }
}

impl Registry {
    /// The image that a reference means, as records name it; none when it means none.
    fn canonical(&self, text: &str) -> Option<String> {
        let image = Image::parse(text).ok()?;
        self.complete(image).ok().map(|image| image.to_string())
    }
}

impl ComponentCache for Registry {
    fn components(&self, images: Vec<String>) -> BoxFuture<'_, Result<KeptComponents, CacheError>> {
        let wanted = images.into_iter().filter_map(|text| self.canonical(&text).map(|image| (text, image)));
        let (cache, limit, wanted) = (self.cache.clone(), self.settings.max_manifest_bytes, wanted.collect::<Vec<_>>());
        Box::pin(async move {
            let kept = blocking(move || {
                cache.prepare()?;
                cache.kept(limit, &wanted)
            });
            kept.await.map_err(failed)
        })
    }

    fn remove_components(&self, digests: Vec<String>) -> BoxFuture<'_, Result<(), CacheError>> {
        let (cache, limit) = (self.cache.clone(), self.settings.max_manifest_bytes);
        Box::pin(async move {
            let digests = digests.iter().filter_map(|digest| Digest::parse(digest).ok()).collect();
            let swept = blocking(move || {
                cache.prepare()?;
                cache.sweep(limit, &digests)
            });
            swept.await.map_err(failed)
        })
    }

    fn remove_parts(&self, digests: Vec<String>) -> BoxFuture<'_, Result<(), CacheError>> {
        let cache = self.cache.clone();
        Box::pin(async move {
            let removed = blocking(move || {
                cache.prepare()?;
                cache.remove_parts(&digests.into_iter().collect())
            });
            removed.await.map_err(failed)
        })
    }
}

fn failed(failure: Failure) -> CacheError {
    CacheError(failure.to_string())
}
