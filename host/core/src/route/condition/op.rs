//! The steps of a compiled condition, and the static types that they were checked with.

use std::{cmp::Ordering, fmt};

use super::function::Function;

/// What a value is before any message is seen (IoT Edge semantics, 3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Number,
    Bool,
    Null,
    Undefined,
    /// Known only at run time.
    Body,
}

/// Bytes of the condition's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

/// One step. Takes its operands from the top of the stack and leaves one value there; indices are into the program's
/// names and paths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Op {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    Text(u32),
    /// `name`: an application property.
    Property(u32),
    /// `$name`: an application property of that name, else the system property without `$`.
    PropertyOrSystem(u32),
    /// `{$name}`.
    System(u32),
    /// `$body.path`: an application property of that name, else a value of the body.
    PropertyOrBody {
        name: u32,
        path: u32,
    },
    /// `{$body.path}`, and `$body.path` with an index: no property is called so.
    Body {
        name: u32,
        path: u32,
    },
    /// A `$name[…]` that is no body query: always undefined.
    Nothing(u32),
    Negate,
    Not(Type),
    Arithmetic(Arithmetic),
    /// `||`.
    Concat,
    Compare {
        how: Compare,
        body: bool,
    },
    Logic {
        and: bool,
        mode: Logic,
    },
    Coalesce,
    Call {
        function: Function,
        arguments: u32,
        first: Type,
        result: Type,
    },
    /// Between the operands of `AND` or `OR`: if the left one settles it, skips that many steps. No operand, no value.
    Settled {
        and: bool,
        skip: u32,
    },
    /// `name = 'text'` and the like: several steps as one, only in what is executed.
    PropertyMatches {
        how: Match,
        name: u32,
        text: u32,
    },
    /// `as_number(name) > 5` and the like: the same.
    PropertyCompares {
        how: Compare,
        name: u32,
        value: f64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Multiply,
    Divide,
    Remainder,
    Add,
    Subtract,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// How a property is looked at with a text beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    Is,
    IsNot,
    StartsWith,
    EndsWith,
    Contains,
}

/// Which table `AND` and `OR` follow (IoT Edge semantics, 3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logic {
    /// Kleene's: false settles `AND`, true settles `OR`.
    Kleene,
    /// An operand is `null`: `AND` is null, `OR` is the other operand.
    Null,
    /// An operand is a body value: both must be true or false at run time.
    Body,
}

impl Op {
    /// Values that it takes; it leaves one, but for [`Op::Settled`].
    pub(super) fn operands(self) -> usize {
        match self {
            Op::Negate | Op::Not(_) => 1,
            Op::Arithmetic(_) | Op::Concat | Op::Compare { .. } | Op::Logic { .. } | Op::Coalesce => 2,
            Op::Call { arguments, .. } => arguments as usize,
            _ => 0,
        }
    }
}

impl Type {
    /// Whether an operand or argument of this type is accepted where `wanted` is: the type itself, or a body value.
    pub(super) fn fits(self, wanted: Type) -> bool {
        self == wanted || self == Type::Body
    }

    /// Whether body values are compared with it.
    pub(super) fn meets_body(self) -> bool {
        self != Type::Undefined
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Text => "a text",
            Type::Number => "a number",
            Type::Bool => "true or false",
            Type::Null => "`null`",
            Type::Undefined => "`undefined`",
            Type::Body => "a body value",
        })
    }
}

impl Arithmetic {
    pub(super) fn sign(self) -> &'static str {
        match self {
            Arithmetic::Multiply => "*",
            Arithmetic::Divide => "/",
            Arithmetic::Remainder => "%",
            Arithmetic::Add => "+",
            Arithmetic::Subtract => "-",
        }
    }
}

impl Compare {
    pub(super) fn holds(self, order: Ordering) -> bool {
        match self {
            Compare::Less => order.is_lt(),
            Compare::LessOrEqual => order.is_le(),
            Compare::Greater => order.is_gt(),
            Compare::GreaterOrEqual => order.is_ge(),
            Compare::Equal => order.is_eq(),
            Compare::NotEqual => order.is_ne(),
        }
    }

    pub(super) fn sign(self) -> &'static str {
        match self {
            Compare::Less => "<",
            Compare::LessOrEqual => "<=",
            Compare::Greater => ">",
            Compare::GreaterOrEqual => ">=",
            Compare::Equal => "=",
            Compare::NotEqual => "!=",
        }
    }
}

impl Match {
    pub(super) fn holds(self, property: &str, text: &str) -> bool {
        match self {
            Match::Is => property == text,
            Match::IsNot => property != text,
            Match::StartsWith => property.starts_with(text),
            Match::EndsWith => property.ends_with(text),
            Match::Contains => property.contains(text),
        }
    }
}
