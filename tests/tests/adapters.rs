//! Components that know nothing of Marram, but other people's interfaces, run as modules.

use marram_tests::{
    device::Device,
    journal::{Journal, flood_numbers, text},
    manifest::{Manifest, Module},
    program::{Answer, Layout, command, guest},
};
use serde_json::{Value, json};

const COUNT: u64 = 20;

/// A module that sends so many messages when it starts, and a relay that numbers them and passes them on.
fn manifest(layout: &Layout) -> Manifest {
    let flood = json!({ "do": "flood", "count": COUNT, "bytes": 40 });
    Manifest::new()
        .module("source", Module::new(&layout.image("misbehaving")).order(2).misbehave(&flood))
        .module("relay", Module::new(&layout.image("portable")))
        .twin("relay", json!({ "relay": { "topic": "passed on" }, "refuse": 5 }))
        .route("in", TO_RELAY)
        .upstream("relay")
}

/// The numbers that the relay gave.
fn numbers(entries: &[Value]) -> Vec<u64> {
    entries.iter().map(number).collect()
}

/// The number that the relay gave.
fn number(entry: &Value) -> u64 {
    text(entry, "/properties/number").parse().unwrap_or_default()
}

const TO_RELAY: &str =
    r#"FROM /messages/modules/source/outputs/flood INTO BrokeredEndpoint("/modules/relay/inputs/from-source")"#;

#[test]
fn a_component_of_wasi_messaging_gets_its_messages_and_settings_and_sends() {
    let (layout, device) = (Layout::with(&["portable", "misbehaving"]), Device::new());
    let host = device.start(&manifest(&layout));
    let arrived = device.journal().wait_for("all messages", |all| (all.len() as u64 == COUNT).then(|| all.to_vec()));
    assert_eq!(flood_numbers(&arrived), (1..=COUNT).collect::<Vec<_>>(), "in order, though the fifth came twice");
    for entry in &arrived {
        assert_eq!(text(entry, "/source"), "/messages/modules/relay/outputs/passed on");
        assert_eq!(text(entry, "/properties/from"), "from-source");
        assert_eq!(text(entry, "/systemProperties/contentType"), "application/octet-stream");
    }
    let log = host.logs("relay");
    assert_eq!(log, ["incoming-handler: told to refuse it once (the message comes again)"]);
    let queue = host.queue("relay/from-source");
    assert_eq!((&queue["delivered"], &queue["length"]), (&json!(COUNT), &json!(0)), "{queue}");

    // `set` reaches a module that asks for a setting at its next question.
    let _ = device.marram(&["twin", "set", "relay", r#"{"relay":{"topic":"elsewhere"}}"#]).ok();
    let _ = device.marram(&["restart", "source"]).ok();
    let after = device.journal().wait_for("one more", |all| all.get(COUNT as usize).cloned());
    assert_eq!(text(&after, "/source"), "/messages/modules/relay/outputs/elsewhere");
    host.stop();
}

#[test]
fn state_survives_a_kill_of_the_host_and_restarts_of_the_module() {
    let (layout, device) = (Layout::with(&["portable", "misbehaving"]), Device::new());
    let host = device.start(&manifest(&layout));
    let mut journal = device.journal();
    let first = journal.wait_for("all messages", |all| (all.len() as u64 == COUNT).then(|| numbers(all)));
    assert_eq!(first, (1..=COUNT).collect::<Vec<_>>());
    host.kill();

    // Messages that were not yet settled come again: to upstream with the number that they had, to the relay for another.
    let host = device.start_stored(&[]);
    let until = |journal: &mut Journal, last| {
        let there = |all: &[Value]| all.iter().any(|entry| number(entry) == last).then(|| numbers(all));
        let mut all = journal.wait_for("the last number", there);
        all.retain(|number| *number <= last);
        all.sort_unstable();
        all.dedup();
        all
    };
    assert_eq!(
        until(&mut journal, 2 * COUNT),
        (1..=2 * COUNT).collect::<Vec<_>>(),
        "each write was safe when it returned"
    );

    let _ = device.marram(&["restart", "relay"]).ok();
    host.wait_for_module("relay", "to run again", |now| now["status"] == "running" && now["restartCount"] == 1);
    let _ = device.marram(&["restart", "source"]).ok();
    assert_eq!(until(&mut journal, 2 * COUNT + 1).len() as u64, 2 * COUNT + 1);
    host.stop();
}

#[test]
fn what_a_module_keeps_outlives_its_removal_until_the_owner_removes_it() {
    let (layout, device) = (Layout::with(&["portable", "misbehaving"]), Device::new());
    let list = || device.marram(&["state", "list", "--format", "json"]).ok().json();
    let host = device.start(&manifest(&layout));
    let mut journal = device.journal();
    journal.wait_for("all messages", |all| (all.len() as u64 == COUNT).then_some(()));
    let refused = device.marram(&["state", "remove", "relay"]);
    assert!(refused.code == Some(6) && refused.err.contains("module `relay` runs"), "{refused:?}");
    let _ = device.apply(&Manifest::new().to_json()).ok();
    host.wait("the modules to be gone", |host| host.status()["modules"].as_array().unwrap().is_empty().then_some(()));
    assert_eq!(list(), json!([{ "module": "relay", "bytes": 65536 }]));

    let nobody = device.marram(&["state", "remove", "nobody"]);
    assert!(nobody.err.contains("module `nobody` keeps no state") && nobody.err.contains("state list"), "{nobody:?}");
    let removed = device.marram(&["state", "remove", "relay"]).ok();
    assert_eq!(removed.out, "removed the state of relay, 64.0 KiB\n");
    assert_eq!(list(), json!([]));

    // The same host: it has forgotten what it knew of it.
    let _ = device.apply(&manifest(&layout).to_json()).ok();
    let again = journal
        .wait_for("as many again", |all| (all.len() as u64 == 2 * COUNT).then(|| numbers(&all[COUNT as usize..])));
    assert_eq!(again, (1..=COUNT).collect::<Vec<_>>(), "it counts from the beginning");
    host.stop();
}

#[test]
fn keys_are_listed_page_by_page_and_a_batch_happens_wholly_or_not_at_all() {
    let (layout, device) = (Layout::with(&["portable", "misbehaving"]), Device::new());
    let flood = json!({ "do": "flood", "count": 1, "bytes": 40 });
    let manifest = Manifest::new()
        .module("source", Module::new(&layout.image("misbehaving")).order(2).misbehave(&flood))
        .module("relay", Module::new(&layout.image("portable")))
        .twin("relay", json!({ "relay": { "topic": "told" }, "inventory": 2500 }))
        .route("in", TO_RELAY)
        .upstream("relay");
    let host = device.start(&manifest);
    let told = device.journal().wait_for("the inventory", |all| all.first().cloned());
    for (name, expected) in [
        ("pages", "1024 1024 452"),
        ("all listed in order", "true"),
        ("got", "key 000000 = 000000, none, key 002499 = 002499"),
        ("half written", "false"),
        ("left", "key 000000"),
    ] {
        assert_eq!(text(&told, &format!("/properties/{name}")), expected, "{name}: {told}");
    }
    assert!(text(&told, "/properties/refused").contains("a key has 1 to 256 bytes"), "{told}");
    assert!(text(&told, "/properties/stale cursor").contains("the cursor is not that of"), "{told}");
    host.stop();
}

#[test]
fn what_is_offered_is_shown_as_met() {
    let inspect = Answer::of(command().args(["module", "inspect", "--format", "json"]).arg(guest("portable"))).ok();
    let report = inspect.json();
    assert_eq!((&report["kind"], &report["refusal"]), (&json!("handler"), &json!(null)), "{report}");
    let imports = report["imports"].as_array().into_iter().flatten();
    let unmet: Vec<_> = imports.filter(|import| import["met"] != true).collect();
    assert!(unmet.is_empty(), "{report}");
}
