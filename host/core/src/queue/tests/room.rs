//! Bounds, and what is given up for room.

use super::*;

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
    assert_eq!(overflow(Overflow::DropOldest, items()), (vec![1], vec![3, 4, 2]), "whatever the clock says");
    assert_eq!(overflow(Overflow::DropLowestPriority, items()), (vec![1], vec![3, 4, 2]));
    let urgent = || [aged("a", 5, 1, 30), aged("b", 4, 2, 20), aged("c", 0, 3, 10), aged("d", 1, 4, 40)];
    assert_eq!(overflow(Overflow::DropLowestPriority, urgent()), (vec![], vec![3, 4, 2, 1]), "none is less urgent");
}

#[test]
fn the_oldest_is_the_one_that_came_first_to_the_queue_or_to_the_log() {
    let in_memory = |sequence| aged("m", 10, sequence, 1000 - sequence);
    let mut queue = queue([in_memory(1), stored(5, false), stored(3, false), in_memory(2), stored(8, false)]);
    let mut given_up = Vec::new();
    for left in (0..5).rev() {
        queue.set_max_bytes(10 * left + 10);
        queue.make_room(10, 5, Overflow::DropOldest);
        given_up.extend(queue.take_dropped().iter().map(|dropped| dropped.sequence));
    }
    // 3 was stored before 5, and read from the log after it; the second in memory came when 5 was in the log, and 8 was not.
    assert_eq!(given_up, [1, 3, 5, 2, 8]);
}

#[test]
fn an_older_message_behind_a_stream_that_was_in_back_off_goes_first() {
    let mut queue = queue([item("a", 10, 1), item("b", 10, 2), item("a", 10, 3), item("b", 10, 4)]);
    let fail = |item: &Item| if item.accepted.sequence == 1 { Settlement::Retry(None) } else { Settlement::Done };
    let mut batch = queue.take(Uptime(0), 1);
    let settlement = fail(batch.next_item(|| Uptime(0)).unwrap());
    batch.settle(settlement, Uptime(0), 0.5);
    queue.finish(batch, Uptime(0));
    queue.release_due(queue.next_due().unwrap());
    queue.set_max_bytes(30); // the lane is 1, 3, 2, 4
    queue.make_room(10, 5, Overflow::DropOldest);
    queue.set_max_bytes(20);
    queue.make_room(10, 5, Overflow::DropOldest);
    assert_eq!(queue.take_dropped().iter().map(|dropped| dropped.sequence).collect::<Vec<_>>(), [1, 2, 3]);
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

/// The usual state while upstream is away.
#[test]
fn a_message_for_a_full_queue_costs_as_much_whatever_waits_there() {
    use crate::queue::lane::LOOKED_AT;
    for policy in [Overflow::DropOldest, Overflow::DropLowestPriority] {
        let costs = [1000, 28_000].map(|count| {
            let mut queue = EndpointQueue::new(10 * count as usize);
            (0..count)
                .for_each(|number| queue.push(item(SOURCES[number as usize % 3], 7 + (number % 4) as u8, number)));
            // Upstream took some, and failed.
            let batch = queue.take(Uptime(0), 100);
            queue.finish(batch, Uptime(0));
            let before = LOOKED_AT.get();
            for number in count..count + 100 {
                assert!(!queue.fits(10) && queue.can_make_room(10, 5, policy));
                queue.make_room(10, 5, policy);
                queue.push(item("a", 7, number));
            }
            assert_eq!(queue.take_dropped().len(), 100);
            LOOKED_AT.get() - before
        });
        assert!(costs[0] == costs[1] && costs[0] <= 100 * 2 * PRIORITIES, "{policy:?}: {costs:?}");
    }
}

#[test]
fn a_lane_is_in_order_again_when_what_stood_before_older_ones_has_gone() {
    use crate::queue::lane::LOOKED_AT;
    let mut queue = queue([item("a", 10, 1), item("b", 10, 2), item("a", 10, 3), item("b", 10, 4)]);
    let mut batch = queue.take(Uptime(0), 1);
    batch.next_item(|| Uptime(0)).unwrap();
    batch.settle(Settlement::Retry(None), Uptime(0), 0.5);
    queue.finish(batch, Uptime(0));
    queue.release_due(queue.next_due().unwrap()); // the lane is 1, 3, 2, 4
    queue.set_max_bytes(20);
    queue.make_room(0, 5, Overflow::DropOldest);
    (5..105).for_each(|number| queue.push(item("c", 10, number)));
    queue.set_max_bytes(1010);
    let before = LOOKED_AT.get();
    queue.make_room(0, 5, Overflow::DropOldest);
    assert_eq!(LOOKED_AT.get() - before, 1);
    assert_eq!(queue.take_dropped().iter().map(|dropped| dropped.sequence).collect::<Vec<_>>(), [1, 2, 3]);
}

/// What came back out of its order is found all the same, and order is found again when that has gone.
#[test]
fn a_queue_in_which_streams_were_in_back_off_gives_up_what_came_first_and_is_in_order_again_afterwards() {
    use crate::queue::lane::LOOKED_AT;
    let mut queue = EndpointQueue::new(10 * 1000);
    (0..1000).for_each(|number| queue.push(item(SOURCES[number as usize % 3], 10, number)));
    let mut batch = queue.take(Uptime(0), 2);
    for _ in 0..2 {
        batch.next_item(|| Uptime(0)).unwrap();
        batch.settle(Settlement::Retry(None), Uptime(0), 0.5);
    }
    queue.finish(batch, Uptime(0));
    queue.release_due(Uptime(MAX_RETRY.as_millis() as u64));
    let mut given_up = Vec::new();
    for left in (500..1000).rev() {
        queue.set_max_bytes(10 * left);
        queue.make_room(0, 5, Overflow::DropOldest);
        given_up.extend(queue.take_dropped().iter().map(|dropped| dropped.sequence));
    }
    assert_eq!(given_up, (0..500).collect::<Vec<_>>());
    while !deliver(&mut queue, Uptime(MAX_RETRY.as_millis() as u64), |_| Settlement::Done).is_empty() {}
    (0..50).for_each(|number| queue.push(item("a", 10, 1000 + number)));
    queue.set_max_bytes(500);
    let before = LOOKED_AT.get();
    queue.make_room(10, 5, Overflow::DropOldest);
    assert_eq!(LOOKED_AT.get() - before, 1);
}
