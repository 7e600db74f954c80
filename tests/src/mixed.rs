//! Load of other kinds beside the flood of a test: large messages on a `power` route, readings that are chosen by their body and go
//! first, the same through memory, and messages that live for a second, whose end is a dead letter. What became of them is compared with
//! the receipts of their senders.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    device::Device,
    manifest::{Manifest, Module},
    receipts,
};

/// Messages of a sender at each start of it: enough for each life, and no more than journals and dead letters hold in a soak.
const LARGE: u32 = 50;
const SHORT: u32 = 20;

/// Bits of a sequence below the number of the host's start (`docs/journal.md`).
pub const RUN_BITS: u32 = 36;

/// The senders and the dead letters that were seen.
#[derive(Debug)]
pub struct Mixed {
    receipts: TempDir,
    /// Endpoint and sequence.
    letters: BTreeSet<(String, u64)>,
}

impl Default for Mixed {
    fn default() -> Self {
        Self::new()
    }
}

impl Mixed {
    /// Nothing was sent yet.
    ///
    /// # Panics
    /// No temporary folder can be made.
    #[must_use]
    pub fn new() -> Self {
        Self { receipts: tempfile::tempdir().expect("a temporary folder"), letters: BTreeSet::new() }
    }

    fn receipts(&self, sender: &str) -> PathBuf {
        self.receipts.path().join(sender)
    }

    /// Adds modules `large`, `short`, `readings` and `late`, and routes upstream and to inputs `memory` and `short` of a forwarder.
    /// `senders` is their status; `late` runs only when they do not, so that what is sent to it waits longer than it lives.
    #[must_use]
    pub fn add(&self, manifest: Manifest, image: impl Fn(&str) -> String, senders: &str) -> Manifest {
        let flood = |sender: &str, count: u32, bytes: u32| {
            let receipts = format!("/receipts/{sender}");
            let command = json!({ "do": "flood", "count": count, "bytes": bytes, "receipts": receipts });
            let module = Module::new(&image("misbehaving")).limit("handlerTime", "1h").limit("handlerWall", "1h");
            module.writes(self.receipts.path(), "/receipts").misbehave(&command).status(senders)
        };
        let late = if senders == "stopped" { "running" } else { "stopped" };
        let into = |module: &str, input: &str| format!(r#"INTO BrokeredEndpoint("/modules/{module}/inputs/{input}")"#);
        let short = |module: &str, input: &str| {
            let route = format!("FROM /messages/modules/short/* {}", into(module, input));
            json!({ "route": route, "timeToLiveSecs": 1, "marram": { "expiredToDeadLetter": true } })
        };
        let readings = "FROM /messages/modules/readings/*";
        let by_body = format!("{readings} WHERE $body.memTotalKiB > 0 AND sensor = 'proc' INTO $upstream");
        let in_memory = format!("{readings} {}", into("forwarder", "memory"));
        manifest
            .module("large", flood("large", LARGE, 4096))
            .module("short", flood("short", SHORT, 100))
            .module("readings", Module::new(&image("device_telemetry")).reads_proc().status(senders))
            .module("late", Module::new(&image("forwarder")).status(late))
            .route_object(
                "large",
                json!({ "route": "FROM /messages/modules/large/* INTO $upstream", "marram": { "durability": "power" } }),
            )
            .route_object("by-body", json!({ "route": by_body, "priority": 1 }))
            .route_object("in-memory", json!({ "route": in_memory, "marram": { "durability": "memory" } }))
            .route_object("short", short("forwarder", "short"))
            .route_object("late", short("late", "in"))
            .upstream("late")
            .twin("readings", json!({ "intervalMs": 20 }))
    }

    /// Takes note of the dead letters, and has the host forget them: there is room for some only.
    ///
    /// # Panics
    /// The host does not answer.
    pub fn collect(&mut self, device: &Device) {
        let answer = device.marram(&["deadletters", "list", "--format", "json"]).ok().json();
        let letters = answer["letters"].as_array().expect("letters");
        let mut purge = vec!["deadletters".to_owned(), "purge".to_owned()];
        for letter in letters {
            let endpoint = letter["endpoint"].as_str().unwrap_or_default().to_owned();
            self.letters.insert((endpoint, letter["sequence"].as_u64().unwrap_or_default()));
            purge.push(letter["id"].to_string());
        }
        if !letters.is_empty() {
            let _ = device.marram(&purge).ok();
        }
    }

    /// Whether nothing was dropped of a queue but what may expire.
    #[must_use]
    pub fn is_as_expected(queue: &Value) -> bool {
        let dropped = queue["dropped"].as_object();
        let may_expire = queue["endpoint"] == "forwarder/short" || queue["endpoint"] == "late/in";
        dropped.is_some_and(|dropped| dropped.keys().all(|reason| may_expire && reason == "ttl_expiry"))
    }

    /// All that was accepted came upstream, or expired and was seen among the dead letters. Returns how many messages expired.
    ///
    /// # Panics
    /// Something is missing, or nothing was sent, or nothing expired.
    #[track_caller]
    pub fn check(&self, entries: &[Value]) -> usize {
        let _ = receipts::check(&self.receipts("large"), entries, &["large"]);
        let came = receipts::came(entries);
        let came = |module: &str, run: &str, n: &str| {
            came.get(module).is_some_and(|came| came.contains(&(run.to_owned(), n.to_owned())))
        };
        check_readings(entries);
        let mut expired = 0;
        for (run, n, sequence) in receipts::read(&self.receipts("short")) {
            for (module, endpoint) in [("forwarder", "forwarder/short"), ("late", "late/in")] {
                let is_letter = self.letters.contains(&(endpoint.to_owned(), sequence));
                assert!(
                    is_letter || came(module, &run, &n),
                    "message {n} of run {run} was accepted, and neither came from {module} nor expired"
                );
                expired += usize::from(is_letter);
            }
        }
        assert!(expired > 0, "something expired");
        expired
    }
}

/// Nobody writes receipts of readings, but each life of the host numbers them: none is missing before one that came.
#[track_caller]
fn check_readings(entries: &[Value]) {
    let is_reading = |source: &str| source.starts_with("/messages/modules/readings/");
    let readings = entries.iter().filter(|entry| entry["source"].as_str().is_some_and(is_reading));
    let sequences: BTreeSet<u64> = readings.filter_map(|entry| entry["sequence"].as_u64()).collect();
    assert!(!sequences.is_empty(), "readings came");
    for sequence in &sequences {
        let in_life = sequence & ((1 << RUN_BITS) - 1);
        assert!(in_life == 1 || sequences.contains(&(sequence - 1)), "the reading before {sequence} is missing");
    }
}
