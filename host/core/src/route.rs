//! Routes.

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
