//! Conditions, evaluated on messages with bodies.

use marram_core::route::{BodyPlan, Condition, Sample, Truth, answer};
use serde_json::json;

/// Words of the language.
pub(crate) const WORDS: &[&str] = &[
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
    " = ",
    "0x",
    "1e999",
    "is_null(",
    "is_defined(",
    "as_number(",
    "starts_with(",
    "concat(",
    "substring(",
    "\u{1f600}",
    "INTO",
    "null",
    "kind",
    "level",
    "\\u0041",
    "\n",
];

/// Whatever the first line and the body behind it are: no panic, the three ways to evaluate agree, printing keeps the meaning.
pub(crate) fn attack(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (Some(Ok(text)), body) = (parts.next().map(std::str::from_utf8), parts.next().unwrap_or_default()) else {
        return;
    };
    let message = json!({
        "properties": { "kind": "alert", "level": "3", "empty": "", "nothing": null, "$both": "own" },
        "systemProperties": { "contentType": "application/json", "contentEncoding": "utf-8", "messageId": "7" },
        "bodyText": String::from_utf8_lossy(body),
    });
    let answered = answer(&json!({ "condition": text, "message": message }).to_string());
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
