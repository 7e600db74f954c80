//! Methods of modules and of the host, called with the built binary: whose turn it is, what each answer means.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{fs::File, io::Read, process::Child};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;
use marram_tests::{
    device::Device,
    host::Host,
    manifest::{Manifest, Module},
    program::{Answer, Layout},
};
use serde_json::{Value, json};

fn invoke(device: &Device, module: &str, name: &str, payload: &Value, args: &[&str]) -> Answer {
    device.marram(&words(module, name, &payload.to_string(), args))
}

fn words<'a>(module: &'a str, name: &'a str, payload: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&["method", "invoke", module, name, payload, "--format", "json"], args].concat()
}

/// The status and the payload of an answer, whatever the exit code.
fn answered(answer: &Answer) -> (i64, Value) {
    let json: Value = serde_json::from_str(&answer.out).unwrap_or_else(|_| panic!("{answer:?}"));
    let status = json["status"].as_i64().unwrap_or_else(|| panic!("{answer:?}"));
    (status, json["payload"].clone())
}

/// What the answer to a call of the method `do` of a misbehaving module says.
fn told(device: &Device, module: &str, command: &Value) -> Value {
    let (status, payload) = answered(&invoke(device, module, "do", command, &[]).ok());
    assert_eq!(status, 200, "{payload}");
    payload
}

/// A call that goes on while the test does.
struct Calling(Child);

impl Calling {
    fn begin(device: &Device, module: &str, name: &str, payload: &Value, args: &[&str]) -> Self {
        Self(device.spawn(&words(module, name, &payload.to_string(), args)))
    }

    fn end(mut self) -> (Option<i32>, Value) {
        let mut out = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        (self.0.wait().unwrap().code(), serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}")))
    }
}

/// Waits until so many calls wait for a module.
fn wait_for_waiting(device: &Device, host: &Host, module: &str, calls: u64) {
    let line = |line: &&str| line.starts_with("marram_methods_waiting") && line.contains(&format!("\"{module}\""));
    host.wait(&format!("{calls} calls to wait for {module}"), |_| {
        let page = device.marram(&["metrics"]).ok().out;
        page.lines().find(line).is_some_and(|line| line.ends_with(&format!(" {calls}"))).then_some(())
    });
}

fn misbehaving(layout: &Layout) -> Module {
    Module::new(&layout.image("misbehaving"))
}

#[test]
fn a_method_is_called_by_its_name_and_answers_with_status_and_payload() {
    let (layout, device) = (Layout::with(&["valve"]), Device::new());
    let host = device.start(&Manifest::new().module("valve", Module::new(&layout.image("valve"))));
    host.wait_for_status("valve", "running");
    let opened = invoke(&device, "valve", "open", &json!({ "percent": 40 }), &[]).ok();
    assert_eq!(answered(&opened), (200, json!({ "percent": 40 })));
    assert_eq!(host.twin("valve")["reported"], json!({ "percent": 40 }));
    let text = device.marram(&["method", "invoke", "valve", "position"]).ok().out;
    assert_eq!(text, "status 200\n{\n  \"percent\": 40\n}\n");

    let refused = invoke(&device, "valve", "open", &json!({ "percent": "all" }), &[]);
    assert_eq!((refused.code, answered(&refused).0), (Some(8), 400), "{refused:?}");
    let unknown = invoke(&device, "valve", "dance", &Value::Null, &[]);
    assert_eq!((unknown.code, answered(&unknown).0), (Some(8), 501), "{unknown:?}");
    let text = device.marram(&["method", "invoke", "valve", "dance"]);
    assert!(text.out.starts_with("status 501\n") && text.err.contains("`dance` of `valve` answered with status 501"));
    host.stop();
}

#[test]
fn a_call_waits_for_the_handler_that_runs_and_goes_before_the_messages_that_wait() {
    let (layout, device) = (Layout::with(&["misbehaving", "valve"]), Device::new());
    let of = |gate: &str| {
        Manifest::new()
            .module("source", misbehaving(&layout))
            .module("busy", misbehaving(&layout).limit("handlerWall", "300s"))
            .module("gate", Module::new(&layout.image("valve")).status(gate))
            .route("r", r#"FROM /messages/modules/source/* INTO BrokeredEndpoint("/modules/busy/inputs/in")"#)
    };
    let host = device.start(&of("stopped"));
    host.wait_for_status("busy", "running");
    host.wait_for_status("source", "running");
    let send = |body: Value| told(&device, "source", &json!({ "do": "send", "body": body }));
    // Its handler is busy until the gate runs.
    let _ = send(json!({ "do": "invoke", "target": "gate", "name": "position", "connectMs": 300_000 }));
    wait_for_waiting(&device, &host, "gate", 1);
    for bytes in [1, 2, 3] {
        let _ = send(json!({ "do": "log", "lines": 1, "bytes": bytes }));
    }
    let called =
        Calling::begin(&device, "busy", "do", &json!({ "do": "log", "lines": 1, "bytes": 7 }), &["--timeout", "300"]);
    wait_for_waiting(&device, &host, "busy", 1);
    assert_eq!(host.queue("busy/in")["length"], 4);

    let _ = device.apply(&of("running").to_json()).ok();
    assert_eq!(called.end().0, Some(0));
    let lines = host.wait("all lines", |host| Some(host.logs("busy")).filter(|lines| lines.len() == 5));
    let invoked = json!({ "invoke": { "status": 200, "payload": { "percent": 0 } } }).to_string();
    assert_eq!(lines, [&invoked, "xxxxxxx", "x", "xx", "xxx"]);
    host.stop();
}

#[test]
fn each_way_in_which_nobody_answers_has_its_word_and_its_exit_code() {
    let (layout, device) = (Layout::with(&["misbehaving", "plain_program"]), Device::new());
    let of = |late: &str| {
        Manifest::new()
            .module("m", misbehaving(&layout))
            .module("late", misbehaving(&layout).status(late))
            .module("program", Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000"))
    };
    let host = device.start(&of("stopped"));
    host.wait_for_status("m", "running");
    host.wait_for_status("program", "running");
    let failed = |answer: &Answer, code: i32, word: &str| {
        assert_eq!((answer.code, &answer.json()["error"]["code"]), (Some(code), &json!(word)), "{answer:?}");
    };
    failed(&invoke(&device, "nobody", "echo", &Value::Null, &[]), 5, "unknown-module");
    failed(&invoke(&device, "late", "echo", &Value::Null, &[]), 6, "not-running");
    failed(&invoke(&device, "late", "echo", &Value::Null, &["--connect-timeout", "1"]), 6, "not-running");
    failed(&invoke(&device, "m", &"n".repeat(101), &Value::Null, &[]), 1, "bad-request");
    failed(&invoke(&device, "m", " ", &Value::Null, &[]), 1, "bad-request");
    for args in [["--timeout", "4"], ["--timeout", "301"], ["--connect-timeout", "301"]] {
        assert_eq!(invoke(&device, "m", "echo", &Value::Null, &args).code, Some(2), "{args:?}");
    }
    assert_eq!(device.marram(&["method", "invoke", "m", "echo", "{"]).code, Some(2));

    // One that answers later than its caller waits, and what it is then.
    failed(&invoke(&device, "m", "do", &json!({ "do": "sleep", "ms": 8000 }), &["--timeout", "5"]), 8, "timeout");
    let late = Calling::begin(&device, "late", "echo", &json!([7]), &["--connect-timeout", "300"]);
    wait_for_waiting(&device, &host, "late", 1);
    let _ = device.apply(&of("running").to_json()).ok();
    assert_eq!(late.end(), (Some(0), json!({ "status": 200, "payload": [7] })));

    let program = invoke(&device, "program", "echo", &Value::Null, &[]);
    assert_eq!((program.code, answered(&program).0), (Some(8), 501), "{program:?}");
    for (payload, why) in [
        (json!({ "status": 200, "payload": "{" }), "not JSON"),
        (json!({ "status": 200, "payload": "1", "times": 131_073 }), "at most 131072"),
    ] {
        let (status, payload) = answered(&invoke(&device, "m", "answer", &payload, &[]));
        assert!(status == 500 && payload["message"].as_str().unwrap().contains(why), "{payload}");
    }
    let odd = invoke(&device, "m", "answer", &json!({ "status": -3, "payload": "" }), &[]).ok();
    assert_eq!(answered(&odd), (-3, Value::Null));

    let trap = invoke(&device, "m", "do", &json!({ "do": "trap" }), &[]);
    let (status, payload) = answered(&trap);
    assert!(
        status == 500 && payload["message"].as_str().unwrap().contains("ended in the middle of the call"),
        "{payload}"
    );
    assert_eq!(host.wait_for_status("m", "backoff")["exitCode"], 134);
    let _ = device.marram(&["restart", "m"]).ok();
    assert_eq!(
        answered(&invoke(&device, "m", "echo", &json!("é"), &["--connect-timeout", "60"]).ok()),
        (200, json!("é"))
    );
    host.stop();
}

#[test]
fn a_payload_at_the_limit_passes_both_ways_and_a_longer_one_is_refused() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    let host = device.start(&Manifest::new().module("m", misbehaving(&layout)));
    host.wait_for_status("m", "running");
    let from_file = |bytes: usize| {
        let path = device.data().join("payload");
        std::fs::write(&path, format!("\"{}\"", "x".repeat(bytes - 2))).unwrap();
        device.marram_with_input(&["method", "invoke", "m", "echo", "-", "--format", "json"], File::open(path).unwrap())
    };
    let most = from_file(131_072).ok();
    assert_eq!(answered(&most).1.as_str().unwrap().len(), 131_070);
    let over = from_file(131_073);
    assert_eq!((over.code, &over.json()["error"]["code"]), (Some(1), &json!("bad-request")), "{}", over.err);
    host.stop();
}

#[test]
fn a_module_calls_another_and_a_circle_is_refused_at_once() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    let modules = Manifest::new().module("a", misbehaving(&layout)).module("b", misbehaving(&layout));
    let host = device.start(&modules);
    host.wait_for_status("a", "running");
    host.wait_for_status("b", "running");
    let call = |target: &str, name: &str, payload: Value| json!({ "do": "invoke", "target": target, "name": name, "payload": payload, "responseMs": 60_000 });
    let echoed = told(&device, "a", &call("b", "echo", json!({ "é": [1, 2] })));
    assert_eq!(echoed, json!({ "status": 200, "payload": { "é": [1, 2] } }));

    let circle = told(&device, "a", &call("b", "do", call("a", "echo", json!(1))));
    let inner = circle["payload"]["error"].as_str().unwrap_or_else(|| panic!("{circle}"));
    assert!(inner.starts_with("InvokeError::Denied") && inner.contains("b → a → b"), "{inner}");
    for (target, word) in [("a", "Denied"), ("$edgeAgent", "Denied"), ("nobody", "NotFound")] {
        let error = told(&device, "a", &call(target, "ping", Value::Null));
        assert!(error["error"].as_str().unwrap().contains(word), "{target}: {error}");
    }
    let bad = told(&device, "a", &json!({ "do": "invoke", "target": "b", "name": "echo", "responseMs": 4999 }));
    assert!(bad["error"].as_str().unwrap().contains("5 to 300 s, not 4.999 s"), "{bad}");
    // The callee's trap is the caller's status 500, and the caller lives.
    let trap = told(&device, "a", &call("b", "do", json!({ "do": "trap" })));
    assert_eq!(trap["status"], 500, "{trap}");
    assert_eq!(host.wait_for_status("b", "backoff")["exitCode"], 134);
    assert_eq!(host.module("a")["restartCount"], 0);

    let page = device.marram(&["metrics"]).ok().out;
    let count = |line: &str| page.lines().find_map(|found| found.strip_prefix(line)).map(str::to_owned);
    let id = host.status()["deviceId"].as_str().unwrap().to_owned();
    let pair = format!("edgehub_direct_methods_total{{from=\"{id}/a\",to=\"{id}/b\",");
    assert!(count(&pair).is_some_and(|rest| rest.ends_with(" 3")), "{page}");
    let took = |end: &str| format!("edgehub_direct_method_duration_seconds{end}{{from=\"operator\",to=\"{id}/a\",");
    assert!(count(&took("_count")).is_some(), "{page}");
    let median = count(&(took("") + "quantile=\"0.5\","));
    assert!(median.is_some_and(|rest| rest.rsplit_once(' ').is_some_and(|(_, value)| value != "NaN")), "{page}");
    host.stop();
}

#[test]
fn a_module_waits_for_one_that_is_being_restarted() {
    let (layout, device) = (Layout::with(&["misbehaving", "valve"]), Device::new());
    let manifest =
        Manifest::new().module("a", misbehaving(&layout)).module("valve", Module::new(&layout.image("valve")));
    let host = device.start(&manifest);
    host.wait_for_status("a", "running");
    host.wait_for_status("valve", "running");
    let patient =
        json!({ "do": "invoke", "target": "valve", "name": "position", "connectMs": 50_000, "responseMs": 50_000 });
    for _ in 0..5 {
        let _ = device.marram(&["restart", "valve"]).ok();
        assert_eq!(told(&device, "a", &patient)["status"], 200);
    }
    host.stop();
}

#[test]
fn the_host_answers_as_iot_edges_agent_does() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    let host = device.start(&Manifest::new().module("temp", misbehaving(&layout)).module("pump", misbehaving(&layout)));
    host.wait_for_status("temp", "running");
    host.wait_for_status("pump", "running");
    let agent = |name: &str, payload: Value| answered(&invoke(&device, "$edgeAgent", name, &payload, &[]));
    assert_eq!(agent("ping", Value::Null), (200, Value::Null));
    assert_eq!(agent("PING", json!({})), (200, Value::Null));
    let (status, payload) = agent("dance", Value::Null);
    assert!(status == 400 && payload["message"].as_str().unwrap().contains("RestartModule"), "{payload}");
    let task = json!({ "schemaVersion": "1.0", "correlationId": "a-b" });
    let unknown = json!({ "status": "Unknown", "message": "", "correlationId": "a-b" });
    assert_eq!(agent("GetTaskStatus", task), (200, unknown));
    let hub = invoke(&device, "$edgeHub", "ping", &Value::Null, &[]);
    assert_eq!((hub.code, answered(&hub).0), (Some(8), 404));

    let before = host.module("temp")["lastStartMs"].clone();
    assert_eq!(agent("restartmodule", json!({ "schemaVersion": "1.0", "id": "temp" })), (200, Value::Null));
    host.wait_for_module("temp", "to be replaced", |now| now["status"] == "running" && now["lastStartMs"] != before);
    assert_eq!(agent("RestartModule", json!({ "schemaVersion": "1.0", "id": "nobody" })).0, 500);
    assert_eq!(agent("RestartModule", json!({ "schemaVersion": "1.0" })).0, 400);

    for (module, lines, bytes) in [("temp", 3, 5), ("pump", 2, 4)] {
        let _ = told(&device, module, &json!({ "do": "log", "lines": lines, "bytes": bytes }));
    }
    let logs = |id: &str, filter: Value, further: Value| {
        let mut request = json!({ "schemaVersion": "1.0", "items": [{ "id": id, "filter": filter }] });
        request.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
        let (status, payload) = agent("GetModuleLogs", request);
        assert_eq!(status, 200, "{payload}");
        payload
    };
    let both = logs("all", json!({ "regex": "^x+$" }), json!({}));
    let text = |id: &str, text: &str| json!({ "id": id, "payloadBytes": null, "payload": text });
    assert_eq!(both, json!([text("pump", "xxxx\nxxxx\n"), text("temp", "xxxxx\nxxxxx\nxxxxx\n")]));
    assert_eq!(logs("^TEM", json!({ "tail": 1 }), json!({})), json!([text("temp", "xxxxx\n")]));
    assert_eq!(logs("temp", json!({ "until": "1d" }), json!({})), json!([text("temp", "")]));
    assert_eq!(logs("temp", json!({ "loglevel": 3 }), json!({})), json!([text("temp", "")]));
    assert_eq!(logs("nothing", json!({}), json!({})), json!([]));
    let zipped = logs("pump", json!({ "tail": 1 }), json!({ "encoding": "gzip", "contentType": "json" }));
    let bytes = STANDARD.decode(zipped[0]["payloadBytes"].as_str().unwrap()).unwrap();
    let mut unzipped = String::new();
    GzDecoder::new(&bytes[..]).read_to_string(&mut unzipped).unwrap();
    let objects: Value = serde_json::from_str(&unzipped).unwrap();
    assert_eq!(
        (&objects[0]["text"], &objects[0]["stream"], &objects[0]["loglevel"]),
        (&json!("xxxx"), &json!("stdout"), &json!(6))
    );
    assert_eq!(zipped[0]["payload"], Value::Null);

    // More than can travel is told, and gzip helps.
    let _ = told(&device, "pump", &json!({ "do": "log", "lines": 200, "bytes": 1000 }));
    let all = json!({ "items": [{ "id": "pump" }] });
    let (status, payload) = agent("GetModuleLogs", all);
    assert!(status == 400 && payload["message"].as_str().unwrap().contains("gzip"), "{payload}");
    assert_eq!(logs("pump", json!({}), json!({ "encoding": "gzip" })).as_array().unwrap().len(), 1);
    let page = device.marram(&["metrics"]).ok().out;
    assert!(page.contains("edgeagent_direct_method_invocations_count{method_name=\"ping\","), "{page}");
    host.stop();
}
