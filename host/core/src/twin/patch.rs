//! Merging patches and finding them: RFC 7396 (JSON Merge Patch) throughout. IoT Edge differs in one point: it keeps nulls
//! that are nested under a new key; we drop them, as the RFC does, so that no null ever stands in a document.
//!
//! Recursion is as deep as the documents; those are bounded by the limits of twins and by the JSON parser (128).

use serde_json::{Map, Value};

/// Merges `patch` into `target`: objects merge, null deletes, all else replaces.
pub fn merge_patch(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, change) in patch {
        match change {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(change) => merge_under(target, key, change),
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}

/// Merges into the object under `key`; whatever else stands there gives way to an empty one.
fn merge_under(target: &mut Map<String, Value>, key: &str, change: &Map<String, Value>) {
    let slot = target.entry(key).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    if let Value::Object(object) = slot {
        merge_patch(object, change);
    }
}

/// The patch that turns `from` into `to`; empty when they are equal. `to` holds no null outside of arrays: such a document
/// cannot be reached by a patch.
#[must_use]
pub fn diff(from: &Map<String, Value>, to: &Map<String, Value>) -> Map<String, Value> {
    let removed = from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = to.iter().filter_map(|(key, new)| Some((key.clone(), change(from.get(key), new)?)));
    removed.chain(changed).collect()
}

fn change(old: Option<&Value>, new: &Value) -> Option<Value> {
    match (old, new) {
        (Some(old), new) if old == new => None,
        (Some(Value::Object(old)), Value::Object(new)) => Some(Value::Object(diff(old, new))),
        (_, new) => Some(new.clone()),
    }
}
