use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    message::{Accepted, Message},
    ports::Settlement,
    time::{Uptime, UtcMillis},
};

fn item(source: &str, priority: u8, sequence: u64) -> Item {
    Item {
        accepted: Accepted {
            message: Arc::new(Message::new(Bytes::new())),
            source: source.into(),
            sequence,
            enqueued: UtcMillis(0),
        },
        size: 10,
        priority,
        deadline: None,
        attempts: 0,
        max_attempts: Some(3),
        stored: None,
        suspect: false,
    }
}

fn queue(items: impl IntoIterator<Item = Item>) -> EndpointQueue {
    let mut queue = EndpointQueue::new(1000);
    items.into_iter().for_each(|item| queue.push(item));
    queue
}

#[test]
fn the_oldest_message_is_found_behind_younger_ones_and_in_back_off() {
    let at = |source, priority, time| {
        let mut item = item(source, priority, 1);
        item.accepted.enqueued = UtcMillis(time);
        item
    };
    let mut queue = queue([at("a", 10, 30), at("b", 10, 20), at("c", 0, 40)]);
    assert_eq!(queue.oldest(), Some(UtcMillis(20)));
    let retry = |item: &Item| if &*item.accepted.source == "b" { Settlement::Retry(None) } else { Settlement::Done };
    deliver(&mut queue, Uptime(0), retry);
    assert_eq!(queue.oldest(), Some(UtcMillis(20)));
    let batch = queue.take(Uptime(1_000_000), 64);
    assert_eq!((batch.len(), queue.oldest()), (1, None), "what is out does not wait");
    queue.finish(batch, Uptime(1_000_000));
    assert_eq!(queue.oldest(), Some(UtcMillis(20)));
}

/// Delivers a batch; `verdict` settles each message.
fn deliver(queue: &mut EndpointQueue, now: Uptime, mut verdict: impl FnMut(&Item) -> Settlement) -> Vec<u64> {
    let mut batch = queue.take(now, 64);
    let mut seen = Vec::new();
    while let Some(item) = batch.next_item(|| now) {
        seen.push(item.accepted.sequence);
        let settlement = verdict(item);
        batch.settle(settlement, now, 0.5);
    }
    queue.finish(batch, now);
    seen
}

fn done(_: &Item) -> Settlement {
    Settlement::Done
}

#[test]
fn more_urgent_priorities_go_first_and_order_holds_within() {
    let mut queue = queue([item("a", 10, 1), item("a", 0, 2), item("b", 5, 3), item("a", 10, 4), item("a", 0, 5)]);
    assert_eq!(queue.most_urgent(Uptime(0)), Some(0));
    assert_eq!(deliver(&mut queue, Uptime(0), done), [2, 5, 3, 1, 4]);
    assert!(queue.is_empty());
    assert_eq!(queue.bytes(), 0);
}

#[test]
fn a_failed_message_blocks_only_its_own_source_and_priority() {
    let mut queue = queue([item("a", 10, 1), item("b", 10, 2), item("a", 10, 3), item("a", 9, 4)]);
    let retry_one = |item: &Item| if item.accepted.sequence == 1 { Settlement::Retry(None) } else { Settlement::Done };
    assert_eq!(deliver(&mut queue, Uptime(0), retry_one), [4, 1, 2]);
    queue.push(item("a", 10, 5));
    queue.push(item("b", 10, 6));
    assert_eq!(deliver(&mut queue, Uptime(10), done), [6]);
    let due = queue.next_due().unwrap();
    assert_eq!(due, Uptime(1000));
    assert_eq!(deliver(&mut queue, due, done), [1], "only the first, to see whether it works");
    assert_eq!(deliver(&mut queue, due, done), [3, 5]);
    assert_eq!(queue.next_due(), None);
}

#[test]
fn a_message_is_given_up_after_its_attempts() {
    let mut queue = queue([item("a", 10, 1), item("a", 10, 2)]);
    let mut now = Uptime(0);
    for _ in 0..3 {
        assert_eq!(deliver(&mut queue, now, |_| Settlement::Retry(None)), [1]);
        now = queue.next_due().unwrap_or(now);
    }
    let dropped = queue.take_dropped();
    assert_eq!(dropped.len(), 1);
    assert_eq!((dropped[0].sequence, &dropped[0].reason), (1, &DropReason::TooManyAttempts));
    assert_eq!(deliver(&mut queue, now, done), [2]);
}

#[test]
fn a_delivery_that_ended_its_instance_counts_as_an_attempt() {
    let mut queue = queue([item("a", 10, 1), item("a", 10, 2)]);
    let mut batch = queue.take(Uptime(0), 64);
    assert_eq!(batch.next_item(|| Uptime(0)).map(|item| item.attempts), Some(0));
    queue.finish(batch, Uptime(0));
    assert_eq!(queue.len(), 2);
    let due = queue.next_due().unwrap();
    let mut batch = queue.take(due, 64);
    assert_eq!(batch.next_item(|| Uptime(0)).map(|item| (item.accepted.sequence, item.attempts)), Some((1, 1)));
}

#[test]
fn a_receiver_may_name_the_delay_but_not_a_year() {
    let mut queue = queue([item("a", 10, 1), item("b", 10, 2)]);
    deliver(&mut queue, Uptime(0), |item| {
        Settlement::Retry(Some(Duration::from_secs(if item.accepted.sequence == 1 { 7 } else { 1 << 40 })))
    });
    assert_eq!(queue.next_due(), Some(Uptime(7000)));
    assert_eq!(deliver(&mut queue, Uptime(7000), done), [1]);
    assert_eq!(queue.next_due(), Some(Uptime(86_400_000)));
}

#[test]
fn expired_messages_are_dropped_before_each_attempt_and_free_those_behind() {
    let mut first = item("a", 10, 1);
    first.deadline = Some(Uptime(1500));
    let mut queue = queue([first, item("a", 10, 2)]);
    assert_eq!(deliver(&mut queue, Uptime(0), |_| Settlement::Retry(Some(Duration::from_secs(2)))), [1]);
    assert_eq!(deliver(&mut queue, Uptime(2000), done), [2]);
    assert_eq!(queue.take_dropped()[0].reason, DropReason::Expired);
    assert!(queue.is_empty());
}

#[test]
fn a_full_queue_makes_room_by_dropping_what_has_expired() {
    let mut queue = EndpointQueue::new(20);
    let mut short = item("a", 10, 1);
    short.deadline = Some(Uptime(5));
    queue.push(short);
    queue.push(item("a", 10, 2));
    assert!(!queue.has_room(10, Uptime(4)));
    assert!(queue.has_room(10, Uptime(5)));
    assert_eq!(queue.len(), 1);
}

#[test]
fn what_is_out_for_delivery_still_takes_room() {
    let mut queue = EndpointQueue::new(20);
    queue.push(item("a", 10, 1));
    queue.push(item("a", 10, 2));
    let mut batch = queue.take(Uptime(0), 64);
    assert!(!queue.has_room(10, Uptime(0)));
    batch.next_item(|| Uptime(0));
    batch.settle(Settlement::Done, Uptime(0), 0.5);
    queue.finish(batch, Uptime(0));
    assert!(queue.has_room(10, Uptime(0)));
}

#[test]
fn a_stream_goes_on_when_the_message_that_held_it_up_expires_in_a_full_queue() {
    let mut queue = EndpointQueue::new(40);
    let mut first = item("a", 10, 1);
    first.deadline = Some(Uptime(100));
    queue.push(first);
    queue.push(item("a", 10, 2));
    queue.push(item("a", 10, 3));
    queue.push(item("b", 10, 4));
    assert_eq!(
        deliver(&mut queue, Uptime(0), |item| match item.accepted.sequence {
            1 => Settlement::Retry(None),
            _ => Settlement::Retry(Some(Duration::from_secs(1000))),
        }),
        [1, 4]
    );
    assert!(queue.has_room(10, Uptime(100)), "the expired one makes room");
    assert_eq!(deliver(&mut queue, Uptime(100), done), [2, 3]);
}

#[test]
fn a_message_that_expires_while_its_batch_is_out_is_not_delivered() {
    let mut second = item("a", 10, 2);
    second.deadline = Some(Uptime(50));
    let mut queue = queue([item("a", 10, 1), second, item("a", 10, 3)]);
    let mut batch = queue.take(Uptime(0), 64);
    let mut seen = Vec::new();
    while let Some(item) = batch.next_item(|| Uptime(60)) {
        seen.push(item.accepted.sequence);
        batch.settle(Settlement::Done, Uptime(60), 0.5);
    }
    queue.finish(batch, Uptime(60));
    assert_eq!(seen, [1, 3]);
    assert_eq!(queue.take_dropped()[0].reason, DropReason::Expired);
    assert!(queue.is_empty());
}

#[test]
fn what_a_batch_has_done_makes_room_before_the_batch_ends() {
    let mut queue = EndpointQueue::new(20);
    queue.push(item("a", 10, 1));
    queue.push(item("a", 10, 2));
    let mut batch = queue.take(Uptime(0), 64);
    batch.next_item(|| Uptime(0));
    batch.settle(Settlement::Done, Uptime(0), 0.5);
    assert!(!queue.fits(10));
    assert_eq!(queue.credit(&mut batch), 1);
    assert!(queue.fits(10));
    queue.finish(batch, Uptime(0));
    assert_eq!((queue.len(), queue.bytes()), (1, 10));
}

#[test]
fn the_first_of_a_batch_may_be_settled_together() {
    let mut queue = queue([item("a", 10, 1), item("b", 10, 2), item("a", 10, 3)]);
    let mut batch = queue.take(Uptime(0), 64);
    batch.settle_first(2);
    queue.finish(batch, Uptime(0));
    assert_eq!(deliver(&mut queue, Uptime(0), done), [3]);
}

#[test]
fn removing_an_endpoint_gives_up_everything() {
    let mut queue = queue([item("a", 10, 1), item("b", 10, 2), item("a", 10, 3)]);
    deliver(&mut queue, Uptime(0), |_| Settlement::Retry(None));
    queue.remove_all();
    assert_eq!(queue.take_dropped().len(), 3);
    assert_eq!((queue.len(), queue.bytes()), (0, 0));
}

#[test]
fn the_back_off_doubles_to_a_minute() {
    let seconds: Vec<u64> = (1..9).map(|attempts| retry_delay(attempts, 0.5).as_secs()).collect();
    assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
}

/// What the queue must do, without its data structures: a list for each stream and who is in back-off.
#[derive(Default)]
struct Model {
    streams: BTreeMap<(u8, &'static str), VecDeque<u64>>,
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

const SOURCES: [&str; 3] = ["a", "b", "c"];
const LEVELS: [u8; 3] = [0, 4, 10];

#[derive(Debug, Clone)]
enum Op {
    Push { source: usize, level: usize, ttl: Option<u64> },
    Deliver { max: usize, verdicts: Vec<u8>, crash: bool },
    Wait(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0..3usize, 0..3usize, prop::option::weighted(0.3, 1..4000u64))
            .prop_map(|(source, level, ttl)| Op::Push { source, level, ttl }),
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
                Op::Push { source, level, ttl } => {
                    let room = queue.has_room(10, now);
                    model.forget(queue.take_dropped());
                    prop_assert_eq!(room, model.count < 12);
                    if !room {
                        continue;
                    }
                    next_sequence += 1;
                    let mut new = item(SOURCES[source], LEVELS[level], next_sequence);
                    new.max_attempts = None;
                    new.deadline = ttl.map(|ttl| Uptime(now.0 + ttl));
                    queue.push(new);
                    model.streams.entry((LEVELS[level], SOURCES[source])).or_default().push_back(next_sequence);
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
                        let key = (item.priority, SOURCES[SOURCES.iter().position(|s| **s == *item.accepted.source).unwrap()]);
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

/// A consumer that holds several messages at once, as a program does, one batch each.
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

fn place(sequence: u64) -> Place {
    Place { endpoint: crate::log::EndpointId(1), priority: 10, sequence }
}

fn stored(sequence: u64, suspect: bool) -> Item {
    Item { stored: Some(place(sequence)), suspect, ..item("a", 10, sequence) }
}

#[test]
fn a_suspect_is_delivered_alone_and_in_its_turn() {
    let urgent = |sequence| Item { suspect: true, ..item("u", 5, sequence) };
    let mut queue =
        queue([item("b", 0, 1), urgent(1), item("c", 9, 1), stored(1, true), stored(2, true), stored(3, false)]);
    let mut batches = Vec::new();
    while !queue.is_empty() {
        batches.push(deliver(&mut queue, Uptime(0), |_| Settlement::Done));
    }
    // Priorities 0, 5, 9 and 10: nothing passes a suspect, and nothing goes with one.
    assert_eq!(batches, [vec![1], vec![1], vec![1], vec![1], vec![2], vec![3]]);
}

#[test]
fn a_suspect_in_back_off_is_delivered_alone_as_well() {
    let mut queue = queue([stored(1, true), item("b", 10, 7)]);
    deliver(&mut queue, Uptime(0), |_| Settlement::Retry(Some(Duration::ZERO)));
    let batch = queue.take(Uptime(1), 64);
    assert_eq!((batch.len(), batch.suspect()), (1, Some((place(1), 2))));
    queue.finish(batch, Uptime(1));
}

#[test]
fn what_is_done_and_what_is_tried_again_is_told_by_its_place_in_the_log() {
    let mut queue = queue([stored(1, false), item("b", 10, 1), stored(2, false), stored(3, false)]);
    let mut batch = queue.take(Uptime(0), 64);
    for settlement in [Settlement::Done, Settlement::Done, Settlement::Retry(None)] {
        batch.next_item(|| Uptime(0));
        batch.settle(settlement, Uptime(0), 0.5);
    }
    assert_eq!(batch.take_done_stored(), [place(1)]);
    assert_eq!(batch.take_done_stored(), [], "each is told once");
    assert_eq!(batch.close(Uptime(0)), [(place(2), 1)]);
    queue.finish(batch, Uptime(0));
    let mut batch = queue.take(Uptime(MAX_RETRY.as_millis() as u64), 64);
    batch.settle_first(2);
    assert_eq!(batch.take_done_stored(), [place(2)], "3 waits for it");
}

#[test]
fn a_delivery_that_never_began_is_no_attempt() {
    let mut queue = queue([stored(1, false), stored(2, false)]);
    let mut batch = queue.take(Uptime(0), 64);
    batch.next_item(|| Uptime(0));
    batch.take_back();
    assert_eq!(batch.close(Uptime(0)), []);
    queue.finish(batch, Uptime(0));
    let mut batch = queue.take(Uptime(0), 64);
    let again = batch.next_item(|| Uptime(0)).map(|item| (item.accepted.sequence, item.attempts));
    assert_eq!(again, Some((1, 0)));
}

#[test]
fn a_delivery_that_was_cut_off_is_told_as_an_attempt() {
    let mut queue = queue([stored(1, false)]);
    let mut batch = queue.take(Uptime(0), 64);
    batch.next_item(|| Uptime(0));
    assert_eq!(batch.close(Uptime(0)), [(place(1), 1)]);
    queue.finish(batch, Uptime(0));
}

#[test]
fn what_was_given_up_is_told_by_its_place_in_the_log() {
    let mut queue = queue([Item { deadline: Some(Uptime(5)), ..stored(1, false) }]);
    assert!(queue.take(Uptime(5), 64).is_empty());
    let [dropped] = &queue.take_dropped()[..] else { panic!("one") };
    assert_eq!((&dropped.reason, dropped.stored), (&DropReason::Expired, Some(place(1))));
}

#[test]
fn bytes_elsewhere_count_against_the_bound() {
    let mut queue = EndpointQueue::new(25);
    assert!(queue.fits(25));
    queue.set_beside(20);
    assert!(!queue.fits(10), "an endpoint that has messages elsewhere is not empty");
    assert!(queue.fits(5));
    queue.set_max_bytes(30);
    assert!(queue.fits(10));
}

fn aged(source: &str, priority: u8, sequence: u64, time: u64) -> Item {
    let mut item = item(source, priority, sequence);
    item.accepted.enqueued = UtcMillis(time);
    item
}

/// What was given up to make room for ten bytes of priority 5 in a queue of 40, and what is left.
fn overflow(policy: Overflow, items: impl IntoIterator<Item = Item>) -> (Vec<u64>, Vec<u64>) {
    let mut queue = EndpointQueue::new(40);
    items.into_iter().for_each(|item| queue.push(item));
    if queue.can_make_room(10, 5, policy) {
        queue.make_room(10, 5, policy);
        assert!(queue.fits(10));
    }
    let dropped = queue.take_dropped();
    assert!(dropped.iter().all(|dropped| dropped.reason == DropReason::Overflow));
    let left = deliver(&mut queue, Uptime(0), |_| Settlement::Done);
    (dropped.iter().map(|dropped| dropped.sequence).collect(), left)
}

#[test]
fn a_full_queue_gives_up_what_its_policy_says() {
    let items = || [aged("a", 10, 1, 30), aged("b", 10, 2, 20), aged("c", 0, 3, 10), aged("d", 7, 4, 40)];
    assert_eq!(overflow(Overflow::RejectNew, items()), (vec![], vec![3, 4, 1, 2]));
    assert_eq!(overflow(Overflow::DropOldest, items()), (vec![3], vec![4, 1, 2]));
    assert_eq!(overflow(Overflow::DropLowestPriority, items()), (vec![1], vec![3, 4, 2]));
    let urgent = || [aged("a", 5, 1, 30), aged("b", 4, 2, 20), aged("c", 0, 3, 10), aged("d", 1, 4, 40)];
    assert_eq!(overflow(Overflow::DropLowestPriority, urgent()), (vec![], vec![3, 4, 2, 1]), "none is less urgent");
}

#[test]
fn what_is_in_back_off_is_given_up_as_well_and_what_is_out_is_not() {
    let mut queue = EndpointQueue::new(30);
    queue.push(aged("a", 10, 1, 10));
    deliver(&mut queue, Uptime(0), |_| Settlement::Retry(None));
    queue.push(aged("b", 10, 2, 20));
    queue.push(aged("b", 10, 3, 30));
    let batch = queue.take(Uptime(0), 1);
    assert!(!queue.can_make_room(30, 5, Overflow::DropOldest), "20 bytes are not out");
    queue.make_room(10, 5, Overflow::DropOldest);
    assert_eq!(queue.take_dropped()[0].sequence, 1);
    queue.finish(batch, Uptime(0));
    assert_eq!(deliver(&mut queue, Uptime(MAX_RETRY.as_millis() as u64), |_| Settlement::Done), [2, 3]);
    assert_eq!((queue.bytes(), queue.len()), (0, 0));
}

#[test]
fn without_an_order_a_message_in_back_off_holds_up_no_other() {
    let mut queue = queue([item("a", 10, 1), item("a", 10, 2), item("a", 10, 3)]);
    queue.set_unordered(true);
    let fail_first = |item: &Item| if item.accepted.sequence == 1 { Settlement::Retry(None) } else { Settlement::Done };
    assert_eq!(deliver(&mut queue, Uptime(0), fail_first), [1, 2, 3]);
    queue.push(item("a", 10, 4));
    assert_eq!(deliver(&mut queue, Uptime(0), |_| Settlement::Done), [4]);
    assert_eq!(deliver(&mut queue, Uptime(MAX_RETRY.as_millis() as u64), |_| Settlement::Done), [1]);
    assert!(queue.is_empty());
}
