//! The owner's ceiling on what all modules may take together is kept when a manifest is accepted.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{ffi::OsStr, fs};

use marram_tests::{
    device::Device,
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::Value;

const MIB: u64 = 1 << 20;

#[test]
fn a_deployment_above_the_ceiling_is_refused_and_one_that_was_accepted_below_a_higher_one_goes_on() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let module = |memory| Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000").limit("memory", memory);
    let two = Manifest::new().module("a", module("8MiB")).module("b", module("16MiB"));
    let three = two.clone().module("c", module("8MiB"));
    device.configure(&format!("[modules]\nmax-memory-bytes = {}\n", 24 * MIB));
    let host = device.start(&two);
    host.wait_for_status("b", "running");
    let answer = device.apply(&three.to_json());
    assert_eq!(answer.code, Some(3), "{answer:?}");
    let expected = "make 32MiB together, and this device allows 24MiB; the largest: `b` 16MiB, `a` 8MiB, `c` 8MiB";
    assert!(answer.err.contains(expected), "{}", answer.err);
    assert!(host.module("c").is_null(), "it changed nothing");

    let file = device.data().join("three.json");
    fs::write(&file, three.to_json().to_string()).unwrap();
    let check = device.check(&[file.as_os_str(), OsStr::new("--format"), OsStr::new("json")]);
    assert_eq!(check.code, Some(3), "{check:?}");
    assert!(check.out.contains("make 32MiB together"), "as a host would say: {}", check.out);
    host.stop();

    device.configure(&format!("[modules]\nmax-memory-bytes = {}\n", 9 * MIB));
    let host = device.start(&two);
    host.wait_for_status("b", "running");
    assert!(host.log().contains("would not be accepted any more"), "it is told: {}", host.log());
    host.stop();
}

#[test]
fn an_update_that_does_not_fit_beside_its_old_version_takes_its_place_and_one_that_does_starts_beside_it() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let both = |value: &str| {
        let module = |memory| {
            let module = Module::new(&layout.image("plain_program")).limit("memory", memory);
            module.env("RUN_MS", "3600000").env("VALUE", value)
        };
        Manifest::new().module("large", module("16MiB")).module("small", module("8MiB"))
    };
    device.configure(&format!("[modules]\nmax-memory-bytes = {}\n", 32 * MIB));
    let host = device.start(&both("first"));
    host.wait_for_status("large", "running");
    host.wait_for_status("small", "running");
    let _ = device.apply(&both("second").to_json()).ok();
    for name in ["large", "small"] {
        host.wait(&format!("the new version of {name}"), |host| {
            let is_new = host.logs(name).iter().any(|line| line == "plain-program: env VALUE=second");
            (is_new && host.module(name)["status"] == "running").then_some(())
        });
    }
    let log = host.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let beside: Vec<Value> = lines.filter(|line| line["message"] == "starting its update beside it").collect();
    assert_eq!(beside.iter().map(|line| &line["module"]).collect::<Vec<_>>(), ["small"]);
    host.stop();
}
