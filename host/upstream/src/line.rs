//! One message as one line of JSON. Pure; where lines go is `writer`'s.

use std::time::{Duration, UNIX_EPOCH};

use marram_core::{
    message::{Message, SystemProperties},
    ports::Outgoing,
    time::UtcMillis,
};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::body::Body;

/// 9999-12-31T23:59:59.999Z, the last time that RFC 3339 can write. A clock beyond it is broken, and shows as this.
const LAST_TIME: u64 = 253_402_300_799_999;

/// Appends a message's line, with its line feed.
///
/// # Errors
/// None is known; `out` may end in a part of a line then.
pub(crate) fn append(out: &mut Vec<u8>, outgoing: &Outgoing) -> serde_json::Result<()> {
    let accepted = &outgoing.accepted;
    let head = Head {
        time: rfc3339(accepted.enqueued),
        source: &accepted.source,
        sequence: accepted.sequence,
        attempt: outgoing.attempt,
        properties: Properties(&accepted.message),
        system_properties: accepted
            .message
            .system()
            .filter(|system| **system != SystemProperties::default())
            .map(System::of),
    };
    serde_json::to_writer(&mut *out, &head)?;
    out.pop(); // the head's closing brace: the body goes inside, last, where a reader's eye finds it
    match Body::of(&accepted.message) {
        Body::Json(json) => {
            out.extend_from_slice(br#","body":"#);
            out.extend_from_slice(json.as_bytes());
        }
        Body::Text(text) => {
            out.extend_from_slice(br#","bodyText":"#);
            serde_json::to_writer(&mut *out, text)?;
        }
        Body::Base64(text) => {
            out.extend_from_slice(br#","bodyBase64":"#);
            serde_json::to_writer(&mut *out, &text)?;
        }
    }
    out.extend_from_slice(b"}\n");
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    time: String,
    source: &'a str,
    sequence: u64,
    #[serde(skip_serializing_if = "is_first")]
    attempt: u32,
    properties: Properties<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_properties: Option<System<'a>>,
}

fn is_first(attempt: &u32) -> bool {
    *attempt <= 1
}

struct Properties<'a>(&'a Message);

impl Serialize for Properties<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let properties = self.0.properties();
        let mut map = serializer.serialize_map(Some(properties.len()))?;
        properties.into_iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct System<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
}

impl<'a> System<'a> {
    fn of(system: &'a SystemProperties) -> Self {
        Self {
            content_type: system.content_type.as_deref(),
            content_encoding: system.content_encoding.as_deref(),
            message_id: system.message_id.as_deref(),
            correlation_id: system.correlation_id.as_deref(),
        }
    }
}

fn rfc3339(time: UtcMillis) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(time.0.min(LAST_TIME));
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use base64::{Engine, prelude::BASE64_STANDARD};
    use bytes::Bytes;
    use marram_core::message::Accepted;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn outgoing(message: Message, attempt: u32) -> Outgoing {
        let source = "/messages/modules/a/outputs/b".into();
        let enqueued = UtcMillis(1_700_000_000_123);
        Outgoing { accepted: Accepted { message: Arc::new(message), source, sequence: 7, enqueued }, attempt }
    }

    fn line(outgoing: &Outgoing) -> String {
        let mut out = Vec::new();
        append(&mut out, outgoing).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_reading_looks_like_this() {
        let mut message = Message::new(Bytes::from_static(b"{ \"t\": 21.50 }"));
        message.set_property("unit", "C");
        message.system_mut().content_type = Some("application/json".into());
        message.system_mut().message_id = Some("m1".into());
        assert_eq!(
            line(&outgoing(message, 1)),
            concat!(
                r#"{"time":"2023-11-14T22:13:20.123Z","source":"/messages/modules/a/outputs/b","sequence":7,"#,
                r#""properties":{"unit":"C"},"systemProperties":{"contentType":"application/json","messageId":"m1"},"#,
                r#""body":{"t":21.50}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_bare_message_has_a_text_and_a_repeated_one_says_so() {
        assert_eq!(
            line(&outgoing(Message::new(Bytes::from_static(b"a\nb")), 3)),
            concat!(
                r#"{"time":"2023-11-14T22:13:20.123Z","source":"/messages/modules/a/outputs/b","sequence":7,"attempt":3,"#,
                r#""properties":{},"bodyText":"a\nb"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_broken_clock_is_still_a_time() {
        assert_eq!(rfc3339(UtcMillis(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(UtcMillis(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }

    fn messages() -> impl Strategy<Value = Message> {
        let bodies = prop_oneof![
            any::<Vec<u8>>(),
            any::<String>().prop_map(String::into_bytes),
            Just(b"{\"a\": [1, 2.0, \"x\"]}\n".to_vec()),
        ];
        let properties = prop::collection::vec((any::<String>(), any::<String>()), 0..5);
        let types = prop::option::of(prop_oneof![any::<String>(), Just("application/json".to_owned())]);
        let text = || prop::option::of(any::<String>());
        (bodies, properties, types, text(), text(), text()).prop_map(
            |(body, properties, types, encoding, id, other)| {
                let mut message = Message::new(body.into());
                properties.iter().for_each(|(name, value)| message.set_property(name, value));
                *message.system_mut() = SystemProperties {
                    content_type: types,
                    content_encoding: encoding,
                    message_id: id,
                    correlation_id: other,
                };
                message
            },
        )
    }

    fn body_of(line: &Value) -> Option<Vec<u8>> {
        line.get("bodyText").and_then(Value::as_str).map(|text| text.as_bytes().to_vec()).or_else(|| {
            line.get("bodyBase64").and_then(Value::as_str).map(|text| BASE64_STANDARD.decode(text).unwrap())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn any_message_comes_back_from_its_line(message in messages(), sequence: u64, attempt: u32, millis: u64, source: String) {
            let mut sent = outgoing(message.clone(), attempt);
            sent.accepted.sequence = sequence;
            sent.accepted.enqueued = UtcMillis(millis);
            sent.accepted.source = source.as_str().into();
            let text = line(&sent);
            prop_assert_eq!(text.find('\n'), Some(text.len() - 1));
            let read: Value = serde_json::from_str(&text).unwrap();

            prop_assert_eq!(read["source"].as_str(), Some(&*source));
            prop_assert_eq!(read["sequence"].as_u64(), Some(sequence));
            prop_assert_eq!(read["attempt"].as_u64().unwrap_or(1), u64::from(attempt.max(1)));
            let time = humantime::parse_rfc3339(read["time"].as_str().unwrap()).unwrap();
            prop_assert_eq!(time, UNIX_EPOCH + Duration::from_millis(millis.min(LAST_TIME)));

            let properties = read["properties"].as_object().unwrap();
            prop_assert_eq!(properties.len(), message.properties().len());
            for (name, value) in message.properties() {
                prop_assert_eq!(properties[name].as_str(), Some(value));
            }
            let system = message.system().unwrap();
            for (name, value) in [
                ("contentType", &system.content_type),
                ("contentEncoding", &system.content_encoding),
                ("messageId", &system.message_id),
                ("correlationId", &system.correlation_id),
            ] {
                prop_assert_eq!(read["systemProperties"].get(name).and_then(Value::as_str), value.as_deref());
            }
            match body_of(&read) {
                Some(body) => prop_assert_eq!(body, message.body.to_vec()),
                None => prop_assert_eq!(&read["body"], &serde_json::from_slice::<Value>(&message.body).unwrap()),
            }
        }
    }
}
