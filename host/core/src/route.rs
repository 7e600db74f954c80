//! Routes: `[SELECT *] FROM <source> [WHERE <condition>] INTO <sink>`, as Azure IoT Edge reads them, and which of them
//! take a message. Queues and delivery are elsewhere.

mod condition;
mod lexer;
mod message;
mod read;
mod source;
mod table;
mod trial;

use std::{fmt, time::Duration};

use crate::deployment::Durability;

pub use condition::{
    Body, BodyPath, BodyPlan, Condition, Explanation, Facts, Field, Found, Json, MAX_CONDITION_BYTES, MAX_NESTING,
    Step, Truth, Unreadable, Value,
};
pub use message::{MessageFacts, Origin};
pub use source::{ModuleKey, SourcePattern, TWIN_CHANGES, module_output, module_source};
pub use table::{Candidate, Candidates, Choice, Table};
pub use trial::{Sample, SampleFacts, answer};

/// A route text that was read: from which sources, under which condition, to which sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// From where.
    pub source: SourcePattern,
    /// Which of those messages; none = all.
    pub condition: Option<Condition>,
    /// To where.
    pub sink: Sink,
}

/// Where a route ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sink {
    /// `$upstream`.
    Upstream,
    /// `BrokeredEndpoint("/modules/{module}/inputs/{input}")`.
    Input {
        /// The module's name as written.
        module: Box<str>,
        /// The input's name as written.
        input: Box<str>,
    },
}

/// Why a route or a condition cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct RouteError {
    /// Where, in characters from 1.
    pub column: usize,
    /// What was expected and what was found.
    pub message: String,
}

/// One receiver of a message, with what its route asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it goes.
    pub sink: Sink,
    /// 0 to 9, then 10 (IoT Edge's default).
    pub priority: u8,
    /// How long it may wait; none = for ever.
    pub time_to_live: Option<Duration>,
    /// How long a sender waits for room.
    pub send_timeout: Duration,
    /// Deliveries before it is a dead letter; none = no limit.
    pub max_attempts: Option<u32>,
    /// What it survives on its way there.
    pub durability: Durability,
}

impl Route {
    /// Reads a route. Its condition is compiled, so that its types are known to fit.
    ///
    /// # Errors
    /// [`RouteError`] with the column.
    pub fn parse(text: &str) -> Result<Self, RouteError> {
        Self::parse_with_rest(text).map(|(route, _)| route)
    }

    /// As [`Route::parse`], and returns what stands after the sink. IoT Edge ignores that silently; a caller should warn.
    ///
    /// # Errors
    /// [`RouteError`] with the column.
    pub fn parse_with_rest(text: &str) -> Result<(Self, Option<&str>), RouteError> {
        read::route(text)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FROM {} ", self.source)?;
        if let Some(condition) = &self.condition {
            write!(f, "WHERE {condition} ")?;
        }
        write!(f, "INTO {}", self.sink)
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sink::Upstream => f.write_str("$upstream"),
            Sink::Input { module, input } => {
                // Blanks around the path are none of it: a slash keeps those that end the name.
                let end = if input.ends_with(char::is_whitespace) { "/" } else { "" };
                let path = format!("/modules/{module}/inputs/{input}{end}");
                let quote = if has_bare_quote(&path) { '\'' } else { '"' };
                write!(f, "BrokeredEndpoint({quote}{path}{quote})")
            }
        }
    }
}

impl Sink {
    /// The name of its queue, for people, in the log and in metrics: `$upstream` or `module/input`.
    #[must_use]
    pub fn queue_name(&self) -> String {
        match self {
            Sink::Upstream => self.to_string(),
            Sink::Input { module, input } => format!("{module}/{input}"),
        }
    }
}

/// Whether a double quote stands in a text, as written between quotes, without a backslash before it.
fn has_bare_quote(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '"' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests;
