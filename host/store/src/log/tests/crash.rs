//! A real process is killed amid its writes, again and again: what it said it had accepted is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::{
    sim::{Fault, Sim},
    *,
};

const FOLDER: &str = "MARRAM_TEST_LOG";
const OPTIONS: Options = Options { segment_bytes: 256 << 10, max_bytes: 64 << 20, dead_letter_bytes: 256 << 10 };

/// The life of a child: appends, reads and settles, and writes a receipt of each on its standard output.
#[test]
#[ignore = "a child of the test below"]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let (mut log, recovery) = Log::open(folder, OPTIONS, &clocks(0)).unwrap();
    // A kill may tear the write that it meets, which nobody was told of.
    assert_eq!(recovery.damage, []);
    let (a, b) = (log.endpoint("a"), log.endpoint("b"));
    let mut out = std::io::stdout();
    let mut number = log.next_sequence() * 1000;
    let mut chance = Chance(number | 1);
    let mut read_b = None;
    loop {
        let count = 1 + chance.below(40) as u64;
        let messages: Vec<Accepted> =
            (number..number + count).map(|number| message("s", number, number as usize % 900)).collect();
        let references = [to(a, 0), to(b, 10)];
        let entries: Vec<Entry<'_>> =
            messages.iter().map(|message| Entry { message, references: &references }).collect();
        log.append(&entries, Safety::Written).unwrap();
        writeln!(out, "accepted {number} {count}").unwrap();
        number += count;
        let mut batch = Vec::new();
        log.read(a, 0, None, 20_000, &mut batch).unwrap();
        for stored in &batch {
            log.settle(stored.place, How::Delivered);
            writeln!(out, "settled {}", stored.accepted.sequence).unwrap();
        }
        let mut batch = Vec::new();
        // All of them: a life is too short to pass those that stay piece by piece, and the log would fill up.
        log.read(b, 10, read_b, usize::MAX, &mut batch).unwrap();
        read_b = batch.last().map(|stored| stored.place.sequence).or(read_b);
        // Of the other endpoint's messages some stay for ever: copies are made of them.
        for stored in batch.iter().filter(|stored| stored.accepted.sequence % 50 != 0) {
            log.settle(stored.place, How::Dropped);
        }
    }
}

fn start(folder: &std::path::Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "log::tests::crash::child", "--ignored", "--nocapture"]).env(FOLDER, folder);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[derive(Default)]
struct Receipts {
    accepted: BTreeMap<u64, u64>,
    settled: BTreeSet<u64>,
}

impl Receipts {
    /// Reads what a child says until it is killed after so many lines.
    fn take(&mut self, mut child: Child, lines: usize) {
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = 0;
        for line in out.by_ref() {
            self.note(&line);
            seen += usize::from(line.starts_with("accepted") || line.starts_with("settled"));
            if seen >= lines {
                break;
            }
        }
        child.kill().unwrap();
        // What it had said before it died.
        out.for_each(|line| self.note(&line));
        child.wait().unwrap();
        assert!(seen >= lines, "the child ended by itself after {seen} lines");
    }

    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["accepted", first, count] => {
                if let (Ok(first), Ok(count)) = (first.parse(), count.parse()) {
                    self.accepted.insert(first, count);
                }
            }
            ["settled", number] => self.settled.extend(number.parse::<u64>()),
            _ => {}
        }
    }
}

#[allow(clippy::print_stdout)] // figures of a soak
fn rounds(count: usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut receipts = Receipts::default();
    let mut chance = Chance(std::process::id().into());
    let mut again = 0;
    for round in 0..count {
        receipts.take(start(folder.path()), 5 + chance.below(3000));
        let (mut log, recovery) = Log::open(folder.path(), OPTIONS, &clocks(0)).unwrap();
        assert_eq!(recovery.damage, [], "round {round}");
        let (a, b) = (log.endpoint("a"), log.endpoint("b"));
        let waiting: BTreeSet<u64> = numbers(&mut log, a, 0).into_iter().collect();
        for (first, count) in &receipts.accepted {
            for number in *first..first + count {
                assert!(
                    waiting.contains(&number) || receipts.settled.contains(&number),
                    "round {round}: {number} is lost"
                );
            }
        }
        again += waiting.intersection(&receipts.settled).count();
        let for_b: BTreeSet<u64> = numbers(&mut log, b, 10).into_iter().collect();
        let kept = receipts.accepted.iter().flat_map(|(first, count)| *first..first + count).filter(|n| n % 50 == 0);
        assert!(kept.into_iter().all(|number| for_b.contains(&number)), "round {round}");
    }
    let messages: u64 = receipts.accepted.values().sum();
    println!("{count} kills: {messages} messages accepted, none lost, {again} came again");
}

#[test]
fn what_was_accepted_survives_twenty_kills() {
    rounds(20);
}

#[test]
#[ignore = "minutes: for `cargo xtask soak`"]
fn what_was_accepted_survives_a_thousand_kills() {
    rounds(1000);
}

/// The disk takes back names and sectors that were not synced: a spare that was a segment a moment ago keeps that segment's bytes
/// until its new name is safe.
#[test]
fn a_spare_is_not_written_before_its_name_is_safe() {
    /// Segments come, go and are copied; ends with the first error.
    fn life(log: &mut Log) -> Result<(), AppendError> {
        let (a, b) = (log.endpoint("a"), log.endpoint("b"));
        for number in 0..150 {
            append(log, &message("s", number, 300), &[to(a, 0), to(b, 0)])?;
            let (for_a, for_b) = (all(log, a, 0), all(log, b, 0));
            for stored in for_a.iter().chain(for_b.iter().filter(|stored| stored.accepted.sequence % 40 != 0)) {
                log.settle(stored.place, How::Delivered);
            }
        }
        Ok(())
    }
    let whole = Sim::new();
    life(&mut whole.open(SMALL, &clocks(0)).0).unwrap();
    assert!(whole.operations() > 200);
    for at in 0..whole.operations() {
        let sim = Sim::new().failing(Fault::Dead { at });
        let _ = life(&mut sim.open(SMALL, &clocks(0)).0);
        for seed in 1..6 {
            let dark = sim.without_power(&mut Chance(seed * 7919 + at as u64));
            for (name, bytes) in dark.contents().iter().filter(|(name, _)| name.ends_with(".log")) {
                let header = super::super::format::Header::decode(&bytes[..64]);
                let generation = header.map(|header| format!("{:016x}.log", header.generation));
                assert_eq!(generation.as_ref(), Ok(name), "operation {at}, power {seed}");
            }
        }
    }
}

/// After a loss of power the sectors behind the end may hold whole records of lost writes: they stay lost.
#[test]
fn what_a_loss_of_power_left_does_not_come_to_light_when_the_next_one_tears_the_end_of_its_segment() {
    // So few that they are copied at once, and so many that they are not.
    for kept in [1, 12] {
        let sim = Sim::new();
        let (mut log, _) = sim.open(SMALL, &clocks(0));
        let a = log.endpoint("a");
        for number in 0..kept {
            append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
        }
        log.sync().unwrap();
        let (at, generation) = {
            let active = log.active.as_ref().unwrap();
            (active.segment.data_end as usize, active.segment.generation())
        };
        let before = sim.contents();
        append(&mut log, &message("s", kept, 300), &[to(a, 0)]).unwrap();
        let second = log.active.as_ref().unwrap().segment.data_end as usize;
        append(&mut log, &message("s", kept + 1, 300), &[to(a, 0)]).unwrap();
        // The power goes: the mark of the end is the old one, the second of these messages is there, the first one is not.
        let mut files = sim.contents();
        let name = file_name(generation);
        let old_end = before[&name][at..at + 6].to_vec();
        files.get_mut(&name).unwrap()[at..at + 6].copy_from_slice(&old_end);
        let dark = Sim::with(&files);
        let (mut log, _) = dark.open(SMALL, &Clocks { boot: [2; 16], ..clocks(1) });
        assert_eq!(numbers(&mut log, a, 0), (0..kept).collect::<Vec<_>>());
        append(&mut log, &message("s", kept + 2, 20), &[to(a, 0)]).unwrap();
        log.sync().unwrap();
        // And again, amid what was written behind the first ones: of that only the beginning is whole. The second message does not come back,
        // nor does the third one go.
        let mut files = dark.contents();
        if let Some(file) = files.get_mut(&name) {
            file[at + 6..second].fill(0xee); // unless it has been copied and is gone
        }
        let (mut log, _) = Sim::with(&files).open(SMALL, &Clocks { boot: [3; 16], ..clocks(2) });
        assert_eq!(numbers(&mut log, a, 0), (0..kept).chain([kept + 2]).collect::<Vec<_>>());
    }
}

/// A kill between the naming of a copy and the removal of its originals.
#[test]
fn originals_that_a_kill_left_beside_their_copy_are_not_delivered_again() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..60 {
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
    }
    for stored in all(&mut log, a, 0).iter().filter(|stored| stored.accepted.sequence % 9 != 4) {
        log.settle(stored.place, How::Delivered);
    }
    log.flush().unwrap();
    let waiting = numbers(&mut log, a, 0);
    let before = sim.contents();
    log.copy_together(0..2, true).unwrap();
    let mut files = sim.contents();
    let gone: Vec<&String> =
        before.keys().filter(|name| name.ends_with(".log") && !files.contains_key(*name)).collect();
    assert_eq!(gone.len(), 2);
    for name in gone {
        files.insert(name.clone(), before[name].clone());
    }
    let count = files.len();
    let left = Sim::with(&files);
    let (mut log, recovery) = left.open(SMALL, &clocks(1));
    assert_eq!((recovery.damage, recovery.references), (vec![], waiting.len() as u64));
    assert_eq!(numbers(&mut log, a, 0), waiting);
    assert!(left.contents().len() < count, "the originals are still there");
}

/// A copy is written into a file that is not renamed yet. The next start may give its number again, to a segment in the same file.
#[test]
fn what_a_kill_amid_a_copy_has_left_never_passes_for_records_of_the_next_segment() {
    let prepared = Sim::new();
    let (mut log, _) = prepared.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    for number in 0..60 {
        append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
    }
    for stored in all(&mut log, a, 0).iter().filter(|stored| stored.accepted.sequence % 3 != 1) {
        log.settle(stored.place, How::Delivered);
    }
    log.flush().unwrap();
    let mut rotated = 0;
    for at in 0..12 {
        let sim = prepared.killed();
        let (mut log, _) = sim.open(SMALL, &clocks(1));
        let sim = sim.failing(Fault::Dead { at });
        let _ = log.copy_together(0..2, true);
        let sim = sim.killed();
        let (mut log, _) = sim.open(SMALL, &clocks(2));
        for stored in all(&mut log, a, 0) {
            log.settle(stored.place, How::Delivered);
        }
        let before = log.active.as_ref().map(|active| active.segment.generation());
        let rotates = log.rotate().is_ok();
        rotated += usize::from(rotates);
        for number in 1000..1002 {
            append(&mut log, &message("t", number, 20), &[to(a, 0)]).unwrap();
        }
        // A write that breaks off: the mark of the end is not there any more.
        let active = log.active.as_ref().unwrap();
        assert!(!rotates || before != Some(active.segment.generation()));
        let (name, end) = (file_name(active.segment.generation()), active.segment.data_end as usize);
        let mut files = sim.contents();
        files.get_mut(&name).unwrap()[end..end + 6].fill(0xee);
        let (mut log, _) = Sim::with(&files).open(SMALL, &clocks(3));
        assert_eq!(numbers(&mut log, a, 0), [1000, 1001], "operation {at}");
    }
    assert!(rotated > 6, "{rotated}");
}

#[test]
fn no_two_starts_write_with_the_same_salt() {
    let sim = Sim::new();
    let salts: BTreeSet<u64> = (0..10)
        .map(|life| {
            let (mut log, _) = sim.open(SMALL, &clocks(life));
            let a = log.endpoint("a");
            append(&mut log, &message("s", life, 20), &[to(a, 0)]).unwrap();
            log.salt
        })
        .collect();
    assert_eq!(salts.len(), 10);
}
