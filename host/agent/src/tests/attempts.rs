//! Deliveries again: what a receiver sees of them, when they come, and those that are noted in the log before they begin, and do not begin.

use std::{sync::Arc, time::Duration};

use marram_core::{
    message::Message,
    ports::{Exit, Exports, ModuleHost, Settlement},
};

use super::{
    hooked::{Call, Gate},
    worlds::{DEADLINE, Guest, Program, World, manifest_with, message, text},
};
use crate::clock::Clock;

const ONCE: &str =
    r#"{"route":"FROM /messages INTO BrokeredEndpoint('/modules/b/inputs/in')","marram":{"maxAttempts":1}}"#;
const STOPPED: &str = r#"{"status":"stopped"}"#;

/// A world whose log holds one message for `b`, to be delivered once at most, and waits at the gate before it notes that.
async fn waiting_world() -> (World, Arc<Gate>) {
    let world = World::default();
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[ONCE])).await.unwrap();
    agent.publish("/messages", &message("once")).await.unwrap();
    let mut world = world.after_kill();
    let gate = Arc::new(Gate::default());
    let at = gate.clone();
    world.hook = Some(Arc::new(move |call| {
        if call == Call::Attempt(1) {
            at.pass();
        }
        Ok(())
    }));
    (world, gate)
}

/// The next start of the host delivers it, for the first time.
async fn is_delivered_next(world: &World) {
    let next = world.after_kill();
    let log = next.log.clone();
    next.handler("b", move |_, delivery| {
        log.push(format!("{} {}", text(&delivery.accepted.message), delivery.attempt));
        Ok(Settlement::Done)
    });
    let agent = next.agent().await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[ONCE])).await.unwrap();
    next.log.until("the message", |lines| lines.contains(&"once 1".into())).await;
}

#[tokio::test]
async fn a_stop_between_the_note_of_an_attempt_and_the_delivery_costs_no_attempt() {
    let (world, gate) = waiting_world().await;
    world.handler("b", |_, _| unreachable!("it is stopped before"));
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[ONCE])).await.unwrap();
    gate.reached().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[ONCE])).await.unwrap();
    while agent.status().await.unwrap().modules[0].status != "stopping" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gate.open();
    agent.shut_down(Duration::from_secs(5)).await;
    is_delivered_next(&world).await;
}

#[tokio::test]
async fn a_program_that_does_not_wait_for_the_note_costs_no_attempt() {
    let (world, gate) = waiting_world().await;
    let (log, at) = (world.log.clone(), gate.clone());
    let program: Arc<Program> = Arc::new(move |host: Arc<dyn ModuleHost>| {
        let (log, at) = (log.clone(), at.clone());
        Box::pin(async move {
            tokio::select! {
                _ = host.receive(DEADLINE) => unreachable!("it is not noted yet"),
                () = at.reached() => {}
            }
            log.push("left");
            Exit::new(Exit::DONE, "the program ended")
        })
    });
    world.guest(
        "b",
        Guest { exports: Exports { run: true, ..Exports::default() }, program, inbox: true, ..Guest::default() },
    );
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", r#"{"restartPolicy":"never"}"#)], &[ONCE])).await.unwrap();
    world.log.until("its end", |lines| lines.contains(&"left".into())).await;
    gate.open();
    agent.shut_down(Duration::from_secs(5)).await;
    is_delivered_next(&world).await;
}

#[tokio::test]
async fn what_comes_again_has_the_same_source_number_and_id_and_one_attempt_more() {
    for durability in ["memory", "crash"] {
        let world = World::default();
        let log = world.log.clone();
        world.handler("b", move |_, delivery| {
            let accepted = &delivery.accepted;
            let id = accepted.message.system().and_then(|system| system.message_id.clone());
            log.push(format!("{} {} {id:?} {}", accepted.source, accepted.sequence, delivery.attempt));
            let again = Settlement::Retry(Some(Duration::from_millis(10)));
            Ok(if delivery.attempt < 3 { again } else { Settlement::Done })
        });
        let agent = world.agent().await;
        let route = "FROM /messages/x INTO BrokeredEndpoint('/modules/b/inputs/in')";
        agent.apply(&manifest_with(durability, &[("b", "{}")], &[route])).await.unwrap();
        let mut sent = Message::clone(&message("x"));
        sent.system_mut().message_id = Some("seven".into());
        agent.publish("/messages/x", &Arc::new(sent)).await.unwrap();
        let lines =
            world.log.until("3 deliveries", |lines| lines.iter().filter(|line| line.ends_with('3')).count() == 1).await;
        let seen: Vec<_> = lines.iter().filter_map(|line| line.strip_prefix("/messages/x ")).collect();
        let number = seen[0].split(' ').next().unwrap();
        let expected: Vec<String> = (1..=3).map(|attempt| format!("{number} Some(\"seven\") {attempt}")).collect();
        assert_eq!(seen, expected);
    }
}

#[test]
fn back_offs_are_spread_by_chance() {
    let clock = Clock::start();
    let drawn: Vec<f64> = (0..1000).map(|_| clock.jitter()).collect();
    assert!(drawn.iter().all(|drawn| (0.0..1.0).contains(drawn)));
    for tenth in 0..10 {
        let within = drawn.iter().filter(|drawn| (*drawn * 10.0) as usize == tenth).count();
        assert!((30..300).contains(&within), "{within} of 1000 in tenth {tenth}");
    }
}
