//! The fields of one object, taken by name in any case; what is left over is unknown.

use super::{
    findings::{At, Findings, shown},
    json::Node,
};

/// A value and where it stands.
pub(super) struct Field<'a> {
    pub(super) node: &'a Node,
    pub(super) at: At,
}

/// An object that is being read.
pub(super) struct Fields<'a> {
    at: At,
    entries: &'a [(String, Node)],
    used: Vec<bool>,
    known: Vec<&'static str>,
}

impl<'a> Field<'a> {
    /// The object in it, to be read; a fault and none if it is something else.
    pub(super) fn fields(&self, found: &mut Findings) -> Option<Fields<'a>> {
        let entries = self.entries(found)?;
        Some(Fields { at: self.at.clone(), entries, used: vec![false; entries.len()], known: Vec::new() })
    }

    /// The keys and values of the object in it; a fault and none if it is something else.
    pub(super) fn entries(&self, found: &mut Findings) -> Option<&'a [(String, Node)]> {
        match self.node {
            Node::Object(entries) => Some(entries),
            _ => self.expected("an object", found),
        }
    }

    /// The items of the list in it; a fault and none if it is something else.
    pub(super) fn items(&self, found: &mut Findings) -> Option<impl Iterator<Item = Field<'a>> + use<'a>> {
        let Node::List(items) = self.node else { return self.expected("a list", found) };
        let at = self.at.clone();
        Some(items.iter().enumerate().map(move |(index, node)| Field { node, at: at.index(index) }))
    }

    /// The string in it; a fault and none if it is something else.
    pub(super) fn text(&self, found: &mut Findings) -> Option<&'a str> {
        match self.node {
            Node::Text(text) => Some(text),
            _ => self.expected("a string", found),
        }
    }

    /// Says what should stand here.
    pub(super) fn expected<T>(&self, what: &str, found: &mut Findings) -> Option<T> {
        found.fault(&self.at, format!("expected {what}, found {}", self.node.kind()));
        None
    }
}

impl<'a> Fields<'a> {
    /// Where the object stands.
    pub(super) fn at(&self) -> &At {
        &self.at
    }

    /// Takes a field, whatever is in it. The same name in two spellings is a fault: readers differ in which one they take.
    pub(super) fn take(&mut self, name: &'static str, found: &mut Findings) -> Option<Field<'a>> {
        self.known.push(name);
        let mut taken: Option<(&'a str, Field<'a>)> = None;
        for (index, (key, node)) in self.entries.iter().enumerate() {
            if !key.eq_ignore_ascii_case(name) {
                continue;
            }
            self.used[index] = true;
            let at = self.at.key(key);
            if let Some((first, _)) = &taken
                && first != key
            {
                found.fault(&at, format!("`{first}` and `{key}` are the same key: its case does not count"));
            }
            taken = Some((key, Field { node, at }));
        }
        taken.map(|(_, field)| field)
    }

    /// Takes a field; null is as good as missing.
    pub(super) fn optional(&mut self, name: &'static str, found: &mut Findings) -> Option<Field<'a>> {
        self.take(name, found).filter(|field| *field.node != Node::Null)
    }

    /// Takes a field that may be missing, but may not be null.
    pub(super) fn not_null(&mut self, name: &'static str, found: &mut Findings) -> Option<Field<'a>> {
        let field = self.take(name, found)?;
        if *field.node == Node::Null {
            found.fault_hint(&field.at, "may not be null", "leave the key out for its default");
            return None;
        }
        Some(field)
    }

    /// Takes a field that must be there and may not be null.
    pub(super) fn required(&mut self, name: &'static str, found: &mut Findings) -> Option<Field<'a>> {
        match self.take(name, found) {
            Some(field) if *field.node == Node::Null => {
                found.fault(&field.at, "may not be null");
                None
            }
            Some(field) => Some(field),
            None => {
                let at = self.at.key(name);
                match found.nearest(name, self.left().map(|(key, _)| key)) {
                    Some(other) => found.fault_hint(&at, "is missing", format!("is `{}` meant for it?", shown(other))),
                    None => found.fault(&at, "is missing"),
                }
                None
            }
        }
    }

    /// Takes the fields whose key `number` gives a number to, sorted by it.
    pub(super) fn numbered(&mut self, number: impl Fn(&str) -> Option<u32>) -> Vec<(u32, Field<'a>)> {
        let mut taken = Vec::new();
        for (index, (key, node)) in self.entries.iter().enumerate() {
            if let Some(number) = number(key) {
                self.used[index] = true;
                taken.push((number, Field { node, at: self.at.key(key) }));
            }
        }
        taken.sort_by_key(|(number, _)| *number);
        taken
    }

    /// Takes what is left over.
    pub(super) fn rest(&mut self) -> Vec<(&'a str, Field<'a>)> {
        let rest = self.left().map(|(key, node)| (key, Field { node, at: self.at.key(key) })).collect();
        self.used.fill(true);
        rest
    }

    /// What is left over is unknown and ignored, as IoT Edge does, but said.
    pub(super) fn warn_of_rest(mut self, found: &mut Findings) {
        for (key, field) in self.rest() {
            let hint = found.nearest(key, self.known.iter().copied()).map(|name| format!("did you mean `{name}`?"));
            found.warn_hint(&field.at, "unknown key, ignored", hint);
        }
    }

    /// What is left over is a fault: these are our own keys, and a misspelt limit would be no limit.
    pub(super) fn refuse_rest(mut self, found: &mut Findings) {
        let known = self.known.join("`, `");
        for (key, field) in self.rest() {
            let hint = match found.nearest(key, self.known.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("known here: `{known}`"),
            };
            found.fault_hint(&field.at, "unknown key", hint);
        }
    }

    fn left(&self) -> impl Iterator<Item = (&'a str, &'a Node)> + '_ {
        let unused = self.entries.iter().zip(&self.used).filter(|(_, used)| !**used);
        unused.map(|((key, node), _)| (key.as_str(), node))
    }
}
