//! Queues that are drained live first, over the real log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{
    backlog::{LIVE_BYTES, WINDOW_BYTES},
    ports::{BoxFuture, Exit, Exports, ModuleHost, Outgoing, Settlement, Upstream, UpstreamError},
};
use tokio::sync::{Semaphore, watch};

use super::{
    routing::router_with,
    worlds::{DEADLINE, Guest, Handler, Log, Messages, Program, World, manifest_with, message, text},
};
use crate::{Agent, clock::Clock, upstream::UpstreamTask};

const ROUTE: &str =
    r#"{"route":"FROM /messages INTO BrokeredEndpoint('/modules/b/inputs/in')","marram":{"drain":"live-first"}}"#;
const STOPPED: &str = r#"{"status":"stopped"}"#;
/// 700 of a thousand bytes are nearly three windows.
const OLD: u32 = 700;
const NEW: u32 = 120;

fn texts(kind: &str, range: std::ops::Range<u32>) -> Vec<String> {
    let padding = "x".repeat(1000);
    range.map(|n| format!("{kind} {n:>5} {padding}")).collect()
}

async fn publish(agent: &Agent, texts: &[String]) {
    for text in texts {
        agent.publish("/messages", &message(text)).await.unwrap();
    }
}

/// What `b` has got: the texts, without padding, once there are so many.
async fn got(log: &Log, count: usize) -> Vec<String> {
    let is_text = |line: &&String| line.starts_with("old") || line.starts_with("new");
    let lines = log.until(&format!("{count} messages"), |lines| lines.iter().filter(is_text).count() >= count).await;
    lines.iter().filter(is_text).map(|line| line.trim_end_matches('x').trim_end().to_owned()).collect()
}

/// Those of a kind, in order.
fn of(kind: &str, lines: &[String]) -> Vec<u32> {
    let numbers = lines.iter().filter_map(|line| line.strip_prefix(kind));
    numbers.map(|number| number.trim().parse().unwrap()).collect()
}

/// A handler, or a program that receives, that notes each message and then waits for a permit.
fn receiver(program: bool, log: Log, permits: Arc<Semaphore>) -> Guest {
    if !program {
        let handler: Arc<Handler> = Arc::new(move |_, delivery| {
            log.push(text(&delivery.accepted.message));
            let permits = permits.clone();
            Box::pin(async move {
                permits.acquire().await.unwrap().forget();
                Ok(Settlement::Done)
            })
        });
        return Guest { handler, ..Guest::default() };
    }
    let program: Arc<Program> = Arc::new(move |host: Arc<dyn ModuleHost>| {
        let (log, permits) = (log.clone(), permits.clone());
        Box::pin(async move {
            while let Ok(Some(received)) = host.receive(DEADLINE).await {
                log.push(text(&received.delivery.accepted.message));
                permits.acquire().await.unwrap().forget();
                host.settle(received.ticket, Settlement::Done);
            }
            Exit::new(Exit::DONE, "the program ended")
        })
    });
    Guest { exports: Exports { run: true, ..Exports::default() }, program, inbox: true, ..Guest::default() }
}

/// What was delivered, `taken` of it before there was anything live: all, in order within the old and the new ones, the new ones with at
/// most a quarter of old ones between them, and not with less.
fn check(lines: &[String], taken: usize) {
    assert_eq!(of("old", lines), (0..OLD).collect::<Vec<_>>());
    assert_eq!(of("new", lines), (0..NEW).collect::<Vec<_>>());
    let first = lines.iter().position(|line| line.starts_with("new")).unwrap();
    let last = lines.iter().rposition(|line| line.starts_with("new")).unwrap();
    assert!(first <= taken + 1, "the first is the {first}th");
    let between = of("old", &lines[first..last]).len();
    assert_eq!(between, (NEW as usize - 1) / 3, "a quarter is of the backlog");
}

#[tokio::test]
async fn what_comes_while_the_receiver_is_up_goes_before_a_backlog_which_gets_a_quarter() {
    for (durability, program, taken) in [("crash", false, 64), ("crash", true, 1), ("memory", false, 64)] {
        let world = World::default();
        let permits = Arc::new(Semaphore::new(0));
        world.guest("b", receiver(program, world.log.clone(), permits.clone()));
        let agent = world.agent().await;
        agent.apply(&manifest_with(durability, &[("b", STOPPED)], &[ROUTE])).await.unwrap();
        publish(&agent, &texts("old", 0..OLD)).await;
        agent.apply(&manifest_with(durability, &[("b", "{}")], &[ROUTE])).await.unwrap();
        assert_eq!(got(&world.log, 1).await, ["old     0"]);
        publish(&agent, &texts("new", 0..NEW)).await;
        if durability == "crash" {
            let held = agent.router().inputs_of("b")[0].held_bytes();
            assert!(held <= WINDOW_BYTES + LIVE_BYTES, "{held} bytes in memory");
        }
        permits.add_permits(10_000);
        let count = (OLD + NEW) as usize;
        let lines = got(&world.log, count).await;
        check(&lines, taken);
        while agent.status().await.unwrap().queues[0].length > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(got(&world.log, count).await.len(), count, "none came twice");
    }
}

#[tokio::test]
async fn live_messages_beyond_their_window_wait_in_the_log_and_none_is_lost_or_comes_twice() {
    let world = World::default();
    let permits = Arc::new(Semaphore::new(0));
    world.guest("b", receiver(false, world.log.clone(), permits.clone()));
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[ROUTE])).await.unwrap();
    publish(&agent, &texts("old", 0..OLD)).await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[ROUTE])).await.unwrap();
    got(&world.log, 1).await;
    let (mut sent, mut handled) = (0, 0);
    for count in [300, 100, 200, 100] {
        publish(&agent, &texts("new", sent..sent + count)).await;
        sent += count;
        let held = agent.router().inputs_of("b")[0].held_bytes();
        assert!(held <= WINDOW_BYTES + LIVE_BYTES + 2000, "{held} bytes in memory");
        permits.add_permits(250);
        handled += 250;
        got(&world.log, handled).await;
    }
    permits.add_permits(10_000);
    let count = (OLD + sent) as usize;
    let lines = got(&world.log, count).await;
    while agent.status().await.unwrap().queues[0].length > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(got(&world.log, count).await.len(), count, "none came twice");
    assert_eq!(of("old", &lines), (0..OLD).collect::<Vec<_>>());
    let mut new = of("new", &lines);
    assert!(!new.is_sorted(), "some waited in the log");
    new.sort_unstable();
    assert_eq!(new, (0..sent).collect::<Vec<_>>());
}

#[tokio::test]
async fn after_a_kill_all_that_waits_is_backlog_and_nothing_is_lost() {
    let world = World::default();
    let permits = Arc::new(Semaphore::new(0));
    world.guest("b", receiver(false, world.log.clone(), permits.clone()));
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[ROUTE])).await.unwrap();
    publish(&agent, &texts("old", 0..OLD)).await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[ROUTE])).await.unwrap();
    got(&world.log, 1).await;
    publish(&agent, &texts("new", 0..NEW)).await;
    // In the middle of the live ones, some of them delivered.
    permits.add_permits(120);
    let before = got(&world.log, 121).await;
    assert!((1..NEW as usize).contains(&of("new", &before).len()));
    let next = world.after_kill();
    let permits = Arc::new(Semaphore::new(10_000));
    next.guest("b", receiver(false, next.log.clone(), permits));
    let agent = next.agent().await;
    let last = format!("new {:>5}", NEW - 1);
    next.log.until("the last", |lines| lines.iter().any(|line| line.starts_with(&last))).await;
    while agent.status().await.unwrap().queues[0].length > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let after = got(&next.log, 1).await;
    assert!(after.is_sorted_by_key(|line| line.starts_with("new")), "in the order of the log");
    for (kind, count) in [("old", OLD), ("new", NEW)] {
        let (was, is) = (of(kind, &before), of(kind, &after));
        assert!(is.is_sorted());
        // The last one that began was not settled.
        assert!((0..count).all(|n| is.contains(&n) || was.contains(&n)), "{kind}: lost");
    }
}

#[tokio::test]
async fn what_expires_among_live_messages_behind_the_window_makes_room_and_is_counted_once() {
    let world = World::default();
    let permits = Arc::new(Semaphore::new(0));
    world.guest("b", receiver(false, world.log.clone(), permits.clone()));
    let route = |source: &str, ttl: u32| {
        format!(
            r#"{{"route":"FROM /messages/{source} INTO BrokeredEndpoint('/modules/b/inputs/in')","timeToLiveSecs":{ttl},"marram":{{"drain":"live-first"}}}}"#
        )
    };
    let routes = [&*route("short", 1), &*route("long", 86_400)];
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &routes)).await.unwrap();
    let large = message(&format!("old {}", "x".repeat(10_000)));
    // More than a segment of a mebibyte, its last ones live.
    for _ in 0..95 {
        agent.publish("/messages/short", &large).await.unwrap();
    }
    agent.apply(&manifest_with("crash", &[("b", "{}")], &routes)).await.unwrap();
    got(&world.log, 1).await;
    for _ in 0..12 {
        agent.publish("/messages/short", &large).await.unwrap();
    }
    let mut long = 0;
    while agent.publish("/messages/long", &large).await.is_ok() {
        long += 1;
    }
    tokio::time::sleep(Duration::from_millis(1100)).await; // what is tested is that time passes
    // As it is done once a minute.
    agent.router().storage().expire(agent.router().inputs_of("b")[0].clone());
    tokio::time::timeout(DEADLINE, async {
        while agent.publish("/messages/long", &large).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("what has expired makes room");
    permits.add_permits(10_000);
    tokio::time::timeout(DEADLINE, async {
        while agent.status().await.unwrap().queues[0].length > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let queue = agent.status().await.unwrap().queues[0].clone();
    assert_eq!((queue.delivered, queue.dropped), (long + 2, [("ttl_expiry".into(), 106)].into()));
}

/// Takes one message at a time, with a permit each, or none.
struct OneByOne {
    taken: Log,
    permits: Semaphore,
    down: AtomicBool,
}

impl Upstream for OneByOne {
    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<usize, UpstreamError>> {
        Box::pin(async move {
            if self.down.load(SeqCst) {
                return Err(UpstreamError("down".into()));
            }
            self.taken.push(text(&batch[0].accepted.message));
            self.permits.acquire().await.unwrap().forget();
            Ok(1)
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), UpstreamError>> {
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn upstream_gets_what_is_live_before_what_came_while_it_was_away() {
    let messages = Messages::default();
    let router = router_with(&messages, "FROM /messages INTO $upstream").await;
    let (close, closing) = watch::channel(false);
    let upstream =
        Arc::new(OneByOne { taken: Log::default(), permits: Semaphore::new(0), down: AtomicBool::new(true) });
    let task = UpstreamTask { clock: Clock::start(), router: router.clone(), upstream: upstream.clone(), closing };
    let publish = async |texts: Vec<String>| {
        for text in texts {
            router.publish("/messages", &message(&text)).await.unwrap();
        }
    };
    // It is known to be away from the first failure on.
    let task = tokio::spawn(task.run());
    publish(texts("first", 0..1)).await;
    while router.upstream_error().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    publish(texts("old", 0..OLD)).await;
    upstream.down.store(false, SeqCst);
    upstream.taken.until("the first", |lines| lines.len() == 1).await;
    upstream.permits.add_permits(1);
    assert_eq!(got(&upstream.taken, 1).await, ["old     0"], "now it is known to be back");
    publish(texts("new", 0..NEW)).await;
    upstream.permits.add_permits(10_000);
    check(&got(&upstream.taken, (OLD + NEW) as usize).await, 1);
    close.send_replace(true);
    tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
    assert_eq!(upstream.taken.lines().len(), (1 + OLD + NEW) as usize, "none was taken twice");
}
