//! Messages: what a module sends, and what the host adds when it accepts one.

use std::sync::Arc;

use bytes::Bytes;

use crate::time::UtcMillis;

/// Largest message: body plus property names and values. IoT Edge's and IoT Hub's limit; not twice as large because the
/// cloud would refuse what we had accepted.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// A body and its properties. Immutable once accepted; a guest's later change acts on a copy ([`Arc::make_mut`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The body, shared by every copy.
    pub body: Bytes,
    properties: Vec<(Box<str>, Box<str>)>,
    system: Option<Box<SystemProperties>>,
}

/// The properties with a meaning of their own; all optional, all set by the sender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SystemProperties {
    /// Media type of the body.
    pub content_type: Option<String>,
    /// Encoding of the body.
    pub content_encoding: Option<String>,
    /// The sender's id of the message.
    pub message_id: Option<String>,
    /// Ties an answer to a question.
    pub correlation_id: Option<String>,
}

impl Message {
    /// A message with this body and no property.
    #[must_use]
    pub fn new(body: Bytes) -> Self {
        Self { body, properties: Vec::new(), system: None }
    }

    /// A message as it was stored: the properties are those of [`Message::properties`], so no name comes twice.
    #[must_use]
    pub fn restore(body: Bytes, properties: Vec<(Box<str>, Box<str>)>, system: Option<SystemProperties>) -> Self {
        Self { body, properties, system: system.map(Box::new) }
    }

    /// The value of an application property; names compare without regard to ASCII case (IoT Edge).
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// All application properties in the order in which they were set.
    pub fn properties(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.properties.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Sets a property; one of that name (in any ASCII case) is replaced in its place.
    pub fn set_property(&mut self, name: &str, value: &str) {
        match self.properties.iter_mut().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            Some(slot) => *slot = (name.into(), value.into()),
            None => self.properties.push((name.into(), value.into())),
        }
    }

    /// Removes all properties.
    pub fn clear_properties(&mut self) {
        self.properties.clear();
    }

    /// Removes a property, if there.
    pub fn remove_property(&mut self, name: &str) {
        self.properties.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }

    /// The properties with a meaning of their own, if any is set.
    #[must_use]
    pub fn system(&self) -> Option<&SystemProperties> {
        self.system.as_deref()
    }

    /// The same, to be changed.
    pub fn system_mut(&mut self) -> &mut SystemProperties {
        self.system.get_or_insert_default()
    }

    /// Bytes that count against [`MAX_MESSAGE_BYTES`]: body, names and values.
    #[must_use]
    pub fn size(&self) -> usize {
        let properties: usize = self.properties.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.body.len() + properties + self.system.as_deref().map_or(0, SystemProperties::size)
    }
}

impl SystemProperties {
    fn size(&self) -> usize {
        [&self.content_type, &self.content_encoding, &self.message_id, &self.correlation_id]
            .into_iter()
            .flatten()
            .map(String::len)
            .sum()
    }
}

/// A message that the router has accepted.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// What was sent.
    pub message: Arc<Message>,
    /// Where from: `/messages/modules/{module}/outputs/{output}` and the like (IoT Edge semantics, 3.2).
    pub source: Arc<str>,
    /// Strictly increasing per source module.
    pub sequence: u64,
    /// When it was accepted, by the device's clock.
    pub enqueued: UtcMillis,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn property_names_ignore_case_and_keep_their_order() {
        let mut message = Message::new(Bytes::from_static(b"x"));
        message.set_property("Unit", "C");
        message.set_property("kind", "t");
        message.set_property("unit", "F");
        assert_eq!(message.property("UNIT"), Some("F"));
        assert_eq!(message.properties().collect::<Vec<_>>(), [("unit", "F"), ("kind", "t")]);
        message.remove_property("KIND");
        assert_eq!(message.property("kind"), None);
    }

    #[test]
    fn size_counts_body_names_values_and_system_properties() {
        let mut message = Message::new(Bytes::from_static(b"12345"));
        message.set_property("ab", "cde");
        message.system_mut().content_type = Some("application/json".into());
        assert_eq!(message.size(), 5 + 5 + 16);
    }
}
