//! The owner of the message log: what it is call, what it does when the log has no room, and its end.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};

use marram_core::{log::Safety, ports::SendError, route::Origin};

use super::{
    hooked::{Call, Seen},
    worlds::{World, manifest_with, message},
};
use crate::router::{Refusal, Taken};

const TO_B: &str = r#""FROM /messages INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#;
const STOPPED: &str = r#"{"status":"stopped"}"#;

#[tokio::test]
async fn what_is_handed_over_beside_the_stop_is_stored_or_refused_and_takes_no_room() {
    for _ in 0..30 {
        let world = World::default();
        let agent = world.agent().await;
        agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[TO_B])).await.unwrap();
        let (accepted, sequence) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let (agent, accepted, sequence) = (agent.clone(), accepted.clone(), sequence.clone());
                std::thread::spawn(move || {
                    let resolved = agent.router().resolve("/messages", Origin::default());
                    loop {
                        match agent.router().accept(&resolved, &message("x"), &sequence) {
                            Ok(Taken::Storing(..)) => accepted.fetch_add(1, SeqCst),
                            Ok(Taken::Now(_)) => panic!("it goes through the log"),
                            Err(Refusal::Stopped) => break,
                            Err(_) => 0,
                        };
                    }
                })
            })
            .collect();
        while accepted.load(SeqCst) < 100 {
            tokio::task::yield_now().await;
        }
        agent.router().storage().stop().await;
        for sender in senders {
            sender.join().unwrap();
        }
        let input = &agent.router().inputs_of("b")[0];
        assert!(!input.awaits_log(), "room is still set aside");
        assert_eq!(input.stats().len as u64, accepted.load(SeqCst), "what was handed over before the stop is stored");
        assert_eq!(agent.publish("/messages", &message("x")).await, Err(SendError::ShuttingDown));
    }
}

#[tokio::test]
async fn what_a_write_survives_is_what_the_strictest_route_of_the_message_asks_for() {
    let to = |module: &str, durability: &str| {
        format!(
            r#"{{"route":"FROM /messages/{durability}/* INTO BrokeredEndpoint('/modules/{module}/inputs/in')","marram":{{"durability":"{durability}"}}}}"#
        )
    };
    let both = r#"{"route":"FROM /messages/both INTO BrokeredEndpoint('/modules/a/inputs/in')","marram":{"durability":"crash"}}"#;
    let both_power = r#"{"route":"FROM /messages/both INTO BrokeredEndpoint('/modules/b/inputs/in')","marram":{"durability":"power"}}"#;
    let seen = Seen::default();
    let world = World::hooked(seen.hook());
    let agent = world.agent().await;
    let routes = [&*to("a", "crash"), &*to("b", "power"), both, both_power];
    agent.apply(&manifest_with("crash", &[("a", STOPPED), ("b", STOPPED)], &routes)).await.unwrap();
    for (source, safety) in [
        ("/messages/crash/x", Safety::Written),
        ("/messages/power/x", Safety::Synced),
        ("/messages/crash/x", Safety::Written),
        ("/messages/both", Safety::Synced),
    ] {
        agent.publish(source, &message("x")).await.unwrap();
        assert_eq!(seen.take_appends(), [Call::Append(1, safety)], "from {source}");
    }
}
