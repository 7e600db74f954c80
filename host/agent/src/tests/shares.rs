//! The shares of the queues and the real log.

use std::collections::VecDeque;

use marram_core::{
    log::{EndpointId, Entry, How, MessageLog, Place, Reference, Safety},
    message::Accepted,
    queue::ITEM_OVERHEAD,
    time::UtcMillis,
};
use marram_store::log::Log;

use super::worlds::{Messages, message, open_log};
use crate::storage::share;

const INPUTS: usize = 9;

/// A queue as the router accounts for it.
struct Queue {
    endpoint: EndpointId,
    share: usize,
    bytes: usize,
    waiting: VecDeque<(Place, usize)>,
}

/// Numbers that look like chance, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Stores one message of each queue that has room, in one write, until none has.
fn fill(log: &mut Log, queues: &mut [Queue], mut size: impl FnMut() -> usize) {
    loop {
        let mut chosen = Vec::new();
        for (n, queue) in queues.iter().enumerate() {
            let size = size();
            if queue.bytes + size + ITEM_OVERHEAD <= queue.share {
                chosen.push((n, size));
            }
        }
        if chosen.is_empty() {
            return;
        }
        let accepted = |size: usize| Accepted {
            message: message(&"x".repeat(size)),
            source: "/messages/modules/some-module/outputs/readings".into(),
            sequence: 1 << 40,
            enqueued: UtcMillis(1_700_000_000_000),
        };
        let messages: Vec<Accepted> = chosen.iter().map(|(_, size)| accepted(*size)).collect();
        let reference = |n: usize| {
            let endpoint = queues[n].endpoint;
            [Reference { endpoint, priority: 10, deadline: None, max_attempts: Some(20) }]
        };
        let references: Vec<_> = chosen.iter().map(|(n, _)| reference(*n)).collect();
        let entries: Vec<_> =
            messages.iter().zip(&references).map(|(message, references)| Entry { message, references }).collect();
        let bytes: usize = queues.iter().map(|queue| queue.bytes).sum();
        let numbers = MessageLog::append(log, &entries, Safety::Written)
            .unwrap_or_else(|error| panic!("{error}; {bytes} bytes wait, {:?}", log.usage()));
        for (sequence, (n, size)) in numbers.zip(chosen) {
            let place = Place { endpoint: queues[n].endpoint, priority: 10, sequence };
            queues[n].bytes += size + ITEM_OVERHEAD;
            queues[n].waiting.push_back((place, size + ITEM_OVERHEAD));
        }
    }
}

/// Fills all queues of a log of 16 MiB, with all the dead letters that it keeps, again and again after some messages of each were handled.
fn churn(sizes: &[usize], rounds: usize) {
    let folder = Messages::default();
    let (mut log, _) = open_log(folder.path());
    let for_messages = MessageLog::room(&log).for_messages;
    let mut queues: Vec<Queue> = (0..=INPUTS)
        .map(|n| Queue {
            endpoint: MessageLog::endpoint(&mut log, &format!("m/i{n}")),
            share: share(for_messages, n == 0, INPUTS),
            bytes: 0,
            waiting: VecDeque::new(),
        })
        .collect();
    let mut dice = Dice(sizes.len() as u64);
    for round in 0..rounds {
        fill(&mut log, &mut queues, || sizes[dice.below(sizes.len())]);
        for queue in &mut queues {
            // A quarter, half or all of it; by turns its oldest and any.
            let (count, any) = (queue.waiting.len() * [1, 2, 4][dice.below(3)] / 4, dice.below(2) == 0);
            for _ in 0..count {
                if any {
                    let last = queue.waiting.len() - 1;
                    queue.waiting.swap(dice.below(last + 1), last);
                    queue.waiting.rotate_right(1);
                }
                let Some((place, bytes)) = queue.waiting.pop_front() else { break };
                queue.bytes -= bytes;
                if round == 0 {
                    MessageLog::bury(&mut log, place, "rejected", UtcMillis(0)).unwrap();
                } else {
                    MessageLog::settle(&mut log, place, How::Delivered);
                }
            }
        }
    }
    fill(&mut log, &mut queues, || sizes[0]);
}

#[test]
fn a_queue_that_has_room_finds_it_in_the_log_whatever_the_others_hold() {
    // Of these sizes, filled so many times: the largest (three to a segment), those that just leave a gap, small and mixed ones.
    for (sizes, rounds) in [
        (&[262_144][..], 8),
        (&[200_000], 8),
        (&[131_072], 8),
        (&[10_000], 3),
        (&[1000], 1),
        (&[0, 10, 300, 5000, 50_000, 262_144], 4),
    ] {
        churn(sizes, rounds);
    }
}
