//! Unmodified WASI programs: their output is the module's log, their exit code decides about a restart.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::io::{BufRead, BufReader};

use marram_tests::{
    device::Device,
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::{Value, json};

#[test]
fn what_a_program_prints_is_its_log() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let program = Module::new(&layout.image("plain_program")).policy("never");
    let program = program.args(&["--room", "cellar 1"]).env("COLOUR", "grün").env("RUN_MS", "50");
    let host = device.start(&Manifest::new().module("program", program));
    host.wait_for_status("program", "stopped");

    let answer = device.marram(&["logs", "program", "--format", "json"]).ok().json();
    let lines: Vec<(&str, &str)> = lines(&answer);
    let (first, last) = (lines.first().unwrap(), lines.last().unwrap());
    assert_eq!(*first, ("out", r#"plain-program: args ["--room", "cellar 1"]"#));
    assert_eq!(*last, ("err", "plain-program: ran 50 ms, exits with 0"));
    // Nothing of the host's own environment: that may hold secrets.
    let env: Vec<&str> = lines.iter().filter_map(|line| line.1.strip_prefix("plain-program: env ")).collect();
    assert_eq!(env, ["COLOUR=grün", "RUN_MS=50"]);
    let times = answer.as_array().unwrap().iter().map(|line| line["timeMs"].as_u64());
    assert!(times.is_sorted(), "{answer}");

    let answer = device.marram(&["logs", "program", "--tail", "1", "--format", "json"]).ok().json();
    assert_eq!(texts(&answer), [last.1]);
    let text = device.marram(&["logs", "program", "--tail", "2"]).ok().out;
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("exits with 0"), "{text}");
}

#[test]
fn a_followed_log_shows_lines_as_they_come_and_ends_with_the_host() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let program = Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000");
    let host = device.start(&Manifest::new().module("program", program));
    host.wait("the program to print", |host| (host.logs("program").len() == 2).then_some(()));
    let mut follower = device.spawn(&["logs", "program", "-f", "--tail", "1", "--format", "json"]);
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let first = lines.next().unwrap();
    assert_eq!((&first["n"], &first["text"]), (&json!(2), &json!("plain-program: env RUN_MS=3600000")));

    let since = first["timeMs"].as_u64().unwrap() + 1;
    let _ = device.marram(&["restart", "program"]).ok();
    let mut seen = vec![first];
    while seen.last().unwrap()["text"] != "plain-program: args []" {
        seen.push(lines.next().expect("a later line"));
    }
    host.stop();
    seen.extend(lines);
    assert_eq!(follower.wait().unwrap().code(), Some(0), "the host's end is no error");
    let numbers = seen.iter().map(|line| line["n"].as_u64().unwrap());
    assert!(numbers.zip(2..).all(|(n, expected)| n == expected), "each line once: {seen:?}");
    assert!(seen[1..].iter().all(|line| line["timeMs"].as_u64().unwrap() >= since), "{seen:?}");
}

#[test]
fn the_restart_policy_decides_what_follows_an_exit() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let module = |policy, code| Module::new(&layout.image("plain_program")).policy(policy).env("EXIT_CODE", code);
    let manifest = Manifest::new()
        .module("done", module("on-failure", "0"))
        .module("healthy", module("on-unhealthy", "0"))
        .module("failing", module("on-failure", "3"))
        .module("once", module("never", "3"))
        .module("always", module("always", "0"));
    let host = device.start(&manifest);
    let failing = host.wait_for_status("failing", "backoff");
    // WASI 0.2 knows success and failure only: every code but 0 is 1. What the program says is in its log.
    assert_eq!(failing["exitCode"], 1);
    assert!(host.logs("failing").iter().any(|line| line.ends_with("exits with 3")));
    let description = failing["description"].as_str().unwrap();
    assert!(description.starts_with("exit 1: ") && description.contains("restarts in"), "{description}");
    let always = host.wait_for_status("always", "backoff");
    assert_eq!(always["exitCode"], 0);
    assert_eq!(host.wait_for_status("once", "failed")["exitCode"], 1);

    // Never without a wait: 10 s, then 20 s.
    for (module, first) in [("failing", failing), ("always", always)] {
        assert_eq!(first["restartCount"], 0, "{first}");
        let again = host.wait_for_module(module, "to be restarted", |now| now["restartCount"] == 1);
        let wait = again["lastStartMs"].as_u64().unwrap() - first["lastExitMs"].as_u64().unwrap();
        assert!((9_900..20_000).contains(&wait), "{module} waited {wait} ms");
    }
    // The others had as much time.
    for (module, status) in [("done", "stopped"), ("healthy", "stopped"), ("once", "failed")] {
        let now = host.module(module);
        assert_eq!((&now["status"], &now["restartCount"]), (&json!(status), &json!(0)), "{now}");
    }
    assert_eq!(host.logs("done").iter().filter(|line| line.contains("exits with")).count(), 1);
}

#[test]
fn a_module_that_is_desired_stopped_does_not_run_until_it_is_wanted() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let module = |status| Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000").status(status);
    let manifest = |status| Manifest::new().module("asleep", module(status)).module("other", module("running"));
    let host = device.start(&manifest("stopped"));
    host.wait_for_status("other", "running");
    let asleep = host.module("asleep");
    assert_eq!((&asleep["status"], &asleep["lastStartMs"]), (&json!("stopped"), &Value::Null), "{asleep}");
    let refused = device.marram(&["restart", "asleep"]);
    assert_eq!(refused.code, Some(6), "{refused:?}");

    let _ = device.apply(&manifest("running").to_json()).ok();
    host.wait_for_status("asleep", "running");
    let _ = device.apply(&manifest("stopped").to_json()).ok();
    let stopped = host.wait_for_status("asleep", "stopped");
    assert_eq!(stopped["exitCode"], 143, "{stopped}");
}

fn lines(answer: &Value) -> Vec<(&str, &str)> {
    let lines = answer.as_array().unwrap().iter();
    lines.map(|line| (line["stream"].as_str().unwrap(), line["text"].as_str().unwrap())).collect()
}

fn texts(answer: &Value) -> Vec<&str> {
    lines(answer).into_iter().map(|(_, text)| text).collect()
}
