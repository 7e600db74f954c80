//! Numbers in texts, as `as_number` reads them: .NET's `NumberStyles.Any` in the invariant culture. A text is never
//! refused for its length.

/// The value of a text; none when it is no number (or says `NaN`). Too large is infinite.
pub(super) fn parse(text: &str) -> Option<f64> {
    if let Some(value) = whole(text) {
        return Some(value);
    }
    // Nearly all are plain; `parse` of the standard library takes words such as `inf` too, so letters go the long way.
    let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+');
    if text.bytes().all(plain)
        && let Ok(value) = text.parse::<f64>()
    {
        return Some(value);
    }
    styled(text).or_else(|| named(text))
}

/// Digits alone, as most counts and levels are: what a double holds exactly needs no rounding.
fn whole(text: &str) -> Option<f64> {
    if !(1..=15).contains(&text.len()) {
        return None;
    }
    let digits =
        text.bytes().try_fold(0, |sum: u64, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')));
    digits.map(|value| value as f64)
}

/// Parts in front of the digits and behind them may come once each: a sign (or parentheses for a negative), the currency
/// sign; blanks between.
fn styled(text: &str) -> Option<f64> {
    let mut state = State { sign: false, currency: false, open: false, negative: false };
    let body = state.lead(text);
    let (commas, rest) = digits(body)?;
    let rest = exponent(rest);
    let number = &body[..body.len() - rest.len()];
    let rest = state.trail(rest);
    if state.open || !rest.trim_start_matches('\0').is_empty() {
        return None;
    }
    let value: f64 = if commas { number.replace(',', "").parse().ok()? } else { number.parse().ok()? };
    Some(if state.negative { -value } else { value })
}

struct State {
    sign: bool,
    currency: bool,
    /// A parenthesis waits for its end.
    open: bool,
    negative: bool,
}

/// The invariant culture's sign of currency.
const CURRENCY: char = '¤';

impl State {
    /// Skips what may stand in front of the digits.
    fn lead<'t>(&mut self, text: &'t str) -> &'t str {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            match first {
                // A blank behind a sign is allowed only behind the currency sign.
                c if is_blank(c) && (!self.sign || self.currency) => {}
                '+' | '-' | '(' if !self.sign => {
                    self.sign = true;
                    self.negative = first != '+';
                    self.open = first == '(';
                }
                CURRENCY if !self.currency => self.currency = true,
                _ => break,
            }
            rest = &rest[first.len_utf8()..];
        }
        rest
    }

    /// Skips what may stand behind the digits.
    fn trail<'t>(&mut self, text: &'t str) -> &'t str {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            match first {
                c if is_blank(c) => {}
                '+' | '-' if !self.sign => {
                    self.sign = true;
                    self.negative = first == '-';
                }
                ')' if self.open => self.open = false,
                CURRENCY if !self.currency => self.currency = true,
                _ => break,
            }
            rest = &rest[first.len_utf8()..];
        }
        rest
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// Skips digits with one decimal point, and commas between those before it: whether there were commas, and what follows.
fn digits(text: &str) -> Option<(bool, &str)> {
    let (mut any, mut point, mut commas) = (false, false, false);
    let mut end = text.len();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'0'..=b'9' => any = true,
            b'.' if !point => point = true,
            b',' if any && !point => commas = true,
            _ => {
                end = at;
                break;
            }
        }
    }
    any.then_some((commas, &text[end..]))
}

/// Skips `e`, a sign, digits; without digits it is none of it.
fn exponent(text: &str) -> &str {
    let Some(after) = text.strip_prefix(['e', 'E']) else { return text };
    let signless = after.strip_prefix(['+', '-']).unwrap_or(after);
    let rest = signless.trim_start_matches(|c: char| c.is_ascii_digit());
    if rest.len() == signless.len() { text } else { rest }
}

fn named(text: &str) -> Option<f64> {
    let text = text.trim();
    let is = |name: &str| text.eq_ignore_ascii_case(name);
    if is("Infinity") || is("+Infinity") {
        Some(f64::INFINITY)
    } else if is("-Infinity") {
        Some(f64::NEG_INFINITY)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(cases: &[(&str, Option<f64>)]) {
        for (text, value) in cases {
            assert_eq!(parse(text), *value, "{text:?}");
        }
    }

    #[test]
    fn plain_numbers_are_read() {
        check(&[("3", Some(3.0)), ("-3.5", Some(-3.5)), (".5", Some(0.5)), ("5.", Some(5.0)), ("+7", Some(7.0))]);
        check(&[("10e10", Some(1e11)), ("1E-3", Some(0.001)), ("10e1000", Some(f64::INFINITY)), ("-0", Some(-0.0))]);
        check(&[("10000000000000000000000000", Some(1e25)), ("0.1", Some(0.1)), ("007", Some(7.0))]);
        check(&[("999999999999999", Some(999_999_999_999_999.0)), ("9007199254740993", Some(9_007_199_254_740_992.0))]);
    }

    #[test]
    fn blanks_signs_commas_parentheses_and_the_currency_sign_are_allowed_around() {
        check(&[(" 3 ", Some(3.0)), ("\t-3\r\n", Some(-3.0)), ("1,234,567.5", Some(1_234_567.5)), ("1,2", Some(12.0))]);
        check(&[("(5)", Some(-5.0)), ("( 5)", None), ("(5", None), ("5)", None), ("(-5)", None), ("(5 )", Some(-5.0))]);
        check(&[("5-", Some(-5.0)), ("5 +", Some(5.0)), ("-5-", None), ("5--", None), ("¤5", Some(5.0))]);
        check(&[("-¤ 5", Some(-5.0)), ("- 5", None), ("5¤", Some(5.0)), ("¤5¤", None), ("5\0", Some(5.0))]);
        check(&[("1e5 ", Some(1e5)), ("1,5e1", Some(150.0)), ("5e", None), (",5", None), ("1.5,0", None)]);
    }

    #[test]
    fn what_is_no_number_has_no_value() {
        check(&[("", None), (" ", None), ("x", None), ("0x10", None), ("1_0", None), ("e5", None), (".", None)]);
        check(&[("inf", None), ("nan", None), ("NaN", None), ("1 2", None), ("٣", None), ("\u{a0}5", None)]);
        check(&[("infinity", Some(f64::INFINITY)), (" -Infinity ", Some(f64::NEG_INFINITY))]);
    }
}
