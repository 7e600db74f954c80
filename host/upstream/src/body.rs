//! Decides how a message's body stands in its line: as JSON, as text or as base64. Pure.
//!
//! JSON is embedded as the sender wrote it, less the white space between tokens (a line has no line feed): numbers keep
//! their digits, objects their order and their repeated keys.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use marram_core::message::{Message, SystemProperties};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Deepest nesting of JSON that is embedded; deeper bodies go as text. Common readers stop at 128 (serde_json) or so, and
/// a line that its reader refuses is worse than a body in quotes.
const MAX_DEPTH: usize = 100;

/// A body, ready to be put into a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// Compact JSON.
    Json(String),
    /// UTF-8 that is not declared as JSON, or is not JSON.
    Text(&'a str),
    /// Anything else, RFC 4648 with padding.
    Base64(String),
}

impl<'a> Body<'a> {
    pub(crate) fn of(message: &'a Message) -> Self {
        let Ok(text) = std::str::from_utf8(&message.body) else {
            return Body::Base64(BASE64_STANDARD.encode(&message.body));
        };
        if message.system().is_some_and(declares_json)
            && let Some(json) = embeddable(text)
        {
            return Body::Json(json);
        }
        Body::Text(text)
    }
}

/// As IoT Hub reads it for its routes: `application/json` (parameters are ignored) in UTF-8, which is also the default.
fn declares_json(system: &SystemProperties) -> bool {
    let media_type = system.content_type.as_deref().and_then(|text| text.split(';').next()).unwrap_or_default();
    let utf8 = system.content_encoding.as_deref().map_or("utf-8", str::trim);
    media_type.trim().eq_ignore_ascii_case("application/json")
        && ["utf-8", "utf8", ""].iter().any(|name| utf8.eq_ignore_ascii_case(name))
}

/// The text without white space between its tokens, when it is JSON that an ordinary parser takes.
fn embeddable(text: &str) -> Option<String> {
    let compact = compact(text)?;
    serde_json::from_str::<Readable>(text).is_ok().then_some(compact)
}

/// Removes white space outside of strings; none when it nests too deep. What is not JSON gives an answer of no meaning.
fn compact(text: &str) -> Option<String> {
    let mut compact = String::with_capacity(text.len());
    let (mut in_string, mut escaped, mut depth) = (false, false, 0_usize);
    for c in text.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else {
            match c {
                ' ' | '\t' | '\r' | '\n' => continue,
                '"' => in_string = true,
                '{' | '[' => depth += 1,
                '}' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        if depth > MAX_DEPTH {
            return None;
        }
        compact.push(c);
    }
    Some(compact)
}

/// Any JSON value, read to the end and forgotten. Unlike `IgnoredAny` it makes the parser decode strings and numbers, and
/// so refuses lone surrogates and numbers beyond a double, on which the journal's readers would stop.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Readable)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Readable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Readable>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<Readable, Readable>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn message(body: &[u8], content_type: Option<&str>, encoding: Option<&str>) -> Message {
        let mut message = Message::new(Bytes::copy_from_slice(body));
        message.system_mut().content_type = content_type.map(str::to_owned);
        message.system_mut().content_encoding = encoding.map(str::to_owned);
        message
    }

    #[track_caller]
    fn check_json(body: &str, expected: Option<&str>) {
        let message = message(body.as_bytes(), Some("application/json"), None);
        match expected {
            Some(json) => assert_eq!(Body::of(&message), Body::Json(json.into())),
            None => assert_eq!(Body::of(&message), Body::Text(body)),
        }
    }

    #[test]
    fn json_keeps_its_numbers_its_order_and_its_repeated_keys() {
        check_json(r#"{"b":1.10,"a":1E+2,"b":-0}"#, Some(r#"{"b":1.10,"a":1E+2,"b":-0}"#));
        check_json("12345678901234567890123456789.000", Some("12345678901234567890123456789.000"));
    }

    #[test]
    fn white_space_goes_between_tokens_and_stays_in_strings() {
        check_json("\r\n{ \"a b\\\" \\\\\" :\t[ 1 , \"x  \\n y\" ]\n}\n", Some("{\"a b\\\" \\\\\":[1,\"x  \\n y\"]}"));
    }

    #[test]
    fn what_is_not_json_goes_as_text() {
        for body in ["", " ", "{", "1 2", "1\n2", "[1,]", "NaN", "\u{feff}1", "\"a\nb\"", "\"\\", "tr ue", "'a'"] {
            check_json(body, None);
        }
    }

    #[test]
    fn what_an_ordinary_parser_refuses_goes_as_text() {
        check_json(r#""\ud800""#, None);
        check_json("1e999", None);
        check_json(r#"{"\udfff":1}"#, None);
        check_json(&format!("{}{}", "[".repeat(101), "]".repeat(101)), None);
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        check_json(&deep, Some(&deep));
    }

    #[test]
    fn only_a_declared_json_in_utf8_is_embedded() {
        let json = |content_type, encoding| matches!(Body::of(&message(b"{}", content_type, encoding)), Body::Json(_));
        assert!(json(Some("application/json"), None));
        assert!(json(Some("application/json"), Some("utf-8")));
        assert!(json(Some("Application/JSON; charset=utf-8"), Some("UTF-8")));
        assert!(!json(Some("application/json"), Some("utf-16")));
        assert!(!json(Some("application/json"), Some("gzip")));
        assert!(!json(Some("text/plain"), None));
        assert!(!json(None, Some("utf-8")));
        assert!(matches!(Body::of(&Message::new(Bytes::from_static(b"{}"))), Body::Text("{}")));
    }

    #[test]
    fn bytes_that_are_not_utf8_go_as_base64() {
        let body = message(&[0xff, 0xfe, 0x00], Some("application/json"), None);
        assert_eq!(Body::of(&body), Body::Base64("//4A".into()));
    }

    /// Any JSON value.
    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_embedded_on_one_line_and_means_the_same(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let message = message(text.as_bytes(), Some("application/json"), None);
            let Body::Json(compact) = Body::of(&message) else { return Err(TestCaseError::fail("not embedded")) };
            prop_assert!(!compact.contains('\n'));
            // Both sides parsed: serde_json prints a double and may read its neighbour.
            let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            prop_assert_eq!(read(&compact), read(&text));
        }

        #[test]
        fn what_is_embedded_is_always_readable(body in r#"[\[\]{}",:\\u0-9eE.+\- \n\x00-\x1ftrfalsn]{0,12}"#) {
            let message = message(body.as_bytes(), Some("application/json"), None);
            if let Body::Json(compact) = Body::of(&message) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&compact).is_ok(), "{}", compact);
                prop_assert!(!compact.contains(['\n', '\r']));
            }
        }
    }
}
