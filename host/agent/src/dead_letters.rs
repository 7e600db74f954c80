//! Dead letters as a person sees them, and what may be done with them.

use marram_core::{
    log::{LogError, Stored},
    time::UtcMillis,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Agent, storage::Replayed};

/// Some dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetters {
    /// Oldest first. None: there are no more behind those that were asked for.
    pub letters: Vec<DeadLetter>,
}

/// One dead letter, without what the message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Its number, by which it is named.
    pub id: u64,
    /// Who did not handle it: `$upstream` or `module/input`.
    pub endpoint: String,
    /// Why.
    pub reason: String,
    /// Deliveries made.
    pub attempts: u32,
    /// When it was given up, by the device's clock.
    #[serde(rename = "deadMs")]
    pub dead: UtcMillis,
    /// Where it came from.
    pub source: String,
    /// Its number there.
    pub sequence: u64,
    /// When it was accepted, by the device's clock.
    #[serde(rename = "enqueuedMs")]
    pub enqueued: UtcMillis,
    /// Bytes of its body and properties.
    pub bytes: usize,
}

/// One dead letter with all of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadMessage {
    /// What is told of it in a list.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// Its application properties.
    pub properties: Map<String, Value>,
    /// Those of `contentType`, `contentEncoding`, `messageId`, `correlationId` that are set.
    pub system_properties: Map<String, Value>,
    /// Its body, if that is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_text: Option<String>,
    /// Otherwise its bytes, two hex digits each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_hex: Option<String>,
}

/// Why nothing was done with a dead letter.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// There is none of this number.
    #[error("there is no dead letter {0}; `marram deadletters list` shows the numbers")]
    Unknown(u64),
    /// It cannot be sent again.
    #[error("no route leads to `{0}` any more; a deployment with one must be in force before it can be sent again")]
    NoRoute(String),
    /// The log has no room, or its disk fails.
    #[error("{0}")]
    Log(String),
    /// The host is ending.
    #[error("the host is stopping")]
    Stopping,
}

impl DeadLetter {
    fn of(stored: &Stored) -> Self {
        let Stored { place, accepted, death, .. } = stored;
        let (endpoint, reason, attempts, dead) = death
            .as_ref()
            .map(|death| (death.endpoint.to_string(), death.reason.to_string(), death.attempts, death.at))
            .unwrap_or_default();
        Self {
            id: place.sequence,
            endpoint,
            reason,
            attempts,
            dead,
            source: accepted.source.to_string(),
            sequence: accepted.sequence,
            enqueued: accepted.enqueued,
            bytes: accepted.message.size(),
        }
    }
}

impl DeadMessage {
    fn of(stored: &Stored) -> Self {
        let message = &stored.accepted.message;
        let system = message.system().cloned().unwrap_or_default();
        let system = [
            ("contentType", system.content_type),
            ("contentEncoding", system.content_encoding),
            ("messageId", system.message_id),
            ("correlationId", system.correlation_id),
        ];
        let text = std::str::from_utf8(&message.body).ok().map(ToOwned::to_owned);
        let hex = || message.body.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            letter: DeadLetter::of(stored),
            properties: message.properties().map(|(name, value)| (name.to_owned(), value.into())).collect(),
            system_properties: system
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
                .collect(),
            body_hex: text.is_none().then(hex),
            body_text: text,
        }
    }
}

impl From<LogError> for DeadLetterError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Unknown(id) => Self::Unknown(id),
            LogError::Full(words) | LogError::Disk(words) | LogError::Refused(words) => Self::Log(words),
        }
    }
}

impl Agent {
    /// Dead letters behind the number `after`, some hundred at once.
    ///
    /// # Errors
    /// They cannot be read, or the host is ending.
    pub async fn dead_letters(&self, after: Option<u64>) -> Result<DeadLetters, DeadLetterError> {
        let found = self.router().storage().dead_letters(after).await.ok_or(DeadLetterError::Stopping)??;
        Ok(DeadLetters { letters: found.iter().map(DeadLetter::of).collect() })
    }

    /// One with all of it.
    ///
    /// # Errors
    /// There is none of this number, it cannot be read, or the host is ending.
    pub async fn dead_letter(&self, id: u64) -> Result<DeadMessage, DeadLetterError> {
        let found = self.router().storage().dead_letter(id).await.ok_or(DeadLetterError::Stopping)??;
        Ok(DeadMessage::of(&found))
    }

    /// Sends one to its receiver again, as a new message: with the priority, the time to live and the attempts that the routes in force give it
    /// there.
    ///
    /// # Errors
    /// There is none of this number, no route leads to its receiver, it cannot be stored, or the host is ending: it stays.
    pub async fn replay_dead_letter(&self, id: u64) -> Result<(), DeadLetterError> {
        let storage = self.router().storage();
        let letter = storage.dead_letter(id).await.ok_or(DeadLetterError::Stopping)??;
        let receiver = letter.death.map(|death| death.endpoint).unwrap_or_default();
        let no_route = || DeadLetterError::NoRoute(receiver.to_string());
        let origin = self.origin(&letter.accepted);
        let revival = self.router().revival(&letter.accepted, &origin, &receiver).ok_or_else(no_route)?;
        match storage.replay(id, revival).await.ok_or(DeadLetterError::Stopping)?? {
            Replayed::Sent => Ok(()),
            // It went meanwhile.
            Replayed::NoRoute => Err(no_route()),
        }
    }

    /// Forgets one, or all; returns how many.
    ///
    /// # Errors
    /// There is none of this number, or the host is ending.
    pub async fn purge_dead_letters(&self, id: Option<u64>) -> Result<u64, DeadLetterError> {
        match (self.router().storage().purge(id).await.ok_or(DeadLetterError::Stopping)?, id) {
            (0, Some(id)) => Err(DeadLetterError::Unknown(id)),
            (purged, _) => Ok(purged),
        }
    }
}
