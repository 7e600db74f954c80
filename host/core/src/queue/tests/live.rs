//! Queues that are drained live first.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn live(source: &str, priority: u8, sequence: u64) -> Item {
    Item { live: true, ..item(source, priority, sequence) }
}

#[test]
fn what_is_live_goes_first_and_every_fourth_is_of_the_backlog() {
    let backlog = (1..=4).map(|n| item("a", 10, n));
    let mut queue = queue(backlog.chain((11..=20).map(|n| live("a", 10, n))));
    assert_eq!(deliver(&mut queue, Uptime(0), done), [11, 12, 13, 1, 14, 15, 16, 2, 17, 18, 19, 3, 20, 4]);
}

#[test]
fn live_first_holds_within_a_priority() {
    let mut queue = queue([live("a", 10, 1), item("a", 5, 2), live("a", 5, 3), item("a", 0, 4)]);
    assert_eq!(deliver(&mut queue, Uptime(0), done), [4, 3, 2, 1]);
}

#[test]
fn where_nothing_is_live_or_all_is_the_order_is_that_of_arrival() {
    for flag in [false, true] {
        let mut queue = queue((1..=6).map(|n| Item { live: flag, ..item(["a", "b"][n as usize % 2], 10, n) }));
        assert_eq!(deliver(&mut queue, Uptime(0), done), [1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn a_message_in_back_off_holds_up_neither_what_is_live_nor_the_backlog_beside_it() {
    let mut queue = queue([item("a", 10, 1), item("a", 10, 2), live("a", 10, 11), live("a", 10, 12)]);
    let fail = |item: &Item| if item.accepted.sequence == 11 { Settlement::Retry(None) } else { Settlement::Done };
    assert_eq!(deliver(&mut queue, Uptime(0), fail), [11, 1, 2], "12 is behind 11");
    queue.push(live("a", 10, 13));
    queue.push(item("a", 10, 3));
    let fail = |item: &Item| if item.accepted.sequence == 3 { Settlement::Retry(None) } else { Settlement::Done };
    assert_eq!(deliver(&mut queue, Uptime(10), fail), [3]);
    queue.push(item("a", 10, 4));
    assert_eq!(deliver(&mut queue, Uptime(1000), done), [11], "the first, to see whether it works");
    assert_eq!(deliver(&mut queue, Uptime(1000), done), [12, 13]);
    assert_eq!(deliver(&mut queue, Uptime(2000), done), [3]);
    assert_eq!(deliver(&mut queue, Uptime(2000), done), [4]);
}

#[test]
fn a_suspect_of_the_backlog_is_delivered_alone_in_its_turn() {
    let mut queue = queue([stored(1, true), stored(2, true), live("a", 10, 11), live("a", 10, 12), live("a", 10, 13)]);
    queue.push(live("a", 10, 14));
    let mut batches = Vec::new();
    while !queue.is_empty() {
        batches.push(deliver(&mut queue, Uptime(0), done));
    }
    assert_eq!(batches, [vec![11, 12, 13], vec![1], vec![14], vec![2]]);
}

#[test]
fn live_bytes_are_told_apart_until_they_are_done_or_given_up() {
    let mut queue = queue([item("a", 10, 1), live("a", 10, 2), live("a", 10, 3), live("b", 10, 4)]);
    let mut batch = queue.take(Uptime(0), 2);
    assert_eq!((queue.bytes(), queue.live_bytes()), (40, 30), "what is out counts");
    batch.settle_first(1);
    queue.credit(&mut batch);
    assert_eq!((queue.bytes(), queue.live_bytes()), (30, 20));
    queue.finish(batch, Uptime(0));
    queue.remove_all();
    assert_eq!((queue.bytes(), queue.live_bytes()), (0, 0));
}

/// The rule in its simplest form.
#[derive(Debug, Clone, Default)]
struct Model {
    backlog: VecDeque<u64>,
    live: VecDeque<u64>,
    /// Live ones in a row, while the backlog waited.
    row: u32,
}

impl Model {
    fn next(&mut self) -> Option<(u64, bool)> {
        let is_live = !self.live.is_empty() && (self.backlog.is_empty() || self.row < 3);
        let next = if is_live { self.live.pop_front() } else { self.backlog.pop_front() };
        self.row = match (is_live, self.backlog.is_empty()) {
            (true, false) => self.row + 1,
            (true, true) => self.row,
            (false, _) => 0,
        };
        next.map(|next| (next, is_live))
    }
}

#[derive(Debug, Clone)]
enum Op {
    Push {
        live: bool,
        count: usize,
    },
    /// Takes so many, and has so many of them handled; what comes meanwhile comes behind.
    Deliver {
        take: usize,
        handle: usize,
        meanwhile: bool,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (any::<bool>(), 1..8_usize).prop_map(|(live, count)| Op::Push { live, count }),
        (1..20_usize, 0..20_usize, any::<bool>()).prop_map(|(take, handle, meanwhile)| Op::Deliver {
            take,
            handle,
            meanwhile
        }),
    ];
    prop::collection::vec(op, 0..80)
}

proptest! {
    #[test]
    fn a_quarter_of_the_deliveries_is_of_a_backlog_that_waits(ops in ops()) {
        let mut queue = EndpointQueue::new(1 << 20);
        let mut model = Model::default();
        let mut sequence = 0;
        let mut push = |queue: &mut EndpointQueue, model: &mut Model, is_live: bool| {
            sequence += 1;
            queue.push(Item { live: is_live, ..item("a", 10, sequence) });
            if is_live { model.live.push_back(sequence) } else { model.backlog.push_back(sequence) }
        };
        let mut row = 0;
        for op in ops {
            match op {
                Op::Push { live, count } => (0..count).for_each(|_| push(&mut queue, &mut model, live)),
                Op::Deliver { take, handle, meanwhile } => {
                    let mut batch = queue.take(Uptime(0), take);
                    for _ in 0..handle {
                        let Some(found) = batch.next_item(|| Uptime(0)).map(|item| item.accepted.sequence) else { break };
                        let expected = model.next();
                        prop_assert_eq!(Some(found), expected.map(|(sequence, _)| sequence));
                        batch.settle(Settlement::Done, Uptime(0), 0.5);
                        row = match expected {
                            Some((_, true)) if !model.backlog.is_empty() => row + 1,
                            _ => 0,
                        };
                        prop_assert!(row <= 3, "more than three live ones went past the backlog");
                    }
                    if meanwhile {
                        push(&mut queue, &mut model, false);
                    }
                    queue.finish(batch, Uptime(0));
                }
            }
        }
        let mut left = Vec::new();
        while !queue.is_empty() {
            left.extend(deliver(&mut queue, Uptime(0), done));
        }
        let expected: Vec<u64> = std::iter::from_fn(|| model.next()).map(|(sequence, _)| sequence).collect();
        prop_assert_eq!(left, expected, "nothing is lost");
    }
}
