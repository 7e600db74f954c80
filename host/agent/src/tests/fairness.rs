//! A receiver that is slow, or hangs, holds up nobody but itself.

use std::sync::Arc;

use marram_core::ports::Settlement;
use tokio::sync::Semaphore;

use super::{
    storing::numbers,
    worlds::{Guest, Handler, World, manifest_with, message, text},
};

#[tokio::test]
async fn a_receiver_that_hangs_does_not_slow_another_of_the_same_source() {
    let route = |module: &str| format!("FROM /messages INTO BrokeredEndpoint('/modules/{module}/inputs/in')");
    for durability in ["memory", "crash"] {
        let world = World::default();
        let is_free = Arc::new(Semaphore::new(0));
        for module in ["a", "b"] {
            let (log, is_free) = (world.log.clone(), is_free.clone());
            let handler: Arc<Handler> = Arc::new(move |_, delivery| {
                log.push(format!("{module} {}", text(&delivery.accepted.message)));
                let is_free = is_free.clone();
                Box::pin(async move {
                    if module == "a" {
                        drop(is_free.acquire().await.unwrap());
                    }
                    Ok(Settlement::Done)
                })
            });
            world.guest(module, Guest { handler, ..Guest::default() });
        }
        let agent = world.agent().await;
        let manifest = manifest_with(durability, &[("a", "{}"), ("b", "{}")], &[&route("a"), &route("b")]);
        agent.apply(&manifest).await.unwrap();
        for text in numbers(0..1000) {
            agent.publish("/messages", &message(&text)).await.unwrap();
        }
        let of = |lines: &[String], module: &str| -> Vec<String> {
            lines.iter().filter_map(|line| line.strip_prefix(&format!("{module} "))).map(Into::into).collect()
        };
        let lines = world.log.until("all of b", |lines| of(lines, "b").len() == 1000).await;
        assert_eq!(of(&lines, "b"), numbers(0..1000), "{durability}");
        let lines = world.log.until("the first of a", |lines| !of(lines, "a").is_empty()).await;
        assert_eq!(of(&lines, "a"), ["0"], "{durability}");
        is_free.add_permits(1);
        let lines = world.log.until("all of a", |lines| of(lines, "a").len() == 1000).await;
        assert_eq!(of(&lines, "a"), numbers(0..1000), "{durability}");
    }
}
