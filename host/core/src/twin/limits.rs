//! The limits of twin documents, IoT Edge's and IoT Hub's numbers: what passes here passes there.

use std::fmt;

use serde_json::{Map, Value};

use crate::wide::WideIntegers;

/// Deepest level of an object or array; the document itself is level 0, and an array counts like an object.
pub const MAX_DEPTH: usize = 10;
/// Longest string in bytes of UTF-8.
pub const MAX_STRING_BYTES: usize = 4096;
/// Longest key in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;
/// Least integer.
pub const MIN_INTEGER: i64 = -(1 << 52);
/// Greatest integer.
pub const MAX_INTEGER: i64 = (1 << 52) - 1;
/// Largest section, and largest patch, in bytes of JSON text without white space.
pub const MAX_SECTION_BYTES: usize = 32_768;

/// What of [`MAX_SECTION_BYTES`] a module may not fill with its reports, so that there is room for its answer to desired properties: as long as
/// one without a description is at the most.
pub const ACK_BYTES: usize = 72;

/// Most faults of a document that are told. Nobody reads more, and a hostile document could have 100,000 with a long path
/// each.
const MAX_FAULTS: usize = 100;

/// A place in a document that breaks a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct TwinFault {
    /// JSON path: `a.b[2].c`; empty for the whole document.
    pub path: String,
    /// The limit.
    pub rule: TwinRule,
}

/// All places of a document that break a limit, never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct TwinFaults(pub Vec<TwinFault>);

/// The limits, with what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TwinRule {
    /// Level of an object or array.
    #[error("nested deeper than {MAX_DEPTH} levels")]
    Depth,
    /// Bytes of a string.
    #[error("a string of {0} bytes, at most {MAX_STRING_BYTES} are allowed")]
    StringLength(usize),
    /// Bytes of a key.
    #[error("a key of {0} bytes, at most {MAX_KEY_BYTES} are allowed")]
    KeyLength(usize),
    /// A character in a key.
    #[error("a key may not contain {0:?} (nor any of `.`, `$`, `#`, white space and control characters)")]
    KeyCharacter(char),
    /// An integer.
    #[error("{0} is outside of the range of integers, {MIN_INTEGER} to {MAX_INTEGER}")]
    Integer(String),
    /// Null inside of an array.
    #[error("null may not stand inside an array")]
    NullInArray,
    /// Bytes of the whole.
    #[error("{0} bytes of JSON, at most {MAX_SECTION_BYTES} are allowed")]
    Size(usize),
    /// Bytes of reported properties without the module's answer to its desired ones, for which room is kept.
    #[error("{0} bytes of JSON besides `desiredAck`, for which {ACK_BYTES} of the {MAX_SECTION_BYTES} are kept free")]
    NoRoomForAck(usize),
}

impl fmt::Display for TwinFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { self.rule.fmt(f) } else { write!(f, "{}: {}", self.path, self.rule) }
    }
}

/// On one line, for the module that reports: the first, and how many more.
impl fmt::Display for TwinFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else { return Ok(()) };
        first.fmt(f)?;
        match self.0.len() - 1 {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

/// Checks a patch; null (delete this key) is allowed outside of arrays.
///
/// # Errors
/// Each limit that it breaks, and where.
pub fn validate_patch(patch: &Map<String, Value>) -> Result<(), TwinFaults> {
    let faults = twin_faults(patch);
    if faults.is_empty() { Ok(()) } else { Err(TwinFaults(faults)) }
}

/// Checks a whole document: the result of a patch, or a section of a manifest. Its limits are those of a patch; a null in
/// it means that the key is not there.
///
/// # Errors
/// Each limit that it breaks, and where.
pub fn validate_desired(document: &Map<String, Value>) -> Result<(), TwinFaults> {
    validate_patch(document)
}

/// The places of a document that break a limit, in the order of the document, 100 at the most; the size of the whole comes
/// last.
#[must_use]
pub fn twin_faults(document: &Map<String, Value>) -> Vec<TwinFault> {
    let mut check = Check { path: String::new(), faults: Vec::new(), wide: WideIntegers::default() };
    check.object(document, 0, false);
    let size = serde_json::to_vec(document).map_or(usize::MAX, |text| text.len());
    if size > MAX_SECTION_BYTES {
        check.faults.push(TwinFault { path: String::new(), rule: TwinRule::Size(size) });
    }
    check.faults
}

/// Why a text is no patch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not a JSON object: the parser's words.
    #[error("{0}")]
    NotAnObject(String),
    /// An integer in it is so far out of range that it would be a floating-point number from here on.
    #[error("{0}")]
    Limit(#[from] TwinFaults),
}

/// Reads a patch. Its limits are checked where it is merged; only integers that 64 bits do not hold are refused here, as long as they
/// can be told from floating-point numbers.
///
/// # Errors
/// [`ReadError`].
pub fn read_patch(text: &str) -> Result<Map<String, Value>, ReadError> {
    let patch = serde_json::from_str(text).map_err(|error| ReadError::NotAnObject(error.to_string()))?;
    // None where the integer stood under a key that comes again: the last one counts.
    let faults = wide_faults(text, &patch);
    if faults.is_empty() { Ok(patch) } else { Err(TwinFaults(faults).into()) }
}

/// Where in an object, which was read from this text, such an integer stands.
pub(super) fn wide_faults(text: &str, object: &Map<String, Value>) -> Vec<TwinFault> {
    let wide = WideIntegers::of(text);
    if wide.is_empty() {
        return Vec::new();
    }
    let mut check = Check { path: String::new(), faults: Vec::new(), wide };
    check.object(object, 0, false);
    check.faults
}

struct Check<'t> {
    wide: WideIntegers<'t>,
    path: String,
    faults: Vec<TwinFault>,
}

impl Check<'_> {
    fn object(&mut self, object: &Map<String, Value>, level: usize, in_array: bool) {
        for (key, value) in object {
            let dot = if self.path.is_empty() { "" } else { "." };
            // A key of a megabyte does not belong into an error message.
            let shown: String = key.chars().take(64).flat_map(char::escape_debug).collect();
            self.inside(&format!("{dot}{shown}"), |check| {
                check.key(key);
                check.value(value, level + 1, in_array);
            });
        }
    }

    fn value(&mut self, value: &Value, level: usize, in_array: bool) {
        match value {
            Value::Null if in_array => self.fault(TwinRule::NullInArray),
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => {
                let fits = number.as_i64().is_some_and(|n| (MIN_INTEGER..=MAX_INTEGER).contains(&n));
                if let Some(written) = self.wide.written(number) {
                    self.fault(TwinRule::Integer(written.chars().take(64).collect()));
                } else if !number.is_f64() && !fits {
                    self.fault(TwinRule::Integer(number.to_string()));
                }
            }
            Value::String(text) if text.len() > MAX_STRING_BYTES => self.fault(TwinRule::StringLength(text.len())),
            Value::String(_) => {}
            Value::Array(_) | Value::Object(_) if level > MAX_DEPTH => self.fault(TwinRule::Depth),
            Value::Object(object) => self.object(object, level, in_array),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.inside(&format!("[{index}]"), |check| check.value(item, level + 1, true));
                }
            }
        }
    }

    fn key(&mut self, key: &str) {
        if key.len() > MAX_KEY_BYTES {
            self.fault(TwinRule::KeyLength(key.len()));
        }
        if let Some(c) = key.chars().find(|c| c.is_control() || c.is_whitespace() || ".$#".contains(*c)) {
            self.fault(TwinRule::KeyCharacter(c));
        }
    }

    fn inside(&mut self, step: &str, check: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        self.path.push_str(step);
        check(self);
        self.path.truncate(length);
    }

    fn fault(&mut self, rule: TwinRule) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(TwinFault { path: self.path.clone(), rule });
        }
    }
}
