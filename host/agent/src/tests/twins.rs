//! Twins between modules, the disk, routes and upstream.

use std::{sync::Arc, time::Duration};

use marram_core::ports::Exports;

use super::worlds::{Guest, World, manifest, text};
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
