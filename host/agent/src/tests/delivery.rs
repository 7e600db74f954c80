use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::ports::{Exit, Exports, ModuleHost, Sent, Settlement};

use crate::{Agent, Status};

use super::worlds::{Guest, World, manifest, message, text};

const A_TO_B: &str = r#""FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#;
const B_UP: &str = r#""FROM /messages/modules/b/* INTO $upstream""#;

/// A guest that sends these texts on output `out` when it starts.
fn sender(texts: impl IntoIterator<Item = String> + Clone + Send + Sync + 'static) -> Guest {
    Guest {
        exports: Exports { start: true, input: true, ..Exports::default() },
        start: Arc::new(move |host| {
            for text in texts.clone() {
                assert!(matches!(host.try_send("out", &message(&text)), Sent::Accepted(_)));
            }
            Ok(Ok(()))
        }),
        ..Guest::default()
    }
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn messages_go_from_guest_to_guest_to_upstream_in_order() {
    let world = World::default();
    world.guest("a", sender(numbers(0..500)));
    world.handler("b", |host, delivery| {
        assert_eq!(&*delivery.input, "in");
        assert_eq!(&*delivery.accepted.source, "/messages/modules/a/outputs/out");
        assert!(matches!(host.try_send("up", &delivery.accepted.message), Sent::Accepted(_)));
        Ok(Settlement::Done)
    });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[A_TO_B, B_UP])).await.unwrap();
    let taken = world.upstream.taken.until("500 messages", |lines| lines.len() == 500).await;
    assert_eq!(taken, numbers(0..500));
    // The last batch is counted when it is given back, a moment after upstream has its messages.
    let status = status_with(&agent, |status| status.modules[1].received == 500).await;
    let counted: Vec<_> = status.modules.iter().map(|module| (module.sent, module.received)).collect();
    assert_eq!(counted, [(500, 0), (500, 500)]);
}

/// The status once it is as wanted.
async fn status_with(agent: &Agent, wanted: impl Fn(&Status) -> bool) -> Status {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let status = agent.status().await.unwrap();
        if wanted(&status) {
            return status;
        }
        assert!(tokio::time::Instant::now() < deadline, "{status:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn upstream_that_is_down_loses_nothing() {
    let world = World::default();
    world.upstream.down.store(true, SeqCst);
    world.guest("a", sender(numbers(0..10)));
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[r#""FROM /messages/* INTO $upstream""#])).await.unwrap();
    world.log.until("a started", |lines| lines.contains(&"start a".into())).await;
    let status = status_with(&agent, |status| status.upstream_error.is_some() && status.queues[0].length == 10).await;
    let queue = &status.queues[0];
    assert!(queue.bytes > 0 && queue.bytes <= queue.max_bytes, "{queue:?}");
    world.upstream.down.store(false, SeqCst);
    let taken = world.upstream.taken.until("10 messages", |lines| lines.len() == 10).await;
    assert_eq!(taken, numbers(0..10));
    let status = status_with(&agent, |status| status.queues[0].length == 0).await;
    assert_eq!((status.upstream_error, status.queues[0].oldest_ms), (None, None));
}

#[tokio::test]
async fn a_message_whose_handler_asks_for_a_retry_comes_again_with_the_next_attempt() {
    let world = World::default();
    world.guest("a", sender(numbers(0..3)));
    let log = world.log.clone();
    world.handler("b", move |_, delivery| {
        log.push(format!("{} attempt {}", text(&delivery.accepted.message), delivery.attempt));
        Ok(match delivery.attempt {
            1 if text(&delivery.accepted.message) == "0" => {
                Settlement::Retry(Some(std::time::Duration::from_millis(20)))
            }
            _ => Settlement::Done,
        })
    });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[A_TO_B])).await.unwrap();
    let lines = world.log.until("2 handled", |lines| lines.contains(&"2 attempt 1".into())).await;
    let handled: Vec<_> = lines.iter().filter(|line| line.contains("attempt")).collect();
    assert_eq!(handled, ["0 attempt 1", "0 attempt 2", "1 attempt 1", "2 attempt 1"]);
}

#[tokio::test]
async fn a_rejected_message_is_given_up_and_counted() {
    let world = World::default();
    world.guest("a", sender(numbers(0..2)));
    let log = world.log.clone();
    world.handler("b", move |_, delivery| {
        log.push(text(&delivery.accepted.message));
        Ok(if text(&delivery.accepted.message) == "0" { Settlement::Reject("bad".into()) } else { Settlement::Done })
    });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[A_TO_B])).await.unwrap();
    world.log.until("1 handled", |lines| lines.contains(&"1".into())).await;
    let queue = loop {
        let status = agent.status().await.unwrap();
        if status.queues[0].length == 0 {
            break status.queues[0].clone();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(queue.dropped.get("rejected"), Some(&1));
    assert_eq!(queue.delivered, 1);
}

#[tokio::test]
async fn messages_wait_for_a_module_that_comes_later() {
    let world = World::default();
    world.guest("a", sender(numbers(0..5)));
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[A_TO_B])).await.unwrap();
    world.log.until("a started", |lines| lines.contains(&"start a".into())).await;
    let log = world.log.clone();
    world.handler("b", move |_, delivery| {
        log.push(text(&delivery.accepted.message));
        Ok(Settlement::Done)
    });
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[A_TO_B])).await.unwrap();
    let lines = world.log.until("4 handled", |lines| lines.contains(&"4".into())).await;
    assert_eq!(lines[2..], ["0", "1", "2", "3", "4"], "{lines:?}");
}

#[tokio::test]
async fn a_message_that_ends_its_instance_does_not_stop_other_modules() {
    let world = World::default();
    world.guest("a", sender(numbers(0..3)));
    world.handler("b", |_, _| Err(Exit::new(Exit::TRAP, "boom")));
    let (log, count) = (world.log.clone(), Arc::new(AtomicU32::new(0)));
    world.handler("c", move |_, _| {
        count.fetch_add(1, SeqCst);
        log.push("c handled");
        Ok(Settlement::Done)
    });
    let agent = world.agent().await;
    let to_c = r#""FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/c/inputs/in\")""#;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}"), ("c", "{}")], &[A_TO_B, to_c])).await.unwrap();
    world.log.until("c handled 3", |lines| lines.iter().filter(|line| *line == "c handled").count() == 3).await;
    let b = loop {
        let status = agent.status().await.unwrap();
        let b = status.modules.iter().find(|module| module.name.as_str() == "b").unwrap().clone();
        if b.status == "backoff" {
            break b;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(b.exit_code, Some(134));
    assert!(b.description.contains("boom") && b.description.contains("restarts in"), "{}", b.description);
    let queues = agent.status().await.unwrap().queues;
    let queue = queues.iter().find(|queue| queue.endpoint == "b/in").unwrap();
    assert_eq!(queue.length, 3, "nothing is lost by the trap");
}

#[tokio::test]
async fn a_timer_fires_and_may_send() {
    let world = World::default();
    let guest = Guest {
        exports: Exports { start: true, timer: true, ..Exports::default() },
        start: Arc::new(|host: &dyn ModuleHost| {
            host.set_timer("tick", std::time::Duration::from_millis(5), true).unwrap();
            Ok(Ok(()))
        }),
        fire: Arc::new(|host: &dyn ModuleHost, name, _| {
            host.try_send("out", &message(name));
            Ok(())
        }),
        ..Guest::default()
    };
    world.guest("a", guest);
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[r#""FROM /messages/* INTO $upstream""#])).await.unwrap();
    world.upstream.taken.until("3 ticks", |lines| lines.len() >= 3).await;
}

#[tokio::test]
async fn sequences_go_on_from_the_clock_when_the_starts_cannot_be_counted() {
    let world = World::default();
    world.disk.documents.lock().unwrap().insert("host".into(), b"damaged".to_vec());
    let log = world.log.clone();
    let start = move |host: &dyn ModuleHost| {
        log.push(format!("{:?}", host.try_send("out", &message("x"))));
        Ok(Ok(()))
    };
    let exports = Exports { start: true, input: true, ..Exports::default() };
    world.guest("a", Guest { exports, start: Arc::new(start), ..Guest::default() });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    let lines = world.log.until("sent", |lines| lines.len() == 2).await;
    let number = lines[1].trim_start_matches("Accepted(").trim_end_matches(')').parse::<u64>().unwrap();
    assert!(number > 20_000_000 << 36, "{number}");
    let kept = world.disk.documents.lock().unwrap()["host"].clone();
    assert_eq!(kept, b"damaged", "it may be readable later");
}

#[tokio::test]
async fn sequences_rise_over_a_restart_of_the_host_and_a_removal_of_the_module() {
    let world = World::default();
    let log = world.log.clone();
    let start = move |host: &dyn ModuleHost| {
        if let Sent::Accepted(sequence) = host.try_send("out", &message("x")) {
            log.push(format!("sequence {sequence}"));
        }
        Ok(Ok(()))
    };
    let exports = Exports { start: true, input: true, ..Exports::default() };
    world.guest("a", Guest { exports, start: Arc::new(start), ..Guest::default() });
    let sequences = |count: usize| {
        move |lines: &[String]| lines.iter().filter(|line| line.starts_with("sequence")).count() == count
    };
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    world.log.until("the first", sequences(1)).await;
    agent.apply(&manifest(&[], &[])).await.unwrap();
    while !agent.status().await.unwrap().modules.is_empty() {
        tokio::task::yield_now().await;
    }
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    world.log.until("the second", sequences(2)).await;
    agent.shut_down(std::time::Duration::from_secs(5)).await;
    let _again = world.agent().await;
    let lines = world.log.until("the third", sequences(3)).await;
    let numbers: Vec<u64> =
        lines.iter().filter_map(|line| line.strip_prefix("sequence ")).map(|number| number.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

#[tokio::test]
async fn a_timer_that_is_always_due_does_not_keep_messages_away() {
    let world = World::default();
    let log = world.log.clone();
    let handler_log = world.log.clone();
    let guest = Guest {
        exports: Exports { start: true, timer: true, input: true, ..Exports::default() },
        start: Arc::new(|host: &dyn ModuleHost| {
            host.set_timer("t", std::time::Duration::from_millis(1), true).unwrap();
            for n in 0..5 {
                host.try_send("out", &message(&n.to_string()));
            }
            Ok(Ok(()))
        }),
        fire: Arc::new(move |_: &dyn ModuleHost, _, _| {
            log.push("fire");
            // Longer than its period: due again when it returns.
            std::thread::sleep(std::time::Duration::from_millis(3));
            Ok(())
        }),
        handler: Arc::new(move |_, delivery| {
            handler_log.push(format!("handled {}", text(&delivery.accepted.message)));
            Box::pin(async { Ok(Settlement::Done) })
        }),
        ..Guest::default()
    };
    world.guest("a", guest);
    let agent = world.agent().await;
    let own = r#""FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/a/inputs/in\")""#;
    agent.apply(&manifest(&[("a", "{}")], &[own])).await.unwrap();
    world.log.until("all handled", |lines| lines.contains(&"handled 4".into())).await;
}

#[tokio::test]
async fn a_more_urgent_message_does_not_wait_for_the_batch() {
    let world = World::default();
    world.guest("a", sender(numbers(0..20)));
    let log = world.log.clone();
    let handler: Arc<super::worlds::Handler> = Arc::new(move |host, delivery| {
        let text = text(&delivery.accepted.message);
        log.push(text.clone());
        if text == "3" {
            host.try_send("alarm", &message("urgent"));
        }
        Box::pin(async { Ok(Settlement::Done) })
    });
    world.guest("b", Guest { handler, ..Guest::default() });
    let agent = world.agent().await;
    let alarm = r#"{"route":"FROM /messages/modules/b/outputs/alarm INTO BrokeredEndpoint(\"/modules/b/inputs/in\")","priority":0}"#;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[A_TO_B, alarm])).await.unwrap();
    let lines = world.log.until("19", |lines| lines.contains(&"19".into())).await;
    let handled: Vec<_> = lines.iter().filter(|line| !line.starts_with("start")).take(6).collect();
    assert_eq!(handled, ["0", "1", "2", "3", "urgent", "4"]);
}

#[tokio::test]
async fn a_slow_receiver_gives_room_with_each_message_not_with_each_batch() {
    let world = World::default();
    let step = Arc::new(tokio::sync::Semaphore::new(0));
    let (log, steps) = (world.log.clone(), step.clone());
    let handler: Arc<super::worlds::Handler> = Arc::new(move |_, _| {
        log.push("handling");
        let steps = steps.clone();
        Box::pin(async move {
            steps.acquire().await.unwrap().forget();
            Ok(Settlement::Done)
        })
    });
    world.guest("b", Guest { handler, ..Guest::default() });
    let agent = world.agent().await;
    let route = r#""FROM /messages INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#;
    agent.apply(&manifest(&[("b", "{}")], &[route])).await.unwrap();
    let large = message(&"x".repeat(100_000));
    let mut sent = 0;
    while agent.publish("/messages", &large).await.is_ok() {
        sent += 1;
    }
    world.log.until("the first call", |lines| lines.contains(&"handling".into())).await;
    assert!(agent.publish("/messages", &large).await.is_err(), "full");
    step.add_permits(1);
    world.log.until("the second call", |lines| lines.iter().filter(|line| *line == "handling").count() == 2).await;
    assert!(agent.publish("/messages", &large).await.is_ok(), "one of {sent} is done, the batch is not");
}

#[tokio::test]
async fn what_expires_for_want_of_a_receiver_is_counted_without_one() {
    let world = World::default();
    let agent = world.agent().await;
    let route = r#"{"route":"FROM /messages INTO BrokeredEndpoint(\"/modules/b/inputs/in\")","timeToLiveSecs":1}"#;
    agent.apply(&manifest(&[], &[route])).await.unwrap();
    let large = message(&"x".repeat(200_000));
    while agent.publish("/messages", &large).await.is_ok() {}
    let full = agent.status().await.unwrap().queues[0].clone();
    tokio::time::timeout(super::worlds::DEADLINE, async {
        while agent.publish("/messages", &large).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    let queue = agent.status().await.unwrap().queues[0].clone();
    assert_eq!(queue.dropped.get("ttl_expiry"), Some(&(full.length as u64)));
    assert_eq!(queue.length, 1);
}
