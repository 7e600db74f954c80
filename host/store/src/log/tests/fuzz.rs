//! Attacks on recovery: the body is a plain function over bytes; the inputs are changes of real files with fixed seeds, so
//! that a failure comes again. Another fuzzer needs nothing but to call the same function.

use std::collections::BTreeMap;

use super::{sim::Sim, *};

const OPTIONS: Options = Options { segment_bytes: 4 << 10, max_bytes: 64 << 12, dead_letter_bytes: 4 << 10 };

/// Whatever the files are: no panic, the log opens or says why not, what it reads it has written, it goes on, and it opens
/// again.
fn attack(files: &BTreeMap<String, Vec<u8>>) {
    let sim = Sim::with(files);
    let Ok((mut log, _)) = Log::open_on(Path::new("/log"), Arc::new(sim.clone()), OPTIONS, &clocks(1)) else { return };
    read_all(&mut log);
    let a = log.endpoint("a");
    if append(&mut log, &message("s", 500, 100), &[to(a, 0)]).is_ok() {
        assert_eq!(numbers(&mut log, a, 0).last(), Some(&500));
    }
    for endpoint in log.endpoints() {
        for queue in endpoint.queues {
            let letters = Letters { reason: "ttl_expiry", at: UtcMillis(0) };
            log.expire(endpoint.id, queue.priority, Some(3), Elapsed(1_000_000), Some(letters));
            log.expire(endpoint.id, queue.priority, None, Elapsed(1_000_000), None);
        }
    }
    while log.tidy() {}
    log.flush().unwrap();
    let (mut log, _) = sim.killed().open(OPTIONS, &clocks(2));
    read_all(&mut log);
}

fn read_all(log: &mut Log) {
    for endpoint in log.endpoints() {
        for queue in endpoint.queues {
            let read = numbers(log, endpoint.id, queue.priority);
            assert!(read.len() as u64 <= queue.messages);
            assert!(read.iter().all(|number| *number < 100 || *number == 500));
        }
    }
}

fn files() -> BTreeMap<String, Vec<u8>> {
    let sim = Sim::new();
    let (mut log, _) = sim.open(OPTIONS, &clocks(0));
    let (a, b) = (log.endpoint("a"), log.endpoint("b"));
    for number in 0..80 {
        append(&mut log, &message("s", number, 150), &[to(a, 0), to(b, number as u8 % 3)]).unwrap();
        if number % 4 != 0 {
            let stored = all(&mut log, a, 0);
            log.settle(stored[stored.len() / 2].place, How::Delivered);
            log.attempt(stored[0].place, number as u32);
        }
    }
    while log.tidy() {}
    log.flush().unwrap();
    sim.contents()
}

fn change(files: &mut BTreeMap<String, Vec<u8>>, chance: &mut Chance) {
    let names: Vec<String> = files.keys().cloned().collect();
    let name = &names[chance.below(names.len())];
    let other = files[&names[chance.below(names.len())]].clone();
    let Some(bytes) = files.get_mut(name) else { return };
    let at = chance.below(bytes.len());
    let len = chance.below(bytes.len() - at).min(1 << chance.below(12));
    match chance.below(7) {
        0 => bytes[at] = chance.next() as u8,
        1 => bytes[at..at + len].fill(0),
        2 => bytes[at..at + len].iter_mut().for_each(|byte| *byte = chance.next() as u8),
        3 => bytes.truncate(at),
        4 => drop(bytes.splice(at..at + len, other.iter().copied().skip(at).take(len))),
        5 => *bytes = other,
        _ => drop(files.remove(name)),
    }
}

fn attacks(count: u64) {
    let files = files();
    attack(&files);
    for seed in 1..=count {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut changed = files.clone();
        for _ in 0..=chance.below(4) {
            change(&mut changed, &mut chance);
        }
        attack(&changed);
    }
}

#[test]
fn no_files_break_recovery() {
    attacks(300);
}

#[test]
#[ignore = "minutes: for `cargo xtask soak`"]
fn no_files_break_recovery_for_long() {
    attacks(100_000);
}
