//! The caches of components and machine code: their cap, what stays, and `marram cache` with and without a host.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{fs, path::Path};

use marram_tests::{
    device::Device,
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::{Value, json};

const GUESTS: [&str; 3] = ["plain_program", "threshold_filter", "device_telemetry"];

fn deploys(layout: &Layout, guests: &[&str]) -> Manifest {
    let add = |manifest: Manifest, guest: &&str| manifest.module(guest, Module::new(&layout.image(guest)));
    guests.iter().fold(Manifest::new(), add)
}

fn list(device: &Device) -> Value {
    device.marram(&["cache", "list", "--format", "json"]).ok().json()
}

/// The images that are kept, by the tag of their guest, with what uses them.
fn kept(device: &Device) -> Vec<(String, Value)> {
    let list = list(device);
    let tag = |image: &Value| image.as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let mut kept: Vec<(String, Value)> = list["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (tag(&item["images"][0]), item["modules"].clone()))
        .collect();
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    kept
}

fn tags(device: &Device) -> Vec<String> {
    kept(device).into_iter().map(|(tag, _)| tag).collect()
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| if entry.path().is_dir() { bytes_below(&entry.path()) } else { entry.metadata().unwrap().len() })
        .sum()
}

/// Runs the guests once, so that all are kept and none is deployed but the last.
fn with_all_cached(layout: &Layout, device: &Device) {
    let host = device.start(&deploys(layout, &GUESTS));
    for guest in GUESTS {
        host.wait_for_module(guest, "to be prepared", |now| !now["digest"].is_null());
    }
    let _ = device.apply(&deploys(layout, &["device_telemetry"]).to_json()).ok();
    host.wait("the others to be gone", |host| (host.status()["modules"].as_array().unwrap().len() == 1).then_some(()));
    host.stop();
}

#[test]
fn a_cap_removes_what_was_used_longest_ago_and_nothing_that_is_deployed() {
    let (layout, device) = (Layout::with(&GUESTS), Device::new());
    with_all_cached(&layout, &device);
    assert_eq!(tags(&device), ["device_telemetry", "plain_program", "threshold_filter"]);
    let total = list(&device)["totalBytes"].as_u64().unwrap();
    let in_folders = bytes_below(&device.data().join("cache/blobs")) + bytes_below(&device.data().join("compiled"));
    assert_eq!(total, in_folders, "each byte is counted once");

    // One byte less than all: the deployed one is the oldest, of the others `plain_program` is.
    device.set_cache_cap(total - 1);
    for (guest, hours) in [("device_telemetry", 300), ("plain_program", 200), ("threshold_filter", 100)] {
        age(&device, guest, hours);
    }
    let host = device.start_stored(&[]);
    host.wait_for_status("device_telemetry", "running");
    host.wait("the cap to be kept", |_| (tags(&device) == ["device_telemetry", "threshold_filter"]).then_some(()));
    let status = list(&device);
    assert!(status["totalBytes"].as_u64().unwrap() < total, "{status}");
    assert_eq!(status["otherBytes"], 0, "its machine code is gone too: {status}");
    assert!(host.log().contains("removed from the cache"), "the log tells");

    // Below what is in use: that stays and is named.
    host.stop();
    device.set_cache_cap(1);
    let host = device.start_stored(&[]);
    host.wait("all but the deployed to go", |_| (tags(&device) == ["device_telemetry"]).then_some(()));
    host.wait_for_status("device_telemetry", "running");
    host.wait("a word about it", |host| host.log().contains("cache.max-bytes").then_some(()));
}

#[test]
fn a_host_is_asked_to_prune_and_keeps_what_runs() {
    let (layout, device) = (Layout::with(&GUESTS), Device::new());
    with_all_cached(&layout, &device);
    let host = device.start_stored(&[]);
    host.wait_for_status("device_telemetry", "running");
    let users: Vec<Value> = kept(&device).into_iter().map(|(_, modules)| modules).collect();
    assert_eq!(users, [serde_json::json!(["device_telemetry"]), serde_json::json!([]), serde_json::json!([])]);

    let dry = device.marram(&["cache", "prune", "--all", "--dry-run"]).ok();
    assert_eq!(dry.out.matches("would remove").count(), 2, "{dry:?}");
    assert_eq!(tags(&device).len(), 3);
    let pruned = device.marram(&["cache", "prune", "--all"]).ok();
    assert!(pruned.out.contains("(in use by device_telemetry)") && pruned.out.contains("freed "), "{pruned:?}");
    assert_eq!(tags(&device), ["device_telemetry"]);
    // It starts anew from what stayed, without its source.
    fs::remove_dir_all(layout.path()).unwrap();
    host.stop();
    let host = device.start_stored(&[]);
    host.wait_for_status("device_telemetry", "running");
}

#[test]
fn without_a_host_the_folder_itself_is_pruned_and_the_stored_deployment_starts() {
    let (layout, device) = (Layout::with(&GUESTS), Device::new());
    let nothing = device.marram(&["cache", "list"]);
    assert!(nothing.code == Some(1) && nothing.err.contains("no data folder"), "{nothing:?}");
    with_all_cached(&layout, &device);
    age(&device, "plain_program", 200);
    age(&device, "device_telemetry", 300);
    let pruned = device.marram(&["cache", "prune", "--older-than", "4d", "--format", "json"]).ok().json();
    assert_eq!(pruned["removed"].as_array().unwrap().len(), 1, "{pruned}");
    assert_eq!(pruned["inUse"][0]["modules"][0], "device_telemetry", "{pruned}");
    assert_eq!(tags(&device), ["device_telemetry", "threshold_filter"]);
    let _ = device.marram(&["cache", "prune", "--to", "0"]).ok();
    assert_eq!(tags(&device), ["device_telemetry"]);

    fs::remove_dir_all(layout.path()).unwrap();
    let host = device.start_stored(&[]);
    host.wait_for_status("device_telemetry", "running");
}

#[test]
fn the_version_before_stays_while_an_update_is_under_way_and_can_be_had_back_offline() {
    let (layout, device) = (Layout::with(&["plain_program", "device_telemetry"]), Device::new());
    let version = |guest: &str| Manifest::new().module("m", Module::new(&layout.image(guest)));
    let host = device.start(&version("device_telemetry"));
    let old = host.wait_for_status("m", "running")["digest"].clone();
    // An update that cannot be had: the old version runs on, and is not deployed any more.
    let _ = device.apply(&Manifest::new().module("m", Module::new(&layout.image("nowhere"))).to_json()).ok();
    host.wait_for_module("m", "its update to fail", |now| {
        now["description"].as_str().is_some_and(|text| text.contains("update cannot be prepared"))
    });
    let pruned = device.marram(&["cache", "prune", "--all", "--format", "json"]).ok().json();
    assert_eq!(pruned["inUse"][0]["modules"][0], "m", "{pruned}");
    assert_eq!(host.module("m")["digest"], old);
    // Back to it, without its source.
    fs::remove_dir_all(layout.path()).unwrap();
    let _ = device.apply(&version("device_telemetry").to_json()).ok();
    let _ = device.marram(&["restart", "m"]).ok();
    host.wait_for_module("m", "to run anew", |now| now["status"] == "running" && now["restartCount"] == 1);
}

#[test]
fn what_would_take_the_place_of_a_deployment_stays_while_it_is_on_trial() {
    let (layout, device) = (Layout::with(&["plain_program", "device_telemetry"]), Device::new());
    let first = deploys(&layout, &["device_telemetry"]).rollout(json!({ "probation": "100ms" }));
    let host = device.start(&first);
    host.wait_for_outcome(1, "good");
    let program = Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000");
    let on_trial = Manifest::new().module("plain_program", program).rollout(json!({ "probation": "1h" }));
    let _ = device.apply(&on_trial.to_json()).ok();
    host.wait_for_status("plain_program", "running");
    host.wait("the other to be gone", |host| (host.status()["modules"].as_array().unwrap().len() == 1).then_some(()));
    let _ = device.marram(&["cache", "prune", "--all"]).ok();
    assert_eq!(tags(&device), ["device_telemetry", "plain_program"]);
    host.stop();
    let _ = device.marram(&["cache", "prune", "--to", "0"]).ok();
    assert_eq!(tags(&device), ["device_telemetry", "plain_program"], "without a host");
    fs::remove_dir_all(layout.path()).unwrap();
    let host = device.start_stored(&[]);
    let _ = device.marram(&["rollback"]).ok();
    host.wait_for_status("device_telemetry", "running");
    host.stop();
}

/// Dates the last use of a guest's component back.
fn age(device: &Device, guest: &str, hours: u64) {
    let list = list(device);
    let is_of = |item: &&Value| item["images"][0].as_str().unwrap().ends_with(&format!(":{guest}"));
    let item = list["components"].as_array().unwrap().iter().find(is_of).unwrap();
    let hex = item["componentDigest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let file = fs::File::options().write(true).open(device.data().join("cache/blobs/sha256").join(hex)).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600)).unwrap();
}
