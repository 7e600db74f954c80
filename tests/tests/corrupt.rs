//! A damaged document of the deployment costs one deployment, not the device, and does not bring back what was rolled back. One of a twin
//! costs the last change of it.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{fs, path::PathBuf};

use marram_tests::{
    device::Device,
    host::Host,
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::json;

fn manifest(layout: &Layout, value: &str, code: &str) -> Manifest {
    let run = if code == "0" { "3600000" } else { "0" };
    let module =
        Module::new(&layout.image("plain_program")).env("VALUE", value).env("RUN_MS", run).env("EXIT_CODE", code);
    let rollout = json!({ "probation": "500ms", "healthTimeout": "3s" });
    Manifest::new().module("m", module).rollout(rollout)
}

/// One bit of the newest generation.
fn damage(device: &Device, document: &str) {
    let file = device.data().join(format!("store/{document}.json"));
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
}

/// Two good deployments; the document of the newer one is damaged. With its manifest for the history?
fn damaged_second(layout: &Layout, manifest_too: bool) -> Device {
    let device = Device::new();
    let host = device.start(&manifest(layout, "first", "0"));
    host.wait_for_outcome(1, "good");
    let _ = device.apply(&manifest(layout, "second", "0").to_json()).ok();
    host.wait_for_outcome(2, "good");
    host.kill();
    damage(&device, "deployment");
    if manifest_too {
        let files = fs::read_dir(device.data().join("store")).unwrap().map(|entry| entry.unwrap().path());
        let is_of_second = |file: &PathBuf| {
            let is_manifest = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("deployment-"));
            is_manifest && fs::read_to_string(file).unwrap().contains("second")
        };
        let of_second: Vec<PathBuf> = files.filter(is_of_second).collect();
        assert!(!of_second.is_empty());
        of_second.iter().for_each(|file| fs::write(file, "{").unwrap());
    }
    // Nothing of it is fetched anew.
    fs::remove_dir_all(layout.path()).unwrap();
    device
}

#[test]
fn a_damaged_deployment_is_had_back_from_the_history() {
    let layout = Layout::with(&["plain_program"]);
    let device = damaged_second(&layout, false);
    let host = device.start_stored(&[]);
    host.wait_for_value("second");
    assert_eq!(host.status()["deploymentVersion"], 2);
    let log = host.log();
    assert!(log.contains("the stored deployment was damaged") && log.contains("deployment.json"), "{log}");
    let applied = device.apply(&manifest(&layout, "third", "0").to_json()).ok();
    assert_eq!(applied.out, "deployment 3 is in force\n", "no version comes twice");
    host.stop();
}

#[test]
fn a_damaged_deployment_whose_manifest_is_damaged_too_falls_back_to_the_one_before_and_says_so() {
    let layout = Layout::with(&["plain_program"]);
    let device = damaged_second(&layout, true);
    let host = device.start_stored(&[]);
    host.wait_for_value("first");
    assert_eq!(host.status()["deploymentVersion"], 1);
    let log = host.log();
    assert!(log.contains("the stored deployment was damaged") && log.contains("deployment.json"), "{log}");
    let reported = device.marram(&["status", "--format", "json"]).ok().json();
    let told = &reported["$edgeAgent"]["lastDesiredStatus"];
    assert_eq!((&reported["$edgeAgent"]["lastDesiredVersion"], &told["code"]), (&json!(2), &json!(500)), "{reported}");
    let applied = device.apply(&manifest(&layout, "third", "0").to_json()).ok();
    assert_eq!(applied.out, "deployment 3 is in force\n", "no version comes twice");
    host.stop();
}

#[test]
fn a_device_whose_only_document_of_a_deployment_is_damaged_starts_with_the_manifest_that_is_kept_for_the_history() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&manifest(&layout, "first", "0"));
    host.wait_for_outcome(1, "good");
    host.kill();
    damage(&device, "deployment");
    let host = device.start_stored(&[]);
    host.wait_for_value("first");
    assert_eq!(host.status()["deploymentVersion"], 1);
    let log = host.log();
    assert!(log.contains("the stored deployment cannot be read") && log.contains("deployment.json"), "{log}");
    let applied = device.apply(&manifest(&layout, "second", "0").to_json()).ok();
    assert_eq!(applied.out, "deployment 2 is in force\n", "no version comes twice");
    host.stop();
}

#[test]
fn a_damaged_document_does_not_bring_back_a_deployment_that_was_rolled_back() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&manifest(&layout, "good", "0"));
    host.wait_for_outcome(1, "good");
    let _ = device.apply(&manifest(&layout, "bad", "1").to_json()).ok();
    host.wait_for_outcome(3, "good");
    host.stop();
    damage(&device, "deployment");
    let host = device.start_stored(&[]);
    host.wait_for_value("good");
    assert_eq!(host.status()["deploymentVersion"], 3, "not the one before, which is bad");
    host.stop();
}

#[test]
fn a_damaged_twin_falls_back_to_the_change_before_and_gives_no_version_twice() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&manifest(&layout, "it", "0"));
    host.wait_for_value("it");
    let set = |host: &Host, n: u64| {
        let _ = device.marram(&["twin", "set", "m", &json!({ "n": n }).to_string()]).ok();
        version(host)
    };
    let given: Vec<u64> = (1..=3).map(|n| set(&host, n)).collect();
    host.kill();
    damage(&device, "twin-m");
    let host = device.start_stored(&[]);
    host.wait_for_value("it");
    assert_eq!(host.twin("m")["desired"]["n"], 2);
    let log = host.log();
    assert!(log.contains("the twin was damaged") && log.contains("twin-m.json"), "{log}");
    let recovered = version(&host);
    let next = set(&host, 4);
    assert!(recovered > given[2] && next > recovered, "{given:?}, {recovered}, {next}");

    // Again: what is found now is not what was found the first time.
    host.kill();
    damage(&device, "twin-m");
    let host = device.start_stored(&[]);
    host.wait_for_value("it");
    assert_eq!(host.twin("m")["desired"]["n"], 2);
    assert!(version(&host) > next);
    host.stop();
}

/// Of the desired properties.
fn version(host: &Host) -> u64 {
    host.twin("m")["desiredVersion"].as_u64().unwrap()
}
