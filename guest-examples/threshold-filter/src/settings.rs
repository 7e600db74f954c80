//! What the twin says: which field is compared with which threshold. Knows nothing of messages' handles or the host.

use serde_json::Value;

/// The desired properties, checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Field of the reading, at its top level.
    pub(crate) field: String,
    /// Readings above it pass; equal ones do not.
    pub(crate) threshold: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { field: "value".into(), threshold: 0.0 }
    }
}

impl Settings {
    /// These settings with a merge patch applied; null puts a default back, unknown properties are left alone.
    ///
    /// The error names each property that is wrong; nothing is applied then.
    pub(crate) fn patched(&self, merge_patch_json: &str) -> Result<Self, String> {
        let patch: Value = serde_json::from_str(merge_patch_json).map_err(|err| format!("not JSON: {err}"))?;
        let mut settings = self.clone();
        let mut faults = Vec::new();
        match patch.get("field") {
            None => {}
            Some(Value::Null) => settings.field = Self::default().field,
            Some(Value::String(field)) if !field.is_empty() => settings.field.clone_from(field),
            Some(other) => faults.push(format!("field: {other} is not the name of a field")),
        }
        match patch.get("threshold") {
            None => {}
            Some(Value::Null) => settings.threshold = Self::default().threshold,
            Some(Value::Number(number)) => settings.threshold = number.as_f64().unwrap_or(f64::MAX),
            Some(other) => faults.push(format!("threshold: {other} is not a number")),
        }
        if faults.is_empty() { Ok(settings) } else { Err(faults.join("; ")) }
    }

    /// Whether the reading's field is a number above the threshold.
    pub(crate) fn passes(&self, reading: &Value) -> bool {
        reading.get(&self.field).and_then(Value::as_f64).is_some_and(|value| value > self.threshold)
    }
}
