//! Deployments and twins: checked as a whole, applied where they differ, kept over restarts.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::fs;

use marram_tests::{
    device::Device,
    host::Host,
    manifest::{Manifest, Module},
    program::{Answer, Layout, command},
};
use serde_json::{Value, json};

#[test]
fn check_lists_all_faults_with_their_paths() {
    let device = Device::new();
    fs::write(device.deployment_file(), bad_manifest().to_string()).unwrap();
    let check = |args: &[&str]| Answer::of(command().arg("check").arg(device.deployment_file()).args(args));

    let answer = check(&["--format", "json"]);
    assert_eq!(answer.code, Some(3), "{answer:?}");
    let faults = answer.json()["error"]["faults"].as_array().unwrap().clone();
    let paths: Vec<&str> = faults.iter().map(|fault| fault["at"].as_str().unwrap()).collect();
    for path in BAD_PATHS {
        assert!(paths.iter().any(|at| at.ends_with(path)), "{path} is not among {paths:?}");
    }
    assert_eq!(paths.len(), BAD_PATHS.len(), "{paths:?}");

    let answer = check(&[]);
    assert_eq!(answer.code, Some(3), "{answer:?}");
    for path in BAD_PATHS {
        assert!(answer.err.contains(path), "{path} is not in {}", answer.err);
    }
    assert!(answer.err.starts_with("error: "), "{}", answer.err);
    assert!(answer.err.contains("did you mean `memory`"), "a hint for the misspelt limit: {}", answer.err);
    assert_eq!(answer.out, "", "data goes to standard output, talk does not");
    assert!(!device.data().exists(), "nothing was made");
}

#[test]
fn check_accepts_the_deployment_of_the_demo() {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-examples/demo/deployment.json");
    let text = fs::read_to_string(demo).unwrap().replace("REGISTRY", "127.0.0.1:5000");
    let device = Device::new();
    fs::write(device.deployment_file(), text).unwrap();
    let _ = Answer::of(command().arg("check").arg(device.deployment_file())).ok();
}

#[test]
fn a_bad_manifest_leaves_the_running_deployment_untouched() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&two_programs(&layout, "1", "1"));
    let before = running(&host);
    let answer = device.apply(&bad_manifest());
    assert_eq!(answer.code, Some(3), "{answer:?}");
    for path in BAD_PATHS {
        assert!(answer.err.contains(path), "{path} is not in {}", answer.err);
    }
    assert_eq!(running(&host), before);
    assert_eq!(host.status()["deploymentVersion"], 1);
}

#[test]
fn a_host_does_not_start_with_a_bad_manifest_and_nothing_stored() {
    let device = Device::new();
    fs::write(device.deployment_file(), bad_manifest().to_string()).unwrap();
    let mut run = command();
    let answer = Answer::of(run.arg("run").arg(device.deployment_file()).arg("--data").arg(device.data()));
    assert_eq!(answer.code, Some(3), "{answer:?}");
    assert!(BAD_PATHS.iter().all(|path| answer.err.contains(path)), "{}", answer.err);
}

#[test]
fn apply_restarts_only_what_changed() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&two_programs(&layout, "1", "1"));
    let before = running(&host);
    let answer = device.apply(&two_programs(&layout, "1", "2").to_json()).ok();
    assert!(!(answer.out.is_empty() && answer.err.is_empty()), "it says what it did");
    let after = changed(&host, &before);
    assert_eq!(after[0], before[0], "`a` was left alone");
    assert_eq!(host.status()["deploymentVersion"], 2);

    // The same once more is no change.
    let _ = device.apply(&two_programs(&layout, "1", "2").to_json()).ok();
    assert_eq!(host.status()["deploymentVersion"], 2);
    assert_eq!(running(&host), after);

    // A removed module is gone, the other one stays.
    let only_a = Manifest::new().module("a", program(&layout, "1"));
    let _ = device.apply(&only_a.to_json()).ok();
    host.wait("`b` to be gone", |host| host.module("b").is_null().then_some(()));
    assert_eq!(host.module("a")["lastStartMs"], before[0]);
}

#[test]
fn the_deployment_file_is_watched() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&two_programs(&layout, "1", "1"));
    let first = running(&host);

    device.write_deployment(&two_programs(&layout, "1", "2"));
    let second = changed(&host, &first);
    assert_eq!(second[0], first[0], "`a` was left alone");

    let said = host.log().lines().count();
    device.replace_deployment(&bad_manifest().to_string());
    host.wait("a word about the bad file", |host| {
        let log = host.log();
        let fresh: Vec<&str> = log.lines().skip(said).collect();
        let whole = BAD_PATHS.iter().all(|path| fresh.iter().any(|line| line.contains(path)));
        whole.then_some(())
    });
    assert_eq!(running(&host), second, "a bad file changes nothing");
    assert_eq!(host.status()["deploymentVersion"], 2);

    device.replace_deployment(&two_programs(&layout, "1", "3").to_json().to_string());
    let third = changed(&host, &second);
    assert_eq!(third[0], first[0], "`a` was left alone");
    assert_eq!(host.status()["deploymentVersion"], 3);
    host.stop();
}

#[test]
fn twins_survive_a_restart_and_a_reapplied_manifest_does_not_undo_what_was_set() {
    let (layout, device) = (Layout::with(&["device_telemetry"]), Device::new());
    let module = || Module::new(&layout.image("device_telemetry")).reads_proc();
    let manifest = |interval| {
        Manifest::new()
            .module("telemetry", module())
            .twin("telemetry", json!({ "intervalMs": interval, "room": "attic" }))
    };
    let host = device.start(&manifest(500));
    let ack = host.wait_for_reported("telemetry", "desiredAck", |ack| ack["code"] == 200);
    assert_eq!(ack["description"], "reads every 500 ms");
    assert!(host.twin("telemetry")["desiredOrigin"].as_str().unwrap().starts_with("manifest"));

    let set = device.marram(&["twin", "set", "telemetry", r#"{"intervalMs":40,"room":null,"n":[1]}"#]).ok();
    assert!(!set.err.contains("error"), "{set:?}");
    let wanted = json!({ "intervalMs": 40, "n": [1] });
    host.wait_for_reported("telemetry", "desiredAck", |ack| ack["description"] == "reads every 40 ms");
    let before = host.twin("telemetry");
    assert_eq!((&before["desired"], &before["desiredOrigin"]), (&wanted, &json!("local")));
    host.stop();

    // With the same file: it is no change.
    let host = device.start(&manifest(500));
    let twin = host.twin("telemetry");
    assert_eq!((&twin["desired"], &twin["desiredVersion"]), (&wanted, &before["desiredVersion"]));
    assert_eq!(twin["reported"]["desiredAck"], before["reported"]["desiredAck"], "reported is kept");
    let _ = device.apply(&manifest(500).to_json()).ok();
    // Nor is a manifest that differs elsewhere.
    let elsewhere = manifest(500).module("telemetry", module().env("ROOM", "cellar"));
    let _ = device.apply(&elsewhere.to_json()).ok();
    host.wait("the new deployment", |host| (host.status()["deploymentVersion"] == 2).then_some(()));
    assert_eq!(host.twin("telemetry")["desired"], wanted);

    // A changed section replaces it as a whole.
    let _ = device.apply(&manifest(60).to_json()).ok();
    host.wait_for_reported("telemetry", "desiredAck", |ack| ack["description"] == "reads every 60 ms");
    let shown = device.marram(&["twin", "get", "telemetry", "--format", "json"]).ok().json();
    assert_eq!(shown["desired"], json!({ "intervalMs": 60, "room": "attic" }));
    assert_eq!(shown["desiredOrigin"], "manifest (deployment 3)");

    let bad = device.marram(&["twin", "set", "telemetry", "[1]"]);
    assert_eq!(bad.code, Some(3), "{bad:?}");
}

/// Ends of the paths of the faults of [`bad_manifest`].
const BAD_PATHS: [&str; 5] = [
    "modules.a.restartPolicy",
    "modules.a.settings.sandbox.limits.memmory",
    "modules.b.status",
    "modules.b.settings.image",
    "routes.up",
];

fn bad_manifest() -> Value {
    let a = Module::new("oci:/images:a").policy("sometimes").limit("memmory", "1MiB");
    let b = Module::new("not an image").status("walking");
    Manifest::new().module("a", a).module("b", b).route("up", "FROM /messages/* INTO the cloud").to_json()
}

/// A program that runs for an hour; another `value` makes it another one.
fn program(layout: &Layout, value: &str) -> Module {
    Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000").env("VALUE", value)
}

fn two_programs(layout: &Layout, a: &str, b: &str) -> Manifest {
    Manifest::new().module("a", program(layout, a)).module("b", program(layout, b))
}

/// When the two programs were started, once they run.
#[track_caller]
fn running(host: &Host) -> [Value; 2] {
    ["a", "b"].map(|name| host.wait_for_status(name, "running")["lastStartMs"].clone())
}

/// When the two programs were started, once `b` has been replaced.
#[track_caller]
fn changed(host: &Host, before: &[Value; 2]) -> [Value; 2] {
    host.wait_for_module("b", "to be replaced", |now| now["status"] == "running" && now["lastStartMs"] != before[1]);
    running(host)
}
