//! A disk that fails at every operation in turn, fills up, and loses power: what a write was said to be safe stays, and a
//! write that failed has not happened.

use rustix::io::Errno;

use super::*;
use crate::log::tests::{
    Chance,
    sim::{Fault, Sim},
};

const NAME: &str = "m.log";

fn on(sim: &Sim) -> ModuleState {
    ModuleState::open(Box::new(sim.clone()), NAME.into(), "/state/m.log".into()).unwrap()
}

/// Enough to have the file made, made longer, and made anew because most of it is out of date.
fn scenario() -> Vec<Vec<Write>> {
    let long = |n: usize| (n % 10).to_string().repeat(20_000);
    let mut writes: Vec<Vec<Write>> = (0..24).map(|n| vec![write(&format!("k{}", n % 3), Some(&long(n)))]).collect();
    writes.push(vec![write("k0", None), write("last", Some("x"))]);
    writes
}

fn applied(model: &BTreeMap<String, String>, writes: &[Write]) -> BTreeMap<String, String> {
    let mut model = model.clone();
    for write in writes {
        match &write.value {
            Some(value) => drop(model.insert(write.key.to_string(), String::from_utf8(value.to_vec()).unwrap())),
            None => drop(model.remove(&*write.key)),
        }
    }
    model
}

/// Does the scenario until the first error; returns what is safe, and what the failed write would have made of it.
fn run(sim: &Sim) -> (BTreeMap<String, String>, Option<BTreeMap<String, String>>) {
    let (mut state, mut safe) = (on(sim), BTreeMap::new());
    for writes in scenario() {
        let then = applied(&safe, &writes);
        if state.write(&writes).is_err() {
            return (safe, Some(then));
        }
        safe = then;
    }
    (safe, None)
}

fn operations() -> usize {
    let sim = Sim::new();
    assert!(run(&sim).1.is_none());
    sim.operations()
}

#[test]
fn the_scenario_makes_the_file_anew() {
    let sim = Sim::new();
    run(&sim);
    assert!(sim.contents()[NAME].len() < 24 * 20_000);
}

#[test]
fn what_was_said_to_be_safe_outlives_a_loss_of_power_at_every_operation() {
    let mut chance = Chance(7);
    for at in 0..=operations() {
        let sim = Sim::new().failing(Fault::Dead { at });
        let (safe, in_flight) = run(&sim);
        for left in [sim.killed(), sim.without_power(&mut chance), sim.without_power(&mut chance)] {
            let mut state = on(&left);
            let found = contents(&state);
            assert!(found == safe || Some(&found) == in_flight.as_ref(), "operation {at}: {:?}", found.keys());
            // And the next write is as safe as the first one was; what was in flight, and found, was safe for nobody.
            let next = [write("next", Some("y"))];
            state.write(&next).unwrap();
            let again = contents(&on(&left.without_power(&mut chance)));
            assert!(again == applied(&found, &next) || again == applied(&safe, &next), "after operation {at}");
        }
    }
}

#[test]
fn a_write_that_a_full_disk_stops_has_not_happened_and_says_so_and_the_next_one_can() {
    for at in 0..operations() {
        let sim = Sim::new().failing(Fault::Once { at, with: Errno::NOSPC });
        let (mut state, mut model) = (on(&sim), BTreeMap::new());
        for writes in scenario() {
            match state.write(&writes) {
                Ok(()) => model = applied(&model, &writes),
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("cannot write the module's state /state/m.log: No space left"), "{text}");
                }
            }
            assert_eq!(contents(&state), model, "operation {at}");
        }
        assert_eq!(contents(&on(&sim.killed())), model, "operation {at}, after a restart");
    }
}

#[test]
fn a_state_on_a_full_disk_is_read_still_and_goes_on_when_there_is_room() {
    let sim = Sim::new();
    let mut state = on(&sim);
    let (before, long) = ("b".repeat(100_000), "z".repeat(60_000));
    state.write(&[write("kept", Some(&before))]).unwrap();
    // Room to begin a new file, none to end it.
    sim.set_capacity(Some(200 * 1024));
    for _ in 0..3 {
        let error = state.write(&[write("more", Some(&long)), write("more still", Some(&long))]).unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
        assert_eq!(contents(&state), map(&[("kept", &before)]));
        assert_eq!(sim.contents().keys().collect::<Vec<_>>(), [NAME], "no half of a file takes room");
    }
    assert_eq!(contents(&on(&sim.killed())), map(&[("kept", &before)]));
    sim.set_capacity(None);
    state.write(&[write("more", Some(&long))]).unwrap();
    assert_eq!(contents(&on(&sim.without_power(&mut Chance(3)))), map(&[("kept", &before), ("more", &long)]));
}
