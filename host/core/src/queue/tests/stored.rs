//! Messages that are in the log as well.

use super::*;

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
