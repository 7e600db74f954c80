//! Facts about the documentation: its examples are read here, and its numbers are the code's. Runs no host.

use std::time::Duration;

use marram_core::{
    deployment::{DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY, DEFAULT_SEND_TIMEOUT, Sandbox},
    manifest::{Context, HANDLER_BOUNDS, MAX_MANIFEST_BYTES, MEMORY_BOUNDS, Reading, read},
    message::MAX_MESSAGE_BYTES,
    name::MAX_NAME_BYTES,
    planner::{FIRST_BACKOFF, HEALTHY_AFTER, MAX_BACKOFF},
    queue::{FIRST_RETRY, ITEM_OVERHEAD, MAX_RETRY, MAX_RETRY_AFTER},
    route::{MAX_CONDITION_BYTES, MAX_NESTING},
    timers::{MAX_INTERVAL, MAX_TIMER_NAME, MAX_TIMERS},
};

const README: &str = include_str!("../../../README.md");
const MANIFEST: &str = include_str!("../../../docs/manifest.md");
const MODULES: &str = include_str!("../../../docs/modules.md");
const ROUTES: &str = include_str!("../../../docs/routes.md");
const DELIVERY: &str = include_str!("../../../docs/delivery.md");
const EXAMPLE: &str = include_str!("../../../docs/examples/deployment.json");
const DEMO: &str = include_str!("../../../guest-examples/demo/deployment.json");
const HELLO_MANIFEST: &str = include_str!("../../../guest-examples/hello-marram/deployment.json");
const HELLO_CARGO: &str = include_str!("../../../guest-examples/hello-marram/Cargo.toml");
const HELLO_SOURCE: &str = include_str!("../../../guest-examples/hello-marram/src/lib.rs");

#[track_caller]
fn read_well(text: &str) -> Reading {
    let reading = read(text, &Context::new(&|_| Ok(()))).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(reading.warnings, []);
    reading
}

#[test]
fn the_example_manifest_is_read_without_a_warning_or_a_note() {
    let reading = read_well(EXAMPLE);
    assert_eq!(reading.notes, []);
    assert_eq!((reading.deployment.modules.len(), reading.deployment.routes.len()), (3, 3));
}

#[test]
fn the_manifests_to_copy_are_read_without_a_warning() {
    read_well(DEMO);
    read_well(HELLO_MANIFEST);
}

#[test]
fn the_manifest_reference_shows_the_example_as_it_is() {
    assert!(MANIFEST.contains(EXAMPLE.trim_end()), "docs/manifest.md differs from docs/examples/deployment.json");
}

#[test]
fn the_first_module_of_the_readme_is_the_one_that_is_built() {
    // Its deployment.json is what `marram init` writes, and is tested there.
    for (name, text) in [("Cargo.toml", HELLO_CARGO), ("src/lib.rs", HELLO_SOURCE)] {
        assert!(README.contains(text.trim_end()), "README.md differs from guest-examples/hello-marram/{name}");
    }
}

/// Every route in a fence marked `route` reads; every one marked `refused` does not.
#[test]
fn the_routes_of_the_documentation_read_as_it_says() {
    let (mut good, mut refused) = (0, 0);
    for (kind, body) in fences(ROUTES) {
        for line in body.lines().filter(|line| !line.trim().is_empty()) {
            let read = marram_core::route::Route::parse(line);
            match kind {
                "route" => good += read.map(|_| 1).unwrap_or_else(|error| panic!("{line}: {error}")),
                "refused" => refused += read.map_err(|_| 1).expect_err(line),
                _ => {}
            }
        }
    }
    assert_eq!((good, refused), (10, 7));
}

fn fences(text: &str) -> Vec<(&str, &str)> {
    text.split("\n```").skip(1).step_by(2).filter_map(|fence| fence.split_once('\n')).collect()
}

#[test]
fn the_numbers_of_the_documentation_are_those_of_the_code() {
    let sandbox = Sandbox::default();
    assert_eq!(sandbox.memory_bytes, 64 << 20);
    assert_eq!((sandbox.handler_time.as_secs(), sandbox.handler_wall.as_secs()), (5, 60));
    assert_eq!((*MEMORY_BOUNDS.start(), *MEMORY_BOUNDS.end()), (64 << 10, 4 << 30));
    assert_eq!((HANDLER_BOUNDS.start().as_millis(), HANDLER_BOUNDS.end().as_secs()), (1, 3600));
    check(MANIFEST, &["64 KiB to 4 GiB", "`64MiB`", "1 ms to 1 h", "`5s`", "`60s`"]);

    assert_eq!(MAX_MANIFEST_BYTES, 2 << 20);
    assert_eq!((DEFAULT_SEND_TIMEOUT.as_secs(), DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY), (1, 20, 10));
    check(MANIFEST, &["At most 2 MiB", "`1s`", "`20`"]);

    assert_eq!((FIRST_RETRY.as_secs(), MAX_RETRY.as_secs(), MAX_RETRY_AFTER.as_secs()), (1, 60, 86_400));
    assert_eq!((ITEM_OVERHEAD, MAX_MESSAGE_BYTES, MAX_NAME_BYTES), (128, 256 << 10, 128));
    check(DELIVERY, &["1, 2, 4, 8, 16, 32 and then 60 s", "a day", "128 bytes", "262,144 bytes"]);

    assert_eq!((MAX_CONDITION_BYTES, MAX_NESTING), (32_768, 256));
    check(ROUTES, &["32,768 bytes", "256 levels"]);

    assert_eq!((FIRST_BACKOFF.as_secs(), MAX_BACKOFF.as_secs(), HEALTHY_AFTER.as_secs()), (10, 300, 600));
    assert_eq!((MAX_TIMERS, MAX_TIMER_NAME, MAX_INTERVAL), (64, 64, Duration::from_secs(31 * 86_400)));
    check(MODULES, &["10 s, doubling to 300 s", "10 minutes", "64 timers", "31 days", "128 bytes"]);
}

#[track_caller]
fn check(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "the documentation does not say {part:?}");
    }
}
