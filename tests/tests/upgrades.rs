//! Modules are replaced by new versions while messages pass through them: none is lost, none overtakes another, and a
//! version that cannot be had or does not start leaves the old one running. Each once in the tests; for minutes with
//! `cargo xtask soak upgrades`.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    env,
    time::{Duration, Instant},
};

use marram_core::time::UtcMillis;
use marram_tests::{
    device::Device,
    figure::figure,
    host::Host,
    journal::{Journal, text},
    manifest::{Manifest, Module},
    program::{push, push_version},
    registry::DockerRegistry,
};
use serde_json::{Value, json};

#[test]
fn every_module_is_upgraded_under_load_and_no_message_is_lost_or_overtakes_another() {
    upgrade_for(Duration::ZERO);
}

#[test]
#[ignore = "takes long: `cargo xtask soak upgrades`"]
fn no_message_is_lost_or_overtakes_another_in_minutes_of_upgrades_under_load() {
    let seconds =
        env::var("MARRAM_SOAK_SECONDS").map_or(300, |text| text.parse().expect("MARRAM_SOAK_SECONDS is a number"));
    upgrade_for(Duration::from_secs(seconds));
}

#[test]
fn an_upgrade_that_fails_leaves_the_old_version_running_and_says_why() {
    let (registry, device) = (DockerRegistry::start(), Device::new());
    push("device_telemetry", &registry.image("telemetry:1"));
    push("forwarder", &registry.image("stage:1"));
    push("bench_by_value", &registry.image("stage:refused"));
    push("misbehaving", &registry.image("bad:1"));
    let good_stage = |_| Module::new(&registry.image("stage:1"));
    let good = pipeline(&registry, 1, good_stage);
    let host = device.start(&good);
    let mut journal = device.journal();
    journal.wait_for("messages through the pipeline", |all| (passed(all).len() > 10).then_some(()));
    let started = host.module("stage0")["lastStartMs"].clone();

    let bad = |deed: Value| Module::new(&registry.image("bad:1")).misbehave(&deed).limit("handlerTime", "300ms");
    let failing = [
        (Module::new(&registry.image("stage:no-such-tag")), "its update cannot be prepared", "no-such-tag"),
        (Module::new(&registry.image("stage:refused")), "its update cannot be prepared", "import"),
        (bad(json!({ "do": "trap" })), "its update does not start", "exit 134"),
        (bad(json!({ "do": "no such deed" })), "its update does not start", "no such deed"),
        (bad(json!({ "do": "loop" })), "its update does not start", "exit 124"),
    ];
    for (module, what, why) in failing {
        let manifest = pipeline(&registry, 1, |stage| if stage == 0 { module.clone() } else { good_stage(stage) });
        let _ = device.apply(&manifest.to_json()).ok();
        let told = host.wait_for_module("stage0", &format!("to say: {what}, {why}"), |now| {
            assert_eq!(now["status"], "running", "{now}");
            let description = now["description"].as_str().unwrap();
            description.contains(what) && description.contains(why)
        });
        assert_eq!((&told["lastStartMs"], &told["restartCount"]), (&started, &json!(0)));
        let before = passed(journal.read()).len();
        journal.wait_for("messages through the old version", |all| (passed(all).len() > before + 10).then_some(()));
    }
    let _ = device.apply(&good.to_json()).ok();
    let back = host.wait_for_module("stage0", "to say nothing of an update", |now| {
        !now["description"].as_str().unwrap().contains("update")
    });
    assert_eq!(back["lastStartMs"], started, "the same instance all the time");
    host.stop();
    check(&mut journal);
}

/// Half of the time, in microseconds, after which an instance is ended in the middle of a call. One that is idle ends when it is asked to, on
/// the slowest machine.
const WAITED_OUT: u64 = 5_000_000;

/// Stages of the pipeline.
const STAGES: usize = 3;

/// Upgrades every module in turn, again and again for this long; each once at least.
fn upgrade_for(time: Duration) {
    let (registry, device) = (DockerRegistry::start(), Device::new());
    push("device_telemetry", &registry.image("telemetry:1"));
    push("forwarder", &registry.image("stage:1"));
    // The version of each module, the sender last.
    let mut versions = vec![1; STAGES + 1];
    let manifest = |versions: &[u32]| {
        pipeline(&registry, versions[STAGES], |stage| {
            Module::new(&registry.image(&format!("stage:{}", versions[stage])))
        })
    };
    let host = device.start(&manifest(&versions));
    let mut journal = device.journal();
    journal.wait_for("messages through the pipeline", |all| (passed(all).len() > 10).then_some(()));

    let (start, mut upgrades) = (Instant::now(), 0);
    while upgrades <= STAGES || start.elapsed() < time {
        let module = upgrades % (STAGES + 1);
        versions[module] += 1;
        let (guest, image) = if module == STAGES { ("device_telemetry", "telemetry") } else { ("forwarder", "stage") };
        let reference = registry.image(&format!("{image}:{}", versions[module]));
        let pushed = push_version(guest, &versions[module].to_string(), &reference);
        let _ = device.apply(&manifest(&versions).to_json()).ok();
        let name = if module == STAGES { "telemetry".to_owned() } else { format!("stage{module}") };
        host.wait_for_module(&name, "to run its new version", |now| {
            assert!(["running", "stopping"].contains(&now["status"].as_str().unwrap()), "{now}");
            now["digest"] == pushed.manifest.as_str()
        });
        let before = passed(journal.read()).len();
        journal.wait_for("messages through the new version", |all| (passed(all).len() > before + 10).then_some(()));
        upgrades += 1;
    }
    let longest = hand_overs(&host).into_iter().max().unwrap();
    host.stop();
    assert!(longest < WAITED_OUT, "a hand-over took {longest} us: the handler was idle, and was waited for");
    check(&mut journal);
    figure("upgrades.count", upgrades as f64, "");
    figure("upgrades.messages", passed(journal.read()).len() as f64, "");
    figure("upgrades.hand-over.longest", longest as f64 / 1000.0, "ms");
}

/// telemetry → stage0 → stage1 → … → upstream, and telemetry → upstream beside it.
fn pipeline(registry: &DockerRegistry, sender: u32, stage: impl Fn(usize) -> Module) -> Manifest {
    let telemetry = Module::new(&registry.image(&format!("telemetry:{sender}"))).reads_proc();
    let last = format!("stage{}", STAGES - 1);
    let manifest = Manifest::new().module("telemetry", telemetry).upstream("telemetry").upstream(&last);
    (0..STAGES).fold(manifest.twin("telemetry", json!({ "intervalMs": 10 })), |manifest, index| {
        let name = format!("stage{index}");
        let from = if index == 0 { "telemetry".to_owned() } else { format!("stage{}", index - 1) };
        let into = format!(r#"INTO BrokeredEndpoint("/modules/{name}/inputs/in")"#);
        manifest
            .module(&name, stage(index))
            .route(&format!("to-{name}"), &format!("FROM /messages/modules/{from}/* {into}"))
    })
}

/// What has come through all stages.
fn passed(entries: &[Value]) -> Vec<&Value> {
    let source = format!("/messages/modules/stage{}/", STAGES - 1);
    entries.iter().filter(|entry| text(entry, "/source").starts_with(&source)).collect()
}

/// Each reading that was accepted went both ways, in order; the host numbers them without a gap.
#[track_caller]
fn check(journal: &mut Journal) {
    let entries = journal.read();
    let ids = |entries: &[&Value]| -> Vec<String> {
        entries.iter().map(|entry| text(entry, "/systemProperties/messageId").to_owned()).collect()
    };
    let direct: Vec<&Value> =
        entries.iter().filter(|entry| text(entry, "/source").starts_with("/messages/modules/telemetry/")).collect();
    let through = passed(entries);
    assert_eq!(ids(&direct), ids(&through));
    for list in [direct, through] {
        let numbers: Vec<u64> = list.iter().map(|entry| entry["sequence"].as_u64().unwrap()).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
    }
}

/// How long nobody was in charge of a module, for each upgrade, in microseconds: from the stop of the old version to the
/// promotion of the new one, by the host's log.
fn hand_overs(host: &Host) -> Vec<u64> {
    let log = host.log();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |index: usize, message: &str| lines[index]["message"] == message;
    let promoted = (0..lines.len()).filter(|index| of(*index, "its update runs"));
    // An old version that has ended by itself was not stopped.
    promoted
        .filter_map(|end| {
            let module = &lines[end]["module"];
            let is_stop = |index: &usize| of(*index, "stopping") && lines[*index]["module"] == *module;
            let before = (0..end)
                .rev()
                .take_while(|index| !(of(*index, "its update runs") && lines[*index]["module"] == *module));
            let start = before.into_iter().find(is_stop)?;
            Some(micros(&lines[end]) - micros(&lines[start]))
        })
        .collect()
}

/// Since 1970: `2026-11-27T02:21:53.300123Z`.
fn micros(line: &Value) -> u64 {
    let time = line["time"].as_str().or(line["timestamp"].as_str()).unwrap();
    let (seconds, fraction) = time.trim_end_matches('Z').split_once('.').unwrap();
    let whole = UtcMillis::parse(&format!("{seconds}Z")).unwrap();
    whole.0 * 1000 + format!("{fraction:0<6}")[..6].parse::<u64>().unwrap()
}

#[test]
fn a_time_after_midnight_is_later_than_one_before() {
    let at = |time: &str| micros(&json!({ "time": time }));
    assert_eq!(at("2026-11-27T00:00:00.000150Z") - at("2026-11-26T23:59:59.999900Z"), 250);
}
