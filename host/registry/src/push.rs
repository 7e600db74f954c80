//! The push path: a component file becomes an artifact in the CNCF layout for WebAssembly, in a registry or a layout.
//!
//! Strict: one `application/wasm` layer, a v0 config with the names derived from the binary, no `artifactType`. With the
//! same file and the same `created` the manifest digest is the same, bit for bit.

use std::{path::Path, sync::Arc, time::SystemTime};

use bytes::Bytes;
use marram_core::{deployment::RegistryCredential, ports::Progress, retry::Standby};
use oci_client::RegistryOperation;
use serde_json::json;

use crate::{
    cache::read_bounded,
    digest::Digest,
    failure::{Failure, blocking},
    fetch::Registry,
    image::Image,
    inspect::{Inspection, check_component, inspect},
    layout::Layout,
    manifest::{MEDIA_TYPE_MANIFEST, MEDIA_TYPE_WASM, MEDIA_TYPE_WASM_CONFIG},
};

/// Names the component's file for people who look at the artifact.
const TITLE: &str = "org.opencontainers.image.title";

/// What was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushResult {
    /// Where to, in full: with registry or absolute folder, and tag.
    pub image: String,
    /// `sha256:…` of the manifest: pin this.
    pub manifest_digest: String,
    /// `sha256:…` of the component.
    pub component_digest: String,
    /// Bytes of the component.
    pub size: u64,
}

/// Why a push failed; one line that says what, where and what to try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PushError {
    /// For people.
    pub message: String,
    /// True: the same push may succeed later.
    pub transient: bool,
}

impl Registry {
    /// Pushes a component file to `image` (a tag in a registry, or `oci:PATH[:TAG]`), as the user of the first credential
    /// for that registry; the settings' credentials come first. `created` is RFC 3339 text; none = now, which makes each
    /// push a different manifest.
    ///
    /// # Errors
    /// The file is no valid component or too large, the reference pins a digest, or the target refuses.
    pub async fn push(
        &self,
        file: &Path,
        image: &str,
        credentials: &[RegistryCredential],
        created: Option<&str>,
    ) -> Result<PushResult, PushError> {
        self.push_watched(file, image, credentials, created, &Arc::default()).await
    }

    /// As [`Registry::push`], and tells how far the component's upload is.
    ///
    /// # Errors
    /// As [`Registry::push`].
    pub async fn push_watched(
        &self,
        file: &Path,
        image: &str,
        credentials: &[RegistryCredential],
        created: Option<&str>,
        progress: &Arc<Progress>,
    ) -> Result<PushResult, PushError> {
        let target = Image::parse(image)
            .map_err(|err| Failure::refused(err.to_string()))
            .and_then(|image| self.complete(image))
            .map_err(|failure| PushError { message: format!("image `{image}`: {failure}"), transient: false })?;
        self.push_to(file, &target, credentials, created, progress).await.map_err(|failure| PushError {
            message: format!("cannot push {} to `{target}`: {failure}", file.display()),
            transient: failure.is_transient(),
        })
    }

    async fn push_to(
        &self,
        file: &Path,
        image: &Image,
        credentials: &[RegistryCredential],
        created: Option<&str>,
        progress: &Arc<Progress>,
    ) -> Result<PushResult, Failure> {
        if image.digest().is_some() {
            return Err(Failure::refused("a push names a tag, not a digest"));
        }
        let created = creation_time(created)?;
        let (path, limit) = (file.to_owned(), self.settings.max_component_bytes);
        let (component, inspection) = blocking(move || read_component(&path, limit)).await?;
        let bundle = Bundle::new(component, &inspection, &title(file), &created);
        match image {
            Image::Remote(_) => {
                let session = self.session(image, credentials, RegistryOperation::Push, Standby::Nothing)?;
                session.put_blob(&Digest::of(&bundle.component), &bundle.component, progress).await?;
                // Some hundred bytes: nobody waits for them.
                session.put_blob(&Digest::of(&bundle.config), &bundle.config, &Arc::default()).await?;
                session.put_manifest(&bundle.manifest).await?;
            }
            Image::Layout(target) => {
                let layout = Layout::new(&target.path, self.settings.max_manifest_bytes);
                let (tag, bundle) = (target.tag.clone(), bundle.clone());
                blocking(move || layout.push(&[&bundle.component, &bundle.config], &bundle.manifest, tag.as_deref()))
                    .await?;
            }
        }
        Ok(PushResult {
            image: image.to_string(),
            manifest_digest: Digest::of(&bundle.manifest).to_string(),
            component_digest: Digest::of(&bundle.component).to_string(),
            size: bundle.component.len() as u64,
        })
    }
}

/// The three blobs of an artifact.
#[derive(Clone)]
struct Bundle {
    component: Bytes,
    config: Bytes,
    manifest: Bytes,
}

impl Bundle {
    fn new(component: Bytes, inspection: &Inspection, title: &str, created: &str) -> Self {
        let layer = Digest::of(&component);
        let config = json!({
            "created": created,
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [layer],
            "component": { "exports": inspection.exports, "imports": inspection.imports },
        });
        let config = Bytes::from(config.to_string());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE_MANIFEST,
            "config": {
                "mediaType": MEDIA_TYPE_WASM_CONFIG,
                "digest": Digest::of(&config),
                "size": config.len(),
            },
            "layers": [{
                "mediaType": MEDIA_TYPE_WASM,
                "digest": layer,
                "size": component.len(),
                "annotations": { TITLE: title },
            }],
        });
        Self { component, config, manifest: Bytes::from(manifest.to_string()) }
    }
}

fn read_component(path: &Path, limit: u64) -> Result<(Bytes, Inspection), Failure> {
    let bytes = read_bounded(path, limit).map_err(Failure::disk("read", path))?;
    let bytes = bytes.ok_or_else(|| Failure::refused(format!("it is larger than {limit} bytes")))?;
    let inspection = inspect(&bytes).map_err(Failure::Refused)?;
    check_component(&inspection).map_err(Failure::Refused)?;
    Ok((bytes.into(), inspection))
}

/// To the second: more would only look exact.
fn creation_time(text: Option<&str>) -> Result<String, Failure> {
    let time = match text {
        None => SystemTime::now(),
        Some(text) => humantime::parse_rfc3339(text)
            .map_err(|err| Failure::refused(format!("the creation time `{text}` is not RFC 3339 in UTC: {err}")))?,
    };
    Ok(humantime::format_rfc3339_seconds(time).to_string())
}

fn title(file: &Path) -> String {
    file.file_name().map_or_else(|| "component.wasm".to_owned(), |name| name.to_string_lossy().into_owned())
}
