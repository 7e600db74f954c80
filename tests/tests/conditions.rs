//! Conditions of routes in a running host, on messages of real guests; and `marram route` on the same deployment.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use marram_tests::{
    device::Device,
    journal::{flood_numbers, text},
    manifest::{Manifest, Module},
    program::{Answer, Layout, command},
};
use serde_json::{Value, json};

#[test]
fn only_messages_whose_condition_is_true_are_delivered() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    let manifest = Manifest::new()
        .module("bad", Module::new(&layout.image("misbehaving")))
        .route("up", "FROM /messages/modules/bad/* WHERE as_number(n) > 150 AND $outputName = 'flood' INTO $upstream")
        .route("never", "FROM /messages/* WHERE as_number(missing) > 0 OR $connectionModuleId = 'other' INTO $upstream")
        .twin("bad", json!({ "command": { "do": "flood", "count": 200, "bytes": 64 } }));
    let host = device.start(&manifest);
    let flood = host.wait_for_reported("bad", "flood", |_| true);
    assert_eq!(flood["accepted"], 200, "no condition is true: accepted all the same: {flood}");
    let entries = device.journal().wait_for("50 messages upstream", |all| (all.len() >= 50).then(|| all.to_vec()));
    assert_eq!(flood_numbers(&entries), (151..=200).collect::<Vec<_>>(), "in order, no other one");
    assert_eq!(host.status()["noRoute"], 150, "the others are counted: {}", host.status());
    host.stop();
}

#[test]
fn conditions_look_into_the_bodies_of_real_readings() {
    let (layout, device) = (Layout::with(&["device_telemetry"]), Device::new());
    let telemetry = Module::new(&layout.image("device_telemetry")).reads_proc();
    let manifest = Manifest::new()
        .module("telemetry", telemetry)
        .route(
            "up",
            "FROM /* WHERE $body.memTotalKiB > 0 AND sensor = 'proc' AND is_number($body.load1) INTO $upstream",
        )
        .route("none", "FROM /* WHERE $body.memTotalKiB < 0 OR $body.no.such.path[3] != null INTO $upstream")
        .twin("telemetry", json!({ "intervalMs": 20 }));
    let host = device.start(&manifest);
    for entry in device.journal().wait_for_more(3) {
        assert!(entry["body"]["memTotalKiB"].as_f64().unwrap() > 0.0, "{entry}");
        assert_eq!(text(&entry, "/source"), "/messages/modules/telemetry/outputs/readings", "{entry}");
    }
    let refused = manifest_with("FROM /* WHERE $body.memTotalKiB > sensor AND 5 INTO $upstream");
    let answer = device.apply(&refused.to_json());
    assert_eq!(answer.code, Some(3), "{answer:?}");
    assert!(answer.err.contains("column 42: `AND` needs true or false"), "{}", answer.err);
    let _ = device.journal().wait_for_more(1);
    host.stop();
}

#[test]
fn explain_tells_why_a_message_does_not_arrive() {
    let device = Device::new();
    device.write_deployment(&manifest_with("FROM /messages/* WHERE as_number(temp) > 20 INTO $upstream"));
    let deployment = device.deployment_file().display().to_string();
    let explain = |message: &str| {
        let mut explain = command();
        explain.args(["route", "explain", "--deployment", &deployment, "--source", "/messages/modules/m/outputs/o"]);
        fed(explain.args(["--message", "-"]), message).ok().out
    };
    let undefined = explain(r#"{"properties":{"Temperature":"21"}}"#);
    assert!(undefined.starts_with("up: no: the condition is undefined\n"), "{undefined}");
    assert!(undefined.contains("temp -> undefined  -- the message has no property `temp`\n"), "{undefined}");
    assert!(undefined.ends_with("no route takes this message: it is accepted, dropped and counted\n"), "{undefined}");
    let taken = explain(r#"{"properties":{"TEMP":"21"}}"#);
    assert!(taken.starts_with("up: yes\n") && taken.contains("as_number(temp) -> 21\n"), "{taken}");
    let infinite = explain(r#"{"properties":{"temp":"-1e999"}}"#);
    assert!(infinite.contains("as_number(temp) -> -1 / 0\n"), "{infinite}");
}

#[test]
fn explain_knows_of_the_sender_what_the_host_knows() {
    let device = Device::new();
    let condition = "$connectionModuleId = 'm' AND $outputName = 'o' AND $edgeHubOriginInterface = 'internal'";
    let route = format!("FROM /messages/* WHERE {condition} AND is_defined($connectionDeviceId) INTO $upstream");
    device.write_deployment(&manifest_with(&route));
    let deployment = device.deployment_file().display().to_string();
    let explain = |source: &str, message: &str| {
        let mut explain = command();
        explain.args(["route", "explain", "--deployment", &deployment, "--source", source, "--message", "-"]);
        fed(&mut explain, message).ok().out
    };
    let taken = explain("/messages/modules/m/outputs/o", "{}");
    assert!(taken.starts_with("up: yes\n"), "{taken}");
    let other = explain("/messages/modules/n/outputs/o", "{}");
    assert!(other.contains("$connectionModuleId -> 'n'\n") && other.starts_with("up: no"), "{other}");
    let told = explain("/messages/modules/n/outputs/o", r#"{"systemProperties":{"connectionmoduleid":"m"}}"#);
    assert!(told.starts_with("up: yes\n"), "what the message says goes before: {told}");
    let foreign = explain("/messages", "{}");
    assert!(foreign.contains("$outputName -> undefined"), "{foreign}");
}

#[test]
fn explain_tells_of_each_route_whether_it_takes_the_message_or_another_one_decides() {
    let device = Device::new();
    let manifest = Manifest::new()
        .route("all", "FROM /messages/* INTO $upstream")
        .route_object(
            "urgent",
            json!({ "route": "FROM /messages/* WHERE kind = 'alert' INTO $upstream", "priority": 1 }),
        )
        .route("x", r#"FROM /messages/modules/m/* INTO BrokeredEndpoint("/modules/m/inputs/x")"#)
        .route("other", "FROM /messages/modules/n/* WHERE kind = 'alert' INTO $upstream");
    device.write_deployment(&manifest);
    let deployment = device.deployment_file().display().to_string();
    let explain = |message: Option<&str>, format: &str| {
        let mut explain = command();
        explain.args(["route", "explain", "--deployment", &deployment, "--source", "/messages/modules/m/outputs/o"]);
        explain.args(["--format", format]);
        if message.is_some() {
            explain.args(["--message", "-"]);
        }
        fed(&mut explain, message.unwrap_or_default()).ok().out
    };
    let verdicts =
        |text: &str| -> Vec<String> { text.lines().filter(|line| !line.starts_with(' ')).map(str::to_owned).collect() };
    let alert = r#"{"properties":{"kind":"alert"}}"#;
    let other = "other: no: the source does not match";
    assert_eq!(
        verdicts(&explain(Some(alert), "text")),
        ["all: yes, but `urgent` leads to the same sink and decides", other, "urgent: yes", "x: yes"]
    );
    assert_eq!(
        verdicts(&explain(Some("{}"), "text")),
        ["all: yes", other, "urgent: no: the condition is undefined", "x: yes"]
    );
    let unknown = "urgent: depends on the message: give one with --message";
    assert_eq!(verdicts(&explain(None, "text")), ["all: yes", other, unknown, "x: yes"]);

    let routes = |message: Option<&str>| {
        let answer: Value = serde_json::from_str(&explain(message, "json")).unwrap();
        answer["routes"].as_array().unwrap().clone()
    };
    let told = routes(Some(alert));
    let parts = |key: &str| told.iter().map(|route| route[key].clone()).collect::<Vec<_>>();
    assert_eq!(parts("name"), ["all", "other", "urgent", "x"]);
    assert_eq!(parts("sourceMatches"), [true, false, true, true]);
    assert_eq!(parts("delivers"), [false, false, true, true]);
    assert_eq!(parts("insteadDelivers"), [json!("urgent"), Value::Null, Value::Null, Value::Null]);
    assert_eq!(parts("result"), [Value::Null, Value::Null, json!("true"), Value::Null]);
    assert_eq!(parts("condition"), [Value::Null, json!("kind = 'alert'"), json!("kind = 'alert'"), Value::Null]);
    assert_eq!(
        (&told[2]["sink"], &told[3]["sink"]),
        (&json!("$upstream"), &json!(r#"BrokeredEndpoint("/modules/m/inputs/x")"#))
    );
    let property = json!({ "depth": 1, "text": "kind", "value": "'alert'", "why": null });
    assert_eq!((&told[2]["steps"][0]["value"], &told[2]["steps"][1]), (&json!("true"), &property), "{}", told[2]);
    assert_eq!(routes(None)[2]["delivers"], Value::Null, "it depends");
}

#[test]
fn eval_answers_each_line_with_one_in_their_order() {
    let line = |n: usize| match n % 4 {
        0 => format!(r#"{{"condition":"as_number(n) < 7","message":{{"properties":{{"n":"{}"}}}}}}"#, n % 9),
        1 => format!(r#"{{"route":"FROM /messages/modules/m{n} INTO $upstream"}}"#),
        2 => r#"{"pattern":"/messages/*","source":"/twinChangeNotifications"}"#.into(),
        _ => format!("{{\"condition\":\"{}(\"}}", " ".repeat(n % 5)),
    };
    let expected = |n: usize| match n % 4 {
        0 => json!({ "result": if n % 9 < 7 { "true" } else { "false" } }),
        1 => {
            json!({ "source": format!("/messages/modules/m{n}"), "condition": "true", "sink": "$upstream", "endpoint": "iothub" })
        }
        2 => json!({ "match": false }),
        _ => json!(n % 5 + 2), // the column of the error
    };
    const LINES: usize = 10_000;
    // Empty lines are passed over, and the last one need not end.
    let input: Vec<String> = (0..LINES).map(|n| line(n) + if n % 3 == 0 { "\n \n" } else { "\n" }).collect();
    let answer = fed(command().args(["route", "eval"]), input.concat().trim_end()).ok().out;
    let mut count = 0;
    for (n, line) in answer.lines().enumerate() {
        let answer: Value = serde_json::from_str(line).unwrap();
        let answer = answer["error"].get("column").cloned().unwrap_or(answer);
        assert_eq!(answer, expected(n), "line {n}: {line}");
        count += 1;
    }
    assert_eq!(count, LINES);

    let long = format!("{{}}\n{}\n", "x".repeat(3 << 20));
    let refused = fed(command().args(["route", "eval"]), &long);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("line 2 of standard input: it is longer than 2097152 bytes"), "{}", refused.err);
}

#[test]
fn eval_answers_before_it_is_asked_again() {
    let mut child = command().args(["route", "eval"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut asks, mut answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for (line, expected) in [(r#"{"condition":"1 < 2"}"#, r#"{"result":"true"}"#), ("x", r#"{"error":"#)] {
        writeln!(asks, "{line}").unwrap();
        let mut answer = String::new();
        let _ = answers.read_line(&mut answer).unwrap();
        assert!(answer.starts_with(expected), "{answer}");
    }
    drop(asks);
    assert!(child.wait().unwrap().success());
}

fn manifest_with(route: &str) -> Manifest {
    Manifest::new().route("up", route)
}

fn fed(command: &mut std::process::Command, input: &str) -> Answer {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(input.as_bytes()).unwrap();
    Answer::of(command.stdin(Stdio::from(std::fs::File::open(file.path()).unwrap())))
}
