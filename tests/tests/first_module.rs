//! The first module of README.md, as its reader meets it: pushed to a layout folder, run, asked, changed.

#![allow(clippy::unwrap_used)] // helpers of tests

use marram_tests::{
    device::Device,
    journal::text,
    manifest::Manifest,
    program::{Answer, Layout, command},
};
use serde_json::Value;

const DEPLOYMENT: &str = include_str!("../../guest-examples/hello-marram/deployment.json");

#[test]
fn the_first_module_says_hello_and_follows_its_twin() {
    let layout = Layout::with(&["hello_marram"]);
    let device = Device::new();
    let host = device.start(&Manifest::new());
    // The file as it is, but for the layout's place.
    let manifest: Value =
        serde_json::from_str(&DEPLOYMENT.replace("oci:layout:hello", &layout.image("hello_marram"))).unwrap();
    let _ = device.apply(&manifest).ok();

    let mut journal = device.journal();
    let first = journal.wait_for_more(1);
    assert_eq!(text(&first[0], "/source"), "/messages/modules/hello/outputs/greetings");
    assert_eq!(text(&first[0], "/body/hello/name"), "world");

    let _ = device.marram(&["twin", "set", "hello", r#"{"name":"harbour"}"#]).ok();
    journal.wait_for("a greeting of the new name", |all| {
        all.last().filter(|last| text(last, "/body/hello/name") == "harbour").map(drop)
    });
    let logs = device.marram(&["logs", "hello"]).ok().out;
    assert!(logs.contains(r#"my twin changed, version 3: {"name":"harbour"}"#), "{logs}");
    host.stop();
}

#[test]
fn the_manifests_of_the_documentation_are_good() {
    for file in ["docs/examples/deployment.json", "guest-examples/hello-marram/deployment.json"] {
        let path = format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"));
        let answer = Answer::of(command().args(["check", &path])).ok();
        assert!(!answer.err.contains("warning"), "{file}: {}", answer.err);
    }
}
