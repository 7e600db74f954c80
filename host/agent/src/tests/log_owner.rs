//! The owner of the message log: what it is asked, what it does when the log has no room, and its end.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{
    log::{How, LogError, Safety},
    ports::{SendError, Settlement},
    route::Origin,
};

use super::{
    hooked::{Call, Gate, Hook, Seen},
    storing::queue_with,
    worlds::{DEADLINE, World, manifest_with, message, open_log, text},
};
use crate::{
    Agent, MessageLogStatus,
    router::{Refusal, Taken},
};

const TO_B: &str = r#""FROM /messages INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#;
const STOPPED: &str = r#"{"status":"stopped"}"#;

/// A hook that answers some questions with an error, as long as there is one.
fn refusing(error: &Arc<Mutex<Option<LogError>>>, what: fn(Call) -> bool) -> (Seen, Hook) {
    let (seen, error) = (Seen::default(), error.clone());
    let note = seen.hook();
    let hook: Hook = Arc::new(move |call| {
        note(call)?;
        match error.lock().unwrap().clone() {
            Some(error) if what(call) => Err(error),
            _ => Ok(()),
        }
    });
    (seen, hook)
}

async fn log_with(agent: &Agent, wanted: impl Fn(&MessageLogStatus) -> bool) -> MessageLogStatus {
    let waiting = async {
        loop {
            let log = agent.status().await.unwrap().message_log;
            if wanted(&log) {
                return log;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, waiting).await {
        Ok(log) => log,
        Err(_) => panic!("the log stays {:?}", agent.status().await.unwrap().message_log),
    }
}

#[tokio::test]
async fn what_is_handed_over_beside_the_stop_is_stored_or_refused_and_takes_no_room() {
    for _ in 0..30 {
        let world = World::default();
        let agent = world.agent().await;
        agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[TO_B])).await.unwrap();
        let (accepted, sequence) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let is_over = Arc::new(AtomicBool::new(false));
        let senders: Vec<_> = (0..2)
            .map(|_| {
                let (agent, accepted, sequence) = (agent.clone(), accepted.clone(), sequence.clone());
                let is_over = is_over.clone();
                std::thread::spawn(move || {
                    let resolved = agent.router().resolve("/messages", Origin::default());
                    loop {
                        match agent.router().accept(&resolved, &message("x"), &sequence, &mut None) {
                            Ok(Taken::Storing(..) | Taken::Now(_)) => accepted.fetch_add(1, SeqCst),
                            Ok(Taken::Not(why, _)) => panic!("{why:?}"),
                            Err(Refusal::Stopped) => break,
                            // A queue that is full says so before the log is asked, also after its end.
                            Err(_) if is_over.load(SeqCst) => break,
                            Err(_) => {
                                std::thread::yield_now();
                                0
                            }
                        };
                    }
                })
            })
            .collect();
        while accepted.load(SeqCst) < 100 {
            tokio::task::yield_now().await;
        }
        agent.router().storage().stop().await;
        is_over.store(true, SeqCst);
        for sender in senders {
            sender.join().unwrap();
        }
        let input = &agent.router().inputs_of("b")[0];
        assert!(!input.is_storing(), "room is still set aside");
        assert_eq!(input.stats().len as u64, accepted.load(SeqCst), "what was handed over before the stop is stored");
        let error = agent.publish("/messages", &message("x")).await.unwrap_err();
        assert!(matches!(error, SendError::ShuttingDown | SendError::Full), "{error:?}");
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

#[tokio::test]
async fn what_has_expired_behind_the_window_makes_room_for_senders() {
    for is_kept in [false, true] {
        let world = World::default();
        let log = world.log.clone();
        world.handler("b", move |_, delivery| {
            log.push(text(&delivery.accepted.message)[..4].to_owned());
            Ok(Settlement::Done)
        });
        let route = |source: &str, ttl: u32| {
            format!(
                r#"{{"route":"FROM /messages/{source} INTO BrokeredEndpoint('/modules/b/inputs/in')","timeToLiveSecs":{ttl},"marram":{{"expiredToDeadLetter":{is_kept}}}}}"#
            )
        };
        let routes = [&*route("long", 86_400), &*route("short", 1)];
        let agent = world.agent().await;
        agent.apply(&manifest_with("crash", &[("b", STOPPED)], &routes)).await.unwrap();
        let body = |text: &str| message(&format!("{text}{}", "x".repeat(10_000)));
        // They fill the window, so that the ones behind them are not read.
        for _ in 0..30 {
            agent.publish("/messages/long", &body("long")).await.unwrap();
        }
        let mut short = 0;
        while agent.publish("/messages/short", &body("shrt")).await.is_ok() {
            short += 1;
        }
        tokio::time::sleep(Duration::from_millis(1100)).await; // what is tested is that time passes
        let room = agent.router().inputs_of("b")[0].clone();
        tokio::time::timeout(DEADLINE, async {
            loop {
                let made = room.room();
                match agent.publish("/messages/long", &body("more")).await {
                    Ok(()) => break,
                    Err(error) => assert_eq!(error, SendError::Full),
                }
                made.await;
            }
        })
        .await
        .expect("a sender is woken when there is room");
        let queue = agent.status().await.unwrap().queues[0].clone();
        let gone = queue.dropped["ttl_expiry"];
        assert!(gone > 10 && gone + queue.length as u64 == 31 + short, "{gone} of {short}, {queue:?}");
        assert_eq!(agent.dead_letters(None).await.unwrap().letters.is_empty(), !is_kept);
        agent.apply(&manifest_with("crash", &[("b", "{}")], &routes)).await.unwrap();
        let queue = queue_with(&agent, |queue| queue.length == 0).await;
        assert_eq!((queue.bytes, queue.delivered, queue.dropped), (0, 31, [("ttl_expiry".into(), short)].into()));
        let noted: Vec<String> = world.log.lines().into_iter().filter(|line| !line.starts_with("start")).collect();
        assert_eq!(noted, [vec!["long"; 30], vec!["more"]].concat());
    }
}

#[tokio::test]
async fn senders_do_not_wait_until_a_backlog_that_has_expired_is_read_through() {
    let (is_armed, gate) = (Arc::new(AtomicBool::new(false)), Arc::new(Gate::default()));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let hook: Hook = {
        let (is_armed, gate, calls) = (is_armed.clone(), gate.clone(), calls.clone());
        Arc::new(move |call| {
            if is_armed.load(SeqCst) && matches!(call, Call::Read | Call::Append(..)) {
                calls.lock().unwrap().push(call);
                gate.pass();
            }
            Ok(())
        })
    };
    let world = World::hooked(hook);
    world.handler("b", |_, _| Ok(Settlement::Done));
    let agent = world.agent().await;
    let short = r#"{"route":"FROM /messages/short INTO BrokeredEndpoint('/modules/b/inputs/in')","timeToLiveSecs":1}"#;
    let other = r#""FROM /messages/other INTO BrokeredEndpoint(\"/modules/c/inputs/in\")""#;
    let modules = |status| manifest_with("crash", &[("b", status), ("c", STOPPED)], &[short, other]);
    agent.apply(&modules(STOPPED)).await.unwrap();
    let body = message(&"x".repeat(10_000));
    for _ in 0..110 {
        agent.publish("/messages/short", &body).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1100)).await; // what is tested is that time passes
    is_armed.store(true, SeqCst);
    agent.apply(&modules("{}")).await.unwrap();
    // The log's owner begins to read what is behind the window, and a sender comes.
    gate.reached().await;
    let resolved = agent.router().resolve("/messages/other", Origin::default());
    let Ok(Taken::Storing(answer, _)) = agent.router().accept(&resolved, &message("x"), &Arc::default(), &mut None)
    else {
        panic!("it goes through the log")
    };
    gate.open();
    answer.stored().await.unwrap();
    assert_eq!(queue_with(&agent, |queue| queue.length == 0).await.dropped, [("ttl_expiry".into(), 110)].into());
    let calls = calls.lock().unwrap().clone();
    let append = calls.iter().position(|call| *call == Call::Append(1, Safety::Written)).unwrap();
    assert!(append <= 2 && calls.len() > 3, "after {append} readings of {}", calls.len() - 1);
}

#[tokio::test]
async fn dead_letters_without_room_wait_within_bounds_and_none_is_lost() {
    let error = Arc::new(Mutex::new(Some(LogError::Full("full".into()))));
    let (seen, hook) = refusing(&error, |call| matches!(call, Call::Bury(_)));
    let world = World::hooked(hook);
    let log = world.log.clone();
    world.handler("b", move |_, delivery| {
        log.push(text(&delivery.accepted.message));
        Ok(Settlement::Reject("no".into()))
    });
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[TO_B])).await.unwrap();
    let texts: Vec<String> = (0..1500).map(|n| n.to_string()).collect();
    for text in &texts {
        agent.publish("/messages", &message(text)).await.unwrap();
    }
    let queue = queue_with(&agent, |queue| queue.length == 0).await;
    assert_eq!(queue.dropped, [("rejected".into(), 1500)].into());
    let tries = seen.count(|call| matches!(call, Call::Bury(_)));
    assert!((1..100).contains(&tries), "{tries} tries in vain"); // one a second
    *error.lock().unwrap() = None;
    log_with(&agent, |log| log.dead_letters == 1500).await;
    let rejected = world.log.lines().len() - 1;
    assert!((1501..2500).contains(&rejected), "{rejected} deliveries: those that were not in memory come again");
    let noted = seen.count(|call| matches!(call, Call::Attempt(_)));
    assert_eq!(noted, 1500, "of those that were not in memory, only the second delivery");
    agent.shut_down(Duration::from_secs(5)).await;
    let (mut log, recovery) = open_log(world.messages.path());
    assert_eq!(recovery.references, 1500, "nothing else is left");
    let letters = log.dead_letters(None, usize::MAX).unwrap();
    let mut found: Vec<String> = letters.iter().map(|letter| text(&letter.accepted.message)).collect();
    found.sort_by_key(|text| text.parse::<u32>().unwrap());
    assert!(found == texts, "each is a dead letter once");
}

#[tokio::test]
async fn what_can_never_be_a_dead_letter_is_dropped_and_counted() {
    let error = Arc::new(Mutex::new(Some(LogError::Refused("too large".into()))));
    let (seen, hook) = refusing(&error, |call| matches!(call, Call::Bury(_)));
    let world = World::hooked(hook);
    world.handler("b", |_, _| Ok(Settlement::Reject("no".into())));
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[TO_B])).await.unwrap();
    agent.publish("/messages", &message("x")).await.unwrap();
    log_with(&agent, |log| log.lost == 1).await;
    assert_eq!(seen.count(|call| matches!(call, Call::Settle(_, How::Dropped))), 1);
    agent.shut_down(Duration::from_secs(5)).await;
    assert_eq!(open_log(world.messages.path()).1.references, 0, "it is not tried again");
}

#[tokio::test]
async fn the_status_says_why_the_log_takes_no_messages_and_for_how_long() {
    let error = Arc::new(Mutex::new(None));
    let (seen, hook) = refusing(&error, |call| matches!(call, Call::Append(..) | Call::Probe));
    let world = World::hooked(hook);
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[TO_B])).await.unwrap();
    let full = LogError::Full("all is full".into());
    let (disk, refused) = (LogError::Disk("the disk fails".into()), LogError::Refused("too large".into()));
    for (error_now, answer, words) in [
        (refused, SendError::Other("too large".into()), None),
        (full, SendError::Full, Some("all is full")),
        (disk, SendError::Other("the disk fails".into()), Some("the disk fails")),
    ] {
        *error.lock().unwrap() = Some(error_now);
        assert_eq!(agent.publish("/messages", &message("x")).await, Err(answer));
        assert_eq!(agent.status().await.unwrap().message_log.error.as_deref(), words);
    }
    // It looks again as long as that lasts.
    log_with(&agent, |_| seen.count(|call| call == Call::Probe) > 2).await;
    *error.lock().unwrap() = None;
    let appends = seen.take_appends().len();
    log_with(&agent, |log| log.error.is_none()).await;
    assert_eq!((appends, seen.take_appends()), (3, vec![]), "nobody sends");
}
