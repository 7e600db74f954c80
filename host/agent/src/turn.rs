//! A task lets others go first.

use std::{future::poll_fn, task::Poll};

/// Lets the tasks that are ready on this thread have their turn, once. Unlike tokio's `yield_now`, which waits until the thread has nothing
/// else to do: beside a guest that computes and comes back at each tick that may be more than half a second.
pub(crate) async fn turn() {
    let mut was_last = false;
    poll_fn(|context| {
        if std::mem::replace(&mut was_last, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    };

    use super::turn;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn it_is_over_once_each_of_the_others_had_one() {
        let (polls, is_over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, over) = (polls.clone(), is_over.clone());
        // As a guest that computes.
        let busy = tokio::spawn(async move {
            while !over.load(SeqCst) {
                counted.fetch_add(1, SeqCst);
                turn().await;
            }
        });
        let turns = tokio::spawn(async move {
            let before = polls.load(SeqCst);
            for _ in 0..100 {
                turn().await;
            }
            is_over.store(true, SeqCst);
            polls.load(SeqCst) - before
        });
        let polls = turns.await.unwrap();
        assert!(polls <= 101, "{polls} of the other one in 100 turns");
        busy.await.unwrap();
    }
}
