//! Losses of power after a disk that failed, and single blocks that a write did not reach.

use std::collections::BTreeMap;

use super::{
    sim::{Fault, Sim},
    *,
};

/// A sync fails (the kernel calls the pages clean, and drops what it could not write), the host is restarted before it could begin a new
/// segment, and the disk is well again: what is accepted behind those pages with a sync must survive a loss of power.
#[test]
fn what_is_synced_behind_what_a_failed_sync_left_survives_a_restart_and_a_loss_of_power() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    append(&mut log, &message("s", 0, 300), &[to(a, 0)]).unwrap();
    log.sync().unwrap();
    for number in 1..5 {
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
    }
    let sim = sim.failing(Fault::Dead { at: 0 });
    assert!(log.sync().is_err());
    let sim = sim.killed();
    let (mut log, _) = sim.open(SMALL, &clocks(1));
    assert_eq!(numbers(&mut log, a, 0), [0, 1, 2, 3, 4]);
    let (message, references) = (message("s", 5, 300), [to(a, 0)]);
    log.append(&[Entry { message: &message, references: &references }], Safety::Synced).unwrap();
    let dark = sim.without_power(&mut Chance(1));
    let (mut log, recovery) = dark.open(SMALL, &Clocks { boot: [2; 16], ..clocks(2) });
    assert!(numbers(&mut log, a, 0).contains(&5), "lost, and told is {:?}", recovery.damage);
}

/// One block of a full segment is as it was before its last write (it has the mark of the end of then): what stands behind it is read, and
/// must be copied as well.
#[test]
fn a_copy_does_not_stop_at_an_end_mark_that_a_lost_block_has() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    append(&mut log, &message("s", 0, 300), &[to(a, 0)]).unwrap();
    let (name, end) = {
        let active = log.active.as_ref().unwrap();
        (file_name(active.segment.generation()), active.segment.data_end as usize)
    };
    let block = end / 512 * 512..(end / 512 + 1) * 512;
    let old = sim.contents()[&name][block.clone()].to_vec();
    let mut number = 1;
    while log.segments.is_empty() {
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
        number += 1;
    }
    let mut files = sim.killed().contents();
    files.get_mut(&name).unwrap()[block].copy_from_slice(&old);
    let (mut log, _) = Sim::with(&files).open(SMALL, &clocks(1));
    let before = numbers(&mut log, a, 0);
    assert!(before.len() as u64 >= number - 3, "{before:?}");
    log.copy_together(0..1, true).unwrap();
    assert_eq!(numbers(&mut log, a, 0), before);
}

/// Of the two headers of a segment one is damaged, and long after, when there was time to mend that, the other one.
#[test]
fn two_flipped_bytes_in_the_headers_at_different_times_cost_no_segment() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let mut number = 0;
    while log.segments.is_empty() {
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
        number += 1;
    }
    let name = file_name(log.segments[0].generation());
    for (first, second) in [(20, SMALL.segment_bytes as usize - 60), (SMALL.segment_bytes as usize - 60, 20)] {
        let mut files = sim.killed().contents();
        for at in [first, second] {
            if let Some(file) = files.get_mut(&name) {
                file[at] ^= 1;
            }
            let disk = Sim::with(&files);
            let (mut log, recovery) = disk.open(SMALL, &clocks(1));
            log.flush().unwrap();
            while log.tidy() {}
            log.sync().unwrap();
            assert_eq!(numbers(&mut log, a, 0).len() as u64, number, "flip at {at}: {:?}", recovery.damage);
            files = disk.killed().contents();
        }
    }
}

/// A loss of power takes a message and leaves the note of its attempts, in a later sector.
#[test]
fn attempts_of_a_lost_message_are_not_those_of_the_message_that_gets_its_number() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    append(&mut log, &message("s", 0, 300), &[to(a, 0)]).unwrap();
    log.sync().unwrap();
    let (name, at) = {
        let active = log.active.as_ref().unwrap();
        (file_name(active.segment.generation()), active.segment.data_end as usize)
    };
    let sequence = append(&mut log, &message("s", 1, 1200), &[to(a, 0)]).unwrap();
    log.attempt(Place { endpoint: a, priority: 0, sequence }, 3);
    log.flush().unwrap();
    let mut files = sim.killed().contents();
    let sector = at.next_multiple_of(512);
    files.get_mut(&name).unwrap()[sector..sector + 512].fill(0);
    let (mut log, _) = Sim::with(&files).open(SMALL, &Clocks { boot: [2; 16], ..clocks(1) });
    assert_eq!(numbers(&mut log, a, 0), [0]);
    append(&mut log, &message("s", 2, 20), &[to(a, 0)]).unwrap();
    let stored = all(&mut log, a, 0).pop().unwrap();
    assert_eq!((stored.accepted.sequence, stored.attempts), (2, 0));
}

/// What was written last to a segment is not on the medium, where an earlier end has its mark. The checkpoint of the next segment has
/// counted it.
#[test]
fn a_lost_end_of_a_segment_that_has_a_successor_is_told_once() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let mut number = 0;
    let mut old = BTreeMap::new();
    while log.segments.is_empty() {
        if number == 10 {
            old = sim.contents();
        }
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
        number += 1;
    }
    let name = file_name(log.segments[0].generation());
    let lost = log.segments[0].last + 1 - 10;
    let mut files = sim.killed().contents();
    files.insert(name.clone(), old[&name].clone());
    let disk = Sim::with(&files);
    let (mut log, recovery) = disk.open(SMALL, &Clocks { boot: [2; 16], ..clocks(1) });
    let told: Vec<Loss> = recovery.damage.iter().map(|damage| damage.loss).collect();
    assert_eq!((told, lost > 2), (vec![Loss::Messages(lost)], true));
    assert_eq!(numbers(&mut log, a, 0).len() as u64, number - lost);
    while log.tidy() {}
    log.sync().unwrap();
    assert_eq!(disk.killed().open(SMALL, &clocks(2)).1.damage, []);
}
