//! Programs that ask for their messages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::ports::{Exit, Exports, MAX_UNSETTLED, ModuleHost, ReceiveError, Received, Sent, Settlement};

use super::worlds::{DEADLINE, Guest, World, manifest, message, text};

const TO_P: &str = r#""FROM /messages/feed INTO BrokeredEndpoint(\"/modules/p/inputs/in\")""#;
const P_UP: &str = r#""FROM /messages/modules/p/* INTO $upstream""#;

/// A program that does this; `run` counts its instances from 0.
fn program<F>(body: impl Fn(Arc<dyn ModuleHost>, u32) -> F + Send + Sync + 'static) -> Guest
where
    F: Future<Output = Exit> + Send + 'static,
{
    let runs = AtomicU32::new(0);
    Guest {
        exports: Exports { run: true, ..Exports::default() },
        inbox: true,
        program: Arc::new(move |host| Box::pin(body(host, runs.fetch_add(1, SeqCst)))),
        ..Guest::default()
    }
}

async fn next(host: &dyn ModuleHost) -> Received {
    host.receive(DEADLINE).await.unwrap().expect("a message in time")
}

fn told(received: &Received) -> String {
    format!("{} attempt {}", text(&received.delivery.accepted.message), received.delivery.attempt)
}

#[tokio::test]
async fn a_program_receives_in_order_as_messages_come_and_sends_them_on() {
    let world = World::default();
    let log = world.log.clone();
    world.guest(
        "p",
        program(move |host, _| {
            let log = log.clone();
            async move {
                assert!(host.receive(Duration::ZERO).await.unwrap().is_none(), "a look takes no time");
                log.push("waits");
                loop {
                    let Ok(Some(received)) = host.receive(DEADLINE).await else { return Exit::new(Exit::DONE, "") };
                    assert_eq!(&*received.delivery.input, "in");
                    assert!(matches!(host.try_send("up", &received.delivery.accepted.message), Sent::Accepted(_)));
                    assert!(host.settle(received.ticket, Settlement::Done));
                    assert!(!host.settle(received.ticket, Settlement::Done), "once");
                }
            }
        }),
    );
    let agent = world.agent().await;
    agent.apply(&manifest(&[("p", "{}")], &[TO_P, P_UP])).await.unwrap();
    world.log.until("the program waits", |lines| lines.contains(&"waits".into())).await;
    for n in 0..100 {
        agent.publish("/messages/feed", &message(&n.to_string())).await.unwrap();
    }
    let taken = world.upstream.taken.until("100 messages", |lines| lines.len() == 100).await;
    assert_eq!(taken, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(agent.delivered("p", "in"), 100);
}

#[tokio::test]
async fn what_a_program_has_not_settled_at_its_end_comes_again_and_the_rest_is_as_new() {
    let world = World::default();
    let log = world.log.clone();
    let body = move |host: Arc<dyn ModuleHost>, run| {
        let log = log.clone();
        async move {
            let held = [next(&*host).await, next(&*host).await, next(&*host).await];
            for received in &held {
                log.push(told(received));
            }
            if run > 0 {
                log.push("again");
                std::future::pending::<()>().await;
            }
            host.settle(held[1].ticket, Settlement::Done);
            Exit::new(Exit::TRAP, "boom")
        }
    };
    world.guest("p", program(body));
    let agent = world.agent().await;
    agent.apply(&manifest(&[], &[TO_P])).await.unwrap();
    for n in 0..5 {
        agent.publish("/messages/feed", &message(&n.to_string())).await.unwrap();
    }
    agent.apply(&manifest(&[("p", "{}")], &[TO_P])).await.unwrap();
    while agent.status().await.unwrap().modules.iter().all(|module| module.status != "backoff") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let queue = agent.status().await.unwrap().queues[0].clone();
    assert_eq!((queue.length, queue.delivered), (4, 1), "one is done, nothing is lost");
    assert_eq!(agent.status().await.unwrap().modules[0].received, 1);
    agent.restart("p").await.unwrap();
    let lines = world.log.until("the second run", |lines| lines.contains(&"again".into())).await;
    let told: Vec<_> = lines.iter().filter(|line| line.contains("attempt")).collect();
    assert_eq!(
        told,
        ["0 attempt 1", "1 attempt 1", "2 attempt 1", "0 attempt 2", "2 attempt 2", "3 attempt 1"],
        "in order, and only what was delivered counts as an attempt"
    );
}

#[tokio::test]
async fn a_program_hears_of_a_stop_and_settles_what_it_holds() {
    let world = World::default();
    let log = world.log.clone();
    let body = move |host: Arc<dyn ModuleHost>, _| {
        let log = log.clone();
        async move {
            let held = next(&*host).await;
            log.push("holds one");
            assert_eq!(host.receive(DEADLINE).await.unwrap_err(), ReceiveError::Stopping);
            assert!(host.settle(held.ticket, Settlement::Done));
            Exit::new(Exit::DONE, "the program ended")
        }
    };
    world.guest("p", program(body));
    let agent = world.agent().await;
    agent.apply(&manifest(&[("p", "{}")], &[TO_P])).await.unwrap();
    agent.publish("/messages/feed", &message("x")).await.unwrap();
    world.log.until("it holds one", |lines| lines.contains(&"holds one".into())).await;
    let stopped = manifest(&[("p", r#"{"status":"stopped"}"#)], &[TO_P]);
    agent.apply(&stopped).await.unwrap();
    let module = loop {
        let module = agent.status().await.unwrap().modules[0].clone();
        if module.status == "stopped" {
            break module;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(module.exit_code, Some(Exit::STOPPED));
    let queue = agent.status().await.unwrap().queues[0].clone();
    assert_eq!((queue.length, queue.delivered), (0, 1));
}

#[tokio::test]
async fn the_end_of_the_host_waits_for_what_a_program_has_still_to_receive() {
    let world = World::default();
    let body = |host: Arc<dyn ModuleHost>, _| async move {
        while let Ok(received) = host.receive(DEADLINE).await {
            let Some(received) = received else { continue };
            tokio::time::sleep(Duration::from_millis(2)).await; // slower than they come
            host.try_send("up", &received.delivery.accepted.message);
            host.settle(received.ticket, Settlement::Done);
        }
        Exit::new(Exit::DONE, "")
    };
    world.guest("p", program(body));
    let agent = world.agent().await;
    agent.apply(&manifest(&[("p", "{}")], &[TO_P, P_UP])).await.unwrap();
    for n in 0..50 {
        agent.publish("/messages/feed", &message(&n.to_string())).await.unwrap();
    }
    world.upstream.taken.until("the first", |lines| !lines.is_empty()).await;
    agent.shut_down(Duration::from_secs(10)).await;
    assert_eq!(world.upstream.taken.lines().len(), 50);
}

#[tokio::test]
async fn a_program_holds_a_bounded_number_of_messages() {
    let world = World::default();
    let log = world.log.clone();
    let body = move |host: Arc<dyn ModuleHost>, _| {
        let log = log.clone();
        async move {
            let mut held = Vec::new();
            let error = loop {
                match host.receive(DEADLINE).await {
                    Ok(received) => held.push(received.unwrap()),
                    Err(error) => break error,
                }
            };
            log.push(format!("{error:?} after {}", held.len()));
            host.settle(held[7].ticket, Settlement::Done);
            log.push(format!("then {}", next(&*host).await.delivery.accepted.sequence));
            std::future::pending().await
        }
    };
    world.guest("p", program(body));
    let agent = world.agent().await;
    agent.apply(&manifest(&[("p", "{}")], &[TO_P])).await.unwrap();
    for _ in 0..=MAX_UNSETTLED {
        agent.publish("/messages/feed", &message("x")).await.unwrap();
    }
    let lines = world.log.until("one more", |lines| lines.iter().any(|line| line.starts_with("then"))).await;
    assert_eq!(lines[1..], ["TooManyUnsettled after 256", "then 257"]);
}

#[tokio::test]
async fn a_route_to_a_module_that_takes_no_messages_is_shown() {
    let world = World::default();
    let deaf = Guest { exports: Exports { run: true, ..Exports::default() }, ..Guest::default() };
    world.guest("p", deaf);
    world.guest("q", program(|_, _| std::future::pending()));
    let agent = world.agent().await;
    let to_q = TO_P.replace("modules/p", "modules/q");
    agent.apply(&manifest(&[("p", "{}"), ("q", "{}")], &[TO_P, &to_q])).await.unwrap();
    let modules = loop {
        let modules = agent.status().await.unwrap().modules;
        if modules.iter().all(|module| module.status == "running") {
            break modules;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(modules[0].description.ends_with("; routes lead to it, but it takes no messages"), "{modules:?}");
    assert!(!modules[1].description.contains("routes"), "{modules:?}");
}
