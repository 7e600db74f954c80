//! The task that feeds upstream, and what it waits for.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{
    routing::router,
    worlds::{DEADLINE, MemoryUpstream},
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
