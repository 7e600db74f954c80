//! A full queue that gives up messages for newer or more urgent ones, also of what is in the log.

use marram_core::ports::SendError;

use super::{
    storing::{note_in, noted, noting, numbers, queue_with},
    worlds::{manifest_with, message},
};
use crate::Agent;

const STOPPED: &str = r#"{"status":"stopped"}"#;

#[tokio::test]
async fn a_full_queue_that_may_gives_up_its_oldest_in_the_log_too() {
    let world = noting();
    let agent = world.agent().await;
    let route = r#"{"route":"FROM /messages INTO BrokeredEndpoint('/modules/b/inputs/in')","marram":{"overflow":"drop-oldest"}}"#;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[route])).await.unwrap();
    let most = agent.status().await.unwrap().queues[0].max_bytes / 100_128;
    let sent = most as u32 + 10;
    let padding = "x".repeat(100_000 - 5);
    let texts: Vec<String> = numbers(0..sent).into_iter().map(|n| format!("{n:>5}{padding}")).collect();
    for text in &texts {
        insist(&agent, "/messages", text).await;
    }
    let queue = queue_with(&agent, |queue| queue.length == most).await;
    assert_eq!(queue.dropped, [("overflow".into(), 10)].into());
    // None of them is kept as a dead letter, and a kill brings none back.
    assert_eq!(agent.dead_letters(None).await.unwrap().letters, []);
    let next = world.after_kill();
    note_in(&next);
    let agent = next.agent().await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[route])).await.unwrap();
    assert!(noted(&next, most).await == texts[10..]);
    assert_eq!(queue_with(&agent, |queue| queue.length == 0).await.delivered, most as u64);
}

#[tokio::test]
async fn a_full_queue_that_may_gives_up_its_least_urgent_in_the_log_too() {
    let world = noting();
    let agent = world.agent().await;
    let route = |source: &str, priority: u8| {
        format!(
            r#"{{"route":"FROM /messages/{source} INTO BrokeredEndpoint('/modules/b/inputs/in')","priority":{priority},"marram":{{"overflow":"drop-lowest-priority"}}}}"#
        )
    };
    let routes = [&*route("low", 9), &*route("high", 1)];
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &routes)).await.unwrap();
    let most = agent.status().await.unwrap().queues[0].max_bytes / 100_128;
    let padding = "x".repeat(100_000 - 5);
    let texts: Vec<String> = numbers(0..most as u32 + 3).into_iter().map(|n| format!("{n:>5}{padding}")).collect();
    let (low, high) = texts.split_at(most);
    for text in low {
        agent.publish("/messages/low", &message(text)).await.unwrap();
    }
    for text in high {
        insist(&agent, "/messages/high", text).await;
    }
    // Nothing is given up for what is not more urgent.
    assert_eq!(agent.publish("/messages/low", &message(&low[0])).await, Err(SendError::Full));
    let queue = queue_with(&agent, |queue| queue.length == most).await;
    assert_eq!(queue.dropped, [("overflow".into(), 3)].into());
    // None of them is kept as a dead letter, and a kill brings none back.
    assert_eq!(agent.dead_letters(None).await.unwrap().letters, []);
    let next = world.after_kill();
    note_in(&next);
    let agent = next.agent().await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &routes)).await.unwrap();
    assert!(noted(&next, most).await == [high, &low[3..]].concat(), "the oldest of the least urgent went");
    assert_eq!(queue_with(&agent, |queue| queue.length == 0).await.delivered, most as u64);
}

/// What is behind the window must be read before it can be given up: the sender may have to ask again.
async fn insist(agent: &Agent, source: &str, text: &str) {
    while let Err(error) = agent.publish(source, &message(text)).await {
        assert_eq!(error, SendError::Full);
        tokio::task::yield_now().await;
    }
}
