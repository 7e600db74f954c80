//! What ended an instance is kept with what it was doing, over restarts of the host and without the module.

#![allow(clippy::unwrap_used)] // helpers of tests

use marram_tests::{
    device::Device,
    host::Host,
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::{Value, json};

fn wait_for_trap(host: &Host, kind: &str) -> Value {
    host.wait(&format!("a trap during a {kind}"), |host| {
        let traps = host.get("/v1/modules/bad/traps").ok()?["traps"].as_array()?.clone();
        traps.into_iter().find(|trap| trap["during"]["kind"] == kind)
    })
}

#[test]
fn a_trap_is_kept_with_its_backtrace_and_the_message_at_which_it_came() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    let image = layout.image("misbehaving");
    let manifest = Manifest::new()
        .module("bad", Module::new(&image))
        .module(
            "sender",
            Module::new(&image).policy("never").misbehave(&json!({ "do": "send", "body": { "do": "panic" } })),
        )
        .route("in", r#"FROM /messages/modules/sender/outputs/out INTO BrokeredEndpoint("/modules/bad/inputs/in")"#);
    let host = device.start(&manifest);
    let trap = wait_for_trap(&host, "message");
    assert_eq!(
        (&trap["exitCode"], &trap["image"], &trap["deployment"]),
        (&json!(134), &json!(image), &json!(1)),
        "{trap}"
    );
    assert_eq!(trap["digest"], host.module("bad")["digest"]);
    let frames = trap["backtrace"].as_array().unwrap();
    assert!(
        frames.iter().any(|frame| frame.as_str().unwrap().contains("handle")),
        "functions have their names: {trap}"
    );
    let during = &trap["during"];
    assert_eq!((&during["input"], &during["attempt"]), (&json!("in"), &json!(1)), "{during}");
    assert_eq!(during["source"], "/messages/modules/sender/outputs/out");
    assert_eq!(during["bytes"], r#"{"do":"panic"}"#.len());
    assert!(during.get("body").is_none(), "bodies are kept only where the owner wants it: {during}");
    host.kill();

    device.configure("[modules]\ntrap-bodies = true\n");
    let host = device.start_stored(&[]);
    let traps = device.marram(&["traps", "bad", "--format", "json"]).ok().json()["traps"].as_array().unwrap().clone();
    assert!(traps.iter().any(|it| it["atMs"] == trap["atMs"]), "it is there after a kill: {traps:?}");
    let again = host.wait("a trap with the body", |host| {
        let newest = host.get("/v1/modules/bad/traps").ok()?["traps"][0].clone();
        newest["during"]["body"].is_string().then_some(newest)
    });
    assert_eq!(again["during"]["body"], r#"{"do":"panic"}"#);
    assert_eq!(again["during"]["sequence"], during["sequence"], "the same message came again: {again}");

    // Another kind, and the module leaves.
    let alone = Manifest::new()
        .module("bad", Module::new(&image).env("V", "2"))
        .twin("bad", json!({ "command": { "do": "trap" } }));
    let _ = device.apply(&alone.to_json()).ok();
    let twin = wait_for_trap(&host, "twin");
    assert!(twin["during"]["version"].as_u64() > Some(1), "{twin}");
    let _ = device.apply(&Manifest::new().to_json()).ok();
    host.wait("the module to be gone", |host| host.module("bad").is_null().then_some(()));
    let text = device.marram(&["traps", "bad"]).ok().out;
    assert!(
        text.contains(" exit 134: ") && text.contains("during message /messages/modules/sender/outputs/out #"),
        "{text}"
    );
    assert_eq!(device.marram(&["traps", "nobody"]).code, Some(5));
    host.stop();
}

#[test]
fn of_a_program_the_messages_that_it_held_are_kept_and_of_a_method_its_payload() {
    let (layout, device) = (Layout::with(&["collector", "misbehaving"]), Device::new());
    device.configure("[modules]\ntrap-bodies = true\n");
    let flood = json!({ "do": "flood", "count": 40, "bytes": 1500 });
    let collector =
        Module::new(&layout.image("collector")).env("WAIT_MS", "60000").env("BATCH", "16").env("PANIC_AT", "30");
    let manifest = Manifest::new()
        .module("bad", collector)
        .module("source", Module::new(&layout.image("misbehaving")).order(2).misbehave(&flood))
        .route("in", r#"FROM /messages/modules/source/outputs/flood INTO BrokeredEndpoint("/modules/bad/inputs/in")"#)
        .upstream("bad");
    let host = device.start(&manifest);
    let trap = wait_for_trap(&host, "messages");
    let during = &trap["during"];
    assert_eq!(during["held"], 14, "the first sixteen were settled, and it panicked at the thirtieth: {during}");
    let messages = during["messages"].as_array().unwrap();
    let sequences: Vec<u64> = messages.iter().map(|message| message["sequence"].as_u64().unwrap()).collect();
    assert_eq!((messages.len(), sequences.is_sorted()), (10, true), "the last ten: {sequences:?}");
    let last = &messages[9];
    assert_eq!((&last["bytes"], &last["attempt"], &last["input"]), (&json!(1500), &json!(1), &json!("in")), "{last}");
    assert_eq!(last["body"].as_str().unwrap(), "x".repeat(1024), "{last}");
    let text = device.marram(&["traps", "bad"]).ok().out;
    assert!(text.contains("during its own work, with 14 messages unsettled; the last 10 of them:"), "{text}");
    assert_eq!(text.matches("  held /messages/modules/source/outputs/flood #").count(), 10, "{text}");

    let payload = json!({ "do": "trap" }).to_string();
    assert_eq!(device.marram(&["method", "invoke", "source", "do", &payload]).code, Some(8));
    let called = host.wait("a trap in a method", |host| {
        let newest = host.get("/v1/modules/source/traps").ok()?["traps"][0].clone();
        (newest["during"]["kind"] == "method").then_some(newest)
    });
    assert_eq!(called["during"], json!({ "kind": "method", "name": "do", "bytes": payload.len(), "payload": payload }));
    host.stop();
}
