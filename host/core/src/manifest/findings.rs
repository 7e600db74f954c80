//! Where something stands in a document, and what was found there.

use super::Finding;

/// Most findings of a kind that are told one by one. Nobody reads more, and a hostile manifest could have 100,000.
const MAX_FINDINGS: usize = 100;

/// A JSON path.
#[derive(Debug, Clone)]
pub(super) struct At(String);

impl At {
    pub(super) fn root() -> Self {
        Self(String::new())
    }

    pub(super) fn line(line: usize, column: usize) -> Self {
        Self(format!("line {line}, column {column}"))
    }

    pub(super) fn key(&self, key: &str) -> Self {
        let dot = if self.0.is_empty() { "" } else { "." };
        Self(format!("{}{dot}{}", self.0, shown(key)))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// A path below this one, in the same notation; empty for this one.
    pub(super) fn below(&self, path: &str) -> Self {
        if path.is_empty() { self.clone() } else { Self(format!("{}.{path}", self.0)) }
    }
}

/// Text from the document, fit for one line of a message.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut shown: String = text.chars().take(LONGEST).flat_map(escape_control).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

fn escape_control(c: char) -> impl Iterator<Item = char> {
    let plain = (!c.is_control()).then_some(c);
    plain.into_iter().chain(c.escape_default().filter(move |_| plain.is_none()))
}

/// Everything found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) faults: Vec<Finding>,
    pub(super) warnings: Vec<Finding>,
    pub(super) notes: Vec<Finding>,
}

impl Findings {
    pub(super) fn fault(&mut self, at: &At, message: impl Into<String>) {
        self.faults.push(finding(at, message.into(), None));
    }

    pub(super) fn fault_hint(&mut self, at: &At, message: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(finding(at, message.into(), Some(hint.into())));
    }

    pub(super) fn warn(&mut self, at: &At, message: impl Into<String>) {
        self.warnings.push(finding(at, message.into(), None));
    }

    pub(super) fn warn_hint(&mut self, at: &At, message: impl Into<String>, hint: Option<String>) {
        self.warnings.push(finding(at, message.into(), hint));
    }

    pub(super) fn note(&mut self, at: &At, message: impl Into<String>) {
        self.notes.push(finding(at, message.into(), None));
    }
}

/// The list cut to a length that people read.
pub(super) fn bounded(mut findings: Vec<Finding>) -> Vec<Finding> {
    let more = findings.len().saturating_sub(MAX_FINDINGS);
    if more > 0 {
        findings.truncate(MAX_FINDINGS);
        findings.push(finding(&At::root(), format!("and {more} more"), None));
    }
    findings
}

fn finding(at: &At, message: String, hint: Option<String>) -> Finding {
    Finding { at: at.0.clone(), message, hint }
}
