//! The promises of [`Log`]: what is accepted is there until it is settled, whatever fails.

mod costs;
mod crash;
mod damage;
mod faults;
mod full;
mod fuzz;
mod letters;
mod lives;
mod lost_power;
mod model;
mod promises;
mod reads;
pub(crate) mod sim;

use std::sync::Arc;

use bytes::Bytes;
use marram_core::{
    elapsed::{Clocks, Elapsed},
    message::{Accepted, Message},
    time::UtcMillis,
};

use super::*;

/// A log of small segments, so that a test sees many.
const SMALL: Options = Options { segment_bytes: 8 << 10, max_bytes: 40 * (8 << 10), dead_letter_bytes: 8 << 10 };

fn clocks(since_boot: u64) -> Clocks {
    Clocks { boot: [1; 16], since_boot, utc: UtcMillis(1_790_000_000_000 + since_boot), synchronised: true }
}

/// A message whose body can be told from all others.
fn message(source: &str, number: u64, len: usize) -> Accepted {
    let mut message = Message::new(Bytes::from(body(number, len)));
    message.set_property("number", &number.to_string());
    if number.is_multiple_of(3) {
        message.system_mut().content_type = Some("application/json".into());
    }
    Accepted {
        message: Arc::new(message),
        source: source.into(),
        sequence: number,
        enqueued: UtcMillis(1_790_000_000_000 + number),
    }
}

fn body(number: u64, len: usize) -> Vec<u8> {
    let mut chance = Chance(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..len).map(|_| chance.next() as u8).collect()
}

fn to(endpoint: EndpointId, priority: u8) -> Reference {
    Reference { endpoint, priority, deadline: None, max_attempts: None }
}

fn append(log: &mut Log, message: &Accepted, references: &[Reference]) -> Result<u64, AppendError> {
    log.append(&[Entry { message, references }], Safety::Written).map(|range| range.start)
}

fn all(log: &mut Log, endpoint: EndpointId, priority: u8) -> Vec<Stored> {
    let mut stored = Vec::new();
    log.read(endpoint, priority, None, usize::MAX, &mut stored).unwrap();
    stored
}

/// The numbers of the messages of a queue; each is checked to be as it was sent.
fn numbers(log: &mut Log, endpoint: EndpointId, priority: u8) -> Vec<u64> {
    let stored = all(log, endpoint, priority);
    stored.iter().for_each(check);
    assert!(stored.windows(2).all(|pair| pair[0].place.sequence < pair[1].place.sequence), "out of order");
    stored.iter().map(|stored| stored.accepted.sequence).collect()
}

fn check(stored: &Stored) {
    let Accepted { message: read, source, sequence, enqueued } = &stored.accepted;
    let sent = message(source, *sequence, read.body.len());
    assert_eq!((&**read, *enqueued), (&*sent.message, sent.enqueued), "message {sequence} is another");
}

/// A generator with a fixed beginning.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }
}
