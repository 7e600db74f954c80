//! What a device reports of itself, asked at the device: the documents of `$edgeAgent` and `$edgeHub`.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::fs;

use marram_tests::{
    device::Device,
    host::Host,
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::{Value, json};

fn reported(device: &Device) -> Value {
    device.marram(&["status", "--format", "json"]).ok().json()
}

#[track_caller]
fn wait_for_code(host: &Host, code: u64) -> Value {
    host.wait(&format!("the agent to report {code}"), |host| {
        let agent = host.get("/v1/reported").unwrap()["$edgeAgent"].clone();
        (agent["lastDesiredStatus"]["code"] == code).then_some(agent)
    })
}

fn manifest(layout: &Layout) -> Manifest {
    let runs = Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000").order(1);
    let done = Module::new(&layout.image("plain_program")).policy("on-failure");
    Manifest::new().module("m", runs).module("job", done).upstream("m")
}

#[test]
fn a_device_reports_its_modules_and_what_became_of_each_manifest() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let host = device.start_stored(&[]);
    assert_eq!(reported(&device)["$edgeAgent"]["lastDesiredStatus"]["code"], 417, "nothing is desired yet");
    let good = manifest(&layout);
    let _ = device.apply(&good.to_json()).ok();
    host.wait_for_status("job", "stopped");
    host.wait_for_status("m", "running");
    wait_for_code(&host, 200);
    let all = reported(&device);
    let module = &all["$edgeAgent"]["modules"]["m"];
    assert_eq!((&module["runtimeStatus"], &module["status"]), (&json!("running"), &json!("running")), "{module}");
    assert_eq!((&module["restartPolicy"], &module["startupOrder"]), (&json!("always"), &json!(1)), "{module}");
    assert_eq!(module["env"]["RUN_MS"]["value"], "3600000");
    let job = &all["$edgeAgent"]["modules"]["job"];
    assert_eq!(
        (&job["runtimeStatus"], &job["exitCode"], &job["restartCount"]),
        (&json!("stopped"), &json!(0), &json!(0))
    );
    assert!(job["lastExitTimeUtc"].as_str().unwrap() >= job["lastStartTimeUtc"].as_str().unwrap(), "{job}");
    let clients: Vec<(&String, &Value)> =
        all["$edgeHub"]["clients"].as_object().unwrap().iter().map(|(id, client)| (id, &client["status"])).collect();
    let connected = |name: &str| clients.iter().find(|(id, _)| id.ends_with(&format!("/{name}"))).unwrap().1;
    assert_eq!((connected("m"), connected("job")), (&json!("Connected"), &json!("Disconnected")));

    assert_eq!(planned_from_its_report(&device, &good), json!({ "steps": [], "wake": null }));

    let missing = good.module("new", Module::new(&layout.image("nowhere")));
    let _ = device.apply(&missing.to_json()).ok();
    host.wait_for_status("new", "backoff");
    let plan = planned_from_its_report(&device, &missing);
    let step = &plan["steps"][0];
    assert_eq!((&step["action"], &step["module"]), (&json!("wait"), &json!("new")), "{plan}");
    let failed = reported(&device)["$edgeAgent"]["modules"]["new"]["lastPullFailureTimeUtc"].clone();
    assert!(step["notBefore"].as_str() > failed.as_str(), "{plan} {failed}");
    host.stop();
}

/// What it reports is what `plan` reads. The answer as JSON, for a moment after the report.
fn planned_from_its_report(device: &Device, desired: &Manifest) -> Value {
    let agent = reported(device)["$edgeAgent"].clone();
    let (report, manifest) = (device.data().join("report.json"), device.data().join("desired.json"));
    fs::write(&report, agent.to_string()).unwrap();
    fs::write(&manifest, desired.to_json().to_string()).unwrap();
    let mut plan = vec!["plan", "--format", "json", "--deployment", manifest.to_str().unwrap()];
    plan.extend(["--observed", report.to_str().unwrap()]);
    // The moment of the failure: on a slow machine its back-off may be over when the plan is asked for.
    let failed = agent["modules"]["new"]["lastPullFailureTimeUtc"].as_str();
    plan.extend(failed.iter().flat_map(|failed| ["--now", failed]));
    device.marram(&plan).ok().json()
}

#[test]
fn a_manifest_that_is_refused_is_reported_with_the_code_of_its_kind() {
    let (layout, device) = (Layout::with(&["plain_program"]), Device::new());
    let good = manifest(&layout);
    let host = device.start(&good);
    wait_for_code(&host, 200);
    let mut schema = good.to_json();
    schema["modulesContent"]["$edgeAgent"]["properties.desired"]["schemaVersion"] = json!("2.0");
    let routes = good.clone().route("bad", "FROM /messages/* INTO nowhere").to_json();
    for (bad, code, hub) in [(json!({}), 417, 200), (schema, 412, 200), (routes, 400, 400)] {
        assert_eq!(device.apply(&bad).code, Some(3), "{code}");
        let all = reported(&device);
        let (agent, hub_now) = (&all["$edgeAgent"], &all["$edgeHub"]);
        assert_eq!(
            (&agent["lastDesiredVersion"], &agent["lastDesiredStatus"]["code"]),
            (&json!(2), &json!(code)),
            "{agent}"
        );
        assert!(!agent["lastDesiredStatus"]["description"].as_str().unwrap().is_empty(), "{code}");
        assert_eq!(hub_now["lastDesiredStatus"]["code"], hub, "{code}: {hub_now}");
        assert_eq!(agent["modules"]["m"]["runtimeStatus"], "running", "what runs goes on");
    }
    let text = device.marram(&["status"]).ok().out;
    assert!(text.starts_with("$edgeAgent  version 2, refused (400): "), "{text}");
    let _ = device.apply(&good.to_json()).ok();
    let agent = wait_for_code(&host, 200);
    assert_eq!(agent["lastDesiredVersion"], 1, "the one in force is desired again");

    let missing = good.module("m", Module::new(&layout.image("nowhere")));
    let _ = device.apply(&missing.to_json()).ok();
    let agent = wait_for_code(&host, 500);
    assert_eq!(agent["lastDesiredVersion"], 2);
    let why = agent["lastDesiredStatus"]["description"].as_str().unwrap();
    assert!(why.starts_with("m: ") && why.contains("nowhere"), "{why}");
    host.stop();
}
