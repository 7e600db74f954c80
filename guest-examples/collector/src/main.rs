//! Joins messages: receives up to `BATCH` of them, sends their bodies as one message on output `batches`, one line each,
//! and settles them after that. So a crash at any point loses none of them.
//!
//! Shows: a program with a main loop of its own that receives through `inbox`, and ends when the host asks it to.

wit_bindgen::generate!({ path: "../../wit", world: "program" });

use std::env;

use marram::edge::{
    inbox::{self, ReceiveError},
    messaging::{self, SendError},
    types::{Message, Nack},
};

fn main() {
    let (batch, wait_ms) = (number("BATCH", 10) as usize, number("WAIT_MS", 1000));
    let panic_at = env::var("PANIC_AT").ok();
    let mut held: Vec<Message> = Vec::new();
    loop {
        match inbox::receive(wait_ms) {
            Ok(Some((_input, message))) => {
                fail_if_asked(panic_at.as_deref(), &message);
                held.push(message);
                if held.len() < batch {
                    continue;
                }
            }
            Ok(None) => {}
            Err(ReceiveError::TooManyUnsettled) => {}
            // What is not sent now comes again, to the next instance.
            Err(ReceiveError::Stopping) => {
                send(&mut held);
                println!("collector: ends, as it was asked to");
                return;
            }
        }
        send(&mut held);
    }
}

/// Sends what is held as one message, and settles it with what became of that.
fn send(held: &mut Vec<Message>) {
    if held.is_empty() {
        return;
    }
    let bodies: Vec<Vec<u8>> = held.iter().map(Message::body).collect();
    let joined = Message::new(&bodies.join(&b'\n'));
    joined.set_content_type(Some("text/plain"));
    // Delivery is at least once: with these a receiver can tell repetitions.
    let sequences: Vec<String> = held.iter().filter_map(Message::delivery).map(|d| d.sequence.to_string()).collect();
    joined.set_property("sequences", &sequences.join(","));
    let outcome = match messaging::send("batches", &joined) {
        Ok(_) => Ok(()),
        Err(SendError::TooLarge(max)) => Err(Nack::Reject(format!("joined they are larger than {max} bytes"))),
        Err(_) => Err(Nack::RetryAfter(None)),
    };
    for message in held.drain(..) {
        if let Err(error) = inbox::settle(&message, outcome.as_ref().copied()) {
            eprintln!("collector: cannot settle a message: {error:?}");
        }
    }
}

fn fail_if_asked(panic_at: Option<&str>, message: &Message) {
    let first = message.delivery().is_some_and(|delivery| delivery.attempt == 1);
    let reached = panic_at.is_some() && message.property("n").as_deref() == panic_at;
    assert!(!first || !reached, "PANIC_AT was reached");
}

/// A number from the environment, or a default.
fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
