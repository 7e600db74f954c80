//! Evaluates a compiled condition: one loop over its steps with a stack of plain values (IoT Edge semantics, 3.8 to 3.10).
//! Parses nothing but numbers in texts, and allocates only for texts that it must make (`||`, `concat`, `lower`, `upper`,
//! `substring` beyond ASCII, digits with commas) and for nesting beyond [`INLINE`] values.

use std::cmp::Ordering;

use super::{
    Found, Program, Truth,
    call::{self, concat},
    made::{Maker, Texts},
    number,
    op::{Arithmetic, Compare, Logic, Op, Type},
    text,
};

/// Values that wait at a time without the heap. A comparison takes two, each level of nesting one or two more.
const INLINE: usize = 8;

/// Which steps a run may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skip {
    /// None: each is to be seen.
    Nothing,
    /// Those that cannot change the result.
    Settled,
}

/// What a condition may ask about a message.
pub trait Facts {
    /// An application property; names compare without regard to case.
    fn property(&self, name: &str) -> Field<'_>;
    /// A system property, named without `$`.
    fn system(&self, name: &str) -> Field<'_>;
    /// What is at the path of this number in [`Condition::body_paths`](super::Condition::body_paths).
    fn body(&self, path: usize) -> &Found<'_>;
    /// Why the body cannot be read, if so; for people.
    fn body_fault(&self) -> Option<String>;
}

/// A property's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'f> {
    /// It is not set.
    Missing,
    /// It is set to null, which only a made-up message can have.
    Null,
    /// Its value.
    Text(&'f str),
}

impl<'f> Field<'f> {
    fn text(self) -> Option<&'f str> {
        if let Field::Text(text) = self { Some(text) } else { None }
    }
}

/// A value at run time. Of which static type an undefined one would be is known from the program.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Value<'v> {
    /// Undefined, of any type; a number that is not a number, too.
    #[default]
    Undefined,
    /// A path that the body does not have: null, but for `is_null`.
    Missing,
    /// `null`.
    Null,
    /// A property that is set to null.
    NullText,
    /// True or false.
    Bool(bool),
    /// A number; never NaN.
    Number(f64),
    /// A text.
    Text(&'v str),
}

/// One evaluation: steps of a program, what they ask, the values that wait.
pub(super) struct Run<'r, 'v, F: ?Sized> {
    program: &'v Program,
    facts: &'v F,
    /// Room for the program's depth; those up to `top` wait.
    stack: &'r mut [Value<'v>],
    top: usize,
    maker: Maker<'v>,
}

impl Program {
    pub(super) fn evaluate<F: Facts + ?Sized>(&self, facts: &F) -> Truth {
        self.on_stack(facts, |mut run| self.truth(run.steps(&self.code, Skip::Settled, &mut |_, _| {})))
    }

    pub(super) fn is_true<F: Facts + ?Sized>(&self, facts: &F) -> bool {
        self.on_stack(facts, |mut run| {
            self.conjuncts.iter().all(|part| {
                let steps = self.code.get(part.clone()).unwrap_or_default();
                matches!(run.steps(steps, Skip::Settled, &mut |_, _| {}), Value::Bool(true))
            })
        })
    }

    #[inline]
    fn on_stack<F: Facts + ?Sized, T>(&self, facts: &F, work: impl FnOnce(Run<'_, '_, F>) -> T) -> T {
        let texts = Texts::default();
        if self.depth <= INLINE {
            work(Run::new(self, facts, &texts, &mut [Value::Undefined; INLINE]))
        } else {
            work(Run::new(self, facts, &texts, &mut vec![Value::Undefined; self.depth]))
        }
    }

    /// The result of the whole: null is false where it stands in the condition, undefined where it stands in a body.
    pub(super) fn truth(&self, result: &Value<'_>) -> Truth {
        match result {
            Value::Bool(true) => Truth::True,
            Value::Bool(false) => Truth::False,
            Value::Null if self.result == Type::Null => Truth::False,
            _ => Truth::Undefined,
        }
    }
}

/// The operands of an operator.
type Sides<'s, 'v> = (&'s Value<'v>, &'s Value<'v>);

/// Where there is no value, so that nothing here can panic.
const NOTHING: &Value<'_> = &Value::Undefined;

impl<'r, 'v, F: Facts + ?Sized> Run<'r, 'v, F> {
    /// A run on `stack`, which has room for the program's depth; what it makes is kept in `texts`.
    pub(super) fn new(program: &'v Program, facts: &'v F, texts: &'v Texts, stack: &'r mut [Value<'v>]) -> Self {
        Self { program, facts, stack, top: 0, maker: texts.maker() }
    }

    /// The result of complete steps; shows that of each to `see`.
    #[inline]
    pub(super) fn steps(&mut self, steps: &[Op], skip: Skip, see: &mut impl FnMut(usize, &Value<'v>)) -> &Value<'v> {
        self.top = 0;
        let mut at = 0;
        while let Some(op) = steps.get(at) {
            match *op {
                Op::Settled { and, skip: settled } => {
                    if skip == Skip::Settled && settled > 0 && *self.last() == Value::Bool(!and) {
                        at += settled as usize;
                    }
                }
                op => {
                    self.step(op);
                    see(at, self.last());
                }
            }
            at += 1;
        }
        self.last()
    }

    #[inline]
    fn step(&mut self, op: Op) {
        let (program, facts) = (self.program, self.facts);
        match op {
            Op::Undefined | Op::Nothing(_) | Op::Settled { .. } => self.put(0, Value::Undefined),
            Op::Null => self.put(0, Value::Null),
            Op::Bool(value) => self.put(0, Value::Bool(value)),
            Op::Number(value) => self.put(0, Value::Number(value)),
            Op::Text(name) => self.put(0, Value::Text(program.name(name))),
            Op::Property(name) => self.put(0, facts.property(program.name(name))),
            Op::PropertyMatches { how, name, text } => {
                let property = facts.property(program.name(name)).text();
                self.put(0, property.map(|property| how.holds(property, program.name(text))));
            }
            Op::PropertyCompares { how, name, value } => {
                let property = facts.property(program.name(name)).text().and_then(number::parse);
                self.put(0, property.and_then(|property| property.partial_cmp(&value)).map(|order| how.holds(order)));
            }
            Op::PropertyOrSystem(name) => match facts.property(program.name(name)) {
                Field::Missing => self.put(0, facts.system(&program.name(name)[1..])),
                set => self.put(0, set),
            },
            Op::System(name) => self.put(0, facts.system(&program.name(name)[1..])),
            Op::PropertyOrBody { name, path } => match facts.property(program.name(name)) {
                Field::Missing => self.put(0, facts.body(path as usize)),
                set => self.put(0, set),
            },
            Op::Body { path, .. } => self.put(0, facts.body(path as usize)),
            Op::Negate => self.put(1, if let Value::Number(value) = self.last() { -value } else { f64::NAN }),
            Op::Not(ty) => self.put(1, not(ty, self.last())),
            Op::Arithmetic(how) => self.put(2, arithmetic(how, self.last_two())),
            Op::Concat => self.call(2, |texts, maker| concat(texts, maker)),
            Op::Compare { how, body } => self.put(2, compare(how, body, self.last_two())),
            Op::Logic { and, mode: Logic::Null } => self.put(2, *null_logic(and, self.last_two())),
            Op::Logic { and, mode } => self.put(2, logic(and, mode, self.last_two())),
            Op::Coalesce => match self.last_two() {
                (Value::Undefined, right) => self.put(2, *right),
                _ => self.top -= 1,
            },
            Op::Call { function, arguments, first, result } => match result {
                Type::Number => self.call(arguments, |arguments, _| call::number(function, arguments)),
                Type::Bool => self.call(arguments, |arguments, _| call::truth(function, first, arguments)),
                _ => self.call(arguments, |arguments, maker| call::text(function, arguments, maker)),
            },
        }
    }

    #[inline(always)]
    fn call<T: Into<Value<'v>>>(&mut self, count: u32, work: impl FnOnce(&[Value<'v>], &mut Maker<'v>) -> T) {
        let first = self.top.saturating_sub(count as usize);
        let value = work(self.stack.get(first..self.top).unwrap_or_default(), &mut self.maker);
        self.put(count as usize, value);
    }

    /// Puts a value in place of the last ones.
    // Inlined, so that each step writes what it has: a whole value, copied right after it was written in parts, waits for
    // the parts to leave the processor's store buffer.
    #[inline(always)]
    fn put(&mut self, operands: usize, value: impl Into<Value<'v>>) {
        self.top = self.top.saturating_sub(operands);
        if let Some(place) = self.stack.get_mut(self.top) {
            *place = value.into();
            self.top += 1;
        }
    }

    #[inline]
    fn last(&self) -> &Value<'v> {
        self.stack.get(self.top.wrapping_sub(1)).unwrap_or(NOTHING)
    }

    #[inline]
    fn last_two(&self) -> (&Value<'v>, &Value<'v>) {
        match self.stack.get(..self.top) {
            Some([.., left, right]) => (left, right),
            _ => (NOTHING, NOTHING),
        }
    }
}

impl<'v> From<Field<'v>> for Value<'v> {
    fn from(field: Field<'v>) -> Self {
        match field {
            Field::Missing => Value::Undefined,
            Field::Null => Value::NullText,
            Field::Text(text) => Value::Text(text),
        }
    }
}

impl<'v> From<&'v Found<'_>> for Value<'v> {
    fn from(found: &'v Found<'_>) -> Self {
        match found {
            Found::Missing => Value::Missing,
            Found::Null => Value::Null,
            Found::Bool(value) => Value::Bool(*value),
            Found::Number(value) => (*value).into(),
            Found::Text(text) => Value::Text(text),
            Found::DateTime | Found::Container | Found::Unreadable => Value::Undefined,
        }
    }
}

/// A number, or undefined for NaN.
impl From<f64> for Value<'_> {
    fn from(value: f64) -> Self {
        if value.is_nan() { Value::Undefined } else { Value::Number(value) }
    }
}

impl From<Option<bool>> for Value<'_> {
    fn from(value: Option<bool>) -> Self {
        value.map_or(Value::Undefined, Value::Bool)
    }
}

impl<'v> From<Option<&'v str>> for Value<'v> {
    fn from(value: Option<&'v str>) -> Self {
        value.map_or(Value::Undefined, Value::Text)
    }
}

/// `NOT null` is true for the `null` of the condition, undefined for one of a body.
fn not(ty: Type, value: &Value<'_>) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(!value),
        Value::Null => (ty == Type::Null).then_some(true),
        _ => None,
    }
}

/// NaN where a side is no number.
fn arithmetic(how: Arithmetic, sides: Sides<'_, '_>) -> f64 {
    let (Value::Number(left), Value::Number(right)) = sides else { return f64::NAN };
    match how {
        Arithmetic::Multiply => left * right,
        Arithmetic::Divide => left / right,
        Arithmetic::Remainder => left % right,
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
    }
}

fn compare(how: Compare, body: bool, (left, right): Sides<'_, '_>) -> Option<bool> {
    // The usual case: whether two texts are the same needs no order.
    if let (Value::Text(left), Value::Text(right), Compare::Equal | Compare::NotEqual) = (left, right, how) {
        return Some((left == right) == (how == Compare::Equal));
    }
    let order = if body { order_of_body(left, right) } else { order(left, right) };
    order.map(|order| how.holds(order))
}

/// Order of two values of one static type; none if either is undefined or a null text.
fn order(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.partial_cmp(right),
        (Value::Text(left), Value::Text(right)) => Some(text::compare(left, right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        _ => None,
    }
}

/// Order where one side at least is a body value: of different kinds bool, number, text, null; none if either is undefined.
fn order_of_body(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    let ranks = rank(left)?.cmp(&rank(right)?);
    if ranks.is_ne() {
        return Some(ranks);
    }
    match (left, right) {
        (Value::NullText, Value::NullText) => Some(Ordering::Equal),
        (Value::NullText, _) => Some(Ordering::Less),
        (_, Value::NullText) => Some(Ordering::Greater),
        (Value::Null | Value::Missing, _) => Some(Ordering::Equal),
        _ => order(left, right),
    }
}

fn rank(value: &Value<'_>) -> Option<u8> {
    match value {
        Value::Undefined => None,
        Value::Bool(_) => Some(0),
        Value::Number(_) => Some(1),
        Value::Text(_) | Value::NullText => Some(2),
        Value::Null | Value::Missing => Some(3),
    }
}

fn logic(and: bool, mode: Logic, sides: Sides<'_, '_>) -> Option<bool> {
    match sides {
        (Value::Bool(left), Value::Bool(right)) => Some(if and { *left && *right } else { *left || *right }),
        (Value::Bool(settles), Value::Undefined) | (Value::Undefined, Value::Bool(settles)) => {
            (mode == Logic::Kleene && *settles != and).then_some(*settles)
        }
        _ => None,
    }
}

/// Where a side is the `null` of the condition.
fn null_logic<'s, 'v>(and: bool, sides: Sides<'s, 'v>) -> &'s Value<'v> {
    match sides {
        _ if and => &Value::Null,
        (Value::Null, right) => right,
        (left, _) => left,
    }
}
