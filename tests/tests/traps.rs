//! What ended an instance is kept with what it was doing, over restarts of the host and without the module.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{fs, os::unix::fs::PermissionsExt as _};

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

/// Every file in the folder of core dumps.
fn dumps(device: &Device) -> Vec<String> {
    let entries = fs::read_dir(device.data().join("dumps")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn traps_of(host: &Host, module: &str) -> Vec<Value> {
    let answer = host.get(&format!("/v1/modules/{module}/traps"));
    answer.ok().and_then(|answer| answer["traps"].as_array().cloned()).unwrap_or_default()
}

fn wait_for_dump(host: &Host, module: &str) -> Value {
    host.wait("a trap with a core dump", |host| {
        traps_of(host, module).into_iter().find(|trap| trap["coreDump"].is_object())
    })
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_core_dump_is_written_where_it_is_asked_for_and_goes_to_a_file() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    let image = layout.image("misbehaving");
    let manifest = Manifest::new()
        .module("bad", Module::new(&image).policy("never"))
        .twin("bad", json!({ "command": { "do": "trap", "mark": "a secret in memory" } }));
    let host = device.start(&manifest);
    wait_for_trap(&host, "twin");
    assert!(!device.data().join("dumps").exists(), "none unless the owner asks, nor a folder for them");
    let file = device.data().with_file_name("bad.core");
    let to = file.to_str().unwrap();
    assert_eq!(device.marram(&["traps", "bad", "--dump", to]).code, Some(1));
    host.stop();

    device.configure("[modules]\ncore-dump-max-bytes = 16_777_216\n");
    let host = device.start_stored(&[]);
    let dump = wait_for_dump(&host, "bad")["coreDump"].clone();
    assert_eq!(dump["leftOutBytes"], 0, "{dump}");
    let kept = fs::read(dump["file"].as_str().unwrap()).unwrap();
    assert_eq!(json!(kept.len()), dump["bytes"]);
    assert!(kept.starts_with(b"\0asm\x01\0\0\0") && holds(&kept, "corestack") && holds(&kept, &image));
    assert!(holds(&kept, "a secret in memory"), "what the module had in memory");
    let text = device.marram(&["traps", "bad"]).ok().out;
    assert!(text.contains(&format!("  core dump {}, ", dump["file"].as_str().unwrap())), "{text}");
    let _ = device.marram(&["traps", "bad", "--dump", to]).ok();
    assert_eq!(fs::read(&file).unwrap(), kept);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(device.marram(&["traps", "bad", "--dump", to]).code, Some(1), "it is there already");
    let told = device.marram(&["traps", "bad", "--dump", to, "--force", "--format", "json"]).ok().json();
    assert_eq!(told, json!({ "file": to, "bytes": kept.len() }));
    host.stop();

    // Wanted no more: what is there stays with its trap.
    device.configure("");
    let host = device.start_stored(&[]);
    host.wait("one more trap", |host| traps_of(host, "bad")[0]["coreDump"].is_null().then_some(()));
    assert_eq!(wait_for_dump(&host, "bad")["coreDump"], dump);
    host.stop();
}

#[test]
fn a_kill_amid_a_core_dump_leaves_nothing_half_written() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    device.configure("[modules]\ncore-dump-max-bytes = 67_108_864\n");
    let manifest = Manifest::new()
        .module("bad", Module::new(&layout.image("misbehaving")))
        .twin("bad", json!({ "command": { "do": "eat" } }));
    let host = device.start(&manifest);
    host.wait("a core dump to be begun", |_| (!dumps(&device).is_empty()).then_some(()));
    host.kill();
    // A fast disk may have been done already; this one is not.
    fs::write(device.data().join("dumps/1-0.tmp"), "half").unwrap();
    // Nor does a trap lead to this one: killed between dump and trap.
    fs::write(device.data().join("dumps/1-1.core"), "whole").unwrap();

    let host = device.start_stored(&[]);
    let trap = wait_for_dump(&host, "bad");
    assert_eq!(trap["exitCode"], 137, "{trap}");
    host.wait("only the dump of the last trap to be there", |host| {
        let of_trap = wait_for_dump(host, "bad")["coreDump"]["file"].as_str().unwrap().to_owned();
        let there = dumps(&device);
        (there.len() == 1 && of_trap.ends_with(&there[0])).then_some(())
    });
    host.stop();
}
