//! A consumer that holds several messages at once, as a program does, one batch each.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[test]
fn a_window_goes_on_behind_a_repetition_that_is_still_held() {
    let mut queue = queue([item("a", 10, 1), item("a", 10, 2), item("a", 10, 3)]);
    let receive = |queue: &mut EndpointQueue, now| {
        queue.release_due(now);
        let mut batch = queue.take(now, 1);
        let sequence = batch.next_item(|| now).map(|item| item.accepted.sequence);
        (batch, sequence)
    };
    let (first, _) = receive(&mut queue, Uptime(0));
    queue.finish(first, Uptime(0)); // not settled
    let (empty, none) = receive(&mut queue, Uptime(1));
    assert_eq!((none, empty.len()), (None, 0), "the back-off holds up the others");
    let due = queue.next_due().unwrap();
    let (held, again) = receive(&mut queue, due);
    let (next, behind) = receive(&mut queue, due);
    assert_eq!((again, behind), (Some(1), Some(2)));
    queue.finish(next, due); // both come back, the later one first
    queue.finish(held, due);
    let due = queue.next_due().unwrap();
    assert_eq!(
        [receive(&mut queue, due).1, receive(&mut queue, due).1, receive(&mut queue, due).1],
        [Some(1), Some(2), Some(3)]
    );
}

#[derive(Debug, Clone)]
enum WindowOp {
    Push {
        source: usize,
    },
    Receive,
    /// Settles one of those held: done, or tried again after so many milliseconds.
    Settle {
        which: prop::sample::Index,
        retry: Option<u64>,
    },
    Wait(u64),
}

fn window_ops() -> impl Strategy<Value = Vec<WindowOp>> {
    let op = prop_oneof![
        3 => (0..2usize).prop_map(|source| WindowOp::Push { source }),
        3 => Just(WindowOp::Receive),
        2 => (any::<prop::sample::Index>(), prop::option::of(0..500u64))
            .prop_map(|(which, retry)| WindowOp::Settle { which, retry }),
        1 => (1..400u64).prop_map(WindowOp::Wait),
    ];
    prop::collection::vec(op, 0..150)
}

proptest! {
    #[test]
    fn a_window_of_messages_keeps_order_and_delays_and_loses_nothing(ops in window_ops()) {
        let mut queue = EndpointQueue::new(10_000);
        // What waits, by source, in order of sequence, with the time before which it may not come.
        let mut waiting: [BTreeMap<u64, Uptime>; 2] = Default::default();
        let mut held: Vec<(Batch, usize, u64)> = Vec::new();
        let (mut now, mut sequence) = (Uptime(0), 0);
        let source_of = |item: &Item| usize::from(&*item.accepted.source == "b");
        for op in ops {
            match op {
                WindowOp::Push { source } => {
                    sequence += 1;
                    let item = Item { max_attempts: None, ..item(SOURCES[source], 10, sequence) };
                    queue.push(item);
                    waiting[source].insert(sequence, Uptime(0));
                }
                WindowOp::Wait(by) => now = Uptime(now.0 + by),
                WindowOp::Receive => {
                    queue.release_due(now);
                    let mut batch = queue.take(now, 1);
                    let Some(item) = batch.next_item(|| now) else {
                        queue.finish(batch, now);
                        continue;
                    };
                    let (source, number) = (source_of(item), item.accepted.sequence);
                    let first = waiting[source].first_key_value().map(|(number, due)| (*number, *due));
                    prop_assert!(first.is_some_and(|(first, due)| first == number && due <= now), "{:?} at {:?}", first, now);
                    waiting[source].remove(&number);
                    held.push((batch, source, number));
                }
                WindowOp::Settle { which, retry } => {
                    if held.is_empty() {
                        continue;
                    }
                    let (mut batch, source, number) = held.swap_remove(which.index(held.len()));
                    if let Some(delay) = retry {
                        batch.settle(Settlement::Retry(Some(Duration::from_millis(delay))), now, 0.5);
                        waiting[source].insert(number, Uptime(now.0 + delay));
                    } else {
                        batch.settle(Settlement::Done, now, 0.5);
                    }
                    queue.finish(batch, now);
                }
            }
            prop_assert_eq!(queue.len(), held.len() + waiting.iter().map(BTreeMap::len).sum::<usize>());
            prop_assert_eq!(queue.out(), held.len());
            prop_assert_eq!(queue.len_of()[10], queue.len());
        }
        // The program ends: what it held comes back, and all comes out in the end.
        let mut expected: Vec<u64> = waiting.iter().flat_map(|waiting| waiting.keys().copied()).collect();
        for (batch, _, number) in held {
            queue.finish(batch, now);
            expected.push(number);
        }
        let mut left = Vec::new();
        for _ in 0..1000 {
            now = Uptime(now.0.max(queue.next_due().map_or(0, |due| due.0)));
            left.extend(deliver(&mut queue, now, done));
        }
        left.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(left, expected);
    }
}
