//! What the section of a deployment has replaced: kept for the way back to the deployment before.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Origin, Twin};
use crate::time::UtcMillis;

/// Desired properties as they were before a section took their place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replaced {
    /// The deployment whose section that was.
    by: u64,
    desired: Map<String, Value>,
    section: Option<Map<String, Value>>,
    origin: Origin,
    base: Option<Map<String, Value>>,
    cloud_version: Option<u64>,
}

impl Twin {
    /// Up to this version, deployments are good: what their sections replaced is not wanted back. To be told before a section that differs.
    pub fn forget_replaced(&mut self, good: u64) {
        self.replaced.take_if(|replaced| replaced.by <= good);
    }

    /// Keeps what is about to be replaced, unless older properties are kept: a way back passes over all that were not good.
    pub(super) fn keep_replaced(&mut self, by: u64) {
        if self.replaced.is_none() {
            let (desired, section) = (self.desired.clone(), self.manifest_section.clone());
            let (origin, base, cloud_version) = (self.desired_origin, self.desired_base.clone(), self.cloud_version);
            self.replaced = Some(Replaced { by, desired, section, origin, base, cloud_version });
        }
    }

    /// Takes back what the sections of deployments after `to` did; `deployment_version` is the rollback to it. What the cloud has written
    /// since stays.
    pub fn restore_replaced(&mut self, to: u64, deployment_version: u64, now: UtcMillis) {
        let is_between = |replaced: &mut Replaced| replaced.by > to && replaced.by < deployment_version;
        let Some(replaced) = self.replaced.take_if(is_between) else { return };
        // The section of the deployment that is gone back to is not news, also where the cloud's word stays.
        self.manifest_section = replaced.section;
        if self.cloud_version.is_some() {
            return;
        }
        let origin = match replaced.origin {
            Origin::Manifest { .. } => Origin::Manifest { deployment_version },
            other => other,
        };
        self.replace_desired(replaced.desired, origin, now);
        (self.desired_base, self.cloud_version) = (replaced.base, replaced.cloud_version);
    }
}
