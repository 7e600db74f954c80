//! Reads a condition and checks its types in one pass: operator precedence with stacks of its own, so that no nesting
//! reaches the thread's stack. Evaluates nothing.

use super::{
    MAX_CONDITION_BYTES, MAX_NESTING, Program,
    body::BodyPath,
    function::Function,
    fuse::{conjuncts, fuse},
    op::{Arithmetic, Compare, Logic, Op, Span, Type},
    text::unescape,
};
use crate::route::{
    RouteError,
    lexer::{Lexer, Sign, Token},
};

/// Reads the longest condition that begins here.
pub(super) fn read(lexer: &mut Lexer<'_>) -> Result<Program, RouteError> {
    lexer.skip_blanks(false);
    let start = lexer.at;
    let mut parser = Parser {
        lexer,
        start,
        end: start,
        operands: Vec::new(),
        pending: Vec::new(),
        nesting: 0,
        ops: Vec::new(),
        spans: Vec::new(),
        names: Vec::new(),
        paths: Vec::new(),
    };
    parser.run()?;
    parser.finish()
}

/// Binary operators bind in this order, the first most loosely; all from left to right (IoT Edge semantics, 3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Coalesce,
    Or,
    And,
    Equality,
    Comparison,
    Sum,
    Product,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Binary {
    Arithmetic(Arithmetic),
    Concat,
    Compare(Compare),
    And,
    Or,
    Coalesce,
}

/// A complete operand: its type and the bytes of the whole text that it was made of.
#[derive(Debug, Clone, Copy)]
struct Operand {
    ty: Type,
    start: usize,
    end: usize,
}

/// What waits for its (next) operand; `at` is its byte.
#[derive(Debug, Clone, Copy)]
enum Pending {
    Binary { operator: Binary, at: usize, settled: Option<usize> },
    Negate { at: usize },
    Not { at: usize },
    Parenthesis { at: usize },
    Call { function: Function, at: usize, operands: usize },
}

struct Parser<'p, 't> {
    lexer: &'p mut Lexer<'t>,
    start: usize,
    end: usize,
    operands: Vec<Operand>,
    pending: Vec<Pending>,
    nesting: usize,
    ops: Vec<Op>,
    spans: Vec<Span>,
    names: Vec<Box<str>>,
    paths: Vec<BodyPath>,
}

impl<'t> Parser<'_, 't> {
    fn run(&mut self) -> Result<(), RouteError> {
        loop {
            self.read_operand()?;
            if !self.read_operators()? {
                return Ok(());
            }
            if self.lexer.at - self.start > MAX_CONDITION_BYTES {
                return Err(self.too_long());
            }
        }
    }

    fn too_long(&self) -> RouteError {
        self.lexer.error(self.start, format!("the condition is longer than {MAX_CONDITION_BYTES} bytes"))
    }

    /// Reads up to and including one operand, pushing what stands before it.
    fn read_operand(&mut self) -> Result<(), RouteError> {
        loop {
            let (at, token) = self.lexer.next();
            let (op, ty) = match token {
                Token::Sign(Sign::Open) => {
                    self.nest(Pending::Parenthesis { at }, at)?;
                    continue;
                }
                Token::Sign(Sign::Minus) => {
                    self.nest(Pending::Negate { at }, at)?;
                    continue;
                }
                Token::Not => {
                    self.nest(Pending::Not { at }, at)?;
                    continue;
                }
                Token::Word(name) if self.lexer.peek() == Token::Sign(Sign::Open) => {
                    let function = Function::find(name).map_err(|why| self.lexer.error(at, why))?;
                    self.lexer.next();
                    self.nest(Pending::Call { function, at, operands: self.operands.len() }, at)?;
                    if self.lexer.peek() != Token::Sign(Sign::Close) {
                        continue;
                    }
                    // Every function takes something; the check says what.
                    return Ok(());
                }
                Token::Sign(Sign::OpenBrace) => self.read_escaped()?,
                _ => self.read_value(at, token)?,
            };
            self.end = self.lexer.at;
            self.push(op, Operand { ty, start: at, end: self.end });
            return Ok(());
        }
    }

    fn nest(&mut self, pending: Pending, at: usize) -> Result<(), RouteError> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self
                .lexer
                .error(at, format!("the condition is nested more than {MAX_NESTING} levels deep here")));
        }
        self.pending.push(pending);
        Ok(())
    }

    fn read_value(&mut self, at: usize, token: Token<'t>) -> Result<(Op, Type), RouteError> {
        Ok(match token {
            Token::True => (Op::Bool(true), Type::Bool),
            Token::False => (Op::Bool(false), Type::Bool),
            Token::Null => (Op::Null, Type::Null),
            Token::Undefined => (Op::Undefined, Type::Undefined),
            // `e5` looks like a number and is none: IoT Edge takes it as `undefined`.
            Token::Number(text) => text.parse().map_or((Op::Undefined, Type::Undefined), number),
            Token::Hex(digits) => hex(digits).map_or((Op::Undefined, Type::Undefined), number),
            Token::Text(text) => (Op::Text(self.name(&unescape(text))), Type::Text),
            Token::Word(name) => (Op::Property(self.name(name)), Type::Text),
            Token::System(name) => self.system(name, at, false)?,
            found => {
                let what = "a value: a property, `$name`, a number, a text in quotes, a function, `(`, `NOT` or `-`";
                return self.lexer.expected(what, (at, found));
            }
        })
    }

    /// `{$name}`, behind its `{`.
    fn read_escaped(&mut self) -> Result<(Op, Type), RouteError> {
        let (at, found) = self.lexer.next();
        let Token::System(name) = found else {
            return self.lexer.expected("`$name` after `{`", (at, found));
        };
        let read = self.system(name, at, true)?;
        match self.lexer.next() {
            (_, Token::Sign(Sign::CloseBrace)) => Ok(read),
            found => self.lexer.expected("`}`", found),
        }
    }

    /// `$name` (IoT Edge semantics, 3.9).
    fn system(&mut self, whole: &str, at: usize, escaped: bool) -> Result<(Op, Type), RouteError> {
        const BODY: &str = "$body.";
        let bracketed = whole.contains(['[', ']']);
        let name = self.name(whole);
        if whole.get(..BODY.len()).is_some_and(|lead| lead.eq_ignore_ascii_case(BODY)) {
            let path = BodyPath::parse(&whole[BODY.len()..])
                .map_err(|(offset, why)| self.lexer.error(at + BODY.len() + offset, why))?;
            self.paths.push(path);
            let path = index(self.paths.len() - 1);
            let only_body = escaped || bracketed;
            return Ok((
                if only_body { Op::Body { name, path } } else { Op::PropertyOrBody { name, path } },
                Type::Body,
            ));
        }
        Ok(match (bracketed, escaped) {
            (true, _) => (Op::Nothing(name), Type::Undefined),
            (false, true) => (Op::System(name), Type::Text),
            (false, false) => (Op::PropertyOrSystem(name), Type::Text),
        })
    }

    fn name(&mut self, text: &str) -> u32 {
        self.names.push(text.into());
        index(self.names.len() - 1)
    }

    /// Reads what follows an operand up to the next place for one. False: the condition ends before the next token.
    fn read_operators(&mut self) -> Result<bool, RouteError> {
        loop {
            let before = self.lexer.at;
            let (at, token) = self.lexer.next();
            if let Some((operator, level)) = binary(token) {
                self.reduce(level)?;
                let settled = matches!(operator, Binary::And | Binary::Or).then(|| {
                    self.ops.push(Op::Settled { and: operator == Binary::And, skip: 0 });
                    self.spans.push(self.span(at, at));
                    self.ops.len() - 1
                });
                self.pending.push(Pending::Binary { operator, at, settled });
                return Ok(true);
            }
            match token {
                Token::Sign(Sign::Comma) if self.innermost_is_call()? => return Ok(true),
                Token::Sign(Sign::Close) if self.close()? => {}
                _ => {
                    self.reduce(Level::Coalesce)?;
                    return match self.pending.last() {
                        None => {
                            self.lexer.at = before;
                            Ok(false)
                        }
                        Some(Pending::Call { .. }) => self.lexer.expected("an operator, `,` or `)`", (at, token)),
                        Some(_) => self.lexer.expected("an operator or `)`", (at, token)),
                    };
                }
            }
        }
    }

    fn innermost_is_call(&mut self) -> Result<bool, RouteError> {
        self.reduce(Level::Coalesce)?;
        Ok(matches!(self.pending.last(), Some(Pending::Call { .. })))
    }

    /// Closes the innermost parenthesis or call with the `)` just read; false when there is none.
    fn close(&mut self) -> Result<bool, RouteError> {
        self.reduce(Level::Coalesce)?;
        let Some(open) = self.pending.pop() else { return Ok(false) };
        self.end = self.lexer.at;
        self.nesting -= 1;
        match open {
            Pending::Call { function, at, operands } => {
                let given: Vec<Type> = self.operands[operands..].iter().map(|operand| operand.ty).collect();
                function.check(&given).map_err(|why| self.lexer.error(at, why))?;
                self.operands.truncate(operands);
                let first = given.first().copied().unwrap_or(Type::Undefined);
                let result = function.result();
                let op = Op::Call { function, arguments: index(given.len()), first, result };
                self.push(op, Operand { ty: result, start: at, end: self.end });
            }
            Pending::Parenthesis { at } => {
                if let Some(inner) = self.operands.last_mut() {
                    *inner = Operand { start: at, end: self.end, ..*inner };
                }
            }
            // `reduce` has left nothing but these two.
            Pending::Binary { .. } | Pending::Negate { .. } | Pending::Not { .. } => {}
        }
        Ok(true)
    }

    /// Carries out what waits and binds at least as tightly as `level`.
    fn reduce(&mut self, level: Level) -> Result<(), RouteError> {
        while let Some(pending) = self.pending.last().copied() {
            match pending {
                Pending::Binary { operator, at, settled } if operator.level() >= level => {
                    self.pending.pop();
                    self.join(operator, at, settled)?;
                }
                Pending::Negate { at } => {
                    self.pending.pop();
                    self.negate(at)?;
                }
                Pending::Not { at } => {
                    self.pending.pop();
                    self.not(at)?;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn negate(&mut self, at: usize) -> Result<(), RouteError> {
        self.nesting -= 1;
        let operand = self.take();
        if operand.ty != Type::Number {
            return Err(self.lexer.error(at, format!("`-` needs a number here, not {}", operand.ty)));
        }
        self.push(Op::Negate, Operand { start: at, ..operand });
        Ok(())
    }

    fn not(&mut self, at: usize) -> Result<(), RouteError> {
        self.nesting -= 1;
        let operand = self.take();
        if !matches!(operand.ty, Type::Bool | Type::Null | Type::Body) {
            let hint = "it binds tighter than comparisons: write `NOT (a = b)`";
            return Err(self.lexer.error(at, format!("`NOT` needs true or false, not {}; {hint}", operand.ty)));
        }
        self.push(Op::Not(operand.ty), Operand { ty: Type::Bool, start: at, ..operand });
        Ok(())
    }

    fn join(&mut self, operator: Binary, at: usize, settled: Option<usize>) -> Result<(), RouteError> {
        let (right, left) = (self.take(), self.take());
        let (op, ty) = operator.check(left.ty, right.ty).map_err(|why| self.lexer.error(at, why))?;
        if let (Some(settled), Op::Logic { and, mode }) = (settled, op) {
            // Only Kleene's tables let one side settle it; then the right side and this step are skipped.
            let skip = if mode == Logic::Kleene { index(self.ops.len() - settled) } else { 0 };
            self.ops[settled] = Op::Settled { and, skip };
        }
        self.push(op, Operand { ty, start: left.start, end: right.end });
        Ok(())
    }

    fn take(&mut self) -> Operand {
        self.operands.pop().unwrap_or(Operand { ty: Type::Undefined, start: self.start, end: self.start })
    }

    fn push(&mut self, op: Op, operand: Operand) {
        self.ops.push(op);
        self.spans.push(self.span(operand.start, operand.end));
        self.operands.push(operand);
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span { start: index(start - self.start), end: index(end - self.start) }
    }

    fn finish(self) -> Result<Program, RouteError> {
        if self.end - self.start > MAX_CONDITION_BYTES {
            return Err(self.too_long());
        }
        let code = fuse(&self.ops);
        let result = self.operands.last().map_or(Type::Undefined, |operand| operand.ty);
        Ok(Program {
            text: self.lexer.text[self.start..self.end].into(),
            depth: depth(&self.ops),
            conjuncts: conjuncts(&code).into(),
            code: code.into(),
            ops: self.ops.into(),
            spans: self.spans.into(),
            names: self.names.into(),
            paths: self.paths.into(),
            result,
        })
    }
}

/// Values that wait at most at a time.
fn depth(ops: &[Op]) -> usize {
    let (mut now, mut most) = (0usize, 0);
    for op in ops {
        if !matches!(op, Op::Settled { .. }) {
            now = now + 1 - op.operands();
            most = most.max(now);
        }
    }
    most
}

fn number(value: f64) -> (Op, Type) {
    (Op::Number(value), Type::Number)
}

/// Through a 64-bit integer in two's complement, as IoT Edge reads it; none beyond.
fn hex(digits: &str) -> Option<f64> {
    u64::from_str_radix(digits, 16).ok().map(|bits| bits.cast_signed() as f64)
}

/// Counts here are bounded by [`MAX_CONDITION_BYTES`] and a little.
fn index(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn binary(token: Token<'_>) -> Option<(Binary, Level)> {
    let operator = match token {
        Token::And => Binary::And,
        Token::Or => Binary::Or,
        Token::Sign(sign) => match sign {
            Sign::Star => Binary::Arithmetic(Arithmetic::Multiply),
            Sign::Slash => Binary::Arithmetic(Arithmetic::Divide),
            Sign::Percent => Binary::Arithmetic(Arithmetic::Remainder),
            Sign::Plus => Binary::Arithmetic(Arithmetic::Add),
            Sign::Minus => Binary::Arithmetic(Arithmetic::Subtract),
            Sign::Concat => Binary::Concat,
            Sign::Less => Binary::Compare(Compare::Less),
            Sign::LessOrEqual => Binary::Compare(Compare::LessOrEqual),
            Sign::Greater => Binary::Compare(Compare::Greater),
            Sign::GreaterOrEqual => Binary::Compare(Compare::GreaterOrEqual),
            Sign::Equal => Binary::Compare(Compare::Equal),
            Sign::NotEqual => Binary::Compare(Compare::NotEqual),
            Sign::Coalesce => Binary::Coalesce,
            _ => return None,
        },
        _ => return None,
    };
    Some((operator, operator.level()))
}

impl Binary {
    fn level(self) -> Level {
        match self {
            Binary::Arithmetic(Arithmetic::Add | Arithmetic::Subtract) | Binary::Concat => Level::Sum,
            Binary::Arithmetic(_) => Level::Product,
            Binary::Compare(Compare::Equal | Compare::NotEqual) => Level::Equality,
            Binary::Compare(_) => Level::Comparison,
            Binary::And => Level::And,
            Binary::Or => Level::Or,
            Binary::Coalesce => Level::Coalesce,
        }
    }

    /// The step for these types and the type of its result (IoT Edge semantics, 3.7), or what does not fit.
    fn check(self, left: Type, right: Type) -> Result<(Op, Type), String> {
        let body = left == Type::Body || right == Type::Body;
        let same = left == right || (body && left.meets_body() && right.meets_body());
        match self {
            Binary::Arithmetic(Arithmetic::Remainder) if body => {
                Err("`%` does not take body values; `as_number(…)` makes a number of one".into())
            }
            Binary::Arithmetic(how) if left.fits(Type::Number) && right.fits(Type::Number) => {
                Ok((Op::Arithmetic(how), if body { Type::Body } else { Type::Number }))
            }
            Binary::Concat if left.fits(Type::Text) && right.fits(Type::Text) => Ok((Op::Concat, Type::Text)),
            Binary::Compare(how) if same => Ok((Op::Compare { how, body }, Type::Bool)),
            Binary::Coalesce if same => Ok((Op::Coalesce, if body { Type::Body } else { left })),
            Binary::And | Binary::Or => self.check_logic(left, right),
            _ => Err(self.mismatch(left, right)),
        }
    }

    fn check_logic(self, left: Type, right: Type) -> Result<(Op, Type), String> {
        let and = self == Binary::And;
        let logical = |ty| matches!(ty, Type::Bool | Type::Null | Type::Undefined | Type::Body);
        // IoT Edge lets anything stand behind a body value; the result is then never true.
        if !logical(left) || !(logical(right) || left == Type::Body) {
            return Err(self.mismatch(left, right));
        }
        let (mode, ty) = match (left, right) {
            (Type::Body, _) | (_, Type::Body) => (Logic::Body, Type::Bool),
            (Type::Null, Type::Null) => (Logic::Null, Type::Null),
            (Type::Null, _) | (_, Type::Null) => (Logic::Null, if and { Type::Null } else { Type::Bool }),
            _ => (Logic::Kleene, Type::Bool),
        };
        Ok((Op::Logic { and, mode }, ty))
    }

    fn mismatch(self, left: Type, right: Type) -> String {
        let to_number = match (left, right) {
            (Type::Text, Type::Number) | (Type::Number, Type::Text) => "; `as_number(…)` makes a number of a text",
            _ => "",
        };
        match self {
            Binary::Arithmetic(how) => {
                let hint = if left == Type::Text || right == Type::Text {
                    "; `as_number(…)` makes a number of a text, `||` joins texts"
                } else {
                    ""
                };
                format!("`{}` needs a number on both sides, not {left} and {right}{hint}", how.sign())
            }
            Binary::Concat => format!("`||` needs a text on both sides, not {left} and {right}"),
            Binary::Compare(how) => {
                format!("`{}` compares {left} with {right}: both sides must be of one type{to_number}", how.sign())
            }
            Binary::Coalesce => {
                format!("`??` chooses between {left} and {right}: both sides must be of one type{to_number}")
            }
            Binary::And | Binary::Or => {
                let word = if self == Binary::And { "AND" } else { "OR" };
                format!("`{word}` needs true or false on both sides, not {left} and {right}")
            }
        }
    }
}
