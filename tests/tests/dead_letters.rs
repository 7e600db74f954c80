//! What is given up is kept, and a person sends it again or forgets it: the commands on a real host.

#![allow(clippy::unwrap_used)] // helpers of tests

use marram_tests::{
    device::Device,
    host::Host,
    manifest::{Manifest, Module},
    program::push,
    registry::DockerRegistry,
};
use serde_json::{Value, json};

/// A sender of three messages, which the receiver rejects because they are no JSON.
fn start(registry: &DockerRegistry, device: &Device) -> Host {
    let image = registry.image("misbehaving:1");
    push("misbehaving", &image);
    let flood = json!({ "do": "flood", "count": 3 });
    let manifest = Manifest::new()
        .module("sender", Module::new(&image).misbehave(&flood))
        .module("receiver", Module::new(&image))
        .route("r", r#"FROM /messages/modules/sender/* INTO BrokeredEndpoint("/modules/receiver/inputs/in")"#);
    let host = device.start(&manifest);
    wait_for_rejected(&host, 3);
    host
}

fn wait_for_rejected(host: &Host, count: u64) {
    host.wait("messages to be rejected", |host| {
        (host.queue("receiver/in")["dropped"]["rejected"].as_u64()? == count).then_some(())
    });
}

fn list(device: &Device) -> Vec<Value> {
    let answer = device.marram(&["deadletters", "list", "--format", "json"]).ok().json();
    answer["letters"].as_array().unwrap().clone()
}

#[test]
fn what_was_rejected_is_listed_shown_sent_again_and_forgotten_also_after_a_restart() {
    let (registry, device) = (DockerRegistry::start(), Device::new());
    let host = start(&registry, &device);
    let letters = list(&device);
    assert_eq!(letters.iter().map(|letter| &letter["sequence"]).collect::<Vec<_>>(), [1, 2, 3]);
    let id = letters[0]["id"].to_string();
    let text = device.marram(&["deadletters", "list"]).ok().out;
    assert!(text.contains("receiver/in") && text.contains("/messages/modules/sender/outputs/flood #1"), "{text}");
    let shown = device.marram(&["deadletters", "show", &id]).ok().out;
    assert!(shown.contains("n: 1") && shown.ends_with(&format!("\n\n{}\n", "x".repeat(64))), "{shown}");
    let queues = device.marram(&["queues"]).ok().out;
    assert!(queues.contains("3 rejected") && queues.contains("3 dead letters"), "{queues}");

    // It is rejected again: a dead letter of another number.
    let replayed = device.marram(&["deadletters", "replay", &id]).ok().out;
    assert_eq!(replayed, "1 dead letter sent again\n");
    wait_for_rejected(&host, 4);
    let unknown = device.marram(&["deadletters", "show", &id, "--format", "json"]);
    assert_eq!((unknown.code, unknown.json()["error"]["code"].as_str()), (Some(1), Some("unknown-dead-letter")));
    host.stop();

    let host = device.start_stored(&[]);
    // The sender sends again when it starts.
    wait_for_rejected(&host, 3);
    let purged = device.marram(&["deadletters", "purge", &list(&device)[0]["id"].to_string()]).ok().out;
    assert_eq!(purged, "1 dead letter forgotten\n");
    assert_eq!(device.marram(&["deadletters", "purge", "--all"]).ok().out, "5 dead letters forgotten\n");
    assert_eq!(list(&device), [Value::Null; 0]);
}
