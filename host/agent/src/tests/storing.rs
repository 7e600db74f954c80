//! Messages that outlive the host: the router over the real log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::ports::{Exports, SendError, Settlement};

use super::worlds::{DEADLINE, Guest, Handler, World, manifest_with, message, open_log, text};
use crate::{Agent, DeadLetterError, QueueStatus};

const TO_B: &str = r#""FROM /messages INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#;
const TO_C: &str = r#""FROM /messages INTO BrokeredEndpoint(\"/modules/c/inputs/in\")""#;
const STOPPED: &str = r#"{"status":"stopped"}"#;

pub(super) fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

pub(super) async fn publish(agent: &Agent, texts: &[String]) {
    for text in texts {
        agent.publish("/messages", &message(text)).await.unwrap();
    }
}

/// A world whose `b` handles what comes and notes it.
pub(super) fn noting() -> World {
    let world = World::default();
    note_in(&world);
    world
}

pub(super) fn note_in(world: &World) {
    let log = world.log.clone();
    world.handler("b", move |_, delivery| {
        log.push(text(&delivery.accepted.message));
        Ok(Settlement::Done)
    });
}

pub(super) async fn noted(world: &World, count: usize) -> Vec<String> {
    let lines = world
        .log
        .until(&format!("{count} messages"), |lines| {
            lines.iter().filter(|line| !line.starts_with("start")).count() >= count
        })
        .await;
    lines.into_iter().filter(|line| !line.starts_with("start")).collect()
}

pub(super) async fn queue_with(agent: &Agent, wanted: impl Fn(&QueueStatus) -> bool) -> QueueStatus {
    let waiting = async {
        loop {
            let queue = agent.status().await.unwrap().queues[0].clone();
            if wanted(&queue) {
                return queue;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, waiting).await {
        Ok(queue) => queue,
        Err(_) => panic!("the queue stays {:?}", agent.status().await.unwrap().queues),
    }
}

/// Dead letters of a world whose agent has ended: text, endpoint, reason, attempts.
fn dead_letters(world: &World) -> Vec<(String, String, String, u32)> {
    let (mut log, _) = open_log(world.messages.path());
    let letters = log.dead_letters(None, usize::MAX).unwrap();
    letters
        .into_iter()
        .map(|letter| {
            let death = letter.death.unwrap();
            let text = text(&letter.accepted.message);
            (text, death.endpoint.to_string(), death.reason.to_string(), death.attempts)
        })
        .collect()
}

#[tokio::test]
async fn messages_go_from_guest_to_guest_to_upstream_in_order_through_the_log() {
    for durability in ["crash", "power"] {
        let world = World::default();
        let program: Arc<super::worlds::Program> = Arc::new(|host| {
            Box::pin(async move {
                for text in numbers(0..500) {
                    host.send("out".into(), message(&text)).await.unwrap();
                }
                std::future::pending().await
            })
        });
        let exports = Exports { run: true, ..Exports::default() };
        world.guest("a", Guest { exports, program, ..Guest::default() });
        let forward: Arc<Handler> = Arc::new(|host, delivery| {
            let sent = host.send("up".into(), delivery.accepted.message.clone());
            Box::pin(async move { sent.await.map(|_| Settlement::Done).map_err(|_| unreachable!()) })
        });
        world.guest("b", Guest { handler: forward, ..Guest::default() });
        let agent = world.agent().await;
        let routes = [
            r#""FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#,
            r#""FROM /messages/modules/b/* INTO $upstream""#,
        ];
        agent.apply(&manifest_with(durability, &[("a", "{}"), ("b", "{}")], &routes)).await.unwrap();
        let taken = world.upstream.taken.until("500 messages", |lines| lines.len() == 500).await;
        assert_eq!(taken, numbers(0..500));
        queue_with(&agent, |queue| queue.delivered == 500).await;
        let flushed = world.upstream.flushed.load(std::sync::atomic::Ordering::SeqCst);
        assert_eq!(flushed, durability == "power", "the log forgets what upstream might lose without power");
        agent.shut_down(Duration::from_secs(5)).await;
        let (_, recovery) = open_log(world.messages.path());
        assert_eq!((recovery.references, recovery.damage), (0, vec![]), "all is settled");
    }
}

#[tokio::test]
async fn what_was_accepted_is_delivered_after_a_kill_in_order() {
    let world = noting();
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[TO_B])).await.unwrap();
    publish(&agent, &numbers(0..100)).await;
    let next = world.after_kill();
    note_in(&next);
    let agent = next.agent().await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[TO_B])).await.unwrap();
    publish(&agent, &numbers(100..120)).await;
    assert_eq!(noted(&next, 120).await, numbers(0..120));
    assert_eq!(queue_with(&agent, |queue| queue.length == 0).await.delivered, 120);
}

#[tokio::test]
async fn messages_of_a_memory_route_are_not_in_the_log() {
    let world = noting();
    let agent = world.agent().await;
    let memory =
        r#"{"route":"FROM /messages INTO BrokeredEndpoint('/modules/c/inputs/in')","marram":{"durability":"memory"}}"#;
    agent.apply(&manifest_with("crash", &[("b", STOPPED), ("c", STOPPED)], &[TO_B, memory])).await.unwrap();
    publish(&agent, &numbers(0..10)).await;
    let queues = agent.status().await.unwrap().queues;
    assert_eq!([queues[0].length, queues[1].length], [10, 10], "accepted for both");
    let agent = world.after_kill().agent().await;
    let queues = agent.status().await.unwrap().queues;
    assert_eq!([queues[0].length, queues[1].length], [10, 0]);
}

#[tokio::test]
async fn a_queue_changed_to_memory_has_the_bound_of_memory_once_the_log_holds_none_of_it() {
    let world = noting();
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[TO_B])).await.unwrap();
    let share = agent.status().await.unwrap().queues[0].max_bytes;
    let padding = "x".repeat(1000);
    let texts: Vec<String> = numbers(0..500).into_iter().map(|n| format!("{n} {padding}")).collect();
    publish(&agent, &texts).await;
    agent.apply(&manifest_with("memory", &[("b", STOPPED)], &[TO_B])).await.unwrap();
    assert_eq!(agent.status().await.unwrap().queues[0].max_bytes, share, "what comes now goes into the log as well");
    publish(&agent, &texts).await;
    agent.apply(&manifest_with("memory", &[("b", "{}")], &[TO_B])).await.unwrap();
    assert_eq!(noted(&world, 1000).await.len(), 1000);
    let queue = queue_with(&agent, |queue| queue.length == 0).await;
    assert_eq!(queue.max_bytes, crate::endpoint::INPUT_QUEUE_BYTES);
}

#[tokio::test]
async fn a_backlog_stays_on_the_disk_and_is_delivered_in_order() {
    let world = noting();
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[TO_B])).await.unwrap();
    let padding = "x".repeat(1000);
    let texts: Vec<String> = numbers(0..800).into_iter().map(|n| format!("{n} {padding}")).collect();
    publish(&agent, &texts).await;
    let queue = agent.status().await.unwrap().queues[0].clone();
    assert_eq!(queue.length, 800);
    let held = agent.router().inputs_of("b")[0].held_bytes();
    assert!(held <= marram_core::backlog::WINDOW_BYTES + 2000, "{held} of {} bytes are in memory", queue.bytes);
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[TO_B])).await.unwrap();
    assert!(noted(&world, 800).await == texts, "in order, each once");
    let queue = queue_with(&agent, |queue| queue.delivered == 800).await;
    assert_eq!((queue.length, queue.bytes), (0, 0));
}

#[tokio::test]
async fn an_urgent_message_does_not_wait_for_a_backlog_on_the_disk() {
    let world = noting();
    let agent = world.agent().await;
    let urgent =
        r#"{"route":"FROM /messages WHERE u = '1' INTO BrokeredEndpoint('/modules/b/inputs/in')","priority":0}"#;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[TO_B, urgent])).await.unwrap();
    let padding = "x".repeat(1000);
    let texts: Vec<String> = numbers(0..500).into_iter().map(|n| format!("{n} {padding}")).collect();
    publish(&agent, &texts).await;
    let mut first = marram_core::message::Message::clone(&message("urgent"));
    first.set_property("u", "1");
    agent.publish("/messages", &Arc::new(first)).await.unwrap();
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[TO_B, urgent])).await.unwrap();
    let lines = noted(&world, 501).await;
    assert_eq!(lines[0], "urgent");
    assert!(lines[1..] == texts);
}

#[tokio::test]
async fn what_a_receiver_rejects_or_fails_too_often_is_a_dead_letter() {
    let world = World::default();
    let log = world.log.clone();
    world.handler("b", move |_, delivery| {
        log.push(format!("{} {}", text(&delivery.accepted.message), delivery.attempt));
        Ok(match &*text(&delivery.accepted.message) {
            "bad" => Settlement::Reject("no json".into()),
            _ => Settlement::Retry(Some(Duration::ZERO)),
        })
    });
    let agent = world.agent().await;
    let route =
        r#"{"route":"FROM /messages INTO BrokeredEndpoint('/modules/b/inputs/in')","marram":{"maxAttempts":3}}"#;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[route])).await.unwrap();
    publish(&agent, &["bad".into(), "never".into()]).await;
    let queue = queue_with(&agent, |queue| queue.length == 0).await;
    assert_eq!(queue.dropped, [("max_attempts".into(), 1), ("rejected".into(), 1)].into());
    assert_eq!(queue.retried, 2);
    agent.shut_down(Duration::from_secs(5)).await;
    let letter = |text: &str, reason: &str, attempts| (text.to_owned(), "b/in".to_owned(), reason.to_owned(), attempts);
    assert_eq!(dead_letters(&world), [letter("bad", "rejected: no json", 1), letter("never", "max_attempts", 3)]);
}

#[tokio::test]
async fn a_message_that_ends_the_host_is_a_dead_letter_after_its_attempts_and_takes_no_other_with_it() {
    let mut world = World::default();
    let route =
        r#"{"route":"FROM /messages INTO BrokeredEndpoint('/modules/b/inputs/in')","marram":{"maxAttempts":3}}"#;
    let manifest = manifest_with("crash", &[("b", "{}")], &[route]);
    world.guest("b", Guest::default());
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[route])).await.unwrap();
    publish(&agent, &["poison".into(), "good".into()]).await;
    for attempt in 1..=3 {
        world = world.after_kill();
        let log = world.log.clone();
        // The host dies while this call runs.
        let handler: Arc<Handler> = Arc::new(move |_, delivery| {
            log.push(format!("{} {}", text(&delivery.accepted.message), delivery.attempt));
            Box::pin(std::future::pending())
        });
        world.guest("b", Guest { handler, ..Guest::default() });
        let agent = world.agent().await;
        agent.apply(&manifest).await.unwrap();
        assert_eq!(noted(&world, 1).await, [format!("poison {attempt}")]);
    }
    world = world.after_kill();
    note_in(&world);
    let agent = world.agent().await;
    assert_eq!(noted(&world, 1).await, ["good"], "the next one was not blamed");
    queue_with(&agent, |queue| queue.length == 0).await;
    agent.shut_down(Duration::from_secs(5)).await;
    assert_eq!(dead_letters(&world), [("poison".into(), "b/in".into(), "max_attempts".into(), 3)]);
}

#[tokio::test]
async fn messages_of_an_endpoint_that_is_gone_become_dead_letters_also_when_the_host_did_not_run_then() {
    let world = World::default();
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED), ("c", STOPPED)], &[TO_B, TO_C])).await.unwrap();
    publish(&agent, &numbers(0..3)).await;
    let next = world.after_kill();
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[TO_B])).await.unwrap();
    agent.shut_down(Duration::from_secs(5)).await;
    assert_eq!(agent.router().endpoint_removed(), 3);
    let expected: Vec<_> =
        numbers(0..3).into_iter().map(|n| (n, "c/in".to_owned(), "endpoint_removed".to_owned(), 0)).collect();
    assert_eq!(dead_letters(&world), expected);

    let agent = next.agent_with(Some(manifest_with("crash", &[("b", STOPPED)], &[TO_B]))).await;
    assert_eq!(agent.status().await.unwrap().queues[0].length, 3, "of the other endpoint");
    agent.shut_down(Duration::from_secs(5)).await;
    assert_eq!(dead_letters(&next), expected);
}

/// Inputs of `b`, fed by the sources `/messages/s0` and so on, and upstream, by `/messages/up`.
fn ways_into(inputs: usize) -> Vec<String> {
    let inputs = (0..inputs).map(|n| format!("FROM /messages/s{n} INTO BrokeredEndpoint('/modules/b/inputs/i{n:02}')"));
    inputs.chain(["FROM /messages/up INTO $upstream".into()]).collect()
}

/// Sends on each way until it is refused; how many were accepted, upstream last.
async fn fill(agent: &Agent, inputs: usize, message: &Arc<marram_core::message::Message>) -> Vec<usize> {
    let mut accepted = vec![0; inputs + 1];
    for (n, accepted) in accepted.iter_mut().enumerate() {
        let source = if n < inputs { format!("/messages/s{n}") } else { "/messages/up".into() };
        let error = loop {
            match agent.publish(&source, message).await {
                Ok(()) => *accepted += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error, SendError::Full);
    }
    accepted
}

#[tokio::test]
async fn a_sender_hears_full_until_the_log_has_room_and_a_refused_message_takes_neither_room_nor_number() {
    let world = World::default();
    let log = world.log.clone();
    world.handler("b", move |_, delivery| {
        log.push(delivery.accepted.sequence.to_string());
        Ok(Settlement::Done)
    });
    world.upstream.down.store(true, SeqCst);
    let agent = world.agent().await;
    let ways = ways_into(60);
    let ways: Vec<&str> = ways.iter().map(String::as_str).collect();
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &ways)).await.unwrap();
    // One is always taken, also when it is larger than the share of its queue: so they fill the log.
    let large = message(&"x".repeat(262_000));
    let accepted = fill(&agent, 60, &large).await;
    let status = agent.status().await.unwrap();
    assert!(status.message_log.error.is_some(), "{accepted:?} {:?}", status.message_log);
    let bytes = |queue: &QueueStatus| queue.bytes / 262_128;
    assert_eq!(status.queues.iter().skip(1).map(bytes).collect::<Vec<_>>(), accepted[..60], "no room is taken");
    assert_eq!((status.queues[0].bytes, bytes(&status.queues[0])), (accepted[60] * 262_128, accepted[60]));
    agent.apply(&manifest_with("crash", &[("b", "{}")], &ways)).await.unwrap();
    let inputs: usize = accepted[..60].iter().sum();
    noted(&world, inputs).await;
    tokio::time::timeout(DEADLINE, async {
        while agent.publish("/messages/s0", &large).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let numbers: Vec<u64> = noted(&world, inputs + 1).await.iter().map(|n| n.parse().unwrap()).collect();
    assert_eq!(numbers[inputs], accepted.iter().sum::<usize>() as u64 + 1, "no number was taken");
    assert_eq!(agent.status().await.unwrap().message_log.error, None);
}

#[tokio::test]
async fn queues_in_the_log_are_bounded_by_shares_that_fit_into_it_together() {
    let world = World::default();
    world.upstream.down.store(true, SeqCst);
    let agent = world.agent().await;
    let ways = ways_into(9);
    let ways: Vec<&str> = ways.iter().map(String::as_str).collect();
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &ways)).await.unwrap();
    let accepted = fill(&agent, 9, &message(&"x".repeat(10_000 - 128))).await;
    let seventh = ((13 << 20) / 10 * 7 - (1 << 20)) / 7; // of 16 MiB less three segments and the dead letters
    let mut expected = vec![3 * seventh / 9 / 10_000; 10];
    expected[9] = 4 * seventh / 10_000;
    assert_eq!(accepted, expected);
    assert_eq!(agent.status().await.unwrap().message_log.error, None, "it was never full");
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &ways[..2])).await.unwrap();
    let queues = agent.status().await.unwrap().queues;
    assert_eq!(queues.iter().map(|queue| queue.max_bytes).collect::<Vec<_>>(), [seventh, seventh], "a seventh at most");
}

#[tokio::test]
async fn a_change_of_the_time_to_live_does_not_touch_what_waits() {
    let world = noting();
    let route = |ttl: u32| {
        format!(r#"{{"route":"FROM /messages INTO BrokeredEndpoint('/modules/b/inputs/in')","timeToLiveSecs":{ttl}}}"#)
    };
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[&route(1)])).await.unwrap();
    publish(&agent, &["old".into()]).await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[&route(3600)])).await.unwrap();
    publish(&agent, &["new".into()]).await;
    tokio::time::sleep(Duration::from_millis(1100)).await; // what is tested is that time passes
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[&route(3600)])).await.unwrap();
    assert_eq!(noted(&world, 1).await, ["new"]);
    let queue = queue_with(&agent, |queue| queue.length == 0).await;
    assert_eq!(queue.dropped, [("ttl_expiry".into(), 1)].into());
}

#[tokio::test]
async fn attempts_made_in_one_run_of_the_host_count_in_the_next() {
    let world = World::default();
    let log = world.log.clone();
    let failing = move |attempts: super::worlds::Log| {
        move |_: &dyn marram_core::ports::ModuleHost, delivery: &marram_core::ports::Delivery| {
            attempts.push(format!("attempt {}", delivery.attempt));
            Ok(Settlement::Retry(Some(Duration::from_secs(3600))))
        }
    };
    world.handler("b", failing(log));
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[TO_B])).await.unwrap();
    publish(&agent, &["x".into()]).await;
    noted(&world, 1).await;
    // The end tries once more, and writes what became of both.
    agent.shut_down(Duration::from_secs(5)).await;
    assert_eq!(noted(&world, 2).await, ["attempt 1", "attempt 2"]);
    let next = world.after_kill();
    next.handler("b", failing(next.log.clone()));
    let _agent = next.agent().await;
    assert_eq!(noted(&next, 1).await, ["attempt 3"]);
}

#[tokio::test]
async fn a_dead_letter_is_listed_shown_sent_again_and_forgotten() {
    let world = World::default();
    let log = world.log.clone();
    let mended = Arc::new(AtomicU64::new(0));
    let is_mended = mended.clone();
    world.handler("b", move |_, delivery| {
        log.push(text(&delivery.accepted.message));
        Ok(match is_mended.load(SeqCst) {
            0 => Settlement::Reject("no json".into()),
            _ => Settlement::Done,
        })
    });
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[TO_B])).await.unwrap();
    let mut first = marram_core::message::Message::clone(&message("0"));
    first.set_property("kind", "t");
    first.system_mut().message_id = Some("m".into());
    agent.publish("/messages", &Arc::new(first)).await.unwrap();
    publish(&agent, &numbers(1..3)).await;
    queue_with(&agent, |queue| queue.length == 0).await;
    let letters = agent.dead_letters(None).await.unwrap().letters;
    assert_eq!(letters.iter().map(|letter| letter.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    let ids: Vec<u64> = letters.iter().map(|letter| letter.id).collect();
    assert_eq!(agent.dead_letters(Some(ids[1])).await.unwrap().letters, letters[2..]);
    assert_eq!(agent.status().await.unwrap().message_log.dead_letters, 3);
    let shown = agent.dead_letter(ids[0]).await.unwrap();
    assert_eq!(shown.letter, letters[0]);
    assert_eq!((&*shown.letter.endpoint, &*shown.letter.reason), ("b/in", "rejected: no json"));
    assert_eq!(
        (shown.properties["kind"].as_str(), shown.system_properties["messageId"].as_str()),
        (Some("t"), Some("m"))
    );
    assert_eq!((shown.body_text.as_deref(), shown.body_hex), (Some("0"), None));

    mended.store(1, SeqCst);
    agent.replay_dead_letter(ids[1]).await.unwrap();
    assert_eq!(noted(&world, 4).await, ["0", "1", "2", "1"]);
    assert_eq!(queue_with(&agent, |queue| queue.length == 0).await.delivered, 1);
    assert!(matches!(agent.replay_dead_letter(ids[1]).await, Err(DeadLetterError::Unknown(id)) if id == ids[1]));
    // A kill now brings neither the letter back nor the message.
    let next = world.after_kill();
    let after = next.agent().await;
    assert_eq!(after.dead_letters(None).await.unwrap().letters.len(), 2);

    agent.apply(&manifest_with("crash", &[("b", "{}")], &[])).await.unwrap();
    assert!(matches!(agent.replay_dead_letter(ids[0]).await, Err(DeadLetterError::NoRoute(name)) if name == "b/in"));
    assert_eq!(agent.purge_dead_letters(Some(ids[0])).await.unwrap(), 1);
    assert_eq!(world.after_kill().agent().await.dead_letters(None).await.unwrap().letters, letters[2..]);
    assert!(matches!(agent.purge_dead_letters(Some(ids[0])).await, Err(DeadLetterError::Unknown(_))));
    assert_eq!(agent.purge_dead_letters(None).await.unwrap(), 1);
    assert_eq!(agent.dead_letters(None).await.unwrap().letters, []);
    assert_eq!(agent.status().await.unwrap().message_log.dead_letters, 0);
}

#[tokio::test]
async fn a_message_that_is_sent_again_finds_its_way_behind_a_backlog_on_the_disk() {
    let world = World::default();
    let log = world.log.clone();
    world.handler("b", move |_, delivery| {
        let text = text(&delivery.accepted.message);
        let is_first = delivery.accepted.sequence == 1 && log.lines().iter().filter(|line| **line == text).count() == 0;
        log.push(text);
        Ok(if is_first { Settlement::Reject("not now".into()) } else { Settlement::Done })
    });
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[TO_B])).await.unwrap();
    publish(&agent, &["letter".into()]).await;
    queue_with(&agent, |queue| queue.length == 0).await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[TO_B])).await.unwrap();
    let padding = "x".repeat(1000);
    let mut texts: Vec<String> = numbers(0..500).into_iter().map(|n| format!("{n} {padding}")).collect();
    publish(&agent, &texts).await;
    let id = agent.dead_letters(None).await.unwrap().letters[0].id;
    agent.replay_dead_letter(id).await.unwrap();
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[TO_B])).await.unwrap();
    texts.insert(0, "letter".into());
    texts.push("letter".into());
    assert!(noted(&world, 502).await == texts);
}

#[tokio::test]
async fn what_expires_is_a_dead_letter_where_its_route_asks_for_that() {
    for (wanted, letters) in [(false, 0), (true, 3)] {
        let world = noting();
        let agent = world.agent().await;
        let route = |status: &str| {
            let marram = format!(r#""marram":{{"expiredToDeadLetter":{wanted}}}"#);
            let route = format!(
                r#"{{"route":"FROM /messages INTO BrokeredEndpoint('/modules/b/inputs/in')","timeToLiveSecs":1,{marram}}}"#
            );
            manifest_with("crash", &[("b", status)], &[&route])
        };
        agent.apply(&route(STOPPED)).await.unwrap();
        publish(&agent, &numbers(0..3)).await;
        tokio::time::sleep(Duration::from_millis(1100)).await; // what is tested is that time passes
        agent.apply(&route("{}")).await.unwrap();
        let queue = queue_with(&agent, |queue| queue.length == 0).await;
        assert_eq!(queue.dropped, [("ttl_expiry".into(), 3)].into());
        let found = agent.dead_letters(None).await.unwrap().letters;
        assert_eq!(found.iter().filter(|letter| letter.reason == "ttl_expiry").count(), letters);
    }
}

#[tokio::test]
async fn what_has_expired_while_the_host_did_not_run_is_a_dead_letter_too() {
    let world = World::default();
    let agent = world.agent().await;
    let route = r#"{"route":"FROM /messages INTO BrokeredEndpoint('/modules/b/inputs/in')","timeToLiveSecs":1,"marram":{"expiredToDeadLetter":true}}"#;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[route])).await.unwrap();
    publish(&agent, &numbers(0..3)).await;
    let next = world.after_kill();
    tokio::time::sleep(Duration::from_millis(1100)).await; // what is tested is that time passes
    let agent = next.agent().await;
    let queue = queue_with(&agent, |queue| queue.length == 0).await;
    assert_eq!(queue.dropped, [("ttl_expiry".into(), 3)].into());
    assert_eq!(agent.dead_letters(None).await.unwrap().letters.len(), 3);
}
