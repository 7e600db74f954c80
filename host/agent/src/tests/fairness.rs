//! A receiver that is slow, or hangs, holds up nobody but itself; nor does one of its inputs hold up another.

use std::{sync::Arc, time::Duration};

use marram_core::ports::Settlement;
use tokio::sync::Semaphore;

use super::{
    storing::numbers,
    worlds::{Guest, Handler, World, manifest, manifest_with, message, text},
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

#[tokio::test]
async fn equally_urgent_inputs_of_a_module_take_turns_within_what_would_be_one_batch() {
    let world = World::default();
    let log = world.log.clone();
    let handler: Arc<Handler> = Arc::new(move |_, delivery| {
        log.push(text(&delivery.accepted.message));
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(5)).await; // the work; forty times that is two turns at least
            Ok(Settlement::Done)
        })
    });
    world.guest("b", Guest { handler, ..Guest::default() });
    let agent = world.agent().await;
    let route = |input: &str| format!(r#""FROM /{input} INTO BrokeredEndpoint(\"/modules/b/inputs/{input}\")""#);
    let routes = [route("x"), route("y")];
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    agent.apply(&manifest(&[], &routes)).await.unwrap();
    for input in ["x", "y"] {
        for n in 0..40 {
            agent.publish(&format!("/{input}"), &message(&format!("{input}{n}"))).await.unwrap();
        }
    }
    agent.apply(&manifest(&[("b", "{}")], &routes)).await.unwrap();
    let is_of = |input: char| move |line: &&String| line.starts_with(input) && line[1..].parse::<u8>().is_ok();
    let both = |lines: &[String]| lines.iter().filter(|line| is_of('x')(line) || is_of('y')(line)).count();
    let lines = world.log.until("all", |lines| both(lines) == 80).await;
    for (one, other) in [('x', 'y'), ('y', 'x')] {
        let first = lines.iter().position(|line| is_of(one)(&line)).unwrap();
        let last = lines.iter().rposition(|line| is_of(other)(&line)).unwrap();
        assert!(first < last, "all of {other} came before {one}: {lines:?}");
        let in_order: Vec<&String> = lines.iter().filter(is_of(one)).collect();
        assert!(in_order.into_iter().eq(&(0..40).map(|n| format!("{one}{n}")).collect::<Vec<_>>()), "{lines:?}");
    }
}
