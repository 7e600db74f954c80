//! Desired properties from the cloud, changes that are made at the device meanwhile, and what the cloud has of the reported ones.
//!
//! A manifest and the cloud follow one rule: what one of them writes replaces all that was changed here, and it counts as written
//! when it says something new. So a local change survives a lost connection, a restart, and a document that is still the same.

use serde_json::{Map, Value};

use super::{
    Origin, ReadError, Twin, TwinFault, TwinFaults, diff, limits::wide_faults, merge_patch, read_patch,
    validate_desired, validate_patch,
};
use crate::time::UtcMillis;

/// A module's twin as the cloud has it.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudTwin {
    /// The desired properties.
    pub desired: Map<String, Value>,
    /// Their version.
    pub desired_version: u64,
    /// What was wrong with them as they were written, and cannot be seen in them: the integers that 64 bits do not hold.
    pub faults: Vec<TwinFault>,
    /// The reported properties.
    pub reported: Map<String, Value>,
}

/// A change of the desired properties, made in the cloud.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudPatch {
    /// The merge patch.
    pub patch: Map<String, Value>,
    /// The version that it leads to.
    pub version: u64,
}

/// What a change in the cloud has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It is in force.
    InForce,
    /// It was before: it came twice.
    Known,
    /// It does not follow on what is known: the whole document is needed.
    Gap,
}

/// What upstream does not have of the reported properties.
#[derive(Debug, Clone, PartialEq)]
pub struct Unreported {
    /// The patch; null for what is gone.
    pub patch: Map<String, Value>,
    /// The version that it leads to.
    pub version: u64,
}

/// Not what the cloud says of twins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CloudFault(String);

impl CloudTwin {
    /// Reads `{"desired": {…, "$version": n}, "reported": {…, "$version": m}}`. Desired properties that break a limit are for
    /// [`Twin::take_cloud_twin`] to refuse: asked again, the cloud would say the same.
    ///
    /// # Errors
    /// It is none.
    pub fn read(json: &str) -> Result<Self, CloudFault> {
        let mut document: Map<String, Value> =
            serde_json::from_str(json).map_err(|error| CloudFault(format!("not a JSON object: {error}")))?;
        let (desired, desired_version) = versioned(section(&mut document, "desired")?)?;
        let mut reported = section(&mut document, "reported").unwrap_or_default();
        strip(&mut reported);
        let faults = wide_faults(json, &desired);
        Ok(Self { desired, desired_version, faults, reported })
    }
}

impl CloudPatch {
    /// Reads `{…, "$version": n}`.
    ///
    /// # Errors
    /// It is none.
    pub fn read(json: &str) -> Result<Self, CloudFault> {
        let (patch, version) = versioned(object(json)?)?;
        Ok(Self { patch, version })
    }
}

fn object(json: &str) -> Result<Map<String, Value>, CloudFault> {
    read_patch(json).map_err(|error| {
        CloudFault(match error {
            ReadError::NotAnObject(why) => format!("not a JSON object: {why}"),
            ReadError::Limit(faults) => faults.to_string(),
        })
    })
}

fn section(document: &mut Map<String, Value>, name: &str) -> Result<Map<String, Value>, CloudFault> {
    match document.remove(name) {
        Some(Value::Object(section)) => Ok(section),
        _ => Err(CloudFault(format!("`{name}` is missing, or no object"))),
    }
}

fn versioned(mut section: Map<String, Value>) -> Result<(Map<String, Value>, u64), CloudFault> {
    let version = section.get("$version").and_then(Value::as_u64);
    let version = version.ok_or_else(|| CloudFault("`$version` is missing, or no whole number".into()))?;
    strip(&mut section);
    Ok((section, version))
}

fn strip(section: &mut Map<String, Value>) {
    section.retain(|key, _| !key.starts_with('$'));
}

impl Twin {
    /// What has been changed here since the manifest or the cloud wrote the desired properties, as a patch; empty: nothing.
    #[must_use]
    pub fn local_changes(&self) -> Map<String, Value> {
        self.desired_base.as_ref().map(|base| diff(base, &self.desired)).unwrap_or_default()
    }

    /// Merges a change that was made in the cloud, if it follows on the version that is known (IoT Edge's rule).
    ///
    /// # Errors
    /// The patch or its result breaks a limit; nothing has changed.
    pub fn merge_cloud_patch(&mut self, change: &CloudPatch, now: UtcMillis) -> Result<Merged, TwinFaults> {
        match self.cloud_version {
            Some(known) if change.version == known => return Ok(Merged::Known),
            Some(known) if change.version == known.saturating_add(1) => {}
            _ => return Ok(Merged::Gap),
        }
        validate_patch(&change.patch)?;
        let mut wanted = self.written().clone();
        merge_patch(&mut wanted, &change.patch);
        validate_desired(&wanted)?;
        self.write_from_cloud(wanted, change.version, now);
        Ok(Merged::InForce)
    }

    /// Takes the cloud's whole twin. Its desired properties replace those here unless they are what it wrote last; with its reported
    /// ones it is known what it lacks of ours. True: the desired properties were taken.
    ///
    /// # Errors
    /// The desired properties break a limit; nothing has changed.
    pub fn take_cloud_twin(&mut self, cloud: &CloudTwin, now: UtcMillis) -> Result<bool, TwinFaults> {
        if !cloud.faults.is_empty() {
            return Err(TwinFaults(cloud.faults.clone()));
        }
        validate_desired(&cloud.desired)?;
        let mut wanted = Map::new();
        merge_patch(&mut wanted, &cloud.desired);
        self.upstream_took(&cloud.reported);
        if self.cloud_version == Some(cloud.desired_version) && *self.written() == wanted {
            return Ok(false);
        }
        self.write_from_cloud(wanted, cloud.desired_version, now);
        Ok(true)
    }

    /// What upstream does not have of the reported properties; none: it has all.
    #[must_use]
    pub fn unreported(&self) -> Option<Unreported> {
        let patch = diff(self.upstream_has.as_ref()?, &self.reported);
        (!patch.is_empty()).then_some(Unreported { patch, version: self.reported_version })
    }

    /// Upstream has these reported properties now.
    pub fn upstream_took(&mut self, reported: &Map<String, Value>) {
        self.upstream_has = (*reported != self.reported).then(|| reported.clone());
    }

    /// The desired properties without what was changed here.
    fn written(&self) -> &Map<String, Value> {
        self.desired_base.as_ref().unwrap_or(&self.desired)
    }

    fn write_from_cloud(&mut self, wanted: Map<String, Value>, version: u64, now: UtcMillis) {
        self.replace_desired(wanted, Origin::Cloud { version }, now);
        self.desired_origin = Origin::Cloud { version };
        self.desired_base = None;
        self.cloud_version = Some(version);
    }
}
