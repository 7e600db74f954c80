//! A message that becomes a dead letter, or is sent again: whatever fails, one of the two is there.

use std::collections::BTreeSet;

use super::{
    sim::{Fault, Sim},
    *,
};

/// Messages that are safe become dead letters, some of these are sent again, and segments come and go. Returns what is safe.
fn life(log: &mut Log) -> BTreeSet<u64> {
    let (a, b) = (log.endpoint("a"), log.endpoint("b"));
    let mut safe = BTreeSet::new();
    for number in 0..24 {
        let message = message("s", number, 900);
        let references = [to(a, 0)];
        let Ok(range) = log.append(&[Entry { message: &message, references: &references }], Safety::Synced) else {
            continue;
        };
        safe.insert(number);
        let place = Place { endpoint: a, priority: 0, sequence: range.start };
        let Ok(letter) = log.bury(place, "no use", UtcMillis(7)) else { continue };
        if number % 4 == 1 {
            let _ = log.replay(letter, &[to(a, 0)]);
        }
        if number % 3 == 0 {
            let _ = log.flush();
        }
        for other in 0..number % 5 {
            let _ = append(log, &super::message("t", 1000 + other, 700), &[to(b, 0)]);
        }
        for stored in all(log, b, 0) {
            log.settle(stored.place, How::Delivered);
        }
        if number % 6 == 5 {
            log.tidy();
        }
    }
    safe
}

#[test]
fn of_a_safe_message_and_its_dead_letter_one_survives_each_loss_of_power() {
    const OPTIONS: Options = Options { dead_letter_bytes: 20 * (8 << 10), ..SMALL };
    let whole = Sim::new();
    life(&mut whole.open(OPTIONS, &clocks(0)).0);
    assert!(whole.operations() > 100, "{}", whole.operations());
    for at in 0..=whole.operations() {
        for fault in [Fault::Dead { at }, Fault::Once { at, with: rustix::io::Errno::NOSPC }] {
            let sim = Sim::new().failing(fault);
            let safe = life(&mut sim.open(OPTIONS, &clocks(0)).0);
            for seed in 1..6 {
                let dark = sim.without_power(&mut Chance(seed * 7919 + at as u64));
                let (mut log, _) = dark.open(OPTIONS, &clocks(1));
                let a = log.endpoint("a");
                let mut found: BTreeSet<u64> = numbers(&mut log, a, 0).into_iter().collect();
                found.extend(log.dead_letters(None, usize::MAX).unwrap().iter().map(|letter| letter.accepted.sequence));
                let lost: Vec<&u64> = safe.difference(&found).collect();
                assert!(lost.is_empty(), "{fault:?}, power {seed}: {lost:?}");
            }
        }
    }
}
