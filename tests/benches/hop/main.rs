//! `hop.memory.*`: what a message costs from guest to guest through the router, against the bare engine; `hop.crash.256B`: what it
//! costs through the message log, against the same in memory; `latency.*`: how long it takes against two bare channels; and
//! `message.form.*`: the message as a resource against the message by value, on the bare engine.
//!
//! CPU time of the one thread that runs both tasks, a message; medians of interleaved rounds. Prints a JSON line a figure:
//! `{"name","value","unit","floor","ratio"}`.

mod host;
mod latency;
mod raw;
mod report;

use std::sync::Arc;

use bytes::Bytes;
use marram_core::message::Message;

/// Messages of a round of small messages: what an input's queue of 1 MiB holds of 256 bytes and bookkeeping.
const SMALL: usize = 2000;
/// Of 16 KiB ones.
const LARGE: usize = 60;
/// Rounds of each side, taken in turn.
const ROUNDS: usize = 60;

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for (name, body, properties, count) in
            [("256B", 256, 0, SMALL), ("4props", 256, 4, SMALL), ("16KiB", 16 << 10, 0, LARGE)]
        {
            let message = message(body, properties);
            if report::wanted(&names, &format!("hop.memory.{name}")) {
                hop(&format!("hop.memory.{name}"), &message, count).await;
            }
            if report::wanted(&names, &format!("message.form.{name}")) {
                form(&format!("message.form.{name}"), &message, count).await;
            }
        }
        let small = message(256, 0);
        if report::wanted(&names, "hop.crash.256B") {
            crash(&small).await;
        }
        if report::wanted(&names, "latency.one-thread") {
            latency::measure("latency.one-thread", &small).await;
        }
    });
    if report::wanted(&names, "latency.memory") {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
        runtime.expect("a runtime").block_on(latency::measure("latency.memory", &message(256, 0)));
    }
}

/// Senders that send at the same time. Groups form by themselves only then.
const SENDERS: usize = 16;

/// The hop through the log against the hop in memory, CPU time of all threads: the log's owner is one of them.
async fn crash(message: &Arc<Message>) {
    let mut crash = host::Hop::with("crash", SENDERS).await;
    let mut memory = host::Hop::with("memory", SENDERS).await;
    let (mut values, mut floors) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + 2 {
        let floor = memory.round_by(message, SMALL, report::process_cpu).await;
        let value = crash.round_by(message, SMALL, report::process_cpu).await;
        if round >= 2 {
            floors.push(floor);
            values.push(value);
        }
    }
    crash.end().await;
    memory.end().await;
    report::cost("hop.crash.256B", &values, &floors);
}

fn message(body: usize, properties: usize) -> Arc<Message> {
    let mut message = Message::new(Bytes::from(vec![b'x'; body]));
    for n in 0..properties {
        message.set_property(&format!("property-{n}"), &format!("value {n}"));
    }
    Arc::new(message)
}

/// The router against the bare engine, the same guests.
async fn hop(name: &str, message: &Arc<Message>, count: usize) {
    let mut router = host::Hop::new().await;
    let mut bare = raw::Resource::new().await;
    let (mut values, mut floors) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + 2 {
        let floor = bare.round(message, count).await;
        let value = router.round(message, count).await;
        // The first ones warm caches.
        if round >= 2 {
            floors.push(floor);
            values.push(value);
        }
    }
    router.end().await;
    report::cost(name, &values, &floors);
}

/// The message by handle (value) against the message by value (floor), both on the bare engine.
async fn form(name: &str, message: &Arc<Message>, count: usize) {
    let mut handle = raw::Resource::new().await;
    let mut by_value = raw::ByValue::new().await;
    let (mut values, mut floors) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + 2 {
        let floor = by_value.round(message, count).await;
        let value = handle.round(message, count).await;
        if round >= 2 {
            floors.push(floor);
            values.push(value);
        }
    }
    report::cost(name, &values, &floors);
}
