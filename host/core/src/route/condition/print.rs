//! Prints a compiled condition: the steps back into text, with the parentheses that they need and no others. Walks with a
//! stack of its own.

use std::fmt;

use super::{
    Program,
    op::{Arithmetic, Compare, Logic, Op},
    text::quote,
};

/// The operands of each step, as places in the program, found in one walk over it. A step's own list is
/// `places[starts[step]..starts[step + 1]]`.
pub(super) struct Tree {
    places: Vec<usize>,
    starts: Vec<usize>,
}

impl Tree {
    pub(super) fn new(program: &Program) -> Self {
        let (mut waiting, mut places, mut starts) = (Vec::new(), Vec::new(), vec![0]);
        for (at, op) in program.ops.iter().enumerate() {
            if !matches!(op, Op::Settled { .. }) {
                places.extend(waiting.drain(waiting.len() - op.operands()..));
                waiting.push(at);
            }
            starts.push(places.len());
        }
        Self { places, starts }
    }

    pub(super) fn operands(&self, at: usize) -> &[usize] {
        &self.places[self.starts[at]..self.starts[at + 1]]
    }
}

/// What is still to be printed.
enum Part {
    Step { at: usize, tightness: u8 },
    Word(&'static str),
}

/// Tightness of literals, names and calls: they never need parentheses.
const ATOM: u8 = 8;

impl Program {
    pub(super) fn print(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            return Ok(());
        }
        let tree = Tree::new(self);
        let mut parts = vec![Part::Step { at: self.ops.len() - 1, tightness: 0 }];
        while let Some(part) = parts.pop() {
            match part {
                Part::Word(word) => f.write_str(word)?,
                Part::Step { at, tightness } => {
                    let op = self.ops[at];
                    let own = tightness_of(op);
                    let open = own < tightness;
                    if open {
                        f.write_str("(")?;
                        parts.push(Part::Word(")"));
                    }
                    self.print_step(f, op, tree.operands(at), own, &mut parts)?;
                }
            }
        }
        Ok(())
    }

    fn print_step(
        &self,
        f: &mut fmt::Formatter<'_>,
        op: Op,
        operands: &[usize],
        own: u8,
        parts: &mut Vec<Part>,
    ) -> fmt::Result {
        match (op, operands) {
            (Op::Negate | Op::Not(_), [operand]) => {
                parts.push(Part::Step { at: *operand, tightness: own });
                f.write_str(word_of(op))
            }
            (Op::Call { function, .. }, arguments) => {
                write!(f, "{}(", function.name())?;
                parts.push(Part::Word(")"));
                for (number, argument) in arguments.iter().enumerate().rev() {
                    parts.push(Part::Step { at: *argument, tightness: 0 });
                    if number > 0 {
                        parts.push(Part::Word(", "));
                    }
                }
                Ok(())
            }
            (op, [left, right]) => {
                // From left to right: the right operand of the same tightness needs parentheses.
                parts.push(Part::Step { at: *right, tightness: own + 1 });
                parts.push(Part::Word(word_of(op)));
                parts.push(Part::Step { at: *left, tightness: own });
                Ok(())
            }
            (op, _) => self.print_atom(f, op),
        }
    }

    fn print_atom(&self, f: &mut fmt::Formatter<'_>, op: Op) -> fmt::Result {
        match op {
            Op::Null => f.write_str("null"),
            Op::Bool(value) => write!(f, "{value}"),
            // No literal is infinite; one that overflows is.
            Op::Number(value) if value.is_infinite() => f.write_str(if value < 0.0 { "-1e999" } else { "1e999" }),
            Op::Number(value) => write!(f, "{value}"),
            Op::Text(name) => f.write_str(&quote(self.name(name))),
            Op::Property(name) | Op::PropertyOrSystem(name) | Op::PropertyOrBody { name, .. } | Op::Nothing(name) => {
                f.write_str(self.name(name))
            }
            Op::System(name) | Op::Body { name, .. } => write!(f, "{{{}}}", self.name(name)),
            _ => f.write_str("undefined"),
        }
    }
}

fn tightness_of(op: Op) -> u8 {
    match op {
        Op::Coalesce => 0,
        Op::Logic { and: false, .. } => 1,
        Op::Logic { and: true, .. } => 2,
        Op::Compare { how: Compare::Equal | Compare::NotEqual, .. } => 3,
        Op::Compare { .. } => 4,
        Op::Arithmetic(Arithmetic::Add | Arithmetic::Subtract) | Op::Concat => 5,
        Op::Arithmetic(_) => 6,
        Op::Negate | Op::Not(_) => 7,
        _ => ATOM,
    }
}

fn word_of(op: Op) -> &'static str {
    match op {
        Op::Negate => "- ",
        Op::Not(_) => "NOT ",
        Op::Concat => " || ",
        Op::Coalesce => " ?? ",
        Op::Logic { and: true, mode: Logic::Kleene | Logic::Null | Logic::Body } => " AND ",
        Op::Logic { .. } => " OR ",
        Op::Arithmetic(how) => match how {
            Arithmetic::Multiply => " * ",
            Arithmetic::Divide => " / ",
            Arithmetic::Remainder => " % ",
            Arithmetic::Add => " + ",
            Arithmetic::Subtract => " - ",
        },
        Op::Compare { how, .. } => match how {
            Compare::Less => " < ",
            Compare::LessOrEqual => " <= ",
            Compare::Greater => " > ",
            Compare::GreaterOrEqual => " >= ",
            Compare::Equal => " = ",
            Compare::NotEqual => " != ",
        },
        _ => "",
    }
}
