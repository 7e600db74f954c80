//! The log against a simple model, by chance: append, read, settle, housekeeping, kill, loss of power.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{super::format::Origin, sim::Sim, *};

const ENDPOINTS: [&str; 3] = ["a", "b", "$upstream"];
const PRIORITIES: [u8; 2] = [0, 10];

#[derive(Debug, Clone)]
enum Op {
    /// So many messages of this length; who gets them, by bits; synced or not.
    Append {
        count: u8,
        len: u16,
        who: u8,
        synced: bool,
    },
    /// Settles so many of a queue from its beginning.
    SettleFirst {
        queue: u8,
        count: u8,
    },
    /// Settles any message of a queue.
    SettleAny {
        queue: u8,
        pick: proptest::sample::Index,
    },
    Attempt {
        queue: u8,
    },
    Flush,
    Sync,
    Tidy,
    Bury {
        queue: u8,
    },
    /// Gives up what has expired behind one of a queue, at a moment of the past in 255ths.
    Expire {
        queue: u8,
        pick: Option<proptest::sample::Index>,
        now: u8,
        letters: bool,
    },
    Kill,
    PowerLoss(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (1u8..12, 0u16..900, 1u8..64, any::<bool>())
            .prop_map(|(count, len, who, synced)| Op::Append { count, len, who, synced }),
        4 => (0u8..6, 1u8..20).prop_map(|(queue, count)| Op::SettleFirst { queue, count }),
        3 => (0u8..6, any::<proptest::sample::Index>()).prop_map(|(queue, pick)| Op::SettleAny { queue, pick }),
        1 => (0u8..6).prop_map(|queue| Op::Attempt { queue }),
        1 => Just(Op::Flush),
        1 => Just(Op::Sync),
        1 => Just(Op::Tidy),
        1 => (0u8..6).prop_map(|queue| Op::Bury { queue }),
        2 => (0u8..6, any::<Option<proptest::sample::Index>>(), prop_oneof![any::<u8>(), Just(255)], any::<bool>())
            .prop_map(|(queue, pick, now, letters)| Op::Expire { queue, pick, now, letters }),
        1 => Just(Op::Kill),
        1 => any::<u64>().prop_map(Op::PowerLoss),
    ];
    proptest::collection::vec(op, 1..80)
}

/// Sequence → the message's own number.
type Queue = BTreeMap<u64, u64>;

#[derive(Default)]
struct Model {
    queues: BTreeMap<(usize, u8), Queue>,
    /// Accepted since the last sync: may be lost with the power.
    unsynced: BTreeSet<u64>,
    /// Settled since: may come again.
    unflushed: BTreeMap<(usize, u8), Queue>,
    unsynced_settled: BTreeMap<(usize, u8), Queue>,
    /// Became dead letters: written as settled only once these are safe.
    buried: BTreeMap<(usize, u8), Queue>,
    /// Of those that were safe.
    letters: BTreeMap<(usize, u8), Queue>,
    /// Dead letters may have been dropped for want of room.
    dropped: bool,
    attempts: BTreeMap<((usize, u8), u64), u32>,
    number: u64,
    /// Of a message's number; for all endpoints but `b`, where nothing expires.
    deadlines: BTreeMap<u64, u64>,
}

struct Run {
    sim: Sim,
    log: Log,
    model: Model,
    /// A loss of power has torn what was being written: tells it until it is copied.
    torn: bool,
    boot: u8,
}

fn queue_of(number: u8) -> (usize, u8) {
    (usize::from(number % 3), PRIORITIES[usize::from(number / 3) % 2])
}

impl Run {
    fn new() -> Self {
        let sim = Sim::new();
        let (log, _) = sim.open(SMALL, &clocks(0));
        Self { sim, log, model: Model::default(), torn: false, boot: 1 }
    }

    fn id(&mut self, queue: (usize, u8)) -> EndpointId {
        self.log.endpoint(ENDPOINTS[queue.0])
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Append { count, len, who, synced } => self.append(*count, usize::from(*len), *who, *synced),
            Op::SettleFirst { queue, count } => {
                let queue = queue_of(*queue);
                let first = self.model.queues.entry(queue).or_default().keys().take(usize::from(*count));
                for sequence in first.copied().collect::<Vec<_>>() {
                    self.settle(queue, sequence);
                }
            }
            Op::SettleAny { queue, pick } => {
                let queue = queue_of(*queue);
                let waiting: Vec<u64> = self.model.queues.entry(queue).or_default().keys().copied().collect();
                if !waiting.is_empty() {
                    self.settle(queue, *pick.get(&waiting));
                }
            }
            Op::Attempt { queue } => {
                let queue = queue_of(*queue);
                let endpoint = self.id(queue);
                if let Some(sequence) = self.model.queues.entry(queue).or_default().keys().next().copied() {
                    let attempts = self.model.attempts.entry((queue, sequence)).or_default();
                    *attempts += 1;
                    self.log.attempt(Place { endpoint, priority: queue.1, sequence }, *attempts);
                    self.log.flush().unwrap();
                    self.flushed();
                }
            }
            Op::Flush => {
                self.log.flush().unwrap();
                self.flushed();
            }
            Op::Sync => {
                self.log.sync().unwrap();
                self.synced();
            }
            Op::Tidy => {
                self.log.tidy();
            }
            Op::Bury { queue } => {
                let queue = queue_of(*queue);
                let endpoint = self.id(queue);
                if let Some(sequence) = self.model.queues.entry(queue).or_default().keys().next().copied() {
                    let place = Place { endpoint, priority: queue.1, sequence };
                    self.log.bury(place, "no use", UtcMillis(7)).unwrap();
                    if !self.model.unsynced.contains(&sequence) {
                        let number = self.model.queues[&queue][&sequence];
                        self.model.letters.entry(queue).or_default().insert(sequence, number);
                    }
                    self.buried(queue, sequence);
                }
            }
            Op::Expire { queue, pick, now, letters } => {
                let queue = queue_of(*queue);
                let waiting: Vec<u64> = self.model.queues.entry(queue).or_default().keys().copied().collect();
                let behind = pick.filter(|_| !waiting.is_empty()).map(|pick| *pick.get(&waiting));
                self.expire(queue, behind, self.model.number * u64::from(*now) / 255, *letters);
            }
            Op::Kill => self.reopen(self.sim.killed(), false),
            Op::PowerLoss(seed) => self.reopen(self.sim.without_power(&mut Chance(seed | 1)), true),
        }
    }

    fn flushed(&mut self) {
        self.model.unflushed.clear();
        self.model.buried.clear();
    }

    fn buried(&mut self, queue: (usize, u8), sequence: u64) {
        let number = self.model.queues[&queue][&sequence];
        self.model.buried.entry(queue).or_default().insert(sequence, number);
        self.settled(queue, sequence);
    }

    fn synced(&mut self) {
        self.model.unsynced.clear();
        self.flushed();
        self.model.unsynced_settled.clear();
    }

    fn append(&mut self, count: u8, len: usize, who: u8, synced: bool) {
        let queues: Vec<(usize, u8)> = (0..3)
            .filter(|endpoint| who >> endpoint & 1 == 1)
            .map(|endpoint| (endpoint, PRIORITIES[usize::from(who >> (3 + endpoint) & 1)]))
            .collect();
        if queues.is_empty() {
            return;
        }
        let deadline = self.model.number;
        let reference = |queue: &(usize, u8)| Reference {
            deadline: (queue.0 != 1).then_some(Elapsed(deadline)),
            ..to(self.log.endpoint(ENDPOINTS[queue.0]), queue.1)
        };
        let references: Vec<Reference> = queues.iter().map(reference).collect();
        let numbers: Vec<u64> = (0..u64::from(count)).map(|n| self.model.number + n).collect();
        self.model.deadlines.extend(numbers.iter().map(|number| (*number, deadline)));
        self.model.number += u64::from(count);
        let messages: Vec<Accepted> = numbers
            .iter()
            .map(|number| message(["s1", "s2", "/messages/x"][*number as usize % 3], *number, len))
            .collect();
        let entries: Vec<Entry<'_>> =
            messages.iter().map(|message| Entry { message, references: &references }).collect();
        let safety = if synced { Safety::Synced } else { Safety::Written };
        match self.log.append(&entries, safety) {
            Ok(range) => {
                for (sequence, number) in range.zip(numbers) {
                    for queue in &queues {
                        self.model.queues.entry(*queue).or_default().insert(sequence, number);
                    }
                    self.model.unsynced.insert(sequence);
                }
                self.model.unflushed.clear();
                if synced {
                    self.synced();
                }
            }
            Err(AppendError::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn settle(&mut self, queue: (usize, u8), sequence: u64) {
        let place = Place { endpoint: self.id(queue), priority: queue.1, sequence };
        assert!(self.log.settle(place, How::Delivered));
        assert!(!self.log.settle(place, How::Delivered), "settled twice");
        self.settled(queue, sequence);
    }

    fn expire(&mut self, queue: (usize, u8), behind: Option<u64>, now: u64, letters: bool) {
        let endpoint = self.id(queue);
        let letters = letters.then_some(Letters { reason: "ttl_expiry", at: UtcMillis(7) });
        let expired = self.log.expire(endpoint, queue.1, behind, Elapsed(now), letters);
        let left = self.read()[&queue].clone();
        let waiting = self.model.queues.entry(queue).or_default();
        let gone: Queue = waiting.iter().filter(|(s, _)| !left.contains_key(s)).map(|(s, n)| (*s, *n)).collect();
        for (sequence, number) in gone {
            assert!(queue.0 != 1 && self.model.deadlines[&number] <= now, "{queue:?}: {number} lives");
            assert!(behind.is_none_or(|behind| sequence > behind), "{queue:?}: {sequence} is not behind {behind:?}");
            self.buried(queue, sequence);
        }
        let is_behind = |sequence: &&u64| behind.is_none_or(|behind| **sequence > behind);
        match expired {
            Some(expired) => {
                assert_eq!(expired.left_messages, left.keys().filter(is_behind).count() as u64);
                assert!(expired.messages > 0);
            }
            None => assert_eq!(&left, self.model.queues.entry(queue).or_default()),
        }
        if queue.0 != 1 && now == self.model.number && letters.is_none() {
            assert_eq!(left.keys().filter(is_behind).count(), 0, "{queue:?}: all have expired");
        }
    }

    fn settled(&mut self, queue: (usize, u8), sequence: u64) {
        let number = self.model.queues.get_mut(&queue).unwrap().remove(&sequence).unwrap();
        self.model.attempts.remove(&(queue, sequence));
        self.model.unflushed.entry(queue).or_default().insert(sequence, number);
        self.model.unsynced_settled.entry(queue).or_default().insert(sequence, number);
    }

    /// What is read now, of all queues.
    fn read(&mut self) -> BTreeMap<(usize, u8), Queue> {
        let mut read = BTreeMap::new();
        for queue in (0..6).map(queue_of) {
            let endpoint = self.id(queue);
            let stored = all(&mut self.log, endpoint, queue.1);
            assert!(stored.windows(2).all(|pair| pair[0].place.sequence < pair[1].place.sequence), "out of order");
            stored.iter().for_each(check);
            for stored in &stored {
                let attempts = self.model.attempts.get(&(queue, stored.place.sequence)).copied().unwrap_or(0);
                assert!(stored.attempts == attempts || attempts == 0, "attempts of {:?}", stored.place);
            }
            read.insert(queue, stored.iter().map(|s| (s.place.sequence, s.accepted.sequence)).collect());
        }
        let damage = self.log.take_damage();
        assert!(self.torn || damage.is_empty(), "{damage:?}");
        read
    }

    fn invariant_all_that_waits_is_read_and_nothing_else(&mut self) {
        for (queue, read) in self.read() {
            assert_eq!(&read, self.model.queues.entry(queue).or_default(), "{queue:?}");
            let usage = self.log.endpoints().into_iter().find(|e| &*e.name == ENDPOINTS[queue.0]);
            let len = usage.and_then(|u| u.queues.iter().find(|q| q.priority == queue.1).map(|q| q.messages));
            assert_eq!(len.unwrap_or(0), read.len() as u64, "{queue:?}");
        }
        assert!(self.log.usage().disk_bytes <= SMALL.max_bytes);
        assert_eq!(self.log.usage().disk_bytes, self.sim.bytes());
        assert!(self.sim.hollow_spares().is_empty());
        if let Some(Active { segment, .. }) = &self.log.active {
            assert_eq!(segment.footer_bound(), segment.footer_sum());
        }
    }

    fn reopen(&mut self, sim: Sim, power: bool) {
        self.model.dropped |= self.log.usage().settled(How::Dropped) > 0;
        self.sim = sim;
        self.boot += u8::from(power);
        let now = Clocks { boot: [self.boot; 16], ..clocks(self.model.number) };
        let (log, recovery) = self.sim.open(SMALL, &now);
        self.torn |= power;
        assert!(self.torn || (recovery.torn.is_empty() && recovery.damage.is_empty()), "{recovery:?}");
        self.log = log;
        if power {
            self.model.attempts.clear();
        }
        let read = self.read();
        for (queue, read) in &read {
            let waiting = self.model.queues.entry(*queue).or_default();
            for (sequence, number) in waiting.iter() {
                let may_be_lost = power && self.model.unsynced.contains(sequence);
                assert!(may_be_lost || read.get(sequence) == Some(number), "{queue:?}: {sequence} is lost");
            }
            let again = if power { &self.model.unsynced_settled } else { &self.model.unflushed };
            let buried = &self.model.buried;
            for (sequence, number) in read.iter().filter(|(sequence, _)| !waiting.contains_key(sequence)) {
                let settled = again.get(queue).and_then(|settled| settled.get(sequence));
                let settled = settled.or_else(|| buried.get(queue)?.get(sequence));
                assert_eq!(
                    settled,
                    Some(number),
                    "{queue:?}: {sequence} came back though its settlement was on the disk"
                );
            }
        }
        self.invariant_of_a_message_and_its_letter_one_is_there(&read);
        self.model.queues = read;
        // What is there now is on the disk as far as a kill goes; what a loss of power left is there for good.
        self.flushed();
        if power {
            self.synced();
        } else {
            let unsynced = self.model.unsynced.clone();
            self.model.unsynced = unsynced;
        }
    }
}

impl Run {
    fn invariant_of_a_message_and_its_letter_one_is_there(&mut self, read: &BTreeMap<(usize, u8), Queue>) {
        if self.model.dropped {
            return;
        }
        let letters = self.log.dead_letters(None, usize::MAX).unwrap();
        for (queue, buried) in &self.model.letters {
            for (sequence, number) in buried {
                let is_there = read[queue].contains_key(sequence)
                    || letters.iter().any(|letter| letter.accepted.sequence == *number);
                assert!(is_there, "{queue:?}: neither {sequence} nor its letter is there");
            }
        }
        // Those that came back may be settled in another way.
        for (queue, buried) in &mut self.model.letters {
            buried.retain(|sequence, _| !read[queue].contains_key(sequence));
        }
    }
}

fn run(ops: &[Op]) {
    let mut run = Run::new();
    for op in ops {
        run.step(op);
        run.invariant_all_that_waits_is_read_and_nothing_else();
    }
    run.reopen(run.sim.killed(), false);
    run.invariant_all_that_waits_is_read_and_nothing_else();
}

/// A copy takes the place of a segment, and a kill comes before that is written; then most of the copy is settled.
fn copied_before_a_kill() -> Vec<Op> {
    vec![
        Op::Append { count: 4, len: 791, who: 31, synced: false },
        Op::Append { count: 7, len: 207, who: 51, synced: false },
        Op::Append { count: 3, len: 679, who: 38, synced: false },
        Op::Append { count: 7, len: 606, who: 58, synced: false },
        Op::SettleFirst { queue: 5, count: 3 },
        Op::Append { count: 1, len: 26, who: 25, synced: false },
        Op::SettleFirst { queue: 3, count: 5 },
        Op::Append { count: 1, len: 735, who: 1, synced: false },
        Op::Append { count: 1, len: 0, who: 1, synced: false },
        Op::SettleFirst { queue: 1, count: 3 },
        Op::Append { count: 7, len: 477, who: 3, synced: false },
        Op::Append { count: 10, len: 343, who: 5, synced: false },
        Op::SettleFirst { queue: 4, count: 15 },
        Op::Tidy,
        Op::Kill,
        Op::SettleFirst { queue: 4, count: 14 },
    ]
}

#[test]
fn what_a_copy_was_made_of_is_not_missed_when_the_copy_is_gone() {
    run(&copied_before_a_kill());
}

#[test]
fn a_copy_that_is_lost_is_missed_also_when_a_kill_came_before_it_was_noted() {
    let mut run = Run::new();
    let ops = copied_before_a_kill();
    ops[..ops.len() - 1].iter().for_each(|op| run.step(op));
    run.log.flush().unwrap();
    let copy = run.log.segments.iter().find(|segment| segment.header.origin != Origin::Stream).unwrap();
    let (name, live) = (file_name(copy.generation()), copy.live);
    let mut files = run.sim.killed().contents();
    files.remove(&name).unwrap();
    let (_, recovery) = Sim::with(&files).open(SMALL, &clocks(1000));
    let losses: Vec<Loss> = recovery.damage.iter().map(|damage| damage.loss).collect();
    assert_eq!(losses, [Loss::Segment(Some(live))]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_log_is_as_its_model(ops in ops()) {
        run(&ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    #[ignore = "minutes: for `cargo xtask soak`"]
    fn the_log_is_as_its_model_for_long(ops in ops()) {
        run(&ops);
    }
}
