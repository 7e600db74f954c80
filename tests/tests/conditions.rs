//! Conditions of routes in a running host, on messages of real guests; and `marram route` on the same deployment.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{io::Write, process::Stdio};

use marram_tests::{
    device::Device,
    journal::{flood_numbers, text},
    manifest::{Manifest, Module},
    program::{Answer, Layout, command},
};
use serde_json::json;

#[test]
fn only_messages_whose_condition_is_true_are_delivered() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    let manifest = Manifest::new()
        .module("bad", Module::new(&layout.image("misbehaving")))
        .route("up", "FROM /messages/modules/bad/* WHERE as_number(n) > 150 AND $outputName = 'flood' INTO $upstream")
        .route("never", "FROM /messages/* WHERE as_number(missing) > 0 OR $connectionModuleId = 'other' INTO $upstream")
        .twin("bad", json!({ "command": { "do": "flood", "count": 200, "bytes": 64 } }));
    let host = device.start(&manifest);
    let flood = host.wait_for_reported("bad", "flood", |_| true);
    assert_eq!(flood["accepted"], 200, "no condition is true: accepted all the same: {flood}");
    let entries = device.journal().wait_for("50 messages upstream", |all| (all.len() >= 50).then(|| all.to_vec()));
    assert_eq!(flood_numbers(&entries), (151..=200).collect::<Vec<_>>(), "in order, no other one");
    assert_eq!(host.status()["noRoute"], 150, "the others are counted: {}", host.status());
    host.stop();
}

#[test]
fn conditions_look_into_the_bodies_of_real_readings() {
    let (layout, device) = (Layout::with(&["device_telemetry"]), Device::new());
    let telemetry = Module::new(&layout.image("device_telemetry")).reads_proc();
    let manifest = Manifest::new()
        .module("telemetry", telemetry)
        .route(
            "up",
            "FROM /* WHERE $body.memTotalKiB > 0 AND sensor = 'proc' AND is_number($body.load1) INTO $upstream",
        )
        .route("none", "FROM /* WHERE $body.memTotalKiB < 0 OR $body.no.such.path[3] != null INTO $upstream")
        .twin("telemetry", json!({ "intervalMs": 20 }));
    let host = device.start(&manifest);
    for entry in device.journal().wait_for_more(3) {
        assert!(entry["body"]["memTotalKiB"].as_f64().unwrap() > 0.0, "{entry}");
        assert_eq!(text(&entry, "/source"), "/messages/modules/telemetry/outputs/readings", "{entry}");
    }
    let refused = manifest_with("FROM /* WHERE $body.memTotalKiB > sensor AND 5 INTO $upstream");
    let answer = device.apply(&refused.to_json());
    assert_eq!(answer.code, Some(3), "{answer:?}");
    assert!(answer.err.contains("column 42: `AND` needs true or false"), "{}", answer.err);
    let _ = device.journal().wait_for_more(1);
    host.stop();
}

#[test]
fn explain_tells_why_a_message_does_not_arrive() {
    let device = Device::new();
    device.write_deployment(&manifest_with("FROM /messages/* WHERE as_number(temp) > 20 INTO $upstream"));
    let deployment = device.deployment_file().display().to_string();
    let explain = |message: &str| {
        let mut explain = command();
        explain.args(["route", "explain", "--deployment", &deployment, "--source", "/messages/modules/m/outputs/o"]);
        fed(explain.args(["--message", "-"]), message).ok().out
    };
    let undefined = explain(r#"{"properties":{"Temperature":"21"}}"#);
    assert!(undefined.starts_with("up: no: the condition is undefined\n"), "{undefined}");
    assert!(undefined.contains("temp -> undefined  -- the message has no property `temp`\n"), "{undefined}");
    assert!(undefined.ends_with("no route takes this message: it is accepted, dropped and counted\n"), "{undefined}");
    let taken = explain(r#"{"properties":{"TEMP":"21"}}"#);
    assert!(taken.starts_with("up: yes\n") && taken.contains("as_number(temp) -> 21\n"), "{taken}");
    let infinite = explain(r#"{"properties":{"temp":"-1e999"}}"#);
    assert!(infinite.contains("as_number(temp) -> -1 / 0\n"), "{infinite}");
}

#[test]
fn explain_knows_of_the_sender_what_the_host_knows() {
    let device = Device::new();
    let condition = "$connectionModuleId = 'm' AND $outputName = 'o' AND $edgeHubOriginInterface = 'internal'";
    let route = format!("FROM /messages/* WHERE {condition} AND is_defined($connectionDeviceId) INTO $upstream");
    device.write_deployment(&manifest_with(&route));
    let deployment = device.deployment_file().display().to_string();
    let explain = |source: &str, message: &str| {
        let mut explain = command();
        explain.args(["route", "explain", "--deployment", &deployment, "--source", source, "--message", "-"]);
        fed(&mut explain, message).ok().out
    };
    let taken = explain("/messages/modules/m/outputs/o", "{}");
    assert!(taken.starts_with("up: yes\n"), "{taken}");
    let other = explain("/messages/modules/n/outputs/o", "{}");
    assert!(other.contains("$connectionModuleId -> 'n'\n") && other.starts_with("up: no"), "{other}");
    let told = explain("/messages/modules/n/outputs/o", r#"{"systemProperties":{"connectionmoduleid":"m"}}"#);
    assert!(told.starts_with("up: yes\n"), "what the message says goes before: {told}");
    let foreign = explain("/messages", "{}");
    assert!(foreign.contains("$outputName -> undefined"), "{foreign}");
}

fn manifest_with(route: &str) -> Manifest {
    Manifest::new().route("up", route)
}

fn fed(command: &mut std::process::Command, input: &str) -> Answer {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(input.as_bytes()).unwrap();
    Answer::of(command.stdin(Stdio::from(std::fs::File::open(file.path()).unwrap())))
}
