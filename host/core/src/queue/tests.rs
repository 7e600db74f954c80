mod live;
mod model;
mod room;
mod stored;
mod window;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::*;
use crate::{
    deployment::Overflow,
    log::Place,
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
        live: false,
        arrival: Arrival::default(),
        turn: 0,
    }
}

const SOURCES: [&str; 3] = ["a", "b", "c"];

fn place(sequence: u64) -> Place {
    Place { endpoint: crate::log::EndpointId(1), priority: 10, sequence }
}

fn stored(sequence: u64, suspect: bool) -> Item {
    Item { stored: Some(place(sequence)), suspect, ..item("a", 10, sequence) }
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

/// By this a module with several inputs chooses among them.
#[test]
fn the_most_urgent_of_what_is_ready_and_what_is_due_again_is_told() {
    for (failed, fresh) in [(2, 9), (9, 2)] {
        let mut queue = queue([item("a", failed, 1)]);
        assert_eq!(queue.most_urgent(Uptime(0)), Some(failed));
        let _ = deliver(&mut queue, Uptime(0), |_| Settlement::Retry(None));
        let due = queue.next_due().unwrap();
        assert_eq!(queue.most_urgent(Uptime(due.0 - 1)), None, "in back-off");
        queue.push(item("b", fresh, 2));
        assert_eq!(queue.most_urgent(Uptime(due.0 - 1)), Some(fresh));
        assert_eq!(queue.most_urgent(due), Some(2));
    }
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
    assert_eq!(queue.credit(&mut batch), [Done { source: "a".into(), priority: 10, messages: 1 }]);
    assert!(queue.fits(10));
    queue.finish(batch, Uptime(0));
    assert_eq!((queue.len(), queue.bytes()), (1, 10));
}

#[test]
fn what_was_handled_and_what_is_left_is_told_by_source_and_priority() {
    let mut queue = queue([
        item("a", 10, 1),
        item("a", 10, 2),
        item("b", 10, 3),
        item("a", 0, 4),
        item("b", 3, 5),
        item("b", 3, 6),
    ]);
    let mut batch = queue.take(Uptime(0), 5);
    batch.settle_first(4); // in order of priority: 4, 5, 6, 1
    let done = |source: &str, priority, messages| Done { source: source.into(), priority, messages };
    assert_eq!(queue.credit(&mut batch), [done("a", 0, 1), done("b", 3, 2), done("a", 10, 1)]);
    assert_eq!(queue.credit(&mut batch), [], "each is told once");
    let left = |queue: &EndpointQueue| (queue.len_of()[0], queue.len_of()[3], queue.len_of()[10]);
    assert_eq!(left(&queue), (0, 0, 2), "one is out");
    queue.finish(batch, Uptime(0));
    queue.remove_all();
    assert_eq!(queue.len_of(), [0; PRIORITIES]);
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

#[test]
fn the_back_off_is_spread_by_a_fifth_and_never_above_a_minute() {
    for (attempts, least, most) in [(1, 800, 1200), (2, 1600, 2400), (6, 25_600, 38_400), (7, 51_200, 60_000)] {
        let millis = |jitter| retry_delay(attempts, jitter).as_millis();
        assert_eq!((millis(0.0), millis(1.0)), (least, most));
        assert!((0..=100).all(|percent| (least..=most).contains(&millis(f64::from(percent) / 100.0))));
        assert_eq!((millis(-1.0), millis(2.0)), (least, most), "whatever is drawn");
    }
    assert_eq!(retry_delay(u32::MAX, 1.0), MAX_RETRY);
    assert_eq!(retry_delay(0, 0.0), retry_delay(1, 0.0));
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
