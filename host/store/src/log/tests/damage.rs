//! Files are cut and bytes are changed: never wrong data, at most the damaged record lost, and that is told.

use std::collections::{BTreeMap, BTreeSet};

use super::{sim::Sim, *};

/// What a log is made of before it is damaged.
struct Kind {
    options: Options,
    /// The messages, but for four.
    count: u64,
    bytes: usize,
}

/// Small enough to try all its bytes.
const TINY: Kind =
    Kind { options: Options { segment_bytes: 4 << 10, max_bytes: 40 << 12, ..SMALL }, count: 72, bytes: 150 };
/// With segments of the largest size.
const LARGE: Kind =
    Kind { options: Options { segment_bytes: 1 << 20, max_bytes: 40 << 20, ..SMALL }, count: 2880, bytes: 1500 };

impl Kind {
    /// A log over several segments, one of them a copy, with settlements in it. Returns the files and the numbers that wait.
    fn files(&self) -> (BTreeMap<String, Vec<u8>>, BTreeSet<u64>, EndpointId) {
        let sim = Sim::new();
        let (mut log, _) = sim.open(self.options, &clocks(0));
        let a = log.endpoint("a");
        for number in 0..self.count {
            append(&mut log, &message(["s1", "s2"][number as usize % 2], number, self.bytes), &[to(a, 0)]).unwrap();
        }
        let early = all(&mut log, a, 0).into_iter().take(self.count as usize * 50 / 72);
        for stored in early.filter(|stored| stored.accepted.sequence % 6 != 1) {
            log.settle(stored.place, How::Delivered);
        }
        while log.tidy() {}
        for number in self.count..self.count + 4 {
            append(&mut log, &message("s1", number, self.bytes), &[to(a, 0)]).unwrap();
        }
        log.flush().unwrap();
        let waiting: BTreeSet<u64> = numbers(&mut log, a, 0).into_iter().collect();
        let files = sim.contents();
        assert!(files.keys().filter(|name| name.ends_with(".log")).count() >= 3, "{:?}", files.keys());
        (files, waiting, a)
    }

    /// Opens damaged files and reads them. Checks that nothing is wrong; returns the lost numbers, and whether anything was told.
    fn lost(
        &self,
        files: &BTreeMap<String, Vec<u8>>,
        waiting: &BTreeSet<u64>,
        a: EndpointId,
        case: &str,
    ) -> (Vec<u64>, bool) {
        let (mut log, recovery) = Sim::with(files).open(self.options, &clocks(1));
        let mut read = Vec::new();
        for endpoint in log.endpoints() {
            read.extend(numbers(&mut log, endpoint.id, 0));
        }
        assert!(log.endpoint("a") == a || !recovery.damage.is_empty(), "{case}: the name is lost");
        let found: BTreeSet<u64> = read.iter().copied().collect();
        assert_eq!(found.len(), read.len(), "{case}: read twice");
        assert!(found.iter().all(|number| *number < self.count + 4), "{case}");
        let told = !recovery.damage.is_empty() || !recovery.torn.is_empty() || !log.take_damage().is_empty();
        // It goes on.
        let a = log.endpoint("a");
        append(&mut log, &message("s1", self.count + 5, 10), &[to(a, 0)]).unwrap();
        assert_eq!(numbers(&mut log, a, 0).last(), Some(&(self.count + 5)), "{case}");
        (waiting.difference(&found).copied().collect(), told)
    }
}

fn files() -> (BTreeMap<String, Vec<u8>>, BTreeSet<u64>, EndpointId) {
    TINY.files()
}

fn options() -> Options {
    TINY.options
}

fn lost(files: &BTreeMap<String, Vec<u8>>, waiting: &BTreeSet<u64>, a: EndpointId, case: &str) -> (Vec<u64>, bool) {
    TINY.lost(files, waiting, a, case)
}

#[test]
fn every_flipped_byte_costs_at_most_one_message_and_is_told() {
    let (files, waiting, a) = files();
    for (name, bytes) in &files {
        for at in 0..bytes.len() {
            let mut bad = files.clone();
            bad.get_mut(name).unwrap()[at] ^= 0x10;
            let case = format!("byte {at} of {name}");
            let (lost, told) = lost(&bad, &waiting, a, &case);
            assert!(lost.len() <= 1, "{case}: {lost:?}");
            assert!(lost.is_empty() || told, "{case}: {lost:?} lost silently");
        }
    }
}

#[test]
fn what_a_flipped_byte_costs_is_told_as_well_when_the_segment_is_copied_before_anybody_reads_it() {
    let (files, waiting, a) = files();
    let (mut lost_some, mut lost_ends) = (0, 0);
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".log")) {
        for at in 64..bytes.len() {
            let mut bad = files.clone();
            bad.get_mut(name).unwrap()[at] ^= 0x10;
            let (mut log, recovery) = Sim::with(&bad).open(options(), &clocks(1));
            let generation = u64::from_str_radix(&name[..16], 16).unwrap();
            let Some(place) = log.segments.iter().position(|segment| segment.generation() == generation) else {
                continue;
            };
            let is_last = |sequence: u64| log.segments[place].last == sequence;
            let ends = waiting.iter().copied().find(|sequence| is_last(*sequence));
            log.copy_together(place..place + 1, true).unwrap();
            let found: BTreeSet<u64> = numbers(&mut log, a, 0).into_iter().collect();
            let lost: Vec<u64> = waiting.difference(&found).copied().collect();
            let told: u64 = recovery.damage.into_iter().chain(log.take_damage()).map(|damage| count(&damage)).sum();
            assert!(told >= lost.len() as u64, "byte {at} of {name}: {lost:?} lost, {told} told");
            lost_some += usize::from(!lost.is_empty());
            lost_ends += usize::from(ends.is_some_and(|end| lost == [end]));
        }
    }
    assert!(lost_some > 100 && lost_ends > 10, "{lost_some}, {lost_ends}");
}

fn count(damage: &Damage) -> u64 {
    match damage.loss {
        Loss::Messages(count) | Loss::Segment(Some(count)) => count,
        _ => 0,
    }
}

#[test]
fn a_file_with_a_foreign_name_changes_nothing() {
    let (mut files, waiting, a) = files();
    let foreign = ["ffffffffffffffff.x", "fffffffffffffffe.log", "8000000000000000.spare", "00000000000000ff.x"];
    files.extend(foreign.map(|name| (name.to_owned(), Vec::new())));
    let sim = Sim::with(&files);
    let mut now: Vec<u64> = waiting.into_iter().collect();
    for life in 0..3 {
        let (mut log, recovery) = sim.open(options(), &clocks(life));
        assert_eq!(recovery.damage, []);
        for number in 100 + 20 * life..120 + 20 * life {
            append(&mut log, &message("s1", number, 150), &[to(a, 0)]).unwrap();
            now.push(number);
        }
        assert_eq!(numbers(&mut log, a, 0), now);
    }
    assert!(foreign.iter().all(|name| sim.contents().contains_key(*name)), "they are not ours to remove");
}

#[test]
#[ignore = "minutes: for `cargo xtask soak flipped`"]
fn flipped_bytes_in_segments_of_the_largest_size_cost_at_most_one_message_for_long() {
    let rounds =
        std::env::var("MARRAM_SOAK_ROUNDS").map_or(1000, |text| text.parse().expect("MARRAM_SOAK_ROUNDS is a number"));
    let (files, waiting, a) = LARGE.files();
    let places: Vec<(&String, usize)> = files.iter().map(|(name, bytes)| (name, bytes.len())).collect();
    for seed in 1..=rounds {
        let mut chance = Chance(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15) | 1);
        // Each byte is as likely, whichever file it is in.
        let mut at = chance.below(places.iter().map(|(_, len)| len).sum());
        let within = |(_, len): &&(&String, usize)| {
            let is_here = at < *len;
            at -= if is_here { 0 } else { *len };
            is_here
        };
        let (name, _) = places.iter().find(within).unwrap();
        let mask = 1 + chance.below(255) as u8;
        let mut bad = files.clone();
        bad.get_mut(*name).unwrap()[at] ^= mask;
        let case = format!("byte {at} of {name}, mask {mask:#04x}");
        let (lost, told) = LARGE.lost(&bad, &waiting, a, &case);
        assert!(lost.len() <= 1, "{case}: {lost:?}");
        assert!(lost.is_empty() || told, "{case}: {lost:?} lost silently");
    }
}

#[test]
fn every_cut_costs_only_what_was_behind_it() {
    let (files, waiting, a) = files();
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".log")) {
        for end in 0..bytes.len() {
            let mut bad = files.clone();
            bad.get_mut(name).unwrap().truncate(end);
            let case = format!("{name} cut at {end}");
            let (lost, told) = lost(&bad, &waiting, a, &case);
            assert!(lost.is_empty() || told, "{case}: {lost:?} lost silently");
            // Of one file at most, and the more of it is there, the less is lost.
            assert!(lost.len() <= 20, "{case}: {lost:?}");
        }
    }
}

/// As a write that did not reach the disk whole: the rest of the file is what it was before, zeros.
#[test]
fn every_torn_end_of_the_last_segment_costs_only_what_was_behind_it() {
    let (files, waiting, a) = files();
    let (name, bytes) = files.iter().rfind(|(name, _)| name.ends_with(".log")).unwrap();
    let mut before = usize::MAX;
    for end in 0..bytes.len() - 80 {
        let mut bad = files.clone();
        bad.get_mut(name).unwrap()[end..bytes.len() - 80].fill(0);
        let (lost, told) = lost(&bad, &waiting, a, &format!("zeros from {end}"));
        assert!(lost.is_empty() || told);
        assert!(end < 64 || lost.len() <= before, "zeros from {end}: {lost:?}");
        before = lost.len().max(usize::from(end < 64) * 100);
    }
    assert_eq!(before, 0);
}

#[test]
fn a_missing_segment_is_told_with_what_was_in_it() {
    let (files, waiting, a) = files();
    let names: Vec<&String> = files.keys().filter(|name| name.ends_with(".log")).collect();
    for name in names {
        if files[name].ends_with(&[0_u8; 16][..]) {
            continue; // the one that was written last: nothing tells of it
        }
        let mut bad = files.clone();
        bad.remove(name);
        let (mut log, recovery) = Sim::with(&bad).open(options(), &clocks(1));
        let found: BTreeSet<u64> = numbers(&mut log, a, 0).into_iter().collect();
        let lost = waiting.difference(&found).count() as u64;
        let told: Vec<Loss> = recovery.damage.iter().map(|damage| damage.loss).collect();
        assert!(
            told.iter().any(|loss| matches!(loss, Loss::Segment(Some(live)) if *live >= lost)),
            "{name}: {lost} {told:?}"
        );
    }
}

#[test]
fn a_newer_version_is_refused_and_told_what_to_try() {
    let (mut files, _, _) = files();
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name.ends_with(".log")) {
        bytes[10] = 2;
        let crc = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    let sim = Sim::with(&files);
    let error = Log::open_on(Path::new("/log"), Arc::new(sim.clone()), options(), &clocks(1)).err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, OpenError::Newer { version: 2, .. }), "{text}");
    assert!(text.contains("/log/") && text.contains("version 2") && text.contains("run the newer host"), "{text}");
    assert_eq!(sim.contents(), files, "nothing is touched");
}

/// A body that holds a whole record of this very log, at a place where a search would find it.
#[test]
fn bytes_in_a_body_never_pass_for_a_record() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(SMALL, &clocks(0));
    let a = log.endpoint("a");
    append(&mut log, &message("s", 1, 100), &[to(a, 0)]).unwrap();
    let before = sim.contents();
    let (name, bytes) = before.iter().find(|(name, _)| name.ends_with(".log")).unwrap();
    let header = super::super::format::Header::decode(&bytes[..64]).unwrap();
    // Without the salt, which modules do not know; with another one.
    let forger = super::super::format::Frame::new(header.salt ^ 1, header.generation);
    let mut forged = Vec::new();
    for at in 0..4000_u64 {
        let mut record = Vec::new();
        forger.push(&mut record, at, super::super::format::Kind::Message, |out| out.extend_from_slice(b"forged"));
        if at % 16 == 0 {
            forged.extend_from_slice(&record);
        }
    }
    let mut carrier = message("s", 2, 0);
    Arc::make_mut(&mut carrier.message).body = Bytes::from(forged[..3000].to_vec());
    append(&mut log, &carrier, &[to(a, 0)]).unwrap();
    append(&mut log, &message("s", 3, 100), &[to(a, 0)]).unwrap();
    let mut files = sim.contents();
    let damaged = files.get_mut(name).unwrap();
    let at = damaged.windows(6).position(|window| window == b"forged").unwrap();
    damaged[at - 60] ^= 1;
    for head in 0..10 {
        let mut files = files.clone();
        files.get_mut(name).unwrap()[at - 60 + head] ^= 0xff;
        let (mut log, _) = Sim::with(&files).open(SMALL, &clocks(1));
        let stored = all(&mut log, a, 0);
        assert!(stored.iter().all(|stored| [1, 2, 3].contains(&stored.accepted.sequence)));
        assert!(stored.iter().any(|stored| stored.accepted.sequence == 3));
    }
}

/// The only checkpoint: no earlier segment tells the names.
#[test]
fn no_flipped_byte_of_the_only_segment_costs_a_name() {
    let sim = Sim::new();
    let (mut log, _) = sim.open(options(), &clocks(0));
    let a = log.endpoint("a");
    let mut number = 0;
    while log.usage().segments != 1 || number < 40 {
        append(&mut log, &message("s1", number, 150), &[to(a, 0)]).unwrap();
        let stored = all(&mut log, a, 0);
        for stored in &stored[..stored.len().saturating_sub(3)] {
            log.settle(stored.place, How::Delivered);
        }
        number += 1;
    }
    log.flush().unwrap();
    let files = sim.contents();
    let (name, bytes) = files.iter().find(|(name, _)| name.ends_with(".log")).unwrap();
    for at in 0..bytes.len() {
        let mut bad = files.clone();
        bad.get_mut(name).unwrap()[at] ^= 1;
        let (mut log, _) = Sim::with(&bad).open(options(), &clocks(1));
        assert_eq!(log.endpoint("a"), a, "byte {at}");
        assert!(numbers(&mut log, a, 0).len() >= 2, "byte {at}");
    }
}

/// Whoever counts what waits in the log hears of what does not wait any more.
#[test]
fn what_is_lost_is_told_to_who_counts_what_waits() {
    for copies in [false, true] {
        let sim = Sim::new();
        let (mut log, _) = sim.open(SMALL, &clocks(0));
        let a = log.endpoint("a");
        for number in 0..60 {
            append(&mut log, &message("s", number, 300), &[to(a, 0)]).unwrap();
        }
        let name = file_name(log.segments[1].generation());
        let mut files = sim.contents();
        for number in log.segments[1].first..log.segments[1].first + 3 {
            let body = body(number, 300);
            let file = files.get_mut(&name).unwrap();
            let at = file.windows(32).position(|window| window == &body[..32]).unwrap();
            file[at] ^= 1;
        }
        let (mut log, _) = Sim::with(&files).open(SMALL, &clocks(1));
        if copies {
            log.copy_together(1..2, true).unwrap();
        }
        let waits = log.usage_of(a)[0].messages;
        assert_eq!(waits, if copies { 57 } else { 60 });
        assert_eq!((numbers(&mut log, a, 0).len(), log.take_lost(a, 0), log.take_lost(a, 0)), (57, 3, 0));
        assert_eq!(log.usage_of(a)[0].messages, 57);
    }
}
