//! Routes: reading their text, and finding the targets of a message.
//!
//! `[SELECT *] FROM <source> INTO <sink>`, as Azure IoT Edge reads it. Conditions (`WHERE`) are refused with a
//! clear message: the condition language is not here yet.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::deployment::{Deployment, RouteSpec};

/// A route text that was read: from which sources to which sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// From where.
    pub source: SourcePattern,
    /// To where.
    pub sink: Sink,
}

/// Which message sources a route takes (IoT Edge semantics, 3.2): normalised, lower case, ends in one `/`; a
/// case-insensitive prefix of the message's own source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePattern(Box<str>);

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

/// Why a route cannot be read.
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
}

/// Source of a module's message on an output.
#[must_use]
pub fn module_source(module: &str, output: &str) -> String {
    format!("/messages/modules/{module}/outputs/{output}")
}

/// The targets of a message from `source`: one for each sink, however many routes lead there; the route with the
/// smallest priority number decides priority, time to live and options, the first of equals (IoT Edge semantics, 3.4).
#[must_use]
pub fn targets(deployment: &Deployment, source: &str) -> Vec<Target> {
    let source = source_key(source);
    let mut best: BTreeMap<&Sink, &RouteSpec> = BTreeMap::new();
    for spec in deployment.routes.iter().filter(|spec| spec.route.source.matches_key(&source)) {
        best.entry(&spec.route.sink)
            .and_modify(|old| {
                if spec.priority < old.priority {
                    *old = spec;
                }
            })
            .or_insert(spec);
    }
    best.into_values().map(|spec| target(deployment, spec)).collect()
}

fn target(deployment: &Deployment, spec: &RouteSpec) -> Target {
    Target {
        sink: spec.route.sink.clone(),
        priority: spec.priority,
        time_to_live: spec.time_to_live.or(deployment.time_to_live),
        send_timeout: spec.options.send_timeout,
        max_attempts: match spec.route.sink {
            Sink::Upstream => None,
            Sink::Input { .. } => spec.options.max_attempts,
        },
    }
}

impl Route {
    /// Reads a route.
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
        let mut lexer = Lexer { text, at: 0, unclosed: false };
        let route = read_route(&mut lexer)?;
        lexer.skip_blanks(false);
        let rest = lexer.rest().trim();
        Ok((route, (!rest.is_empty()).then_some(rest)))
    }
}

impl SourcePattern {
    /// Normalises a source path: trailing stars go, exactly one `/` ends it.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self(source_key(path.trim().trim_end_matches('*')).into())
    }

    /// Whether a message from `source` belongs to it.
    #[must_use]
    pub fn matches(&self, source: &str) -> bool {
        self.matches_key(&source_key(source))
    }

    /// Whether a message of this module, on some output or none, may belong to it.
    #[must_use]
    pub fn may_match_module(&self, module: &str) -> bool {
        let module = source_key(&format!("/messages/modules/{module}"));
        self.matches_key(&module) || self.0.starts_with(&module)
    }

    fn matches_key(&self, key: &str) -> bool {
        key.starts_with(&*self.0)
    }
}

/// Lower case, exactly one `/` at the end.
fn source_key(path: &str) -> String {
    let mut key = path.trim_end_matches('/').to_lowercase();
    key.push('/');
    key
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FROM {}* INTO {}", self.source.0, self.sink)
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sink::Upstream => f.write_str("$upstream"),
            Sink::Input { module, input } => write!(f, "BrokeredEndpoint(\"/modules/{module}/inputs/{input}\")"),
        }
    }
}

// ---- reading ----

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'t> {
    Word(&'t str),
    Slash,
    Open,
    Close,
    Text(&'t str),
    Other(char),
    End,
}

impl Token<'_> {
    fn is(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => write!(f, "`{word}`"),
            Token::Slash => f.write_str("`/`"),
            Token::Open => f.write_str("`(`"),
            Token::Close => f.write_str("`)`"),
            Token::Text(text) => write!(f, "the text {text:?}"),
            Token::Other(c) => write!(f, "`{c}`"),
            Token::End => f.write_str("the end"),
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    /// No comment closes from here on: said once, or each `/*` of a hostile text would be followed to the text's end.
    unclosed: bool,
}

/// Characters that end a word (IoT Edge semantics, 3.1); all others, also non-ASCII ones, belong to it.
const WORD_ENDS: &[char] = &[
    '(', ')', '<', '>', '@', ',', ';', ':', '\\', '"', '/', '[', ']', '?', '=', '{', '}', ' ', '\t', '\r', '\n', '\'',
];

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// Skips white space and closed comments. Where a path is expected (`path`), `/*` is a comment only if a path follows
    /// it: `FROM /* INTO …` is the path of everything, whatever `*/` stands later in the text.
    fn skip_blanks(&mut self, path: bool) {
        loop {
            let trimmed = self.rest().trim_start_matches([' ', '\t', '\r', '\n']);
            self.at = self.text.len() - trimmed.len();
            let Some(inner) = trimmed.strip_prefix("/*").filter(|_| !self.unclosed) else { return };
            let Some(end) = inner.find("*/") else {
                self.unclosed = true;
                return;
            };
            let after = self.at + 2 + end + 2;
            let next = self.text[after..].trim_start_matches([' ', '\t', '\r', '\n']);
            if path && !next.starts_with('/') {
                return;
            }
            self.at = after;
        }
    }

    fn next(&mut self) -> Result<(usize, Token<'t>), RouteError> {
        self.skip_blanks(false);
        self.next_here()
    }

    /// The token that starts here; what looks like a comment is not one.
    fn next_here(&mut self) -> Result<(usize, Token<'t>), RouteError> {
        let start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok((start, Token::End)) };
        let (length, token) = match first {
            '/' => (1, Token::Slash),
            '(' => (1, Token::Open),
            ')' => (1, Token::Close),
            quote @ ('"' | '\'') => match rest[1..].find(quote) {
                Some(end) => (end + 2, Token::Text(&rest[1..=end])),
                None => return Err(self.error(start, "the text that begins here has no closing quote".into())),
            },
            c if WORD_ENDS.contains(&c) => (c.len_utf8(), Token::Other(c)),
            _ => {
                let end = rest.find(WORD_ENDS).unwrap_or(rest.len());
                (end, Token::Word(&rest[..end]))
            }
        };
        self.at += length;
        Ok((start, token))
    }

    fn error(&self, at: usize, message: String) -> RouteError {
        RouteError { column: self.text[..at].chars().count() + 1, message }
    }

    fn expected<T>(&self, what: &str, found: (usize, Token<'_>)) -> Result<T, RouteError> {
        Err(self.error(found.0, format!("expected {what}, found {}", found.1)))
    }
}

const KEYWORDS: [&str; 7] = ["SELECT", "FROM", "WHERE", "INTO", "AND", "OR", "NOT"];

fn read_route(lexer: &mut Lexer<'_>) -> Result<Route, RouteError> {
    let mut found = lexer.next()?;
    if found.1.is("SELECT") {
        found = lexer.next()?;
        if found.1 != Token::Word("*") {
            return lexer.expected("`*` after `SELECT`", found);
        }
        found = lexer.next()?;
    }
    if !found.1.is("FROM") {
        return lexer.expected("`FROM`", found);
    }
    let source = read_source(lexer)?;
    let found = lexer.next()?;
    if found.1.is("WHERE") {
        return Err(lexer.error(
            found.0,
            "`WHERE` conditions are not supported by this version; filter in a module, or leave the condition out"
                .into(),
        ));
    }
    if !found.1.is("INTO") {
        return lexer.expected("`INTO` after the source", found);
    }
    Ok(Route { source, sink: read_sink(lexer)? })
}

/// One or more of `/` and an item; the item follows its `/`, blanks between are allowed as in IoT Edge.
fn read_source(lexer: &mut Lexer<'_>) -> Result<SourcePattern, RouteError> {
    let mut path = String::new();
    loop {
        // Directly behind an item `/*` is never a comment: `/messages/*` means what it says.
        if path.is_empty() || lexer.rest().starts_with([' ', '\t', '\r', '\n']) {
            lexer.skip_blanks(path.is_empty());
        }
        if !lexer.rest().starts_with('/') {
            break;
        }
        lexer.at += 1;
        if lexer.rest().starts_with([' ', '\t', '\r', '\n']) {
            lexer.skip_blanks(false);
        }
        match lexer.next_here()? {
            (at, Token::Word(word)) if KEYWORDS.iter().any(|keyword| word.eq_ignore_ascii_case(keyword)) => {
                return lexer.expected("a name or `*` after `/`", (at, Token::Word(word)));
            }
            (_, Token::Word(word)) => {
                path.push('/');
                path.push_str(word);
            }
            found => return lexer.expected("a name or `*` after `/`", found),
        }
    }
    if path.is_empty() {
        let found = lexer.next()?;
        return lexer.expected("a source such as `/messages/modules/NAME/outputs/*` after `FROM`", found);
    }
    Ok(SourcePattern::new(&path))
}

fn read_sink(lexer: &mut Lexer<'_>) -> Result<Sink, RouteError> {
    let found = lexer.next()?;
    let Token::Word(name) = found.1 else {
        return lexer.expected("`$upstream` or `BrokeredEndpoint(\"/modules/NAME/inputs/NAME\")` after `INTO`", found);
    };
    if name.eq_ignore_ascii_case("$upstream") {
        return Ok(Sink::Upstream);
    }
    if name.starts_with('$') {
        return Err(lexer.error(found.0, format!("`{name}` is not a sink; the only one with `$` is `$upstream`")));
    }
    if !name.eq_ignore_ascii_case("BrokeredEndpoint") {
        return Err(lexer
            .error(found.0, format!("unknown sink `{name}` (there are `$upstream` and `BrokeredEndpoint(\"…\")`)")));
    }
    let open = lexer.next()?;
    if open.1 != Token::Open {
        return lexer.expected("`(` after `BrokeredEndpoint`", open);
    }
    let text = lexer.next()?;
    let Token::Text(path) = text.1 else {
        return lexer.expected("a quoted path such as \"/modules/NAME/inputs/NAME\"", text);
    };
    let sink = read_endpoint(path).ok_or_else(|| {
        lexer.error(text.0, format!("the endpoint {path:?} must have the form \"/modules/NAME/inputs/NAME\""))
    })?;
    let close = lexer.next()?;
    if close.1 != Token::Close {
        return lexer.expected("`)`", close);
    }
    Ok(sink)
}

/// Exactly four segments; the first and third are not checked (IoT Edge semantics, 3.3).
fn read_endpoint(path: &str) -> Option<Sink> {
    let path = path.trim();
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let segments: Vec<&str> = path.split('/').collect();
    match segments.as_slice() {
        [_, module, _, input] if !module.is_empty() && !input.is_empty() => {
            Some(Sink::Input { module: (*module).into(), input: (*input).into() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
