//! Programs with a main loop of their own: they receive through `inbox`, and nothing is lost whatever ends them.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::BTreeSet;

use marram_tests::{
    device::Device,
    journal::text,
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::{Value, json};

const COUNT: u64 = 200;
const TO_COLLECTOR: &str =
    r#"FROM /messages/modules/source/outputs/flood INTO BrokeredEndpoint("/modules/collector/inputs/in")"#;

/// A module that sends so many messages when it starts, and a collector that joins them.
fn manifest(layout: &Layout, collector: Module) -> Manifest {
    let flood = json!({ "do": "flood", "count": COUNT, "bytes": 40 });
    Manifest::new()
        .module("source", Module::new(&layout.image("misbehaving")).order(2).misbehave(&flood))
        .module("collector", collector)
        .route("in", TO_COLLECTOR)
        .upstream("collector")
}

/// The sequences of the messages that arrived, joined, in order of arrival.
fn arrived(journal: &[Value]) -> Vec<u64> {
    let lists = journal.iter().map(|entry| text(entry, "/properties/sequences"));
    lists.flat_map(|list| list.split(',').map(|number| number.parse().unwrap())).collect()
}

fn is_complete(sequences: &[u64]) -> bool {
    sequences.iter().collect::<BTreeSet<_>>().len() as u64 == COUNT
}

#[test]
fn a_program_receives_joins_and_settles_each_message_once_and_in_order() {
    let (layout, device) = (Layout::with(&["collector", "misbehaving"]), Device::new());
    let host = device.start(&manifest(&layout, Module::new(&layout.image("collector")).env("WAIT_MS", "50")));
    let arrived = device.journal().wait_for("all messages", |all| Some(arrived(all)).filter(|all| is_complete(all)));
    assert_eq!(arrived.len() as u64, COUNT, "none twice");
    assert!(arrived.is_sorted(), "{arrived:?}");
    let queue = host
        .wait("the queue to be empty", |host| Some(host.queue("collector/in")).filter(|queue| queue["length"] == 0));
    assert_eq!((&queue["delivered"], &queue["dropped"]), (&json!(COUNT), &json!({})));
    host.stop();
}

#[test]
fn nothing_is_lost_when_a_program_dies_in_the_middle_of_a_batch() {
    let (layout, device) = (Layout::with(&["collector", "misbehaving"]), Device::new());
    let collector =
        Module::new(&layout.image("collector")).env("WAIT_MS", "50").env("BATCH", "16").env("PANIC_AT", "40");
    let host = device.start(&manifest(&layout, collector));
    let dead = host.wait_for_status("collector", "backoff");
    assert_eq!(dead["exitCode"], 134, "{dead}");
    let before = arrived(device.journal().read());
    assert_eq!(before.len(), 32, "two batches; the third was not complete: {before:?}");
    let queue = host.queue("collector/in");
    assert_eq!(queue["delivered"], 32, "{queue}");

    let _ = device.marram(&["restart", "collector"]).ok();
    let arrived = device.journal().wait_for("all messages", |all| Some(arrived(all)).filter(|all| is_complete(all)));
    assert_eq!(arrived.len() as u64, COUNT, "what was not sent on was not settled, so nothing came twice");
    assert!(arrived.is_sorted(), "{arrived:?}");
    host.stop();
}

#[test]
fn a_program_that_is_restarted_sends_on_what_it_holds() {
    let (layout, device) = (Layout::with(&["collector", "misbehaving"]), Device::new());
    let collector = Module::new(&layout.image("collector")).env("WAIT_MS", "3600000").env("BATCH", "250");
    let host = device.start(&manifest(&layout, collector));
    host.wait("it to hold all of them", |host| {
        let queue = host.queue("collector/in");
        // What is out for delivery has no age: all of them are with the program.
        let held = queue["length"] == COUNT && queue["oldestMs"].is_null();
        (held && host.module("collector")["status"] == "running").then_some(())
    });
    let _ = device.marram(&["restart", "collector"]).ok();
    let arrived = device.journal().wait_for("all messages", |all| Some(arrived(all)).filter(|all| is_complete(all)));
    assert_eq!(arrived.len() as u64, COUNT, "none twice");
    host.wait_for_module("collector", "to run again", |now| now["restartCount"] == 1);
    assert!(host.logs("collector").contains(&"collector: ends, as it was asked to".to_owned()));
    assert_eq!(host.module("collector")["exitCode"], 143);
    host.stop();
}

#[test]
fn a_route_to_a_program_that_does_not_receive_is_shown_and_logged() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let deaf = Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000");
    let route = r#"FROM /messages INTO BrokeredEndpoint("/modules/deaf/inputs/in")"#;
    let host = device.start(&Manifest::new().module("deaf", deaf).route("in", route));
    let module = host.wait_for_status("deaf", "running");
    let description = module["description"].as_str().unwrap();
    assert!(description.ends_with("; routes lead to it, but it takes no messages"), "{description}");
    assert!(host.log().contains("routes lead to a module that takes no messages"));
    host.stop();
}
