//! The wall clock is set, while the host runs and between two runs, and the device starts again: time to live is what has passed.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{elapsed::Clocks, ports::SendError, time::UtcMillis};

use super::{
    storing::{note_in, noted, noting, numbers, publish, queue_with},
    worlds::{World, manifest_with, message},
};
use crate::{Agent, Time};

const STOPPED: &str = r#"{"status":"stopped"}"#;
const DAY: u64 = 86_400_000;
const YEARS: u64 = 56 * 365 * DAY;
const STEPS: [u64; 2] = [YEARS, 0_u64.wrapping_sub(DAY)];

static STEP: AtomicU64 = AtomicU64::new(0);

/// A clock that is set by hand, and says that it was set by an authority.
fn stepping() -> Clocks {
    let clocks = crate::clocks();
    Clocks { utc: UtcMillis(clocks.utc.0.wrapping_add(STEP.load(SeqCst))), synchronised: true, ..clocks }
}

#[tokio::test]
async fn steps_of_the_wall_clock_expire_nothing_and_time_that_passes_does() {
    let mut world = noting();
    world.clocks = Some(stepping);
    let route = |ttl: u32| {
        format!(r#"{{"route":"FROM /messages INTO BrokeredEndpoint('/modules/b/inputs/in')","timeToLiveSecs":{ttl}}}"#)
    };
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[&route(3600)])).await.unwrap();
    let padding = "x".repeat(1000);
    let texts: Vec<String> = numbers(0..600).into_iter().map(|n| format!("{n} {padding}")).collect();
    publish(&agent, &texts).await;
    for step in STEPS {
        STEP.store(step, SeqCst);
        world = world.after_kill();
        world.clocks = Some(stepping);
        let agent = world.agent().await;
        assert_eq!(agent.status().await.unwrap().queues[0].length, 600);
    }
    note_in(&world);
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[&route(3600)])).await.unwrap();
    assert!(noted(&world, 600).await == texts);

    // The same with a time to live that is over: on the disk, too, nothing of it is delivered.
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[&route(1)])).await.unwrap();
    queue_with(&agent, |queue| queue.length == 0).await;
    publish(&agent, &texts).await;
    tokio::time::sleep(Duration::from_millis(1100)).await; // what is tested is that time passes
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[&route(1)])).await.unwrap();
    let queue = queue_with(&agent, |queue| queue.length == 0).await;
    assert_eq!(queue.dropped, [("ttl_expiry".into(), 600)].into());
}

/// A route whose messages live for an hour.
const FOR_AN_HOUR: &str =
    r#"{"route":"FROM /messages INTO BrokeredEndpoint('/modules/b/inputs/in')","timeToLiveSecs":3600}"#;

/// Sends until the queue of `b`, which is stopped, is full.
async fn fill(agent: &Arc<Agent>) -> Vec<String> {
    agent.apply(&manifest_with("crash", &[("b", STOPPED)], &[FOR_AN_HOUR])).await.unwrap();
    let padding = "x".repeat(10_000);
    let mut texts = Vec::new();
    loop {
        let text = format!("{} {padding}", texts.len());
        match agent.publish("/messages", &message(&text)).await {
            Ok(()) => texts.push(text),
            Err(error) => {
                assert_eq!(error, SendError::Full);
                return texts;
            }
        }
    }
}

/// Has `b` run, and its queue empty.
async fn run_b(agent: &Arc<Agent>) -> crate::QueueStatus {
    agent.apply(&manifest_with("crash", &[("b", "{}")], &[FOR_AN_HOUR])).await.unwrap();
    queue_with(agent, |queue| queue.length == 0).await
}

#[tokio::test]
async fn steps_of_the_wall_clock_under_a_running_host_with_a_full_queue_expire_nothing() {
    for step in STEPS {
        STEP.store(0, SeqCst);
        let mut world = noting();
        world.clocks = Some(stepping);
        world.time = Some(Time { since_boot: || stepping().since_boot, utc: || stepping().utc });
        let agent = world.agent().await;
        let texts = fill(&agent).await;
        STEP.store(step, SeqCst);
        assert!(agent.now().0.abs_diff(stepping().utc.0) < DAY / 24, "the host sees the step");
        let endpoint = agent.router().inputs_of("b")[0].clone();
        for _ in 0..2 {
            assert_eq!(agent.publish("/messages", &message(&texts[0])).await, Err(SendError::Full));
            agent.router().storage().expire(endpoint.clone());
        }
        let queue = run_b(&agent).await;
        assert_eq!((queue.delivered, queue.dropped), (texts.len() as u64, [].into()));
        assert!(noted(&world, texts.len()).await == texts);
    }
}

/// What the clocks of another boot show: it began a minute before this moment of the real one, and the wall clock is so far ahead and synchronised
/// or not.
static OTHER_BOOT: Mutex<(u64, u64, bool)> = Mutex::new((0, 0, false));

fn other_boot() -> Clocks {
    let (began, ahead, synchronised) = *OTHER_BOOT.lock().unwrap();
    let clocks = crate::clocks();
    let since_boot = clocks.since_boot - began + 60_000;
    Clocks { boot: [7; 16], since_boot, utc: UtcMillis(clocks.utc.0 + ahead), synchronised }
}

#[tokio::test]
async fn after_a_start_of_the_device_a_full_queue_has_what_had_time_left() {
    STEP.store(0, SeqCst);
    let mut first = World::default();
    first.clocks = Some(stepping);
    let texts = fill(&first.agent().await).await;
    let all = texts.len() as u64;
    for (ahead, synchronised, expired) in [(YEARS, false, 0), (DAY / 144, true, 0), (DAY / 12, true, all)] {
        *OTHER_BOOT.lock().unwrap() = (crate::clocks().since_boot, ahead, synchronised);
        let mut world = first.after_kill();
        world.clocks = Some(other_boot);
        note_in(&world);
        let queue = run_b(&world.agent().await).await;
        let gone = queue.dropped.get("ttl_expiry").copied().unwrap_or_default();
        assert_eq!((queue.delivered, gone), (all - expired, expired), "{ahead} ms ahead, synchronised {synchronised}");
    }
}
