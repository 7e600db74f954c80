//! Durable timers over an update, and beside what else a module does.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use marram_core::{
    elapsed::Elapsed,
    name::ModuleName,
    ports::{Exports, Sent, Settlement, State, States},
    state::{HOST_BUCKET, StateError, Write},
    timers::DurableTimers,
};

use super::worlds::{Guest, World, manifest, message};

/// Of each module: durable timers that have been due for long.
#[derive(Clone, Copy)]
struct Overdue {
    timers: usize,
    periodic: bool,
    write_takes: Duration,
}

const ONE: Overdue = Overdue { timers: 1, periodic: false, write_takes: Duration::ZERO };

impl States for Overdue {
    fn open(&self, _: &ModuleName) -> Result<Box<dyn State>, StateError> {
        Ok(Box::new(*self))
    }

    fn remove(&self, _: &ModuleName) -> Result<(), StateError> {
        Ok(())
    }
}

impl State for Overdue {
    fn get(&self, bucket: &str, _: &str) -> Result<Option<Bytes>, StateError> {
        let mut timers = DurableTimers::default();
        for n in 0..self.timers {
            timers.set(&format!("durable {n}"), Duration::from_secs(1), self.periodic, Elapsed(0)).unwrap();
        }
        Ok((bucket == HOST_BUCKET).then(|| timers.to_bytes(Elapsed(60_000), crate::clocks()).into()))
    }

    fn keys(&self, _: &str, _: &str, _: Option<&str>, _: usize) -> Vec<Box<str>> {
        Vec::new()
    }

    fn write(&mut self, _: &[Write]) -> Result<(), StateError> {
        std::thread::sleep(self.write_takes);
        Ok(())
    }
}

#[tokio::test]
async fn durable_timers_fire_only_into_a_version_that_imports_them() {
    let mut world = World::default();
    world.states = Some(Arc::new(ONE));
    // Reads the timers, and hears of none.
    world.guest("m", Guest { exports: Exports::default(), durable_timers: true, ..Guest::default() });
    let log = world.log.clone();
    let hears = |durable_timers| {
        let log = log.clone();
        Guest {
            exports: Exports { start: true, timer: true, ..Exports::default() },
            start: Arc::new(|host| {
                Ok(host.set_timer("own", Duration::from_millis(1), false).map_err(|e| e.to_string()))
            }),
            fire: Arc::new(move |_, name, _| {
                log.push(format!("fire {name}"));
                Ok(())
            }),
            durable_timers,
            ..Guest::default()
        }
    };
    world.guest("hears", hears(false));
    world.guest("imports", hears(true));
    let agent = world.agent().await;
    agent.apply(&manifest(&[("m", "{}")], &[])).await.unwrap();
    super::lifetime::until(&agent, "m", "running").await;
    let image = |image: &str| manifest(&[("m", &format!(r#"{{"settings":{{"image":"{image}"}}}}"#))], &[]);
    agent.apply(&image("hears")).await.unwrap();
    let fired = |lines: &[String]| lines.iter().filter(|line| line.starts_with("fire")).cloned().collect::<Vec<_>>();
    // A durable one would come first.
    let lines = log.until("its own timer", |lines| lines.iter().any(|line| line == "fire own")).await;
    assert_eq!(fired(&lines), ["fire own"]);
    agent.apply(&image("imports")).await.unwrap();
    log.until("the durable one, in a version that imports it", |lines| fired(lines).contains(&"fire durable 0".into()))
        .await;
    agent.shut_down(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn durable_timers_and_those_of_the_instance_take_turns() {
    let mut world = World::default();
    world.states = Some(Arc::new(Overdue { timers: 3, ..ONE }));
    let log = world.log.clone();
    let guest = Guest {
        exports: Exports { start: true, timer: true, ..Exports::default() },
        start: Arc::new(|host| Ok(host.set_timer("own", Duration::from_millis(1), false).map_err(|e| e.to_string()))),
        fire: Arc::new(move |_, name, _| {
            std::thread::sleep(Duration::from_millis(2)); // the other is due then
            log.push(name);
            Ok(())
        }),
        durable_timers: true,
        ..Guest::default()
    };
    world.guest("m", guest);
    let agent = world.agent().await;
    agent.apply(&manifest(&[("m", "{}")], &[])).await.unwrap();
    let is_timer = |line: &&String| *line == "own" || line.starts_with("durable");
    let fired = |lines: &[String]| lines.iter().filter(is_timer).cloned().collect::<Vec<_>>();
    let lines = world.log.until("all", |lines| fired(lines).len() == 4).await;
    let own = fired(&lines).iter().position(|name| name == "own").unwrap();
    assert!(own <= 1, "{lines:?}");
    agent.shut_down(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn durable_timers_that_are_always_due_leave_half_of_the_time_to_messages() {
    const MESSAGES: usize = 60;
    let mut world = World::default();
    // A round takes longer than until the first is due again.
    world.states = Some(Arc::new(Overdue { timers: 64, periodic: true, write_takes: Duration::from_millis(30) }));
    let (fires, handles) = (world.log.clone(), world.log.clone());
    let guest = Guest {
        exports: Exports { start: true, timer: true, input: true, ..Exports::default() },
        start: Arc::new(|host| {
            (0..MESSAGES)
                .for_each(|n| assert!(matches!(host.try_send("o", &message(&n.to_string())), Sent::Accepted(_))));
            Ok(Ok(()))
        }),
        fire: Arc::new(move |_, _, _| {
            fires.push("fire");
            Ok(())
        }),
        handler: Arc::new(move |_, _| {
            handles.push("message");
            Box::pin(async { Ok(Settlement::Done) })
        }),
        durable_timers: true,
        ..Guest::default()
    };
    world.guest("m", guest);
    let agent = world.agent().await;
    let to_itself = r#"FROM /messages/modules/m/* INTO BrokeredEndpoint("/modules/m/inputs/in")"#;
    agent.apply(&manifest(&[("m", "{}")], &[to_itself])).await.unwrap();
    let count = |lines: &[String], what: &str| lines.iter().filter(|line| *line == what).count();
    let lines = world.log.until("all messages", |lines| count(lines, "message") == MESSAGES).await;
    let fired = count(&lines, "fire");
    assert!((1..MESSAGES / 2).contains(&fired), "{fired} timers have fired between {MESSAGES} messages");
    world.log.until("they fire on", |lines| count(lines, "fire") > fired + 3).await;
    agent.shut_down(Duration::from_secs(5)).await;
}
