//! The owner's ceiling on what all modules may take together is kept when a manifest is accepted.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{ffi::OsStr, fs};

use marram_tests::{
    device::Device,
    journal::text,
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

#[test]
fn a_deployment_above_the_ceiling_is_refused_and_one_that_was_accepted_below_a_higher_one_goes_on() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let module = |memory| Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000").limit("memory", memory);
    let two = Manifest::new().module("a", module("8MiB")).module("b", module("16MiB"));
    let three = two.clone().module("c", module("8MiB"));
    device.configure(&format!("[modules]\nmax-memory-bytes = {}\n", 24 * MIB));
    let host = device.start(&two);
    host.wait_for_status("b", "running");
    let answer = device.apply(&three.to_json());
    assert_eq!(answer.code, Some(3), "{answer:?}");
    let expected = "make 32MiB together, and this device allows 24MiB; the largest: `b` 16MiB, `a` 8MiB, `c` 8MiB";
    assert!(answer.err.contains(expected), "{}", answer.err);
    assert!(host.module("c").is_null(), "it changed nothing");

    let file = device.data().join("three.json");
    fs::write(&file, three.to_json().to_string()).unwrap();
    let check = device.check(&[file.as_os_str(), OsStr::new("--format"), OsStr::new("json")]);
    assert_eq!(check.code, Some(3), "{check:?}");
    assert!(check.out.contains("make 32MiB together"), "as a host would say: {}", check.out);
    host.stop();

    device.configure(&format!("[modules]\nmax-memory-bytes = {}\n", 9 * MIB));
    let host = device.start(&two);
    host.wait_for_status("b", "running");
    assert!(host.log().contains("would not be accepted any more"), "it is told: {}", host.log());
    host.stop();
}

#[test]
fn an_update_that_does_not_fit_beside_its_old_version_takes_its_place_and_one_that_does_starts_beside_it() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let both = |value: &str| {
        let module = |memory| {
            let module = Module::new(&layout.image("plain_program")).limit("memory", memory);
            module.env("RUN_MS", "3600000").env("VALUE", value)
        };
        Manifest::new().module("large", module("16MiB")).module("small", module("8MiB"))
    };
    device.configure(&format!("[modules]\nmax-memory-bytes = {}\n", 32 * MIB));
    let host = device.start(&both("first"));
    host.wait_for_status("large", "running");
    host.wait_for_status("small", "running");
    let _ = device.apply(&both("second").to_json()).ok();
    for name in ["large", "small"] {
        host.wait(&format!("the new version of {name}"), |host| {
            let is_new = host.logs(name).iter().any(|line| line == "plain-program: env VALUE=second");
            (is_new && host.module(name)["status"] == "running").then_some(())
        });
    }
    let log = host.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let beside: Vec<Value> = lines.filter(|line| line["message"] == "starting its update beside it").collect();
    assert_eq!(beside.iter().map(|line| &line["module"]).collect::<Vec<_>>(), ["small"]);
    host.stop();
}

#[test]
fn no_message_is_lost_or_overtakes_another_when_a_version_takes_the_place_of_its_old_one() {
    let (layout, device) = (Layout::with(&["device_telemetry", "forwarder"]), Device::new());
    let manifest = |version: u32| {
        let telemetry = Module::new(&layout.image("device_telemetry")).reads_proc().limit("memory", "8MiB");
        let stage = Module::new(&layout.image("forwarder")).limit("memory", "16MiB").env("V", &version.to_string());
        Manifest::new()
            .module("telemetry", telemetry)
            .module("stage", stage)
            .twin("telemetry", json!({ "intervalMs": 10 }))
            .route("to", r#"FROM /messages/modules/telemetry/* INTO BrokeredEndpoint("/modules/stage/inputs/in")"#)
            .upstream("telemetry")
            .upstream("stage")
    };
    device.configure(&format!("[modules]\nmax-memory-bytes = {}\n", 32 * MIB));
    let host = device.start(&manifest(1));
    let mut journal = device.journal();
    let of = |entries: &[Value], module: &str| -> Vec<(u64, String)> {
        let source = format!("/messages/modules/{module}/");
        let entries = entries.iter().filter(|entry| text(entry, "/source").starts_with(&source));
        let id = |entry: &Value| text(entry, "/systemProperties/messageId").to_owned();
        entries.map(|entry| (entry["sequence"].as_u64().unwrap(), id(entry))).collect()
    };
    journal.wait_for("messages through the first version", |all| (of(all, "stage").len() > 20).then_some(()));
    for version in 2..6 {
        let before = host.module("stage")["lastStartMs"].clone();
        let _ = device.apply(&manifest(version).to_json()).ok();
        host.wait_for_module("stage", "to run its new version", |now| {
            now["status"] == "running" && now["lastStartMs"] != before
        });
        let so_far = of(journal.read(), "stage").len();
        journal.wait_for("messages through it", |all| (of(all, "stage").len() > so_far + 20).then_some(()));
    }
    host.stop();
    assert!(!host.log().contains("starting its update beside it"), "there was no room for that");
    let (sent, through) = (of(journal.read(), "telemetry"), of(journal.read(), "stage"));
    let ids = |list: &[(u64, String)]| list.iter().map(|(_, id)| id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&sent), ids(&through));
    for list in [sent, through] {
        assert!(list.iter().map(|(number, _)| *number).eq(1..=list.len() as u64), "{list:?}");
    }
}
