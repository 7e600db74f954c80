//! Attacks on what reads foreign text: route texts, conditions with bodies. The bodies of the attacks are plain functions
//! over bytes; the inputs are those of `corpus/`, kept, and changes of them by a generator with fixed seeds, so that a
//! failure comes again. A minute of another fuzzer needs nothing but to call the same functions.

#![allow(clippy::unwrap_used)] // helpers of tests

use marram_core::route::{BodyPlan, Condition, Route, Sample, Truth, answer};
use serde_json::json;

const ROUTES: &str = include_str!("corpus/routes.txt");
const CONDITIONS: &str = include_str!("corpus/conditions.txt");
const BODIES: &str = include_str!("corpus/bodies.txt");
/// Words that changes put in, beside single characters.
const WORDS: [&str; 24] = [
    " AND ",
    " OR ",
    "NOT ",
    "(",
    ")",
    "'",
    "\"",
    "\\",
    "/*",
    "*/",
    "$body.",
    "[0]",
    "{",
    "}",
    "||",
    "??",
    "!=",
    "0x",
    "1e999",
    "is_null(",
    "concat(",
    "\u{1f600}",
    "INTO",
    "null",
];
/// Changes of each kept input. All attacks together take seconds in a build without optimisation.
const CHANGES: u64 = 25;

/// Whatever the bytes are: no panic, the column lies within the text, and what reads means the same when printed.
fn attack_route(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Route::parse_with_rest(text) {
        Ok((route, rest)) => {
            assert!(rest.is_none_or(|rest| text.contains(rest)));
            let printed = route.to_string();
            let again = Route::parse(&printed).unwrap_or_else(|error| panic!("{text:?} -> {printed:?}: {error}"));
            assert_eq!((&again.source, &again.sink), (&route.source, &route.sink), "{text:?}");
            assert_eq!(again.to_string(), printed, "{text:?}");
        }
        Err(error) => {
            assert!((1..=text.chars().count() + 1).contains(&error.column), "{text:?}: {error}");
            assert!(!error.message.is_empty());
        }
    }
}

/// The bytes are a condition, a zero, and a body: no panic, the three ways to evaluate agree, printing keeps the meaning.
fn attack_condition(data: &[u8]) {
    let mut halves = data.splitn(2, |byte| *byte == 0);
    let (Some(Ok(text)), body) = (halves.next().map(std::str::from_utf8), halves.next().unwrap_or_default()) else {
        return;
    };
    let message = json!({
        "properties": { "kind": "alert", "level": "3", "empty": "", "nothing": null, "$both": "own" },
        "systemProperties": { "contentType": "application/json", "contentEncoding": "utf-8", "messageId": "7" },
        "bodyText": String::from_utf8_lossy(body),
    });
    let line = json!({ "condition": text, "message": message }).to_string();
    let answered = answer(&line);
    let condition = match Condition::parse(text) {
        Ok(condition) => condition,
        Err(error) => {
            assert!((1..=text.chars().count() + 1).contains(&error.column), "{text:?}: {error}");
            assert_eq!(answered["error"]["column"], error.column, "{text:?}");
            return;
        }
    };
    let sample = Sample::parse(&message.to_string()).unwrap();
    let truth = evaluate(&condition, &sample, text);
    assert_eq!(answered["result"], truth.to_string(), "{text:?}");
    assert!(truth != Truth::True || !condition.is_never_true(), "{text:?}");
    let printed = condition.to_string();
    let again = Condition::parse(&printed).unwrap_or_else(|error| panic!("{text:?} -> {printed:?}: {error}"));
    assert_eq!(evaluate(&again, &sample, &printed), truth, "{text:?} -> {printed:?}");
}

fn evaluate(condition: &Condition, sample: &Sample, text: &str) -> Truth {
    let (plan, slots) = BodyPlan::sole(condition);
    let facts = sample.facts(&plan, &slots);
    let truth = condition.evaluate(&facts);
    assert_eq!(condition.is_true(&facts), truth == Truth::True, "{text:?}");
    assert_eq!(condition.explain(&facts).truth, truth, "{text:?}");
    truth
}

#[test]
fn no_route_text_breaks_the_reader() {
    for (seed, line) in lines(ROUTES) {
        attack_route(line.as_bytes());
        changes(seed, line, attack_route);
    }
}

#[test]
fn no_condition_and_no_body_breaks_the_evaluation() {
    let bodies: Vec<&str> = lines(BODIES).map(|(_, body)| body).collect();
    for (seed, line) in lines(CONDITIONS) {
        let body = bodies[seed as usize % bodies.len()];
        attack_condition(format!("{line}\0{body}").as_bytes());
        changes(seed, line, |changed| attack_condition(&[changed, b"\0", body.as_bytes()].concat()));
        changes(!seed, body, |changed| attack_condition(&[line.as_bytes(), b"\0", changed].concat()));
    }
}

/// No text makes the reader go over it again and again: these end, read or refused.
#[test]
fn long_texts_of_every_kind_end() {
    for part in [
        "(", ")", "NOT ", "- ", "a AND ", "a||", "'", "\"\\\"", "/*", "/* */", "$body.a.", "f(", "a,", "{$a}", "['",
        "1e",
    ] {
        let long = part.repeat(20_000);
        attack_condition(long.as_bytes());
        attack_route(format!("FROM /messages/* WHERE {long} INTO $upstream").as_bytes());
        attack_route(format!("FROM {long} INTO $upstream").as_bytes());
    }
}

fn lines(text: &str) -> impl Iterator<Item = (u64, &str)> {
    text.lines().filter(|line| !line.is_empty()).enumerate().map(|(number, line)| (number as u64, line))
}

/// Calls `attack` with changes of a text: characters removed, doubled, replaced, and words put in.
fn changes(seed: u64, text: &str, attack: impl Fn(&[u8])) {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..CHANGES {
        let mut changed: Vec<char> = text.chars().collect();
        for _ in 0..=chance.below(3) {
            let at = chance.below(changed.len() + 1);
            match chance.below(4) {
                0 if at < changed.len() => drop(changed.remove(at)),
                1 if at < changed.len() => changed.insert(at, changed[at]),
                2 if at < changed.len() => changed[at] = char::from(32 + chance.below(95) as u8),
                _ => drop(changed.splice(at..at, WORDS[chance.below(WORDS.len())].chars())),
            }
        }
        attack(changed.into_iter().collect::<String>().as_bytes());
    }
}

/// A generator of numbers (xorshift); chance that comes again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound.max(1)
    }
}
