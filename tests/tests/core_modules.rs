//! Core modules of WASI preview 1, built by a real toolchain: adapted, pushed, run by the host.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::fs;

use marram_tests::{
    device::Device,
    manifest::{Manifest, Module},
    program::{Answer, Layout, command, core_module, guest},
    registry::DockerRegistry,
};
use serde_json::json;

#[test]
fn a_core_module_is_pushed_as_a_program_that_runs() {
    let (layout, device) = (Layout::with(&[]), Device::new());
    let mut push = command();
    push.args(["module", "push"]).arg(core_module("plain_program")).args([&layout.image("old"), "--format", "json"]);
    let pushed = Answer::of(&mut push).ok();
    assert_eq!(pushed.json()["adapter"], "command");
    assert!(pushed.err.contains("plain_program.wasm is a core module"), "it is said: {pushed:?}");
    assert!(!pushed.err.contains("warning"), "{pushed:?}");

    let module = Module::new(&layout.image("old")).policy("never");
    let good = module.clone().args(&["--room", "cellar 1"]).env("COLOUR", "grün");
    let host = device.start(&Manifest::new().module("good", good).module("bad", module.env("EXIT_CODE", "3")));
    assert_eq!(host.wait_for_status("good", "stopped")["exitCode"], 0);
    let log = host.logs("good");
    assert_eq!(log[0], r#"plain-program: args ["--room", "cellar 1"]"#);
    assert_eq!(log[1], "plain-program: env COLOUR=grün");
    assert_eq!(host.wait_for_status("bad", "failed")["exitCode"], 1, "WASI 0.2 knows success and failure only");
}

#[test]
fn a_core_module_with_bindings_becomes_handlers_that_read_files() {
    let (registry, device, folder) = (DockerRegistry::start(), Device::new(), tempfile::tempdir().unwrap());
    let component = folder.path().join("telemetry.wasm");
    let mut componentize = command();
    componentize.args(["module", "componentize", "--format", "json"]).arg(core_module("device_telemetry"));
    let made = Answer::of(componentize.arg(&component)).ok().json();
    assert_eq!((&made["adapter"], &made["size"]), (&json!("reactor"), &json!(fs::metadata(&component).unwrap().len())));

    let image = registry.image("telemetry:1");
    let pushed = Answer::of(command().args(["module", "push"]).arg(&component).arg(&image)).ok();
    assert!(pushed.err.is_empty(), "a component is pushed as it is: {pushed:?}");
    let manifest = Manifest::new()
        .module("telemetry", Module::new(&image).reads_proc())
        .upstream("telemetry")
        .twin("telemetry", json!({ "intervalMs": 50 }));
    let _host = device.start(&manifest);
    let reading = &device.journal().wait_for_more(1)[0];
    assert!(reading["body"]["memTotalKiB"].as_u64().unwrap() > 0, "of this machine's files: {reading}");
}

#[test]
fn what_cannot_be_adapted_leaves_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.wasm");
    fs::write(&empty, b"\0asm\x01\0\0\0").unwrap();
    let image = format!("oci:{}:a", folder.path().join("layout").display());
    let output = folder.path().join("out.wasm");
    let run = |args: &[&str]| Answer::of(command().current_dir(folder.path()).arg("module").args(args));
    for refused in [run(&["push", "empty.wasm", &image]), run(&["componentize", "empty.wasm", "out.wasm"])] {
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.err.contains("would export nothing") && refused.err.contains("wit-bindgen"), "{refused:?}");
    }
    fs::copy(guest("plain_program"), folder.path().join("done.wasm")).unwrap();
    let done = run(&["componentize", "done.wasm", "out.wasm"]);
    assert!(done.err.contains("a component already") && done.code == Some(1), "{done:?}");
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "no output, no layout, no leftover: {names:?}");

    fs::write(&output, "mine").unwrap();
    let program = core_module("plain_program");
    let kept = run(&["componentize", program.to_str().unwrap(), "out.wasm"]);
    assert!(kept.err.contains("exists already") && fs::read(&output).unwrap() == b"mine", "{kept:?}");
    let _ = run(&["componentize", program.to_str().unwrap(), "out.wasm", "--force"]).ok();
    assert!(fs::read(&output).unwrap().starts_with(b"\0asm\x0d"));
}
