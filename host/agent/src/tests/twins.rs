//! Twins between modules, the disk, routes and upstream.

use std::{sync::Arc, time::Duration};

use marram_core::{
    name::ModuleName,
    ports::{Exports, UpstreamEvent},
    twin::CloudTwin,
};
use serde_json::{Value, json};

use super::{
    hooked::Gate,
    worlds::{DEADLINE, Guest, World, manifest, text},
};
use crate::Agent;

/// A module that answers each change of its desired properties with code 200.
fn follower() -> Guest {
    Guest { exports: Exports { twin: true, ..Exports::default() }, ..Guest::default() }
}

async fn stop(agent: &Arc<Agent>) {
    agent.shut_down(Duration::from_secs(5)).await;
}

fn acknowledged(version: u64) -> String {
    format!(r#"{{"desiredAck":{{"code":200,"description":"ok","version":{version}}}}}"#)
}

const CHANGES_UP: &str = "FROM /twinChangeNotifications WHERE $connectionModuleId = 'm' INTO $upstream";

#[tokio::test]
async fn each_report_is_a_message_for_the_routes_that_take_changes_of_twins() {
    let world = World::default();
    world.guest("m", follower());
    world.guest("other", follower());
    world.handler("observer", {
        let log = world.log.clone();
        move |_, delivery| {
            let message = &delivery.accepted.message;
            let module = message.property("moduleId").unwrap_or_default();
            log.push(format!("{} {module} {}", delivery.accepted.source, text(message)));
            Ok(marram_core::ports::Settlement::Done)
        }
    });
    let agent = world.agent().await;
    let modules = [("m", "{}"), ("other", "{}"), ("observer", "{}")];
    let observed = r#"FROM /* INTO BrokeredEndpoint("/modules/observer/inputs/in")"#;
    agent.apply(&manifest(&modules, &[CHANGES_UP, observed])).await.unwrap();
    world.upstream.taken.until("the answer to the first version", |all| all == [acknowledged(1)]).await;
    agent.set_twin("m", r#"{"a":1}"#).await.unwrap();
    let told = world.upstream.taken.until("the second", |all| all.len() == 2).await;
    assert_eq!(told[1], acknowledged(2));
    let expected = |module, version| format!("/twinChangeNotifications {module} {}", acknowledged(version));
    let all = [expected("m", 1), expected("other", 1), expected("m", 2)];
    world.log.until("what the observer got", |lines| all.iter().all(|line| lines.contains(line))).await;
    stop(&agent).await;
}

#[tokio::test]
async fn a_change_that_a_kill_kept_from_being_told_is_told_at_the_next_start_and_after_a_clean_stop_none_is_repeated() {
    let world = World::default();
    world.guest("m", follower());
    let agent = world.agent().await;
    // Stored with the change, and forgotten on the disk with the next write only.
    agent.apply(&manifest(&[("m", "{}")], &[CHANGES_UP])).await.unwrap();
    world.upstream.taken.until("the answer", |all| all.len() == 1).await;
    let killed = world.after_kill();
    stop(&agent).await;

    killed.guest("m", Guest::default()); // which never reports
    let again = killed.agent().await;
    killed.upstream.taken.until("it once more", |all| all.contains(&acknowledged(1))).await;
    stop(&again).await;

    let stored = |world: &World| String::from_utf8(world.disk.documents.lock().unwrap()["twin-m"].clone()).unwrap();
    assert!(!stored(&killed).contains("notice") && !stored(&world).contains("notice"), "{}", stored(&world));
}

#[tokio::test]
async fn without_a_route_that_takes_them_changes_of_twins_are_not_made_into_messages() {
    let world = World::default();
    world.guest("m", follower());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("m", "{}")], &["FROM /messages/* INTO $upstream"])).await.unwrap();
    world.log.until("the change", |lines| lines.iter().any(|line| line.starts_with("desired"))).await;
    agent.set_twin("m", r#"{"a":1}"#).await.unwrap();
    world.log.until("the next", |lines| lines.iter().any(|line| line.starts_with("desired 2"))).await;
    stop(&agent).await;
    assert_eq!(agent.router().sources().no_route(), 0);
    assert!(world.upstream.taken.lines().is_empty());
}

fn name(module: &str) -> ModuleName {
    ModuleName::new(module).unwrap()
}

fn map(value: Value) -> serde_json::Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// What the cloud wants of module `m`.
fn wants(world: &World, desired: Value, version: u64) {
    let mut twins = world.cloud.twins.lock().unwrap();
    let reported = twins.remove(&name("m")).map(|twin| twin.reported).unwrap_or_default();
    twins.insert(name("m"), CloudTwin { desired: map(desired), desired_version: version, faults: vec![], reported });
}

async fn patched(agent: &Agent, patch: Value) {
    let patch_json = patch.to_string();
    agent.upstream_event(UpstreamEvent::DesiredChanged { module: name("m"), patch_json }).await;
}

async fn until_desired(agent: &Agent, desired: Value) {
    let seen = async {
        let mut known = None;
        loop {
            let query = crate::TwinQuery { desired: known, reported: None, wait: DEADLINE };
            let twin = agent.twin_news("m", &query).await.unwrap();
            if twin.desired == desired {
                return;
            }
            known = Some(twin.desired_version);
        }
    };
    tokio::time::timeout(DEADLINE, seen).await.unwrap_or_else(|_| panic!("never {desired}"));
}

fn gets(lines: &[String]) -> usize {
    lines.iter().filter(|line| *line == "get m").count()
}

#[tokio::test]
async fn changes_of_the_cloud_are_merged_in_order_and_after_a_gap_the_whole_is_fetched() {
    let world = World::default();
    world.guest("m", follower());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("m", "{}")], &[])).await.unwrap();
    world.cloud.asked.until("the first report", |all| !all.is_empty()).await;
    wants(&world, json!({"a":1}), 4);
    agent.upstream_event(UpstreamEvent::Connected).await;
    until_desired(&agent, json!({"a":1})).await;
    patched(&agent, json!({"b":2,"$version":5})).await;
    until_desired(&agent, json!({"a":1,"b":2})).await;
    assert_eq!(gets(&world.cloud.asked.lines()), 1, "it followed on what was known");

    // 6 is lost.
    wants(&world, json!({"b":2,"c":3,"d":4}), 7);
    patched(&agent, json!({"d":4,"$version":7})).await;
    until_desired(&agent, json!({"b":2,"c":3,"d":4})).await;
    assert_eq!(gets(&world.cloud.asked.lines()), 2);
    assert_eq!(agent.twin("m").await.unwrap().desired_origin, "cloud (version 7)");
    let told = world.log.until("the module", |all| all.iter().any(|line| line.contains("\"d\":4"))).await;
    assert!(told.last().unwrap().ends_with(r#"{"a":null,"c":3,"d":4}"#), "what differs, not the whole: {told:?}");

    // A fetch that fails is made again.
    world.cloud.down.store(true, std::sync::atomic::Ordering::SeqCst);
    patched(&agent, json!({"e":5,"$version":9})).await;
    world.cloud.asked.until("a fetch in vain", |all| all.contains(&"in vain: get m".to_owned())).await;
    wants(&world, json!({"e":5}), 9);
    world.cloud.down.store(false, std::sync::atomic::Ordering::SeqCst);
    until_desired(&agent, json!({"e":5})).await;
    stop(&agent).await;
}

#[tokio::test]
async fn the_cloud_is_asked_for_modules_that_are_deployed_after_the_connection() {
    let world = World::default();
    world.guest("m", follower());
    wants(&world, json!({"a":1}), 4);
    let agent = world.agent().await;
    agent.upstream_event(UpstreamEvent::Connected).await;
    agent.apply(&manifest(&[("m", "{}")], &[])).await.unwrap();
    until_desired(&agent, json!({"a":1})).await;
    stop(&agent).await;
}

#[tokio::test]
async fn what_was_changed_here_is_marked_and_stays_until_the_cloud_says_something_new() {
    let world = World::default();
    world.guest("m", follower());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("m", "{}")], &[])).await.unwrap();
    wants(&world, json!({"a":1}), 4);
    agent.upstream_event(UpstreamEvent::Connected).await;
    until_desired(&agent, json!({"a":1})).await;

    agent.set_twin("m", r#"{"a":2,"here":true}"#).await.unwrap();
    let marked = agent.twin("m").await.unwrap();
    assert_eq!((marked.desired_origin.as_str(), marked.local_changes), ("local", json!({"a":2,"here":true})));
    let killed = world.after_kill();
    stop(&agent).await;

    // After a kill, and a connection to a cloud in which nothing was changed meanwhile.
    wants(&killed, json!({"a":1}), 4);
    let agent = killed.agent().await;
    agent.upstream_event(UpstreamEvent::Connected).await;
    killed.cloud.asked.until("the question", |all| gets(all) == 1).await;
    patched(&agent, json!({"$version":4})).await;
    agent.upstream_event(UpstreamEvent::Connected).await;
    killed.cloud.asked.until("the next question", |all| gets(all) == 2).await;
    let twin = agent.twin("m").await.unwrap();
    assert_eq!((twin.desired, twin.local_changes), (json!({"a":2,"here":true}), json!({"a":2,"here":true})));

    wants(&killed, json!({"a":1,"b":1}), 5);
    agent.upstream_event(UpstreamEvent::Connected).await;
    until_desired(&agent, json!({"a":1,"b":1})).await;
    assert_eq!(agent.twin("m").await.unwrap().local_changes, json!({}));
    stop(&agent).await;
}

#[tokio::test]
async fn what_is_reported_goes_up_as_one_patch_is_kept_over_a_kill_and_handed_over_at_a_stop() {
    let world = World::default();
    world.guest("m", follower());
    wants(&world, json!({}), 1);
    world.cloud.down.store(true, std::sync::atomic::Ordering::SeqCst);
    let agent = world.agent().await;
    agent.apply(&manifest(&[("m", "{}")], &[])).await.unwrap();
    let in_vain = format!("in vain: m 2 {}", acknowledged(1));
    world.cloud.asked.until("a report in vain", |all| all.contains(&in_vain)).await;
    agent.set_twin("m", r#"{"a":1}"#).await.unwrap();
    let ack = async {
        while agent.twin("m").await.unwrap().reported_version < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, ack).await.unwrap();
    let killed = world.after_kill();
    stop(&agent).await;

    wants(&killed, json!({}), 1);
    killed.guest("m", Guest::default()); // which never reports
    let agent = killed.agent().await;
    let up = format!("m 3 {}", acknowledged(2));
    killed.cloud.asked.until("both reports as one", |all| all.contains(&up)).await;
    agent.shut_down(Duration::from_secs(5)).await;
    let again = killed.agent().await;
    stop(&again).await;
    let reports = killed.cloud.asked.lines().iter().filter(|line| line.starts_with("m ")).count();
    assert_eq!(reports, 1, "that it was taken is stored");
    assert_eq!(
        Value::from(killed.cloud.twins.lock().unwrap()[&name("m")].reported.clone()),
        serde_json::from_str::<Value>(&acknowledged(2)).unwrap()
    );
}

#[tokio::test]
async fn a_change_whose_caller_goes_away_while_it_is_stored_is_in_force_then_and_nothing_overtakes_it() {
    let world = World::default();
    world.guest("m", Guest::default()); // which never reports
    let agent = world.agent().await;
    agent.apply(&manifest(&[("m", "{}")], &[])).await.unwrap();
    let gate = Arc::new(Gate::default());
    world.disk.gate.lock().unwrap().replace(("twin-m", gate.clone()));
    let setter = agent.clone();
    let setting = tokio::spawn(async move { setter.set_twin("m", r#"{"a":1}"#).await });
    gate.reached().await;
    setting.abort();
    assert!(setting.await.unwrap_err().is_cancelled());

    let cell = agent.twins().cell(&name("m")).await.unwrap();
    let mut reporting = tokio::spawn(async move { cell.report(r#"{"r":1}"#.into()).await });
    let too_soon = tokio::time::timeout(Duration::from_millis(50), &mut reporting).await;
    assert!(too_soon.is_err(), "before the write that was first");
    gate.open();
    reporting.await.unwrap().unwrap();
    let twin = agent.twin("m").await.unwrap();
    assert_eq!((twin.desired, twin.reported), (json!({"a":1}), json!({"r":1})));
    let killed = world.after_kill();
    stop(&agent).await;

    let again = killed.agent().await;
    let twin = again.twin("m").await.unwrap();
    assert_eq!((twin.desired, twin.reported), (json!({"a":1}), json!({"r":1})));
    stop(&again).await;
}

#[tokio::test]
async fn a_change_whose_write_hangs_holds_up_no_question_about_the_deployment() {
    let world = World::default();
    world.guest("m", Guest::default());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("m", "{}")], &[])).await.unwrap();
    let gate = Arc::new(Gate::default());
    world.disk.gate.lock().unwrap().replace(("twin-m", gate.clone()));
    let setter = agent.clone();
    let setting = tokio::spawn(async move { setter.set_twin("m", r#"{"a":1}"#).await });
    gate.reached().await;
    let asked = tokio::time::timeout(DEADLINE, agent.deployments()).await;
    gate.open();
    assert_eq!(asked.expect("nor a stop, which wants the same").deployments.len(), 1);
    setting.await.unwrap().unwrap();
    stop(&agent).await;
}
