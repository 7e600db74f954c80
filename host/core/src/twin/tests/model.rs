//! Merge patches and `$metadata` against a model of another make: a document as a flat list of its paths.

use std::collections::BTreeMap;

use super::*;

type Path = Vec<String>;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq)]
enum Entry {
    /// An object; its properties are entries of their own.
    Object,
    /// Anything else.
    Leaf(Value),
}

/// A document, and when each of its entries was last changed, the whole of it under the empty path.
#[derive(Debug)]
struct Model {
    entries: BTreeMap<Path, Entry>,
    changed: BTreeMap<Path, (Option<UtcMillis>, u64)>,
    version: u64,
}

fn flat(object: &Map<String, Value>, at: &[String], entries: &mut Vec<(Path, Value)>) {
    for (key, value) in object {
        let path = [at, std::slice::from_ref(key)].concat();
        entries.push((path.clone(), value.clone()));
        if let Value::Object(inner) = value {
            flat(inner, &path, entries);
        }
    }
}

impl Model {
    fn new() -> Self {
        Self { entries: BTreeMap::new(), changed: BTreeMap::from([(Path::new(), (None, 1))]), version: 1 }
    }

    /// RFC 7396, one path after another, the outer ones first.
    fn merge(&mut self, patch: &Map<String, Value>, now: UtcMillis) {
        let before = self.entries.clone();
        let mut changes = Vec::new();
        flat(patch, &[], &mut changes);
        for (path, value) in changes {
            if value.is_object() && self.entries.get(&path) == Some(&Entry::Object) {
                continue;
            }
            self.entries.retain(|other, _| !other.starts_with(&path));
            match value {
                Value::Null => None,
                Value::Object(_) => self.entries.insert(path, Entry::Object),
                leaf => self.entries.insert(path, Entry::Leaf(leaf)),
            };
        }
        self.note(&before, now);
    }

    /// An entry has changed if anything at or below its path has.
    fn note(&mut self, before: &BTreeMap<Path, Entry>, now: UtcMillis) {
        if *before == self.entries {
            return;
        }
        self.version += 1;
        let below = |entries: &BTreeMap<Path, Entry>, path: &Path| -> Vec<(Path, Entry)> {
            entries.iter().filter(|(other, _)| other.starts_with(path)).map(|(a, b)| (a.clone(), b.clone())).collect()
        };
        let paths: Vec<Path> = std::iter::once(Path::new()).chain(self.entries.keys().cloned()).collect();
        self.changed.retain(|path, _| paths.contains(path));
        for path in paths {
            if below(before, &path) != below(&self.entries, &path) {
                self.changed.insert(path, (Some(now), self.version));
            }
        }
    }

    /// What stands at a path and below.
    fn document(&self, at: &Path) -> Value {
        match self.entries.get(at) {
            Some(Entry::Leaf(leaf)) => leaf.clone(),
            _ => self
                .children(at)
                .map(|path| (path[at.len()].clone(), self.document(path)))
                .collect::<Map<_, _>>()
                .into(),
        }
    }

    /// Its `$metadata`.
    fn metadata(&self, at: &Path) -> Value {
        let (time, version) = self.changed[at];
        let mut document = json!({ "$lastUpdatedVersion": version });
        if let Some(time) = time {
            document["$lastUpdated"] = time.to_string().into();
        }
        for path in self.children(at) {
            document[&path[at.len()]] = self.metadata(path);
        }
        document
    }

    fn children(&self, at: &Path) -> impl Iterator<Item = &Path> {
        self.entries.keys().filter(move |path| path.len() == at.len() + 1 && path.starts_with(at))
    }

    fn section(&self) -> Value {
        let mut section = self.document(&Path::new());
        section["$metadata"] = self.metadata(&Path::new());
        section["$version"] = self.version.into();
        section
    }
}

/// Patches with nulls anywhere but in arrays, under new keys too, with few keys so that they meet.
fn any_raw_patch() -> impl Strategy<Value = Map<String, Value>> {
    let leaf = prop_oneof![
        2 => Just(Value::Null),
        3 => (0..3i64).prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => prop::collection::vec((0..3i64).prop_map(Value::from), 0..3).prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(4, 24, 4, |inner| {
        prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
    });
    prop::collection::btree_map("[a-c]", tree, 0..4).prop_map(|map| map.into_iter().collect())
}

#[test]
fn properties_show_when_each_was_last_changed_and_with_which_version() {
    let mut twin = Twin::new();
    let at = |text| UtcMillis::parse(text).unwrap();
    let section = map(json!({"limit": 30, "net": {"host": "a", "port": 1}}));
    twin.apply_manifest_section(Some(&section), 1, at("2026-01-31T12:00:00Z"));
    twin.set_desired(&map(json!({"limit": 30, "net": {"port": 2}})), at("2026-01-31T12:00:01.5Z")).unwrap();
    let expected = json!({
        "desired": {
            "limit": 30, "net": { "host": "a", "port": 2 }, "$version": 3,
            "$metadata": {
                "$lastUpdated": "2026-01-31T12:00:01.500Z", "$lastUpdatedVersion": 3,
                "limit": { "$lastUpdated": "2026-01-31T12:00:00Z", "$lastUpdatedVersion": 2 },
                "net": {
                    "$lastUpdated": "2026-01-31T12:00:01.500Z", "$lastUpdatedVersion": 3,
                    "host": { "$lastUpdated": "2026-01-31T12:00:00Z", "$lastUpdatedVersion": 2 },
                    "port": { "$lastUpdated": "2026-01-31T12:00:01.500Z", "$lastUpdatedVersion": 3 },
                },
            },
        },
        "reported": { "$version": 1, "$metadata": { "$lastUpdatedVersion": 1 } },
    });
    assert_eq!(twin.properties(), expected);
}

#[test]
fn a_twin_stored_before_there_was_metadata_is_read() {
    let mut stored: Value = serde_json::from_slice(&Twin::new().to_bytes()).unwrap();
    stored["desired"] = json!({"a": 1});
    stored["desired_version"] = 2.into();
    for key in ["desired_metadata", "reported_metadata"] {
        assert!(stored.as_object_mut().unwrap().remove(key).is_some());
    }
    let mut twin = Twin::from_bytes(stored.to_string().as_bytes()).unwrap();
    assert_eq!(twin.properties()["desired"], json!({"a": 1, "$version": 2, "$metadata": {"$lastUpdatedVersion": 1}}));
    twin.set_desired(&map(json!({"b": 2})), NOW).unwrap();
    assert_eq!(twin.properties()["desired"]["$metadata"]["b"]["$lastUpdatedVersion"], 3);
}

proptest! {
    #[test]
    fn a_merge_is_that_of_the_model(patches in prop::collection::vec(any_raw_patch(), 0..6)) {
        let (mut document, mut model) = (Map::new(), Model::new());
        for patch in patches {
            merge_patch(&mut document, &patch);
            model.merge(&patch, NOW);
            prop_assert_eq!(&Value::Object(document.clone()), &model.document(&Path::new()), "{:?}", patch);
        }
    }

    #[test]
    fn properties_versions_and_metadata_are_those_of_the_model_and_survive_the_disk(
        writes in prop::collection::vec((0..3u8, any_raw_patch(), 0..5_000u64), 0..8),
    ) {
        let (mut twin, mut desired, mut reported) = (Twin::new(), Model::new(), Model::new());
        let mut now = NOW;
        for (writer, patch, pause) in writes {
            now.0 += pause;
            match writer {
                0 => {
                    reported.merge(&patch, now);
                    prop_assert_eq!(twin.report(&patch, now), Ok(reported.version));
                }
                1 => {
                    desired.merge(&patch, now);
                    twin.set_desired(&patch, now).unwrap();
                }
                // Applied again, a section of a manifest changes nothing.
                _ if twin.manifest_section() == Some(&patch) => {
                    prop_assert_eq!(twin.apply_manifest_section(Some(&patch), 2, now), None);
                }
                // A new one takes the place of all that is there.
                _ => {
                    let mut section = Model::new();
                    section.merge(&patch, now);
                    let before = std::mem::replace(&mut desired.entries, section.entries);
                    desired.note(&before, now);
                    twin.apply_manifest_section(Some(&patch), 1, now);
                }
            }
            let expected = json!({ "desired": desired.section(), "reported": reported.section() });
            prop_assert_eq!(twin.properties(), expected);
            prop_assert_eq!(desired.version, twin.desired_version());
            twin = Twin::from_bytes(&twin.to_bytes()).unwrap();
        }
    }
}
