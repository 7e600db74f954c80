//! Each operation of a scenario fails once: what was accepted is there afterwards, in this process and in the next.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;

use super::{
    sim::{Fault, Sim},
    *,
};

/// What callers were told.
#[derive(Default)]
struct Told {
    accepted: BTreeMap<u64, Safety>,
    refused: BTreeSet<u64>,
    /// Settled, whether the disk knows it or not.
    settled: BTreeSet<u64>,
}

/// Batches of both kinds over many segments, settlements in and out of order, copies of what is left, dead letters.
fn scenario(log: &mut Log) -> Told {
    let mut told = Told::default();
    let (a, b) = (log.endpoint("a"), log.endpoint("b"));
    for round in 0..30_u64 {
        let safety = if round % 3 == 0 { Safety::Synced } else { Safety::Written };
        let numbers: Vec<u64> = (0..4).map(|n| round * 4 + n).collect();
        let messages: Vec<Accepted> = numbers.iter().map(|number| message("s", *number, 350)).collect();
        let references = [to(a, 0), to(b, 3)];
        let entries: Vec<Entry<'_>> =
            messages.iter().map(|message| Entry { message, references: &references }).collect();
        match log.append(&entries, safety) {
            Ok(_) => told.accepted.extend(numbers.iter().map(|number| (*number, safety))),
            Err(_) => told.refused.extend(&numbers),
        }
        // What cannot be read now is settled later.
        let mut waiting = Vec::new();
        let _ = log.read(a, 0, None, usize::MAX, &mut waiting);
        for stored in waiting.iter().rev().skip(2).filter(|stored| stored.accepted.sequence % 10 != 7) {
            for (endpoint, priority) in [(a, 0), (b, 3)] {
                log.settle(Place { endpoint, priority, sequence: stored.place.sequence }, How::Delivered);
            }
            told.settled.insert(stored.accepted.sequence);
        }
        if round % 5 == 4 {
            let _ = log.flush();
            log.tidy();
        }
    }
    told
}

/// What waits for both.
fn waiting(log: &mut Log) -> BTreeSet<u64> {
    let (a, b) = (log.endpoint("a"), log.endpoint("b"));
    let (for_a, for_b) = (numbers(log, a, 0), numbers(log, b, 3));
    for_a.into_iter().filter(|number| for_b.contains(number)).collect()
}

fn invariant_every_accepted_message_is_settled_or_stored(
    told: &Told,
    waiting: &BTreeSet<u64>,
    power: bool,
    case: &str,
) {
    for (number, safety) in &told.accepted {
        let safe = !power || *safety == Safety::Synced;
        assert!(!safe || told.settled.contains(number) || waiting.contains(number), "{case}: {number} is lost");
    }
    assert!(waiting.iter().all(|number| told.accepted.contains_key(number) || told.refused.contains(number)), "{case}");
}

fn attack(fault: impl Fn(usize) -> Fault) {
    let count = {
        let sim = Sim::new();
        let (mut log, _) = sim.open(SMALL, &clocks(0));
        scenario(&mut log);
        sim.operations()
    };
    assert!(count > 150, "{count}");
    for at in 0..count {
        let fault = fault(at);
        let case = format!("{fault:?}");
        let sim = Sim::new().failing(fault);
        let (mut log, _) = sim.open(SMALL, &clocks(0));
        let told = scenario(&mut log);
        let now = waiting(&mut log);
        invariant_every_accepted_message_is_settled_or_stored(&told, &now, false, &case);
        assert!(told.refused.is_disjoint(&now), "{case}: refused and there");
        assert!(told.settled.is_disjoint(&now), "{case}: settled and there");
        assert_eq!(log.take_damage(), [], "{case}");
        if matches!(fault, Fault::Once { .. }) {
            // The same handle goes on.
            let a = log.endpoint("a");
            append(&mut log, &message("s", 9999, 10), &[to(a, 0)]).unwrap();
            assert_eq!(numbers(&mut log, a, 0).last(), Some(&9999));
        }
        if let Some(active) = &log.active {
            assert_eq!(active.segment.footer_bound(), active.segment.footer_sum(), "{case}");
        }
        let (mut killed, _) = sim.killed().open(SMALL, &clocks(1));
        let left = waiting(&mut killed);
        invariant_every_accepted_message_is_settled_or_stored(&told, &left, false, &format!("{case}, killed"));
        for seed in 1..4 {
            let (mut dark, _) = sim.without_power(&mut Chance(seed)).open(SMALL, &clocks(1));
            let left = waiting(&mut dark);
            invariant_every_accepted_message_is_settled_or_stored(&told, &left, true, &format!("{case}, power {seed}"));
        }
    }
}

/// The n-th reading and so many behind it fail, for every n.
fn attack_readings(count: usize) {
    let reads = {
        let sim = Sim::new();
        let (mut log, _) = sim.open(SMALL, &clocks(0));
        scenario(&mut log);
        sim.reads()
    };
    assert!(reads > 50, "{reads}");
    for at in 0..reads {
        let case = format!("{count} readings from {at}");
        let sim = Sim::new();
        let (mut log, _) = sim.open(SMALL, &clocks(0));
        sim.fail_reads(at..at.saturating_add(count));
        let told = scenario(&mut log);
        sim.fail_reads(0..0);
        let now = waiting(&mut log);
        invariant_every_accepted_message_is_settled_or_stored(&told, &now, false, &case);
        assert!(told.refused.is_disjoint(&now), "{case}: refused and there");
        assert!(told.settled.is_disjoint(&now), "{case}: settled and there");
        assert_eq!(log.take_damage(), [], "{case}");
        let _ = log.flush();
        let (mut killed, recovery) = sim.killed().open(SMALL, &clocks(1));
        let left = waiting(&mut killed);
        invariant_every_accepted_message_is_settled_or_stored(&told, &left, false, &format!("{case}, killed"));
        assert_eq!(recovery.damage, [], "{case}, killed");
        for seed in 1..4 {
            let (mut dark, _) = sim.without_power(&mut Chance(seed)).open(SMALL, &clocks(1));
            let left = waiting(&mut dark);
            invariant_every_accepted_message_is_settled_or_stored(&told, &left, true, &format!("{case}, power {seed}"));
        }
    }
}

#[test]
fn no_reading_that_fails_loses_what_was_accepted() {
    attack_readings(1);
}

#[test]
fn no_readings_that_fail_for_a_while_lose_what_was_accepted() {
    attack_readings(3);
    attack_readings(30);
}

#[test]
fn no_disk_that_cannot_be_read_any_more_loses_what_was_accepted() {
    attack_readings(usize::MAX);
}

#[test]
fn no_full_disk_at_any_operation_loses_what_was_accepted() {
    attack(|at| Fault::Once { at, with: Errno::NOSPC });
}

#[test]
fn no_failing_operation_loses_what_was_accepted() {
    attack(|at| Fault::Once { at, with: Errno::IO });
}

#[test]
fn no_two_operations_that_fail_one_after_the_other_lose_what_was_accepted() {
    attack(|at| Fault::Twice { at });
}

#[test]
fn no_name_that_has_changed_though_the_disk_says_it_has_not_loses_what_was_accepted() {
    attack(|at| Fault::Done { at });
}

#[test]
fn no_dying_disk_loses_what_was_accepted() {
    attack(|at| Fault::Dead { at });
}

/// A write that the disk took by half and refused is not read after a kill that follows at once.
#[test]
fn a_batch_that_was_refused_for_want_of_room_is_not_there_after_a_kill() {
    let mut refused = 0;
    for at in 0..300 {
        let sim = Sim::new().failing(Fault::Once { at, with: Errno::NOSPC });
        let (mut log, _) = sim.open(SMALL, &clocks(0));
        let a = log.endpoint("a");
        let mut accepted = Vec::new();
        for round in 0..100_u64 {
            let messages: Vec<Accepted> = (0..4).map(|n| message("s", round * 4 + n, 350)).collect();
            let references = [to(a, 0)];
            let entries: Vec<Entry<'_>> =
                messages.iter().map(|message| Entry { message, references: &references }).collect();
            if log.append(&entries, Safety::Written).is_err() {
                refused += 1;
                break;
            }
            accepted.extend(messages.iter().map(|message| message.sequence));
        }
        let (mut killed, _) = sim.killed().open(SMALL, &clocks(1));
        assert_eq!(numbers(&mut killed, a, 0), accepted, "operation {at}");
    }
    assert!(refused > 60, "{refused}");
}

/// Kills at moments when the files say less than what was done: nothing is missed that went on purpose.
#[test]
fn what_an_opening_removes_is_not_missed_by_the_next_opening() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let mut number = 0;
    while log.segments.len() < 6 {
        append(&mut log, &message("s", number, 350), &[to(a, 0)]).unwrap();
        number += 1;
    }
    log.ensure_spares(super::super::spares::SPARES).unwrap();
    // As a kill amid the removal of an endpoint leaves it: settled on the disk, and the room not yet given back.
    let last = log.segments[3].last;
    for sequence in 0..=last {
        log.settle_at(a.key(0), sequence, Some(How::Dropped));
    }
    log.flush().unwrap();
    let killed = sim.killed();
    let (again, _) = killed.open(SMALL, &clocks(1));
    assert!(again.segments.len() < log.segments.len(), "it has removed some");
    let (mut last_life, recovery) = killed.killed().open(SMALL, &clocks(2));
    assert_eq!(recovery.damage, []);
    assert_eq!(numbers(&mut last_life, a, 0), (last + 1..number).collect::<Vec<_>>());
    for seed in 1..20 {
        let (_, recovery) = killed.without_power(&mut Chance(seed)).open(SMALL, &clocks(2));
        assert_eq!(recovery.damage, [], "power {seed}");
    }
}

#[test]
fn what_a_copy_of_a_copy_was_made_of_is_not_missed() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let (mut number, mut copied) = (0, 0);
    for _ in 0..6 {
        let until = log.segments.len() + 4;
        while log.segments.len() < until {
            append(&mut log, &message("s", number, 350), &[to(a, 0)]).unwrap();
            number += 1;
        }
        // What is copied goes on being settled, and nothing but copying writes.
        for left in [8, 32, 128] {
            for stored in all(&mut log, a, 0).iter().filter(|stored| stored.accepted.sequence % left != 0) {
                log.settle_at(a.key(0), stored.place.sequence, Some(How::Delivered));
            }
            while log.tidy() {
                copied += 1;
                for (case, files) in [sim.killed(), sim.without_power(&mut Chance(copied))].into_iter().enumerate() {
                    let (_, recovery) = files.open(SMALL, &clocks(1));
                    assert_eq!(recovery.damage, [], "copy {copied}, case {case}");
                }
            }
        }
    }
    assert!(copied > 5, "{copied}");
}

/// What a sync could not make safe is never said to be: the next sync writes it anew.
#[test]
fn after_a_failed_sync_the_next_one_that_succeeds_makes_all_safe() {
    let operations = {
        let sim = Sim::new();
        let (mut log, _) = sim.open(SMALL, &clocks(0));
        let a = log.endpoint("a");
        append(&mut log, &message("s", 1, 100), &[to(a, 0)]).unwrap();
        sim.operations()
    };
    let sim = Sim::new().failing(Fault::Once { at: operations, with: Errno::IO });
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    append(&mut log, &message("s", 1, 100), &[to(a, 0)]).unwrap();
    assert!(log.sync().is_err());
    log.sync().unwrap();
    for seed in 1..20 {
        let (mut dark, _) = sim.without_power(&mut Chance(seed)).open(SMALL, &clocks(1));
        assert_eq!(numbers(&mut dark, a, 0), [1], "power {seed}");
    }
}

#[test]
fn settlements_are_safe_also_after_a_failed_sync_of_the_only_segment() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    append(&mut log, &message("s", 1, 100), &[to(a, 0)]).unwrap();
    log.sync().unwrap();
    let place = all(&mut log, a, 0)[0].place;
    log.settle(place, How::Delivered);
    // The write goes well, the sync behind it does not.
    let sim = sim.failing(Fault::Once { at: 1, with: Errno::IO });
    assert!(log.sync().is_err());
    log.sync().unwrap();
    assert_eq!(sim.killed().open(SMALL, &clocks(1)).1.references, 0);
    // What the failed sync has dropped is in no memory either.
    for seed in 1..6 {
        assert_eq!(sim.without_power(&mut Chance(seed)).open(SMALL, &clocks(1)).1.references, 0, "power {seed}");
    }
}

/// A sync fails, and so does the copying of what it has left, at any operation of each: then a letter may wait for that copy.
#[test]
fn after_a_flush_that_is_well_no_kill_brings_a_message_beside_its_letter() {
    let mut flushed = 0;
    for (first, second) in (0..16).flat_map(|first| (0..16).map(move |second| (first, second))) {
        let sim = Sim::new();
        let (mut log, _) = sim.open(SMALL, &clocks(0));
        let a = log.endpoint("a");
        append(&mut log, &message("s", 0, 100), &[to(a, 0)]).unwrap();
        log.sync().unwrap();
        append(&mut log, &message("s", 1, 100), &[to(a, 0)]).unwrap();
        let sim = sim.failing(Fault::Twice { at: first });
        let _ = log.sync();
        let sim = sim.failing(Fault::Once { at: second, with: Errno::IO });
        let _ = append(&mut log, &message("s", 2, 100), &[to(a, 0)]);
        let place = all(&mut log, a, 0)[0].place;
        let is_buried = log.bury(place, "x", UtcMillis(7)).is_ok();
        let sim = sim.failing(Fault::None);
        if is_buried && log.flush().is_ok() {
            let (mut next, _) = sim.killed().open(SMALL, &clocks(1));
            assert!(!numbers(&mut next, a, 0).contains(&0), "operations {first} and {second}");
            flushed += 1;
        }
    }
    assert!(flushed > 200, "{flushed}");
}
