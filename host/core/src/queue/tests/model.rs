//! The queue against lists, with a consumer of batches.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

/// What the queue must do, without its data structures: a list for each stream and who is in back-off.
#[derive(Default)]
struct Model {
    /// By priority, whether they are live, and source.
    streams: BTreeMap<(u8, bool, &'static str), VecDeque<u64>>,
    count: usize,
    settled: std::collections::BTreeSet<u64>,
}

impl Model {
    /// What the queue says it has given up; rejected ones are known already.
    fn forget(&mut self, dropped: Vec<Dropped>) {
        for drop in dropped {
            if self.settled.contains(&drop.sequence) {
                continue;
            }
            assert_eq!(drop.reason, DropReason::Expired);
            for stream in self.streams.values_mut() {
                stream.retain(|sequence| *sequence != drop.sequence);
            }
            self.count -= 1;
        }
    }
}

const LEVELS: [u8; 3] = [0, 4, 10];

#[derive(Debug, Clone)]
enum Op {
    Push { source: usize, level: usize, live: bool, ttl: Option<u64> },
    Deliver { max: usize, verdicts: Vec<u8>, crash: bool },
    Wait(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..3usize, 0..3usize, any::<bool>(), prop::option::weighted(0.3, 1..4000u64))
            .prop_map(|(source, level, live, ttl)| Op::Push { source, level, live, ttl }),
        2 => (1..6usize, prop::collection::vec(0..6u8, 0..6), any::<bool>())
            .prop_map(|(max, verdicts, crash)| Op::Deliver { max, verdicts, crash }),
        1 => (1..3000u64).prop_map(Op::Wait),
    ];
    prop::collection::vec(op, 0..120)
}

proptest! {
    #[test]
    fn order_holds_within_a_stream_and_nothing_is_lost(ops in ops()) {
        let mut queue = EndpointQueue::new(120);
        let mut model = Model::default();
        let (mut now, mut next_sequence) = (Uptime(0), 0);
        for op in ops {
            match op {
                Op::Push { source, level, live, ttl } => {
                    let room = queue.has_room(10, now);
                    model.forget(queue.take_dropped());
                    prop_assert_eq!(room, model.count < 12);
                    if !room {
                        continue;
                    }
                    next_sequence += 1;
                    let mut new = item(SOURCES[source], LEVELS[level], next_sequence);
                    new.max_attempts = None;
                    new.live = live;
                    new.deadline = ttl.map(|ttl| Uptime(now.0 + ttl));
                    queue.push(new);
                    model.streams.entry((LEVELS[level], live, SOURCES[source])).or_default().push_back(next_sequence);
                    model.count += 1;
                }
                Op::Wait(by) => now = Uptime(now.0 + by),
                Op::Deliver { max, verdicts, crash } => {
                    let mut batch = queue.take(now, max);
                    model.forget(queue.take_dropped());
                    let mut verdicts = verdicts.into_iter();
                    let mut failed = Vec::new();
                    // The consumer may stop early, as it does when something more urgent waits.
                    for verdict in verdicts.by_ref() {
                        let Some(item) = batch.next_item(|| now) else { break };
                        let key = (item.priority, item.live, SOURCES[SOURCES.iter().position(|s| **s == *item.accepted.source).unwrap()]);
                        let stream = model.streams.get_mut(&key).unwrap();
                        prop_assert_eq!(stream.front(), Some(&item.accepted.sequence), "in order");
                        prop_assert!(!failed.contains(&key), "nothing behind a failed one");
                        if verdict == 0 {
                            failed.push(key);
                            batch.settle(Settlement::Retry(None), now, 0.5);
                        } else {
                            let sequence = item.accepted.sequence;
                            stream.pop_front();
                            model.count -= 1;
                            model.settled.insert(sequence);
                            batch.settle(if verdict == 1 { Settlement::Reject("no".into()) } else { Settlement::Done }, now, 0.5);
                        }
                    }
                    if crash {
                        batch.next_item(|| Uptime(0));
                    }
                    queue.finish(batch, now);
                    model.forget(queue.take_dropped());
                }
            }
            prop_assert_eq!(queue.len(), model.count);
            prop_assert_eq!(queue.bytes(), model.count * 10);
            let waiting = |priority| queue.waiting().filter(move |item| lane(item) == priority).map(|item| item.size).sum::<usize>();
            prop_assert_eq!(queue.waiting_of, std::array::from_fn(waiting));
        }
        // Everything that is left comes out in the end.
        let mut left: Vec<u64> = Vec::new();
        for _ in 0..1000 {
            if queue.is_empty() {
                break;
            }
            now = Uptime(now.0.max(queue.next_due().map_or(0, |due| due.0)));
            left.extend(deliver(&mut queue, now, done));
            model.forget(queue.take_dropped());
        }
        prop_assert!(queue.is_empty(), "a stream that never comes free");
        left.sort_unstable();
        let mut expected: Vec<u64> = model.streams.into_values().flatten().collect();
        expected.sort_unstable();
        prop_assert_eq!(left, expected);
    }
}
