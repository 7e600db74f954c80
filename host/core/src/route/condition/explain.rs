//! Tells why a condition came out as it did: the value of each part, and where an undefined one comes from.

use std::fmt;

use super::{
    Facts, Found, Program, Truth, Value,
    eval::{Run, Skip},
    made::Texts,
    op::{Op, Type},
    print::Tree,
    text::quote,
};

/// How a condition came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The result.
    pub truth: Truth,
    /// The parts that are no literals, each before its own parts.
    pub steps: Vec<Step>,
}

/// A part of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// How deep it stands; 0 is the whole condition.
    pub depth: usize,
    /// As written.
    pub text: Box<str>,
    /// Its value, as a condition would write it.
    pub value: Box<str>,
    /// Why it is undefined or surprising, if that begins here.
    pub why: Option<Box<str>>,
}

impl Program {
    pub(super) fn explain<F: Facts + ?Sized>(&self, facts: &F) -> Explanation {
        let mut values = vec![Value::Undefined; self.ops.len()];
        let (texts, mut stack) = (Texts::default(), vec![Value::Undefined; self.depth]);
        let mut run = Run::new(self, facts, &texts, &mut stack);
        let result = *run.steps(&self.ops, Skip::Nothing, &mut |at, value| values[at] = *value);
        let tree = Tree::new(self);
        let (mut steps, mut waiting) = (Vec::new(), vec![(self.ops.len() - 1, 0)]);
        while let Some((at, depth)) = waiting.pop() {
            let op = self.ops[at];
            let literal = matches!(op, Op::Null | Op::Bool(_) | Op::Number(_) | Op::Text(_));
            if !literal || depth == 0 {
                let operands: Vec<&Value<'_>> = tree.operands(at).iter().map(|operand| &values[*operand]).collect();
                let whole = if depth == 0 { self.why_whole(&values[at]) } else { None };
                let why = self.why(op, &values[at], &operands, facts).or(whole);
                steps.push(Step {
                    depth,
                    text: self.text_of(at).into(),
                    value: values[at].to_string().into(),
                    why: why.map(Into::into),
                });
            }
            waiting.extend(tree.operands(at).iter().rev().map(|operand| (*operand, depth + 1)));
        }
        Explanation { truth: self.truth(&result), steps }
    }

    fn text_of(&self, at: usize) -> &str {
        let span = self.spans[at];
        self.text.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    /// Only where it begins: a part is not explained again by what it is a part of.
    fn why<F: Facts + ?Sized>(&self, op: Op, value: &Value<'_>, operands: &[&Value<'_>], facts: &F) -> Option<String> {
        let undefined = *value == Value::Undefined;
        match op {
            Op::Body { path, .. } | Op::PropertyOrBody { path, .. } => {
                why_body(facts.body(path as usize), value, facts)
            }
            Op::Property(name) if undefined => Some(format!("the message has no property `{}`", self.name(name))),
            Op::PropertyOrSystem(name) if undefined => {
                let name = self.name(name);
                Some(format!("the message has neither a property `{name}` nor a system property `{}`", &name[1..]))
            }
            Op::System(name) if undefined => {
                Some(format!("the message has no system property `{}`", &self.name(name)[1..]))
            }
            Op::Nothing(_) => Some("only a path into the body, `$body.…`, may have an index".into()),
            Op::Undefined if self.text.is_empty() => Some("an empty condition is undefined".into()),
            Op::Compare { body: true, .. } if !undefined && different_kinds(operands) => {
                Some("values of different kinds: true and false come first, then numbers, texts, null".into())
            }
            _ if undefined && operands.iter().all(|operand| **operand != Value::Undefined) => {
                let given: Vec<String> = operands.iter().map(ToString::to_string).collect();
                match op {
                    Op::Undefined => None,
                    _ => Some(format!("it has no value for {}", given.join(" and "))),
                }
            }
            _ => None,
        }
    }

    /// Why the value of the whole is no truth value.
    fn why_whole(&self, value: &Value<'_>) -> Option<String> {
        match (self.result, value) {
            (Type::Bool | Type::Undefined | Type::Null, _) | (_, Value::Undefined | Value::Bool(_)) => None,
            (Type::Body, value) => Some(format!("the result must be true or false, and the body has {value}")),
            (ty, _) => Some(format!("the result must be true or false, and this is {ty}")),
        }
    }
}

fn why_body<F: Facts + ?Sized>(found: &Found<'_>, value: &Value<'_>, facts: &F) -> Option<String> {
    // A property of that name stands in for the body.
    if matches!(value, Value::Text(_)) && !matches!(found, Found::Text(_)) {
        return Some("a property of this name comes before the body".into());
    }
    match found {
        Found::Missing => Some("the body has no such path: counts as null".into()),
        Found::Container => Some("an object or array is undefined".into()),
        Found::DateTime => Some("a string in the form of a date and time is undefined".into()),
        Found::Unreadable => facts.body_fault(),
        _ => None,
    }
}

fn different_kinds(operands: &[&Value<'_>]) -> bool {
    let kind = |value: &Value<'_>| match value {
        Value::Undefined => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::Text(_) | Value::NullText => 3,
        Value::Null | Value::Missing => 4,
    };
    matches!(operands, [left, right] if kind(left) != kind(right))
}

/// As a condition would write it.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Undefined => f.write_str("undefined"),
            Value::Missing | Value::Null | Value::NullText => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(value) if value.is_infinite() => f.write_str(if *value < 0.0 { "-1 / 0" } else { "1 / 0" }),
            Value::Number(value) => write!(f, "{value}"),
            Value::Text(text) => f.write_str(&quote(text)),
        }
    }
}
