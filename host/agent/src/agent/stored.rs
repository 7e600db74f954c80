//! What the disk keeps of deployments: the one in force, the history, and the manifests of the history.
//!
//! ```text
//! deployment          the one in force: what counts
//! deployment-HEX      a manifest of the history; HEX are the first digits of its digest
//! history             what became of each
//! ```
//!
//! A deployment is accepted once `deployment` is written; its manifest is written before, and the history, which can be told from
//! `deployment` at the next start, after. If `deployment` is lost, or is damaged and only the one before it can be read, the history and
//! the manifest tell it. Manifests that belong to no
//! deployment of the history, because the host ended between two of these writes, are removed at the next start.

use std::collections::BTreeSet;

use marram_core::{
    deployment::Deployment,
    manifest,
    name::ModuleName,
    ports::{DocumentError, Documents},
    rollout::{Accepted, History, Outcome, Way, manifest_digest},
    time::UtcMillis,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Agent;
use crate::twins::blocking;

/// The name of the stored deployment.
const DEPLOYMENT: &str = "deployment";

/// What the names of manifests begin with.
const TEXT: &str = "deployment-";

/// The name of the history.
const HISTORY: &str = "history";

const FORMAT: u32 = 1;

/// The stored deployment.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stored {
    format: u32,
    pub(super) version: u64,
    accepted_ms: UtcMillis,
    /// How it came.
    #[serde(default = "unknown")]
    came: Way,
    #[serde(default)]
    failing_before: BTreeSet<ModuleName>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    unstored_before: BTreeSet<ModuleName>,
    /// As it was written: the order of its keys matters, and numbers keep their text.
    pub(super) manifest: Box<RawValue>,
}

fn unknown() -> Way {
    Way::Unknown
}

impl Stored {
    pub(super) fn new(
        version: u64,
        at: UtcMillis,
        came: Way,
        [failing_before, unstored_before]: [BTreeSet<ModuleName>; 2],
        text: &str,
    ) -> Result<Self, DocumentError> {
        let manifest = raw(text)?;
        Ok(Self { format: FORMAT, version, accepted_ms: at, came, failing_before, unstored_before, manifest })
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice::<Self>(bytes) {
            Ok(stored) if stored.format == FORMAT => Ok(stored),
            Ok(stored) => Err(format!("was written by a newer version of Marram (format {})", stored.format)),
            Err(error) => Err(format!("cannot be read: {error}")),
        }
    }

    /// For the history.
    pub(super) fn accepted(&self) -> Accepted {
        Accepted {
            version: self.version,
            at: self.accepted_ms,
            way: self.came.clone(),
            digest: manifest_digest(self.manifest.get()),
            bytes: self.manifest.get().len(),
            failing_before: self.failing_before.clone(),
            unstored_before: self.unstored_before.clone(),
        }
    }
}

/// A deployment that should be in force and is not.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) version: u64,
    /// Why, and what is in its place.
    pub(super) because: String,
}

/// The history as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredHistory {
    format: u32,
    #[serde(flatten)]
    history: History,
}

/// The stored deployment cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the stored deployment {0}")]
pub struct ReadError(String);

/// What a host on these documents would begin with, and what would take its place: what their modules need is worth keeping.
pub(crate) fn read_stored(
    documents: &dyn Documents,
    check_image: fn(&str) -> Result<(), String>,
) -> Result<Vec<Deployment>, ReadError> {
    let document = documents.read(DEPLOYMENT).map_err(|error| ReadError(format!("cannot be read: {error}")))?;
    let mut history = read_history(documents).unwrap_or_default();
    let stored = document.map(|document| Stored::read(&document.bytes).map_err(ReadError)).transpose()?;
    let stored = match told(documents, &history, stored.as_ref()) {
        Ok(told) => told.or(stored),
        Err(error) if stored.is_none() => {
            return Err(ReadError(format!("is lost, and so is its manifest: {error}")));
        }
        Err(_) => stored,
    };
    let Some(stored) = stored else { return Ok(Vec::new()) };
    let context = manifest::Context::new(&check_image);
    let reading = manifest::read(stored.manifest.get(), &context);
    let in_force = reading.map_err(|faults| ReadError(format!("is not valid here: {faults}")))?.deployment;
    history.accept(stored.accepted());
    let open = history.entry(stored.version).is_some_and(|entry| entry.outcome == Outcome::OnTrial);
    let way_back = history
        .instead_of(stored.version, &in_force.rollout)
        .filter(|_| open)
        .find_map(|entry| manifest::read(&read_text(documents, &entry.accepted.digest).ok()?, &context).ok());
    Ok([Some(in_force), way_back.map(|reading| reading.deployment)].into_iter().flatten().collect())
}

/// The manifest of a deployment of the history.
fn read_text(documents: &dyn Documents, digest: &str) -> Result<String, DocumentError> {
    let document = documents.read(&text_name(digest))?;
    let document = document.ok_or_else(|| DocumentError::Damaged("its manifest is not kept any more".into()))?;
    let text =
        String::from_utf8(document.bytes).map_err(|_| DocumentError::Damaged("its manifest is not UTF-8".into()))?;
    match manifest_digest(&text) == digest {
        true => Ok(text),
        false => Err(DocumentError::Damaged("its manifest is damaged: it has another digest".into())),
    }
}

/// The newest deployment of the history, for want of its own document: what is stored is none, or an earlier one.
fn told(
    documents: &dyn Documents,
    history: &History,
    stored: Option<&Stored>,
) -> Result<Option<Stored>, DocumentError> {
    let Some(entry) = history.newer_than(stored.map_or(0, |stored| stored.version)) else { return Ok(None) };
    let Accepted { version, at, way, digest, failing_before, unstored_before, .. } = entry.accepted.clone();
    Stored::new(version, at, way, [failing_before, unstored_before], &read_text(documents, &digest)?).map(Some)
}

fn read_history(documents: &dyn Documents) -> Result<History, String> {
    let Some(document) = documents.read(HISTORY).map_err(|error| error.to_string())? else {
        return Ok(History::default());
    };
    if let Some(reason) = document.recovered {
        tracing::warn!(reason, "the history of deployments was damaged; going on with the one before");
    }
    let stored: StoredHistory = serde_json::from_slice(&document.bytes).map_err(|error| error.to_string())?;
    if stored.format != FORMAT {
        return Err(format!("it was written by a newer version of Marram (format {})", stored.format));
    }
    Ok(stored.history)
}

/// 64 bits of the digest: a device has twenty manifests, and whoever makes two of one name has only harmed himself.
fn text_name(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    format!("{TEXT}{}", hex.get(..16).unwrap_or(hex))
}

fn raw(text: &str) -> Result<Box<RawValue>, DocumentError> {
    // As the reader does: some editors put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    RawValue::from_string(text.to_owned())
        .map_err(|error| DocumentError::Failed(format!("the manifest cannot be kept: {error}")))
}

fn bytes(value: &impl Serialize) -> Result<Vec<u8>, DocumentError> {
    serde_json::to_vec(value).map_err(|error| DocumentError::Failed(format!("cannot be written as JSON: {error}")))
}

impl Agent {
    /// The deployment to begin with; and the one that should be in its place, if that is lost.
    pub(super) async fn stored(&self, history: &History) -> (Option<Stored>, Option<Lost>) {
        let documents = self.documents.clone();
        let document = blocking(move || documents.read(DEPLOYMENT)).await.unwrap_or_else(|error| {
            tracing::error!(%error, "the stored deployment cannot be read");
            None
        });
        let stored = document.and_then(|document| {
            if let Some(reason) = document.recovered {
                tracing::warn!(reason, "the stored deployment was damaged; its previous generation can be read");
            }
            let read = Stored::read(&document.bytes);
            read.inspect_err(|why| tracing::error!("the stored deployment {why}")).ok()
        });
        let (documents, of) = (self.documents.clone(), history.clone());
        let (stored, told) = match blocking(move || {
            let told = told(&*documents, &of, stored.as_ref());
            Ok((stored, told))
        })
        .await
        {
            Ok(found) => found,
            Err(error) => (None, Err(error)),
        };
        match told {
            Ok(Some(told)) => {
                tracing::warn!(
                    version = told.version,
                    "the stored deployment is lost; its history and its manifest tell it"
                );
                if let Err(error) = self.store(&told).await {
                    tracing::error!(%error, "the deployment cannot be stored again");
                }
                (Some(told), None)
            }
            Ok(None) => (stored, None),
            Err(error) => {
                let version = history.newest();
                tracing::error!(version, %error, "the stored deployment is lost, and its manifest cannot be had either");
                let instead = stored.as_ref().map(|stored| format!("; deployment {} is in its place", stored.version));
                let because = format!(
                    "its document is lost, and its manifest cannot be had either: {error}{}",
                    instead.unwrap_or_default()
                );
                (stored, Some(Lost { version, because }))
            }
        }
    }

    /// The history, and whether it is lost; one that cannot be read is begun anew, because a device must start.
    pub(super) async fn stored_history(&self) -> (History, bool) {
        let documents = self.documents.clone();
        let read = blocking(move || Ok(read_history(&*documents))).await;
        match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(history) => (history, false),
            Err(error) => {
                tracing::error!(error, "the history of deployments cannot be read; it begins anew");
                (History::default(), true)
            }
        }
    }

    /// Writes a deployment: its manifest for the history first, then itself.
    pub(super) async fn store(&self, stored: &Stored) -> Result<(), DocumentError> {
        let name = text_name(&manifest_digest(stored.manifest.get()));
        let (text, deployment) = (stored.manifest.get().to_owned().into_bytes(), bytes(stored)?);
        let documents = self.documents.clone();
        blocking(move || {
            let is_new = documents.read(&name).is_ok_and(|document| document.is_none());
            documents.write(&name, &text)?;
            documents.write(DEPLOYMENT, &deployment).inspect_err(|_| {
                // Of a deployment that never was. If that fails too, the next start does it.
                if is_new && let Err(error) = documents.remove(&name) {
                    tracing::debug!(%error, "the manifest of a deployment that was not accepted cannot be removed");
                }
            })
        })
        .await
    }

    /// Writes the history.
    pub(super) async fn write_history(&self, history: &History) -> Result<(), DocumentError> {
        let bytes = bytes(&StoredHistory { format: FORMAT, history: history.clone() })?;
        let documents = self.documents.clone();
        blocking(move || documents.write(HISTORY, &bytes)).await
    }

    /// The manifest of a deployment of the history.
    pub(super) async fn text_of(&self, digest: &str) -> Result<String, DocumentError> {
        let (documents, digest) = (self.documents.clone(), digest.to_owned());
        blocking(move || read_text(&*documents, &digest)).await
    }

    /// Removes the manifests of deployments that are forgotten. What fails the next start does.
    pub(super) async fn remove_texts(&self, digests: Vec<String>) {
        self.remove_documents(digests.iter().map(|digest| text_name(digest)).collect()).await;
    }

    /// The same for those that an end of the host amid its writes has left, or that could not be removed. Not where nothing is remembered:
    /// somebody may bring the history back.
    pub(super) async fn remove_stray_texts(&self, history: &History) {
        let kept: BTreeSet<String> = history.digests().into_iter().map(text_name).collect();
        if kept.is_empty() {
            return;
        }
        let documents = self.documents.clone();
        match blocking(move || documents.names(TEXT)).await {
            Ok(names) => self.remove_documents(names.into_iter().filter(|name| !kept.contains(name)).collect()).await,
            Err(error) => tracing::warn!(%error, "the manifests of forgotten deployments cannot be looked for"),
        }
    }

    async fn remove_documents(&self, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let documents = self.documents.clone();
        if let Err(error) = blocking(move || names.iter().try_for_each(|name| documents.remove(name))).await {
            tracing::warn!(%error, "the manifest of a forgotten deployment cannot be removed");
        }
    }
}
