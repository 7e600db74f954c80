//! Histories of several lives, by chance. Drawn are appends, settlements, attempts, dead letters, flushes, syncs and housekeeping; kills, losses
//! of power by sectors, and by kind a disk that fails at any operation, or a bit or a sector that is another one after a crash. At each
//! moment, what was accepted and not settled is read, and nothing else. After a crash nothing is lost of what it had to spare, nothing comes
//! again whose settlement it had to spare, and nothing that was gone comes to light.

mod acts;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    ops::Range,
};

use super::{sim::Sim, *};

/// Of the rounds of `cargo xtask test`: about a second.
const SEEDS: u64 = 30;
const QUEUES: [(&str, u8); 4] = [("a", 0), ("a", 10), ("b", 0), (DEAD_LETTERS, 0)];
const DEAD: usize = 3;
const SOURCES: [&str; 2] = ["sender/1", "sender/2"];
/// A log that is often full.
const FULL: Options = Options { max_bytes: 8 * SMALL.segment_bytes, ..SMALL };
const SECTOR: usize = 512;

/// What goes wrong beside kills and losses of power, and whether there are dead letters.
#[derive(Debug, Clone, Copy)]
struct Kind {
    letters: bool,
    disk_fails: bool,
    spoils: Option<Spoils>,
}

const PLAIN: Kind = Kind { letters: false, disk_fails: false, spoils: None };
const LETTERS: Kind = Kind { letters: true, ..PLAIN };
const FAILS: Kind = Kind { disk_fails: true, ..PLAIN };
const FAILS_WITH_LETTERS: Kind = Kind { disk_fails: true, ..LETTERS };
const FLIPS: Kind = Kind { spoils: Some(Spoils::Bit), ..PLAIN };
const FLIPS_WITH_LETTERS: Kind = Kind { spoils: Some(Spoils::Bit), ..LETTERS };
const ZEROS: Kind = Kind { spoils: Some(Spoils::Sector), ..PLAIN };

/// What is another one after a crash.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spoils {
    Bit,
    Sector,
}

#[derive(Debug, Clone, Copy)]
struct Crash {
    /// Not a kill alone.
    power: bool,
    /// So many messages, where something was spoilt.
    may_lose: usize,
}

/// How far a settlement has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Memory,
    /// It survives a kill.
    Kernel,
    /// And a loss of power.
    Medium,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Waiting,
    Settled(Reach),
    /// Its sender was told so. After a crash it may be found.
    Refused,
    Gone,
}

/// A queue, by its place in [`QUEUES`], and a message's own number.
type Item = (usize, u64);

struct History {
    seed: u64,
    kind: Kind,
    options: Options,
    chance: Chance,
    sim: Sim,
    log: Log,
    boot: u8,
    time: u64,
    /// The next message's.
    number: u64,
    status: BTreeMap<Item, Status>,
    /// Sequences, in this life.
    places: BTreeMap<Item, u64>,
    attempts: BTreeMap<Item, u32>,
    /// Messages that survive a loss of power.
    durable: BTreeSet<u64>,
    /// A disk has failed since the last loss of power.
    disk_failed: bool,
    /// Written in an earlier life whose disk failed: the kernel may call clean what is not on the medium, and no later sync tells.
    uncertain: BTreeSet<u64>,
    /// They came again; the settlement of then may come to light.
    settled_before: BTreeSet<Item>,
    /// Settled only when their letters are safe, which an append does not see to.
    buried: BTreeSet<Item>,
    /// Something was spoilt in some life.
    is_spoilt: bool,
    had_power_loss: bool,
    trace: Vec<String>,
}

impl Drop for History {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let trace = self.trace.join("\n");
            let _ = writeln!(std::io::stderr(), "{trace}\nseed {}, {:?}", self.seed, self.kind);
        }
    }
}

impl History {
    fn new(seed: u64, kind: Kind) -> Self {
        let (sim, options) = (Sim::new(), if seed.is_multiple_of(2) { SMALL } else { FULL });
        let (log, _) = sim.open(options, &clocks(0));
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            chance.next(); // the first ones of two small seeds are alike
        }
        Self {
            seed,
            kind,
            options,
            chance,
            sim,
            log,
            boot: 1,
            time: 0,
            number: 0,
            status: BTreeMap::new(),
            places: BTreeMap::new(),
            attempts: BTreeMap::new(),
            durable: BTreeSet::new(),
            disk_failed: false,
            uncertain: BTreeSet::new(),
            settled_before: BTreeSet::new(),
            buried: BTreeSet::new(),
            is_spoilt: false,
            had_power_loss: false,
            trace: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.chance.below(100) {
            0..40 => self.append(),
            40..52 => self.settle_first(),
            52..58 => self.settle_any(),
            58..63 => self.flush(),
            63..69 => self.sync(),
            69..73 => {
                self.log.tidy();
                self.say("tidy");
            }
            73..76 if self.kind.letters => self.bury(),
            76..79 => self.attempt(),
            79..86 if self.kind.disk_fails => self.break_disk(),
            86..90 if self.kind.disk_fails => self.mend_disk(),
            90..95 => self.kill(),
            95..98 => self.lose_power(),
            98..100 => self.spoil(),
            _ => {}
        }
    }

    fn say(&mut self, text: impl Into<String>) {
        self.trace.push(text.into());
    }

    fn waiting(&self, queue: usize) -> Vec<u64> {
        let all = self.status.range((queue, 0)..=(queue, u64::MAX));
        all.filter(|(_, status)| **status == Status::Waiting).map(|((_, number), _)| *number).collect()
    }

    fn all_waiting(&self) -> impl Iterator<Item = u64> {
        let all = self.status.iter().filter(|(_, status)| **status == Status::Waiting);
        all.map(|((_, number), _)| *number)
    }

    fn place(&mut self, item: Item) -> Place {
        let (name, priority) = QUEUES[item.0];
        Place { endpoint: self.log.endpoint(name), priority, sequence: self.places[&item] }
    }
}

/// What must hold.
impl History {
    fn read(&mut self) -> BTreeMap<Item, u64> {
        let mut read = BTreeMap::new();
        for (queue, (name, priority)) in QUEUES.iter().enumerate() {
            let endpoint = self.log.endpoint(name);
            let stored = all(&mut self.log, endpoint, *priority);
            assert!(stored.windows(2).all(|pair| pair[0].place.sequence < pair[1].place.sequence), "out of order");
            for stored in &stored {
                check(stored);
                let item = (queue, stored.accepted.sequence);
                let most = self.attempts.get(&item).copied().unwrap_or(0);
                assert!(stored.attempts <= most, "{item:?}: {} attempts, not {most}", stored.attempts);
                // A message of two queues may have two letters.
                assert!(read.insert(item, stored.place.sequence).is_none() || queue == DEAD, "{item:?} is there twice");
            }
        }
        read
    }

    fn invariant_all_that_waits_is_read_and_nothing_else(&mut self) {
        let read = self.read();
        for (item, status) in self.status.iter().filter(|(item, _)| item.0 != DEAD) {
            let is_there = read.contains_key(item);
            assert_eq!(is_there, *status == Status::Waiting, "{item:?} is {status:?}, is there: {is_there}");
        }
        for number in self.waiting(DEAD) {
            assert!(read.contains_key(&(DEAD, number)), "the letter of {number} is not there");
        }
        if !self.kind.disk_fails {
            assert_eq!(self.log.usage().disk_bytes, self.sim.bytes() - self.set_aside());
        }
    }

    /// Bytes of segments whose headers are unreadable: they are nobody's.
    fn set_aside(&self) -> u64 {
        let files = super::super::disk::SegmentFolder::list(&self.sim).unwrap();
        files.iter().filter(|(name, _)| name.ends_with(".damaged")).map(|(_, len)| *len).sum()
    }

    fn open_now(&mut self, crash: Crash) {
        self.time += 1;
        let (log, recovery) = self.sim.open(self.options, &self.clocks());
        self.say(format!("opened: {recovery:?}"));
        self.log = log;
        self.had_power_loss |= crash.power;
        self.invariant_no_end_is_missed_that_no_disk_has_lost(&recovery);
        let read = self.read();
        let is_told = !recovery.damage.is_empty() || !recovery.torn.is_empty() || !self.log.take_damage().is_empty();
        let mut lost = self.lost(&read, crash);
        if recovery.damage.iter().any(|damage| matches!(damage.loss, Loss::Name(_))) {
            // They stay under other names.
            let elsewhere = self.numbers_of_all_endpoints();
            lost.retain(|number| !elsewhere.contains(number));
        }
        assert!(
            lost.len() <= crash.may_lose && (lost.is_empty() || is_told),
            "{lost:?} are lost, told {is_told}, {crash:?}"
        );
        let unknown = read.keys().find(|item| item.0 != DEAD && !self.status.contains_key(item));
        assert_eq!(unknown, None, "it comes from nowhere");
        for (item, status) in self.status.clone() {
            let status = self.found(item, status, read.contains_key(&item), crash);
            self.status.insert(item, status);
        }
        for item in read.keys().filter(|item| item.0 == DEAD) {
            self.status.insert(*item, Status::Waiting);
        }
        self.places = read;
        self.buried.clear();
        if crash.power {
            self.disk_failed = false;
            self.uncertain.clear();
            let waiting: Vec<u64> = self.all_waiting().collect();
            self.durable.extend(waiting);
        }
    }

    /// Only a sync that failed, and a loss of power then, cost the end of a segment that has a successor.
    fn invariant_no_end_is_missed_that_no_disk_has_lost(&self, recovery: &Recovery) {
        let is_end = |damage: &Damage| damage.bytes == 0 && matches!(damage.loss, Loss::Messages(_));
        let may_be_lost = self.kind.spoils.is_some() || (self.kind.disk_fails && self.had_power_loss);
        assert!(may_be_lost || !recovery.damage.iter().any(is_end), "{recovery:?}");
    }

    fn numbers_of_all_endpoints(&mut self) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        for endpoint in self.log.endpoints() {
            for queue in endpoint.queues {
                found.extend(numbers(&mut self.log, endpoint.id, queue.priority));
            }
        }
        found
    }

    /// Messages that the crash had to spare and that are not there. Instead of a letter the message that it was made of may be.
    fn lost(&self, read: &BTreeMap<Item, u64>, crash: Crash) -> BTreeSet<u64> {
        let must_wait = |item: &Item| self.status.get(item) == Some(&Status::Waiting);
        let came_back = |number: u64| (0..DEAD).any(|q| read.contains_key(&(q, number)) && !must_wait(&(q, number)));
        let was_settled = |item: &Item| match item.0 {
            DEAD => (0..=DEAD).any(|queue| self.settled_before.contains(&(queue, item.1))),
            _ => self.settled_before.contains(item),
        };
        let had_to_spare = |number| !crash.power || self.durable.contains(&number);
        let gone = self.status.keys().filter(|item| must_wait(item) && !read.contains_key(item));
        let lost = gone.filter(|item| had_to_spare(item.1) && !was_settled(item));
        lost.filter(|item| item.0 != DEAD || !came_back(item.1)).map(|(_, number)| *number).collect()
    }

    /// What a message is in the next life.
    fn found(&mut self, item: Item, status: Status, is_there: bool, crash: Crash) -> Status {
        let spared = if crash.power { Reach::Medium } else { Reach::Kernel };
        match (status, is_there) {
            (Status::Settled(reach), true) => {
                let may = reach < spared || item.0 == DEAD || crash.may_lose > 0;
                assert!(may, "{item:?} comes again, its settlement is at {reach:?}, {crash:?}");
                self.settled_before.insert(item);
                Status::Waiting
            }
            (Status::Gone, true) => {
                assert_eq!(item.0, DEAD, "{item:?} comes to light, {crash:?}");
                Status::Waiting
            }
            (Status::Waiting | Status::Refused, true) => Status::Waiting,
            (Status::Settled(reach), false) if !crash.power => Status::Settled(reach.max(spared)),
            (Status::Refused, false) if !crash.power => Status::Refused,
            (_, false) => Status::Gone,
        }
    }
}

fn live(kind: Kind, seeds: Range<u64>) {
    for seed in seeds {
        let mut history = History::new(seed, kind);
        for _ in 0..20 + seed % 120 {
            history.step();
            history.invariant_all_that_waits_is_read_and_nothing_else();
        }
        history.kill();
        history.invariant_all_that_waits_is_read_and_nothing_else();
    }
}

#[test]
fn what_is_accepted_outlives_kills_and_losses_of_power() {
    live(PLAIN, 0..SEEDS);
}

#[test]
fn what_is_accepted_outlives_kills_and_losses_of_power_or_its_letter_does() {
    live(LETTERS, 0..SEEDS);
}

#[test]
fn what_is_accepted_outlives_a_disk_that_fails_again_and_again() {
    live(FAILS, 0..SEEDS);
}

#[test]
fn what_is_accepted_outlives_a_disk_that_fails_again_and_again_or_its_letter_does() {
    live(FAILS_WITH_LETTERS, 0..SEEDS);
}

#[test]
fn a_flipped_bit_costs_one_message_in_any_life() {
    live(FLIPS, 0..SEEDS);
}

#[test]
fn a_flipped_bit_costs_one_message_in_any_life_or_its_letter() {
    live(FLIPS_WITH_LETTERS, 0..SEEDS);
}

#[test]
fn a_lost_sector_costs_what_was_in_it_in_any_life() {
    live(ZEROS, 0..SEEDS);
}

/// `MARRAM_SOAK_ROUNDS` seeds of each kind, from `MARRAM_SOAK_FIRST_SEED` on.
#[test]
#[ignore = "minutes: for `cargo xtask soak lives`"]
fn what_is_accepted_outlives_lives_of_all_kinds_for_long() {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
    };
    let (first, rounds) = (number("MARRAM_SOAK_FIRST_SEED", SEEDS), number("MARRAM_SOAK_ROUNDS", 2500));
    for kind in [PLAIN, LETTERS, FAILS, FAILS_WITH_LETTERS, FLIPS, FLIPS_WITH_LETTERS, ZEROS] {
        live(kind, first..first + rounds);
    }
}
