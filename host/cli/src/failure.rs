//! How a command fails: one error, its exit code, and how people and scripts read it. Prints nothing itself.

use std::fmt::Write as _;

use marram_core::manifest::{Faults, Finding, Place, locate};
use serde_json::{Value, json};

use crate::output::plain;

/// Why a command ends without success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// For scripts: a code of the control API or of [`Code`].
    pub(crate) code: String,
    /// What failed, one line.
    pub(crate) message: String,
    /// All that is wrong with a document.
    pub(crate) faults: Vec<Finding>,
    /// Where these stand in the document's text, as far as it is known; empty when the text is not here.
    pub(crate) places: Vec<Option<Place>>,
    /// What to try.
    pub(crate) hint: Option<String>,
}

/// The codes that this crate gives; the control API adds its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    Failed,
    Usage,
    BadManifest,
    BadConfig,
    NoHost,
    InUse,
    /// The deployment is in force, but not all of it could be done.
    InForce,
    /// A method was answered, with a status of 400 or above.
    MethodFailed,
}

impl Code {
    fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::BadManifest => "bad-manifest",
            Self::BadConfig => "bad-config",
            Self::NoHost => "no-host",
            Self::InUse => "in-use",
            Self::InForce => "in-force",
            Self::MethodFailed => "method-failed",
        }
    }
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code.as_str().into(), message: message.into(), faults: Vec::new(), places: Vec::new(), hint: None }
    }

    /// An operation failed; the message holds its causes.
    pub(crate) fn failed(error: &dyn std::error::Error) -> Self {
        Self::new(Code::Failed, chain(error))
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A manifest that cannot be accepted; `what` names it.
    pub(crate) fn manifest(what: &str, faults: Faults) -> Self {
        let message = format!("{what} has {}", count(faults.0.len(), "fault"));
        Self { faults: faults.0, ..Self::new(Code::BadManifest, message) }
    }

    /// Two documents with faults: those of both, told as of one.
    pub(crate) fn with(mut self, other: Self) -> Self {
        self.message = format!("{}; {}", self.message, other.message);
        self.places.resize(self.faults.len(), None);
        self.faults.extend(other.faults);
        self.places.extend(other.places);
        self
    }

    /// Finds the lines and columns of its faults.
    pub(crate) fn located(mut self, text: &str) -> Self {
        self.places = locate(text, &self.faults);
        self
    }

    fn findings(&self) -> impl Iterator<Item = (&Finding, Option<Place>)> {
        self.faults.iter().zip(self.places.iter().copied().chain(std::iter::repeat(None)))
    }

    /// Whether the deployment that this is about is in force all the same.
    pub(crate) fn is_in_force(&self) -> bool {
        self.code == Code::InForce.as_str()
    }

    /// Whether the answer, which has been written, says it as well.
    pub(crate) fn is_told(&self) -> bool {
        self.code == Code::MethodFailed.as_str()
    }

    /// Whether the host that this was asked of has ended, or is about to.
    pub(crate) fn is_end_of_host(&self) -> bool {
        self.exit_code() == 4
    }

    /// The process's exit code; `docs/cli.md` has the table.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.code.as_str() {
            "usage" => 2,
            "bad-manifest" | "bad-config" | "bad-patch" => 3,
            "no-host" | "stopping" => 4,
            "unknown-module" => 5,
            "refused" | "not-running" => 6,
            "in-use" => 7,
            "method-failed" | "timeout" => 8,
            _ => 1,
        }
    }

    /// For people: `error:`, what is wrong where, `hint:`.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("error: {}\n", plain(&self.message));
        for (fault, place) in self.findings() {
            text.push_str(&finding_lines("  ", fault, place));
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(text, "hint: {}", plain(hint));
        }
        text
    }

    /// What [`Self::to_json`] has under `error`; `vague` where it says nothing.
    pub(crate) fn from_json(error: &Value, vague: &str) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let finding = |fault: &Value| Finding {
            at: text(&fault["at"]).unwrap_or_default(),
            message: text(&fault["message"]).unwrap_or_default(),
            hint: text(&fault["hint"]),
        };
        Self {
            code: text(&error["code"]).unwrap_or_else(|| "failed".into()),
            message: text(&error["message"]).unwrap_or_else(|| vague.to_owned()),
            places: Vec::new(),
            faults: error["faults"].as_array().into_iter().flatten().map(finding).collect(),
            hint: text(&error["hint"]),
        }
    }

    /// For scripts: the control API's error document.
    pub(crate) fn to_json(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if !self.faults.is_empty() {
            error["faults"] = self.findings().map(|(fault, place)| finding_json(fault, place)).collect();
        }
        if let Some(hint) = &self.hint {
            error["hint"] = hint.as_str().into();
        }
        json!({ "error": error })
    }
}

/// A finding on a line, with its place if that is known, and its hint below it.
pub(crate) fn finding_lines(lead: &str, finding: &Finding, place: Option<Place>) -> String {
    let place = place.map_or_else(String::new, |place| format!("line {}, column {}: ", place.line, place.column));
    let mut text = format!("{lead}{place}{}\n", plain(&finding.to_string()));
    if let Some(hint) = &finding.hint {
        let _ = writeln!(text, "    hint: {}", plain(hint));
    }
    text
}

pub(crate) fn finding_json(finding: &Finding, place: Option<Place>) -> Value {
    let mut document = json!({ "at": finding.at, "message": finding.message, "hint": finding.hint });
    if let Some(place) = place {
        document["line"] = place.line.into();
        document["column"] = place.column.into();
    }
    document
}

/// `1 fault`, `2 faults`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(at: &str, message: &str, hint: Option<&str>) -> Finding {
        Finding { at: at.into(), message: message.into(), hint: hint.map(Into::into) }
    }

    #[test]
    fn people_read_what_where_and_what_to_try() {
        let faults = Faults(vec![fault("a.b", "unknown policy", Some("`always`")), fault("", "no modules", None)]);
        let failure = Failure::manifest("deployment", faults).hint("read the manual");
        assert_eq!(
            failure.to_text(),
            "error: deployment has 2 faults\n  a.b: unknown policy\n    hint: `always`\n  no modules\nhint: read the manual\n"
        );
        assert_eq!(failure.exit_code(), 3);
    }

    #[test]
    fn a_fault_has_its_line_where_the_text_is_known() {
        let faults = Faults(vec![fault("a.b", "bad", None), fault("", "odd", None)]);
        let failure = Failure::manifest("x", faults).located("{\n  \"a\": {\"b\": 1}\n}");
        assert_eq!(failure.to_text(), "error: x has 2 faults\n  line 2, column 9: a.b: bad\n  odd\n");
        let json = failure.to_json();
        assert_eq!(
            (&json["error"]["faults"][0]["line"], &json["error"]["faults"][1]["line"]),
            (&json!(2), &Value::Null)
        );
    }

    #[test]
    fn scripts_read_the_same_in_json() {
        let failure = Failure::manifest("deployment", Faults(vec![fault("a", "b", None)]));
        let expected = json!({ "error": {
            "code": "bad-manifest", "message": "deployment has 1 fault",
            "faults": [{ "at": "a", "message": "b", "hint": null }],
        }});
        assert_eq!(failure.to_json(), expected);
    }

    #[test]
    fn what_others_wrote_cannot_move_the_cursor() {
        let failure = Failure::new(Code::Failed, "bad \u{1b}[2J name");
        assert!(!failure.to_text().contains('\u{1b}'), "{:?}", failure.to_text());
    }
}
