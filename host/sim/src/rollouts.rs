//! What the disk of a simulated host says of its deployments, and what must hold of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    invariants::Deployment,
    op::manifest,
    time::{awake, awake_at},
};

/// `rollout.timeout`, which no manifest here sets.
const TIMEOUT: u64 = 300_000;
/// All of them together, when modules are healthy only in turn.
const TIMEOUTS: u64 = 4 * TIMEOUT;
/// A host that begins replaces what is known to be bad within this.
const BOOT: u64 = 1_000;

/// The deployments so far.
#[derive(Debug, Default)]
pub(crate) struct Rollouts {
    /// All that were ever applied, by their manifests.
    known: Vec<(Value, Deployment)>,
    /// The version in force.
    pub(crate) version: u64,
    /// The highest that the disk knows of.
    highest: u64,
    contents: BTreeMap<u64, Deployment>,
    /// Manifests that were rolled back and have not been wanted again.
    bad: BTreeSet<String>,
    /// The same, but what the host knew of it was lost by the disk.
    perhaps_bad: BTreeSet<String>,
    /// The one in force came by a rollback of the host's own.
    is_rollback: bool,
    /// Since when it is, or since when the host lives.
    since: u64,
    /// When the host began to live.
    life: u64,
    /// What it began with was older than what it had accepted, or its history was.
    began_with_less: bool,
}

/// What a document tells.
pub(crate) struct Told {
    /// For the trace, if it is a rollback.
    pub(crate) line: Option<String>,
    pub(crate) deployment: Deployment,
    pub(crate) broken: Vec<&'static str>,
}

/// Whether a history has this deployment as its newest.
pub(crate) fn knows(history: Option<&[u8]>, document: &[u8]) -> bool {
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    let history = read(history.unwrap_or_default());
    let entries = history["entries"].as_array().into_iter().flatten();
    let newest = entries.filter_map(|entry| entry["version"].as_u64()).max();
    newest.is_some() && newest == read(document)["version"].as_u64()
}

impl Rollouts {
    /// It is being applied.
    pub(crate) fn applies(&mut self, deployment: &Deployment) {
        let manifest = serde_json::from_str(&manifest(deployment)).unwrap_or_default();
        if self.known.iter().all(|(other, _)| *other != manifest) {
            self.known.push((manifest, deployment.clone()));
        }
    }

    /// It is perhaps refused, because it was rolled back.
    pub(crate) fn may_be_bad(&self, deployment: &Deployment) -> bool {
        let manifest = manifest(deployment);
        self.bad.contains(&manifest) || self.perhaps_bad.contains(&manifest)
    }

    fn is_bad(&self, deployment: &Deployment) -> bool {
        self.bad.contains(&manifest(deployment))
    }

    fn of(&self, document: &Value) -> Deployment {
        let found = self.known.iter().find(|(manifest, _)| *manifest == document["manifest"]);
        found.map(|(_, deployment)| deployment.clone()).unwrap_or_default()
    }

    /// A host begins at this time with these documents. `forgot`: its history does not hold all that the one before knew; `lost`: what is in force is
    /// not what was accepted last. Returns what is in force.
    pub(crate) fn begins(
        &mut self,
        document: Option<&[u8]>,
        history: Option<&[u8]>,
        at: u64,
        (forgot, lost): (bool, bool),
    ) -> Deployment {
        (self.since, self.life) = (awake_at(at), awake_at(at));
        self.began_with_less = forgot || lost;
        if forgot {
            self.perhaps_bad.append(&mut self.bad);
        }
        let read =
            |bytes: Option<&[u8]>| serde_json::from_slice::<Value>(bytes.unwrap_or_default()).unwrap_or_default();
        let (document, history) = (read(document), read(history));
        self.version = document["version"].as_u64().unwrap_or(0);
        self.is_rollback = document["came"]["way"] == "rollback";
        let entries = history["entries"].as_array().into_iter().flatten();
        let versions = entries.filter_map(|entry| entry["version"].as_u64());
        self.highest = versions.chain([self.version]).max().unwrap_or(0);
        let deployment = self.of(&document);
        self.contents.insert(self.version, deployment.clone());
        deployment
    }

    /// A document is stored, and counts from now on.
    pub(crate) fn stored(&mut self, document: &[u8]) -> Told {
        let document: Value = serde_json::from_slice(document).unwrap_or_default();
        let (version, came) = (document["version"].as_u64().unwrap_or(0), &document["came"]);
        let (way, of, to) = (came["way"].as_str().unwrap_or(""), came["of"].as_u64(), came["to"].as_u64());
        let mut broken = Vec::new();
        if version == self.version {
            let deployment = self.of(&document);
            if self.contents.get(&version) != Some(&deployment) {
                broken.push("a deployment that is had back is the one that was accepted");
            }
            return Told { line: None, deployment, broken };
        }
        if version != self.highest + 1 {
            broken.push("versions rise by one");
        }
        let deployment = self.of(&document);
        let earlier = to.and_then(|to| self.contents.get(&to));
        if matches!(way, "rollback" | "by-hand") && earlier.is_some_and(|earlier| *earlier != deployment) {
            broken.push("a rollback holds what it leads to");
        }
        // For want of a network alone nothing is condemned.
        let condemns = matches!(way, "rollback" | "by-hand") && came["again"] != true;
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
            if !self.is_due(came["because"].as_str().unwrap_or("")) {
                broken.push("no deployment is rolled back before its time");
            }
        } else if self.is_bad(&deployment) && way != "by-hand" {
            broken.push("what was rolled back is not tried again");
        }
        for bad in [&mut self.bad, &mut self.perhaps_bad] {
            bad.remove(&manifest(&deployment));
        }
        self.is_rollback = way == "rollback";
        (self.version, self.highest, self.since) = (version, version, awake());
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

    /// Whether the one in force may be rolled back now, for this reason. What is known of it from before may be stored late.
    fn is_due(&self, because: &str) -> bool {
        let (passed, begins) = (awake() - self.since, awake() < self.life + BOOT);
        if because.contains("was not healthy within") {
            passed >= TIMEOUT || self.began_with_less
        } else if because.contains("were never healthy at the same time") {
            passed >= TIMEOUTS || self.began_with_less
        } else if because.contains("is not started again") {
            let mut modules = self.contents.get(&self.version).into_iter().flat_map(Deployment::values);
            modules.any(|wanted| wanted.policy == "never" || wanted.max_restarts.is_some())
        } else if because.contains("the host was started") {
            begins
        } else {
            self.began_with_less
        }
    }
}
