//! A real process is killed amid its writes, again and again: what it said it had accepted is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::*;

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
        log.read(b, 10, None, 10_000, &mut batch).unwrap();
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
