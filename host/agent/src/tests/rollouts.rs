//! What a start makes of a disk that has lost something, and what an operator and the host want at the same moment.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{
    name::ModuleName,
    ports::{Exit, Exports},
    rollout::{Entry, Outcome, Way},
};

use tokio::sync::Semaphore;

use super::{
    lifetime::until,
    worlds::{DEADLINE, Guest, World, manifest, manifest_with, message},
};
use crate::{Agent, ApplyError};

const GRACE: Duration = Duration::from_secs(5);

fn forever() -> Guest {
    Guest { exports: Exports { run: true, ..Exports::default() }, ..Guest::default() }
}

/// A module, and a deployment that is good once it is up.
fn quick(module: &str) -> String {
    let mut document: serde_json::Value = serde_json::from_str(&manifest(&[(module, "{}")], &[])).unwrap();
    document["modulesContent"]["$edgeAgent"]["properties.desired"]["marram"] = serde_json::json!({ "probation": "0s" });
    document.to_string()
}

async fn until_good(agent: &Agent, version: u64) {
    let is_good = |entry: &Entry| entry.accepted.version == version && entry.outcome == Outcome::Good;
    let good = async {
        while !agent.deployments().await.deployments.iter().any(is_good) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, good).await.unwrap();
}

async fn entry(agent: &Agent, version: u64) -> Entry {
    let deployments = agent.deployments().await.deployments;
    deployments.into_iter().find(|entry| entry.accepted.version == version).unwrap()
}

/// A device on which deployment 1 runs `a`, then deployment 2 runs `b`; both are good.
async fn device() -> (World, std::sync::Arc<Agent>) {
    let world = World::default();
    for module in ["a", "b", "c"] {
        world.guest(module, forever());
    }
    let agent = world.agent().await;
    for (version, module) in [(1, "a"), (2, "b")] {
        agent.apply(&quick(module)).await.unwrap();
        until_good(&agent, version).await;
    }
    (world, agent)
}

fn names(world: &World) -> Vec<String> {
    world.disk.documents.lock().unwrap().keys().filter(|name| name.starts_with("deployment-")).cloned().collect()
}

#[tokio::test]
async fn a_stored_manifest_that_is_not_valid_any_more_makes_place_for_the_last_good_one() {
    let (world, agent) = device().await;
    agent.shut_down(GRACE).await;
    let stored = String::from_utf8(world.disk.documents.lock().unwrap()["deployment"].clone()).unwrap();
    let other = stored.replace(r#""type":"wasm""#, r#""type":"wasn""#);
    assert_ne!(stored, other);
    world.disk.documents.lock().unwrap().insert("deployment".into(), other.into());
    let agent = world.agent().await;
    until(&agent, "a", "running").await;
    assert_eq!(agent.deployments().await.in_force, 3);
    let newest = entry(&agent, 3).await;
    assert!(matches!(&newest.accepted.way, Way::Rollback { of: 2, to: 1, again: true, .. }), "{newest:?}");
    assert_eq!(entry(&agent, 2).await.outcome, Outcome::Good, "nothing is held against it");
    until_good(&agent, 3).await;
}

#[tokio::test]
async fn a_deployment_whose_document_is_lost_is_told_by_the_history_or_makes_place_for_the_one_before() {
    let (world, agent) = device().await;
    let text = format!("deployment-{}", &entry(&agent, 2).await.accepted.digest["sha256:".len()..][..16]);
    agent.shut_down(GRACE).await;
    assert!(world.disk.documents.lock().unwrap().remove("deployment").is_some());
    let agent = world.agent().await;
    until(&agent, "b", "running").await;
    assert_eq!(agent.deployments().await.in_force, 2);
    agent.shut_down(GRACE).await;
    assert!(world.disk.documents.lock().unwrap().remove("deployment").is_some(), "it is stored again");
    assert!(world.disk.documents.lock().unwrap().remove(&text).is_some());
    let agent = world.agent().await;
    until(&agent, "a", "running").await;
    assert_eq!(agent.deployments().await.in_force, 3);
}

/// What is reported of the deployment that was tried last: its version, a code, and why.
async fn reported(agent: &Agent) -> (u64, u64, String) {
    let reported = agent.reported().await.unwrap();
    let agent = &reported["$edgeAgent"];
    let status = &agent["lastDesiredStatus"];
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    (
        number(&agent["lastDesiredVersion"]),
        number(&status["code"]),
        status["description"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn one_damaged_generation_takes_back_no_deployment_that_an_operator_was_told_is_in_force() {
    let (world, agent) = device().await;
    let digest = entry(&agent, 2).await.accepted.digest;
    let text = format!("deployment-{}", &digest["sha256:".len()..][..16]);
    agent.shut_down(GRACE).await;
    let newest = String::from_utf8(world.disk.documents.lock().unwrap()["deployment"].clone()).unwrap();
    let first = newest.replace(r#""version":2"#, r#""version":1"#).replace(r#""b""#, r#""a""#);
    let first = first.replace(r#""image":"b""#, r#""image":"a""#).into_bytes();
    world.disk.damaged.lock().unwrap().insert("deployment".into(), first.clone());
    let agent = world.agent().await;
    until(&agent, "b", "running").await;
    assert_eq!(agent.deployments().await.in_force, 2);
    assert_eq!(entry(&agent, 2).await.outcome, Outcome::Good);
    agent.shut_down(GRACE).await;
    assert!(world.disk.damaged.lock().unwrap().is_empty(), "it is stored again");
    // Without its manifest the one before goes on, and that is told.
    world.disk.damaged.lock().unwrap().insert("deployment".into(), first);
    world.disk.documents.lock().unwrap().remove(&text);
    let agent = world.agent().await;
    until(&agent, "a", "running").await;
    let (version, code, why) = reported(&agent).await;
    assert_eq!((version, code), (2, 500), "{why}");
    assert!(why.starts_with("deployment 2 is not in force: its document is lost"), "{why}");
    assert!(why.ends_with("deployment 1 is in its place"), "{why}");
    assert_eq!(agent.apply(&quick("c")).await.unwrap().version, 3);
    until_good(&agent, 3).await;
    until(&agent, "c", "running").await;
    assert_eq!(reported(&agent).await, (3, 200, String::new()));
}

#[tokio::test]
async fn a_full_disk_lets_no_device_stand_still_whose_deployment_is_not_valid_any_more() {
    let (world, agent) = device().await;
    agent.shut_down(GRACE).await;
    let stored = String::from_utf8(world.disk.documents.lock().unwrap()["deployment"].clone()).unwrap();
    let other = stored.replace(r#""type":"wasm""#, r#""type":"wasn""#);
    world.disk.documents.lock().unwrap().insert("deployment".into(), other.into());
    world.disk.full.store(true, SeqCst);
    let agent = world.agent().await;
    until(&agent, "a", "running").await;
    assert_eq!(agent.deployments().await.in_force, 1);
    let (version, code, why) = reported(&agent).await;
    assert_eq!((version, code), (2, 500), "{why}");
    assert!(why.contains("not valid for this version of Marram"), "{why}");
    assert!(why.contains("deployment 1 is in its place, which cannot be stored yet"), "{why}");
    world.disk.full.store(false, SeqCst);
    until_good(&agent, 3).await;
    assert!(matches!(entry(&agent, 3).await.accepted.way, Way::Rollback { of: 2, to: 1, again: true, .. }));
    until(&agent, "a", "running").await;
}

#[tokio::test]
async fn what_cannot_be_read_for_now_is_waited_for_before_an_older_deployment_is_gone_back_to() {
    let (world, agent) = device().await;
    let text = format!("deployment-{}", &entry(&agent, 2).await.accepted.digest["sha256:".len()..][..16]);
    world.disk.unreadable.lock().unwrap().replace(text);
    world.disk.refuse.lock().unwrap().replace("twin-c".into());
    assert!(matches!(agent.apply(&with_section("1s")).await, Err(ApplyError::Twin { .. })));
    let asked = async {
        while world.disk.refusals.load(SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, asked).await.unwrap();
    assert_eq!(agent.deployments().await.in_force, 3);
    world.disk.unreadable.lock().unwrap().take();
    until_good(&agent, 4).await;
    assert!(matches!(entry(&agent, 4).await.accepted.way, Way::Rollback { of: 3, to: 2, .. }));
}

#[tokio::test]
async fn where_nothing_is_in_force_an_operator_finds_what_was_good() {
    let (world, agent) = device().await;
    agent.shut_down(GRACE).await;
    let texts: Vec<(String, Vec<u8>)> = {
        let mut documents = world.disk.documents.lock().unwrap();
        documents.remove("deployment");
        documents.extract_if(.., |name, _| name.starts_with("deployment-")).collect()
    };
    let agent = world.agent().await;
    assert_eq!(agent.deployments().await.in_force, 0);
    world.disk.documents.lock().unwrap().extend(texts);
    assert_eq!(agent.roll_back(None, Some(0)).await.unwrap().version, 3);
    until(&agent, "b", "running").await;
}

#[tokio::test]
async fn manifests_that_belong_to_no_deployment_do_not_stay() {
    let (world, agent) = device().await;
    let kept = names(&world);
    assert_eq!(kept.len(), 2);
    world.disk.refuse.lock().unwrap().replace("deployment".into());
    assert!(matches!(agent.apply(&quick("c")).await, Err(ApplyError::Store(_))));
    assert_eq!(names(&world), kept, "of one that was not accepted");
    world.disk.refuse.lock().unwrap().take();
    agent.shut_down(GRACE).await;
    // As a kill leaves it between a manifest and its deployment.
    world.disk.documents.lock().unwrap().insert("deployment-0123456789abcdef".into(), b"{}".to_vec());
    // And between a deployment and the history.
    world.disk.documents.lock().unwrap().remove("history");
    let agent = world.agent().await;
    until(&agent, "b", "running").await;
    assert_eq!(names(&world).len(), 1, "the one in force has its own");
    assert!(kept.contains(&names(&world)[0]));
}

#[tokio::test]
async fn a_rollback_of_what_is_not_in_force_any_more_is_refused() {
    let (_world, agent) = device().await;
    let late = agent.roll_back(None, Some(1)).await;
    let Err(ApplyError::Refused(why)) = late else { panic!("{late:?}") };
    assert!(why.contains("deployment 1 is not in force any more: deployment 2 has taken its place"), "{why}");
    assert_eq!(agent.deployments().await.in_force, 2);
    assert_eq!(agent.roll_back(None, Some(2)).await.unwrap().version, 3);
}

#[tokio::test]
async fn a_first_deployment_is_on_trial_also_where_the_host_ended_before_it_wrote_its_history() {
    let world = World::default();
    world.guest("c", forever());
    let agent = world.agent().await;
    world.disk.refuse.lock().unwrap().replace("history".into());
    let mut slow: serde_json::Value = serde_json::from_str(&quick("c")).unwrap();
    slow["modulesContent"]["$edgeAgent"]["properties.desired"]["marram"] = serde_json::json!({ "probation": "1h" });
    agent.apply(&slow.to_string()).await.unwrap();
    agent.shut_down(GRACE).await;
    assert!(!world.disk.documents.lock().unwrap().contains_key("history"));
    world.disk.refuse.lock().unwrap().take();
    let agent = world.agent().await;
    assert_eq!(entry(&agent, 1).await.outcome, Outcome::OnTrial);
    agent.shut_down(GRACE).await;
    // One that cannot be read is another matter.
    world.disk.documents.lock().unwrap().insert("history".into(), b"no history".to_vec());
    let agent = world.agent().await;
    assert_eq!(entry(&agent, 1).await.outcome, Outcome::Good);
}

/// `quick` with a section, and so much time.
fn with_section(timeout: &str) -> String {
    let mut document: serde_json::Value = serde_json::from_str(&quick("c")).unwrap();
    document["modulesContent"]["$edgeAgent"]["properties.desired"]["marram"]["healthTimeout"] = timeout.into();
    document["modulesContent"]["c"] = serde_json::json!({ "properties.desired": { "limit": 1 } });
    document.to_string()
}

#[tokio::test]
async fn a_deployment_is_not_good_as_long_as_a_section_of_it_is_not_stored() {
    let (world, agent) = device().await;
    world.disk.refuse.lock().unwrap().replace("twin-c".into());
    assert!(matches!(agent.apply(&with_section("1h")).await, Err(ApplyError::Twin { .. })));
    until(&agent, "c", "running").await;
    assert!(matches!(agent.apply(&with_section("1h")).await, Err(ApplyError::Twin { .. })), "nor a second time");
    // Each turn the supervisor has looked at its trial before it answers, and whoever carries out its verdict has had a turn, too.
    for _ in 0..100 {
        until(&agent, "c", "running").await;
        assert_eq!(entry(&agent, 3).await.outcome, Outcome::OnTrial);
    }
    world.disk.refuse.lock().unwrap().take();
    // Nobody applies it again.
    until_good(&agent, 3).await;
    assert_eq!(agent.twin("c").await.unwrap().desired["limit"], 1);
}

#[tokio::test]
async fn a_section_that_is_not_stored_in_time_brings_the_last_good_deployment_back_and_is_not_held_against_the_manifest()
 {
    let (world, agent) = device().await;
    world.disk.refuse.lock().unwrap().replace("twin-c".into());
    assert!(matches!(agent.apply(&with_section("1s")).await, Err(ApplyError::Twin { .. })));
    until_good(&agent, 4).await;
    let newest = entry(&agent, 4).await.accepted.way;
    let Way::Rollback { of: 3, to: 2, because, again: true } = newest else { panic!("{newest:?}") };
    assert!(because.starts_with("the desired properties of `c` could not be stored: "), "{because}");
    assert!(because.ends_with("not within 1 s either"), "{because}");
    world.disk.refuse.lock().unwrap().take();
    assert_eq!(agent.apply(&with_section("1h")).await.unwrap().version, 5);
    until_good(&agent, 5).await;
}

#[tokio::test]
async fn a_module_that_failed_for_good_before_its_section_was_stored_has_its_chance_with_it() {
    let (world, agent) = device().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let program: Arc<super::worlds::Program> = Arc::new(move |_| {
        let is_first = counted.fetch_add(1, SeqCst) == 0;
        Box::pin(async move {
            match is_first {
                true => Exit::new(1, "no limit"),
                false => std::future::pending().await,
            }
        })
    });
    world.guest("c", Guest { program, ..forever() });
    let mut never: serde_json::Value = serde_json::from_str(&with_section("1h")).unwrap();
    never["modulesContent"]["$edgeAgent"]["properties.desired"]["modules"]["c"]["restartPolicy"] = "never".into();
    world.disk.refuse.lock().unwrap().replace("twin-c".into());
    assert!(matches!(agent.apply(&never.to_string()).await, Err(ApplyError::Twin { .. })));
    until(&agent, "c", "failed").await;
    world.disk.refuse.lock().unwrap().take();
    until_good(&agent, 3).await;
    assert_eq!(runs.load(SeqCst), 2);
}

#[tokio::test]
async fn what_is_set_while_a_section_is_missing_is_not_undone_by_the_section() {
    let (world, agent) = device().await;
    world.disk.refuse.lock().unwrap().replace("twin-c".into());
    assert!(matches!(agent.apply(&with_section("1h")).await, Err(ApplyError::Twin { .. })));
    assert!(agent.set_twin("c", r#"{"limit":2}"#).await.is_err());
    world.disk.refuse.lock().unwrap().take();
    agent.set_twin("c", r#"{"limit":2}"#).await.unwrap();
    until_good(&agent, 3).await;
    assert_eq!(agent.twin("c").await.unwrap().desired["limit"], 2);
}

/// `c` is stopped and has a section, and another module runs.
fn beside_c(module: &str, limit: u64) -> String {
    let text = manifest(&[("c", r#"{"status":"stopped"}"#), (module, "{}")], &[]);
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    document["modulesContent"]["$edgeAgent"]["properties.desired"]["marram"] =
        serde_json::json!({ "probation": "0s", "healthTimeout": "1s" });
    document["modulesContent"]["c"] = serde_json::json!({ "properties.desired": { "limit": limit } });
    document.to_string()
}

/// A device whose third deployment is good, and whose twin of `c` was damaged since.
async fn with_a_damaged_twin() -> Arc<Agent> {
    let (world, agent) = device().await;
    agent.apply(&beside_c("a", 1)).await.unwrap();
    until_good(&agent, 3).await;
    agent.shut_down(GRACE).await;
    world.disk.documents.lock().unwrap().insert("twin-c".into(), b"no twin".to_vec());
    let agent = world.agent().await;
    until(&agent, "a", "running").await;
    agent
}

#[tokio::test]
async fn a_twin_that_cannot_be_read_is_not_held_against_a_deployment_that_leaves_it_as_it_is() {
    let agent = with_a_damaged_twin().await;
    assert!(matches!(agent.apply(&beside_c("b", 1)).await, Err(ApplyError::Twin { .. })), "it is told");
    until_good(&agent, 4).await;
    assert_eq!(entry(&agent, 4).await.accepted.unstored_before, BTreeSet::from([ModuleName::new("c").unwrap()]));
    // Also over a restart, and not what it changes.
    assert!(matches!(agent.apply(&beside_c("a", 2)).await, Err(ApplyError::Twin { .. })));
    until_good(&agent, 6).await;
    let newest = entry(&agent, 6).await.accepted.way;
    assert!(matches!(&newest, Way::Rollback { of: 5, to: 4, again: true, .. }), "{newest:?}");
}

#[tokio::test]
async fn what_was_good_before_a_twin_was_damaged_can_be_gone_back_to() {
    let agent = with_a_damaged_twin().await;
    assert!(matches!(agent.apply(&beside_c("b", 2)).await, Err(ApplyError::Twin { .. })));
    assert!(matches!(agent.roll_back(None, None).await, Err(ApplyError::Twin { .. })), "it is told");
    until_good(&agent, 5).await;
    let way = entry(&agent, 5).await.accepted.way;
    assert!(matches!(way, Way::ByHand { to: 3, .. }), "{way:?}");
}

/// `a` is not to run, so what comes for it waits; the route is there, or not.
fn waiting(routes: &[&str], marram: serde_json::Value) -> String {
    let text = manifest_with("crash", &[("a", r#"{"status":"stopped"}"#)], routes);
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    document["modulesContent"]["$edgeAgent"]["properties.desired"]["marram"] = marram;
    document.to_string()
}

const TO_A: &str = r#"FROM /messages INTO BrokeredEndpoint("/modules/a/inputs/in")"#;

fn waits(agent: &Agent) -> usize {
    agent.router().inputs_of("a").iter().map(|endpoint| endpoint.stats().len).sum()
}

#[tokio::test]
async fn what_waits_for_a_sink_that_a_deployment_forgets_stays_until_the_deployment_is_good() {
    let world = World::default();
    world.guest("a", forever());
    world.guest("b", forever());
    let agent = world.agent().await;
    agent.apply(&waiting(&[TO_A], serde_json::json!({ "probation": "0s" }))).await.unwrap();
    until_good(&agent, 1).await;
    for number in 0..3 {
        agent.publish("/messages", &message(&number.to_string())).await.unwrap();
    }
    // On trial: `b` is up, and its probation takes an hour.
    let mut forgets: serde_json::Value = serde_json::from_str(&quick("b")).unwrap();
    forgets["modulesContent"]["$edgeAgent"]["properties.desired"]["marram"] = serde_json::json!({ "probation": "1h" });
    agent.apply(&forgets.to_string()).await.unwrap();
    assert_eq!((waits(&agent), agent.router().endpoint_removed()), (0, 0));
    agent.roll_back(None, Some(2)).await.unwrap();
    assert_eq!(waits(&agent), 3);

    // The same over a restart.
    agent.roll_back(Some(2), None).await.unwrap();
    agent.shut_down(GRACE).await;
    let agent = world.agent().await;
    until(&agent, "b", "running").await;
    agent.roll_back(None, None).await.unwrap();
    assert_eq!((waits(&agent), agent.router().endpoint_removed()), (3, 0));

    agent.apply(&quick("b")).await.unwrap();
    let given_up = async {
        while agent.router().endpoint_removed() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, given_up).await.unwrap();
}

#[tokio::test]
async fn a_module_that_failed_and_is_up_for_a_moment_when_a_deployment_comes_that_leaves_it_as_it_is_is_excused() {
    let world = World::default();
    let fails = Arc::new(Semaphore::new(0));
    let when = fails.clone();
    let program: Arc<super::worlds::Program> = Arc::new(move |_| {
        let when = when.clone();
        Box::pin(async move {
            when.acquire().await.unwrap().forget();
            Exit::new(1, "why")
        })
    });
    world.guest("flaps", Guest { program, ..forever() });
    world.guest("a", forever());
    let agent = world.agent().await;
    let manifest = |value: &str| {
        let of_a = format!(r#"{{"env":{{"V":{{"value":"{value}"}}}}}}"#);
        let text = manifest(&[("flaps", "{}"), ("a", &of_a)], &[]);
        let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
        document["modulesContent"]["$edgeAgent"]["properties.desired"]["marram"] =
            serde_json::json!({ "probation": "2s" });
        document.to_string()
    };
    agent.apply(&manifest("1")).await.unwrap();
    until_good(&agent, 1).await;
    fails.add_permits(1);
    until(&agent, "flaps", "backoff").await;
    agent.restart("flaps").await.unwrap(); // as the end of its back-off
    until(&agent, "flaps", "running").await;
    agent.apply(&manifest("2")).await.unwrap();
    assert_eq!(entry(&agent, 2).await.accepted.failing_before, BTreeSet::from([ModuleName::new("flaps").unwrap()]));
    // And not what is well.
    until_good(&agent, 2).await;
    agent.apply(&manifest("3")).await.unwrap();
    assert!(!entry(&agent, 3).await.accepted.failing_before.iter().any(|name| name.as_str() == "a"));
}
