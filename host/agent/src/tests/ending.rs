//! The end of the host: nothing that was accepted and can be handed over is lost.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{
    ports::{BoxFuture, Exit, Exports, ModuleHost, Sent, Settlement},
    time::UtcMillis,
};

use tokio::{sync::Semaphore, task::JoinHandle};

use super::worlds::{DEADLINE, Guest, Handler, World, manifest, message};
use crate::{Agent, ApplyError, LogQuery, ModuleError};

const A_TO_B: &str = r#""FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#;
const B_UP: &str = r#""FROM /messages/modules/b/* INTO $upstream""#;

fn forwarder() -> Guest {
    let handler: Arc<Handler> = Arc::new(|host: &dyn ModuleHost, delivery| {
        assert!(matches!(host.try_send("up", &delivery.accepted.message), Sent::Accepted(_)));
        Box::pin(async { Ok(Settlement::Done) })
    });
    Guest { handler, ..Guest::default() }
}

/// A module that sends without end from one long call, and counts what was accepted.
fn flood(accepted: &Arc<AtomicU64>) -> Guest {
    let accepted = accepted.clone();
    let exports = Exports { start: true, input: true, ..Exports::default() };
    let handler: Arc<Handler> = Arc::new(move |host: &dyn ModuleHost, _| {
        let accepted = accepted.clone();
        let send: Vec<BoxFuture<'static, _>> =
            (0..3000).map(|n| host.send("out".into(), message(&n.to_string()))).collect();
        Box::pin(async move {
            for sending in send {
                if sending.await.is_ok() {
                    accepted.fetch_add(1, SeqCst);
                }
                tokio::task::yield_now().await;
            }
            Ok(Settlement::Done)
        })
    });
    let start = Arc::new(|host: &dyn ModuleHost| {
        host.try_send("self", &message("go"));
        Ok(Ok(()))
    });
    Guest { exports, handler, start, ..Guest::default() }
}

#[tokio::test]
async fn what_a_module_sends_while_it_is_stopped_reaches_upstream_through_the_others() {
    let world = World::default();
    let accepted = Arc::new(AtomicU64::new(0));
    world.guest("a", flood(&accepted));
    world.guest("b", forwarder());
    let agent = world.agent().await;
    let routes = [
        r#""FROM /messages/modules/a/outputs/self INTO BrokeredEndpoint(\"/modules/a/inputs/go\")""#,
        r#""FROM /messages/modules/a/outputs/out INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#,
        B_UP,
    ];
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &routes)).await.unwrap();
    world.upstream.taken.until("the flood has begun", |lines| lines.len() > 50).await;
    agent.shut_down(Duration::from_secs(20)).await;
    let taken = world.upstream.taken.lines();
    assert_eq!(taken.len() as u64, accepted.load(SeqCst));
    assert!(taken.len() > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_call_that_runs_at_the_stop_may_still_send() {
    let world = World::default();
    let (begun, released) = (world.log.clone(), Arc::new(Mutex::new(None)));
    let (release, wait) = std::sync::mpsc::channel::<()>();
    *released.lock().unwrap() = Some(wait);
    let exports = Exports { start: true, timer: true, ..Exports::default() };
    let start = Arc::new(|host: &dyn ModuleHost| {
        host.set_timer("t", Duration::from_millis(1), false).unwrap();
        Ok(Ok(()))
    });
    let fire = Arc::new(move |host: &dyn ModuleHost, _: &str, _: u64| {
        begun.push("fire");
        let wait = released.lock().unwrap().take().unwrap();
        tokio::task::block_in_place(|| wait.recv().unwrap());
        assert!(matches!(host.try_send("out", &message("last reading")), Sent::Accepted(_)));
        Ok(())
    });
    world.guest("a", Guest { exports, start, fire, ..Guest::default() });
    world.guest("b", forwarder());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[A_TO_B, B_UP])).await.unwrap();
    world.log.until("fire", |lines| lines.contains(&"fire".into())).await;
    let ending = tokio::spawn(async move { agent.shut_down(Duration::from_secs(10)).await });
    release.send(()).unwrap();
    ending.await.unwrap();
    assert_eq!(world.upstream.taken.lines(), ["last reading"]);
}

#[tokio::test]
async fn a_message_in_back_off_is_tried_again_before_the_end() {
    let world = World::default();
    let exports = Exports { start: true, input: true, ..Exports::default() };
    let start = Arc::new(|host: &dyn ModuleHost| {
        host.try_send("out", &message("x"));
        Ok(Ok(()))
    });
    world.guest("a", Guest { exports, start, ..Guest::default() });
    let log = world.log.clone();
    world.handler("b", move |host, delivery| {
        log.push(format!("attempt {}", delivery.attempt));
        if delivery.attempt == 1 {
            return Ok(Settlement::Retry(Some(Duration::from_secs(5))));
        }
        host.try_send("up", &delivery.accepted.message);
        Ok(Settlement::Done)
    });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[A_TO_B, B_UP])).await.unwrap();
    world.log.until("the first attempt", |lines| lines.contains(&"attempt 1".into())).await;
    agent.shut_down(Duration::from_secs(10)).await;
    assert_eq!(world.upstream.taken.lines(), ["x"]);
}

/// Its first call says `begun` and waits for a permit; a second message waits until then.
fn stuck_in_a_call(world: &World, release: &Arc<Semaphore>) -> Guest {
    let (log, release) = (world.log.clone(), release.clone());
    let handler: Arc<Handler> = Arc::new(move |host, delivery| {
        log.push("begun");
        host.try_send("up", &delivery.accepted.message);
        let release = release.clone();
        Box::pin(async move {
            release.acquire_owned().await.unwrap().forget();
            Ok(Settlement::Done)
        })
    });
    Guest { handler, ..Guest::default() }
}

/// `a` has sent three messages to `b`, whose update is up and whose old instance is in the middle of the first one.
async fn in_the_middle_of_an_update(world: &World, release: &Arc<Semaphore>, update: Guest) -> Arc<Agent> {
    let exports = Exports { start: true, ..Exports::default() };
    let start = Arc::new(|host: &dyn ModuleHost| {
        ["1", "2", "3"]
            .iter()
            .for_each(|text| assert!(matches!(host.try_send("out", &message(text)), Sent::Accepted(_))));
        Ok(Ok(()))
    });
    world.guest("a", Guest { exports, start, ..Guest::default() });
    world.guest("b", stuck_in_a_call(world, release));
    world.guest("new", update);
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[A_TO_B, B_UP])).await.unwrap();
    world.log.until("the call of the old one", |lines| lines.contains(&"begun".into())).await;
    let new = r#"{"settings":{"image":"new"}}"#;
    agent.apply(&manifest(&[("a", "{}"), ("b", new)], &[A_TO_B, B_UP])).await.unwrap();
    let stopping = async {
        while !agent.status().await.unwrap().modules.iter().any(|module| module.status == "stopping") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, stopping).await.expect("the update comes up");
    agent
}

/// Asks the host to end and returns once it is about to.
async fn begin_to_end(agent: &Arc<Agent>, grace: Duration) -> JoinHandle<()> {
    let ending = agent.clone();
    let ending = tokio::spawn(async move { ending.shut_down(grace).await });
    // `b` is stopping already: a restart is refused only by a host that ends.
    let refused = async {
        while agent.restart("b").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.expect("the host begins to end");
    ending
}

#[tokio::test]
async fn what_waits_for_a_module_in_the_middle_of_an_update_is_handled_by_the_new_version() {
    let (world, release) = (World::default(), Arc::new(Semaphore::new(0)));
    let agent = in_the_middle_of_an_update(&world, &release, forwarder()).await;
    let ending = begin_to_end(&agent, Duration::from_secs(20)).await;
    release.add_permits(1);
    tokio::time::timeout(DEADLINE, ending).await.expect("in time").unwrap();
    assert_eq!(world.upstream.taken.lines(), ["1", "2", "3"]);
}

#[tokio::test]
async fn an_old_version_that_does_not_end_in_its_time_holds_no_stop_up_for_its_update() {
    let (world, release) = (World::default(), Arc::new(Semaphore::new(0)));
    let agent = in_the_middle_of_an_update(&world, &release, forwarder()).await;
    let ending = begin_to_end(&agent, Duration::from_millis(300)).await;
    tokio::time::timeout(DEADLINE, ending).await.expect("in time").unwrap();
    assert_eq!(world.upstream.taken.lines(), ["1"]);
}

#[tokio::test]
async fn nothing_new_is_taken_while_the_host_ends() {
    let world = World::default();
    world.guest("a", Guest::default());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[A_TO_B])).await.unwrap();
    agent.shut_down(Duration::from_secs(5)).await;
    assert!(matches!(agent.apply(&manifest(&[], &[])).await, Err(ApplyError::Stopping)));
    let again = world.agent().await;
    assert_eq!(again.status().await.unwrap().deployment_version, 1);
}

#[tokio::test]
async fn who_waits_for_a_log_line_does_not_hold_the_stop_up() {
    let world = World::default();
    world.guest("a", Guest::default());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    let never = LogQuery { since: UtcMillis(u64::MAX), wait: Duration::from_secs(3600), ..LogQuery::default() };
    let asker = agent.clone();
    let waiting = tokio::spawn(async move { asker.logs("a", &never).await });
    tokio::task::yield_now().await;
    agent.shut_down(Duration::from_secs(20)).await;
    assert!(matches!(waiting.await.unwrap(), Err(ModuleError::Stopping)));
}

#[tokio::test]
async fn what_traps_while_the_host_ends_is_kept() {
    let (world, release) = (World::default(), Arc::new(Semaphore::new(0)));
    let exports = Exports { start: true, input: true, ..Exports::default() };
    let start = Arc::new(|host: &dyn ModuleHost| {
        host.try_send("out", &message("x"));
        Ok(Ok(()))
    });
    let (log, released) = (world.log.clone(), release.clone());
    let handler: Arc<Handler> = Arc::new(move |_, _| {
        log.push("begun");
        let released = released.clone();
        Box::pin(async move {
            released.acquire_owned().await.unwrap().forget();
            Err(Exit::new(Exit::TRAP, "unreachable"))
        })
    });
    world.guest("a", Guest { exports, start, handler, ..Guest::default() });
    world.guest("b", Guest::default());
    let agent = world.agent().await;
    let to_itself = r#""FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/a/inputs/in\")""#;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[to_itself])).await.unwrap();
    world.log.until("the call", |lines| lines.contains(&"begun".into())).await;
    let ending = begin_to_end(&agent, Duration::from_secs(20)).await;
    release.add_permits(1);
    tokio::time::timeout(DEADLINE, ending).await.expect("in time").unwrap();

    world.guest("a", Guest::default());
    let again = world.agent().await;
    let kept = again.traps("a").await.unwrap().traps;
    assert_eq!(kept.iter().map(|trap| trap.reason.as_str()).collect::<Vec<_>>(), ["unreachable"]);
    again.shut_down(Duration::from_secs(5)).await;
}
