//! The attacks over the kept inputs, and over changes of them: a bounded number with a fixed seed in each run of the tests, and
//! as many as a time holds for `cargo xtask soak fuzz`. An input that fails is written down; kept in `corpus/`, it is tried
//! for ever.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    env, fs,
    io::Write as _,
    panic::{catch_unwind, resume_unwind},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use marram_fuzz::{
    AGENT_CALL, CONDITION, LOG, MANIFEST, ROUTE, TARGETS, Target,
    change::{Chance, change},
};
use marram_tests::figure::figure;

/// The kept inputs, by name.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn attack(target: &Target, input: &[u8]) {
    if let Err(panic) = catch_unwind(|| (target.attack)(input)) {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-found", target.name));
        fs::write(&path, input).unwrap();
        let _ = writeln!(std::io::stderr(), "the input is in {}: keep it in corpus/{}", path.display(), target.name);
        resume_unwind(panic);
    }
}

/// The kept inputs, then changes of each in turn, while `more` holds for their number. How many were tried.
fn attacks(target: &Target, seed: u64, more: impl Fn(u64) -> bool) -> u64 {
    let inputs = corpus(target);
    inputs.iter().for_each(|input| attack(target, input));
    let (mut chance, mut tried) = (Chance::new(seed), 0);
    while more(tried) {
        let input = &inputs[tried as usize % inputs.len()];
        attack(target, &change(input, &inputs[chance.below(inputs.len())], target, &mut chance));
        tried += 1;
    }
    tried
}

#[test]
fn no_route_text_breaks_the_reader() {
    attacks(&ROUTE, 1, |tried| tried < 1500);
}

#[test]
fn no_condition_and_no_body_breaks_the_evaluation() {
    attacks(&CONDITION, 1, |tried| tried < 2500);
}

#[test]
fn no_manifest_breaks_the_reader() {
    attacks(&MANIFEST, 1, |tried| tried < 600);
}

#[test]
fn no_damage_breaks_the_recovery_of_the_log() {
    attacks(&LOG, 1, |tried| tried < 300);
}

#[test]
fn no_call_of_the_hosts_methods_breaks_their_reader() {
    attacks(&AGENT_CALL, 1, |tried| tried < 1500);
}

/// Each for `MARRAM_SOAK_SECONDS` (60), from a seed of its own, which `MARRAM_SEED` repeats.
#[test]
#[ignore = "minutes: for `cargo xtask soak`"]
fn fuzz_for_long() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let time = Duration::from_secs(number("MARRAM_SOAK_SECONDS").unwrap_or(60));
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64;
    let seed = number("MARRAM_SEED").unwrap_or_else(now);
    let _ = writeln!(std::io::stderr(), "MARRAM_SEED={seed}");
    for target in &TARGETS {
        let end = Instant::now() + time;
        let tried = attacks(target, seed, |_| Instant::now() < end);
        figure(&format!("fuzz.{}", target.name), tried as f64, "inputs");
    }
}

/// No text makes a reader go over it again and again: these end, read or refused.
#[test]
fn long_texts_of_every_kind_end() {
    for part in [
        "(", ")", "NOT ", "- ", "a AND ", "a||", "'", "\"\\\"", "/*", "/* */", "$body.a.", "f(", "a,", "{$a}", "['",
        "1e",
    ] {
        let long = part.repeat(20_000);
        attack(&CONDITION, long.as_bytes());
        attack(&ROUTE, format!("FROM /messages/* WHERE {long} INTO $upstream").as_bytes());
        attack(&ROUTE, format!("FROM {long} INTO $upstream").as_bytes());
    }
    // Patterns are of a kind whose search takes time linear in them and in the text.
    let lines = "a".repeat(8 << 10);
    for pattern in ["(a*)*b", "(a|aa)+$", "(a?){50}a{50}", "((((((a+)+)+)+)+)+)+b"] {
        let payload = format!(r#"{{"items":[{{"id":"all","filter":{{"regex":"{pattern}"}}}}]}}"#);
        attack(&AGENT_CALL, format!("{payload}\n{lines}\n{lines}").as_bytes());
    }
    for part in ["[", "{\"a\":", "{\"a\":1},", "\"a\",", "\\", "\"\\u0041", "{\"a\":{},\"a\":"] {
        attack(&MANIFEST, part.repeat(20_000).as_bytes());
        attack(&MANIFEST, format!("{{\"modulesContent\":{{\"$edgeAgent\":{}", part.repeat(20_000)).as_bytes());
    }
}
