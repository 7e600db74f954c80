//! The host is killed (SIGKILL) under load at random moments, also while it starts, and started again: what was acknowledged
//! is there, nothing is lost, nothing stands in the way; what came twice is counted. Twenty times in each run of the tests, and a thousand
//! times with `cargo xtask soak kills`.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    thread,
    time::Duration,
};

use marram_tests::{
    chance::Chance,
    device::Device,
    figure::figure,
    host::Host,
    journal::{Journal, text},
    manifest::{Manifest, Module},
    mixed::{Mixed, RUN_BITS},
    program::push,
    receipts,
    registry::DockerRegistry,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

#[test]
fn a_host_that_is_killed_twenty_times_has_all_that_it_acknowledged() {
    kill_again_and_again(20);
}

#[test]
#[ignore = "takes long: `cargo xtask soak kills`"]
fn what_a_host_acknowledged_survives_many_kills() {
    let rounds =
        env::var("MARRAM_SOAK_ROUNDS").map_or(1000, |text| text.parse().expect("MARRAM_SOAK_ROUNDS is a number"));
    kill_again_and_again(rounds);
}

/// A message log that fills up now and then.
const SETTINGS: &str = "[messages]\nmax-bytes = 8388608\n";

fn kill_again_and_again(rounds: usize) {
    let mut chance = Chance::new();
    let (mut registry, device) = (DockerRegistry::start(), Device::new());
    device.configure(SETTINGS);
    let images = ["misbehaving", "forwarder", "device_telemetry", "threshold_filter"];
    images.iter().for_each(|image| drop(push(image, &registry.image(&format!("{image}:1")))));
    let mixed = Mixed::new();
    let mut scene = Scene { registry: registry.image(""), receipts: tempfile::tempdir().unwrap(), mixed };
    let host = device.start(&scene.manifest(0));
    wait_for_load(&host);
    registry.stop(); // from here on its images come from the device
    let mut known = Known { version: 1, value: 0, reported: 0 };
    let (compiled, blobs) = (files(&device, "compiled"), blobs(&device));
    assert!(compiled.len() >= images.len() && blobs.len() >= images.len());
    end(host, &device, &scene, &mut known, &mut chance);

    let (mut journal, mut lines, mut lives) = (device.journal(), Vec::new(), 1);
    for round in 1..rounds {
        lines = still_there(&journal, &lines);
        if round % 3 == 0 {
            kill_while_it_starts(&device, &mut chance);
        }
        let host = device.start_stored(&["--grace", "1"]);
        known.check(&host);
        scene.mixed.collect(&device);
        let enough = journal.read().len() + chance.below(2000);
        journal.wait_for("messages of this life", |all| (all.len() > enough).then_some(()));
        end(host, &device, &scene, &mut known, &mut chance);
        lives += 1;
    }

    lines = still_there(&journal, &lines);
    let host = device.start_stored(&["--grace", "1"]);
    known.check(&host);
    // Nobody sends any more, and what waits is handled.
    let quiet = scene.manifest_with(known.version, "stopped");
    assert_eq!(device.apply(&quiet.to_json()).code, Some(0));
    host.wait("all queues to be empty", |host| {
        let status = host.status();
        let queues = status["queues"].as_array().into_iter().flatten();
        queues.into_iter().all(|queue| queue["length"] == 0).then_some(())
    });
    let status = host.status();
    assert!(status["queues"].as_array().unwrap().iter().all(Mixed::is_as_expected), "{status}");
    assert_eq!((&status["messageLog"]["damaged"], &status["messageLog"]["lost"]), (&json!(0), &json!(0)), "{status}");
    scene.mixed.collect(&device);
    host.stop();
    still_there(&journal, &lines);
    let entries = journal.read();
    let expired = scene.mixed.check(entries);
    let again = check_sequences(entries);
    let receipts = receipts::check(&scene.receipts.path().join("lines"), entries, &["bad", "forwarder"]);
    for file in device.journal().bytes() {
        assert!(file.is_empty() || file.ends_with(b"\n"), "a torn line is left");
    }
    assert_eq!(files(&device, "compiled"), compiled, "nothing was compiled again");
    assert_eq!(self::blobs(&device), blobs, "nothing was fetched again, and all is whole");
    figure("kills.lives", f64::from(lives), "");
    figure("kills.messages", entries.len() as f64, "");
    figure("kills.receipts", receipts as f64, "");
    figure("kills.expired", expired as f64, "");
    figure("kills.again", again as f64, "");
}

/// Where images come from, and where the sender writes what was accepted.
struct Scene {
    registry: String,
    receipts: tempfile::TempDir,
    /// Load of other kinds.
    mixed: Mixed,
}

impl Scene {
    fn manifest(&self, variant: u64) -> Manifest {
        self.manifest_with(variant, "running")
    }

    /// A flood with two ways upstream, and readings that a filter counts in its reported properties.
    fn manifest_with(&self, variant: u64, senders: &str) -> Manifest {
        let image = |name: &str| format!("{}{name}:1", self.registry);
        let command = json!({ "do": "flood", "count": 1_u64 << 50, "bytes": 100, "receipts": "/receipts/lines" });
        let into = |module: &str| format!(r#"INTO BrokeredEndpoint("/modules/{module}/inputs/in")"#);
        let filter = Module::new(&image("threshold_filter")).env("VARIANT", &variant.to_string());
        let bad = Module::new(&image("misbehaving")).limit("handlerTime", "1h").limit("handlerWall", "1h");
        let bad = bad.writes(self.receipts.path(), "/receipts").status(senders);
        let manifest = Manifest::new()
            .module("bad", bad)
            .module("forwarder", Module::new(&image("forwarder")))
            .module("telemetry", Module::new(&image("device_telemetry")).reads_proc().status(senders))
            .module("filter", filter)
            .upstream("bad")
            .upstream("forwarder")
            .upstream("filter")
            .route("forward", &format!("FROM /messages/modules/bad/* {}", into("forwarder")))
            .route("filter", &format!("FROM /messages/modules/telemetry/* {}", into("filter")))
            .twin("bad", json!({ "command": command }))
            .twin("telemetry", json!({ "intervalMs": 10 }))
            .twin("filter", json!({ "field": "memTotalKiB", "threshold": 0 }));
        self.mixed.add(manifest, image, senders)
    }
}

/// What the host has said yes to.
struct Known {
    /// Of the deployment.
    version: u64,
    /// Of the property that is set again and again.
    value: u64,
    /// Version of the filter's reported properties.
    reported: u64,
}

impl Known {
    /// The host holds at least that, and takes note of what it holds.
    #[track_caller]
    fn check(&mut self, host: &Host) {
        let version = host.status()["deploymentVersion"].as_u64().unwrap();
        assert!(version == self.version || version == self.version + 1, "{version}, {} was accepted", self.version);
        let twin = host.twin("telemetry");
        assert_eq!(twin["desired"]["intervalMs"], 10);
        let value = twin["desired"]["value"].as_u64().unwrap_or_default();
        assert!(value == self.value || value == self.value + 1, "{value}, {} was accepted", self.value);
        let reported = host.twin("filter")["reportedVersion"].as_u64().unwrap();
        assert!(reported >= self.reported, "{reported}, {} was told", self.reported);
        *self = Self { version, value, reported };
    }
}

/// Changes the twin and, by chance, the deployment, and kills the host at some moment in all that.
fn end(host: Host, device: &Device, scene: &Scene, known: &mut Known, chance: &mut Chance) {
    known.reported = host.twin("filter")["reportedVersion"].as_u64().unwrap().max(known.reported);
    let pause = Duration::from_micros(chance.below(60_000) as u64);
    let (set, applied) = thread::scope(|scope| {
        let patch = format!(r#"{{"value":{}}}"#, known.value + 1);
        let set = scope.spawn(move || device.marram(&["twin", "set", "telemetry", &patch]).code == Some(0));
        let apply = chance.below(3) == 0;
        let changed = scene.manifest(known.version).to_json();
        let applied = scope.spawn(move || apply && device.apply(&changed).code == Some(0));
        thread::sleep(pause); // the random moment
        host.kill();
        (set.join().unwrap(), applied.join().unwrap())
    });
    known.value += u64::from(set);
    known.version += u64::from(applied);
}

/// At some moment between the start of the process and its being up.
fn kill_while_it_starts(device: &Device, chance: &mut Chance) {
    let mut child = device.spawn(&["run", "--log-format", "json", "--grace", "1"]);
    thread::sleep(Duration::from_micros(chance.below(400_000) as u64)); // the random moment
    let _ = child.kill();
    let _ = child.wait();
}

/// The whole lines upstream now; those that were there before are the beginning of them, byte for byte.
#[track_caller]
fn still_there(journal: &Journal, before: &[u8]) -> Vec<u8> {
    let mut now = journal.bytes().concat();
    assert!(now.starts_with(before), "{} bytes of whole lines were there, {} are", before.len(), now.len());
    now.truncate(now.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
    now
}

/// Of each module, in each life: 1, 2, 3 and so on, in this order when they come for the first time. Returns how many came again.
#[track_caller]
fn check_sequences(entries: &[Value]) -> usize {
    let mut seen: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    let mut again = 0;
    for entry in entries {
        let (source, sequence) = (text(entry, "/source"), entry["sequence"].as_u64().unwrap());
        let last = seen.entry((source, sequence >> RUN_BITS)).or_insert(sequence >> RUN_BITS << RUN_BITS);
        if sequence <= *last {
            again += 1;
            continue;
        }
        assert_eq!(sequence, *last + 1, "{source}: something is missing after {last}");
        *last = sequence;
    }
    let sources: BTreeSet<&str> = seen.keys().map(|(source, _)| *source).collect();
    assert!(sources.len() >= 3, "the flood, what was forwarded, and the filter: {sources:?}");
    again
}

#[track_caller]
fn wait_for_load(host: &Host) {
    host.wait_for_reported("filter", "seen", |seen| seen.as_u64() > Some(0));
    host.wait("messages on their way upstream", |host| {
        (host.queue("$upstream")["delivered"].as_u64()? > 500).then_some(())
    });
}

/// Names of the files below a folder of the data.
fn files(device: &Device, folder: &str) -> BTreeSet<String> {
    let folder = device.data().join(folder);
    let files = device.files().into_iter().filter(|file| file.starts_with(&folder));
    files.map(|file| file.display().to_string()).collect()
}

/// The blobs of the cache; each is what its name says.
#[track_caller]
fn blobs(device: &Device) -> BTreeSet<String> {
    let is_digest = |name: &str| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let names = files(device, "cache")
        .into_iter()
        .filter(|file| Path::new(file).file_name().and_then(|name| name.to_str()).is_some_and(is_digest));
    names
        .inspect(|file| {
            let digest = Sha256::digest(fs::read(file).unwrap());
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(file.ends_with(&hex), "{file} has digest {hex}");
        })
        .collect()
}
