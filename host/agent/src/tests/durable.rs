//! Durable timers over an update.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use marram_core::{
    elapsed::Elapsed,
    name::ModuleName,
    ports::{Exports, State, States},
    state::{HOST_BUCKET, StateError, Write},
    timers::DurableTimers,
};

use super::worlds::{Guest, World, manifest};

/// Of each module: a durable timer that has been due for long.
struct Overdue;

impl States for Overdue {
    fn open(&self, _: &ModuleName) -> Result<Box<dyn State>, StateError> {
        Ok(Box::new(Self))
    }

    fn remove(&self, _: &ModuleName) -> Result<(), StateError> {
        Ok(())
    }
}

impl State for Overdue {
    fn get(&self, bucket: &str, _: &str) -> Result<Option<Bytes>, StateError> {
        let mut timers = DurableTimers::default();
        timers.set("durable", Duration::from_secs(1), false, Elapsed(0)).unwrap();
        Ok((bucket == HOST_BUCKET).then(|| timers.to_bytes(Elapsed(60_000), crate::clocks()).into()))
    }

    fn keys(&self, _: &str, _: &str, _: Option<&str>, _: usize) -> Vec<Box<str>> {
        Vec::new()
    }

    fn write(&mut self, _: &[Write]) -> Result<(), StateError> {
        Ok(())
    }
}

#[tokio::test]
async fn durable_timers_fire_only_into_a_version_that_imports_them() {
    let mut world = World::default();
    world.states = Some(Arc::new(Overdue));
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
    log.until("the durable one, in a version that imports it", |lines| fired(lines).contains(&"fire durable".into()))
        .await;
    agent.shut_down(Duration::from_secs(5)).await;
}
