//! The disk cannot be read: for a while, which costs nothing, or in some places for good, which costs what is there.

use std::collections::{BTreeMap, BTreeSet};

use super::{sim::Sim, *};

const ALL: std::ops::Range<usize> = 0..usize::MAX;

fn log_of(count: u64) -> (Sim, Log, EndpointId) {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..count {
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
    }
    (sim, log, a)
}

#[test]
fn a_disk_that_cannot_be_read_for_a_while_costs_no_message() {
    let (sim, log, a) = log_of(100);
    drop(log);
    for begun in [false, true] {
        let (mut log, _) = sim.open(SMALL, &clocks(1));
        if begun {
            // In the middle of a segment whose index is at hand.
            log.read(a, 0, None, 1000, &mut Vec::new()).unwrap();
        }
        sim.fail_reads(ALL);
        for after in [None, Some(5), Some(60)] {
            for _ in 0..50 {
                let mut read = Vec::new();
                let error = log.read(a, 0, after, usize::MAX, &mut read).err();
                let place = Place { endpoint: a, priority: 0, sequence: after.unwrap_or(0) };
                assert!(log.get(place).is_err() || begun);
                assert!(error.is_some_and(|error| error.to_string().starts_with("cannot read /log/0")) || begun);
                log.tidy();
            }
        }
        assert_eq!(log.take_damage(), []);
        sim.fail_reads(0..0);
        assert_eq!(numbers(&mut log, a, 0), (0..100).collect::<Vec<_>>());
        assert_eq!(log.take_damage(), []);
        log.flush().unwrap();
        let (mut killed, recovery) = sim.killed().open(SMALL, &clocks(2));
        assert_eq!((recovery.references, recovery.damage), (100, vec![]));
        assert_eq!(numbers(&mut killed, a, 0), (0..100).collect::<Vec<_>>());
    }
}

#[test]
fn a_segment_that_cannot_be_read_for_a_while_is_not_copied_without_its_messages() {
    let (sim, mut log, a) = log_of(100);
    log.segments[1].suspect = true;
    let generation = log.segments[1].generation();
    for round in 0..50 {
        // Now from the beginning of the copy, now from somewhere in it.
        sim.fail_reads(round % 2..usize::MAX);
        log.tidy();
    }
    assert!(log.segments.iter().any(|segment| segment.generation() == generation), "it was copied");
    sim.fail_reads(0..0);
    log.tidy();
    assert!(log.segments.iter().all(|segment| segment.generation() != generation), "it was not copied");
    assert_eq!(log.take_damage(), []);
    assert_eq!(numbers(&mut log, a, 0), (0..100).collect::<Vec<_>>());
}

/// A page that cannot be read for good costs what is in it, and that only when it was tried for a while.
#[test]
fn what_is_in_a_page_that_stays_unreadable_is_given_up_and_nothing_else() {
    let (sim, mut log, a) = log_of(100);
    let segment = &log.segments[2];
    let (name, first, last) = (file_name(segment.generation()), segment.first, segment.last);
    drop(log);
    (log, _) = sim.open(SMALL, &clocks(1));
    sim.spoil(&name, 1);
    let mut tries = 0;
    let read = loop {
        let mut read = Vec::new();
        if log.read(a, 0, None, usize::MAX, &mut read).is_ok() {
            break read;
        }
        tries += 1;
        assert!(tries < 50 && log.take_damage().is_empty());
    };
    assert!(tries > 5, "{tries}");
    let read: Vec<u64> = read.iter().map(|stored| stored.accepted.sequence).collect();
    let lost: Vec<u64> = (0..100).filter(|number| !read.contains(number)).collect();
    assert!(lost.iter().all(|number| (first..=last).contains(number)) && (5..=15).contains(&lost.len()), "{lost:?}");
    assert_eq!(log.take_damage().iter().map(told).sum::<u64>(), lost.len() as u64);
    // The rest of the segment can be copied.
    log.segments[2].suspect = true;
    log.tidy();
    let (mut killed, recovery) = sim.killed().open(SMALL, &clocks(2));
    assert_eq!(recovery.damage, []);
    assert_eq!(numbers(&mut killed, a, 0), read);
}

/// Files of some pages, one of which is bad: the log opens and tells it.
#[test]
fn a_page_that_cannot_be_read_does_not_keep_the_log_from_opening() {
    const OPTIONS: Options = Options { segment_bytes: 16 << 10, max_bytes: 40 * (16 << 10), ..SMALL };
    let sim = Sim::new();
    let (mut log, _) = sim.open(OPTIONS, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..150 {
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
    }
    for stored in all(&mut log, a, 0).iter().take(100).filter(|stored| stored.accepted.sequence % 6 != 1) {
        log.settle(stored.place, How::Delivered);
    }
    while log.tidy() {}
    log.flush().unwrap();
    let waiting: BTreeSet<u64> = numbers(&mut log, a, 0).into_iter().collect();
    let files: BTreeMap<String, Vec<u8>> = sim.contents();
    assert!(files.keys().filter(|name| name.ends_with(".log")).count() >= 3, "{:?}", files.keys());
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".log")) {
        for page in 0..bytes.len().div_ceil(4096) {
            let case = format!("page {page} of {name}");
            let bad = Sim::with(&files);
            bad.spoil(name, page);
            let (mut log, recovery) = bad.open(OPTIONS, &clocks(1));
            let mut found = BTreeSet::new();
            let mut damage = recovery.damage;
            // It is tried for a while.
            for _ in 0..100 {
                let mut read = Vec::new();
                let done = log.read(a, 0, None, usize::MAX, &mut read).is_ok();
                found.extend(read.iter().map(|stored| stored.accepted.sequence));
                damage.extend(log.take_damage());
                if done {
                    break;
                }
            }
            read_all_of(&mut log, a, &case);
            let lost = waiting.difference(&found).count();
            // The head of the segment that is written has the names of its sources.
            let most = if page == 0 && bytes.ends_with(&[0; 16]) { 20 } else { 13 };
            assert!(lost <= most, "{case}: {lost}");
            assert!(lost == 0 || !damage.is_empty() || !recovery.torn.is_empty(), "{case}: {lost} lost silently");
            append(&mut log, &message("s", 500, 10), &[to(a, 0)]).unwrap();
            assert_eq!(numbers(&mut log, a, 0).last(), Some(&500), "{case}");
        }
    }
}

fn read_all_of(log: &mut Log, a: EndpointId, case: &str) {
    let read = log.read(a, 0, None, usize::MAX, &mut Vec::new());
    assert!(read.is_ok(), "{case}: {read:?}");
}

#[test]
fn a_disk_that_fails_amid_an_opening_costs_nothing() {
    let (sim, mut log, a) = log_of(60);
    for stored in all(&mut log, a, 0).iter().take(40).filter(|stored| stored.accepted.sequence % 6 != 1) {
        log.settle(stored.place, How::Delivered);
    }
    log.flush().unwrap();
    let waiting = numbers(&mut log, a, 0);
    let before = sim.killed();
    let reads = {
        let sim = before.killed();
        sim.open(SMALL, &clocks(1));
        sim.reads()
    };
    assert!(reads > 10, "{reads}");
    let mut refused = 0;
    for first in 0..reads {
        for count in [1, 2, 5, 1000] {
            let case = format!("{count} from {first}");
            let sim = before.killed();
            sim.fail_reads(first..first + count);
            match sim.try_open(SMALL, &clocks(1)) {
                Ok((_, recovery)) => assert_eq!(recovery.damage, [], "{case}"),
                Err(error) => {
                    assert!(error.to_string().starts_with("the disk cannot read the message log /log"), "{error}");
                    refused += 1;
                }
            }
            let (mut log, recovery) = sim.killed().open(SMALL, &clocks(2));
            assert_eq!(recovery.damage, [], "{case}");
            assert_eq!(numbers(&mut log, a, 0), waiting, "{case}");
        }
    }
    assert!(refused >= reads, "{refused}");
}

fn told(damage: &Damage) -> u64 {
    if let Loss::Messages(count) = damage.loss { count } else { 0 }
}

/// Neither too many open files nor a disk that does not answer makes a settlement vanish.
#[test]
fn what_is_settled_while_no_index_can_be_read_is_settled() {
    for (no_files, rotates) in [(true, false), (false, false), (true, true), (false, true)] {
        let case = format!("no files: {no_files}, rotates: {rotates}");
        let (sim, log, a) = log_of(100);
        drop(log);
        let places: Vec<Place> =
            all(&mut sim.open(SMALL, &clocks(1)).0, a, 0).iter().map(|stored| stored.place).collect();
        let (mut log, _) = sim.open(SMALL, &clocks(2));
        if rotates {
            log.ensure_spares(2).unwrap();
        }
        let fails = |fails: bool| {
            sim.open_no_more(no_files && fails);
            sim.fail_reads(if fails && !no_files { ALL } else { 0..0 });
        };
        fails(true);
        log.attempt(places[0], 3);
        for place in &places {
            assert!(log.settle(*place, How::Delivered), "{case}");
            assert!(!log.settle(*place, How::Delivered), "{case}: twice");
        }
        log.attempt(places[0], 4);
        assert_eq!((log.usage().references, log.usage().settled(How::Delivered)), (0, 100), "{case}");
        if rotates {
            log.rotate().unwrap();
        }
        log.flush().unwrap();
        fails(false);
        let (mut killed, recovery) = sim.killed().open(SMALL, &clocks(3));
        assert_eq!((numbers(&mut killed, a, 0), killed.usage().references), (vec![], 0), "{case}");
        assert_eq!(recovery.damage, [], "{case}");
        assert_eq!((numbers(&mut log, a, 0), log.usage().references), (vec![], 0), "{case}");
        log.tidy();
        assert!(log.usage().disk_bytes <= 4 * SMALL.segment_bytes, "{case}: {:?}", log.usage());
        assert!(log.attempts.is_empty());
    }
}

/// Two damages in one run: an index is made again without a message, and ordinals are others.
#[test]
fn settlements_after_an_index_was_made_again_take_no_other_message_along() {
    let (sim, log, a) = log_of(100);
    drop(log);
    let (mut log, _) = sim.open(SMALL, &clocks(1));
    let stored = all(&mut log, a, 0);
    let (segment, last) = (&log.segments[1], log.segments[2].first);
    let (name, first, index) = (file_name(segment.generation()), segment.first, segment.data_end);
    let place = |sequence| Place { endpoint: a, priority: 0, sequence };
    assert!(log.settle(place(first + 3), How::Delivered));
    // The walks go elsewhere.
    log.attempt(place(last), 1);
    log.read(a, 0, Some(last), 1, &mut Vec::new()).unwrap();
    let file = super::super::disk::SegmentFolder::open(&sim, &name).unwrap();
    let body = &stored[first as usize + 1].accepted.message.body[..32];
    let at = sim.contents()[&name].windows(32).position(|window| window == body).unwrap() as u64;
    file.write_at(&[0; 4], at).unwrap();
    file.write_at(&[0; 16], index).unwrap();
    assert!(log.settle(place(first + 5), How::Delivered));
    assert_eq!(log.take_revived(), [a], "the first settlement is void here");
    assert_eq!(log.take_revived(), []);
    log.flush().unwrap();
    let (mut killed, _) = sim.killed().open(SMALL, &clocks(2));
    let found = numbers(&mut killed, a, 0);
    assert!([first, first + 2, first + 4, first + 6].iter().all(|number| found.contains(number)), "{found:?}");
}
