//! A deployment that does not become healthy makes place for the last good one, whatever happens to the host meanwhile.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::fs;

use marram_tests::{
    device::Device,
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::{Value, json};

/// A program that runs for an hour.
fn good(layout: &Layout, value: &str) -> Module {
    Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000").env("VALUE", value)
}

/// A program that ends with code 1 at once.
fn crashing(layout: &Layout, value: &str) -> Module {
    Module::new(&layout.image("plain_program")).env("EXIT_CODE", "1").env("VALUE", value)
}

/// Decided within seconds.
fn manifest(module: Module, twin: &str) -> Manifest {
    let rollout = json!({ "probation": "500ms", "healthTimeout": "3s" });
    Manifest::new().module("m", module).twin("m", json!({ "is": twin })).rollout(rollout)
}

#[test]
fn a_version_that_crashes_is_rolled_back_and_not_tried_again_until_it_changes() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let bad = manifest(crashing(&layout, "bad"), "bad");
    let host = device.start(&manifest(good(&layout, "good"), "good"));
    host.wait_for_outcome(1, "good");
    let _ = device.apply(&bad.to_json()).ok();
    let rolled_back = host.wait_for_outcome(2, "rolled-back");
    let reason = rolled_back["reason"].as_str().unwrap();
    assert!(reason.starts_with("module `m` was not healthy within 3 s: exit 1: "), "{reason}");
    host.wait_for_value("good");
    let twin = host.twin("m");
    assert_eq!((&twin["desired"], &twin["desiredVersion"]), (&json!({ "is": "good" }), &json!(4)), "{twin}");
    assert_eq!(twin["desiredOrigin"], "manifest (deployment 3)");
    let newest = host.wait_for_outcome(3, "good");
    assert_eq!((&newest["way"], &newest["of"], &newest["to"]), (&json!("rollback"), &json!(2), &json!(1)));

    let reported = host.get("/v1/reported").unwrap()["$edgeAgent"].clone();
    let (version, status) = (&reported["lastDesiredVersion"], &reported["lastDesiredStatus"]);
    assert_eq!((version, &status["code"]), (&json!(2), &json!(500)), "{status}");
    let told = format!("rolled back to deployment 1 (in force as 3): {reason}");
    assert_eq!(status["description"], told);

    let refused = |what: &str| {
        let answer = device.apply(&bad.to_json());
        assert_eq!(answer.code, Some(6), "{what}: {answer:?}");
        assert!(answer.err.contains("was rolled back as deployment 2 (module `m`"), "{what}: {answer:?}");
    };
    refused("in the same life");
    host.kill();
    let host = device.start(&bad);
    host.wait_for_value("good");
    assert!(host.log().contains("is not tried again until it changes"), "{}", host.log());
    refused("after a kill, with the bad one as file");
    assert_eq!(host.status()["deploymentVersion"], 3);

    device.write_deployment(&manifest(good(&layout, "mended"), "bad"));
    host.wait_for_value("mended");
    let newest = host.wait_for_outcome(4, "good");
    assert_eq!(newest["way"], "file");
    let shown = device.marram(&["history"]).ok().out;
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((lines[1][0], lines[1][2], lines[1][4]), ("*4", "file", "good"), "{shown}");
    assert_eq!((lines[3][0], lines[3][2], &lines[3][4..6]), ("2", "apply", &["rolled", "back"][..]), "{shown}");
    host.stop();
}

#[test]
fn a_deployment_that_changes_only_a_twin_is_watched_and_rolled_back_too() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    let with = |twin: Value| {
        manifest(Module::new(&layout.image("misbehaving")), "").twin("m", twin).rollout(json!({
            "probation": "2s", "healthTimeout": "5s"
        }))
    };
    let host = device.start(&with(json!({ "command": null })));
    host.wait_for_outcome(1, "good");
    let _ = device.apply(&with(json!({ "command": { "do": "trap" } })).to_json()).ok();
    let rolled_back = host.wait_for_outcome(2, "rolled-back");
    assert!(rolled_back["reason"].as_str().unwrap().contains("exit 134: "), "{rolled_back}");
    host.wait_for_outcome(3, "good");
    host.stop();
}

#[test]
fn what_the_section_of_a_bad_deployment_replaced_comes_back_with_the_rollback() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let rollout = json!({ "probation": "500ms", "healthTimeout": "3s" });
    let host = device.start(&Manifest::new().module("m", good(&layout, "good")).rollout(rollout));
    host.wait_for_outcome(1, "good");
    let _ = device.marram(&["twin", "set", "m", r#"{"by":"hand"}"#]).ok();
    let _ = device.apply(&manifest(crashing(&layout, "bad"), "bad").to_json()).ok();
    assert_eq!(host.twin("m")["desired"], json!({ "is": "bad" }));
    host.wait_for_outcome(2, "rolled-back");
    let twin = host.wait("the twin to be as it was", |host| {
        Some(host.twin("m")).filter(|twin| twin["desired"] == json!({ "by": "hand" }))
    });
    assert_eq!((&twin["desiredVersion"], &twin["desiredOrigin"]), (&json!(4), &json!("local")), "{twin}");
    host.stop();
}

#[test]
fn a_kill_amid_the_probation_costs_neither_the_verdict_nor_the_way_back() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&manifest(good(&layout, "good"), "good"));
    host.wait_for_outcome(1, "good");
    let _ = device.apply(&manifest(crashing(&layout, "bad"), "bad").to_json()).ok();
    host.wait_for_status("m", "backoff");
    host.kill();
    let host = device.start_stored(&[]);
    assert_eq!(host.status()["deploymentVersion"], 2, "the one on trial goes on");
    host.wait_for_outcome(2, "rolled-back");
    host.wait_for_value("good");
    host.kill();
    let host = device.start_stored(&[]);
    host.wait_for_value("good");
    let newest = host.wait_for_outcome(3, "good");
    assert_eq!(newest["to"], 1, "one rollback, not one a start");
    host.stop();
}

#[test]
fn a_module_that_failed_before_the_host_was_stopped_is_not_held_against_a_file_that_was_changed_meanwhile() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    // Up for less than the probation, then in its back-off for ten seconds and more.
    let flapping = || crashing(&layout, "flapping").env("RUN_MS", "300");
    let with = |value: &str| manifest(good(&layout, value), value).module("flapping", flapping());
    let host = device.start(&with("first"));
    host.wait_for_outcome(1, "bad");
    host.stop();
    let host = device.start(&with("second"));
    host.wait_for_outcome(2, "good");
    host.stop();
}

#[test]
fn an_operator_goes_back_to_the_last_good_one_and_forth_to_any() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&manifest(good(&layout, "first"), "first"));
    host.wait_for_outcome(1, "good");
    let none = device.marram(&["rollback"]);
    assert_eq!((none.code, none.err.contains("no earlier deployment")), (Some(6), true), "{none:?}");
    let second = manifest(good(&layout, "second"), "second");
    let _ = device.apply(&second.to_json()).ok();
    host.wait_for_outcome(2, "good");

    assert_eq!(device.marram(&["rollback"]).ok().out, "deployment 3 is in force\n");
    host.wait_for_value("first");
    assert_eq!(device.apply(&second.to_json()).code, Some(6), "it was rolled back");
    assert_eq!(device.marram(&["rollback", "--to", "1"]).code, Some(6), "it is in force");
    assert_eq!(device.marram(&["rollback", "--to", "9"]).code, Some(6), "there is none");
    let forth = device.marram(&["rollback", "--to", "2", "--format", "json"]).ok().json();
    assert_eq!((&forth["version"], &forth["changed"]), (&json!(4), &json!(true)));
    host.wait_for_value("second");
    host.wait_for_outcome(4, "good");
    host.stop();
}

/// Removes what is stored of deployments under names that begin so.
fn lose(device: &Device, prefix: &str) {
    for file in fs::read_dir(device.data().join("store")).unwrap().map(|file| file.unwrap().path()) {
        if file.file_name().unwrap().to_str().unwrap().starts_with(prefix) {
            fs::remove_file(&file).unwrap();
        }
    }
}

#[test]
fn a_device_that_lost_its_deployment_has_it_back_and_gives_no_version_twice() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&manifest(good(&layout, "first"), "first"));
    for version in 2..4 {
        let answer = device.apply(&manifest(good(&layout, "next"), &version.to_string()).to_json()).ok();
        assert_eq!(answer.out, format!("deployment {version} is in force\n"));
    }
    host.stop();
    lose(&device, "deployment.");
    let host = device.start_stored(&[]);
    host.wait_for_value("next");
    assert_eq!(host.status()["deploymentVersion"], 3);
    assert_eq!(host.twin("m")["desired"], json!({ "is": "3" }));
    host.stop();
    lose(&device, "deployment");
    let host = device.start_stored(&[]);
    assert_eq!(host.status()["deploymentVersion"], 0);
    let answer = device.apply(&manifest(good(&layout, "last"), "last").to_json()).ok();
    assert_eq!(answer.out, "deployment 4 is in force\n");
    let shown = host.deployments();
    assert_eq!((&shown[0]["version"], &shown[0]["way"], shown.len()), (&json!(4), &json!("apply"), 4), "{shown:?}");
    host.stop();
}

#[test]
fn a_deployment_with_which_the_host_has_ended_five_times_is_not_begun_with_once_more() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&manifest(good(&layout, "good"), "good"));
    host.wait_for_outcome(1, "good");
    host.kill();
    let suspect = manifest(good(&layout, "suspect"), "suspect").rollout(json!({ "probation": "1h" }));
    // In the first life it comes; the next five begin with it.
    for life in 0..6 {
        let host = device.start(&suspect);
        host.wait_for_value("suspect");
        assert_eq!(host.status()["deploymentVersion"], 2, "life {life}");
        host.kill();
    }
    let host = device.start(&suspect);
    host.wait_for_value("good");
    let entry = host.wait_for_outcome(2, "rolled-back");
    assert!(entry["reason"].as_str().unwrap().contains("was started 5 times while it was on trial"), "{entry}");
    let log = host.log();
    assert!(log.contains("was rolled back as deployment 2 (the host was started 5 times"), "of the file: {log}");
    host.wait_for_outcome(3, "good");
    host.stop();
}

#[test]
fn a_section_that_cannot_be_stored_in_a_rollback_is_stored_as_soon_as_it_can_be() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&manifest(good(&layout, "good"), "good"));
    host.wait_for_outcome(1, "good");
    let _ = device.apply(&manifest(crashing(&layout, "bad"), "bad").to_json()).ok();
    // In the way of each write of this document.
    let obstacle = device.data().join("store/twin-m.json.tmp");
    fs::create_dir(&obstacle).unwrap();
    host.wait_for_outcome(2, "rolled-back");
    host.wait("a try that fails", |host| host.log().contains("not wholly in force; tried again").then_some(()));
    assert_eq!(host.twin("m")["desired"], json!({ "is": "bad" }));
    fs::remove_dir(&obstacle).unwrap();
    host.wait("the section", |host| (host.twin("m")["desired"] == json!({ "is": "good" })).then_some(()));
    host.stop();
}

#[test]
fn a_registry_out_of_reach_is_not_held_against_a_deployment_unless_it_says_so() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let rollout = |wait: bool| json!({ "probation": "500ms", "healthTimeout": "1s", "waitForNetwork": wait });
    let host = device.start(&manifest(good(&layout, "good"), "good"));
    host.wait_for_outcome(1, "good");
    // Nobody listens on port 1.
    let away = |tag: u32| Module::new(&format!("127.0.0.1:1/team/away:{tag}"));
    let patient = manifest(away(1), "good").rollout(rollout(true));
    let _ = device.apply(&patient.to_json()).ok();
    // The second try comes ten seconds after the first, long after the time-out.
    host.wait("a second try", |host| (host.log().matches("cannot be prepared").count() >= 2).then_some(()));
    let entry = host.deployments().into_iter().find(|it| it["version"] == 2).unwrap();
    assert_eq!(entry["outcome"], "on-trial", "{entry}");
    assert_eq!(host.module("m")["status"], "running", "the old version goes on");
    let _ = device.apply(&manifest(away(1), "good").rollout(rollout(false)).to_json()).ok();
    // It makes place, and may be tried again as it is.
    let rollback = host.wait_for_outcome(4, "good");
    assert_eq!((&rollback["of"], &rollback["again"]), (&json!(3), &json!(true)), "{rollback}");
    let entry = host.wait_for_outcome(3, "replaced");
    assert!(entry["reason"].as_str().unwrap().contains("127.0.0.1:1"), "{entry}");
    assert_eq!(host.wait_for_outcome(2, "replaced")["version"], 2);
    host.stop();
}
