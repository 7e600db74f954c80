//! The operator's way in: who may use it, what it answers, how its commands end.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use marram_tests::{
    device::Device,
    host::Host,
    manifest::{Manifest, Module},
    program::{Answer, Layout, command},
};
use serde_json::{Value, json};

#[test]
fn only_the_owner_can_reach_the_socket_and_the_data() {
    let (_layout, device, host) = sleeper();
    assert_eq!(mode(&device.data().join("marram.sock")), 0o600);
    assert_eq!(mode(&device.data()), 0o700);
    let own = fs::metadata(device.deployment_file()).unwrap().uid();
    assert!(device.files().iter().all(|file| fs::symlink_metadata(file).unwrap().uid() == own));
    host.stop();
}

#[test]
fn a_data_folder_that_others_may_enter_shows_them_nothing() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    fs::create_dir(device.data()).unwrap();
    fs::set_permissions(device.data(), fs::Permissions::from_mode(0o755)).unwrap();
    // The stored deployment has passwords in it.
    let manifest = Manifest::new().module("sleeper", asleep(&layout)).credentials("127.0.0.1:1", "user", "secret");
    let host = device.start(&manifest);
    host.wait_for_status("sleeper", "running");
    let _ = device.marram(&["twin", "set", "sleeper", r#"{"a":1}"#]).ok();
    assert_eq!(mode(&device.data().join("marram.sock")), 0o600);
    let entries: Vec<_> = fs::read_dir(device.data()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(entries.len() >= 5, "deployment, cache, compiled code, journal, lock: {entries:?}");
    for path in entries {
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn a_second_host_on_the_same_data_is_refused_and_the_first_goes_on() {
    let (_layout, device, host) = sleeper();
    let before = host.wait_for_status("sleeper", "running");
    let second = device.marram(&["run"]);
    assert_eq!(second.code, Some(7), "{second:?}");
    assert!(second.err.contains(&device.data().display().to_string()), "names the folder: {}", second.err);
    assert_eq!(host.module("sleeper")["lastStartMs"], before["lastStartMs"]);
    let _ = device.marram(&["list"]).ok();
}

#[test]
fn the_lock_and_the_socket_of_a_killed_host_are_in_nobodys_way() {
    let (_layout, device, host) = sleeper();
    host.wait_for_status("sleeper", "running");
    host.kill();
    assert!(device.data().join("marram.sock").exists(), "nobody removed it");
    let answer = device.marram(&["list"]);
    assert_eq!(answer.code, Some(4), "a dead socket is no host: {answer:?}");
    let host = device.start_stored(&[]);
    host.wait_for_status("sleeper", "running");
}

#[test]
fn list_shows_what_runs_and_why_not() {
    let (layout, device, host) = sleeper();
    let manifest =
        Manifest::new().module("sleeper", asleep(&layout)).module("gone", Module::new(&layout.image("no-such-tag")));
    let _ = device.apply(&manifest.to_json()).ok();
    host.wait_for_status("gone", "backoff");
    host.wait_for_status("sleeper", "running");

    let list = device.marram(&["list", "--format", "json"]).ok().json();
    let modules = list["modules"].as_array().unwrap();
    let names: Vec<&str> = modules.iter().map(|module| module["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["gone", "sleeper"]);
    for field in ["status", "description", "desiredStatus", "image", "restartCount", "memoryBytes", "memoryLimit"] {
        assert!(modules.iter().all(|module| !module[field].is_null()), "{field} is missing in {list}");
    }
    assert!(modules[1]["digest"].as_str().unwrap().starts_with("sha256:"), "{list}");

    let text = device.marram(&["list"]).ok().out;
    for word in ["gone", "backoff", "sleeper", "running", "no-such-tag"] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    assert!(!text.contains('\u{1b}'), "no colours for a pipe: {text:?}");
}

#[test]
fn restart_replaces_the_instance_at_once() {
    let (_layout, device, host) = sleeper();
    let before = host.wait_for_status("sleeper", "running");
    let _ = device.marram(&["restart", "sleeper"]).ok();
    let after = host.wait_for_module("sleeper", "to be replaced", |now| {
        now["status"] == "running" && now["lastStartMs"] != before["lastStartMs"]
    });
    assert_eq!((&after["exitCode"], &after["restartCount"]), (&json!(143), &json!(1)), "{after}");
    let pause = after["lastStartMs"].as_u64().unwrap() - after["lastExitMs"].as_u64().unwrap();
    assert!(pause < 9_000, "an operator does not wait for a back-off: {pause} ms");
}

#[test]
fn commands_say_what_is_missing_by_their_exit_code() {
    let device = Device::new();
    for args in [&["list"][..], &["logs", "a"], &["restart", "a"], &["twin", "get", "a"], &["twin", "set", "a", "{}"]] {
        let answer = device.marram(args);
        assert_eq!(answer.code, Some(4), "no host answers: {args:?} {answer:?}");
        assert!(answer.err.starts_with("error: ") && answer.err.contains("marram run"), "{}", answer.err);
    }
    assert!(!device.data().exists(), "asking makes nothing");

    let (_layout, device, _host) = sleeper();
    for args in
        [&["logs", "nobody"][..], &["restart", "nobody"], &["twin", "get", "nobody"], &["twin", "set", "nobody", "{}"]]
    {
        let answer = device.marram(args);
        assert_eq!(answer.code, Some(5), "no such module: {args:?} {answer:?}");
        assert!(answer.err.contains("nobody") && answer.err.contains("marram list"), "{}", answer.err);
    }
    let answer = device.marram(&["logs", "nobody", "--format", "json"]);
    assert_eq!(answer.code, Some(5));
    assert_eq!(answer.json()["error"]["code"], "unknown-module", "{answer:?}");

    assert_eq!(Answer::of(command().arg("dance")).code, Some(2));
    let version = Answer::of(command().args(["version", "--format", "json"])).ok().json();
    assert_eq!(version["version"], host_version(&device), "{version}");
}

#[test]
fn log_lines_are_objects_where_they_are_asked_for_and_plain_otherwise() {
    let (_layout, device, host) = sleeper();
    host.wait_for_status("sleeper", "running");
    host.stop();
    let log = host.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    assert!(lines.len() >= 5, "{log}");
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        assert!(line["message"].is_string(), "{line}");
    }
    let running = lines.iter().find(|line| line["message"] == "running").expect("a line about the start");
    assert_eq!(running["module"], "sleeper", "{running}");

    let host = device.start_with(&Manifest::new(), &[]);
    host.stop();
    let log = host.log();
    assert!(!log.contains('\u{1b}'), "no colours in a file: {log:?}");
    assert!(log.contains("INFO"), "{log}");
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn asleep(layout: &Layout) -> Module {
    Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000")
}

/// A host with one program that runs for an hour.
fn sleeper() -> (Layout, Device, Host) {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start(&Manifest::new().module("sleeper", asleep(&layout)));
    (layout, device, host)
}

fn host_version(device: &Device) -> Value {
    device.marram(&["list", "--format", "json"]).ok().json()["version"].clone()
}
