//! Health checks of real guests: what fails them is restarted, and a deployment of which none passes is rolled back.

#![allow(clippy::unwrap_used)] // helpers of tests

use marram_tests::{
    device::Device,
    manifest::{Manifest, Module},
    program::Layout,
};
use serde_json::{Value, json};

/// Asked each second, two failures are too many.
fn check() -> Value {
    json!({ "method": "alive", "interval": "1s", "timeout": "2s", "failures": 2 })
}

fn checked(layout: &Layout) -> Module {
    Module::new(&layout.image("misbehaving")).health(check())
}

/// Carries a command out in a module, by its method.
fn tell(device: &Device, module: &str, command: &Value) {
    let _ = device.marram(&["method", "invoke", module, "do", &command.to_string()]).ok();
}

#[test]
fn a_module_that_answers_badly_is_ended_and_restarted_and_another_by_its_policy_runs_on() {
    let (layout, device) = (Layout::with(&["misbehaving", "plain_program"]), Device::new());
    let manifest =
        Manifest::new().module("m", checked(&layout)).module("kept", checked(&layout).policy("on-failure")).module(
            "deaf",
            Module::new(&layout.image("plain_program")).env("RUN_MS", "3600000").policy("never").health(check()),
        );
    let host = device.start(&manifest);
    let is = |state: &'static str| move |now: &Value| now["health"]["state"] == state;
    host.wait_for_module("m", "to be healthy", is("healthy"));
    let healthy = host.wait_for_module("kept", "to be healthy", is("healthy"));
    assert!(healthy["description"].as_str().unwrap().ends_with(", healthy"), "{healthy}");

    tell(&device, "m", &json!({ "do": "sick" }));
    let ended = host.wait_for_status("m", "backoff");
    assert_eq!(ended["exitCode"], 125, "{ended}");
    let why = r#"exit 125: unhealthy: its health check failed 2 times in a row: its method `alive` answered with status 503: {"message":"told to be sick"}"#;
    assert!(ended["description"].as_str().unwrap().starts_with(why), "{ended}");
    assert!(ended.get("health").is_none(), "what does not run has no health: {ended}");
    let again = host.wait_for_module("m", "to run again, and to be healthy", is("healthy"));
    assert_eq!((&again["restartCount"], &again["status"]), (&json!(1), &json!("running")), "{again}");

    // A policy that does not restart it leaves it running, and shows it; a program has no methods.
    tell(&device, "kept", &json!({ "do": "sick", "status": 404 }));
    let sick = host.wait_for_status("kept", "unhealthy");
    assert!(sick["health"]["reason"].as_str().unwrap().contains("status 404"), "{sick}");
    let deaf = host.wait_for_status("deaf", "unhealthy");
    assert!(deaf["health"]["reason"].as_str().unwrap().contains("it does not export `method-handler`"), "{deaf}");
    let reported = host.get("/v1/reported").unwrap()["$edgeAgent"].clone();
    assert_eq!(reported["modules"]["kept"]["runtimeStatus"], "unhealthy");
    assert_eq!(reported["lastDesiredStatus"]["code"], 500, "{}", reported["lastDesiredStatus"]);
    assert!(device.marram(&["list"]).ok().out.contains("unhealthy"));
    let metrics = device.marram(&["metrics"]).ok().out;
    let id = host.status()["deviceId"].as_str().unwrap().to_owned();
    let calls = format!("edgehub_direct_methods_total{{from=\"{id}/$edgeAgent\",to=\"{id}/kept\"");
    assert!(metrics.contains(&calls), "{metrics}");
    let started = sick["lastStartMs"].clone();
    tell(&device, "kept", &json!({ "do": "sick", "status": 204 }));
    let well = host.wait_for_status("kept", "running");
    assert_eq!(well["lastStartMs"], started, "it was never ended");
    host.stop();
}

#[test]
fn a_module_that_is_busy_for_longer_than_its_time_out_is_ended_in_the_middle_of_its_call() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    let manifest =
        Manifest::new().module("m", checked(&layout).limit("handlerWall", "1h")).twin("m", json!({ "command": null }));
    let host = device.start(&manifest);
    host.wait_for_module("m", "to be healthy", |now| now["health"]["state"] == "healthy");
    // Nobody waits for the answer of this one.
    let _ = device.marram(&["twin", "set", "m", r#"{"command":{"do":"sleep","ms":3600000}}"#]).ok();
    let ended = host.wait_for_status("m", "backoff");
    assert_eq!(ended["exitCode"], 125, "{ended}");
    assert!(ended["description"].as_str().unwrap().contains("did not answer within 2 s"), "{ended}");
    host.stop();
}

#[test]
fn a_deployment_of_which_no_health_check_passes_is_rolled_back_with_the_reason() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    let of = |module: Module| {
        Manifest::new().module("m", module).rollout(json!({ "probation": "500ms", "healthTimeout": "8s" }))
    };
    let host = device.start(&of(checked(&layout)));
    host.wait_for_outcome(1, "good");
    let sick = of(checked(&layout).misbehave(&json!({ "do": "sick" })));
    let _ = device.apply(&sick.to_json()).ok();
    let rolled_back = host.wait_for_outcome(2, "rolled-back");
    let reason = rolled_back["reason"].as_str().unwrap();
    let begins = "module `m` was not healthy within 8 s: ";
    assert!(reason.starts_with(begins) && reason.contains("`alive` answered with status 503"), "{reason}");
    host.wait_for_outcome(3, "good");
    let module = host.module("m");
    assert_eq!((&module["status"], &module["health"]["state"]), (&json!("running"), &json!("healthy")), "{module}");
    host.stop();
}
