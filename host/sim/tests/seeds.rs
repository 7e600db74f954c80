//! Hosts by chance. `MARRAM_SIM_SEED=N` plays one seed and shows its trace.

use std::env;

/// So many in the ordinary tests: some seconds.
const SEEDS: u64 = 500;

fn attack(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err(broken) = marram_sim::attack(seed) {
            panic!("{broken}\n`MARRAM_SIM_SEED={seed} cargo nextest run -p marram-sim one_seed` plays it again");
        }
    }
}

#[test]
fn all_invariants_hold_for_500_hosts() {
    attack(0..SEEDS);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..SEEDS / 10 {
        assert_eq!(marram_sim::attack(seed), marram_sim::attack(seed), "seed {seed}");
    }
}

#[test]
fn one_seed() {
    if let Some(seed) = env::var("MARRAM_SIM_SEED").ok().and_then(|text| text.parse().ok()) {
        panic!("{}", marram_sim::attack(seed).unwrap_or_else(|broken| broken));
    }
}

#[test]
#[ignore = "takes minutes: `cargo xtask soak sim`"]
fn sim_all_invariants_hold_for_10000_hosts() {
    let first: u64 = env::var("MARRAM_SOAK_FIRST_SEED").map_or(SEEDS, |text| text.parse().expect("a number"));
    attack(first..first + 10_000);
}
