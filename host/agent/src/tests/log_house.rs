//! What the log's thread does by itself, by a clock that the test moves; and what becomes of those who wait for it when it dies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{
    elapsed::Clocks,
    log::{Entry, Reference, Safety},
    message::Accepted,
    route::Sink,
    time::{Uptime, UtcMillis},
};

use super::{
    hooked::{Call, Hook, Hooked, Seen},
    worlds::{DEADLINE, Messages, World, manifest_with, message, open_log},
};
use crate::{
    clock::{Clock, Time},
    endpoint::Endpoint,
    storage::Storage,
};

const SYNC_AFTER: Duration = Duration::from_secs(5);

/// A clock and what moves it, in milliseconds. Each test has its own: they run at the same time.
macro_rules! clock {
    () => {{
        static NOW: AtomicU64 = AtomicU64::new(1_000_000);
        let utc = || UtcMillis(1_790_000_000_000 + NOW.load(SeqCst));
        let since_boot = || NOW.load(SeqCst);
        let read = || Clocks { boot: [1; 16], since_boot: NOW.load(SeqCst), utc: UtcMillis(0), synchronised: false };
        (Clock::simulated(read, Time { since_boot, utc }), &NOW)
    }};
}

/// A log as a killed host has left it, with a message that nobody takes, in the hands of its owner; what that does is noted.
fn in_service(clock: Clock) -> (Messages, Arc<Storage>, Seen) {
    let messages = Messages::default();
    let (mut log, _) = open_log(messages.path());
    let endpoint = log.endpoint("b");
    let waiting = Accepted { message: message("x"), source: "/messages".into(), sequence: 1, enqueued: UtcMillis(0) };
    let references = [Reference { endpoint, priority: 0, deadline: None, max_attempts: None }];
    log.append(&[Entry { message: &waiting, references: &references }], Safety::Written).unwrap();
    drop(log);
    let (log, _) = open_log(messages.path());
    let seen = Seen::default();
    let hooked = Hooked { log, hook: seen.hook(), at_hand: true };
    let storage = Storage::start(Box::new(hooked), &[], clock, Some(SYNC_AFTER), Arc::default()).unwrap();
    (messages, storage, seen)
}

/// Ends when the thread has looked what is due now.
async fn looked(storage: &Storage) {
    // It looks when it has answered, and before it answers again.
    for _ in 0..2 {
        storage.dead_letters(None).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_disk_hears_of_the_clock_while_nothing_but_questions_comes() {
    let (clock, now) = clock!();
    let (_messages, storage, seen) = in_service(clock);
    for _ in 0..50 {
        now.fetch_add(30_000, SeqCst);
        looked(&storage).await;
    }
    let flushes = seen.count(|call| call == Call::Flush);
    // 25 minutes; each time it is the first word after 9 to 10 minutes.
    assert_eq!(flushes, 2, "after a loss of power, time goes on from the last one");
}

#[tokio::test]
async fn what_a_killed_host_has_written_is_synced_by_the_next_one() {
    let (clock, now) = clock!();
    let (_messages, storage, seen) = in_service(clock);
    looked(&storage).await;
    assert_eq!(seen.count(|call| call == Call::Sync), 0, "not yet");
    for _ in 0..5 {
        now.fetch_add(SYNC_AFTER.as_millis() as u64 + 1, SeqCst);
        looked(&storage).await;
    }
    assert_eq!(seen.count(|call| call == Call::Sync), 1);
}

/// Of a log that dies: by a panic at the next message.
fn dying() -> Hook {
    Arc::new(|call| {
        assert!(!matches!(call, Call::Append(..)), "the log dies of this on purpose");
        Ok(())
    })
}

#[tokio::test]
async fn nobody_waits_for_a_log_that_has_died() {
    const DEADLINE_OF_STOP: Duration = Duration::from_secs(600);
    for at_hand in [false, true] {
        let mut world = World::hooked(dying());
        world.at_hand = at_hand;
        world.handler("b", |_, _| Ok(marram_core::ports::Settlement::Done));
        let agent = world.agent().await;
        let routes = [
            r#""FROM /messages/up INTO $upstream""#,
            r#""FROM /messages/in INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#,
        ];
        agent.apply(&manifest_with("crash", &[("b", "{}")], &routes)).await.unwrap();
        for source in ["/messages/up", "/messages/in"] {
            let agent = agent.clone();
            // Some answer comes, or the sender dies with the log in its hands.
            let sender = tokio::spawn(async move { agent.publish(source, &message("x")).await });
            assert!(!matches!(tokio::time::timeout(DEADLINE, sender).await.expect("an answer"), Ok(Ok(()))));
        }
        tokio::time::timeout(DEADLINE, agent.failed()).await.expect("the host hears that its log has died");
        tokio::time::timeout(DEADLINE, agent.shut_down(DEADLINE_OF_STOP)).await.expect("it ends without waiting");
    }
}

#[tokio::test]
async fn a_sender_that_waits_hears_at_once_when_what_has_expired_makes_room() {
    let world = World::default();
    let agent = world.agent().await;
    let route = |source: &str, ttl: u32| {
        format!(
            r#"{{"route":"FROM /messages/{source} INTO BrokeredEndpoint('/modules/b/inputs/in')","timeToLiveSecs":{ttl}}}"#
        )
    };
    let routes = [&*route("short", 1), &*route("long", 3600)];
    agent.apply(&manifest_with("memory", &[], &routes)).await.unwrap();
    let large = message(&"x".repeat(200_000));
    while agent.publish("/messages/short", &large).await.is_ok() {}
    let endpoint = agent.router().inputs_of("b")[0].clone();
    let room = endpoint.room();
    let batch = endpoint.take(Uptime(100_000), 1);
    assert!(batch.is_empty(), "all have expired");
    tokio::time::timeout(DEADLINE, room).await.expect("whoever waits for room is told");
}

/// A thousand inputs, and a log that is full: each is opened by what waits for it alone.
#[tokio::test]
async fn to_open_an_endpoint_the_log_counts_no_others() {
    let (clock, _now) = clock!();
    let (_messages, storage, seen) = in_service(clock);
    looked(&storage).await;
    let before = seen.count(|call| call == Call::Endpoints);
    for _ in 0..10 {
        let endpoint = Endpoint::new(Sink::Upstream, Arc::default(), Arc::default(), storage.clone());
        storage.open(Arc::new(endpoint)).await;
    }
    assert_eq!(seen.count(|call| call == Call::Endpoints), before);
}
