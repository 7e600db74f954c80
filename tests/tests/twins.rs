//! Twins of real modules: who hears of their changes, and when.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::time::Duration;

use marram_tests::{
    device::Device,
    host::Host,
    journal::{Journal, text},
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::{Value, json};

#[test]
fn what_a_module_reports_goes_upstream_by_a_route_that_takes_changes_of_twins() {
    let (layout, device) = (Layout::with(&["threshold_filter"]), Device::new());
    let route = |code| format!("FROM /twinChangeNotifications WHERE $body.desiredAck.code {code} INTO $upstream");
    let manifest = Manifest::new()
        .module("filter", Module::new(&layout.image("threshold_filter")))
        .twin("filter", json!({ "field": "t", "threshold": 1 }))
        .route("refused", &route(">= 400"))
        .route("applied", &route("= 200"));
    let host = device.start(&manifest);
    let mut journal = device.journal();
    let first = journal.wait_for("the answer to the manifest's section", |all| all.first().cloned());
    assert_eq!(text(&first, "/source"), "/twinChangeNotifications");
    assert_eq!(text(&first, "/properties/moduleId"), "filter");
    assert_eq!(text(&first, "/systemProperties/messageId"), "filter-reported-2");
    assert_eq!(first["body"]["desiredAck"], host.twin("filter")["reported"]["desiredAck"]);

    let _ = device.marram(&["twin", "set", "filter", r#"{"threshold":"high"}"#]).ok();
    let refused = journal.wait_for("the refusal", |all| all.get(1).cloned());
    assert_eq!(refused["body"]["desiredAck"]["code"], 400, "{refused}");
    assert_eq!(refused["body"]["desiredAck"]["version"], 3, "{refused}");
    host.stop();

    // Each start asks the module anew; its answer is the same, which is no change.
    let host = device.start_stored(&[]);
    host.wait("the answer of the new instance", |host| {
        host.logs("filter").iter().any(|line| line.starts_with("refused: ")).then_some(())
    });
    let _ = device.marram(&["twin", "set", "filter", r#"{"threshold":2}"#]).ok();
    let next = journal.wait_for("the next change", |all| all.get(2).cloned());
    assert_eq!(next["body"]["desiredAck"]["version"], 4, "nothing was told twice: {next}");
    host.stop();
    assert_eq!(journal.read().iter().filter(|entry| **entry != Value::Null).count(), 3);
}

/// The changes that `logbook` has entered: patch, version.
fn changes(entries: &[Value]) -> Vec<(Value, u64)> {
    let entered = entries.iter().filter(|entry| !entry["body"]["change"].is_null());
    entered.map(|entry| (entry["body"]["change"].clone(), entry["body"]["version"].as_u64().unwrap())).collect()
}

#[test]
fn changes_made_while_a_module_was_stopped_arrive_when_it_starts() {
    let (layout, device) = (Layout::with(&["logbook"]), Device::new());
    let manifest =
        |status| Manifest::new().module("book", Module::new(&layout.image("logbook")).status(status)).upstream("book");
    let set = |patch: &str| drop(device.marram(&["twin", "set", "book", patch]).ok());
    let host = device.start(&manifest("running"));
    let mut journal = device.journal();
    journal.wait_for("the whole document", |all| (changes(all) == [(json!({}), 1)]).then_some(()));
    set(r#"{"a":1,"in":{"x":1,"y":2}}"#);
    set(r#"{"in":{"x":null}}"#);
    let told =
        journal.wait_for("both changes", |all| changes(all).last().filter(|last| last.1 == 3).map(|_| changes(all)));
    let patches = [json!({"a":1,"in":{"x":1,"y":2}}), json!({"in":{"x":null}})];
    match &told[1..] {
        [first, second] => assert_eq!([&first.0, &second.0], [&patches[0], &patches[1]]),
        // It was busy with the first document still: both came as one.
        [both] => assert_eq!(both.0, json!({"a":1,"in":{"y":2}})),
        other => panic!("{other:?}"),
    }

    let _ = device.apply(&manifest("stopped").to_json()).ok();
    host.wait_for_status("book", "stopped");
    set(r#"{"a":null}"#);
    set(r#"{"b":[1,2]}"#);
    host.stop();
    let host = device.start(&manifest("stopped"));
    set(r#"{"b":[3]}"#);
    let before = changes(journal.read()).len();
    let _ = device.apply(&manifest("running").to_json()).ok();
    let arrived = journal.wait_for("what has changed meanwhile", |all| changes(all).get(before).cloned());
    assert_eq!(arrived, (json!({"in":{"y":2},"b":[3]}), 6));
    let ack = host.wait_for_reported("book", "desiredAck", |ack| ack["version"] == 6);
    assert_eq!(ack, json!({ "version": 6, "code": 200, "description": "entered" }));
    assert_eq!(changes(journal.read()).len(), before + 1, "once");
    host.stop();
}

#[test]
fn a_program_hears_of_each_change_once_in_order_and_of_all_again_after_a_restart() {
    let (layout, device) = (Layout::with(&["follower"]), Device::new());
    let module = || Module::new(&layout.image("follower"));
    let manifest = Manifest::new()
        .module("waits", module())
        .module("polls", module().env("POLL_MS", "20"))
        .twin("waits", json!({ "n": 0 }))
        .twin("polls", json!({ "n": 0 }))
        .upstream("waits")
        .upstream("polls");
    let host = device.start(&manifest);
    for module in ["waits", "polls"] {
        host.wait_for_reported(module, "desiredAck", |ack| ack["version"] == 2);
    }
    for n in 1..=3 {
        for module in ["waits", "polls"] {
            let before = host.twin(module)["desiredVersion"].as_u64().unwrap();
            let _ = device.marram(&["twin", "set", module, &json!({ "n": n }).to_string()]).ok();
            host.wait_for_reported(module, "desiredAck", |ack| ack["version"] == before + 1);
        }
    }
    let _ = device.marram(&["twin", "set", "waits", r#"{"refuse":true}"#]).ok();
    let refused = host.wait_for_reported("waits", "desiredAck", |ack| ack["version"] == 6);
    assert_eq!(refused, json!({ "version": 6, "code": 400, "description": "told to refuse it" }));

    let told = |all: &[Value], module: &str| -> Vec<String> {
        let source = format!("/messages/modules/{module}/outputs/changes");
        let of_module = all.iter().filter(|entry| text(entry, "/source") == source);
        of_module.map(|entry| format!("{} {}", text(entry, "/properties/version"), text(entry, "/bodyText"))).collect()
    };
    let mut journal = device.journal();
    let polls = journal.wait_for("the changes", |all| Some(told(all, "polls")).filter(|told| told.len() >= 4));
    assert_eq!(polls, [r#"2 {"n":0}"#, r#"3 {"n":1}"#, r#"4 {"n":2}"#, r#"5 {"n":3}"#]);
    let waits = journal.wait_for("the refusal", |all| Some(told(all, "waits")).filter(|told| told.len() >= 5));
    assert_eq!(waits[..4], polls[..], "as one that waits hears them");
    assert_eq!(waits[4], r#"6 {"refuse":true}"#, "what differs, and nothing else");

    let _ = device.marram(&["restart", "waits"]).ok();
    let again = journal.wait_for("the new instance", |all| told(all, "waits").get(5).cloned());
    assert_eq!(again, r#"6 {"n":3,"refuse":true}"#);
    host.stop();
}

/// A module that reports its answer to each change of its threshold, and what goes upstream of that.
fn filter() -> (Layout, Device, Host, Journal) {
    let (layout, device) = (Layout::with(&["threshold_filter"]), Device::new());
    let manifest = Manifest::new()
        .module("filter", Module::new(&layout.image("threshold_filter")))
        .twin("filter", json!({ "field": "t", "threshold": 1 }));
    let host = device.start(&manifest);
    let journal = Journal::of_twins(&device.data());
    (layout, device, host, journal)
}

#[test]
fn what_modules_report_goes_upstream_as_patches_of_which_none_is_lost_by_a_kill_or_a_stop() {
    let (_layout, device, host, mut journal) = filter();
    let first = journal.wait_for("the first report", |all| all.first().cloned());
    assert_eq!((text(&first, "/source"), &first["sequence"]), ("/twins/filter/reported", &json!(2)));
    assert_eq!(first["body"]["desiredAck"]["version"], 2);

    // Within five seconds of that: they wait, and are one patch.
    for threshold in [2, 3, 4] {
        let before = host.twin("filter")["desiredVersion"].as_u64().unwrap();
        let _ = device.marram(&["twin", "set", "filter", &json!({ "threshold": threshold }).to_string()]).ok();
        host.wait_for_reported("filter", "desiredAck", |ack| ack["version"] == before + 1);
    }
    let reported = host.twin("filter")["reported"].clone();
    host.kill();
    let host = device.start_stored(&[]);
    let second = journal.wait_for("what was pending", |all| all.get(1).cloned());
    assert_eq!((&second["sequence"], &second["body"]["desiredAck"]["version"]), (&json!(5), &json!(5)));
    let shown = device.marram(&["twin", "get", "filter"]).ok().out;
    assert!(
        shown.contains("written by local") && shown.contains("changed here since\n{\n  \"threshold\": 4\n}"),
        "{shown}"
    );

    let _ = device.marram(&["twin", "set", "filter", r#"{"threshold":5}"#]).ok();
    let last = host.wait_for_reported("filter", "desiredAck", |ack| ack["version"] == 6);
    host.stop();
    let merged = journal.read().iter().fold(Value::Null, |mut merged, entry| {
        for (key, value) in entry["body"].as_object().unwrap() {
            for (inner, value) in value.as_object().unwrap() {
                merged[key][inner] = value.clone();
            }
        }
        merged
    });
    assert_eq!(merged["desiredAck"], last, "a stop hands over what waits");
    assert_ne!(merged, reported);
}

#[test]
fn under_steady_reports_upstream_gets_all_of_them_as_one_patch_each_five_seconds() {
    let (_layout, device, host, mut journal) = filter();
    journal.wait_for("the first", |all| all.first().map(drop));
    let mut threshold = 2;
    let patches = journal.wait_for("three patches amid reports", |all| {
        let before = host.twin("filter")["desiredVersion"].as_u64().unwrap();
        let _ = device.marram(&["twin", "set", "filter", &json!({ "threshold": threshold }).to_string()]).ok();
        threshold += 1;
        host.wait_for_reported("filter", "desiredAck", |ack| ack["version"] == before + 1);
        (all.len() >= 3).then(|| all[..3].to_vec())
    });
    let at = |patch: &Value| humantime::parse_rfc3339(text(patch, "/time")).unwrap();
    for pair in patches.windows(2) {
        let between = at(&pair[1]).duration_since(at(&pair[0])).unwrap();
        assert!(between >= Duration::from_millis(4_999), "{between:?}");
        let reports = pair[1]["sequence"].as_u64().unwrap() - pair[0]["sequence"].as_u64().unwrap();
        assert!(reports > 1, "{patches:?}");
        assert_eq!(pair[1]["sequence"], pair[1]["body"]["desiredAck"]["version"], "the newest of them");
    }
    host.stop();
}
