//! Twins: the desired and reported properties of a module, their patches and their limits. Stores nothing: the agent
//! writes [`Twin`] as a document after each change.

mod cloud;
mod limits;
mod metadata;
mod notice;
mod patch;
mod replaced;
mod settings;
mod sync;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

pub use self::{
    cloud::{CloudFault, CloudPatch, CloudTwin, Merged, Unreported},
    limits::{
        ACK_BYTES, MAX_DEPTH, MAX_INTEGER, MAX_KEY_BYTES, MAX_SECTION_BYTES, MAX_STRING_BYTES, MIN_INTEGER, ReadError,
        TwinFault, TwinFaults, TwinRule, read_patch, twin_faults, validate_desired, validate_patch,
    },
    notice::Notice,
    patch::{diff, merge_patch},
    settings::{setting, settings},
    sync::{BETWEEN_REPORTS, SyncStep, TwinSync},
};
use self::{metadata::Metadata, replaced::Replaced};
use crate::{ports::TwinAck, time::UtcMillis};

/// Key of the reported properties under which a module's answer to its desired properties stands.
pub const DESIRED_ACK: &str = "desiredAck";

/// The stored twin of one module. Versions start at 1 and rise by one with each change; a write that changes nothing
/// makes no new version, and no new time of a property that it names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Twin {
    format: Format,
    desired: Map<String, Value>,
    desired_version: u64,
    desired_origin: Origin,
    /// Of files that were written before there was any: none noted.
    #[serde(default = "Metadata::new")]
    desired_metadata: Metadata,
    manifest_section: Option<Map<String, Value>>,
    /// What there was before the sections that are not known to be good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced: Option<Replaced>,
    reported: Map<String, Value>,
    reported_version: u64,
    #[serde(default = "Metadata::new")]
    reported_metadata: Metadata,
    /// The desired properties as the manifest or the cloud wrote them; none: nobody has changed them here since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    desired_base: Option<Map<String, Value>>,
    /// Version of the cloud's desired properties, if it wrote last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cloud_version: Option<u64>,
    /// What upstream has of the reported properties; none: all. Not what was reported since: patches that are merged keep no order,
    /// and forget that an object was removed before another one took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upstream_has: Option<Map<String, Value>>,
    /// The last change of the reported properties, until the message that tells of it is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notice: Option<Notice>,
}

/// One more than the versions that a lost generation may have given. Between two generations lies one write; a rollback with another
/// section makes two versions in one.
const LOST_VERSIONS: u64 = 3;

/// Who wrote the present desired properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Origin {
    /// The module's section of a deployment manifest.
    Manifest {
        /// Which deployment.
        deployment_version: u64,
    },
    /// The cloud.
    Cloud {
        /// Its version of them.
        version: u64,
    },
    /// Somebody at the device (`twin set`); also a twin that nobody has written to.
    Local,
}

impl Default for Twin {
    fn default() -> Self {
        Self {
            format: Format,
            desired: Map::new(),
            desired_version: 1,
            desired_origin: Origin::Local,
            desired_metadata: Metadata::new(),
            manifest_section: None,
            replaced: None,
            reported: Map::new(),
            reported_version: 1,
            reported_metadata: Metadata::new(),
            desired_base: None,
            cloud_version: None,
            upstream_has: None,
            notice: None,
        }
    }
}

impl Twin {
    /// An empty twin; both versions are 1.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The desired properties.
    #[must_use]
    pub fn desired(&self) -> &Map<String, Value> {
        &self.desired
    }

    /// Version of the desired properties.
    #[must_use]
    pub fn desired_version(&self) -> u64 {
        self.desired_version
    }

    /// Who wrote them.
    #[must_use]
    pub fn desired_origin(&self) -> Origin {
        self.desired_origin
    }

    /// The section of the manifest that was applied last, if any was.
    #[must_use]
    pub fn manifest_section(&self) -> Option<&Map<String, Value>> {
        self.manifest_section.as_ref()
    }

    /// The reported properties.
    #[must_use]
    pub fn reported(&self) -> &Map<String, Value> {
        &self.reported
    }

    /// Version of the reported properties.
    #[must_use]
    pub fn reported_version(&self) -> u64 {
        self.reported_version
    }

    /// Both sections as IoT Hub shows them to services: `{"desired": {…, "$metadata": {…}, "$version": n}, "reported": {…}}`.
    #[must_use]
    pub fn properties(&self) -> Value {
        let section = |properties: &Map<String, Value>, metadata: &Metadata, version: u64| {
            let mut section = properties.clone();
            section.insert("$metadata".into(), metadata.document().into());
            section.insert("$version".into(), version.into());
            section
        };
        json!({
            "desired": section(&self.desired, &self.desired_metadata, self.desired_version),
            "reported": section(&self.reported, &self.reported_metadata, self.reported_version),
        })
    }

    /// Applies the module's section of a deployment, already validated ([`validate_desired`]). It replaces all desired
    /// properties, but only if it differs from the section applied last: what `twin set` wrote survives a reboot and a
    /// re-apply of the same manifest. A manifest without a section leaves the twin alone, as in IoT Edge.
    ///
    /// Returns the patch for the module; none when the desired properties stay as they are. The twin may have to be
    /// stored even then: the remembered section may be a new one.
    pub fn apply_manifest_section(
        &mut self,
        section: Option<&Map<String, Value>>,
        deployment_version: u64,
        now: UtcMillis,
    ) -> Option<Map<String, Value>> {
        let section = section?;
        if self.manifest_section.as_ref() == Some(section) {
            return None;
        }
        self.keep_replaced(deployment_version);
        self.manifest_section = Some(section.clone());
        let mut wanted = Map::new();
        merge_patch(&mut wanted, section); // a null in a section means "not there"
        let patch = self.replace_desired(wanted, Origin::Manifest { deployment_version }, now);
        (self.desired_base, self.cloud_version) = (None, None);
        (!patch.is_empty()).then_some(patch)
    }

    /// Merges a patch into the desired properties (`twin set`). Returns the patch for the module: what has really
    /// changed, empty when nothing has.
    ///
    /// # Errors
    /// The patch or its result breaks a limit; nothing has changed.
    pub fn set_desired(
        &mut self,
        patch: &Map<String, Value>,
        now: UtcMillis,
    ) -> Result<Map<String, Value>, TwinFaults> {
        validate_patch(patch)?;
        let mut wanted = self.desired.clone();
        merge_patch(&mut wanted, patch);
        validate_desired(&wanted)?;
        let base = self.desired_base.take().unwrap_or_else(|| self.desired.clone());
        let patch = self.replace_desired(wanted, Origin::Local, now);
        self.desired_base = (base != self.desired).then_some(base);
        Ok(patch)
    }

    /// Merges a patch into the reported properties and returns their version. What makes them smaller is always allowed.
    ///
    /// # Errors
    /// The patch or its result breaks a limit, or leaves no room for [`Twin::answer`]; nothing has changed.
    pub fn report(&mut self, patch: &Map<String, Value>, now: UtcMillis) -> Result<u64, TwinFaults> {
        let reported = self.merged(patch)?;
        let bytes = bytes_without_ack(&reported);
        if bytes > MAX_SECTION_BYTES - ACK_BYTES && bytes > bytes_without_ack(&self.reported) {
            let fault = TwinFault { path: String::new(), rule: TwinRule::NoRoomForAck(bytes) };
            return Err(TwinFaults(vec![fault]));
        }
        Ok(self.put_reported(reported, now))
    }

    /// Reports a module's answer to version `version` of its desired properties. Of its description as much as there is room for. Returns the
    /// patch of the reported properties that it was.
    ///
    /// # Errors
    /// There is no room at all: an earlier Marram kept none free. Nothing has changed.
    pub fn answer(&mut self, ack: &TwinAck, version: u64, now: UtcMillis) -> Result<Map<String, Value>, TwinFaults> {
        let mut most = MAX_STRING_BYTES.min(ack.description.len());
        loop {
            let patch = desired_ack(ack, version, most);
            match self.merged(&patch) {
                Ok(reported) => {
                    self.put_reported(reported, now);
                    return Ok(patch);
                }
                Err(faults) if most == 0 => return Err(faults),
                Err(_) => most /= 2,
            }
        }
    }

    fn merged(&self, patch: &Map<String, Value>) -> Result<Map<String, Value>, TwinFaults> {
        validate_patch(patch)?;
        let mut reported = self.reported.clone();
        merge_patch(&mut reported, patch);
        validate_desired(&reported)?;
        Ok(reported)
    }

    fn put_reported(&mut self, reported: Map<String, Value>, now: UtcMillis) -> u64 {
        let changes = diff(&self.reported, &reported);
        if !changes.is_empty() {
            let old = std::mem::replace(&mut self.reported, reported);
            let has = self.upstream_has.take().unwrap_or(old);
            self.upstream_has = (has != self.reported).then_some(has);
            self.reported_version = self.reported_version.saturating_add(1);
            self.reported_metadata.note(&changes, now, self.reported_version);
        }
        self.reported_version
    }

    /// Keeps what the module has just reported until it is told of ([`Twin::told`]): stored with the change, so that no kill of the
    /// host between the two makes a change that nobody hears of.
    pub fn keep_notice(&mut self, patch: Map<String, Value>, now: UtcMillis) {
        self.notice = Some(Notice { version: self.reported_version, at: now, patch });
    }

    /// The last change that is yet to be told of.
    #[must_use]
    pub fn notice(&self) -> Option<&Notice> {
        self.notice.as_ref()
    }

    /// The change that led to this version has been told of.
    pub fn told(&mut self, version: u64) {
        self.notice.take_if(|notice| notice.version == version);
    }

    /// To be told of one that was read from its previous generation, because the newest was damaged: no version that the lost one
    /// had is given again, and upstream is told all that is reported.
    pub fn follow_on_lost(&mut self) {
        self.desired_version = self.desired_version.saturating_add(LOST_VERSIONS);
        self.reported_version = self.reported_version.saturating_add(LOST_VERSIONS);
        self.upstream_has = (!self.reported.is_empty()).then(Map::new);
    }

    /// The document to store.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // A tree of strings and numbers always has a JSON text.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a stored document.
    ///
    /// # Errors
    /// It is damaged, or of a newer format than this version knows.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    fn replace_desired(&mut self, wanted: Map<String, Value>, origin: Origin, now: UtcMillis) -> Map<String, Value> {
        let patch = diff(&self.desired, &wanted);
        if !patch.is_empty() {
            self.desired = wanted;
            self.desired_version = self.desired_version.saturating_add(1);
            self.desired_origin = origin;
            self.desired_metadata.note(&patch, now, self.desired_version);
        }
        patch
    }
}

/// An answer as a patch, with so many bytes of its description at the most.
fn desired_ack(ack: &TwinAck, version: u64, most: usize) -> Map<String, Value> {
    let mut end = most.min(ack.description.len());
    while !ack.description.is_char_boundary(end) {
        end -= 1;
    }
    let answer = serde_json::json!({ "version": version, "code": ack.code, "description": &ack.description[..end] });
    Map::from_iter([(DESIRED_ACK.to_owned(), answer)])
}

/// Of their JSON text.
fn bytes_without_ack(reported: &Map<String, Value>) -> usize {
    let without = reported.iter().filter(|(key, _)| *key != DESIRED_ACK).collect::<std::collections::BTreeMap<_, _>>();
    serde_json::to_vec(&without).map_or(usize::MAX, |text| text.len())
}

/// The number of the stored layout, checked before all else.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Format;

const FORMAT: u64 = 1;

impl Serialize for Format {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(FORMAT)
    }
}

impl<'de> Deserialize<'de> for Format {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            FORMAT => Ok(Self),
            other => Err(serde::de::Error::custom(format!(
                "stored twin has format {other}, this version of marram knows {FORMAT}; use the version that wrote it"
            ))),
        }
    }
}
