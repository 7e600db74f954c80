//! How long a message is under way from `/messages` through a guest to upstream, a thousand of them a second, against two bare channels
//! between tasks that are paced alike, in the same run: on threads as the binary has them, and with all of it on one thread.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use marram_core::message::Message;
use tokio::sync::mpsc;

use crate::{host::Hop, report};

/// Seconds at a thousand messages each.
const MESSAGES: usize = 5000;
/// The first ones warm caches.
const WARM: usize = 500;

pub(crate) async fn measure(name: &str, message: &Arc<Message>) {
    let (hop, mut arrivals) = Hop::to_upstream().await;
    let (first, mut between) = mpsc::channel::<Arc<Message>>(64);
    let (second, mut last) = mpsc::channel::<Arc<Message>>(64);
    tokio::spawn(async move {
        while let Some(message) = between.recv().await {
            if second.send(message).await.is_err() {
                return;
            }
        }
    });
    let (done, mut floor_arrivals) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while last.recv().await.is_some() {
            let _ = done.send(Instant::now());
        }
    });
    let (mut values, mut floors) = (Vec::new(), Vec::new());
    let begun = tokio::time::Instant::now();
    for n in 0..MESSAGES + WARM {
        tokio::time::sleep_until(begun + Duration::from_millis(n as u64)).await;
        let sent = Instant::now();
        first.send(message.clone()).await.expect("a receiver");
        let floor = floor_arrivals.recv().await.expect("an arrival") - sent;
        let sent = Instant::now();
        hop.publish(message).await;
        let value = arrivals.recv().await.expect("an arrival") - sent;
        if n >= WARM {
            floors.push(floor.as_nanos() as f64);
            values.push(value.as_nanos() as f64);
        }
    }
    hop.end().await;
    report::latency(name, values, floors);
}
