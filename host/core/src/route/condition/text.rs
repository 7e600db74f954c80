//! Texts as the language measures them: UTF-16 code units, ordinal order, simple case mapping. Ours are UTF-8, so half of
//! a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD.

use std::{borrow::Cow, cmp::Ordering};

/// Order by UTF-16 code units, which differs from that of UTF-8 beyond the basic plane.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let order = left.cmp(right);
    if order == Ordering::Equal || (left.is_ascii() && right.is_ascii()) {
        return order;
    }
    left.encode_utf16().cmp(right.encode_utf16())
}

/// UTF-16 code units of a text.
pub(super) fn length(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.encode_utf16().count() }
}

/// `count` code units from `start`, both within the text.
pub(super) fn slice(text: &str, start: usize, count: usize) -> Cow<'_, str> {
    if text.is_ascii() {
        return text[start..start + count].into();
    }
    let units: Vec<u16> = text.encode_utf16().skip(start).take(count).collect();
    String::from_utf16_lossy(&units).into()
}

/// Where a text begins in another, in code units.
pub(super) fn index_of(text: &str, part: &str) -> Option<usize> {
    text.find(part).map(|at| length(&text[..at]))
}

/// Each character by its own upper case, if that is one character: `ß` stays. Dotless i and long s stay as well, as in
/// .NET's invariant culture. Greek letters with an iota below have one there too, beside the two characters that std knows.
pub(super) fn upper(text: &str) -> Cow<'_, str> {
    if text.is_ascii() && !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return text.into();
    }
    let upper = |c: char| match c {
        'ı' | 'ſ' => c,
        'ᾀ'..='ᾇ' | 'ᾐ'..='ᾗ' | 'ᾠ'..='ᾧ' => later(c, 8),
        'ᾳ' | 'ῃ' | 'ῳ' => later(c, 9),
        _ => single(c, c.to_uppercase()),
    };
    text.chars().map(upper).collect()
}

/// Each character by its own lower case, if that is one character: dotted `İ` stays.
pub(super) fn lower(text: &str) -> Cow<'_, str> {
    if text.is_ascii() && !text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return text.into();
    }
    text.chars().map(|c| single(c, c.to_lowercase())).collect()
}

fn later(c: char, by: u32) -> char {
    char::from_u32(u32::from(c) + by).unwrap_or(c)
}

fn single(c: char, mut mapped: impl Iterator<Item = char>) -> char {
    match (mapped.next(), mapped.next()) {
        (Some(only), None) => only,
        _ => c,
    }
}

/// What a text between quotes means. Two passes, as IoT Edge does it: `\uXXXX` everywhere, then `\"`, `\'` and `\\`.
pub(super) fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut first = Vec::with_capacity(units.len());
    let mut at = 0;
    while at < units.len() {
        match unicode_escape(&units[at..]) {
            Some(unit) => {
                first.push(unit);
                at += 6;
            }
            None => {
                first.push(units[at]);
                at += 1;
            }
        }
    }
    let mut second = Vec::with_capacity(first.len());
    let mut rest = first.into_iter().peekable();
    while let Some(unit) = rest.next() {
        let escaped = (unit == u16::from(b'\\'))
            .then(|| rest.next_if(|next| [b'"', b'\'', b'\\'].iter().any(|c| u16::from(*c) == *next)));
        second.push(escaped.flatten().unwrap_or(unit));
    }
    String::from_utf16_lossy(&second)
}

/// `\uXXXX` at the begin of these.
fn unicode_escape(units: &[u16]) -> Option<u16> {
    let mut digits = units.get(2..6)?.iter().map(|unit| char::from_u32(u32::from(*unit))?.to_digit(16));
    let is_escape = units[0] == u16::from(b'\\') && matches!(units[1], 0x55 | 0x75);
    let value = digits.try_fold(0, |sum, digit| Some(sum * 16 + digit?))?;
    is_escape.then_some(u16::try_from(value).ok()?)
}

/// A text as a condition would write it.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for c in text.chars() {
        match c {
            '\'' => quoted.push_str("\\'"),
            // By its number: the first of the two passes would find `\uXXXX` behind a doubled one.
            '\\' => quoted.push_str("\\u005c\\u005c"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_places_are_utf_16_code_units() {
        assert_eq!((length("aé€"), length("a😀")), (3, 3));
        assert_eq!((&*slice("a😀b", 3, 1), &*slice("aéb", 1, 2), &*slice("abc", 1, 0)), ("b", "éb", ""));
        assert_eq!(&*slice("a😀", 1, 1), "\u{fffd}");
        assert_eq!((index_of("😀x", "x"), index_of("abc", ""), index_of("abc", "d")), (Some(2), Some(0), None));
    }

    #[test]
    fn order_is_that_of_utf_16() {
        // U+FF5E stands after U+1F600 in UTF-16 (D83D…), before it by code point.
        assert_eq!(compare("\u{ff5e}", "😀"), Ordering::Greater);
        assert_eq!(
            (compare("a", "b"), compare("é", "é"), compare("a", "aé")),
            (Ordering::Less, Ordering::Equal, Ordering::Less)
        );
    }

    #[test]
    fn case_mapping_is_one_character_for_one() {
        assert_eq!((&*upper("straße ıſ"), &*lower("ÀİΣ")), ("STRAßE ıſ", "àİσ"));
    }

    #[test]
    fn escapes_are_undone_in_two_passes() {
        for (text, meant) in [
            (r"a", "a"),
            (r"\'\u0041\\", r"'A\"),
            (r"\ud83d\ude00", "😀"),
            (r"\ud83d", "\u{fffd}"),
            (r"\\u0041", r"\A"),
            (r#"\u005c\""#, r#"\""#),
        ] {
            assert_eq!(unescape(text), meant, "{text}");
        }
    }

    #[test]
    fn what_is_quoted_is_meant_again() {
        for text in ["", "a", "it's", r"\u0041", r"\\", r"\'", "\n\"é😀"] {
            let quoted = quote(text);
            assert_eq!(unescape(&quoted[1..quoted.len() - 1]), text, "{quoted}");
        }
    }
}
