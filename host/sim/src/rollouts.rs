//! What the disk of a simulated host says of its deployments, and what must hold of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{invariants::Deployment, op::manifest};

/// The deployments so far.
#[derive(Debug, Default)]
pub(crate) struct Rollouts {
    /// What is being applied: what the next document that is no rollback holds.
    pub(crate) applying: Option<Deployment>,
    /// The version in force.
    pub(crate) version: u64,
    contents: BTreeMap<u64, Deployment>,
    /// Manifests that were rolled back and have not been wanted again.
    bad: BTreeSet<String>,
    /// The one in force came by a rollback of the host's own.
    is_rollback: bool,
}

/// What a document tells.
pub(crate) struct Told {
    /// For the trace, if it is a rollback.
    pub(crate) line: Option<String>,
    pub(crate) deployment: Deployment,
    pub(crate) broken: Vec<&'static str>,
}

impl Rollouts {
    /// It is not to be applied again.
    pub(crate) fn is_bad(&self, deployment: &Deployment) -> bool {
        self.bad.contains(&manifest(deployment))
    }

    pub(crate) fn stored(&mut self, document: &[u8]) -> Told {
        let document: Value = serde_json::from_slice(document).unwrap_or_default();
        let (version, came) = (document["version"].as_u64().unwrap_or(0), &document["came"]);
        let (way, of, to) = (came["way"].as_str().unwrap_or(""), came["of"].as_u64(), came["to"].as_u64());
        let mut broken = Vec::new();
        if version != self.version + 1 {
            broken.push("versions rise by one");
        }
        let earlier = to.and_then(|to| self.contents.get(&to)).cloned();
        let rolls_back = matches!(way, "rollback" | "by-hand");
        let deployment = if rolls_back { earlier } else { self.applying.clone() }.unwrap_or_default();
        // For want of a network alone nothing is condemned.
        let condemns = rolls_back && came["again"] != true;
        if let Some(old) = of.and_then(|of| self.contents.get(&of)).filter(|_| condemns) {
            self.bad.insert(manifest(old));
        }
        if way == "rollback" {
            if self.is_rollback {
                broken.push("a rollback is not rolled back");
            }
            if of != Some(self.version) {
                broken.push("what is rolled back is in force");
            }
            if self.is_bad(&deployment) {
                broken.push("a rollback leads to none that was rolled back");
            }
        } else if self.is_bad(&deployment) && way != "by-hand" {
            broken.push("what was rolled back is not tried again");
        }
        self.bad.remove(&manifest(&deployment));
        self.is_rollback = way == "rollback";
        self.version = version;
        self.contents.insert(version, deployment.clone());
        let line = match (way, of, to) {
            ("rollback", Some(of), Some(to)) => {
                let because = came["because"].as_str().unwrap_or("");
                Some(format!("< deployment {version}: rollback of {of} to {to}: {because}"))
            }
            ("by-hand", _, Some(to)) => Some(format!("< deployment {version}: back to {to}")),
            _ => None,
        };
        Told { line, deployment, broken }
    }
}
