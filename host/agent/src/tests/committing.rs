//! When the log's owner writes and syncs: groups that form while it is busy, and what is not left unsynced.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::log::Safety;

use super::{
    hooked::{Call, Gate, Hook, Seen},
    routing::poll,
    worlds::{DEADLINE, SyncAfter, World, manifest_with, message},
};
use crate::Agent;

const TO_B: &str = "FROM /messages/* INTO BrokeredEndpoint('/modules/b/inputs/in')";
const STOPPED: &str = r#"{"status":"stopped"}"#;

#[tokio::test]
async fn what_comes_while_the_log_writes_is_its_next_write() {
    for (durability, safety) in [("crash", Safety::Written), ("power", Safety::Synced)] {
        let (seen, gate, is_first) = (Seen::default(), Arc::new(Gate::default()), AtomicBool::new(true));
        let (note, at) = (seen.hook(), gate.clone());
        let hook: Hook = Arc::new(move |call| {
            if matches!(call, Call::Append(..)) && is_first.swap(false, SeqCst) {
                at.pass();
            }
            note(call)
        });
        let world = World::hooked(hook);
        let agent = world.agent().await;
        agent.apply(&manifest_with(durability, &[("b", STOPPED)], &[TO_B])).await.unwrap();
        let x = message("x");
        let mut senders: Vec<_> = (0..16).map(|_| Box::pin(agent.publish("/messages", &x))).collect();
        // Each hands its message over and waits; the first one's is being written.
        assert!(poll(&mut senders[0]).await.is_pending());
        gate.reached().await;
        for sender in &mut senders[1..] {
            assert!(poll(sender).await.is_pending());
        }
        gate.open();
        for sender in senders {
            tokio::time::timeout(DEADLINE, sender).await.unwrap().unwrap();
        }
        assert_eq!(seen.take_appends(), [Call::Append(1, safety), Call::Append(15, safety)]);
        assert_eq!(agent.router().inputs_of("b")[0].stats().len, 16);
    }
}

/// An agent whose owner wants a sync after so long, and what its log is asked to do.
async fn syncing(after: Option<Duration>) -> (World, Arc<Agent>, Seen) {
    let seen = Seen::default();
    let mut world = World::hooked(seen.hook());
    world.sync_after = SyncAfter(after);
    world.upstream.down.store(true, SeqCst); // the only receiver whose share holds two mebibytes
    let agent = world.agent().await;
    agent.apply(&manifest_with("crash", &[], &["FROM /messages/* INTO $upstream"])).await.unwrap();
    (world, agent, seen)
}

/// An eighth of what may be unsynced at most.
async fn publish_eighths(agent: &Agent, count: usize) {
    let eighth = message(&"x".repeat((1 << 20) / 8));
    for _ in 0..count {
        agent.publish("/messages", &eighth).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_written_is_synced_after_each_mebibyte() {
    let (_world, agent, seen) = syncing(Some(Duration::from_secs(3600))).await;
    publish_eighths(&agent, 17).await;
    let calls = seen.take(|call| matches!(call, Call::Append(..) | Call::Sync));
    let mut expected = vec![Call::Append(1, Safety::Written); 17];
    expected.insert(16, Call::Sync);
    expected.insert(8, Call::Sync);
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn what_is_written_is_synced_after_the_time_that_its_owner_wants() {
    let (_world, agent, seen) = syncing(Some(Duration::from_millis(50))).await;
    agent.publish("/messages", &message("x")).await.unwrap();
    let synced = async {
        while seen.count(|call| call == Call::Sync) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, synced).await.expect("it is synced");
}

#[tokio::test]
async fn without_a_wish_of_the_owner_only_the_stop_syncs() {
    let (_world, agent, seen) = syncing(None).await;
    publish_eighths(&agent, 17).await;
    assert_eq!(seen.count(|call| call == Call::Sync), 0);
    agent.router().storage().stop().await;
    assert_eq!(seen.count(|call| call == Call::Sync), 1);
}
