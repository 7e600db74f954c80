//! The condition language of routes (IoT Edge semantics, 3.5 to 3.11): compiled once into a flat program, evaluated for
//! each message. Knows messages only through [`Facts`], and neither sources nor sinks.

mod body;
mod call;
mod date;
mod eval;
mod explain;
mod function;
mod fuse;
mod made;
mod number;
mod op;
mod parse;
mod print;
mod text;

use std::{fmt, ops::Range, sync::Arc};

pub use body::{Body, BodyPath, BodyPlan, Found, Json, Unreadable};
pub use eval::{Facts, Field, Value};
pub use explain::{Explanation, Step};

use super::{
    RouteError,
    lexer::{Lexer, Sign, Token},
};
use op::{Op, Span, Type};

/// Largest condition. IoT Hub allows a route 4 KiB; eight times that still compiles in no time and a few hundred KiB.
pub const MAX_CONDITION_BYTES: usize = 32 << 10;
/// Deepest nesting of parentheses, calls, `NOT` and `-`. People need five; more than this is an attack or a bug.
pub const MAX_NESTING: usize = 256;

/// A condition: its text and the program made of it. Cheap to clone. Two are equal when their texts are.
#[derive(Clone)]
pub struct Condition(Arc<Program>);

struct Program {
    /// As written, without what stands around it.
    text: Box<str>,
    /// As written, in the order of evaluation: operands before their operator. Shown and explained.
    ops: Box<[Op]>,
    /// For each of `ops` what it was made of, as bytes of `text`.
    spans: Box<[Span]>,
    /// What `ops` became to be executed.
    code: Box<[Op]>,
    /// Steps of `code` whose results must all be true for the whole to be true.
    conjuncts: Box<[Range<usize>]>,
    /// Names and texts that both refer to.
    names: Box<[Box<str>]>,
    paths: Box<[BodyPath]>,
    /// Values that wait at most at a time.
    depth: usize,
    result: Type,
}

/// The three values of the language's logic. Only a true condition delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// Delivers.
    True,
    /// Does not deliver.
    False,
    /// Cannot be told, because something it needs is not there or of another kind. Does not deliver.
    Undefined,
}

impl Condition {
    /// Reads a condition on its own. What stands after a complete condition is ignored, as IoT Edge does; an empty text
    /// is always undefined.
    ///
    /// # Errors
    /// [`RouteError`] with the column in `text`: what was expected there, or which types do not fit.
    pub fn parse(text: &str) -> Result<Self, RouteError> {
        let mut lexer = Lexer::new(text);
        if lexer.peek() == Token::End {
            return Ok(Self(Arc::new(Program::undefined())));
        }
        let condition = Self::read(&mut lexer)?;
        match lexer.next() {
            (at, Token::Sign(Sign::Close)) if lexer.text[..at].trim_end().ends_with(')') => {
                Err(lexer.error(at, "there is no `(` that this `)` closes"))
            }
            found @ (_, Token::Unknown(_) | Token::Unclosed) => lexer.expected("an operator or the end", found),
            _ => Ok(condition),
        }
    }

    /// Reads a condition up to the first token that cannot belong to it.
    pub(super) fn read(lexer: &mut Lexer<'_>) -> Result<Self, RouteError> {
        parse::read(lexer).map(|program| Self(Arc::new(program)))
    }

    /// The condition as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The paths into the body that it asks for, in the order in which [`Facts::body`] numbers them.
    #[must_use]
    pub fn body_paths(&self) -> &[BodyPath] {
        &self.0.paths
    }

    /// Whether no message at all can make it true: its result is no truth value.
    #[must_use]
    pub fn is_never_true(&self) -> bool {
        !matches!(self.0.result, Type::Bool | Type::Body)
    }

    /// Evaluates it for one message. Each step looks at most once through each of its texts, so the time is bounded by the
    /// product of the two; the texts that it makes have at most 1 MiB together.
    #[must_use]
    pub fn evaluate<F: Facts + ?Sized>(&self, facts: &F) -> Truth {
        self.0.evaluate(facts)
    }

    /// Whether it is true for this message: as [`Condition::evaluate`], but stops once it cannot be true any more.
    #[must_use]
    pub fn is_true<F: Facts + ?Sized>(&self, facts: &F) -> bool {
        self.0.is_true(facts)
    }

    /// Evaluates it and tells the value of each part.
    #[must_use]
    pub fn explain<F: Facts + ?Sized>(&self, facts: &F) -> Explanation {
        self.0.explain(facts)
    }
}

impl Program {
    fn undefined() -> Self {
        Self {
            text: "".into(),
            ops: Box::new([Op::Undefined]),
            spans: Box::new([Span { start: 0, end: 0 }]),
            code: Box::new([Op::Undefined]),
            conjuncts: fuse::conjuncts(&[Op::Undefined]).into(),
            names: Box::default(),
            paths: Box::default(),
            depth: 1,
            result: Type::Undefined,
        }
    }

    fn name(&self, index: u32) -> &str {
        &self.names[index as usize]
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Condition {}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.0.text).finish()
    }
}

/// The condition in its plainest form: only the parentheses that it needs, one blank around operators.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.print(f)
    }
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Truth::True => "true",
            Truth::False => "false",
            Truth::Undefined => "undefined",
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
