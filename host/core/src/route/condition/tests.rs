pub(in crate::route) mod laws;

use super::*;
use crate::route::{Sample, SampleFacts};

const RESULTS: &str = include_str!("testdata/results.txt");
const ERRORS: &str = include_str!("testdata/errors.txt");

/// The message that `testdata` speaks of.
fn sample() -> Sample {
    let body = r#"{"n":50,"neg":-1.5,"tenth":0.1,"big":18446744073709551616,"s":"text","esc":"a\"b","digits":"42",
        "t":true,"f":false,"null":null,"date":"2017-03-09T00:00:00.000Z","day":"2017-03-09","a-b":1,"1a":1,"taken":1,
        "zero":0,"msDate":"/Date(1)/","list":[20,"two",{"x":3}],"o":{"s":"text","o":{"deep":1}},"twice":{"x":1},"twice":2}"#;
    let message = serde_json::json!({
        "properties": {
            "word": "hello", "number": "3", "nothing": null, "$both": "own", "$body.taken": "property",
            "and-more": "keyword at its begin", "grüße": "welt", "$": "dollar",
        },
        "systemProperties": { "both": "of the system", "contentType": "application/json", "contentEncoding": "UTF-8" },
        "bodyText": body,
    });
    Sample::parse(&message.to_string()).unwrap()
}

/// The lines of a file of cases, cut at their first bar; with their numbers.
fn cases(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|(number, line)| {
        let (left, condition) = line.split_once('|').unwrap_or((line, ""));
        (number + 1, left.trim(), condition.strip_prefix(' ').unwrap_or(condition))
    })
}

fn with_facts<T>(sample: &Sample, condition: &Condition, f: impl FnOnce(&SampleFacts<'_>) -> T) -> T {
    let (plan, slots) = BodyPlan::sole(condition);
    f(&sample.facts(&plan, &slots))
}

fn evaluate(sample: &Sample, condition: &str) -> Truth {
    let condition = Condition::parse(condition).unwrap_or_else(|error| panic!("{condition}: {error}"));
    with_facts(sample, &condition, |facts| condition.evaluate(facts))
}

#[test]
fn an_evaluation_makes_no_more_than_its_share_of_text() {
    let long = "x".repeat(super::made::MAX_MADE_BYTES / 4);
    let defined = |count: usize| {
        let joined = vec!["a"; count].join(" || ");
        let called = format!("concat({})", vec!["a"; count].join(", "));
        [joined, called].map(|text| {
            let line = serde_json::json!({ "condition": format!("is_defined({text})"), "message": { "properties": { "a": long } } });
            crate::route::trial::answer(&line.to_string())["result"].clone()
        })
    };
    assert_eq!(defined(2), ["true", "true"]);
    assert_eq!(defined(1_600), ["false", "false"]);
}

#[test]
fn conditions_come_out_as_iot_edge_says() {
    let (sample, mut wrong) = (sample(), Vec::new());
    for (line, expected, condition) in cases(RESULTS) {
        let result = match Condition::parse(condition) {
            Ok(condition) => with_facts(&sample, &condition, |facts| {
                let truth = condition.evaluate(facts);
                assert_eq!(condition.is_true(facts), truth == Truth::True, "line {line}");
                assert_eq!(condition.explain(facts).truth, truth, "line {line}");
                truth.to_string()
            }),
            Err(error) => error.to_string(),
        };
        if result != expected {
            wrong.push(format!("line {line}: {condition}: {result}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn errors_point_at_the_column_and_say_what_was_expected() {
    let mut wrong = Vec::new();
    for (line, expected, condition) in cases(ERRORS) {
        let (column, part) = expected.split_once(' ').unwrap();
        match Condition::parse(condition) {
            Err(error) if error.column.to_string() == column && error.message.contains(part.trim()) => {}
            Err(error) => wrong.push(format!("line {line}: {condition}: {error}")),
            Ok(_) => wrong.push(format!("line {line}: {condition}: is accepted")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_printed_means_the_same() {
    let sample = sample();
    for (line, _, text) in cases(RESULTS) {
        let condition = Condition::parse(text).unwrap();
        let printed = condition.to_string();
        let again = Condition::parse(&printed).unwrap_or_else(|error| panic!("line {line}: {printed}: {error}"));
        assert_eq!(again.to_string(), printed, "line {line}");
        assert_eq!(evaluate(&sample, &printed), evaluate(&sample, text), "line {line}: {printed}");
    }
}

#[test]
fn printing_keeps_only_the_parentheses_that_are_needed() {
    for (text, printed) in [
        ("((a='b'))AND(c='d' OR (e='f'))", "a = 'b' AND (c = 'd' OR e = 'f')"),
        ("1-(2-3)=(4*(5))", "1-(2-3)"),
        ("1 - (2 - 3) = (4 * (5))", "1 - (2 - 3) = 4 * 5"),
        ("not ( not (true) )", "NOT NOT true"),
        ("- (3 + 4) < - 1", "- (3 + 4) < - 1"),
        ("{ $body.x }=CONCAT('a' , \"b'\")", "{$body.x} = concat('a', 'b\\'')"),
    ] {
        match Condition::parse(text) {
            Ok(condition) => assert_eq!(condition.to_string(), printed),
            // `1-` is a name, and no function has it.
            Err(error) => assert!(text.starts_with("1-("), "{text}: {error}"),
        }
    }
}

#[test]
fn a_body_needs_its_content_type_and_encoding_and_an_object() {
    let check = |content_type: &str, encoding: &str, body: &str| {
        let system = serde_json::json!({ "contentType": content_type, "contentEncoding": encoding });
        let message = serde_json::json!({ "systemProperties": system, "bodyText": body });
        evaluate(&Sample::parse(&message.to_string()).unwrap(), "$body.a = 1")
    };
    let good = r#"{"a":1}"#;
    assert_eq!(check("application/json", "utf-8", good), Truth::True);
    assert_eq!(check("APPLICATION/JSON", "UTF-16", good), Truth::True);
    assert_eq!(check("application/json", "utf-32", " {\"a\" : 1.0} "), Truth::True);
    for (content_type, encoding, body) in [
        ("application/json;charset=utf-8", "utf-8", good),
        ("text/plain", "utf-8", good),
        ("application/json", "", good),
        ("application/json", "ascii", good),
        ("application/json", "utf-8", ""),
        ("application/json", "utf-8", "[1]"),
        ("application/json", "utf-8", "1"),
        ("application/json", "utf-8", r#"{"a":1"#),
        ("application/json", "utf-8", r#"{"a":1} x"#),
        ("application/json", "utf-8", r#"{"a":1,"b":nonsense}"#),
    ] {
        assert_eq!(check(content_type, encoding, body), Truth::Undefined, "{content_type} {encoding} {body}");
    }
}

#[test]
fn a_body_is_looked_into_up_to_127_levels() {
    for (levels, expected) in [(127, Truth::True), (128, Truth::Undefined)] {
        let text = format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
        let system = serde_json::json!({ "contentType": "application/json", "contentEncoding": "utf-8" });
        let message = serde_json::json!({ "systemProperties": system, "bodyText": text });
        let path = vec!["a"; levels].join(".");
        let sample = Sample::parse(&message.to_string()).unwrap();
        assert_eq!(evaluate(&sample, &format!("$body.{path} = 1")), expected, "{levels} levels");
    }
}

#[test]
fn a_body_is_read_in_the_encoding_that_it_names() {
    let (text, plan) = (r#"{"a":"é😀"}"#, Condition::parse("$body.a = 'é😀'").unwrap());
    let (plan, slots) = BodyPlan::sole(&plan);
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf32: Vec<u8> = text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
    for (encoding, bytes) in [("utf-8", text.as_bytes()), ("utf-16", &utf16), ("UTF-32", &utf32)] {
        let body = Body::new(
            &plan,
            Json::Encoded { bytes, content_type: Some("application/json"), content_encoding: Some(encoding) },
        );
        assert!(!body.was_read());
        assert_eq!(*body.found(slots[0]), Found::Text("é😀".into()), "{encoding}");
        assert!(body.was_read());
    }
}

#[test]
fn an_explanation_has_each_part_with_its_value_and_where_undefined_comes_from() {
    let sample = sample();
    let condition = Condition::parse("as_number(missing) > 20 AND $body.o = 1 OR word = 'x'").unwrap();
    let explanation = with_facts(&sample, &condition, |facts| condition.explain(facts));
    assert_eq!(explanation.truth, Truth::Undefined);
    let lines: Vec<String> = explanation
        .steps
        .iter()
        .map(|step| {
            let why = step.why.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
            format!("{}{} -> {}{why}", "  ".repeat(step.depth), step.text, step.value)
        })
        .collect();
    assert_eq!(
        lines,
        [
            "as_number(missing) > 20 AND $body.o = 1 OR word = 'x' -> undefined",
            "  as_number(missing) > 20 AND $body.o = 1 -> undefined",
            "    as_number(missing) > 20 -> undefined",
            "      as_number(missing) -> undefined",
            "        missing -> undefined (the message has no property `missing`)",
            "    $body.o = 1 -> undefined",
            "      $body.o -> undefined (an object or array is undefined)",
            "  word = 'x' -> false",
            "    word -> 'hello'",
        ]
    );
}

#[test]
fn an_explanation_says_why_a_body_has_no_values() {
    let sample = Sample::parse(r#"{"body":{"a":1}}"#).unwrap();
    for (condition, why) in [
        ("$body.a = 1", "the content type is not set, not `application/json`"),
        ("word", "the message has no property `word`"),
        ("'x'", "the result must be true or false, and this is a text"),
        ("as_number('x') = 1", "it has no value for 'x'"),
    ] {
        let condition = Condition::parse(condition).unwrap();
        let explanation = with_facts(&sample, &condition, |facts| condition.explain(facts));
        assert!(explanation.steps.iter().any(|step| step.why.as_deref() == Some(why)), "{why}: {explanation:?}");
    }
}

#[test]
fn a_condition_that_no_message_makes_true_is_known() {
    for text in ["", "'x'", "3", "null", "undefined", "word", "null AND true"] {
        assert!(Condition::parse(text).unwrap().is_never_true(), "{text}");
    }
    for text in ["true", "word = 'x'", "$body.x", "false"] {
        assert!(!Condition::parse(text).unwrap().is_never_true(), "{text}");
    }
}

#[test]
fn hostile_conditions_are_refused_or_read_without_the_threads_stack() {
    let deep = |open: &str, close: &str, levels: usize| format!("{}true{}", open.repeat(levels), close.repeat(levels));
    assert!(Condition::parse(&deep("(", ")", MAX_NESTING)).is_ok());
    for text in [deep("(", ")", MAX_NESTING + 1), deep("NOT ", "", MAX_NESTING + 1), deep("is_bool(", ")", 4000)] {
        assert!(Condition::parse(&text).unwrap_err().message.contains("nested more than 256"), "{}", &text[..20]);
    }
    let long = vec!["a = 'b'"; 2500].join(" AND ");
    let condition = Condition::parse(&long).unwrap();
    assert_eq!(evaluate(&sample(), &long), Truth::Undefined);
    assert_eq!(condition.to_string(), long);
    let longer = vec!["a = 'b'"; 10_000].join(" AND ");
    assert!(Condition::parse(&longer).unwrap_err().message.contains("longer than 32768 bytes"));
    let wide = format!("concat({}) = 'x'", vec!["word"; 4000].join(","));
    assert_eq!(evaluate(&sample(), &wide), Truth::False);
}
