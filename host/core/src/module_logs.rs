//! `GetModuleLogs` of IoT Edge, schema 1.0: which lines of which modules somebody wants, and how they are written. Reads no log.
//!
//! After `LogsRequestToOptionsMapper`, `LogsProcessor` and `LogMessageParser` of edgeAgent. Departures: patterns are those of
//! `regex-lite` (no look-around, no back references, classes and `(?i)` of ASCII), and `tail` counts the lines that the other
//! filters leave.

mod line;
mod moment;

use std::sync::Arc;

use regex_lite::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

pub use self::line::Line;
use self::moment::Moment;
use crate::{name::ModuleName, time::UtcMillis};

/// A pattern takes at most so many bytes of program. Together with the bound of a module's log it bounds the time of a search.
const MAX_PATTERN_BYTES: usize = 16 << 10;
/// Groups of a pattern, the whole among them. A search keeps places of all groups for each state of the program: 600 empty groups
/// would take 33 MB.
const MAX_GROUPS: usize = 17;
/// Items of a request. Each is a pattern that all modules' names are compared with.
const MAX_ITEMS: usize = 64;
/// In the place of a pattern: all modules.
const ALL: &str = "all";
/// Least urgent level of syslog.
const MAX_LEVEL: u8 = 7;

/// Which lines are wanted, and how.
#[derive(Debug, Clone)]
pub struct LogRequest {
    items: Vec<Item>,
    /// Whether each module's lines are compressed.
    pub encoding: Encoding,
    /// What a line is written as.
    pub content_type: ContentType,
}

/// How the lines of a module travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// As text, in `payload`.
    #[default]
    None,
    /// As base64 of gzip, in `payloadBytes`.
    Gzip,
}

/// What lines are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContentType {
    /// As they are, each with its line end.
    #[default]
    Text,
    /// As a JSON array of objects.
    Json,
}

#[derive(Debug, Clone)]
struct Item {
    /// None: all modules.
    id: Option<Regex>,
    /// Shared, as what a pattern needs for its searches is with it.
    filter: Arc<Filter>,
}

/// Which lines of a module are wanted; what is not said lets all pass.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    tail: Option<usize>,
    since: Option<Moment>,
    until: Option<Moment>,
    level: Option<u8>,
    pattern: Option<Regex>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRequest {
    /// A list of items, or a single one.
    items: Value,
    #[serde(default)]
    encoding: Option<String>,
    #[serde(default)]
    content_type: Option<String>,
}

#[derive(Deserialize)]
struct RawItem {
    id: String,
    #[serde(default)]
    filter: Option<RawFilter>,
}

/// What else a filter has (`includeTimestamp`) changes nothing here.
#[derive(Default, Deserialize)]
struct RawFilter {
    tail: Option<Value>,
    since: Option<Value>,
    until: Option<Value>,
    loglevel: Option<Value>,
    regex: Option<String>,
}

impl LogRequest {
    /// Reads the payload of a call.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn read(payload: &Value) -> Result<Self, String> {
        let raw = RawRequest::deserialize(payload).map_err(|error| error.to_string())?;
        let items = match raw.items {
            Value::Array(items) => items,
            item => vec![item],
        };
        if items.is_empty() || items.len() > MAX_ITEMS {
            return Err(format!("items: 1 to {MAX_ITEMS} are expected, there are {}", items.len()));
        }
        let item = |(n, item): (usize, &Value)| -> Result<Item, String> {
            let raw = RawItem::deserialize(item).map_err(|error| format!("items[{n}]: {error}"))?;
            let at = |what: &str| format!("items[{n}].{what}");
            if raw.id.trim().is_empty() {
                return Err(format!("{}: a pattern of module names is expected, or `all`", at("id")));
            }
            let id = match raw.id.eq_ignore_ascii_case(ALL) {
                true => None,
                false => Some(pattern(&raw.id, true).map_err(|error| format!("{}: {error}", at("id")))?),
            };
            let filter = Filter::read(raw.filter.unwrap_or_default());
            Ok(Item { id, filter: Arc::new(filter.map_err(|error| at(&format!("filter.{error}")))?) })
        };
        let items = items.iter().enumerate().map(item).collect::<Result<_, _>>()?;
        let encodings = [("none", Encoding::None), ("gzip", Encoding::Gzip)];
        let content_types = [("text", ContentType::Text), ("json", ContentType::Json)];
        Ok(Self {
            items,
            encoding: word("encoding", raw.encoding, encodings)?,
            content_type: word("contentType", raw.content_type, content_types)?,
        })
    }

    /// The modules whose lines are wanted, each with the filter of the first item that names it.
    pub fn choose(&self, modules: impl Iterator<Item = ModuleName>) -> Vec<(ModuleName, Arc<Filter>)> {
        let wanted = |name: &ModuleName| {
            let names = |item: &&Item| item.id.as_ref().is_none_or(|id| id.is_match(name.as_str()));
            self.items.iter().find(names).map(|item| item.filter.clone())
        };
        modules.filter_map(|name| wanted(&name).map(|filter| (name, filter))).collect()
    }

    /// The lines of a module, as they are sent before they are compressed.
    #[must_use]
    pub fn write(&self, device: &str, module: &ModuleName, lines: &[Line<'_>]) -> String {
        match self.content_type {
            ContentType::Text => lines.iter().flat_map(|line| [line.full, "\n"]).collect(),
            ContentType::Json => {
                let object = |line: &Line<'_>| {
                    json!({
                        "iothub": "", "device": device, "id": module.as_str(), "stream": line.stream(),
                        "loglevel": line.level, "text": line.text, "timestamp": line.timestamp(),
                    })
                };
                Value::Array(lines.iter().map(object).collect()).to_string()
            }
        }
    }
}

impl Filter {
    fn read(raw: RawFilter) -> Result<Self, String> {
        let moment = |name: &str, value: Option<Value>| match value {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                Moment::read(&value).map(Some).ok_or_else(|| format!("{name}: expected {}", Moment::EXPECTED))
            }
        };
        let level = number("loglevel", raw.loglevel.as_ref())?;
        if let Some(level) = level.filter(|level| *level > MAX_LEVEL) {
            return Err(format!("loglevel: 0 to {MAX_LEVEL} are expected, not {level}"));
        }
        let pattern = raw.regex.map(|text| pattern(&text, false).map_err(|error| format!("regex: {error}")));
        Ok(Self {
            tail: number("tail", raw.tail.as_ref())?,
            since: moment("since", raw.since)?,
            until: moment("until", raw.until)?,
            level,
            pattern: pattern.transpose()?,
        })
    }

    /// The wanted ones of these lines, in their order; `now` is the clock of their times.
    #[must_use]
    pub fn select<'l>(&self, lines: impl Iterator<Item = Line<'l>>, now: UtcMillis) -> Vec<Line<'l>> {
        let (since, until) = (self.since.map(|since| since.at(now)), self.until.map(|until| until.at(now)));
        let wanted = |line: &Line<'l>| {
            since.is_none_or(|since| line.time >= since)
                && until.is_none_or(|until| line.time < until)
                && self.level.is_none_or(|level| line.level == level)
                && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(line.text))
        };
        let mut wanted: Vec<_> = lines.filter(wanted).collect();
        let skip = self.tail.map_or(0, |tail| wanted.len().saturating_sub(tail));
        wanted.drain(..skip);
        wanted
    }
}

/// A number that is written as one, or as text.
fn number<T: std::str::FromStr>(name: &str, value: Option<&Value>) -> Result<Option<T>, String> {
    let text = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(value) => value.to_string(),
    };
    text.parse()
        .map(Some)
        .map_err(|_| format!("{name}: a whole number that is not below zero is expected, not `{text}`"))
}

/// One of two words, in any case; none is the default.
fn word<T: Copy + Default>(name: &str, given: Option<String>, known: [(&str, T); 2]) -> Result<T, String> {
    let Some(given) = given else { return Ok(T::default()) };
    let found = known.iter().find(|(word, _)| word.eq_ignore_ascii_case(&given));
    let [(first, _), (second, _)] = known;
    found.map(|(_, value)| *value).ok_or_else(|| format!("{name}: `{first}` or `{second}` is expected, not `{given}`"))
}

fn pattern(text: &str, any_case: bool) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).case_insensitive(any_case).size_limit(MAX_PATTERN_BYTES).build();
    let pattern = built.map_err(|error| format!("`{text}` is no pattern: {error}"))?;
    match pattern.captures_len() {
        0..=MAX_GROUPS => Ok(pattern),
        groups => Err(format!("a pattern has at most {} groups, this one has {}", MAX_GROUPS - 1, groups - 1)),
    }
}

#[cfg(test)]
mod tests;
