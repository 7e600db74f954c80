//! Where something stands in a document, and what was found there.

use std::rc::Rc;

use super::{Finding, suggest};

/// Most findings of a kind that are told one by one, and kept. Nobody reads more, and a hostile manifest could have 100,000.
const MAX_FINDINGS: usize = 100;

/// Names that are compared for the hints of one reading: 50 modules and 200 misspelt routes. Not twice as many, because
/// a comparison of two long names takes microseconds, and a hostile manifest could ask for a thousand million.
const MAX_COMPARISONS: usize = 10_000;

/// A JSON path. Written out only for a finding that is kept: a hostile document has 100,000 places below a long path.
#[derive(Debug, Clone)]
pub(super) struct At(Option<Rc<Step>>);

#[derive(Debug)]
struct Step {
    above: At,
    /// `.key`, `[3]`, or a place in another notation.
    text: String,
}

impl At {
    pub(super) fn root() -> Self {
        Self(None)
    }

    pub(super) fn line(line: usize, column: usize) -> Self {
        Self::root().step(format!("line {line}, column {column}"))
    }

    pub(super) fn key(&self, key: &str) -> Self {
        let dot = if self.0.is_none() { "" } else { "." };
        self.step(format!("{dot}{}", shown(key)))
    }

    pub(super) fn index(&self, index: usize) -> Self {
        self.step(format!("[{index}]"))
    }

    /// A path below this one, in the same notation; empty for this one.
    pub(super) fn below(&self, path: &str) -> Self {
        if path.is_empty() { self.clone() } else { self.step(format!(".{path}")) }
    }

    fn step(&self, text: String) -> Self {
        Self(Some(Rc::new(Step { above: self.clone(), text })))
    }

    fn written(&self) -> String {
        let steps = std::iter::successors(self.0.as_deref(), |step| step.above.0.as_deref());
        let mut texts: Vec<&str> = steps.map(|step| step.text.as_str()).collect();
        texts.reverse();
        texts.concat()
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
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) faults: List,
    pub(super) warnings: List,
    pub(super) notes: List,
    comparisons_left: usize,
}

/// Findings of a kind: the first ones, and how many more there were.
#[derive(Debug, Default)]
pub(super) struct List {
    kept: Vec<Finding>,
    more: usize,
}

impl Default for Findings {
    fn default() -> Self {
        let [faults, warnings, notes] = Default::default();
        Self { faults, warnings, notes, comparisons_left: MAX_COMPARISONS }
    }
}

impl Findings {
    pub(super) fn fault(&mut self, at: &At, message: impl Into<String>) {
        self.faults.add(at, message, None);
    }

    pub(super) fn fault_hint(&mut self, at: &At, message: impl Into<String>, hint: impl Into<String>) {
        self.faults.add(at, message, Some(hint.into()));
    }

    pub(super) fn warn(&mut self, at: &At, message: impl Into<String>) {
        self.warnings.add(at, message, None);
    }

    pub(super) fn warn_hint(&mut self, at: &At, message: impl Into<String>, hint: Option<String>) {
        self.warnings.add(at, message, hint);
    }

    pub(super) fn note(&mut self, at: &At, message: impl Into<String>) {
        self.notes.add(at, message, None);
    }

    /// The one of `names` that was probably meant by `text`; none, too, once this reading has compared enough.
    pub(super) fn nearest<'a>(&mut self, text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
        let names = names.into_iter().take(self.comparisons_left);
        let left = &mut self.comparisons_left;
        suggest::nearest(text, names.inspect(|_| *left -= 1))
    }
}

impl List {
    fn add(&mut self, at: &At, message: impl Into<String>, hint: Option<String>) {
        if self.kept.len() < MAX_FINDINGS {
            self.kept.push(Finding { at: at.written(), message: message.into(), hint });
        } else {
            self.more += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// The findings that people read, and the number of the others.
    pub(super) fn told(mut self) -> Vec<Finding> {
        if self.more > 0 {
            self.kept.push(Finding { at: String::new(), message: format!("and {} more", self.more), hint: None });
        }
        self.kept
    }
}
