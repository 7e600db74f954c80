//! Hosts by chance. `MARRAM_SIM_SEED=N` plays one seed and shows its trace.

use std::{
    env,
    io::{self, Write},
};

use marram_sim::Seen;

/// So many in the ordinary tests: some seconds.
const SEEDS: u64 = 500;

/// What must have happened in 500 hosts, so often at least.
const KINDS: [&str; 31] = [
    "a write on a full disk",
    "a write that fails",
    "a sync that fails",
    "a single write that fails",
    "a write of a module's state that fails",
    "a damaged document",
    "a document read from its previous generation",
    "a document that was refused and is there after a kill",
    "an image whose registry is away",
    "an image that cannot be reached once",
    "an image with a wrong digest",
    "a component that does not compile",
    "an instance that does not start",
    "a report that is refused",
    "a report that upstream takes",
    "a report while upstream is away",
    "a report whose receipt is lost",
    "a report that upstream does not take",
    "a question while upstream is away",
    "a whole twin from upstream",
    "a change of the cloud that is lost on its way",
    "a local change that the cloud undoes",
    "a change that is accepted",
    "a change that is refused",
    "a trap amid a change of desired properties",
    "a manifest above the ceiling",
    "a start under a ceiling that was lowered below what is in force",
    "a module that waits for room",
    "an update that takes the place of its old version",
    "a suspension",
    "a suspension amid a trial",
];
const OFTEN: u64 = 20;

fn attack(seeds: std::ops::Range<u64>) -> Seen {
    let mut seen = Seen::default();
    for seed in seeds {
        match marram_sim::attack(seed) {
            Ok((_, more)) => seen.add(&more),
            Err(broken) => {
                panic!("{broken}\n`MARRAM_SIM_SEED={seed} cargo nextest run -p marram-sim one_seed` plays it again");
            }
        }
    }
    seen
}

#[test]
fn all_invariants_hold_for_500_hosts_and_each_fault_happens() {
    let seen = attack(0..SEEDS);
    for kind in KINDS {
        assert!(seen.count(kind) >= OFTEN, "{kind}: {}", seen.count(kind));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..SEEDS / 10 {
        let play = || marram_sim::attack(seed).map(|(trace, _)| trace);
        let (one, other) = (play(), play());
        if one != other {
            let [one, other] = [one, other].map(|it| it.unwrap_or_else(|broken| broken));
            let at = one.lines().zip(other.lines()).position(|(one, other)| one != other).unwrap_or(0);
            let [one, other] = [one, other].map(|it| it.lines().skip(at).take(3).collect::<Vec<_>>().join("\n"));
            panic!("seed {seed}, first difference:\n{one}\nand\n{other}");
        }
    }
}

#[test]
fn one_seed() {
    if let Some(seed) = env::var("MARRAM_SIM_SEED").ok().and_then(|text| text.parse().ok()) {
        panic!("{}", marram_sim::attack(seed).map_or_else(|broken| broken, |(trace, _)| trace));
    }
}

#[test]
#[ignore = "takes minutes: `cargo xtask soak sim`"]
fn sim_all_invariants_hold_for_10000_hosts() {
    let first: u64 = env::var("MARRAM_SOAK_FIRST_SEED").map_or(SEEDS, |text| text.parse().expect("a number"));
    let seen = attack(first..first + 10_000);
    for (kind, count) in seen.all() {
        writeln!(io::stdout(), "{count:8} {kind}").expect("a place to write to");
    }
}
