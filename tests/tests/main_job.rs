//! The main job: modules from a stock registry, real readings of this machine, a change of a twin while they run.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::fs;

use marram_tests::{
    device::Device,
    host::Host,
    journal::{sequences, text},
    manifest::{Manifest, Module},
    program::push,
    registry::DockerRegistry,
};
use serde_json::{Value, json};

#[test]
fn readings_of_this_machine_come_from_the_registry_to_upstream() {
    let (registry, device) = (registry(), Device::new());
    let host = device.start(&deployment(&registry));
    let entries = device.journal().wait_for_more(5);

    for entry in &entries {
        assert_eq!(text(entry, "/source"), "/messages/modules/filter/outputs/alerts", "{entry}");
        assert_eq!(text(entry, "/properties/alert"), "memTotalKiB above 0", "{entry}");
        assert_eq!(text(entry, "/properties/sensor"), "proc", "the sender's own properties stay: {entry}");
        assert!(!text(entry, "/properties/device").is_empty(), "{entry}");
        assert_eq!(text(entry, "/systemProperties/contentType"), "application/json", "{entry}");
        assert_eq!(text(entry, "/systemProperties/contentEncoding"), "utf-8", "{entry}");
        assert!(text(entry, "/systemProperties/messageId").starts_with("telemetry-"), "{entry}");
        check_reading(&entry["body"]);
    }
    let ids: Vec<&str> = entries.iter().map(|entry| text(entry, "/systemProperties/messageId")).collect();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    let sequences = sequences(&entries);
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>(), "in order, none missing, none twice");
    host.stop();
}

#[test]
fn a_twin_changed_while_a_module_runs_changes_what_arrives() {
    let (registry, device) = (registry(), Device::new());
    let mut journal = device.journal();
    let host = device.start(&deployment(&registry));
    let _ = journal.wait_for_more(1);

    set(&device, r#"{"field":"memUsedPercent","threshold":200}"#);
    acknowledged(&host, 200, "memUsedPercent above 200");
    // Each report is made after at least one more message: what came in between did not pass.
    let before = reports(&host, 2);
    let arrived = journal.read().len();
    let after = reports(&host, 2);
    assert!(after["seen"].as_u64() > before["seen"].as_u64(), "{before} {after}");
    assert_eq!(after["passed"], before["passed"]);
    assert_eq!(journal.read().len(), arrived, "nothing is above 200 %");

    set(&device, r#"{"threshold":"high"}"#);
    acknowledged(&host, 400, "\"high\" is not a number");

    set(&device, r#"{"threshold":-1}"#);
    acknowledged(&host, 200, "memUsedPercent above -1");
    journal.wait_for("a message above the last threshold", |all| {
        all.last().filter(|last| text(last, "/properties/alert") == "memUsedPercent above -1").map(drop)
    });
    let thresholds: Vec<&str> = journal.read().iter().map(|entry| text(entry, "/properties/alert")).collect();
    assert!(thresholds.is_sorted_by_key(|alert| *alert == "memUsedPercent above -1"), "no way back: {thresholds:?}");
    host.stop();
}

fn registry() -> DockerRegistry {
    let registry = DockerRegistry::start();
    for (guest, name) in [("device_telemetry", "telemetry:1.2"), ("threshold_filter", "shop/filter:latest")] {
        push(guest, &registry.image(name));
    }
    registry
}

fn deployment(registry: &DockerRegistry) -> Manifest {
    Manifest::new()
        .module("telemetry", Module::new(&registry.image("telemetry:1.2")).reads_proc())
        .module("filter", Module::new(&registry.image("shop/filter")))
        .route("up", "FROM /messages/modules/filter/outputs/alerts INTO $upstream")
        .route("in", r#"FROM /messages/modules/telemetry/outputs/* INTO BrokeredEndpoint("/modules/filter/inputs/in")"#)
        .twin("telemetry", json!({ "intervalMs": 20 }))
        .twin("filter", json!({ "field": "memTotalKiB", "threshold": 0 }))
}

/// The values are this machine's.
#[track_caller]
fn check_reading(body: &Value) {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
    assert_eq!(body["memTotalKiB"].as_u64(), Some(total), "{body}");
    assert!(body["memAvailableKiB"].as_u64().unwrap() < total, "{body}");
    assert!((0.0..1000.0).contains(&body["load1"].as_f64().unwrap()), "{body}");
    assert!((0.0..100.0).contains(&body["memUsedPercent"].as_f64().unwrap()), "{body}");
    let age_ms =
        std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64 - body["unixMs"].as_u64().unwrap();
    assert!(age_ms < 600_000, "{body}");
}

fn set(device: &Device, patch: &str) {
    let _ = device.marram(&["twin", "set", "filter", patch]).ok();
}

/// The filter's answer to the newest desired properties.
#[track_caller]
fn acknowledged(host: &Host, code: u64, description: &str) {
    host.wait(&format!("the answer {code} {description}"), |host| {
        let twin = host.twin("filter");
        let ack = &twin["reported"]["desiredAck"];
        let is_newest = ack["version"] == twin["desiredVersion"];
        let says = ack["description"].as_str().is_some_and(|text| text.contains(description));
        (is_newest && ack["code"] == code && says).then_some(())
    });
}

/// The filter's counts after so many more of its reports.
#[track_caller]
fn reports(host: &Host, count: u64) -> Value {
    (0..count).fold(host.twin("filter")["reported"].clone(), |last, _| {
        host.wait("a report of the filter", |host| {
            let now = host.twin("filter")["reported"].clone();
            (now["seen"] != last["seen"]).then_some(now)
        })
    })
}
