//! Laws that hold for all conditions of a kind, tried on made-up ones.

use proptest::prelude::*;

use super::*;

/// Conditions that are true, false or undefined, without body values.
pub(in crate::route) fn logical() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("(none = 'x')".to_owned()),
        Just("(word = 'hello')".to_owned()),
        Just("(as_number(number) > 4)".to_owned()),
        Just("is_defined(none)".to_owned()),
        Just("starts_with(word, 'x')".to_owned()),
        Just("(nothing != 'x')".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} AND {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} OR {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} = {b})")),
            inner.prop_map(|a| format!("(NOT {a})")),
        ]
    })
}

/// Words and signs of the language in any order.
fn tokens() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("AND"),
        Just("OR"),
        Just("NOT"),
        Just("("),
        Just(")"),
        Just("="),
        Just("!="),
        Just("<"),
        Just("??"),
        Just("||"),
        Just("+"),
        Just("-"),
        Just("*"),
        Just("/"),
        Just("%"),
        Just(","),
        Just("{"),
        Just("}"),
        Just("word"),
        Just("$body.n"),
        Just("$body.list[0]"),
        Just("{$both}"),
        Just("3"),
        Just("'x'"),
        Just("null"),
        Just("true"),
        Just("undefined"),
        Just("abs("),
        Just("concat("),
        Just("is_null("),
        Just("substring("),
        Just("/*"),
        Just("*/"),
        Just("'"),
        Just("\""),
        Just("\\"),
        Just("@"),
        Just("0x"),
        Just("e5"),
        Just("INTO"),
    ];
    proptest::collection::vec(token, 0..24).prop_map(|tokens| tokens.join(" "))
}

/// What stands between operators, as written and with its parentheses. Body values fit nearly everywhere.
const OPERANDS: [(&str, &str); 12] = [
    ("$body.n", "$body.n"),
    ("$body.zero", "$body.zero"),
    ("$body.tenth", "$body.tenth"),
    ("$body.t", "$body.t"),
    ("$body.f", "$body.f"),
    ("$body.s", "$body.s"),
    ("$body.o", "$body.o"),
    ("NOT $body.t", "(NOT $body.t)"),
    ("NOT $body.f", "(NOT $body.f)"),
    ("- 3", "(- 3)"),
    ("3", "3"),
    ("true", "true"),
];

/// The loosest first, as docs/routes.md has them.
const OPERATORS: [&[&str]; 7] =
    [&["??"], &["OR"], &["AND"], &["=", "!=", "<>"], &["<", "<=", ">", ">="], &["+", "-", "||"], &["*", "/", "%"]];

/// All parentheses of an expression, given as operators (tightness, which) and the operands around them.
fn parenthesised(operands: &[usize], operators: &[(usize, usize)]) -> String {
    // The loosest stands alone; of equals the last, because they are taken from left to right.
    let loosest = (0..operators.len()).rev().min_by_key(|at| operators[*at].0);
    let Some(at) = loosest else { return OPERANDS[operands[0]].1.into() };
    let left = parenthesised(&operands[..=at], &operators[..at]);
    let right = parenthesised(&operands[at + 1..], &operators[at + 1..]);
    let (tightness, which) = operators[at];
    format!("({left} {} {right})", OPERATORS[tightness][which])
}

fn operator() -> impl Strategy<Value = (usize, usize)> {
    (0..OPERATORS.len(), any::<usize>()).prop_map(|(tightness, which)| (tightness, which % OPERATORS[tightness].len()))
}

fn kleene_and(left: Truth, right: Truth) -> Truth {
    match (left, right) {
        (Truth::False, _) | (_, Truth::False) => Truth::False,
        (Truth::True, Truth::True) => Truth::True,
        _ => Truth::Undefined,
    }
}

fn kleene_not(value: Truth) -> Truth {
    match value {
        Truth::True => Truth::False,
        Truth::False => Truth::True,
        Truth::Undefined => Truth::Undefined,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn and_or_and_not_follow_kleenes_tables(a in logical(), b in logical()) {
        let sample = sample();
        let value = |text: &str| evaluate(&sample, text);
        let (left, right) = (value(&a), value(&b));
        prop_assert_eq!(value(&format!("{a} AND {b}")), kleene_and(left, right));
        prop_assert_eq!(value(&format!("{a} OR {b}")), kleene_not(kleene_and(kleene_not(left), kleene_not(right))));
        prop_assert_eq!(value(&format!("NOT {a}")), kleene_not(left));
    }

    #[test]
    fn de_morgan_commutation_and_double_negation_hold(a in logical(), b in logical()) {
        let sample = sample();
        let value = |text: String| evaluate(&sample, &text);
        prop_assert_eq!(value(format!("NOT ({a} AND {b})")), value(format!("NOT {a} OR NOT {b}")));
        prop_assert_eq!(value(format!("NOT ({a} OR {b})")), value(format!("NOT {a} AND NOT {b}")));
        prop_assert_eq!(value(format!("{a} AND {b}")), value(format!("{b} AND {a}")));
        prop_assert_eq!(value(format!("NOT NOT {a}")), value(a.clone()));
        prop_assert_eq!(value(format!("{a} ?? {b}")), if value(a.clone()) == Truth::Undefined { value(b) } else { value(a) });
    }

    #[test]
    fn without_parentheses_operators_are_taken_as_the_table_says(
        first in 0..OPERANDS.len(), rest in proptest::collection::vec((operator(), 0..OPERANDS.len()), 1..7),
    ) {
        let (operators, mut operands): (Vec<_>, Vec<_>) = rest.into_iter().unzip();
        operands.insert(0, first);
        let mut flat = OPERANDS[first].0.to_owned();
        for ((tightness, which), operand) in operators.iter().zip(&operands[1..]) {
            flat += &format!(" {} {}", OPERATORS[*tightness][*which], OPERANDS[*operand].0);
        }
        let full = parenthesised(&operands, &operators);
        match (Condition::parse(&flat), Condition::parse(&full)) {
            (Ok(one), Ok(other)) => {
                prop_assert_eq!(one.to_string(), other.to_string(), "{}", full);
                prop_assert_eq!(evaluate(&sample(), &flat), evaluate(&sample(), &full), "{}", full);
            }
            (Err(_), Err(_)) => {}
            (one, other) => prop_assert!(false, "{flat}: {one:?}; {full}: {other:?}"),
        }
    }

    #[test]
    fn skipping_what_is_settled_changes_nothing(a in logical()) {
        let sample = sample();
        let condition = Condition::parse(&a).unwrap();
        // An explanation evaluates every part.
        let (short, shorter, all) = with_facts(&sample, &condition, |facts| {
            (condition.evaluate(facts), condition.is_true(facts), condition.explain(facts))
        });
        prop_assert_eq!(short, all.truth);
        prop_assert_eq!(shorter, all.truth == Truth::True);
    }

    /// The usual forms are executed as one step; an explanation goes through all of theirs.
    #[test]
    fn one_step_for_a_property_and_a_constant_gives_what_its_steps_give(
        value in proptest::option::of("[aAb]{0,2}|-?[0-9]{1,2}( |\\.5)?"), text in "[aAb]{0,2}", number in -12..12i32,
        form in 0..11usize,
    ) {
        let condition = match form {
            0 => format!("p = '{text}'"),
            1 => format!("'{text}' = p"),
            2 => format!("p != '{text}'"),
            3 => format!("starts_with(p, '{text}')"),
            4 => format!("ends_with(p, '{text}')"),
            5 => format!("contains(p, '{text}')"),
            form => format!("as_number(p) {} {number}", ["<", "<=", ">", ">=", "="][form - 6]),
        };
        let condition = Condition::parse(&condition).unwrap();
        prop_assert_eq!(condition.0.code.len(), 1);
        let sample = Sample::parse(&serde_json::json!({ "properties": { "P": value } }).to_string()).unwrap();
        let (short, shorter, all) = with_facts(&sample, &condition, |facts| {
            (condition.evaluate(facts), condition.is_true(facts), condition.explain(facts))
        });
        prop_assert_eq!((short, shorter), (all.truth, all.truth == Truth::True));
        prop_assert_eq!(all.steps.iter().filter(|step| &*step.text == "p").count(), 1);
    }

    #[test]
    fn what_reads_prints_and_reads_back_to_the_same(text in prop_oneof![tokens(), logical()]) {
        if let Ok(condition) = Condition::parse(&text) {
            let printed = condition.to_string();
            let again = Condition::parse(&printed).map_err(|error| TestCaseError::fail(format!("{printed}: {error}")))?;
            prop_assert_eq!(again.to_string(), printed.clone());
            let sample = sample();
            prop_assert_eq!(evaluate(&sample, &printed), evaluate(&sample, &text), "{}", printed);
        }
    }

    #[test]
    fn comparisons_of_body_values_are_an_order(a in 0..5usize, b in 0..5usize) {
        let sample = sample();
        let paths = ["$body.f", "$body.n", "$body.s", "$body.null", "$body.list[0]"];
        let is = |how: &str| evaluate(&sample, &format!("{} {how} {}", paths[a], paths[b]));
        let orders = [is("<"), is("="), is(">")];
        prop_assert_eq!(orders.iter().filter(|truth| **truth == Truth::True).count(), 1);
        prop_assert_eq!(is("<="), kleene_not(is(">")));
        prop_assert_eq!(is("!="), kleene_not(is("=")));
    }

    #[test]
    fn no_text_makes_reading_panic(text in "\\PC{0,60}") {
        let _ = Condition::parse(&text);
    }
}
