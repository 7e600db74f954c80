//! Many modules on one host: all run, pass messages on, come back, and end in time. A hundred in each run of the tests; a
//! thousand with `cargo xtask soak scale`.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use marram_tests::{
    device::Device,
    figure::figure,
    host::Host,
    journal::{sequences, text},
    manifest::{Manifest, Module},
    memory::Memory,
    program::Layout,
};
use serde_json::{Value, json};

#[test]
fn a_hundred_modules_in_a_chain_run_come_back_and_end_in_time() {
    chain(100);
}

#[test]
fn a_hundred_modules_take_the_same_message() {
    star(100);
}

#[test]
#[ignore = "takes long: `cargo xtask soak scale`"]
fn at_scale_a_thousand_modules_in_a_chain_run_come_back_and_end_in_time() {
    chain(1000);
}

#[test]
#[ignore = "takes long: `cargo xtask soak scale`"]
fn at_scale_a_thousand_modules_take_the_same_message() {
    star(1000);
}

/// Time for the modules to end. Idle ones end at once: what is under way through the chain is what takes time.
const GRACE: &str = "30";

/// telemetry → m0000 → m0001 → … → upstream, and telemetry → upstream beside it. Each reading passes all modules.
fn chain(count: usize) {
    let (layout, device) = (Layout::with(&["device_telemetry", "forwarder"]), Device::new());
    let mut manifest = source(&layout).upstream("telemetry").upstream(&name(count - 1));
    for index in 0..count {
        let from = if index == 0 { "telemetry".to_owned() } else { name(index - 1) };
        manifest = link(manifest, &layout, &from, index);
    }
    let label = format!("chain.{count}");
    let first = run(&label, "first", &device, Some(&manifest), count);
    let second = run(&label, "again", &device, None, count);
    for source in ["telemetry".to_owned(), name(count - 1)] {
        let (first, second) = (sequences(&first[&source]), sequences(&second[&source]));
        assert!(first.last() < second.first(), "{source}: the second run counts on above the first");
    }
    for entries in [first, second] {
        // What telemetry sent went both ways, or neither; and in its order.
        assert_eq!(ids(&entries["telemetry"]), ids(&entries[&name(count - 1)]));
    }
}

/// telemetry → each of them → upstream.
fn star(count: usize) {
    let (layout, device) = (Layout::with(&["device_telemetry", "forwarder"]), Device::new());
    let all = "FROM /messages/* INTO $upstream";
    let manifest = (0..count)
        .fold(source(&layout).route("all", all), |manifest, index| link(manifest, &layout, "telemetry", index));
    let entries = run(&format!("star.{count}"), "first", &device, Some(&manifest), count);
    let sent = ids(&entries["telemetry"]);
    assert_eq!(entries.len(), count + 1, "all of them have passed messages on");
    for (source, entries) in &entries {
        assert_eq!(ids(entries), sent, "{source}");
    }
}

/// A hundred readings a second would only test the disk: a fan-out to a thousand makes a thousand lines of each.
fn source(layout: &Layout) -> Manifest {
    let telemetry = Module::new(&layout.image("device_telemetry")).reads_proc().order(1);
    Manifest::new().module("telemetry", telemetry).twin("telemetry", json!({ "intervalMs": 200 }))
}

fn name(index: usize) -> String {
    format!("m{index:04}")
}

fn link(manifest: Manifest, layout: &Layout, from: &str, index: usize) -> Manifest {
    let name = name(index);
    let route =
        format!(r#"FROM /messages/modules/{from}/outputs/* INTO BrokeredEndpoint("/modules/{name}/inputs/in")"#);
    manifest.module(&name, Module::new(&layout.image("forwarder")).order(0)).route(&format!("to-{name}"), &route)
}

/// Starts the host with the manifest, or with what is stored; sees ten messages through all modules, and ends it. Returns
/// what this run brought upstream, by module.
fn run(
    label: &str,
    what: &str,
    device: &Device,
    manifest: Option<&Manifest>,
    count: usize,
) -> BTreeMap<String, Vec<Value>> {
    let mut journal = device.journal();
    let before = journal.read().len();
    let start = Instant::now();
    let args = ["--log-format", "json", "--grace", GRACE];
    let host = match manifest {
        Some(manifest) => device.start_with(manifest, &args),
        None => device.start_stored(&args[2..]),
    };
    let running = |host: &Host| {
        let status = host.status();
        let modules = status["modules"].as_array().unwrap();
        let bad = modules.iter().find(|module| ["backoff", "failed"].contains(&module["status"].as_str().unwrap()));
        assert!(bad.is_none(), "{bad:?}");
        modules.iter().filter(|module| module["status"] == "running").count()
    };
    host.wait(&format!("{} running modules", count + 1), |host| (running(host) == count + 1).then_some(()));
    figure(&format!("{label}.{what}.up"), start.elapsed().as_secs_f64(), "s");
    journal.wait_for("ten messages through the last module", |all| {
        let source = format!("/messages/modules/{}/outputs/out", name(count - 1));
        (all[before..].iter().filter(|entry| entry["source"] == source.as_str()).count() >= 10).then_some(())
    });
    tell_memory(label, what, &host, count);
    let listed = device.marram(&["list", "--format", "json"]).ok().json();
    assert_eq!(listed["modules"].as_array().unwrap().len(), count + 1);

    let start = Instant::now();
    host.stop();
    let took = start.elapsed();
    figure(&format!("{label}.{what}.stop"), took.as_secs_f64(), "s");
    assert!(took < Duration::from_secs(45), "{took:?}: longer than the grace time and what upstream may take");
    let log = host.log();
    for word in ["were not handled before the stop", "are lost", "did not stop in time", "gave up messages"] {
        assert!(!log.contains(word), "the log says: {word}");
    }
    by_module(&journal.read()[before..])
}

/// Bounds are what such a module may need at most, far above what is measured: they are there to notice a leap.
fn tell_memory(label: &str, what: &str, host: &Host, count: usize) {
    let memory = Memory::of(host.pid());
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    figure(&format!("{label}.{what}.pss"), kib(memory.pss), "KiB");
    figure(&format!("{label}.{what}.page-tables"), kib(memory.page_tables), "KiB");
    figure(&format!("{label}.{what}.mappings"), memory.mappings as f64, "");
    figure(&format!("{label}.{what}.threads"), memory.threads as f64, "");
    figure(&format!("{label}.{what}.files"), memory.files as f64, "");
    let (count, mappings) = (count as u64, memory.mappings as u64);
    assert!(memory.pss < (64 << 20) + count * (256 << 10), "{memory:?}");
    assert!(mappings < 500 + 10 * count, "{memory:?}: the kernel allows 65530");
    assert!(memory.threads < 100, "{memory:?}: threads do not grow with modules");
    assert!(memory.files < 100, "{memory:?}: nor do files");
}

fn by_module(entries: &[Value]) -> BTreeMap<String, Vec<Value>> {
    let mut modules: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in entries {
        let source = text(entry, "/source").split('/').nth(3).unwrap().to_owned();
        modules.entry(source).or_default().push(entry.clone());
    }
    modules
}

fn ids(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| text(entry, "/systemProperties/messageId")).collect()
}
