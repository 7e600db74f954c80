//! The pull path: reference → manifest → config → component, each verified before the next is believed.
//!
//! When the network is asked: always for a tag, unless the caller prefers the copy; never for a digest that is here, and
//! never under `imagePullPolicy: never`. A copy stands in (`stale`) only for a source that cannot be reached; a refusal
//! or a mismatch is an error even when an older copy exists.

use std::{path::PathBuf, sync::Arc};

use marram_core::{
    deployment::{PullPolicy, RegistryCredential},
    ports::{Artifact, BoxFuture, FetchError, FetchRequest, Images, Lease},
    retry::{Fault, Standby},
};
use oci_client::RegistryOperation;
use tokio::sync::Semaphore;

use crate::{
    auth::Logins,
    cache::{Cache, head_of},
    digest::Digest,
    download::{Download, Finished},
    failure::{Failure, blocking},
    http::Transport,
    image::{Authority, Image},
    inspect::{PREAMBLE_BYTES, check_preamble, is_component},
    layout::Layout,
    manifest::{self, Choice, Descriptor, Document, Manifest},
    retry::{Retries, pause},
    session::Session,
    settings::{Settings, SettingsError, hosts},
    source::Source,
};

/// A transfer that brought this much before it broke off is getting somewhere, however slowly: an hour of GPRS has some
/// hundred of them.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Images that registries are asked for at once. Little memory each, but a file and a connection; fewer would let a handful
/// of registries that do not answer hold up the images of those that do.
const FETCHES: usize = 8;
/// The same for images of layouts, which need no network: each takes a thread most of the time.
const LAYOUTS: usize = 8;
/// Images that are looked up in the cache, or copied from layouts, at once. The disk is one; more would only take more
/// threads and buffers. Not places of downloads: what is on the device does not wait for a network.
const LOOKS: usize = 4;
/// Most indexes between a reference and its manifest. One is usual, two are seen; more is a mistake or malice.
const MAX_INDEXES: usize = 4;

/// Fetches components into one cache folder and pushes them to registries and layouts. Make one for a process.
pub struct Registry {
    pub(crate) settings: Settings,
    pub(crate) transport: Transport,
    default_registry: Option<Authority>,
    pub(crate) cache: Arc<Cache>,
    /// Nobody closes these: there is a place, sooner or later.
    fetches: Semaphore,
    layouts: Semaphore,
    /// Held within `fetches`.
    downloads: Semaphore,
    looks: Semaphore,
}

impl Registry {
    /// Checks the settings. Touches neither disk nor network yet.
    ///
    /// # Errors
    /// A host or a certificate in the settings cannot be read.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            transport: Transport::new(&settings)?,
            default_registry: hosts("default", &settings.default_registry)?.pop(),
            cache: Arc::new(Cache::new(settings.cache.clone())),
            fetches: Semaphore::new(FETCHES),
            layouts: Semaphore::new(LAYOUTS),
            downloads: Semaphore::new(settings.concurrent_downloads.max(1)),
            looks: Semaphore::new(LOOKS),
            settings,
        })
    }

    /// Fills in what the reference leaves to the settings: the registry, the working folder.
    pub(crate) fn complete(&self, image: Image) -> Result<Image, Failure> {
        match image {
            Image::Remote(mut image) => {
                image.registry = image.registry.or_else(|| self.default_registry.clone());
                if image.registry.is_none() {
                    return Err(Failure::refused(format!(
                        "it names no registry; write `HOST/{}`, or set `registries.default`",
                        Image::Remote(image)
                    )));
                }
                Ok(Image::Remote(image))
            }
            Image::Layout(mut image) => {
                image.path = std::path::absolute(&image.path).map_err(Failure::disk("find", &image.path))?;
                Ok(Image::Layout(image))
            }
        }
    }

    async fn fetch_text(&self, request: FetchRequest) -> Result<Artifact, FetchError> {
        let image = Image::parse(&request.image).map_err(|err| FetchError {
            message: format!("image `{}`: {err}", request.image.trim()),
            transient: false,
        })?;
        let image = self.complete(image.clone()).map_err(|failure| failure.of(&image))?;
        self.fetch_image(&image, &request).await.map_err(|failure| failure.of(&image))
    }

    async fn fetch_image(&self, image: &Image, request: &FetchRequest) -> Result<Artifact, Failure> {
        self.prepare_cache().await?;
        let never = request.policy == PullPolicy::Never;
        // What a digest names does not change: there is nothing to ask.
        let copy_first = request.prefer_cached || never || image.digest().is_some();
        if copy_first && let Some(artifact) = self.copy_of(image).await? {
            return Ok(artifact);
        }
        // A layout folder is on the device already.
        if never && matches!(image, Image::Remote(_)) {
            return Err(Failure::refused(
                "there is no intact copy on this device, and imagePullPolicy is `never`; set it to `on-create`",
            ));
        }
        // A copy that cannot be read is found out when it is needed.
        let standby = match copy_first || self.copy_of(image).await.ok().flatten().is_none() {
            true => Standby::Nothing,
            false => Standby::Copy,
        };
        let (why, fault) = match self.obtain(image, request, standby).await {
            Err(Failure::Unreachable { message, fault }) => (message, fault),
            other => return other,
        };
        match if copy_first { None } else { self.copy_of(image).await? } {
            Some(artifact) => {
                tracing::warn!(%image, reason = why, "the source is out of reach; the copy of an earlier fetch is used");
                Ok(Artifact { stale: true, ..artifact })
            }
            None => Err(Failure::unreachable(fault, format!("{why} (no copy on this device)"))),
        }
    }

    async fn prepare_cache(&self) -> Result<(), Failure> {
        let (cache, _place) = (self.cache.clone(), self.looks.acquire().await);
        blocking(move || cache.prepare()).await
    }

    /// What an earlier fetch left, if all of it is here and intact.
    async fn copy_of(&self, image: &Image) -> Result<Option<Artifact>, Failure> {
        let (cache, image, pinned) = (self.cache.clone(), image.clone(), image.digest());
        let (max_manifest, max_component) = (self.settings.max_manifest_bytes, self.settings.max_component_bytes);
        let _place = self.looks.acquire().await;
        blocking(move || {
            // A pin says itself what it names; what a record says is believed for a tag only.
            let named = match pinned {
                Some(digest) => Some(digest),
                None => cache.record(&image)?.map(|record| record.manifest),
            };
            let Some(named) = named else { return Ok(None) };
            let Some((documents, manifest)) = cached_manifest(&cache, named, max_manifest)? else { return Ok(None) };
            let Some(layer) = cached_layer(&cache, &manifest)? else { return Ok(None) };
            // Before the look: what is found there stays.
            let digest = *documents.last().unwrap_or(&named);
            let lease = cache.hold(layer.digest, documents.into_iter().chain([manifest.config.digest]));
            let Some(path) = cache.blob(&layer.within(max_component)?.digest)? else { return Ok(None) };
            if pinned.is_some() {
                // Others may have brought it, under another name.
                cache.put_record(&image, named)?;
            }
            cache.used(&layer.digest);
            Ok(Some(artifact(digest, layer, path, lease)))
        })
        .await
    }

    /// Where a mirror may have the image, in the order in which they are asked.
    pub(crate) fn mirrors_of(&self, image: &Image) -> Vec<Image> {
        let Image::Remote(remote) = image else { return Vec::new() };
        self.settings.mirrors.iter().filter_map(|mirror| mirror.place_of(remote)).map(Image::Remote).collect()
    }

    /// Asks the mirrors, and then the image's own registry or layout. Whatever a mirror does, short of what is this device's
    /// own fault, the next one is asked: it is a convenience, and its word on what is not there is not the last one.
    async fn obtain(&self, image: &Image, request: &FetchRequest, standby: Standby) -> Result<Artifact, Failure> {
        let _place = match image {
            Image::Remote(_) => self.fetches.acquire().await,
            Image::Layout(_) => self.layouts.acquire().await,
        };
        for mirror in self.mirrors_of(image) {
            match self.obtain_from(&mirror, image, request, Standby::Source).await {
                Err(failure @ Failure::Disk { .. }) => return Err(failure),
                Err(failure) => pass_over(image, &mirror, &failure),
                Ok(artifact) => return Ok(artifact),
            }
        }
        self.obtain_from(image, image, request, standby).await
    }

    /// Fetches from `place` what is to be known as `image`.
    async fn obtain_from(
        &self,
        place: &Image,
        image: &Image,
        request: &FetchRequest,
        standby: Standby,
    ) -> Result<Artifact, Failure> {
        let source = self.source(place, &request.credentials, standby)?;
        let limit = self.settings.max_manifest_bytes;
        let bytes = source.named_manifest(place, limit).await?;
        expect_digest("the manifest", image.digest(), Digest::of(&bytes))?;
        let (documents, manifest) = self.image_manifest(&source, bytes).await?;
        let config = self.config(&source, &manifest).await?;
        manifest.refuse_container(&config)?;
        let layer = self.component_layer(&source, &manifest).await?;
        let digests: Vec<Digest> = documents.iter().map(|bytes| Digest::of(bytes)).collect();
        let named = digests.first().copied().unwrap_or(layer.digest);
        let manifest_digest = digests.last().copied().unwrap_or(layer.digest);
        let (cache, component, others) = (self.cache.clone(), layer.digest, [manifest.config.digest]);
        // From now on a sweep leaves alone what is put there.
        let lease = blocking(move || Ok(cache.hold(component, digests.into_iter().chain(others)))).await?;
        let path = self.component(&source, layer, request).await?;
        let (cache, image) = (self.cache.clone(), image.clone());
        // Only now: a record never names what is not here.
        blocking(move || {
            cache.put_small_blob(&config)?;
            documents.iter().rev().try_for_each(|bytes| cache.put_small_blob(bytes))?;
            cache.put_record(&image, named)
        })
        .await?;
        Ok(artifact(manifest_digest, layer, path, lease))
    }

    pub(crate) fn source<'a>(
        &'a self,
        image: &'a Image,
        credentials: &'a [RegistryCredential],
        standby: Standby,
    ) -> Result<Source<'a>, Failure> {
        match image {
            Image::Layout(image) => Ok(Source::Layout(Layout::new(&image.path, self.settings.max_manifest_bytes))),
            Image::Remote(_) => self
                .session(image, credentials, RegistryOperation::Pull, standby)
                .map(|session| Source::Registry(Box::new(session))),
        }
    }

    /// A session with the registry of a completed reference.
    pub(crate) fn session<'a>(
        &'a self,
        image: &'a Image,
        credentials: &'a [RegistryCredential],
        operation: RegistryOperation,
        standby: Standby,
    ) -> Result<Session<'a>, Failure> {
        let Image::Remote(remote) = image else { return Err(Failure::refused("it is not in a registry")) };
        let Some(registry) = &remote.registry else { return Err(Failure::refused("it names no registry")) };
        let logins = Logins {
            owner: &self.settings.credentials,
            docker: self.settings.docker_config.as_deref(),
            deployment: credentials,
        };
        let retries = Retries::new(self.settings.retry, standby);
        Session::new(&self.transport, registry, remote, logins, operation, retries)
    }

    /// Follows indexes to the manifest for wasm. Returns all documents from the named one to the manifest.
    pub(crate) async fn image_manifest(
        &self,
        source: &Source<'_>,
        named: Vec<u8>,
    ) -> Result<(Vec<Vec<u8>>, Manifest), Failure> {
        let mut documents = vec![named];
        for _ in 0..=MAX_INDEXES {
            let entries = match manifest::read(documents.last().map_or(&[], Vec::as_slice))? {
                Document::Manifest(manifest) => return Ok((documents, manifest)),
                Document::Index(entries) => entries,
            };
            let chosen = manifest::choose(&entries)?;
            let bytes = source.manifest(chosen, self.settings.max_manifest_bytes).await?;
            expect_digest("the manifest", Some(chosen.digest), Digest::of(&bytes))?;
            documents.push(bytes);
        }
        Err(Failure::refused(format!("it is an index of indexes, more than {MAX_INDEXES} deep")))
    }

    /// The layer to fetch. Where the manifest does not tell, the beginnings of its layers do.
    async fn component_layer<'m>(
        &self,
        source: &Source<'_>,
        manifest: &'m Manifest,
    ) -> Result<&'m Descriptor, Failure> {
        let layer = match manifest.component()? {
            Choice::Layer(layer) => layer,
            Choice::Look(layers) => {
                let mut found = Vec::new();
                for layer in layers {
                    found.push(is_component(&source.beginning(layer, PREAMBLE_BYTES).await?));
                }
                manifest.component_among(&found)?
            }
        };
        layer.within(self.settings.max_component_bytes)
    }

    async fn config(&self, source: &Source<'_>, manifest: &Manifest) -> Result<Vec<u8>, Failure> {
        let (config, limit) = (&manifest.config, self.settings.max_manifest_bytes);
        if config.size > limit {
            return Err(Failure::refused(format!("its config has {} bytes; at most {limit} are read", config.size)));
        }
        source.small_blob(config).await
    }

    /// The component's file; downloaded once, however many ask at the same time, and in as many parts as it takes.
    async fn component(
        &self,
        source: &Source<'_>,
        layer: &Descriptor,
        request: &FetchRequest,
    ) -> Result<PathBuf, Failure> {
        let lock = self.cache.download_lock(&layer.digest);
        let _held = lock.lock().await;
        let (cache, expected) = (self.cache.clone(), layer.clone());
        if let Some(path) = blocking(move || present(&cache, &expected)).await? {
            return Ok(path);
        }
        let mut download = Download::start(self.cache.clone(), layer.clone(), request.progress.clone()).await?;
        if let Some(room) = request.room.as_deref() {
            // What is here of it counts already.
            room.make(layer.size - download.received()).await;
        }
        let (mut tries, mut begun_anew) = (source.tries(), false);
        loop {
            let before = download.received();
            let broken;
            (download, broken) = self.transfer(source, layer, download).await?;
            if let Some(failure) = broken {
                if download.received() >= before.saturating_add(PROGRESS_BYTES) {
                    tries.progressed();
                }
                pause(&mut tries, failure).await?;
                continue;
            }
            match download.finish().await? {
                Finished::Kept(path) => return Ok(path),
                // The source whose bytes these all are gets no third chance.
                Finished::Emptied(_) if begun_anew => {
                    return Err(Failure::refused(format!("{} arrives damaged, part by part", layer.digest)));
                }
                Finished::Emptied(empty) => (download, begun_anew) = (*empty, true),
            }
        }
    }

    /// Brings what is missing, as far as the source's answer goes. Ends with the failure that broke it off, if it was
    /// broken off: then the rest may be brought by another answer.
    async fn transfer(
        &self,
        source: &Source<'_>,
        layer: &Descriptor,
        mut download: Download,
    ) -> Result<(Download, Option<Failure>), Failure> {
        if download.is_complete() {
            return Ok((download, None));
        }
        let _place = match source {
            Source::Registry(_) => self.downloads.acquire().await,
            Source::Layout(_) => self.looks.acquire().await,
        };
        let (mut pieces, start) = match source.open(layer, download.received()).await {
            Ok(opened) => opened,
            Err(failure) => return Ok((download, Some(failure))),
        };
        tracing::debug!(digest = %layer.digest, bytes = layer.size, start, "the download begins");
        download = download.begin(start).await?;
        loop {
            match pieces.next().await {
                Ok(Some(piece)) => download = download.take(piece).await?,
                Ok(None) if download.is_complete() => return Ok((download, None)),
                // Without an announced length, an end is also what a broken connection looks like.
                Ok(None) => {
                    let (size, received) = (layer.size, download.received());
                    let text = format!("only {received} of the {size} bytes of {} arrived", layer.digest);
                    return Ok((download.write().await?, Some(Failure::unreachable(Fault::BrokeOff, text))));
                }
                Err(failure) => return Ok((download.write().await?, Some(failure))),
            }
        }
    }
}

impl Images for Registry {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Artifact, FetchError>> {
        Box::pin(self.fetch_text(request))
    }
}

/// The manifest that a cached manifest or index leads to, with the digests of all documents from the named one to it; each
/// is checked against the digest that names it.
pub(crate) fn cached_manifest(
    cache: &Cache,
    named: Digest,
    limit: u64,
) -> Result<Option<(Vec<Digest>, Manifest)>, Failure> {
    let mut documents = vec![named];
    for _ in 0..=MAX_INDEXES {
        let Some(bytes) = cache.small_blob(documents.last().unwrap_or(&named), limit)? else { return Ok(None) };
        match manifest::read(&bytes)? {
            Document::Manifest(manifest) => return Ok(Some((documents, manifest))),
            Document::Index(entries) => documents.push(manifest::choose(&entries)?.digest),
        }
    }
    Ok(None)
}

/// The layer of a cached manifest that was found to be the component: no other is kept.
pub(crate) fn cached_layer<'m>(cache: &Cache, manifest: &'m Manifest) -> Result<Option<&'m Descriptor>, Failure> {
    let layers = match manifest.component()? {
        Choice::Layer(layer) => return Ok(Some(layer)),
        Choice::Look(layers) => layers,
    };
    let found: Vec<bool> = layers.iter().map(|layer| cache.is_component(&layer.digest)).collect();
    // None is here, or also a component of another artifact: the source tells.
    Ok(manifest.component_among(&found).ok())
}

fn artifact(manifest: Digest, layer: &Descriptor, path: PathBuf, lease: Lease) -> Artifact {
    let (manifest_digest, component_digest) = (manifest.to_string(), layer.digest.to_string());
    Artifact { manifest_digest, component_digest, path, stale: false, lease }
}

pub(crate) fn pass_over(image: &Image, mirror: &Image, failure: &Failure) {
    tracing::warn!(%image, %mirror, reason = %failure, "a mirror is passed over");
}

pub(crate) fn expect_digest(what: &str, expected: Option<Digest>, computed: Digest) -> Result<(), Failure> {
    match expected {
        Some(expected) if expected != computed => Err(Failure::refused(format!(
            "digest mismatch: {what} {expected} arrived as {computed}; it was changed or damaged at its source, push it \
             again"
        ))),
        _ => Ok(()),
    }
}

/// A component that is in the cache already, perhaps under another image's name.
fn present(cache: &Cache, layer: &Descriptor) -> Result<Option<PathBuf>, Failure> {
    let Some(path) = cache.blob(&layer.digest)? else { return Ok(None) };
    let (head, bytes) = head_of(&path).map_err(Failure::disk("read", &path))?;
    if bytes != layer.size {
        return Err(wrong_size(layer, bytes));
    }
    check_preamble(&head)?;
    Ok(Some(path))
}

pub(crate) fn wrong_size(layer: &Descriptor, bytes: u64) -> Failure {
    let Descriptor { digest, size, .. } = layer;
    Failure::refused(format!("size mismatch: its manifest says that {digest} has {size} bytes, but it has {bytes}"))
}
