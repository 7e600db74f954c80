//! Integers in a JSON text that 64 bits do not hold. The parser makes floating-point numbers of them, which would pass where integers
//! have a range.

use std::collections::BTreeMap;

use serde_json::Number;

/// Those of one text.
#[derive(Default)]
pub(crate) struct WideIntegers<'t>(BTreeMap<u64, &'t str>);

impl<'t> WideIntegers<'t> {
    /// Of a text that is JSON.
    pub(crate) fn of(text: &'t str) -> Self {
        let mut found = BTreeMap::new();
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
            rest = &rest[start..];
            let token;
            if rest.starts_with('"') {
                rest = after_string(rest);
                continue;
            }
            (token, rest) = rest.split_at(rest.find(|c: char| !is_of_number(c)).unwrap_or(rest.len()));
            let is_integer = !token.contains(['.', 'e', 'E']);
            // The parser's own reading of it, to the last bit.
            let number = is_integer.then(|| serde_json::from_str::<Number>(token).ok()).flatten();
            if let Some(float) = number.as_ref().and_then(float_of) {
                found.insert(float.to_bits(), token);
            }
        }
        Self(found)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How a number was written, if it was one of them.
    pub(crate) fn written(&self, number: &Number) -> Option<&'t str> {
        self.0.get(&float_of(number)?.to_bits()).copied()
    }
}

/// The floating-point number that an integer may have become; `-0` becomes one too, and is none of these.
fn float_of(number: &Number) -> Option<f64> {
    number.as_f64().filter(|float| number.is_f64() && *float != 0.0)
}

fn is_of_number(c: char) -> bool {
    c.is_ascii_digit() || "+-.eE".contains(c)
}

/// What follows on the string at the beginning.
fn after_string(text: &str) -> &str {
    let mut is_escaped = false;
    let end = text[1..].find(|c| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    end.map_or("", |end| &text[end + 2..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Vec<&str> {
        WideIntegers::of(text).0.into_values().collect()
    }

    #[test]
    fn only_integers_beyond_64_bits_are_found_and_none_in_strings() {
        for text in ["18446744073709551616", "-9223372036854775809", "123456789012345678901234567890"] {
            assert_eq!(written(&format!(r#"{{"a":[1,{text}]}}"#)), [text]);
        }
        for text in ["18446744073709551615", "-9223372036854775808", "1e300", "18446744073709551616.0", "-0", "0.5"] {
            assert_eq!(written(&format!("[{text}]")).join(" "), "", "{text}");
        }
        assert_eq!(
            written(r#"{"18446744073709551616":"18446744073709551616","\"18446744073709551616":"\\"}"#).join(" "),
            ""
        );
        assert_eq!(written(r#"{"a\\":18446744073709551616}"#), ["18446744073709551616"]);
    }

    #[test]
    fn a_number_is_told_by_what_the_parser_made_of_it() {
        let text = r#"[18446744073709551616, 1.5, 18446744073709551615, 340282366920938463463374607431768211457]"#;
        let (wide, numbers) = (WideIntegers::of(text), serde_json::from_str::<Vec<Number>>(text).unwrap());
        let expected = [Some("18446744073709551616"), None, None, Some("340282366920938463463374607431768211457")];
        assert_eq!(numbers.iter().map(|number| wide.written(number)).collect::<Vec<_>>(), expected);
    }
}
