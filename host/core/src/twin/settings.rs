//! Desired properties as a flat list of texts, for modules that read their settings so (`wasi:config/store`).

use serde_json::{Map, Value};

/// One setting. `key` is a property's name or the names on the way to it, joined by `.`, which no name may contain. A string
/// is given as it is, everything else as JSON text.
#[must_use]
pub fn setting(desired: &Map<String, Value>, key: &str) -> Option<String> {
    let mut names = key.split('.');
    let first = desired.get(names.next()?)?;
    names.try_fold(first, |value, name| value.as_object()?.get(name)).map(text)
}

/// All settings: the properties that are no objects, under their joined names, in the order of the document. An empty object
/// has none.
#[must_use]
pub fn settings(desired: &Map<String, Value>) -> Vec<(String, String)> {
    let mut all = Vec::new();
    collect(desired, "", &mut all);
    all
}

/// As deep as a twin may be, see [`super::MAX_DEPTH`].
fn collect(object: &Map<String, Value>, path: &str, all: &mut Vec<(String, String)>) {
    for (name, value) in object {
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            Value::Object(inner) => collect(inner, &key, all),
            other => all.push((key, text(other))),
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Map<String, Value> {
        let json =
            r#"{ "unit": "C", "limit": 30.5, "mqtt": { "host": "a.b", "tls": { "on": true } }, "tags": ["x", 1] }"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_setting_is_found_by_its_path_and_strings_come_as_they_are() {
        let document = document();
        for (key, expected) in [
            ("unit", Some("C")),
            ("limit", Some("30.5")),
            ("tags", Some(r#"["x",1]"#)),
            ("mqtt.host", Some("a.b")),
            ("mqtt.tls.on", Some("true")),
            ("mqtt.tls", Some(r#"{"on":true}"#)),
            ("mqtt.port", None),
            ("unit.x", None),
            ("", None),
            ("mqtt.", None),
        ] {
            assert_eq!(setting(&document, key).as_deref(), expected, "{key}");
        }
    }

    #[test]
    fn all_settings_are_the_leaves_and_each_is_found_again() {
        let document = document();
        let all = settings(&document);
        let keys: Vec<&str> = all.iter().map(|(key, _)| &**key).collect();
        assert_eq!(keys.len(), 5);
        for key in ["unit", "limit", "mqtt.host", "mqtt.tls.on", "tags"] {
            assert!(keys.contains(&key), "{keys:?}");
        }
        for (key, value) in &all {
            assert_eq!(setting(&document, key).as_ref(), Some(value), "{key}");
        }
    }
}
