//! Evaluates a compiled condition: one loop over its steps with a stack of values (IoT Edge semantics, 3.8 to 3.11).
//! Parses nothing but numbers in texts, and allocates only for texts that it must make (`||`, `concat`, `lower`,
//! `upper`, `substring` beyond ASCII, digits with commas) and for nesting beyond [`INLINE`] values.

use std::{borrow::Cow, cmp::Ordering};

use super::{
    Found, Program, Truth,
    function::Function,
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
    /// All that follows, once the result cannot be true any more; false and undefined are not told apart then.
    Hopeless,
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

/// A value at run time. Of which static type an undefined one would be is known from the program.
#[derive(Debug, Clone, PartialEq, Default)]
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
    Text(Cow<'v, str>),
}

/// Most bytes of texts that one evaluation makes; what would go beyond is undefined. A condition of the largest size could
/// otherwise join a message's properties to gigabytes, outside of every module's limit. Four of the largest messages.
pub(super) const MAX_MADE_BYTES: usize = 1 << 20;

impl Program {
    pub(super) fn evaluate<F: Facts + ?Sized>(&self, facts: &F) -> Truth {
        self.truth(&self.run_on_stack(facts, Skip::Settled))
    }

    pub(super) fn is_true<F: Facts + ?Sized>(&self, facts: &F) -> bool {
        self.run_on_stack(facts, Skip::Hopeless) == Value::Bool(true)
    }

    fn run_on_stack<'v, F: Facts + ?Sized>(&'v self, facts: &'v F, skip: Skip) -> Value<'v> {
        if self.depth <= INLINE {
            self.run(facts, &mut [const { Value::Undefined }; INLINE], &mut |_, _| {}, skip)
        } else {
            self.run(facts, &mut vec![Value::Undefined; self.depth], &mut |_, _| {}, skip)
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

    /// Runs the steps on `stack`, which holds at least `self.depth` values, and shows each result to `see`.
    #[inline]
    pub(super) fn run<'v, F: Facts + ?Sized>(
        &'v self,
        facts: &'v F,
        stack: &mut [Value<'v>],
        see: &mut impl FnMut(usize, &Value<'v>),
        skip: Skip,
    ) -> Value<'v> {
        let (mut top, mut at, mut made) = (0, 0, 0);
        while let Some(op) = self.ops.get(at) {
            if let Op::Settled { and, skip: steps, needed } = *op {
                let left = &stack[top - 1];
                if needed && skip == Skip::Hopeless && *left != Value::Bool(true) {
                    return Value::Undefined;
                }
                if steps > 0 && skip != Skip::Nothing && *left == Value::Bool(!and) {
                    at += steps as usize;
                }
                at += 1;
                continue;
            }
            let operands = op.operands();
            let first = top - operands;
            let mut value = self.step(*op, facts, &mut stack[first..top]);
            if let Value::Text(Cow::Owned(text)) = &value {
                made += text.len();
                if made > MAX_MADE_BYTES {
                    value = Value::Undefined;
                }
            }
            see(at, &value);
            stack[first] = value;
            top = first + 1;
            at += 1;
        }
        std::mem::take(&mut stack[0])
    }

    #[inline]
    fn step<'v, F: Facts + ?Sized>(&'v self, op: Op, facts: &'v F, operands: &mut [Value<'v>]) -> Value<'v> {
        match op {
            Op::Undefined | Op::Nothing(_) | Op::Settled { .. } => Value::Undefined,
            Op::Null => Value::Null,
            Op::Bool(value) => Value::Bool(value),
            Op::Number(value) => Value::Number(value),
            Op::Text(name) => Value::Text(self.name(name).into()),
            Op::Property(name) => facts.property(self.name(name)).into(),
            Op::PropertyOrSystem(name) => match facts.property(self.name(name)) {
                Field::Missing => facts.system(&self.name(name)[1..]).into(),
                set => set.into(),
            },
            Op::System(name) => facts.system(&self.name(name)[1..]).into(),
            Op::PropertyOrBody { name, path } => match facts.property(self.name(name)) {
                Field::Missing => facts.body(path as usize).into(),
                set => set.into(),
            },
            Op::Body { path, .. } => facts.body(path as usize).into(),
            Op::Negate => match operands {
                [Value::Number(value)] => Value::Number(-*value),
                _ => Value::Undefined,
            },
            Op::Not(_) => match operands {
                [Value::Bool(value)] => Value::Bool(!*value),
                // Of a null that stands in the condition; a body's null is not told from it, see `not`.
                [Value::Null] => not_null(op),
                _ => Value::Undefined,
            },
            Op::Arithmetic(how) => arithmetic(how, operands),
            Op::Concat => concat(operands),
            Op::Compare { how, body } => compare(how, body, operands),
            Op::Logic { and, mode } => logic(and, mode, operands),
            Op::Coalesce => match operands {
                [Value::Undefined, right] => std::mem::take(right),
                [left, _] => std::mem::take(left),
                _ => Value::Undefined,
            },
            Op::Call { function, first, .. } => call(function, first, operands),
        }
    }
}

impl<'v> From<Field<'v>> for Value<'v> {
    fn from(field: Field<'v>) -> Self {
        match field {
            Field::Missing => Value::Undefined,
            Field::Null => Value::NullText,
            Field::Text(text) => Value::Text(text.into()),
        }
    }
}

impl<'v> From<&'v Found<'_>> for Value<'v> {
    fn from(found: &'v Found<'_>) -> Self {
        match found {
            Found::Missing => Value::Missing,
            Found::Null => Value::Null,
            Found::Bool(value) => Value::Bool(*value),
            Found::Number(value) => finite_or(*value),
            Found::Text(text) => Value::Text(Cow::Borrowed(text)),
            Found::DateTime | Found::Container | Found::Unreadable => Value::Undefined,
        }
    }
}

/// A number, or undefined for NaN.
fn finite_or<'v>(value: f64) -> Value<'v> {
    if value.is_nan() { Value::Undefined } else { Value::Number(value) }
}

/// `NOT null` is true for the `null` of the condition, undefined for one of a body.
fn not_null<'v>(op: Op) -> Value<'v> {
    if op == Op::Not(Type::Null) { Value::Bool(true) } else { Value::Undefined }
}

fn arithmetic<'v>(how: Arithmetic, operands: &[Value<'v>]) -> Value<'v> {
    let [Value::Number(left), Value::Number(right)] = operands else { return Value::Undefined };
    finite_or(match how {
        Arithmetic::Multiply => left * right,
        Arithmetic::Divide => left / right,
        Arithmetic::Remainder => left % right,
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
    })
}

fn concat<'v>(operands: &[Value<'v>]) -> Value<'v> {
    let bytes = |operand: &Value<'v>| if let Value::Text(text) = operand { text.len() } else { 0 };
    if operands.iter().map(bytes).sum::<usize>() > MAX_MADE_BYTES {
        return Value::Undefined;
    }
    let mut whole = String::new();
    for operand in operands {
        match operand {
            Value::Text(text) => whole.push_str(text),
            Value::NullText => {}
            _ => return Value::Undefined,
        }
    }
    Value::Text(whole.into())
}

fn compare<'v>(how: Compare, body: bool, operands: &[Value<'v>]) -> Value<'v> {
    let [left, right] = operands else { return Value::Undefined };
    // The usual case: whether two texts are the same needs no order.
    if let (Value::Text(left), Value::Text(right), Compare::Equal | Compare::NotEqual) = (left, right, how) {
        return Value::Bool((left == right) == (how == Compare::Equal));
    }
    let order = if body { order_of_body(left, right) } else { order(left, right) };
    let Some(order) = order else { return Value::Undefined };
    Value::Bool(match how {
        Compare::Less => order.is_lt(),
        Compare::LessOrEqual => order.is_le(),
        Compare::Greater => order.is_gt(),
        Compare::GreaterOrEqual => order.is_ge(),
        Compare::Equal => order.is_eq(),
        Compare::NotEqual => order.is_ne(),
    })
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

fn logic<'v>(and: bool, mode: Logic, operands: &mut [Value<'v>]) -> Value<'v> {
    let [left, right] = operands else { return Value::Undefined };
    match (mode, &*left, &*right) {
        (_, Value::Bool(left), Value::Bool(right)) => Value::Bool(if and { *left && *right } else { *left || *right }),
        (Logic::Kleene, Value::Bool(settles), Value::Undefined)
        | (Logic::Kleene, Value::Undefined, Value::Bool(settles))
            if *settles != and =>
        {
            Value::Bool(*settles)
        }
        (Logic::Null, ..) if and => Value::Null,
        (Logic::Null, Value::Null, _) => std::mem::take(right),
        (Logic::Null, ..) => std::mem::take(left),
        _ => Value::Undefined,
    }
}

fn call<'v>(function: Function, first: Type, arguments: &mut [Value<'v>]) -> Value<'v> {
    use Value::{Number, Text};
    match (function, &mut *arguments) {
        (Function::Concat, all) => concat(all),
        (
            Function::IsBool | Function::IsDefined | Function::IsNull | Function::IsNumber | Function::IsString,
            [value],
        ) => is(function, first, value),
        (Function::AsNumber, [Text(text)]) => number::parse(text).map_or(Value::Undefined, Number),
        (Function::Length, [Text(text)]) => Number(text::length(text) as f64),
        (Function::Lower, [Text(text)]) => Text(text::lower(text).into()),
        (Function::Upper, [Text(text)]) => Text(text::upper(text).into()),
        (Function::Substring, [Text(text), Number(start)]) => substring(text, *start, None),
        (Function::Substring, [Text(text), Number(start), Number(count)]) => substring(text, *start, Some(*count)),
        (Function::IndexOf, [Text(text), Text(part)]) => {
            Number(text::index_of(text, part).map_or(-1.0, |at| at as f64))
        }
        (Function::StartsWith, [Text(text), Text(part)]) => Value::Bool(text.starts_with(&**part)),
        (Function::EndsWith, [Text(text), Text(part)]) => Value::Bool(text.ends_with(&**part)),
        (Function::Contains, [Text(text), Text(part)]) => Value::Bool(text.contains(&**part)),
        (Function::Power, [Number(base), Number(exponent)]) => finite_or(base.powf(*exponent)),
        (function, [Number(value)]) => mathematics(function, *value),
        _ => Value::Undefined,
    }
}

fn mathematics<'v>(function: Function, value: f64) -> Value<'v> {
    finite_or(match function {
        Function::Abs => value.abs(),
        Function::Exp => value.exp(),
        Function::Square => value * value,
        Function::Ceiling => value.ceil(),
        Function::Floor => value.floor(),
        Function::Sign if value == 0.0 => 0.0,
        Function::Sign => value.signum(),
        Function::Sqrt => value.sqrt(),
        Function::AsNumber => value,
        _ => f64::NAN,
    })
}

/// The questions about a value's kind, which depend on the static type of the argument too.
fn is<'v>(function: Function, of: Type, value: &Value<'v>) -> Value<'v> {
    let answer = match function {
        Function::IsDefined => *value != Value::Undefined,
        Function::IsBool if matches!(of, Type::Bool | Type::Body) && *value == Value::Undefined => {
            return Value::Undefined;
        }
        Function::IsBool => matches!(of, Type::Bool | Type::Body) && matches!(value, Value::Bool(_)),
        Function::IsNumber => matches!(value, Value::Number(number) if number.is_finite()),
        Function::IsString => matches!(value, Value::Text(_)),
        // Of body values IoT Edge says the opposite of what it means, but for those that are not there.
        Function::IsNull if of == Type::Body => match value {
            Value::Undefined => return Value::Undefined,
            value => *value != Value::Missing,
        },
        Function::IsNull => matches!(value, Value::Null | Value::NullText),
        _ => false,
    };
    Value::Bool(answer)
}

/// Start and count are cut to whole numbers after they were checked. With a count the start must lie before the end.
fn substring<'v>(text: &Cow<'v, str>, start: f64, count: Option<f64>) -> Value<'v> {
    let length = text::length(text) as f64;
    let fits = match count {
        None => (0.0..=length).contains(&start),
        Some(count) => (0.0..length).contains(&start) && (0.0..=length - start).contains(&count),
    };
    if !fits {
        return Value::Undefined;
    }
    let start = start as usize;
    let count = count.map_or(length as usize - start, |count| count as usize);
    Value::Text(match text {
        Cow::Borrowed(text) => text::slice(text, start, count),
        Cow::Owned(text) => text::slice(text, start, count).into_owned().into(),
    })
}
