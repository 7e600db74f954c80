//! The disk is full, or the cap is reached: senders are told, all else goes on, and nothing that was accepted is lost.

use std::collections::BTreeSet;

use super::{super::spares::SPARES, sim::Sim, *};

fn fill(log: &mut Log, a: EndpointId, first: u64) -> (u64, AppendError) {
    for number in first.. {
        if let Err(error) = append(log, &message("s", number, 300), &[to(a, 0)]) {
            return (number, error);
        }
    }
    unreachable!()
}

fn settle_first(log: &mut Log, a: EndpointId, count: usize) {
    for stored in all(log, a, 0).iter().take(count) {
        assert!(log.settle(stored.place, How::Delivered));
    }
}

#[test]
fn at_the_cap_senders_are_told_and_room_comes_back_with_settlements() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let (count, error) = fill(&mut log, a, 0);
    assert!(matches!(error, AppendError::Full { max_bytes } if max_bytes == SMALL.max_bytes), "{error}");
    assert!(sim.bytes() <= SMALL.max_bytes);
    // Most of the cap holds messages: a spare, room for a copy and the footers are the rest.
    assert!(count * 300 > SMALL.max_bytes * 7 / 10, "{count}");
    assert_eq!(numbers(&mut log, a, 0), (0..count).collect::<Vec<_>>());
    settle_first(&mut log, a, 60);
    append(&mut log, &message("s", count, 300), &[to(a, 0)]).unwrap();
    assert_eq!(numbers(&mut log, a, 0), (60..=count).collect::<Vec<_>>());
    assert!(sim.bytes() <= SMALL.max_bytes);
}

#[test]
fn on_a_full_disk_readings_and_settlements_go_on_and_appends_resume_on_the_same_handle() {
    let sim = Sim::new();
    sim.set_capacity(Some(16 * SMALL.segment_bytes));
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let (count, error) = fill(&mut log, a, 0);
    assert!(matches!(error, AppendError::DiskFull(_)), "{error}");
    assert_eq!(numbers(&mut log, a, 0), (0..count).collect::<Vec<_>>());
    // One in two: no segment gets free, all settlements find room on the disk.
    for stored in all(&mut log, a, 0).iter().step_by(2) {
        assert!(log.settle(stored.place, How::Delivered));
        log.flush().unwrap();
    }
    let odd: Vec<u64> = (0..count).filter(|number| number % 2 == 1).collect();
    let (mut killed, recovery) = sim.killed().open(SMALL, &clocks(1));
    assert_eq!((recovery.torn, recovery.damage), (vec![], vec![]));
    assert_eq!(numbers(&mut killed, a, 0), odd, "settlements were on the disk");
    sim.set_capacity(None);
    append(&mut log, &message("s", count, 300), &[to(a, 0)]).unwrap();
    assert_eq!(numbers(&mut log, a, 0), [&odd[..], &[count]].concat());
}

#[test]
fn a_probe_says_whether_a_message_would_be_stored_and_writes() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    fill(&mut log, a, 0);
    assert!(matches!(log.probe(300, &clocks(1)), Err(AppendError::Full { .. })));
    settle_first(&mut log, a, 60);
    log.probe(300, &clocks(1)).unwrap();

    let sim = Sim::new();
    sim.set_capacity(Some(16 * SMALL.segment_bytes));
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    fill(&mut log, a, 0);
    assert!(matches!(log.probe(300, &clocks(1)), Err(AppendError::DiskFull(_))));
    sim.set_capacity(None);
    let before = sim.operations();
    log.probe(300, &clocks(1)).unwrap();
    log.probe(300, &clocks(2)).unwrap();
    assert!(sim.operations() > before + 1, "a disk that fails is found by writing");
}

#[test]
fn settlements_beyond_all_room_wait_in_memory_and_nothing_is_lost() {
    let sim = Sim::new();
    sim.set_capacity(Some(8 * SMALL.segment_bytes));
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let (count, _) = fill(&mut log, a, 0);
    let first = all(&mut log, a, 0)[0].place;
    // Attempts fill whatever room there is.
    let mut failed = 0;
    for attempts in 1..20_000 {
        log.attempt(first, attempts);
        failed += u32::from(log.flush().is_err());
    }
    assert!(failed > 0, "there was room for all");
    assert_eq!(numbers(&mut log, a, 0), (0..count).collect::<Vec<_>>());
    sim.set_capacity(None);
    log.flush().unwrap();
    let (mut killed, _) = sim.killed().open(SMALL, &clocks(1));
    let stored = all(&mut killed, a, 0);
    assert_eq!((stored.len() as u64, stored[0].attempts), (count, 19_999));
}

#[test]
fn a_log_on_a_full_disk_opens() {
    let sim = Sim::new();
    sim.set_capacity(Some(16 * SMALL.segment_bytes));
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    let (count, _) = fill(&mut log, a, 0);
    let (mut again, _) = sim.killed().open(SMALL, &clocks(1));
    assert_eq!(numbers(&mut again, a, 0), (0..count).collect::<Vec<_>>());
    assert!(append(&mut again, &message("s", count, 300), &[to(a, 0)]).is_err());
    settle_first(&mut again, a, 100);
    append(&mut again, &message("s", count, 300), &[to(a, 0)]).unwrap();
}

/// One slow endpoint must not pin the room of a fast one.
#[test]
fn few_live_messages_do_not_pin_their_segments() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let (fast, slow) = (log.endpoint("fast"), log.endpoint("slow"));
    for number in 0..3000 {
        let endpoint = if number % 20 == 0 { slow } else { fast };
        append(&mut log, &message("s", number, 300), &[to(endpoint, 0)]).unwrap();
        for stored in all(&mut log, fast, 0) {
            log.settle(stored.place, How::Delivered);
        }
    }
    let slow_ones: Vec<u64> = (0..3000).step_by(20).collect();
    assert_eq!(numbers(&mut log, slow, 0), slow_ones);
    let live = 150 * 400;
    assert!(log.usage().disk_bytes < 3 * live + 5 * SMALL.segment_bytes, "{:?}", log.usage());
    log.flush().unwrap();
    let (mut again, recovery) = sim.killed().open(SMALL, &clocks(1));
    assert_eq!((recovery.references, recovery.damage), (150, vec![]));
    assert_eq!(numbers(&mut again, slow, 0), slow_ones);
}

/// The same on a file system that is really small. Root mounts it; others leave it out and say so.
#[test]
#[allow(clippy::print_stdout)] // says what it does not show
fn on_a_full_tmpfs_nothing_accepted_is_lost() {
    let mount = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(mount.path())
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        println!("not measured: needs root");
        return;
    }
    let unmount = Unmount(mount.path().to_owned());
    let options = Options { segment_bytes: 64 << 10, max_bytes: 64 << 20, dead_letter_bytes: 64 << 10 };
    let (mut log, _) = Log::open(mount.path().join("log"), options, &clocks(0)).unwrap();
    let a = log.endpoint("a");
    std::fs::write(mount.path().join("ballast"), vec![1; 512 << 10]).unwrap();
    let (count, error) = fill(&mut log, a, 0);
    assert!(matches!(error, AppendError::DiskFull(_)), "{error}");
    assert_eq!(numbers(&mut log, a, 0), (0..count).collect::<Vec<_>>());
    settle_first(&mut log, a, 10);
    log.flush().unwrap();
    std::fs::remove_file(mount.path().join("ballast")).unwrap();
    append(&mut log, &message("s", count, 300), &[to(a, 0)]).unwrap();
    drop(log);
    let (mut log, recovery) = Log::open(mount.path().join("log"), options, &clocks(1)).unwrap();
    assert_eq!(recovery.damage, []);
    let found: BTreeSet<u64> = numbers(&mut log, a, 0).into_iter().collect();
    assert_eq!(found, (10..=count).collect());
    drop((log, unmount));
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A copy that brings no room is given up; the spare that it was written into must be one again, with its room.
#[test]
fn a_copy_in_vain_leaves_a_spare_with_its_room() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..60 {
        append(&mut log, &message("s", number, 150), &[to(a, 0)]).unwrap();
    }
    // A full segment in which all is live.
    let copied = log.copy_together(0..1, false).unwrap();
    assert!(!copied, "it was of use");
    assert_eq!((log.usage().spares, sim.hollow_spares()), (SPARES, vec![]));
    assert_eq!(numbers(&mut log, a, 0), (0..60).collect::<Vec<_>>());
}

/// However a log fills up, the spare for settlements is there when senders are refused.
#[test]
fn senders_never_get_the_room_for_settlements() {
    for segments in 5..12 {
        let sim = Sim::new();
        let (mut log, _) = sim.open(SMALL, &clocks(0));
        let a = log.endpoint("a");
        append(&mut log, &message("s", 0, 300), &[to(a, 0)]).unwrap();
        // The disk has no more room; the spare goes for settlements that fill their segment.
        sim.set_capacity(Some(sim.bytes()));
        let place = all(&mut log, a, 0)[0].place;
        for attempts in 0..segments * 100 {
            log.attempt(place, attempts);
            let _ = log.flush();
        }
        while !log.spares.is_empty() {
            log.attempt(place, 1);
            let _ = log.flush();
        }
        let refused = append(&mut log, &message("s", 1, 300), &[to(a, 0)]);
        assert!(matches!(refused, Err(AppendError::DiskFull(_))), "{refused:?}: no spare is left");
        sim.set_capacity(None);
        append(&mut log, &message("s", 1, 300), &[to(a, 0)]).unwrap();
        assert!(!log.spares.is_empty());
    }
}

/// Names stand twice in what is written: where the room is just enough for one of each, they belong into the next segment.
#[test]
fn names_of_new_endpoints_never_take_the_room_of_the_footer() {
    const OPTIONS: Options = Options { segment_bytes: 64 << 10, max_bytes: 40 * (64 << 10), ..SMALL };
    for short_by in (0..12_000).step_by(400) {
        let sim = Sim::new();
        let (mut log, _) = sim.open(OPTIONS, &clocks(0));
        let a = log.endpoint("a");
        let wanted = 22_000 - short_by;
        let mut number = 0;
        loop {
            let room = log.active.as_ref().map_or(usize::MAX, |active| active.room());
            if room <= wanted {
                break;
            }
            append(&mut log, &message("s", number, (room - wanted).clamp(1, 5000)), &[to(a, 0)]).unwrap();
            number += 1;
        }
        let new: Vec<EndpointId> = (0..100).map(|n| log.endpoint(&format!("{n:0>100}"))).collect();
        append(&mut log, &message("s", number, 10), &[to(new[0], 0)]).unwrap();
        for more in 0..20 {
            append(&mut log, &message("t", more, 5000), &[to(new[99], 0)]).unwrap();
        }
        let sealed = log.segments.iter().all(|segment| !segment.suspect);
        assert!(sealed && log.usage().segments > 1, "{short_by}");
        let (mut killed, recovery) = sim.killed().open(OPTIONS, &clocks(1));
        assert_eq!(recovery.damage, [], "{short_by}");
        for log in [&mut log, &mut killed] {
            assert_eq!(numbers(log, a, 0), (0..number).collect::<Vec<_>>(), "{short_by}");
            assert_eq!((numbers(log, new[0], 0), numbers(log, new[99], 0).len()), (vec![number], 20), "{short_by}");
            assert_eq!(log.take_damage(), [], "{short_by}");
        }
    }
}

/// Each message of an endpoint that is gone is counted, also when the disk is full for a while in between.
#[test]
fn a_removal_that_breaks_off_has_counted_what_it_did() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(Options { dead_letter_bytes: 200 << 10, ..SMALL }, &clocks(0));
    let (a, b) = (log.endpoint("a"), log.endpoint("b"));
    for number in 0..300 {
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
    }
    let mut room = sim.bytes();
    sim.set_capacity(Some(room));
    // Whatever room there is, is taken.
    while append(&mut log, &message("s", 0, 300), &[to(b, 0)]).is_ok() {}
    let (mut removed, mut breaks) = (Removed::default(), 0);
    loop {
        let before = removed;
        match log.remove_endpoint(a, "endpoint_removed", UtcMillis(7), &mut removed) {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) => {
                breaks += u32::from(removed != before);
                room += SMALL.segment_bytes;
                sim.set_capacity(Some(room));
            }
        }
    }
    assert!(breaks > 0, "it never broke off amid its work");
    assert_eq!(removed.buried + removed.dropped, 300, "{removed:?}");
    assert_eq!(log.usage().settled(How::DeadLettered), removed.buried);
}

/// Each life begins a segment of its own, in the same boot and in another.
#[test]
fn a_full_log_takes_settlements_after_any_number_of_restarts_and_stays_within_its_cap() {
    for appends in [false, true] {
        let mut sim = Sim::new();
        let (mut log, _) = sim.open(SMALL, &clocks(0));
        let a = log.endpoint("a");
        let (mut count, _) = fill(&mut log, a, 0);
        let mut waiting: Vec<u64> = (0..count).collect();
        for life in 1..60 {
            sim = sim.killed();
            (log, _) = sim.open(SMALL, &Clocks { boot: [life as u8 / 2; 16], ..clocks(life) });
            let settled = if appends { 5 } else { 1 };
            settle_first(&mut log, a, settled);
            waiting.drain(..settled);
            if appends && append(&mut log, &message("s", count, 300), &[to(a, 0)]).is_ok() {
                waiting.push(count);
                count += 1;
            }
            log.flush().unwrap_or_else(|error| panic!("life {life}: {error}"));
            assert_eq!(numbers(&mut log, a, 0), waiting, "life {life}");
            assert!(sim.bytes() <= SMALL.max_bytes, "life {life}");
        }
        assert!(!appends || count > 300, "{count}");
    }
}
