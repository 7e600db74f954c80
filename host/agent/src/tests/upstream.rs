//! The task that feeds upstream, and what it waits for.

use std::{sync::Arc, time::Duration};

use marram_core::{
    deployment::{Durability, QueueOptions},
    log::{EndpointId, QueueUsage},
    message::Accepted,
    queue::{Arrival, Item},
    time::{Uptime, UtcMillis},
};
use tokio::sync::watch;

use super::{
    routing::router,
    worlds::{DEADLINE, MemoryUpstream, message},
};
use crate::{clock::Clock, endpoint::Endpoint, upstream::UpstreamTask};

#[tokio::test]
async fn a_message_that_the_log_refuses_at_the_stop_does_not_hold_the_stop_up() {
    for stop_first in [true, false] {
        let router = router(&[("FROM /messages/* INTO $upstream", Duration::ZERO)]).await;
        let endpoint = router.upstream().unwrap();
        let (close, closing) = watch::channel(false);
        let upstream = Arc::new(MemoryUpstream::default());
        let task = UpstreamTask { clock: Clock::start(), router: router.clone(), upstream, closing };
        Endpoint::reserve(&mut endpoint.lock(), 300);
        let task = tokio::spawn(task.run());
        // Each time the only other task of this thread runs until it waits.
        let its_turn = tokio::task::yield_now;
        its_turn().await;
        if stop_first {
            close.send_replace(true);
            its_turn().await;
            endpoint.release(300);
        } else {
            endpoint.release(300);
            its_turn().await;
            close.send_replace(true);
        }
        tokio::time::timeout(DEADLINE, task).await.expect("it waits for a message that never comes").unwrap();
    }
}

/// What routes have promised holds for what came under them: upstream must have it safely before the log forgets it.
#[tokio::test]
async fn a_promise_to_survive_a_loss_of_power_outlives_the_routes_that_made_it_until_all_is_gone() {
    let router = router(&[("FROM /messages/* INTO $upstream", Duration::ZERO)]).await;
    let endpoint = router.upstream().unwrap();
    let promise = |durability| endpoint.configure(QueueOptions::default(), durability, 1);
    promise(Durability::Power);
    let accepted = Accepted { message: message("x"), source: "/m".into(), sequence: 1, enqueued: UtcMillis(0) };
    endpoint.push(
        &mut endpoint.lock(),
        Item {
            accepted,
            size: 300,
            priority: 5,
            deadline: None,
            attempts: 0,
            max_attempts: None,
            stored: None,
            suspect: false,
            live: false,
            arrival: Arrival::default(),
            turn: 0,
        },
    );
    promise(Durability::Crash);
    let mut batch = endpoint.take(Uptime(1), 10);
    assert!(endpoint.is_power_safe(), "as it was accepted");
    batch.settle_first(1);
    endpoint.finish(batch, Uptime(1));
    assert!(!endpoint.is_power_safe());
    // What a start finds in the log came under routes that nobody remembers.
    endpoint.opened(EndpointId(0), &[QueueUsage { priority: 5, messages: 1, bytes: 300 }]);
    promise(Durability::Crash);
    assert!(endpoint.is_power_safe());
}
