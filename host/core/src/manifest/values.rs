//! Scalars with a meaning: words of a list, numbers within bounds, durations, sizes, versions.

use std::{fmt::Display, ops::RangeInclusive, time::Duration};

use super::{
    fields::Field,
    findings::{Findings, shown},
    json::Node,
};
use crate::time::UtcMillis;

/// One of a few words, in any case.
pub(super) fn word<T: Copy>(field: &Field<'_>, what: &str, words: &[(&str, T)], found: &mut Findings) -> Option<T> {
    let text = field.text(found)?;
    let known = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    if known.is_none() {
        let list = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        found.fault(&field.at, format!("unknown {what} `{}` ({list})", shown(text)));
    }
    known.map(|(_, value)| *value)
}

/// A text with more than white space in it, trimmed.
pub(super) fn non_blank<'a>(field: &Field<'a>, found: &mut Findings) -> Option<&'a str> {
    let text = field.text(found)?.trim();
    if text.is_empty() {
        found.fault(&field.at, "may not be empty");
        return None;
    }
    Some(text)
}

/// A whole number within bounds.
pub(super) fn integer<N>(field: &Field<'_>, bounds: RangeInclusive<N>, found: &mut Findings) -> Option<N>
where
    N: TryFrom<i64> + PartialOrd + Display,
{
    let number = match field.node {
        Node::Number(number) => number.as_i64().and_then(|number| N::try_from(number).ok()),
        _ => return field.expected("a whole number", found),
    };
    let number = number.filter(|number| bounds.contains(number));
    if number.is_none() {
        let (least, greatest) = (bounds.start(), bounds.end());
        found.fault(&field.at, format!("expected a whole number from {least} to {greatest}"));
    }
    number
}

/// `500ms`, `5s`, `2m`, `1h`. A bare 0 is allowed where the bounds allow it; any other bare number does not say its unit.
pub(super) fn duration(field: &Field<'_>, bounds: RangeInclusive<Duration>, found: &mut Findings) -> Option<Duration> {
    const EXAMPLES: &str = "write it as \"500ms\", \"5s\", \"2m\" or \"1h\"";
    let duration = match field.node {
        Node::Number(number) if number.as_u64() == Some(0) => Some(Duration::ZERO),
        Node::Number(_) => {
            found.fault_hint(&field.at, "a number does not say its unit", EXAMPLES);
            return None;
        }
        Node::Text(text) => parse_duration(text),
        _ => return field.expected("a duration", found),
    };
    let Some(duration) = duration else {
        found.fault_hint(&field.at, format!("{} is not a duration", quoted(field.node)), EXAMPLES);
        return None;
    };
    if !bounds.contains(&duration) {
        let (least, greatest) = (in_words(*bounds.start()), in_words(*bounds.end()));
        found.fault(&field.at, format!("expected a duration from {least} to {greatest}"));
        return None;
    }
    Some(duration)
}

/// Whole bytes, or `512KiB`, `64MiB`, `1GiB`.
pub(super) fn bytes(field: &Field<'_>, bounds: RangeInclusive<u64>, found: &mut Findings) -> Option<u64> {
    let bytes = match field.node {
        Node::Number(number) => number.as_u64(),
        Node::Text(text) => parse_bytes(text),
        _ => return field.expected("a size", found),
    };
    let Some(bytes) = bytes else {
        let message = format!("{} is not a size", quoted(field.node));
        found.fault_hint(&field.at, message, "write bytes as a number, or \"512KiB\", \"64MiB\", \"1GiB\"");
        return None;
    };
    if !bounds.contains(&bytes) {
        let (least, greatest) = (bounds.start(), bounds.end());
        found.fault(&field.at, format!("expected {least} to {greatest} bytes, found {bytes}"));
        return None;
    }
    Some(bytes)
}

/// `512KiB`, `64MiB`, `1GiB`: as [`bytes`] reads it, in the largest unit that is exact.
pub(super) fn size(bytes: u64) -> String {
    let unit = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift));
    match unit {
        Some((shift, name)) => format!("{}{name}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// A dotted version of two to four numbers, as .NET reads them; at most major, minor and the third matter.
pub(super) fn schema_version(field: &Field<'_>, found: &mut Findings) -> Option<(u32, u32, u32)> {
    let Node::Text(text) = field.node else {
        found.fault_hint(
            &field.at,
            format!("expected a string, found {}", field.node.kind()),
            "write the version in quotes: \"1.1\"",
        );
        return None;
    };
    let numbers: Option<Vec<u32>> = text.split('.').map(digits).collect();
    match numbers.as_deref() {
        Some([major, minor]) => Some((*major, *minor, 0)),
        Some([major, minor, third] | [major, minor, third, _]) => Some((*major, *minor, *third)),
        _ => {
            found.fault(&field.at, format!("`{}` is not a version such as \"1.1\"", shown(text)));
            None
        }
    }
}

/// A time as RFC 3339. What is written for none, as .NET does (`0001-01-01T00:00:00Z`), is none.
pub(super) fn time(field: &Field<'_>, found: &mut Findings) -> Option<UtcMillis> {
    let text = field.text(found)?;
    let time = UtcMillis::parse(text);
    if time.is_none() {
        let message = format!("`{}` is not a time such as \"2026-01-31T12:00:00Z\"", shown(text));
        found.fault(&field.at, message);
    }
    time.filter(|_| !text.starts_with("0001-01-01"))
}

/// Digits only: `parse` alone would take `+1`.
fn digits<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(factor).map(Duration::from_millis)
}

fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    Some((digits(number)?, unit))
}

fn in_words(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0".into(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

fn quoted(node: &Node) -> String {
    match node {
        Node::Text(text) => format!("`{}`", shown(text)),
        Node::Number(number) => format!("`{number}`"),
        other => other.kind().to_owned(),
    }
}
