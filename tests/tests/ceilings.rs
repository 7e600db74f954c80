//! The owner's ceiling on what all modules may take together is kept when a manifest is accepted.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{ffi::OsStr, fs};

use marram_tests::{
    device::Device,
    manifest::{Manifest, Module},
    program::Layout,
};

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
