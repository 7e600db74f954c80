//! The message that tells of a change of reported properties, as IoT Edge makes one of each report (its semantics, 5 and 6).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{message::Message, time::UtcMillis};

/// A change of reported properties that is to be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The version that it led to.
    pub version: u64,
    /// When it was made.
    pub at: UtcMillis,
    /// What the module reported.
    pub patch: Map<String, Value>,
}

impl Notice {
    /// The message: the patch as body, and the properties that IoT Hub writes on its own notifications. The id tells a repetition.
    #[must_use]
    pub fn message(&self, device: &str, module: &str) -> Message {
        // A tree of strings and numbers always has a JSON text.
        let mut message = Message::new(serde_json::to_vec(&self.patch).unwrap_or_default().into());
        for (name, value) in [
            ("iothub-message-schema", "twinChangeNotification"),
            ("opType", "updateTwin"),
            ("deviceId", device),
            ("moduleId", module),
            ("operationTimestamp", &self.at.to_string()),
        ] {
            message.set_property(name, value);
        }
        let system = message.system_mut();
        system.content_type = Some("application/json".into());
        system.content_encoding = Some("utf-8".into());
        system.message_id = Some(format!("{module}-reported-{}", self.version));
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_the_patch_and_says_whose_it_is() {
        let patch = serde_json::from_str(r#"{"a":{"b":null},"seen":3}"#).unwrap();
        let message = Notice { version: 7, at: UtcMillis(1_769_860_800_000), patch }.message("d", "m");
        assert_eq!(&*message.body, br#"{"a":{"b":null},"seen":3}"#);
        let of = |name| message.property(name);
        assert_eq!([of("deviceId"), of("moduleId"), of("opType")], [Some("d"), Some("m"), Some("updateTwin")]);
        assert_eq!(of("operationTimestamp"), Some("2026-01-31T12:00:00Z"));
        let system = message.system().unwrap();
        assert_eq!(system.message_id.as_deref(), Some("m-reported-7"));
        assert_eq!(system.content_type.as_deref(), Some("application/json"));
    }
}
