//! What guests report, and how they answer changes of their desired properties: what must hold of it whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::time::now;

/// Modules that nothing happens to report once in so many milliseconds.
const RECENT: u64 = 300_000;

/// Of all modules, over all lives of the host.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    modules: BTreeMap<String, Module>,
    pub(crate) broken: Vec<String>,
}

#[derive(Debug, Default)]
struct Module {
    /// The number of the last report.
    made: u64,
    /// When that was made.
    made_at: u64,
    /// The last one that was stored, and the version that it led to.
    stored: u64,
    version: u64,
    /// The answers so far: the version, and the words.
    answers: BTreeSet<(u64, String)>,
    last_answer: Option<(u64, String)>,
}

/// A guest's answer to a change, in the manner of HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) words: String,
}

impl Reports {
    /// Whether a module has reported in the last minutes.
    pub(crate) fn are_recent(&self, module: &str) -> bool {
        self.modules.get(module).is_some_and(|of| now() < of.made_at + RECENT)
    }

    /// A module reports. Returns the number of this report, and its patch: it leaves no trace of the one before.
    pub(crate) fn make(&mut self, module: &str) -> (u64, String) {
        let Module { made, made_at, .. } = self.modules.entry(module.into()).or_default();
        (*made, *made_at) = (*made + 1, now());
        let others = ["x", "y", "z"].map(|key| (key.to_owned(), Value::Null));
        let mut patch = Map::from_iter(others);
        patch.extend(shape(*made));
        (*made, Value::from(patch).to_string())
    }

    /// It was stored, and led to this version.
    pub(crate) fn stored(&mut self, module: &str, number: u64, version: u64) {
        let of = self.modules.entry(module.into()).or_default();
        let rises = (number > of.stored) == (version > of.version);
        if number > of.stored {
            (of.stored, of.version) = (number, version);
        }
        self.check(rises, "versions of reported properties rise", module);
    }

    /// The disk has lost what was stored last, or has kept what was refused.
    pub(crate) fn forget(&mut self, module: &str) {
        self.modules.entry(module.into()).or_default().stored = 0;
    }

    /// A module answers a change that has led to this version.
    pub(crate) fn answers(&mut self, module: &str, version: u64, answer: Option<&Answer>) {
        let of = self.modules.entry(module.into()).or_default();
        of.last_answer = answer.map(|answer| (version, text(answer.code, &answer.words)));
        of.answers.extend(of.last_answer.clone());
    }

    /// What a module's twin holds now.
    pub(crate) fn invariant_reports_are_kept(&mut self, module: &str, reported: &Value, version: u64) {
        let of = self.modules.entry(module.into()).or_default();
        let mut rest = reported.as_object().cloned().unwrap_or_default();
        let acknowledged = rest.remove("desiredAck").map(|ack| read(&ack));
        let number = rest.get("n").and_then(Value::as_u64).unwrap_or(0);
        let is_whole = rest == shape(number) && number <= of.made;
        let (is_kept, is_known) = (number >= of.stored, acknowledged.is_none_or(|ack| of.answers.contains(&ack)));
        let rises = version >= of.version;
        self.check(is_whole, "a report is taken as a whole or not at all", module);
        self.check(is_kept, "what was reported is kept", module);
        self.check(is_known, "`desiredAck` is what the module has answered", module);
        self.check(rises, "versions of reported properties never fall", module);
    }

    /// Nothing has failed since the module was told of this version.
    pub(crate) fn invariant_the_last_answer_is_kept(&mut self, module: &str, reported: &Value, version: u64) {
        let of = self.modules.entry(module.into()).or_default();
        let Some(last) = &of.last_answer else { return };
        let (is_newest, is_kept) = (last.0 == version, read(&reported["desiredAck"]) == *last);
        self.check(is_newest, "a module that runs is told of the newest desired properties", module);
        self.check(is_kept, "`desiredAck` is the last answer", module);
    }

    fn check(&mut self, holds: bool, name: &str, module: &str) {
        if !holds {
            self.broken.push(format!("{name}: {module} at {} ms", now()));
        }
    }
}

/// The reported properties after so many reports. Each replaces an object, a number or nothing by another of these.
fn shape(number: u64) -> Map<String, Value> {
    let rest = match number % 4 {
        0 => json!({}),
        1 => json!({ "x": { "of": number } }),
        2 => json!({ "x": number, "y": { "z": { "of": number } } }),
        _ => json!({ "z": { "of": number, "odd": true } }),
    };
    let mut shape = rest.as_object().cloned().unwrap_or_default();
    if number > 0 {
        shape.insert("n".into(), number.into());
    }
    shape
}

fn text(code: u16, words: &str) -> String {
    format!("{code} {words}")
}

fn read(ack: &Value) -> (u64, String) {
    let code = ack["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
    (ack["version"].as_u64().unwrap_or(0), text(code, ack["description"].as_str().unwrap_or_default()))
}
