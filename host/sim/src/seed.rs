//! A simulation by chance.

use std::time::Duration;

use crate::{
    cloud::Heard,
    disk::Fault,
    fate::{Dice, Fates},
    host::{Host, Story},
    invariants::{Deployment, Wanted},
    op::{Op, POLICIES},
    seen::Seen,
    turn,
};

/// Lets a host live through what this seed says, then without failures until all is at rest.
///
/// # Errors
/// The names of the invariants that did not hold, and the trace.
pub fn attack(seed: u64) -> Result<(String, Seen), String> {
    let _turn = turn();
    let mut dice = Dice::new(seed, "what happens");
    let fates = Fates::Chance(seed);
    let mut host = Host::new(fates.clone(), ceiling(&mut Dice::new(seed, "ceiling")));
    // Others have the journal: then there is nobody who could be connected.
    if dice.below(4) > 0 {
        host.happens(Duration::ZERO, &Op::Connect(true));
    }
    for _ in 0..10 + dice.below(20) {
        // Often so short that work is under way.
        let pause = if dice.below(3) == 0 { dice.below(900_000) } else { dice.below(12_000) };
        let op = op(&mut dice, &fates);
        host.happens(Duration::from_millis(pause), &op);
    }
    host.comes_to_rest();
    let Story { trace, broken, seen } = host.finish();
    if broken.is_empty() { Ok((trace, seen)) } else { Err(format!("seed {seed}: {}\n{trace}", broken.join("\n"))) }
}

fn op(dice: &mut Dice, fates: &Fates) -> Op {
    match dice.below(36) {
        0..6 => Op::Apply(deployment(dice, fates)),
        6 => Op::ApplyBad,
        7..9 => Op::Restart(name(dice.below(3))),
        9..11 => Op::Twin(name(dice.below(3)), dice.below(100)),
        11..13 => Op::Disk(Some([Fault::Full, Fault::Io, Fault::Sync, Fault::Flaky][index(dice, 4)])),
        13..15 => Op::Disk(None),
        15 => Op::Kill(None),
        16 => Op::Kill(Some(document(dice))),
        17 => Op::Stop,
        18..21 => Op::Call(name(dice.below(3)), [0, 0, 4_000, 60_000][index(dice, 4)], 5_000 + dice.below(20_000)),
        21 => Op::Rollback,
        22 => Op::Away(true),
        23 => Op::Away(false),
        24 => Op::Connect(true),
        25 => Op::Connect(false),
        26..29 => {
            let value = (dice.below(4) > 0).then(|| dice.below(100));
            Op::Cloud(
                name(dice.below(3)),
                value,
                [Heard::Once, Heard::Once, Heard::Twice, Heard::Never][index(dice, 4)],
            )
        }
        29..31 => Op::Ceiling(ceiling(dice)),
        31..33 => Op::Suspend([dice.below(20_000), dice.below(900_000), dice.below(9_000_000)][index(dice, 3)]),
        // So that a new ceiling counts.
        33..35 => Op::Stop,
        _ => Op::Clock(i64::try_from(dice.below(40_000_000)).unwrap_or(0) - 20_000_000),
    }
}

/// One that a damage can hit.
fn document(dice: &mut Dice) -> String {
    ["deployment", "history", "twin-a", "twin-b", "twin-c", "traps", "host"][index(dice, 7)].into()
}

/// A ceiling on memory, in MiB. Three modules need from 18 to 48, each of their versions another limit.
fn ceiling(dice: &mut Dice) -> Option<u64> {
    (dice.below(6) > 0).then(|| [24, 32, 40, 48][index(dice, 4)])
}

fn index(dice: &mut Dice, end: u64) -> usize {
    usize::try_from(dice.below(end)).unwrap_or(0)
}

fn name(number: u64) -> String {
    ["a", "b", "c"][usize::try_from(number).unwrap_or(0) % 3].into()
}

fn deployment(dice: &mut Dice, fates: &Fates) -> Deployment {
    let mut deployment = Deployment::new();
    for number in 0..3 {
        if dice.below(5) == 0 {
            continue;
        }
        let name = name(number);
        let image = format!("{name}:{}", dice.below(3));
        // A program has no methods: asked for its health, it would never come to rest.
        let handles = fates.of(&image, "", 0).answers.is_some();
        let wanted = Wanted {
            runs: dice.below(5) > 0,
            policy: POLICIES[index(dice, 4)],
            max_restarts: (dice.below(4) == 0).then_some(u32::try_from(dice.below(3)).unwrap_or(0)),
            order: u32::try_from(dice.below(3)).unwrap_or(0),
            // No round times: what is due in the same millisecond as something else comes in any order.
            // Of the image: what it takes does not change from one deployment to the next.
            memory: [6, 11, 16][index(&mut Dice::new(fates.seed(), &format!("{image} memory")), 3)],
            image,
            health: (handles && dice.below(2) == 0).then(|| [5_003, 30_011][index(dice, 2)]),
        };
        deployment.insert(name, wanted);
    }
    deployment
}
