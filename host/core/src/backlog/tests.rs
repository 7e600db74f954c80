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
        assert!(same.read(10, 2, 0));
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
    assert!(backlog.read(10, 7, 300));
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

#[test]
fn live_messages_pass_what_is_behind_and_are_not_read_again() {
    let mut backlog = Backlog::default();
    backlog.restore(10, 2, 600); // 1 and 4
    assert!(backlog.passes(10, 5, 0) && backlog.passes(10, 7, 300));
    backlog.stored_unseen(10, 300); // 8
    assert!(backlog.passes(10, 9, 600));
    assert_eq!((backlog.messages(), backlog.bytes()), (3, 900), "they are in memory");
    let read = [1, 4, 5, 7, 8, 9].map(|sequence| backlog.read(10, sequence, 300));
    assert_eq!(read, [true, true, false, false, true, false]);
    assert_eq!((backlog.messages(), backlog.bytes()), (0, 0));
    backlog.came_to_the_end(10);
    assert!(!backlog.is_behind());
}

#[test]
fn a_later_reading_begins_behind_live_messages_that_were_settled_when_the_last_one_ended() {
    let mut backlog = Backlog::default();
    backlog.restore(10, 1, 300);
    assert!(backlog.passes(10, 5, 0));
    assert!(backlog.read(10, 1, 300));
    backlog.came_to_the_end(10);
    backlog.stored_unseen(10, 300);
    assert_eq!(backlog.next_reading(|_| held(0, true)).and_then(|reading| reading.after), Some(5));
}

#[test]
fn live_messages_have_a_window_of_their_own_which_opens_again_when_half_of_it_is_free() {
    let mut backlog = Backlog::default();
    assert!(backlog.passes(10, 1, LIVE_BYTES - 1));
    assert!(!backlog.passes(10, 2, LIVE_BYTES));
    assert!(!backlog.passes(10, 3, LIVE_BYTES / 2));
    assert!(backlog.passes(10, 4, LIVE_BYTES / 2 - 1));
}

#[test]
fn a_receiver_that_comes_and_goes_takes_a_bounded_part_of_memory() {
    let mut backlog = Backlog::default();
    let passed = (0..5000).filter(|n| {
        backlog.stored_unseen(10, 300);
        backlog.passes(10, 2 * n + 1, 0)
    });
    assert_eq!(passed.count(), MOST_PASSED);
}

/// What happens to an endpoint.
#[derive(Debug, Clone)]
enum Step {
    Store {
        priority: u8,
        bytes: usize,
        live: bool,
    },
    /// The consumer settles the first of the window, or the first live one.
    Deliver {
        live: bool,
    },
    /// With or without live ones that the log has not yet noted as settled.
    Read {
        late: bool,
    },
    /// In each priority, the first so many behind the window.
    Expire(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3_u8, 1..100_000_usize, any::<bool>())
            .prop_map(|(priority, bytes, live)| Step::Store { priority, bytes, live }),
        2 => any::<bool>().prop_map(|live| Step::Deliver { live }),
        1 => any::<bool>().prop_map(|late| Step::Read { late }),
        1 => (0..6_usize).prop_map(Step::Expire),
    ]
}

/// The log and what of it is in memory, as simple as can be: numbers and sizes.
#[derive(Default)]
struct Model {
    log: [Vec<(u64, usize)>; 3],
    window: [VecDeque<(u64, usize)>; 3],
    live: VecDeque<(u64, usize)>,
    delivered: [Vec<u64>; 3],
    /// In the order of their delivery.
    delivered_live: Vec<u64>,
    passed: Vec<u64>,
}

fn bytes<'a>(messages: impl IntoIterator<Item = &'a (u64, usize)>) -> usize {
    messages.into_iter().map(|(_, bytes)| bytes).sum()
}

impl Model {
    fn held(&self, priority: u8) -> Held {
        let lane = self.window.get(usize::from(priority));
        Held { bytes: bytes(self.window.iter().flatten()), lane_is_idle: lane.is_none_or(VecDeque::is_empty) }
    }

    fn deliver(&mut self, live: bool) -> bool {
        if live {
            self.delivered_live.extend(self.live.front().map(|(sequence, _)| sequence));
            return self.live.pop_front().is_some();
        }
        let Some(priority) = self.window.iter().position(|lane| !lane.is_empty()) else { return false };
        self.delivered[priority].extend(self.window[priority].pop_front().map(|(sequence, _)| sequence));
        true
    }

    /// Live ones in memory have not expired.
    fn expire(&mut self, backlog: &mut Backlog, count: usize) {
        for (priority, read_to) in backlog.behind().collect::<Vec<_>>() {
            let lane = &mut self.log[usize::from(priority)];
            let (mut kept, mut gone) = (Vec::new(), Vec::new());
            for message in std::mem::take(lane) {
                let is_behind = Some(message.0) > read_to && !self.passed.contains(&message.0);
                if is_behind && gone.len() < count { gone.push(message) } else { kept.push(message) }
            }
            let left = kept
                .iter()
                .filter(|(sequence, _)| Some(*sequence) > read_to && !self.delivered_live.contains(sequence));
            let expired = Expired {
                messages: gone.len() as u64,
                bytes: bytes(&gone) as u64,
                left_messages: left.clone().count() as u64,
                left_bytes: bytes(left) as u64,
            };
            *lane = kept;
            backlog.expired(priority, &expired);
        }
    }

    fn read(&mut self, backlog: &mut Backlog, late: bool) -> bool {
        let Some(reading) = backlog.next_reading(|priority| self.held(priority)) else { return false };
        let lane = usize::from(reading.priority);
        let mut bytes = 0;
        for (sequence, size) in self.log[lane].iter().filter(|(sequence, _)| Some(*sequence) > reading.after) {
            if !late && self.delivered_live.contains(sequence) {
                continue;
            }
            if bytes >= reading.max_bytes {
                return true;
            }
            bytes += size;
            let is_new = backlog.read(reading.priority, *sequence, *size);
            assert_eq!(is_new, !self.passed.contains(sequence), "{sequence}");
            if is_new {
                self.window[lane].push_back((*sequence, *size));
            }
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
        steps in proptest::collection::vec(any_step(), 1..400),
        (with_live, with_expiry) in prop_oneof![Just((true, false)), Just((false, true)), Just((true, true))],
    ) {
        let (mut model, mut backlog) = (Model::default(), Backlog::default());
        let mut sequence = 0;
        for step in steps {
            match step {
                Step::Store { priority, bytes: size, live } => {
                    sequence += 1;
                    let lane = usize::from(priority);
                    model.log[lane].push((sequence, size));
                    if with_live && live && backlog.passes(priority, sequence, bytes(&model.live)) {
                        model.live.push_back((sequence, size));
                        model.passed.push(sequence);
                    } else if backlog.stored(priority, sequence, size, model.held(priority)) {
                        model.window[lane].push_back((sequence, size));
                    }
                }
                Step::Deliver { live } => { model.deliver(live); }
                Step::Read { late } => { model.read(&mut backlog, late); }
                Step::Expire(count) if with_expiry => model.expire(&mut backlog, count),
                Step::Expire(_) => {}
            }
            let (held, live) = (model.held(0).bytes, bytes(&model.live));
            prop_assert!(held <= MOST_BYTES + 100_000, "{held} bytes in memory");
            prop_assert!(live <= LIVE_BYTES + 100_000, "{live} bytes in memory");
            // Where some have expired unread among live ones, the account is right again when a reading comes to the end.
            if !(with_live && with_expiry) {
                let delivered = || model.delivered.iter().flatten().chain(&model.delivered_live);
                let is_behind = |sequence: u64| {
                    let mut held = model.window.iter().flatten().chain(&model.live);
                    !held.any(|held| held.0 == sequence) && !delivered().any(|delivered| *delivered == sequence)
                };
                let behind: Vec<_> = model.log.iter().flatten().filter(|(sequence, _)| is_behind(*sequence)).collect();
                prop_assert_eq!(backlog.messages() as usize, behind.len());
                prop_assert_eq!(backlog.bytes(), bytes(behind));
            }
        }
        while model.deliver(false) || model.deliver(true) || model.read(&mut backlog, true) {}
        prop_assert_eq!(&model.delivered_live, &model.passed);
        for (delivered, log) in model.delivered.iter().zip(&model.log) {
            let all = log.iter().map(|(sequence, _)| *sequence);
            let others: Vec<u64> = all.filter(|sequence| !model.passed.contains(sequence)).collect();
            prop_assert_eq!(delivered, &others);
        }
        prop_assert_eq!((backlog.is_behind(), backlog.messages(), backlog.bytes()), (false, 0, 0));
    }
}

#[test]
fn what_is_found_lost_leaves_the_account() {
    let mut backlog = Backlog::default();
    backlog.restore(3, 10, 1000);
    backlog.lost(3, 4);
    assert_eq!((backlog.messages(), backlog.bytes()), (6, 600));
    assert!(backlog.is_behind(), "the log alone knows the end");
    backlog.lost(3, 40);
    assert_eq!((backlog.messages(), backlog.bytes()), (0, 0));
}
