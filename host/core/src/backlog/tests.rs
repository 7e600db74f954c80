use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn held(bytes: usize, lane_is_idle: bool) -> Held {
    Held { bytes, lane_is_idle }
}

#[test]
fn what_fits_into_the_window_needs_no_reading() {
    let mut backlog = Backlog::default();
    assert!(backlog.stored(10, 1, 300, held(0, true)));
    assert!(backlog.stored(10, 2, 300, held(WINDOW_BYTES - 1, false)));
    assert_eq!(backlog, {
        let mut same = Backlog::default();
        same.read(10, 2, 0);
        same
    });
    assert_eq!(backlog.next_reading(|_| held(0, true)), None);
}

#[test]
fn what_comes_behind_a_full_window_waits_there_also_when_it_is_not_full_any_more() {
    let mut backlog = Backlog::default();
    assert!(backlog.stored(10, 1, 300, held(0, true)));
    assert!(!backlog.stored(10, 2, 300, held(WINDOW_BYTES, false)));
    assert!(!backlog.stored(10, 3, 300, held(0, true)), "2 goes first");
    assert_eq!((backlog.messages(), backlog.bytes()), (2, 600));
    let reading = Reading { priority: 10, after: Some(1), max_bytes: WINDOW_BYTES - 1000 };
    assert_eq!(backlog.next_reading(|_| held(1000, false)), Some(reading));
}

#[test]
fn a_full_window_is_read_into_again_when_half_of_it_is_gone() {
    let mut backlog = Backlog::default();
    assert!(!backlog.stored(10, 1, 300, held(WINDOW_BYTES, false)));
    assert_eq!(backlog.next_reading(|_| held(WINDOW_BYTES / 2, false)), None);
    assert!(backlog.next_reading(|_| held(WINDOW_BYTES / 2 - 1, false)).is_some());
}

#[test]
fn an_urgent_message_passes_a_window_full_of_others() {
    let mut backlog = Backlog::default();
    assert!(!backlog.stored(10, 1, 300, held(WINDOW_BYTES, false)));
    assert!(backlog.stored(0, 2, 300, held(WINDOW_BYTES, true)));
    assert!(!backlog.stored(0, 3, 300, held(MOST_BYTES, true)), "memory has an end");
}

#[test]
fn messages_in_back_off_keep_others_away_only_when_they_are_many() {
    let mut backlog = Backlog::default();
    backlog.restore(10, 5, 1500);
    assert!(backlog.next_reading(|_| held(MOST_BYTES - 1, true)).is_some());
    assert_eq!(backlog.next_reading(|_| held(MOST_BYTES, true)), None);
}

#[test]
fn the_most_urgent_is_read_first() {
    let mut backlog = Backlog::default();
    backlog.restore(10, 1, 300);
    backlog.restore(3, 1, 300);
    assert_eq!(backlog.next_reading(|_| held(0, true)).map(|reading| reading.priority), Some(3));
}

#[test]
fn what_is_under_way_counts_until_it_is_there_or_refused() {
    let mut backlog = Backlog::default();
    backlog.reserve(300);
    backlog.reserve(200);
    assert_eq!((backlog.bytes(), backlog.is_storing()), (500, true));
    backlog.release(300);
    backlog.release(200);
    assert_eq!((backlog.bytes(), backlog.is_storing()), (0, false));
}

#[test]
fn messages_that_the_log_has_lost_are_not_waited_for() {
    let mut backlog = Backlog::default();
    backlog.restore(10, 5, 1500);
    backlog.read(10, 7, 300);
    backlog.came_to_the_end(10);
    assert_eq!((backlog.messages(), backlog.bytes(), backlog.is_behind()), (0, 0, false));
}

#[test]
fn what_the_log_counts_in_bytes_of_its_own_shrinks_the_account_alike() {
    let mut backlog = Backlog::default();
    backlog.restore(10, 4, 4000);
    backlog.expired(10, &Expired { messages: 3, bytes: 150, left_messages: 1, left_bytes: 50 });
    assert_eq!((backlog.messages(), backlog.bytes()), (1, 1000));
    backlog.expired(10, &Expired { messages: 1, bytes: 50, left_messages: 0, left_bytes: 0 });
    assert_eq!((backlog.messages(), backlog.bytes(), backlog.is_behind()), (0, 0, false));
}

/// What happens to an endpoint.
#[derive(Debug, Clone)]
enum Step {
    Store {
        priority: u8,
        bytes: usize,
    },
    /// The consumer settles the first of the window.
    Deliver,
    Read,
    /// In each priority, the first so many behind the window.
    Expire(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3_u8, 1..100_000_usize).prop_map(|(priority, bytes)| Step::Store { priority, bytes }),
        2 => Just(Step::Deliver),
        1 => Just(Step::Read),
        1 => (0..6_usize).prop_map(Step::Expire),
    ]
}

/// The log and the window of an endpoint, as simple as can be.
#[derive(Default)]
struct Model {
    log: [Vec<(u64, usize)>; 3],
    window: [VecDeque<(u64, usize)>; 3],
    delivered: [Vec<u64>; 3],
}

impl Model {
    fn held(&self, priority: u8) -> Held {
        let bytes = self.window.iter().flatten().map(|(_, bytes)| bytes).sum();
        let lane = self.window.get(usize::from(priority));
        Held { bytes, lane_is_idle: lane.is_none_or(VecDeque::is_empty) }
    }

    fn deliver(&mut self) -> bool {
        let Some(priority) = self.window.iter().position(|lane| !lane.is_empty()) else { return false };
        self.delivered[priority].extend(self.window[priority].pop_front().map(|(sequence, _)| sequence));
        true
    }

    fn expire(&mut self, backlog: &mut Backlog, count: usize) {
        for (priority, read_to) in backlog.behind().collect::<Vec<_>>() {
            let lane = &mut self.log[usize::from(priority)];
            let first = lane.iter().position(|(sequence, _)| Some(*sequence) > read_to).unwrap_or(lane.len());
            let gone: Vec<_> = lane.drain(first..(first + count).min(lane.len())).collect();
            let bytes = |messages: &[(u64, usize)]| messages.iter().map(|(_, bytes)| *bytes as u64).sum();
            let expired = Expired {
                messages: gone.len() as u64,
                bytes: bytes(&gone),
                left_messages: (lane.len() - first) as u64,
                left_bytes: bytes(&lane[first..]),
            };
            backlog.expired(priority, &expired);
        }
    }

    fn read(&mut self, backlog: &mut Backlog) -> bool {
        let Some(reading) = backlog.next_reading(|priority| self.held(priority)) else { return false };
        let lane = usize::from(reading.priority);
        let mut bytes = 0;
        for (sequence, size) in self.log[lane].iter().filter(|(sequence, _)| Some(*sequence) > reading.after) {
            if bytes >= reading.max_bytes {
                return true;
            }
            bytes += size;
            self.window[lane].push_back((*sequence, *size));
            backlog.read(reading.priority, *sequence, *size);
        }
        if bytes < reading.max_bytes {
            backlog.came_to_the_end(reading.priority);
        }
        true
    }
}

proptest! {
    #[test]
    fn each_message_is_delivered_once_in_the_order_of_the_log_and_memory_is_bounded(
        steps in proptest::collection::vec(any_step(), 1..400)
    ) {
        let (mut model, mut backlog) = (Model::default(), Backlog::default());
        let mut sequence = 0;
        for step in steps {
            match step {
                Step::Store { priority, bytes } => {
                    sequence += 1;
                    model.log[usize::from(priority)].push((sequence, bytes));
                    if backlog.stored(priority, sequence, bytes, model.held(priority)) {
                        model.window[usize::from(priority)].push_back((sequence, bytes));
                    }
                }
                Step::Deliver => { model.deliver(); }
                Step::Read => { model.read(&mut backlog); }
                Step::Expire(count) => model.expire(&mut backlog, count),
            }
            let held = model.held(0).bytes;
            prop_assert!(held <= MOST_BYTES + 100_000, "{held} bytes in memory");
            let behind: usize = model.log.iter().flatten().map(|(_, bytes)| bytes).sum::<usize>()
                - held
                - model.delivered.iter().zip(&model.log).map(|(delivered, log)| {
                    log.iter().filter(|(sequence, _)| delivered.contains(sequence)).map(|(_, bytes)| bytes).sum::<usize>()
                }).sum::<usize>();
            prop_assert_eq!(backlog.bytes(), behind);
            let window: usize = model.window.iter().map(VecDeque::len).sum();
            let logged: usize = model.log.iter().map(Vec::len).sum();
            let delivered: usize = model.delivered.iter().map(Vec::len).sum();
            prop_assert_eq!(backlog.messages() as usize, logged - window - delivered);
        }
        while model.deliver() || model.read(&mut backlog) {}
        for (delivered, log) in model.delivered.iter().zip(&model.log) {
            let all: Vec<u64> = log.iter().map(|(sequence, _)| *sequence).collect();
            prop_assert_eq!(delivered, &all);
        }
        prop_assert!(!backlog.is_behind());
    }
}
