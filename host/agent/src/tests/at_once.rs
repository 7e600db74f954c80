//! A sender that finds the log idle writes itself; one that must wait for the disk does not.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    hooked::{Call, Hook},
    worlds::*,
};
use crate::Agent;

const STOPPED: &str = r#"{"status":"stopped"}"#;
const TO_B: &str = "FROM /messages/* INTO BrokeredEndpoint('/modules/b/inputs/in')";

/// The names of the threads that stored messages, and a hook that notes them. `before` is called in the thread, before it writes.
fn writers(before: impl Fn(&str) + Send + Sync + 'static) -> (Arc<Mutex<Vec<String>>>, Hook) {
    let writers: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = writers.clone();
    let hook = Arc::new(move |call| {
        if matches!(call, Call::Append(..)) {
            let thread = std::thread::current().name().unwrap_or_default().to_owned();
            before(&thread);
            seen.lock().unwrap().push(thread);
        }
        Ok(())
    });
    (writers, hook)
}

/// Publishes until a message was stored by a thread of this name.
async fn publish_until(agent: &Agent, writers: &Mutex<Vec<String>>, is_meant: impl Fn(&str) -> bool) {
    let publishing = async {
        loop {
            agent.publish("/messages/x", &message("x")).await.unwrap();
            if writers.lock().unwrap().last().is_some_and(|name| is_meant(name)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await; // not so many that the queue is full
        }
    };
    tokio::time::timeout(DEADLINE, publishing).await.expect("none was stored by such a thread");
}

async fn agent_with(durability: &str, hook: Hook) -> (World, Arc<Agent>) {
    let mut world = World::hooked(hook);
    world.at_hand = true;
    let agent = world.agent().await;
    agent.apply(&manifest_with(durability, &[("b", STOPPED)], &[TO_B])).await.unwrap();
    (world, agent)
}

#[tokio::test]
async fn a_sender_that_finds_the_log_idle_stores_its_message_itself() {
    let (writers, hook) = writers(|_| {});
    let (_world, agent) = agent_with("crash", hook).await;
    publish_until(&agent, &writers, |name| name != "message-log").await;
    let stored = writers.lock().unwrap().len();
    assert_eq!(agent.router().inputs_of("b")[0].stats().len, stored, "each is in the queue");
}

#[tokio::test]
async fn what_must_be_synced_is_stored_by_the_logs_own_thread() {
    let (writers, hook) = writers(|_| {});
    let (_world, agent) = agent_with("power", hook).await;
    for _ in 0..20 {
        agent.publish("/messages/x", &message("x")).await.unwrap();
    }
    assert!(writers.lock().unwrap().iter().all(|name| name == "message-log"));
}

#[tokio::test]
async fn a_disk_that_has_kept_a_sender_waiting_is_left_to_the_logs_own_thread_for_a_while() {
    let (writers, hook) = writers(|name| {
        if name != "message-log" {
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let (_world, agent) = agent_with("crash", hook).await;
    publish_until(&agent, &writers, |name| name != "message-log").await;
    agent.publish("/messages/x", &message("x")).await.unwrap();
    assert_eq!(writers.lock().unwrap().last().unwrap(), "message-log");
    // Not for ever.
    publish_until(&agent, &writers, |name| name != "message-log").await;
}
