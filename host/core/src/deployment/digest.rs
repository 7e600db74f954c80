//! What a module's instance is made of, as one digest: a runtime tells by it which settings it runs.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{ModuleSpec, Mount, PullPolicy};
use crate::hex::hex;

/// Written as JSON, in this order: the bytes that the digest is of. A new field changes all digests, and costs nothing
/// worse than an update that was not needed.
#[derive(Serialize)]
struct Settings<'a> {
    version: &'a str,
    image: &'a str,
    pull_policy: PullPolicy,
    env: &'a BTreeMap<String, String>,
    memory_bytes: u64,
    handler_time_ms: u128,
    handler_wall_ms: u128,
    mounts: Vec<(Cow<'a, str>, &'a str, bool)>,
    args: &'a [String],
}

impl ModuleSpec {
    /// `sha256:…` over all settings whose change takes a new instance
    /// ([`needs_new_instance`](crate::planner::needs_new_instance)), the name left out.
    #[must_use]
    pub fn settings_digest(&self) -> String {
        let sandbox = &self.sandbox;
        let settings = Settings {
            version: &self.version,
            image: &self.image,
            pull_policy: self.pull_policy,
            env: &self.env,
            memory_bytes: sandbox.memory_bytes,
            handler_time_ms: sandbox.handler_time.as_millis(),
            handler_wall_ms: sandbox.handler_wall.as_millis(),
            mounts: sandbox.mounts.iter().map(as_tuple).collect(),
            args: &sandbox.args,
        };
        // Texts, numbers and lists always have a JSON text.
        let text = serde_json::to_vec(&settings).unwrap_or_default();
        hex("sha256:", &Sha256::digest(text))
    }
}

/// A manifest is UTF-8, and its paths with it.
fn as_tuple(mount: &Mount) -> (Cow<'_, str>, &str, bool) {
    (mount.host.to_string_lossy(), &mount.guest, mount.writable)
}
