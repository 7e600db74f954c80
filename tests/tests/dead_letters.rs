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

#[test]
fn all_are_sent_again_page_by_page_up_to_the_first_that_no_route_leads_to() {
    let (registry, device) = (DockerRegistry::start(), Device::new());
    let image = registry.image("misbehaving:1");
    push("misbehaving", &image);
    // More than the host tells at once.
    let flood = json!({ "do": "flood", "count": 6, "bytes": 100_000 });
    let into = |input: &str| {
        format!(r#"FROM /messages/modules/sender/* INTO BrokeredEndpoint("/modules/receiver/inputs/{input}")"#)
    };
    let modules =
        Manifest::new().module("sender", Module::new(&image).misbehave(&flood)).module("receiver", Module::new(&image));
    let host = device.start(&modules.clone().route("in", &into("in")).route("other", &into("other")));
    wait_for_rejected(&host, "receiver/in", 6);
    wait_for_rejected(&host, "receiver/other", 6);
    let first = host.get("/v1/dead-letters").unwrap()["letters"].as_array().unwrap().len();
    let letters = list(&device);
    assert!((1..12).contains(&first) && letters.len() == 12, "{first} at once, {} in all", letters.len());

    // The route of the first letter stays.
    let kept = letters[0]["endpoint"].as_str().unwrap();
    let _ = device.apply(&modules.route("kept", &into(kept.trim_start_matches("receiver/"))).to_json()).ok();
    let gone = letters.iter().position(|letter| letter["endpoint"] != kept).unwrap();
    let answer = device.marram(&["deadletters", "replay", "--all"]);
    assert_eq!(answer.code, Some(6), "{answer:?}");
    let hint = format!("{gone} of 12 were sent again before dead letter {}", letters[gone]["id"]);
    assert!(answer.err.contains(&hint), "{answer:?}");
    // Those that were sent again are rejected again.
    wait_for_rejected(&host, kept, 6 + gone as u64);
    let others = list(&device).into_iter().filter(|letter| letter["endpoint"] != kept);
    let ids: Vec<String> = others.map(|letter| letter["id"].to_string()).collect();
    let purge = ["deadletters".to_owned(), "purge".to_owned()].into_iter().chain(ids).collect::<Vec<_>>();
    assert_eq!(device.marram(&purge).ok().out, "6 dead letters forgotten\n");
    assert_eq!(device.marram(&["deadletters", "replay", "--all"]).ok().out, "6 dead letters sent again\n");
    wait_for_rejected(&host, kept, 12 + gone as u64);
}

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
    wait_for_rejected(&host, "receiver/in", 3);
    host
}

fn wait_for_rejected(host: &Host, endpoint: &str, count: u64) {
    host.wait(&format!("{count} messages of {endpoint} to be rejected"), |host| {
        (host.queue(endpoint)["dropped"]["rejected"].as_u64()? == count).then_some(())
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
    wait_for_rejected(&host, "receiver/in", 4);
    let unknown = device.marram(&["deadletters", "show", &id, "--format", "json"]);
    assert_eq!((unknown.code, unknown.json()["error"]["code"].as_str()), (Some(1), Some("unknown-dead-letter")));
    host.stop();

    let host = device.start_stored(&[]);
    // The sender sends again when it starts.
    wait_for_rejected(&host, "receiver/in", 3);
    let purged = device.marram(&["deadletters", "purge", &list(&device)[0]["id"].to_string()]).ok().out;
    assert_eq!(purged, "1 dead letter forgotten\n");
    assert_eq!(device.marram(&["deadletters", "purge", "--all"]).ok().out, "5 dead letters forgotten\n");
    assert_eq!(list(&device), [Value::Null; 0]);
}
