//! Reads TOML values with their place, and gathers all faults. Knows no key of `marram.toml`.

use std::{borrow::Cow, ops::Range};

use marram_core::manifest::Finding;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A key and its value, as they stand in the file.
pub(super) type Entry<'v, 't> = (&'v Spanned<Cow<'t, str>>, &'v Spanned<DeValue<'t>>);

/// A text that is being read.
pub(super) struct Reader<'t> {
    text: &'t str,
    pub(super) faults: Vec<Finding>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, faults: Vec::new() }
    }

    /// The document; what cannot be read of it is left out.
    pub(super) fn parse(&mut self) -> Spanned<DeTable<'t>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            self.fault(error.span().unwrap_or_default(), "", error.message().to_owned());
        }
        table
    }

    pub(super) fn string(&mut self, at: &str, value: &Spanned<DeValue<'_>>) -> Option<String> {
        match value.get_ref().as_str() {
            Some("") => self.fault(value.span(), at, "may not be empty".into()),
            Some(text) => return Some(text.to_owned()),
            None => self.wrong_type(at, value, "a string"),
        }
        None
    }

    pub(super) fn strings(&mut self, at: &str, value: &Spanned<DeValue<'_>>) -> Vec<String> {
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(at, value, "an array of strings");
            return Vec::new();
        };
        array.iter().filter_map(|value| self.string(at, value)).collect()
    }

    /// A whole number, not negative.
    pub(super) fn number(&mut self, at: &str, value: &Spanned<DeValue<'_>>) -> Option<u64> {
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong_type(at, value, "a whole number");
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        if number.is_none() {
            self.fault(value.span(), at, format!("`{}` is out of range", integer.as_str()));
        }
        number
    }

    pub(super) fn table<'v, 'd>(&mut self, at: &str, value: &'v Spanned<DeValue<'d>>) -> Vec<Entry<'v, 'd>> {
        match value.get_ref().as_table() {
            Some(table) => entries(table),
            None => {
                self.wrong_type(at, value, "a table");
                Vec::new()
            }
        }
    }

    /// What a check of its own says about a value.
    pub(super) fn checked<T>(&mut self, at: &str, span: Range<usize>, result: Result<T, String>) -> Option<T> {
        result.map_err(|why| self.fault(span, at, why)).ok()
    }

    pub(super) fn unknown(&mut self, section: &str, key: &Spanned<Cow<'_, str>>, known: &[&str]) {
        let name = key.get_ref();
        let at = if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
        let hint = match nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", known.join(", ")),
        };
        let place = self.place(key.span());
        self.faults.push(Finding { at: place, message: format!("{at}: unknown key"), hint: Some(hint) });
    }

    pub(super) fn fault(&mut self, span: Range<usize>, at: &str, why: String) {
        let message = if at.is_empty() { why } else { format!("{at}: {why}") };
        self.faults.push(Finding { at: self.place(span), message, hint: None });
    }

    fn wrong_type(&mut self, at: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let found = value.get_ref().type_str();
        self.fault(value.span(), at, format!("expected {expected}, found {found}"));
    }

    /// `line 3, column 7`, from 1, counted in characters.
    fn place(&self, span: Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        format!("line {line}, column {column}")
    }
}

/// The entries of a table in the order of the file.
pub(super) fn entries<'v, 'd>(table: &'v DeTable<'d>) -> Vec<Entry<'v, 'd>> {
    let mut entries: Vec<Entry<'v, 'd>> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// The known key that a slip of the keyboard makes this one: at most two letters off, whatever the separators.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let squeeze = |key: &str| key.to_lowercase().replace(['-', '_'], "");
    let name = squeeze(name);
    let close = known.iter().map(|key| (distance(&name, &squeeze(key)), *key)).filter(|(distance, _)| *distance <= 2);
    close.min().map(|(_, key)| key)
}

/// Levenshtein's, over bytes; keys are short.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replace = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_key_that_was_meant() {
        let known = ["plain-http", "default", "credentials"];
        assert_eq!(nearest("plain_http", &known), Some("plain-http"));
        assert_eq!(nearest("plainHttp", &known), Some("plain-http"));
        assert_eq!(nearest("defualt", &known), Some("default"));
        assert_eq!(nearest("proxy", &known), None);
    }
}
