//! What the built-in functions compute (IoT Edge semantics, 3.11). Arguments of a wrong kind, which body values may be, and
//! undefined ones give undefined.

use super::{Value, function::Function, made::Maker, number, op::Type, text};

/// The value of a call of a function that gives a number; NaN is undefined.
pub(super) fn number(function: Function, arguments: &[Value<'_>]) -> f64 {
    use Value::{Number, Text};
    match (function, arguments) {
        (Function::AsNumber, [Text(text)]) => number::parse(text).unwrap_or(f64::NAN),
        (Function::Length, [Text(text)]) => text::length(text) as f64,
        (Function::IndexOf, [Text(text), Text(part)]) => text::index_of(text, part).map_or(-1.0, |at| at as f64),
        (Function::Power, [Number(base), Number(exponent)]) => base.powf(*exponent),
        (function, [Number(value)]) => mathematics(function, *value),
        _ => f64::NAN,
    }
}

fn mathematics(function: Function, value: f64) -> f64 {
    match function {
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
    }
}

/// The value of a call of a function that gives true or false; `first` is the static type of its first argument.
pub(super) fn truth(function: Function, first: Type, arguments: &[Value<'_>]) -> Option<bool> {
    use Value::Text;
    match (function, arguments) {
        (Function::StartsWith, [Text(text), Text(part)]) => Some(text.starts_with(part)),
        (Function::EndsWith, [Text(text), Text(part)]) => Some(text.ends_with(part)),
        (Function::Contains, [Text(text), Text(part)]) => Some(text.contains(part)),
        (function, [value]) => is(function, first, value),
        _ => None,
    }
}

/// The questions about a value's kind, which depend on the static type of the argument too.
fn is(function: Function, of: Type, value: &Value<'_>) -> Option<bool> {
    let defined = *value != Value::Undefined;
    match function {
        Function::IsDefined => Some(defined),
        Function::IsBool if matches!(of, Type::Bool | Type::Body) => defined.then_some(matches!(value, Value::Bool(_))),
        Function::IsBool => Some(false),
        Function::IsNumber => Some(matches!(value, Value::Number(number) if number.is_finite())),
        Function::IsString => Some(matches!(value, Value::Text(_))),
        // Of body values IoT Edge says the opposite of what it means, but for those that are not there.
        Function::IsNull if of == Type::Body => defined.then_some(*value != Value::Missing),
        Function::IsNull => Some(matches!(value, Value::Null | Value::NullText)),
        _ => None,
    }
}

/// The value of a call of a function that gives a text.
pub(super) fn text<'v>(function: Function, arguments: &[Value<'v>], maker: &mut Maker<'v>) -> Option<&'v str> {
    use Value::{Number, Text};
    match (function, arguments) {
        (Function::Concat, all) => concat(all, maker),
        (Function::Lower, [Text(text)]) => maker.keep(text::lower(text)),
        (Function::Upper, [Text(text)]) => maker.keep(text::upper(text)),
        (Function::Substring, [Text(text), Number(start)]) => substring(text, *start, None, maker),
        (Function::Substring, [Text(text), Number(start), Number(count)]) => {
            substring(text, *start, Some(*count), maker)
        }
        _ => None,
    }
}

/// Start and count are cut to whole numbers after they were checked. With a count the start must lie before the end.
fn substring<'v>(text: &'v str, start: f64, count: Option<f64>, maker: &mut Maker<'v>) -> Option<&'v str> {
    let length = text::length(text) as f64;
    let fits = match count {
        None => (0.0..=length).contains(&start),
        Some(count) => (0.0..length).contains(&start) && (0.0..=length - start).contains(&count),
    };
    if !fits {
        return None;
    }
    let start = start as usize;
    let count = count.map_or(length as usize - start, |count| count as usize);
    maker.keep(text::slice(text, start, count))
}

/// Texts joined; a null text is empty.
pub(super) fn concat<'v>(operands: &[Value<'v>], maker: &mut Maker<'v>) -> Option<&'v str> {
    let bytes = |operand: &Value<'v>| if let Value::Text(text) = operand { text.len() } else { 0 };
    if !maker.has_room(operands.iter().map(bytes).sum()) {
        return None;
    }
    let mut whole = String::new();
    for operand in operands {
        match operand {
            Value::Text(text) => whole.push_str(text),
            Value::NullText => {}
            _ => return None,
        }
    }
    maker.keep(whole.into())
}
