//! JSON as it was written: keys in their order, and twice if they stand there twice. Knows nothing of manifests.

use std::{collections::BTreeSet, fmt};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::findings::{At, Findings, shown};
use crate::wide::WideIntegers;

/// A JSON value. At most 128 levels deep, the parser's limit, so that recursion over it is safe.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

/// Why a text is not JSON, and where.
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

/// Reads a text.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let full = error.to_string();
        let place = format!(" at line {line} column {column}");
        let message = full.strip_suffix(&place).unwrap_or(&full).to_owned();
        SyntaxError { line, column, message }
    })
}

/// Reports every key that stands twice in its object: parsers keep one of the two, and not all keep the same.
pub(super) fn report_duplicates(node: &Node, at: &At, found: &mut Findings) {
    match node {
        Node::Object(entries) => {
            let mut seen = BTreeSet::new();
            for (key, value) in entries {
                let at = at.key(key);
                if !seen.insert(key) {
                    found.fault(&at, format!("the key `{}` stands twice in its object", shown(key)));
                }
                report_duplicates(value, &at, found);
            }
        }
        Node::List(items) => {
            for (index, item) in items.iter().enumerate() {
                report_duplicates(item, &at.index(index), found);
            }
        }
        Node::Null | Node::Bool(_) | Node::Number(_) | Node::Text(_) => {}
    }
}

/// Reports every integer that 64 bits do not hold: it would be another number, and in a twin one that IoT Hub refuses.
pub(super) fn report_wide_integers(node: &Node, at: &At, wide: &WideIntegers<'_>, found: &mut Findings) {
    match node {
        Node::Number(number) => {
            if let Some(written) = wide.written(number) {
                let message = format!("`{}` is too large for an integer", shown(written));
                found.fault_hint(at, message, "write it as a string, or with `.0` as a floating-point number");
            }
        }
        Node::Object(entries) => {
            entries.iter().for_each(|(key, value)| report_wide_integers(value, &at.key(key), wide, found));
        }
        Node::List(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(index, item)| report_wide_integers(item, &at.index(index), wide, found));
        }
        Node::Null | Node::Bool(_) | Node::Text(_) => {}
    }
}

impl Node {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// The same for documents that are kept: of a key that stands twice the last one.
    pub(super) fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(number) => Value::Number(number.clone()),
            Self::Text(text) => Value::String(text.clone()),
            Self::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Self::Object(entries) => Value::Object(to_map(entries)),
        }
    }
}

/// See [`Node::to_value`].
pub(super) fn to_map(entries: &[(String, Node)]) -> Map<String, Value> {
    entries.iter().map(|(key, value)| (key.clone(), value.to_value())).collect()
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Node, E> {
        Number::from_f64(value).map(Node::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        Ok(Node::Object(object))
    }
}
