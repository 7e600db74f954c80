//! `$metadata` of a section: when it and each property in it was last changed, and with which version.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::time::UtcMillis;

/// The last change of a section or of a property, and those of the properties in it. An array is one property.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Metadata {
    /// None: nobody noted it.
    at: Option<UtcMillis>,
    /// Of the section, by that change.
    version: u64,
    properties: BTreeMap<String, Metadata>,
}

impl Metadata {
    /// Of an empty section in its first version.
    pub(super) fn new() -> Self {
        Self { at: None, version: 1, properties: BTreeMap::new() }
    }

    /// Notes a patch that holds what has really changed, as [`super::diff`] gives it.
    pub(super) fn note(&mut self, patch: &Map<String, Value>, at: UtcMillis, version: u64) {
        (self.at, self.version) = (Some(at), version);
        for (name, change) in patch {
            let fresh = || Self { at: Some(at), version, properties: BTreeMap::new() };
            match change {
                Value::Null => drop(self.properties.remove(name)),
                Value::Object(inner) => {
                    self.properties.entry(name.clone()).or_insert_with(fresh).note(inner, at, version);
                }
                _ => drop(self.properties.insert(name.clone(), fresh())),
            }
        }
    }

    /// As IoT Hub writes it: `{"$lastUpdated": TIME, "$lastUpdatedVersion": N, NAME: {…}}`.
    pub(super) fn document(&self) -> Map<String, Value> {
        let properties = self.properties.iter().map(|(name, inner)| (name.clone(), inner.document().into()));
        let at = self.at.map(|at| ("$lastUpdated".to_owned(), at.to_string().into()));
        let version = ("$lastUpdatedVersion".to_owned(), self.version.into());
        at.into_iter().chain([version]).chain(properties).collect()
    }
}

/// `[ms, version]`, or `[ms, version, {…}]`: there is one for each property of a twin, in each of its files.
impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.properties.is_empty() {
            true => (self.at, self.version).serialize(serializer),
            false => (self.at, self.version, &self.properties).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            With(Option<UtcMillis>, u64, BTreeMap<String, Metadata>),
            Without(Option<UtcMillis>, u64),
        }
        Ok(match Stored::deserialize(deserializer)? {
            Stored::With(at, version, properties) => Self { at, version, properties },
            Stored::Without(at, version) => Self { at, version, properties: BTreeMap::new() },
        })
    }
}
