//! The deployments of a device, what became of them, and what follows from that: which was the last good one, and which are
//! not tried again.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{deployment::RolloutOptions, hex::hex, name::ModuleName, time::UtcMillis};

/// Deployments that are remembered. Enough for a season of changes; each costs some hundred bytes and its manifest.
pub const MAX_ENTRIES: usize = 20;
/// A host that was started so often with a deployment on trial, and neither stopped in order nor lived for [`LONG_LIFE`], does not begin
/// with it once more. A device whose power fails so often within minutes is rarer than a deployment that takes all memory.
const MAX_ENDS: u32 = 5;
/// After that a host has not ended by what it began with. A deployment that takes all memory or breaks the network shows it sooner,
/// and a device whose power is cut every quarter of an hour is not told from one that it ends.
pub const LONG_LIFE: Duration = Duration::from_secs(600);
/// Bytes of their manifests together: two of the largest, hundreds of common ones.
pub const MAX_TEXT_BYTES: usize = 4 << 20;

/// `sha256:…` of a manifest without the white space between its parts: laid out anew it is the same.
#[must_use]
pub fn manifest_digest(text: &str) -> String {
    let (mut in_text, mut escaped) = (false, false);
    let bytes = text.strip_prefix('\u{feff}').unwrap_or(text).bytes();
    let kept = bytes.filter(|byte| {
        let keep = in_text || !matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ => {}
        }
        keep
    });
    hex("sha256:", &Sha256::digest(kept.collect::<Vec<u8>>()))
}

/// How a deployment came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "way", rename_all = "kebab-case")]
pub enum Way {
    /// Over the control API.
    Apply,
    /// From the file that the host follows.
    File,
    /// In place of one that was not good.
    Rollback {
        /// The one that was not.
        of: u64,
        /// The one whose manifest this is.
        to: u64,
        /// What was wrong with the former.
        because: String,
        /// Only the network, or the disk: the former may be tried again as it is.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
    },
    /// An operator wanted an earlier one again.
    ByHand {
        /// The one that was in force; none = there was none.
        of: Option<u64>,
        /// The one whose manifest this is.
        to: u64,
    },
    /// Before a history was kept.
    Unknown,
}

/// What became of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is not known yet.
    OnTrial,
    /// All its modules became healthy.
    Good,
    /// They did not, and it stayed in force nevertheless.
    Bad,
    /// They did not, or an operator did not want it: another one took its place, and it is not tried again as it is.
    RolledBack,
    /// Another one came before it was known.
    Replaced,
}

/// A deployment that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// Its version.
    pub version: u64,
    /// When.
    #[serde(rename = "acceptedMs")]
    pub at: UtcMillis,
    /// How it came.
    #[serde(flatten)]
    pub way: Way,
    /// Of its manifest; see [`manifest_digest`].
    pub digest: String,
    /// Bytes of its manifest.
    pub bytes: usize,
    /// Modules that failed before, and that it does not change.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub failing_before: BTreeSet<ModuleName>,
    /// Modules whose desired properties were not stored before, and that it wants as they were.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unstored_before: BTreeSet<ModuleName>,
}

/// A deployment and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// What was accepted.
    #[serde(flatten)]
    pub accepted: Accepted,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, if it was not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When that was known.
    #[serde(default, rename = "decidedMs", skip_serializing_if = "Option::is_none")]
    pub decided: Option<UtcMillis>,
    /// Modules that failed when the host stopped last, or, until it has stopped, before this deployment came.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unwell: BTreeSet<ModuleName>,
    /// How often the host was started while it was on trial, and neither stopped in order nor lived for [`LONG_LIFE`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ends: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde wants it so
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The deployments, the newest last. The last one is in force, unless its document was damaged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    entries: Vec<Entry>,
}

impl History {
    /// All that are remembered, the oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// One of them.
    #[must_use]
    pub fn entry(&self, version: u64) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.accepted.version == version)
    }

    /// The highest version; 0 if there is none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.entries.iter().map(|entry| entry.accepted.version).max().unwrap_or(0)
    }

    /// The newest one, if it is newer than this version: whoever holds this one, or none (0), has lost it.
    #[must_use]
    pub fn newer_than(&self, version: u64) -> Option<&Entry> {
        self.entry(self.newest()).filter(|newest| newest.accepted.version > version)
    }

    /// Notes that a deployment is in force, and what that says of the one before. One that is there already changes nothing.
    /// What is too old is forgotten; the last good one is not.
    pub fn accept(&mut self, accepted: Accepted) {
        if self.entry(accepted.version).is_some() {
            return;
        }
        let at = accepted.at;
        for entry in self.entries.iter_mut().filter(|entry| entry.outcome == Outcome::OnTrial) {
            (entry.outcome, entry.decided) = (Outcome::Replaced, Some(at));
        }
        match &accepted.way {
            // It was good, and cannot be had or read now.
            Way::Rollback { of, again: true, .. } if self.entry(*of).is_some_and(|of| of.outcome == Outcome::Good) => {}
            Way::Rollback { of, because, again, .. } => {
                let outcome = if *again { Outcome::Replaced } else { Outcome::RolledBack };
                self.decide(*of, outcome, Some(because.clone()), at);
            }
            // Who tries one again of which nothing good is known keeps what there is to go back to.
            Way::ByHand { of: Some(of), to } if self.entry(*to).is_some_and(|to| to.outcome == Outcome::Good) => {
                self.decide(*of, Outcome::RolledBack, Some("an operator rolled it back".into()), at);
            }
            Way::ByHand { .. } | Way::Apply | Way::File | Way::Unknown => {}
        }
        // What ran before anybody kept a history is what the device's owner had.
        let outcome = if accepted.way == Way::Unknown { Outcome::Good } else { Outcome::OnTrial };
        let unwell = accepted.failing_before.clone();
        self.entries.push(Entry { accepted, outcome, reason: None, decided: None, unwell, ends: 0 });
        self.forget();
    }

    /// The same for the deployment that is stored, at a start. `lost`: there was a history, and it cannot be read. Then it counts as good,
    /// because it is what the device has, and something to go back to. Without that it came before any history was written, and is on trial.
    pub fn resume(&mut self, accepted: Accepted, lost: bool) {
        let (version, at) = (accepted.version, accepted.at);
        let is_alone = self.entries.is_empty();
        self.accept(accepted);
        if lost && is_alone {
            self.decide(version, Outcome::Good, None, at);
        }
    }

    /// Notes what became of a deployment.
    pub fn decide(&mut self, version: u64, outcome: Outcome, reason: Option<String>, at: UtcMillis) {
        if let Some(entry) = self.entry_mut(version) {
            (entry.outcome, entry.reason, entry.decided, entry.ends) = (outcome, reason, Some(at), 0);
        }
    }

    /// Notes which modules fail as the host stops. True: that is news.
    pub fn note_unwell(&mut self, version: u64, unwell: BTreeSet<ModuleName>) -> bool {
        self.entry_mut(version).is_some_and(|entry| std::mem::replace(&mut entry.unwell, unwell.clone()) != unwell)
    }

    fn entry_mut(&mut self, version: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.accepted.version == version)
    }

    /// Notes that the host begins with this deployment on trial (again), or stops in order. Answers why it is not to begin with it once
    /// more, when it has done so too often and not stopped in order.
    pub fn begins(&mut self, version: u64, begins: bool) -> Option<String> {
        let entry = self.entry_mut(version)?;
        entry.ends = if begins { entry.ends.saturating_add(1) } else { entry.ends.saturating_sub(1) };
        let minutes = LONG_LIFE.as_secs() / 60;
        (entry.ends > MAX_ENDS).then(|| {
            format!(
                "the host was started {MAX_ENDS} times while it was on trial, and neither lived for {minutes} minutes nor stopped in order"
            )
        })
    }

    /// Notes that the host has lived for [`LONG_LIFE`] with this deployment. True: that is news.
    pub fn has_lived(&mut self, version: u64) -> bool {
        self.entry_mut(version).is_some_and(|entry| std::mem::take(&mut entry.ends) > 0)
    }

    /// Notes that a deployment of which nothing was known in the end is in force again.
    pub fn try_again(&mut self, version: u64) {
        if let Some(entry) = self.entry_mut(version)
            && entry.outcome == Outcome::Replaced
        {
            (entry.outcome, entry.reason, entry.decided) = (Outcome::OnTrial, None, None);
        }
    }

    /// The deployment with this manifest that was rolled back, if that is what became of it last: it is not tried again.
    #[must_use]
    pub fn rolled_back(&self, digest: &str) -> Option<&Entry> {
        self.newest_of(digest).filter(|entry| entry.outcome == Outcome::RolledBack)
    }

    /// What takes the place of the deployment of this version, best first: earlier ones that were good, with another manifest, and
    /// not rolled back since.
    pub fn good_before(&self, version: u64) -> impl Iterator<Item = &Entry> {
        let digest = self.entry(version).map(|entry| &entry.accepted.digest);
        self.entries.iter().rev().filter(move |entry| {
            entry.accepted.version < version
                && entry.outcome == Outcome::Good
                && digest != Some(&entry.accepted.digest)
                && self.rolled_back(&entry.accepted.digest).is_none()
        })
    }

    /// What takes the place of this one, which is not good; best first. Nothing if its manifest asks for no rollback, and nothing for one
    /// that has itself taken another one's place: two that fail would replace each other for ever.
    pub fn instead_of(&self, version: u64, options: &RolloutOptions) -> impl Iterator<Item = &Entry> {
        let itself = self.entry(version).is_some_and(|entry| matches!(entry.accepted.way, Way::Rollback { .. }));
        let may = options.rollback && !itself;
        self.good_before(version).filter(move |_| may)
    }

    /// Digests of the manifests that are worth keeping.
    #[must_use]
    pub fn digests(&self) -> BTreeSet<&str> {
        self.entries.iter().map(|entry| entry.accepted.digest.as_str()).collect()
    }

    fn newest_of(&self, digest: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.accepted.digest == digest)
    }

    fn forget(&mut self) {
        while self.entries.len() > MAX_ENTRIES || self.text_bytes() > MAX_TEXT_BYTES {
            let newest = self.newest();
            let last_good = self.good_before(newest).next().map(|entry| entry.accepted.version);
            let kept = |entry: &Entry| entry.accepted.version == newest || Some(entry.accepted.version) == last_good;
            let Some(oldest) = self.entries.iter().position(|entry| !kept(entry)) else { return };
            self.entries.remove(oldest);
        }
    }

    fn text_bytes(&self) -> usize {
        let mut seen = BTreeSet::new();
        let texts = self.entries.iter().map(|entry| &entry.accepted).filter(|it| seen.insert(it.digest.as_str()));
        texts.map(|accepted| accepted.bytes).sum()
    }
}
