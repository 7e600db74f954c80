//! What a reference leads to, in full: the documents on the way, their blobs, and the signatures that are attached. Fetches
//! no component and verifies no signature; each document's digest is checked, as for a fetch.

use std::collections::BTreeMap;

use marram_core::{deployment::RegistryCredential, ports::FetchError, retry::Standby};
use serde::Serialize;
use serde_json::Value;

use crate::{
    digest::Digest,
    failure::Failure,
    fetch::{Registry, expect_digest, pass_over},
    image::Image,
    manifest::{self, Document},
    signatures::{Signature, signatures},
};

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// From what the reference names to the manifest: none, one or more indexes, then the manifest.
    pub documents: Vec<Part>,
    /// The manifest's config.
    pub config: Part,
    /// The manifest's layers.
    pub layers: Vec<Part>,
    /// What is attached to one of the documents. Not verified.
    pub signatures: Vec<Signature>,
}

/// One document or blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// As its document, or the one that leads to it, says.
    pub media_type: String,
    /// `sha256:…`.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// Of the document, or of the descriptor in the one that leads to it.
    pub annotations: BTreeMap<String, String>,
}

impl Registry {
    /// Tells what an image reference leads to where a fetch would find it: at the first mirror that has all of it, or else at
    /// its own source; as the user of the first credential for that registry, those of the settings first.
    ///
    /// # Errors
    /// As [`marram_core::ports::Images::fetch`], the component left out.
    pub async fn describe(&self, image: &str, credentials: &[RegistryCredential]) -> Result<Description, FetchError> {
        let refused = |message: String| FetchError { message: format!("image `{image}`: {message}"), transient: false };
        let image = Image::parse(image).map_err(|err| refused(err.to_string()))?;
        let image = self.complete(image.clone()).map_err(|failure| failure.of(&image))?;
        self.describe_image(&image, credentials).await.map_err(|failure| failure.of(&image))
    }

    async fn describe_image(&self, image: &Image, credentials: &[RegistryCredential]) -> Result<Description, Failure> {
        for mirror in self.mirrors_of(image) {
            match self.describe_at(&mirror, image, credentials, Standby::Source).await {
                Err(failure) => pass_over(image, &mirror, &failure),
                Ok(description) => return Ok(description),
            }
        }
        self.describe_at(image, image, credentials, Standby::Nothing).await
    }

    /// What `place` has as `image`.
    async fn describe_at(
        &self,
        place: &Image,
        image: &Image,
        credentials: &[RegistryCredential],
        standby: Standby,
    ) -> Result<Description, Failure> {
        let source = self.source(place, credentials, standby)?;
        let bytes = source.named_manifest(place, self.settings.max_manifest_bytes).await?;
        expect_digest("the manifest", image.digest(), Digest::of(&bytes))?;
        let (documents, _) = self.image_manifest(&source, bytes).await?;
        let subjects: Vec<Digest> = documents.iter().map(|bytes| Digest::of(bytes)).collect();
        let manifest: Value = documents
            .last()
            .map(|bytes| serde_json::from_slice(bytes))
            .transpose()
            .map_err(unreadable)?
            .unwrap_or_default();
        Ok(Description {
            documents: documents.iter().map(|bytes| document(bytes)).collect::<Result<_, _>>()?,
            config: part(&manifest["config"]),
            layers: manifest["layers"].as_array().into_iter().flatten().map(part).collect(),
            signatures: signatures(&source, &subjects).await?,
        })
    }
}

/// A document by its own words; the media type that it does not name is told by what it is.
fn document(bytes: &[u8]) -> Result<Part, Failure> {
    let text: Value = serde_json::from_slice(bytes).map_err(unreadable)?;
    let kind = match manifest::read(bytes)? {
        Document::Manifest(_) => manifest::MEDIA_TYPE_MANIFEST,
        Document::Index(_) => manifest::MEDIA_TYPE_INDEX,
    };
    Ok(Part {
        media_type: text["mediaType"].as_str().unwrap_or(kind).to_owned(),
        digest: Digest::of(bytes).to_string(),
        size: bytes.len() as u64,
        annotations: annotations(&text),
    })
}

fn part(descriptor: &Value) -> Part {
    let text = |name: &str| descriptor[name].as_str().unwrap_or_default().to_owned();
    Part {
        media_type: text("mediaType"),
        digest: text("digest"),
        size: descriptor["size"].as_u64().unwrap_or_default(),
        annotations: annotations(descriptor),
    }
}

/// Those that are text; others make no sense.
fn annotations(of: &Value) -> BTreeMap<String, String> {
    let entries = of["annotations"].as_object().into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

fn unreadable(err: serde_json::Error) -> Failure {
    Failure::refused(format!("its manifest cannot be read: {err}"))
}
