//! What of a condition's steps is executed: those about one property and a constant as one, and the parts that must all
//! be true, each by itself. Evaluates nothing.

use std::ops::Range;

use super::{
    function::Function,
    op::{Compare, Logic, Match, Op},
};

/// The steps, with usual groups of them as one: `name = 'text'` is three, `as_number(name) > 5` four.
pub(super) fn fuse(ops: &[Op]) -> Vec<Op> {
    let mut code: Vec<Op> = Vec::with_capacity(ops.len());
    // For each of `ops` the place behind what became of it.
    let mut ends = Vec::with_capacity(ops.len());
    for op in ops {
        let (steps, op) = fused(&code, *op).unwrap_or((0, *op));
        code.truncate(code.len() - steps);
        code.push(op);
        ends.push(code.len());
    }
    for (at, op) in ops.iter().enumerate() {
        // Operands of `AND` and `OR` keep their places: none is fused with what stands before it.
        if let (Op::Settled { skip, .. }, Some(Op::Settled { skip: fused, .. })) = (op, code.get_mut(ends[at] - 1)) {
            *fused = u32::try_from(ends[at + *skip as usize] - ends[at]).unwrap_or(0);
        }
    }
    code
}

/// The step that stands for the last of `code` and for `op`, and how many of `code` it takes away. A step that takes
/// nothing and stands last is the last operand.
fn fused(code: &[Op], op: Op) -> Option<(usize, Op)> {
    match (op, code) {
        (
            Op::Compare { how, body: false },
            [.., Op::Property(name), Op::Text(text)] | [.., Op::Text(text), Op::Property(name)],
        ) => {
            let how = match how {
                Compare::Equal => Match::Is,
                Compare::NotEqual => Match::IsNot,
                _ => return None,
            };
            Some((2, Op::PropertyMatches { how, name: *name, text: *text }))
        }
        (Op::Call { function, .. }, [.., Op::Property(name), Op::Text(text)]) => {
            let how = match function {
                Function::StartsWith => Match::StartsWith,
                Function::EndsWith => Match::EndsWith,
                Function::Contains => Match::Contains,
                _ => return None,
            };
            Some((2, Op::PropertyMatches { how, name: *name, text: *text }))
        }
        (
            Op::Compare { how, .. },
            [.., Op::Property(name), Op::Call { function: Function::AsNumber, .. }, Op::Number(value)],
        ) => Some((3, Op::PropertyCompares { how, name: *name, value: *value })),
        _ => None,
    }
}

/// The parts of `code` that must all be true for the whole to be true: the operands of `AND`s that are joined by nothing
/// but `AND`.
pub(super) fn conjuncts(code: &[Op]) -> Vec<Range<usize>> {
    let (mut parts, mut end) = (Vec::new(), code.len());
    // From the end: each operator, then its right side, then what stands between, then its left side.
    let mut joined = vec![true];
    for (at, op) in code.iter().enumerate().rev() {
        let here = joined.pop().unwrap_or(false);
        match op {
            Op::Logic { and: true, mode: Logic::Kleene | Logic::Body } if here => {
                joined.extend([true; 3]);
                end = at;
            }
            Op::Settled { .. } if here => {
                parts.push(at + 1..end);
                end = at;
            }
            Op::Logic { .. } => joined.extend([false; 3]),
            other => joined.extend(std::iter::repeat_n(false, other.operands())),
        }
    }
    parts.push(0..end);
    parts.reverse();
    parts
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // one range is meant
mod tests {
    use super::*;
    use crate::route::Condition;

    #[track_caller]
    fn check(text: &str, steps: usize, parts: &[Range<usize>]) {
        let condition = Condition::parse(text).unwrap();
        assert_eq!((condition.0.code.len(), &*condition.0.conjuncts), (steps, parts), "{:?}", condition.0.code);
    }

    #[test]
    fn a_property_beside_a_constant_is_one_step() {
        for text in ["a = 'x'", "'x' != a", "starts_with(a, 'x')", "contains(a, '')", "as_number(a) >= 3"] {
            check(text, 1, &[0..1]);
        }
        for (text, steps) in [("a < 'x'", 3), ("$a = 'x'", 3), ("a = b", 3), ("3 < as_number(a)", 4)] {
            check(text, steps, &[0..steps]);
        }
        check("starts_with('x', a)", 3, &[0..3]);
    }

    #[test]
    fn what_must_be_true_stands_alone() {
        check("a = 'x' AND as_number(b) > 3 AND NOT starts_with(c, 'x')", 8, &[0..1, 2..3, 5..7]);
        check("a = 'x' AND (b = 'x' AND c = 'x')", 7, &[0..1, 2..3, 4..5]);
        check("a = 'x' AND (b = 'x' OR c = 'x')", 7, &[0..1, 2..6]);
        check("$body.a AND NOT (true AND true)", 8, &[0..1, 2..7]);
        check("null AND true", 4, &[0..4]);
        check("a = 'x' OR b = 'x' AND c = 'x'", 7, &[0..7]);
    }

    /// `OR` skips what follows, `AND` too; the places fit the steps that are executed.
    #[test]
    fn what_is_skipped_ends_at_the_operator() {
        let condition = Condition::parse("a = 'x' OR as_number(b) > 3 AND c = 'x' OR d = 'x'").unwrap();
        let code = &condition.0.code;
        let skips = code.iter().enumerate().filter_map(|(at, op)| match op {
            Op::Settled { and, skip } => Some((*and, code[at + *skip as usize])),
            _ => None,
        });
        for (and, end) in skips {
            assert_eq!(end, Op::Logic { and, mode: Logic::Kleene });
        }
        assert_eq!(code.len(), 10);
    }
}
