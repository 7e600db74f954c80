//! Reads a deployment manifest: IoT Edge's JSON with our additions under `settings.sandbox`. All faults at once, each with
//! its JSON path. Fetches nothing, starts nothing, and knows nothing of what is deployed now.

mod agent;
mod ceiling;
mod envelope;
mod fields;
mod findings;
mod health;
mod hub;
mod json;
mod locate;
mod rollout;
mod runtime;
mod sandbox;
mod settings;
mod suggest;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;

use self::findings::{At, Findings};
pub use self::locate::{Place, locate};
pub use self::runtime::read_runtime;
pub use self::sandbox::{HANDLER_BOUNDS, MAX_PATH_BYTES, MEMORY_BOUNDS};
use crate::{deployment::Deployment, wide::WideIntegers};

/// Largest manifest in bytes: a thousand modules of 2 KiB each, routes and twins included. Not twice as large because
/// everything in it is held in memory several times while it is read.
pub const MAX_MANIFEST_BYTES: usize = 2 << 20;

/// What the reader cannot know by itself.
pub struct Context<'a> {
    /// Checks an image reference (trimmed, not empty); the error is one line for people.
    pub check_image: &'a dyn Fn(&str) -> Result<(), String>,
    /// The owner's ceiling on the memory of all modules that are to run, in bytes; none = any sum is accepted.
    pub max_memory: Option<u64>,
}

impl<'a> Context<'a> {
    /// Of a reader that knows no device.
    #[must_use]
    pub fn new(check_image: &'a dyn Fn(&str) -> Result<(), String>) -> Self {
        Self { check_image, max_memory: None }
    }
}

/// A manifest that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// What it means.
    pub deployment: Deployment,
    /// What is probably not meant so.
    pub warnings: Vec<Finding>,
    /// What was accepted and has no effect here, because cloud tooling always writes it.
    pub notes: Vec<Finding>,
}

/// Something found in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// JSON path: `modulesContent.$edgeAgent.properties.desired.modules.temp.restartPolicy`; for a text that is not JSON,
    /// line and column; empty for the whole document.
    pub at: String,
    /// What is wrong, one line.
    pub message: String,
    /// What to try.
    pub hint: Option<String>,
}

/// Why a manifest cannot be accepted: all that is wrong with it, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Finding>);

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the deployment has {count} {}", if count == 1 { "fault" } else { "faults" })?;
        for fault in &self.0 {
            write!(f, "\n  {fault}")?;
            if let Some(hint) = &fault.hint {
                write!(f, "\n    hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Reads a manifest.
///
/// # Errors
/// [`Faults`]: everything that is wrong with it.
pub fn read(text: &str, context: &Context<'_>) -> Result<Reading, Faults> {
    let mut found = Findings::default();
    let deployment = read_text(text, context, &mut found);
    let Findings { faults, warnings, notes, .. } = found;
    if !faults.is_empty() {
        return Err(Faults(faults.told()));
    }
    Ok(Reading { deployment, warnings: warnings.told(), notes: notes.told() })
}

fn read_text(text: &str, context: &Context<'_>, found: &mut Findings) -> Deployment {
    match parse(text, "a manifest", found) {
        Some(document) => envelope::read(&document, context, found),
        None => Deployment::default(),
    }
}

/// The document in a text; a fault and none if there is no such.
fn parse(text: &str, what: &str, found: &mut Findings) -> Option<json::Node> {
    if text.len() > MAX_MANIFEST_BYTES {
        let message = format!("{what} has at most {MAX_MANIFEST_BYTES} bytes, this one has {}", text.len());
        found.fault(&At::root(), message);
        return None;
    }
    // Some editors put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match json::parse(text) {
        Ok(document) => {
            json::report_duplicates(&document, &At::root(), found);
            let wide = WideIntegers::of(text);
            if !wide.is_empty() {
                json::report_wide_integers(&document, &At::root(), &wide, found);
            }
            Some(document)
        }
        Err(error) => {
            found.fault(&At::line(error.line, error.column), format!("not JSON: {}", error.message));
            None
        }
    }
}
