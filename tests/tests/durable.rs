//! What modules keep themselves: state, and timers that outlive them.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{thread, time::Duration};

use marram_core::time::UtcMillis;
use marram_tests::{
    device::Device,
    journal::text,
    manifest::{Manifest, Module},
    program::{Layout, push_version},
};
use serde_json::{Value, json};

/// Entries of `logbook` that have this member.
fn entries(all: &[Value], member: &str) -> Vec<Value> {
    let bodies = all.iter().filter(|entry| !entry["body"][member].is_null());
    bodies.map(|entry| json!({ "time": entry["time"], "body": entry["body"] })).collect()
}

/// What a timer has fired.
fn fired(all: &[Value], timer: &str) -> Vec<Value> {
    entries(all, "timer").into_iter().filter(|entry| entry["body"]["timer"] == timer).collect()
}

fn number(entry: &Value, member: &str) -> u64 {
    entry["body"][member].as_u64().unwrap_or_else(|| panic!("no {member} in {entry}"))
}

fn millis(entry: &Value) -> i64 {
    i64::try_from(UtcMillis::parse(text(entry, "/time")).unwrap().0).unwrap()
}

#[test]
fn each_function_of_the_state_does_what_it_says() {
    let (layout, device) = (Layout::with(&["logbook"]), Device::new());
    let manifest =
        Manifest::new().module("book", Module::new(&layout.image("logbook")).env("EXAM", "1")).upstream("book");
    let host = device.start(&manifest);
    let exam = device.journal().wait_for("the exam", |all| entries(all, "quota").first().cloned());
    for (name, expected) in [
        ("missing", "Ok(None)"),
        ("set", "Ok(()) Ok(Some([49]))"),
        ("not expected", "Ok(false)"),
        ("there already", "Ok(false)"),
        ("expected", "Ok(true)"),
        ("many", "Ok(())"),
        ("half", "Err(StateError::BadKey)"),
        ("keys", r#"Ok(["exam/b", "exam/c"])"#),
        ("after", r#"Ok(["exam/c"])"#),
        ("delete", "Ok(()) Ok(())"),
        ("long", "Err(StateError::TooLarge)"),
    ] {
        assert_eq!(exam["body"][name], expected, "{name}");
    }
    let quota = text(&exam, "/body/quota");
    assert!(
        quota.starts_with("full after 4, 1060") && quota.ends_with("would be too many; Some(250000) Ok(())"),
        "{quota}"
    );
    host.stop();
}

#[test]
fn state_timers_and_reports_survive_a_kill_and_a_timer_tells_what_it_missed() {
    let (layout, device) = (Layout::with(&["logbook"]), Device::new());
    let module = Module::new(&layout.image("logbook")).env("BEAT_MS", "1000").env("ALARM_MS", "4000");
    let host = device.start(&Manifest::new().module("book", module).upstream("book"));
    let mut journal = device.journal();
    let before = journal.wait_for("the second beat", |all| fired(all, "beat").get(1).cloned());
    assert_eq!((number(&before, "told"), number(&before, "starts")), (2, 1));
    let reported = host.wait_for_reported("book", "last", |_| true);
    host.kill();
    assert!(fired(journal.read(), "alarm").is_empty());

    // The device is without a host for some beats, and when the alarm is due.
    thread::sleep(Duration::from_millis(3_500));
    let host = device.start_stored(&[]);
    assert!(host.twin("book")["reportedVersion"].as_u64() >= Some(2), "{reported}");
    let after = journal.wait_for("a beat of the second start", |all| {
        fired(all, "beat").into_iter().find(|entry| number(entry, "starts") == 2)
    });
    assert!(number(&after, "missed") >= 2, "{after}");
    // Each beat was told, as a call or as missed. One call may have been cut off by the kill, and made again.
    let told = i64::try_from(number(&after, "told") - number(&before, "told")).unwrap();
    let beats = (millis(&after) - millis(&before)) / 1000;
    assert!((beats - 1..=beats + 1).contains(&told), "{told} told in {beats} beats: {before} {after}");

    let alarm = journal.wait_for("the alarm", |all| fired(all, "alarm").first().cloned());
    assert_eq!((number(&alarm, "missed"), number(&alarm, "starts")), (0, 2));
    let starts = entries(journal.read(), "start");
    assert_eq!(starts.len(), 2, "each start counts on in the state: {starts:?}");
    assert_eq!(starts[1]["body"]["timers"][0]["name"], "alarm", "set by the first start alone");
    host.stop();

    let host = device.start_stored(&[]);
    let third = journal.wait_for("a beat of the third start", |all| {
        fired(all, "beat").into_iter().find(|entry| number(entry, "starts") == 3)
    });
    assert!(number(&third, "told") > number(&after, "told"));
    assert_eq!(fired(journal.read(), "alarm").len(), 1, "it has fired once for ever");
    host.stop();
}

#[test]
fn durable_timers_and_state_carry_over_to_a_new_version_and_go_when_the_owner_removes_them() {
    let (layout, device) = (Layout::with(&["logbook"]), Device::new());
    let _ = push_version("logbook", "2", &layout.image("second"));
    let manifest = |tag, extra: Option<&str>| {
        let mut module = Module::new(&layout.image(tag)).env("BEAT_MS", "1000");
        if let Some(ms) = extra {
            module = module.env("ALARM_MS", ms);
        }
        Manifest::new().module("book", module).upstream("book")
    };
    let host = device.start(&manifest("logbook", Some("3600000")));
    let mut journal = device.journal();
    journal.wait_for("a beat", |all| fired(all, "beat").first().cloned());
    let _ = device.apply(&manifest("second", None).to_json()).ok();
    let start = journal.wait_for("the start of the new version", |all| entries(all, "start").get(1).cloned());
    assert_eq!(start["body"]["start"], 2);
    assert_eq!(
        start["body"]["timers"],
        json!([{ "name": "alarm", "periodMs": null }, { "name": "beat", "periodMs": 1000 }])
    );
    let beats = journal.wait_for("beats of both", |all| {
        let beats = fired(all, "beat");
        beats.iter().any(|entry| number(entry, "starts") == 2 && number(entry, "told") >= 3).then_some(beats)
    });
    let told: Vec<u64> = beats.iter().map(|entry| number(entry, "told")).collect();
    let missed: u64 = beats.iter().map(|entry| number(entry, "missed")).sum();
    assert_eq!(
        told.last().copied(),
        Some(beats.len() as u64 + missed),
        "none is lost and none is told twice: {told:?}"
    );
    host.stop();

    let _ = device.marram(&["state", "remove", "book"]).ok();
    let host = device.start_stored(&[]);
    let fresh = journal.wait_for("a start from nothing", |all| entries(all, "start").get(2).cloned());
    assert_eq!((number(&fresh, "start"), &fresh["body"]["timers"][0]["name"]), (1, &json!("beat")));
    host.stop();
}
