use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use marram_core::{
    planner::{Action, FIRST_BACKOFF},
    ports::{Exit, Exports, ModuleHost, Sent, Settlement},
};
use tokio::sync::Semaphore;

use super::{
    hooked::Gate,
    worlds::{Guest, World, manifest, message, text},
};
use crate::{Agent, ApplyError, ModuleStatus};

async fn status_of(agent: &Agent, name: &str) -> ModuleStatus {
    let status = agent.status().await.unwrap();
    status.modules.into_iter().find(|module| module.name.as_str() == name).unwrap()
}

/// Asks until the module is in this status.
pub(super) async fn until(agent: &Agent, name: &str, wanted: &str) -> ModuleStatus {
    let found = tokio::time::timeout(super::worlds::DEADLINE, async {
        loop {
            let status = status_of(agent, name).await;
            if status.status == wanted {
                return status;
            }
            tokio::task::yield_now().await;
        }
    });
    match found.await {
        Ok(status) => status,
        Err(_) => panic!("{name} never became {wanted}: {:?}", status_of(agent, name).await),
    }
}

/// Asks until what is said of the module contains this.
async fn until_described(agent: &Agent, name: &str, wanted: &str) -> ModuleStatus {
    let found = tokio::time::timeout(super::worlds::DEADLINE, async {
        loop {
            let status = status_of(agent, name).await;
            if status.description.contains(wanted) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    });
    match found.await {
        Ok(status) => status,
        Err(_) => panic!("{name} never said {wanted}: {:?}", status_of(agent, name).await),
    }
}

fn program(code: i32) -> Guest {
    Guest {
        exports: Exports { run: true, ..Exports::default() },
        program: Arc::new(move |_| Box::pin(async move { Exit::new(code, "ended") })),
        ..Guest::default()
    }
}

fn forever() -> Guest {
    Guest { exports: Exports { run: true, ..Exports::default() }, ..Guest::default() }
}

#[tokio::test]
async fn restart_policies_decide_what_follows_an_exit() {
    let world = World::default();
    world.guest("zero", program(0));
    world.guest("one", program(1));
    let agent = world.agent().await;
    let cases = [
        ("never", "zero", "stopped"),
        ("never", "one", "failed"),
        ("on-failure", "zero", "stopped"),
        ("on-failure", "one", "backoff"),
        ("on-unhealthy", "zero", "stopped"),
        ("on-unhealthy", "one", "backoff"),
        ("always", "zero", "backoff"),
        ("always", "one", "backoff"),
    ];
    let modules: Vec<(String, String)> = cases
        .iter()
        .map(|(policy, image, _)| {
            let extra = format!(r#"{{"restartPolicy":"{policy}","settings":{{"image":"{image}"}}}}"#);
            (format!("{policy}-{image}"), extra)
        })
        .collect();
    let modules: Vec<(&str, &str)> = modules.iter().map(|(name, extra)| (&**name, &**extra)).collect();
    agent.apply(&manifest(&modules, &[])).await.unwrap();
    for ((name, _), (_, _, wanted)) in modules.iter().zip(cases) {
        until(&agent, name, wanted).await;
    }
}

#[tokio::test]
async fn a_module_that_is_given_up_says_so_and_comes_back_when_its_limit_does() {
    let world = World::default();
    world.guest("one", program(1));
    let agent = world.agent().await;
    let limited =
        |limits: &str| manifest(&[("a", &format!(r#"{{"settings":{{"image":"one","sandbox":{{{limits}}}}}}}"#))], &[]);
    agent.apply(&limited(r#""limits":{"maxRestarts":0}"#)).await.unwrap();
    let status = until(&agent, "a", "failed").await;
    assert_eq!(status.description, "exit 1: ended; given up after 0 restarts (`maxRestarts`)");
    let plan = agent.plan(&limited(""), None).await.unwrap();
    let [step] = plan.steps.as_slice() else { panic!("{plan:?}") };
    assert_eq!(status_of(&agent, "a").await.status, "failed", "a plan does nothing");
    assert!(matches!(step.action, Action::Wait | Action::Restart), "{plan:?}");
    agent.apply(&limited("")).await.unwrap();
    until(&agent, "a", "backoff").await;
    agent.shut_down(FIRST_BACKOFF).await;
}

#[tokio::test]
async fn only_what_changed_is_restarted() {
    let world = World::default();
    world.guest("a", forever());
    world.guest("b", forever());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[])).await.unwrap();
    until(&agent, "a", "running").await;
    until(&agent, "b", "running").await;
    let applied = agent.apply(&manifest(&[("a", r#"{"env":{"X":{"value":"1"}}}"#), ("b", "{}")], &[])).await.unwrap();
    assert_eq!((applied.version, applied.changed), (2, true));
    let lines = world.log.until("a again", |lines| lines.iter().filter(|line| *line == "start a").count() == 2).await;
    assert_eq!(lines.iter().filter(|line| *line == "start b").count(), 1);
    // The same document again is no new deployment.
    let applied = agent.apply(&manifest(&[("a", r#"{"env":{"X":{"value":"1"}}}"#), ("b", "{}")], &[])).await.unwrap();
    assert_eq!((applied.version, applied.changed), (2, false));
}

#[tokio::test]
async fn a_bad_manifest_changes_nothing_and_names_every_fault() {
    let world = World::default();
    world.guest("a", forever());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    until(&agent, "a", "running").await;
    let bad = manifest(&[("a", r#"{"restartPolicy":"sometimes","status":"dancing"}"#)], &[r#""FROM nowhere""#]);
    let Err(ApplyError::Bad(faults)) = agent.apply(&bad).await else { panic!("accepted") };
    assert_eq!(faults.0.len(), 3, "{faults}");
    let status = agent.status().await.unwrap();
    assert_eq!(status.deployment_version, 1);
    assert_eq!(status.modules[0].status, "running");
    assert_eq!(world.log.lines(), ["start a"]);
}

#[tokio::test]
async fn a_deployment_whose_sender_goes_away_while_it_is_stored_is_put_in_force() {
    let world = World::default();
    world.guest("a", Guest::default());
    let agent = world.agent().await;
    let gate = Arc::new(Gate::default());
    world.disk.gate.lock().unwrap().replace(("deployment", gate.clone()));
    let manifest = manifest(&[("a", "{}")], &[]);
    tokio::select! {
        _ = agent.apply(&manifest) => unreachable!("its writing waits"),
        () = gate.reached() => {}
    }
    gate.open();
    let again = agent.apply(&manifest).await.unwrap();
    assert_eq!((again.version, again.changed), (1, false));
    until(&agent, "a", "running").await;
}

#[tokio::test]
async fn a_deployment_that_cannot_be_stored_is_refused() {
    let world = World::default();
    world.guest("a", forever());
    let agent = world.agent().await;
    world.disk.full.store(true, SeqCst);
    assert!(matches!(agent.apply(&manifest(&[("a", "{}")], &[])).await, Err(ApplyError::Store(_))));
    assert_eq!(agent.status().await.unwrap().deployment_version, 0);
    assert!(agent.status().await.unwrap().modules.is_empty());
}

#[tokio::test]
async fn the_stored_deployment_starts_from_what_is_on_the_device() {
    let world = World::default();
    world.guest("a", forever());
    let first = world.agent().await;
    first.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    until(&first, "a", "running").await;
    first.shut_down(Duration::from_secs(5)).await;
    let second = world.agent().await;
    until(&second, "a", "running").await;
    assert_eq!(second.status().await.unwrap().deployment_version, 1);
    assert_eq!(*world.fetches.lock().unwrap(), [("a".into(), false), ("a".into(), true)]);
}

#[tokio::test]
async fn an_image_that_is_not_there_backs_off_and_the_others_run() {
    let world = World::default();
    world.guest("a", forever());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("missing", "{}")], &[])).await.unwrap();
    let missing = until(&agent, "missing", "backoff").await;
    assert!(missing.description.starts_with("no image missing; tried again in"), "{}", missing.description);
    until(&agent, "a", "running").await;
}

#[tokio::test]
async fn modules_start_in_their_order_each_when_the_one_before_is_up() {
    let world = World::default();
    let starts = Arc::new(Semaphore::new(0));
    let exports = Exports { start: true, ..Exports::default() };
    world.guest("b", Guest { exports, starts: Some(starts.clone()), ..Guest::default() });
    for name in ["a", "c", "d"] {
        world.guest(name, forever());
    }
    let agent = world.agent().await;
    let modules = [
        ("a", r#"{"startupOrder":3}"#),
        ("b", r#"{"startupOrder":1}"#),
        ("c", r#"{"startupOrder":2}"#),
        ("d", r#"{"startupOrder":1}"#),
    ];
    agent.apply(&manifest(&modules, &[])).await.unwrap();
    until(&agent, "d", "running").await;
    for later in ["a", "c"] {
        assert_eq!(until(&agent, later, "starting").await.last_start, None);
    }
    assert_eq!(until(&agent, "b", "starting").await.name.as_str(), "b");
    starts.add_permits(1);
    let lines = world.log.until("four starts", |lines| lines.len() == 4).await;
    assert_eq!(lines[2..], ["start c", "start a"]);
}

#[tokio::test]
async fn a_module_that_is_stopped_while_it_is_fetched_shows_as_stopped() {
    let world = World::default();
    let fetched = Arc::new(Semaphore::new(0));
    world.guest("a", Guest { fetched: Some(fetched.clone()), ..forever() });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("gone", "{}")], &[])).await.unwrap();
    until(&agent, "a", "preparing").await;
    until(&agent, "gone", "backoff").await;
    let stopped = r#"{"status":"stopped"}"#;
    agent.apply(&manifest(&[("a", stopped), ("gone", stopped)], &[])).await.unwrap();
    assert_eq!(until(&agent, "a", "stopped").await.description, "not started");
    until(&agent, "gone", "stopped").await;
    fetched.add_permits(1);
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    until(&agent, "a", "running").await;
}

#[tokio::test]
async fn an_update_that_is_taken_back_leaves_no_word_of_its_failure() {
    let world = World::default();
    world.guest("a", forever());
    let agent = world.agent().await;
    let (old, new) = (manifest(&[("a", "{}")], &[]), manifest(&[("a", r#"{"settings":{"image":"gone"}}"#)], &[]));
    agent.apply(&old).await.unwrap();
    until(&agent, "a", "running").await;
    agent.apply(&new).await.unwrap();
    until_described(&agent, "a", "its update cannot be prepared").await;
    agent.apply(&old).await.unwrap();
    let status = status_of(&agent, "a").await;
    assert_eq!((&*status.status, status.description.contains("update")), ("running", false), "{status:?}");
}

#[tokio::test]
async fn an_update_that_does_not_start_leaves_the_old_instance_in_charge() {
    let world = World::default();
    world.guest("a", forever());
    let exports = Exports { start: true, input: true, ..Exports::default() };
    world.guest("bad", Guest { exports, start: Arc::new(|_| Ok(Err("no sensor".into()))), ..Guest::default() });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    let before = until(&agent, "a", "running").await;
    agent.apply(&manifest(&[("a", r#"{"settings":{"image":"bad"}}"#)], &[])).await.unwrap();
    let after = until_described(&agent, "a", "its update does not start: exit 1: start-handler: no sensor").await;
    let shown = |status: &ModuleStatus| {
        (status.status.clone(), status.digest.clone(), status.last_start, status.last_exit, status.restart_count)
    };
    assert_eq!(shown(&after), shown(&before));
}

#[tokio::test]
async fn an_update_that_hangs_in_its_start_is_ended_when_it_is_taken_back_and_holds_no_stop_up() {
    let world = World::default();
    world.guest("a", forever());
    world.guest("good", forever());
    let exports = Exports { start: true, ..Exports::default() };
    world.guest("slow", Guest { exports, starts: Some(Arc::new(Semaphore::new(0))), ..Guest::default() });
    let agent = world.agent().await;
    let image = |image: &str| manifest(&[("a", &format!(r#"{{"settings":{{"image":"{image}"}}}}"#))], &[]);
    agent.apply(&image("a")).await.unwrap();
    let old = until(&agent, "a", "running").await;
    let starts =
        |count| move |lines: &[String]| lines.iter().filter(|line| line.starts_with("start ")).count() == count;
    agent.apply(&image("slow")).await.unwrap();
    world.log.until("the start of the slow one", starts(2)).await;
    agent.apply(&image("a")).await.unwrap();
    assert_eq!(until(&agent, "a", "running").await.last_start, old.last_start);

    agent.apply(&image("good")).await.unwrap();
    while status_of(&agent, "a").await.digest == old.digest {
        tokio::task::yield_now().await;
    }
    until(&agent, "a", "running").await;
    agent.apply(&image("slow")).await.unwrap();
    world.log.until("the start of the slow one once more", starts(4)).await;
    tokio::time::timeout(super::worlds::DEADLINE, agent.shut_down(Duration::from_secs(1))).await.unwrap();
}

#[tokio::test]
async fn more_events_than_one_plan_follows_are_all_heard() {
    let world = World::default();
    let loaded = Arc::new(Semaphore::new(0));
    let names: Vec<String> = (0..300).map(|n| format!("m{n}")).collect();
    names.iter().for_each(|name| world.guest(name, Guest { loaded: Some(loaded.clone()), ..forever() }));
    let agent = world.agent().await;
    let modules: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "{}")).collect();
    agent.apply(&manifest(&modules, &[])).await.unwrap();
    until(&agent, "m0", "preparing").await;
    loaded.add_permits(names.len()); // all at once
    for name in &names {
        until(&agent, name, "running").await;
    }
}

#[tokio::test]
async fn components_that_take_long_to_compile_keep_no_others_waiting() {
    let world = World::default();
    let loaded = Arc::new(Semaphore::new(0));
    let names: Vec<String> = (0..10).map(|n| format!("m{n}")).collect();
    names.iter().for_each(|name| world.guest(name, Guest { loaded: Some(loaded.clone()), ..forever() }));
    world.guest("z", forever());
    let agent = world.agent().await;
    let modules: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "{}")).chain([("z", "{}")]).collect();
    agent.apply(&manifest(&modules, &[])).await.unwrap();
    until(&agent, "z", "running").await;
    assert_eq!(status_of(&agent, "m0").await.status, "preparing");
    loaded.add_permits(10);
    for name in &names {
        until(&agent, name, "running").await;
    }
}

/// Two images are fetched at once, and `never` does not come; `z` does, once it has a place.
fn two_places() -> World {
    let mut world = World::default();
    world.places = Some(Arc::new(Semaphore::new(2)));
    world.guest("never", Guest { fetched: Some(Arc::new(Semaphore::new(0))), ..forever() });
    world.guest("a", forever());
    world.guest("z", forever());
    world
}

/// Modules `m` and `n` with these settings, and others beside them.
fn two_and(extra: &str, others: &[(&str, &str)]) -> String {
    manifest(&[&[("m", extra), ("n", extra)], others].concat(), &[])
}

const NEVER: &str = r#"{"settings":{"image":"never"}}"#;

async fn until_both_are_fetched(world: &World) {
    let fetched = async {
        while world.fetches.lock().unwrap().iter().filter(|(image, _)| image == "never").count() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::worlds::DEADLINE, fetched).await.expect("both have a place");
}

#[tokio::test]
async fn the_fetch_for_a_module_that_is_removed_stopped_or_gets_another_image_gives_its_place_back() {
    let z = ("z", "{}");
    let removed = manifest(&[z], &[]);
    let stopped = two_and(r#"{"settings":{"image":"never"},"status":"stopped"}"#, &[z]);
    let changed = two_and(r#"{"settings":{"image":"a"}}"#, &[z]);
    for (instead, then) in [(removed, None), (stopped, Some("stopped")), (changed, Some("running"))] {
        let world = two_places();
        let agent = world.agent().await;
        agent.apply(&two_and(NEVER, &[])).await.unwrap();
        until_both_are_fetched(&world).await;
        agent.apply(&instead).await.unwrap();
        until(&agent, "z", "running").await;
        match then {
            Some(status) => drop(until(&agent, "m", status).await),
            None => assert_eq!(agent.status().await.unwrap().modules.len(), 1, "forgotten"),
        }
    }
}

#[tokio::test]
async fn the_fetch_for_an_update_that_is_taken_back_gives_its_place_back() {
    let world = two_places();
    let agent = world.agent().await;
    let old = r#"{"settings":{"image":"a"}}"#;
    agent.apply(&two_and(old, &[])).await.unwrap();
    let before = [until(&agent, "m", "running").await, until(&agent, "n", "running").await];
    agent.apply(&two_and(NEVER, &[])).await.unwrap();
    until_both_are_fetched(&world).await;
    agent.apply(&two_and(old, &[("z", "{}")])).await.unwrap();
    until(&agent, "z", "running").await;
    assert_eq!(
        before.map(|status| status.last_start),
        [status_of(&agent, "m").await, status_of(&agent, "n").await].map(|status| status.last_start)
    );
}

#[tokio::test]
async fn an_operator_restarts_at_once_what_runs_and_what_is_in_back_off() {
    let world = World::default();
    world.guest("a", forever());
    world.guest("one", program(1));
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("one", "{}")], &[])).await.unwrap();
    until(&agent, "a", "running").await;
    until(&agent, "one", "backoff").await;
    agent.restart("a").await.unwrap();
    agent.restart("one").await.unwrap();
    let twice = |name: &'static str| {
        move |lines: &[String]| lines.iter().filter(|line| **line == format!("start {name}")).count() == 2
    };
    world.log.until("a twice", twice("a")).await;
    world.log.until("one twice", twice("one")).await;
    assert_eq!(until(&agent, "a", "running").await.restart_count, 1);
    assert!(agent.restart("nobody").await.unwrap_err().to_string().contains("no module `nobody`"));
}

#[tokio::test]
async fn a_removed_module_is_stopped_and_forgotten() {
    let world = World::default();
    world.guest("a", forever());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    until(&agent, "a", "running").await;
    agent.apply(&manifest(&[], &[])).await.unwrap();
    while !agent.status().await.unwrap().modules.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn twins_reach_the_handler_whole_at_the_start_and_as_patches_later() {
    let world = World::default();
    let exports = Exports { input: true, twin: true, ..Exports::default() };
    world.guest("a", Guest { exports, ..Guest::default() });
    let agent = world.agent().await;
    let mut document: serde_json::Value = serde_json::from_str(&manifest(&[("a", "{}")], &[])).unwrap();
    document["modulesContent"]["a"] = serde_json::json!({ "properties.desired": { "limit": 1, "unit": "C" } });
    agent.apply(&document.to_string()).await.unwrap();
    world.log.until("the whole", |lines| lines.contains(&r#"desired 2 {"limit":1,"unit":"C"}"#.into())).await;
    assert_eq!(agent.set_twin("a", r#"{"limit":5}"#).await.unwrap(), 3);
    world.log.until("the patch", |lines| lines.contains(&r#"desired 3 {"limit":5}"#.into())).await;
    let twin = loop {
        let twin = agent.twin("a").await.unwrap();
        if twin.reported["desiredAck"]["version"] == 3 {
            break twin;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(twin.desired, serde_json::json!({ "limit": 5, "unit": "C" }));
    assert_eq!(twin.desired_origin, "local");
    // The same manifest does not take back what the operator set, also not over a restart of the host.
    agent.shut_down(Duration::from_secs(5)).await;
    let again = world.agent().await;
    again.apply(&document.to_string()).await.unwrap();
    assert_eq!(again.twin("a").await.unwrap().desired["limit"], 5);
}

#[tokio::test]
async fn at_the_end_what_waits_is_handled_and_upstream_has_it_all() {
    let world = World::default();
    let sender = Guest {
        exports: Exports { start: true, input: true, ..Exports::default() },
        start: Arc::new(|host: &dyn ModuleHost| {
            for n in 0..200 {
                assert!(matches!(host.try_send("out", &message(&n.to_string())), Sent::Accepted(_)));
            }
            Ok(Ok(()))
        }),
        ..Guest::default()
    };
    world.guest("a", sender);
    let log = world.log.clone();
    let handler: Arc<super::worlds::Handler> = Arc::new(move |host, delivery| {
        let result = host.try_send("up", &delivery.accepted.message);
        log.push(format!("{} {result:?}", text(&delivery.accepted.message)));
        Box::pin(async {
            tokio::task::yield_now().await;
            Ok(Settlement::Done)
        })
    });
    world.guest("b", Guest { handler, ..Guest::default() });
    let agent = world.agent().await;
    let routes = [
        r#""FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#,
        r#""FROM /messages/modules/b/* INTO $upstream""#,
    ];
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &routes)).await.unwrap();
    world.log.until("b has begun", |lines| lines.iter().any(|line| line.starts_with("5 "))).await;
    agent.shut_down(Duration::from_secs(10)).await;
    assert_eq!(world.upstream.taken.lines().len(), 200);
    assert!(world.upstream.flushed.load(SeqCst));
}

#[tokio::test]
async fn an_instance_that_does_not_end_is_stopped_in_the_middle_of_its_call() {
    let world = World::default();
    let log = world.log.clone();
    let handler: Arc<super::worlds::Handler> = Arc::new(move |_, _| {
        log.push("stuck");
        Box::pin(std::future::pending())
    });
    let start = Arc::new(|host: &dyn ModuleHost| {
        host.try_send("out", &message("x"));
        Ok(Ok(()))
    });
    let exports = Exports { start: true, input: true, ..Exports::default() };
    world.guest("a", Guest { handler, start, exports, ..Guest::default() });
    let agent = world.agent().await;
    let own = r#""FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/a/inputs/in\")""#;
    agent.apply(&manifest(&[("a", "{}")], &[own])).await.unwrap();
    world.log.until("stuck", |lines| lines.contains(&"stuck".into())).await;
    let ended = tokio::time::timeout(super::worlds::DEADLINE, agent.shut_down(Duration::from_millis(300))).await;
    assert!(ended.is_ok(), "the host ends whatever its guests do");
}

#[tokio::test]
async fn other_credentials_are_tried_at_once() {
    let world = World::default();
    let agent = world.agent().await;
    let mut document: serde_json::Value = serde_json::from_str(&manifest(&[("a", "{}")], &[])).unwrap();
    agent.apply(&document.to_string()).await.unwrap();
    until(&agent, "a", "backoff").await;
    world.guest("a", forever());
    document["modulesContent"]["$edgeAgent"]["properties.desired"]["runtime"]["settings"]["registryCredentials"] =
        serde_json::json!({ "r": { "address": "example.test", "username": "u", "password": "p" } });
    agent.apply(&document.to_string()).await.unwrap();
    until(&agent, "a", "running").await;
}

#[tokio::test]
async fn other_credentials_are_tried_at_once_for_an_update_too() {
    let world = World::default();
    world.guest("a", forever());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    until(&agent, "a", "running").await;
    let update = manifest(&[("a", r#"{"settings":{"image":"new"}}"#)], &[]);
    let mut document: serde_json::Value = serde_json::from_str(&update).unwrap();
    agent.apply(&document.to_string()).await.unwrap();
    until_described(&agent, "a", "its update cannot be prepared: no image new").await;
    world.guest("new", forever());
    document["modulesContent"]["$edgeAgent"]["properties.desired"]["runtime"]["settings"]["registryCredentials"] =
        serde_json::json!({ "r": { "address": "example.test", "username": "u", "password": "p" } });
    agent.apply(&document.to_string()).await.unwrap();
    let taken_over = async {
        while status_of(&agent, "a").await.digest.as_deref() != Some("sha256:new") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(FIRST_BACKOFF / 2, taken_over).await.expect("at once");
}

#[tokio::test]
async fn a_module_in_back_off_waits_there_for_its_update_and_tells_why_it_is_not_to_be_had() {
    let world = World::default();
    world.guest("a", program(1));
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    until(&agent, "a", "backoff").await;
    agent.apply(&manifest(&[("a", r#"{"settings":{"image":"gone"}}"#)], &[])).await.unwrap();
    let status = until_described(&agent, "a", "; its update cannot be prepared: no image gone").await;
    assert!(status.status == "backoff" && status.description.contains("exit 1: ended; restarts in"), "{status:?}");
    assert_eq!(status.digest.as_deref(), Some("sha256:a"), "the old version is kept");
    world.guest("good", forever());
    agent.apply(&manifest(&[("a", r#"{"settings":{"image":"good"}}"#)], &[])).await.unwrap();
    let status = until(&agent, "a", "running").await;
    assert_eq!(status.digest.as_deref(), Some("sha256:good"), "at once, not after the back-off");
}

#[tokio::test]
async fn the_stored_manifest_is_the_one_that_was_written() {
    let world = World::default();
    world.guest("a", forever());
    let text = manifest(&[("a", "{}")], &[]);
    let with_mark = format!("\u{feff}{text}");
    let agent = world.agent().await;
    agent.apply(&with_mark).await.unwrap();
    until(&agent, "a", "running").await;
    assert!(!agent.apply(&text).await.unwrap().changed, "a byte order mark is no change");
    agent.shut_down(Duration::from_secs(5)).await;
    let again = world.agent().await;
    until(&again, "a", "running").await;
    assert!(!again.apply(&with_mark).await.unwrap().changed);
    let two_routes = |first: &str, second: &str| {
        let routes = format!(
            r#""z":{{"route":"FROM /messages INTO $upstream","timeToLiveSecs":{first}}},"a":{{"route":"FROM /messages INTO $upstream","timeToLiveSecs":{second}}}"#
        );
        text.replace(r#""routes":{}"#, &format!(r#""routes":{{{routes}}}"#))
    };
    assert!(again.apply(&two_routes("11", "22")).await.unwrap().changed);
    assert!(again.apply(&two_routes("22", "11")).await.unwrap().changed, "the first of equal routes decides");
    again.shut_down(Duration::from_secs(5)).await;
    let third = world.agent().await;
    assert!(!third.apply(&two_routes("22", "11")).await.unwrap().changed, "also after a restart");
}

#[tokio::test]
async fn a_manifest_to_begin_with_goes_before_the_stored_one_unless_it_is_bad() {
    let world = World::default();
    world.guest("old", forever());
    world.guest("new", forever());
    let first = world.agent().await;
    first.apply(&manifest(&[("old", "{}")], &[])).await.unwrap();
    until(&first, "old", "running").await;
    first.shut_down(Duration::from_secs(5)).await;
    let second = world.agent_with(Some(manifest(&[("new", "{}")], &[]))).await;
    until(&second, "new", "running").await;
    assert!(matches!(second.initial(), Some(Ok(applied)) if applied.version == 2));
    assert_eq!(world.log.lines(), ["start old", "start new"], "what was removed is not started again");
    second.shut_down(Duration::from_secs(5)).await;
    let same = world.agent_with(Some(manifest(&[("new", "{}")], &[]))).await;
    until(&same, "new", "running").await;
    assert!(matches!(same.initial(), Some(Ok(applied)) if applied.version == 2 && !applied.changed));
    let last_fetch = world.fetches.lock().unwrap().last().cloned();
    assert_eq!(last_fetch, Some(("new".into(), true)), "what is in force already starts without a network");
    same.shut_down(Duration::from_secs(5)).await;
    let third = world.agent_with(Some("{".into())).await;
    assert!(matches!(third.initial(), Some(Err(ApplyError::Bad(_)))));
    until(&third, "new", "running").await;
}

#[tokio::test]
async fn a_section_that_could_not_be_stored_is_told_tried_again_and_applied_when_the_same_manifest_comes_again() {
    let world = World::default();
    world.guest("a", Guest { exports: Exports { twin: true, ..Exports::default() }, ..Guest::default() });
    let agent = world.agent().await;
    let document = |limit: u64| {
        let mut document: serde_json::Value = serde_json::from_str(&manifest(&[("a", "{}")], &[])).unwrap();
        document["modulesContent"]["a"] = serde_json::json!({ "properties.desired": { "limit": limit } });
        document.to_string()
    };
    let desired_status = async || agent.reported().await.unwrap()["$edgeAgent"]["lastDesiredStatus"].clone();
    let refuse = |refuse: bool| *world.disk.refuse.lock().unwrap() = refuse.then(|| "twin-a".into());
    refuse(true);
    assert!(matches!(agent.apply(&document(1)).await, Err(ApplyError::Twin { .. })));
    until(&agent, "a", "running").await;
    let told = desired_status().await;
    assert_eq!(told["code"], 500);
    assert!(
        told["description"].as_str().unwrap().starts_with("the desired properties of `a` could not be stored"),
        "{told}"
    );
    refuse(false);
    assert!(agent.apply(&document(1)).await.unwrap().changed);
    assert_eq!(agent.twin("a").await.unwrap().desired["limit"], 1);
    assert_eq!(desired_status().await["code"], 200);

    refuse(true);
    assert!(matches!(agent.apply(&document(2)).await, Err(ApplyError::Twin { .. })));
    refuse(false);
    // Nobody applies it again.
    world.log.until("the module to be told", |lines| lines.iter().any(|line| line.contains(r#"{"limit":2}"#))).await;
    let deadline = tokio::time::Instant::now() + super::worlds::DEADLINE;
    while desired_status().await["code"] != 200 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}
