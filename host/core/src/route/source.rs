//! Sources: which messages a route takes (IoT Edge semantics, 3.2).

/// Which message sources a route takes: a case-insensitive prefix of the message's own source. Two are equal when they
/// take the same.
#[derive(Debug, Clone)]
pub struct SourcePattern {
    /// Normalised: lower case, ends in one `/`.
    key: Box<str>,
    text: Box<str>,
}

/// The sources of one module as patterns compare them: made once where many patterns are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleKey(String);

/// Source of the messages that tell of changes of twins' reported properties.
pub const TWIN_CHANGES: &str = "/twinChangeNotifications";

/// Source of a module's message on an output.
#[must_use]
pub fn module_source(module: &str, output: &str) -> String {
    format!("/messages/modules/{module}/outputs/{output}")
}

/// Module and output of such a source; none: it is of another kind.
#[must_use]
pub fn module_output(source: &str) -> Option<(&str, &str)> {
    source.strip_prefix("/messages/modules/")?.split_once("/outputs/")
}

impl ModuleKey {
    /// Of the module with this name.
    #[must_use]
    pub fn new(module: &str) -> Self {
        Self(source_key(&format!("/messages/modules/{module}")))
    }
}

impl SourcePattern {
    /// Normalises a source path: trailing stars go, exactly one `/` ends it.
    #[must_use]
    pub fn new(path: &str) -> Self {
        Self { key: source_key(path.trim().trim_end_matches('*')).into(), text: path.into() }
    }

    /// Whether a message from `source` belongs to it.
    #[must_use]
    pub fn matches(&self, source: &str) -> bool {
        self.matches_key(&source_key(source))
    }

    /// Whether a message of this module, on some output or none, may belong to it.
    #[must_use]
    pub fn may_match_module(&self, module: &ModuleKey) -> bool {
        self.matches_key(&module.0) || self.key.starts_with(&module.0)
    }

    /// Whether it takes messages of modules only: `/messages/modules/` and more.
    #[must_use]
    pub fn names_modules(&self) -> bool {
        self.key.strip_prefix("/messages/modules/").is_some_and(|rest| !rest.is_empty())
    }

    /// Whether anything produces messages that it takes: modules, on an output, or changes of twins (IoT Edge semantics, 3.2).
    #[must_use]
    pub fn may_match(&self) -> bool {
        let parts: Vec<&str> = self.key.split_terminator('/').skip(1).collect();
        let is_name = |name: &&str| !name.contains('*');
        match parts[..] {
            [] | ["messages"] | ["messages", "modules"] => true,
            ["messages", "modules", module] | ["messages", "modules", module, "outputs"] => is_name(&module),
            ["messages", "modules", module, "outputs", output] => is_name(&module) && is_name(&output),
            [changes] => changes.eq_ignore_ascii_case(TWIN_CHANGES.trim_start_matches('/')),
            _ => false,
        }
    }

    /// The prefix that it looks for, in lower case, with one `/` at its end.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    fn matches_key(&self, key: &str) -> bool {
        key.starts_with(&*self.key)
    }
}

/// Lower case, exactly one `/` at the end.
pub(super) fn source_key(path: &str) -> String {
    let mut key = path.trim_end_matches('/').to_lowercase();
    key.push('/');
    key
}

impl PartialEq for SourcePattern {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for SourcePattern {}

/// As written.
impl std::fmt::Display for SourcePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}
