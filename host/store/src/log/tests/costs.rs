//! What calls cost, counted in steps, so that none grows with what lies before.

use super::{
    super::{format::Origin, index::STEPS},
    sim::Sim,
    *,
};

const OPTIONS: Options = Options { segment_bytes: 1 << 20, max_bytes: 64 << 20, dead_letter_bytes: 1 << 20 };
const COUNT: u64 = 10_000;

/// Entries of indexes that are decoded meanwhile.
fn steps<T>(call: impl FnOnce() -> T) -> (u64, T) {
    let before = STEPS.get();
    let done = call();
    (STEPS.get() - before, done)
}

/// Many small messages in few segments, after a restart.
fn restarted(len: usize) -> (Sim, Log, EndpointId) {
    let sim = Sim::new();
    let (mut log, _) = sim.open(OPTIONS, &clocks(0));
    let a = log.endpoint("a");
    let messages: Vec<Accepted> = (0..COUNT).map(|number| message("s", number, len)).collect();
    let references = [to(a, 0)];
    let entries: Vec<Entry<'_>> = messages.iter().map(|message| Entry { message, references: &references }).collect();
    for entries in entries.chunks(100) {
        log.append(entries, Safety::Written).unwrap();
    }
    drop(log);
    let (log, _) = sim.open(OPTIONS, &clocks(1));
    assert!(log.segments.len() < 16, "{}", log.segments.len());
    (sim, log, a)
}

#[test]
fn to_try_and_to_settle_a_message_costs_as_much_wherever_it_stands_in_its_segment() {
    let (sim, mut log, endpoint) = restarted(20);
    let place = |sequence| Place { endpoint, priority: 0, sequence };
    let (taken, ()) = steps(|| {
        for sequence in 0..COUNT {
            log.attempt(place(sequence), 1);
            assert!(log.settle(place(sequence), How::Delivered));
        }
    });
    assert!(taken <= 3 * COUNT, "{taken}");
    log.flush().unwrap();
    let (taken, (log, _)) = steps(|| sim.killed().open(OPTIONS, &clocks(2)));
    assert!(taken <= 3 * COUNT && log.usage().references == 0, "{taken}");
}

/// As a program does that holds 256 messages, or several sources of which one is late.
#[test]
fn to_settle_out_of_order_costs_no_walk_from_the_beginning_nor_does_the_next_start() {
    let (sim, mut log, endpoint) = restarted(20);
    let mut order: Vec<u64> = (0..COUNT).collect();
    let mut chance = Chance(7);
    for held in order.chunks_mut(256) {
        for n in (1..held.len()).rev() {
            held.swap(n, chance.below(n + 1));
        }
    }
    let (taken, ()) = steps(|| {
        for sequence in &order {
            assert!(log.settle(Place { endpoint, priority: 0, sequence: *sequence }, How::Delivered));
        }
    });
    assert!(taken <= 100 * COUNT, "{taken}");
    log.flush().unwrap();
    let (taken, (log, _)) = steps(|| sim.killed().open(OPTIONS, &clocks(2)));
    assert!(taken <= 100 * COUNT && log.usage().references == 0, "{taken}");
}

#[test]
fn dead_letters_at_their_bound_and_the_removal_of_an_endpoint_cost_as_much_for_each_message() {
    let (_sim, mut log, a) = restarted(200);
    // The bound is reached.
    let mut removed = Removed::default();
    let (taken, calls) = steps(|| {
        let mut calls = 0;
        loop {
            let before = removed.buried;
            let is_more = log.remove_endpoint(a, "endpoint_removed", UtcMillis(7), &mut removed).unwrap();
            assert!(removed.buried - before < 500, "others wait for one call");
            calls += 1;
            if !is_more {
                break calls;
            }
        }
    });
    assert_eq!(removed.buried + removed.dropped, COUNT);
    assert!(removed.buried > 3000 && calls > 10, "{removed:?} {calls}");
    assert!(taken <= 150 * COUNT, "{taken}");
    let b = log.endpoint("b");
    for number in 0..3000 {
        append(&mut log, &message("s", number, 200), &[to(b, 0)]).unwrap();
    }
    let stored = all(&mut log, b, 0);
    let (taken, ()) = steps(|| {
        for stored in &stored {
            log.bury(stored.place, "no use", UtcMillis(7)).unwrap();
        }
    });
    assert!(log.usage().settled(How::Dropped) > removed.dropped + 2000);
    assert!(taken <= 200 * 3000, "{taken}");
}

#[test]
fn what_is_done_soon_is_not_copied_between_messages() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let copies = |log: &Log| log.segments.iter().filter(|segment| segment.header.origin == Origin::Compact).count();
    let mut waiting = std::collections::VecDeque::new();
    for number in 0..500 {
        waiting.push_back(append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap());
        assert_eq!(copies(&log), 0, "{number}");
        if waiting.len() > 5 {
            log.settle(Place { endpoint: a, priority: 0, sequence: waiting.pop_front().unwrap() }, How::Delivered);
        }
    }
    assert!(log.segments.len() <= 2, "what is done goes");
    // In a quiet moment it is.
    log.tidy();
    assert!(copies(&log) > 0 || log.segments.is_empty());
    assert_eq!(all(&mut log, a, 0).len(), 5);
}
