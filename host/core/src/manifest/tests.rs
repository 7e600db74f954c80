//! Facts about manifests.

mod accepted;
mod azure;
mod ceiling;
mod defaults;
mod faults;
mod hostile;
mod rollout;
mod runtime;

use serde_json::{Value, json};

use super::*;

/// Refuses images that contain `BAD`, as the registry's check refuses what is no reference.
fn check_image(image: &str) -> Result<(), String> {
    if image.contains("BAD") { Err(format!("`{image}` is not an image reference")) } else { Ok(()) }
}

fn read_str(text: &str) -> Result<Reading, Faults> {
    read(text, &Context::new(&check_image))
}

/// A small manifest without anything to find fault with.
fn base() -> Value {
    json!({ "modulesContent": {
        "$edgeAgent": { "properties.desired": {
            "schemaVersion": "1.1",
            "runtime": { "type": "docker", "settings": {} },
            "modules": {
                "temp": { "type": "wasm", "status": "running", "settings": { "image": "registry.test/temp:1" } },
            },
        } },
        "$edgeHub": { "properties.desired": {
            "schemaVersion": "1.1",
            "routes": { "up": "FROM /messages/* INTO $upstream" },
            "storeAndForwardConfiguration": { "timeToLiveSecs": 7200 },
        } },
    } })
}

/// Short names of the places that tests write to.
const PLACES: [(&str, &str); 4] = [
    ("sandbox", "/modulesContent/$edgeAgent/properties.desired/modules/temp/settings/sandbox"),
    ("temp", "/modulesContent/$edgeAgent/properties.desired/modules/temp"),
    ("agent", "/modulesContent/$edgeAgent/properties.desired"),
    ("hub", "/modulesContent/$edgeHub/properties.desired"),
];

/// `temp/settings` as keys from the root.
fn keys(place: &str) -> Vec<String> {
    let (first, rest) = place.split_once('/').unwrap_or((place, ""));
    let long = PLACES.iter().find(|(short, _)| *short == first).map(|(_, long)| format!("{long}/{rest}"));
    let full = long.unwrap_or_else(|| place.to_owned());
    full.split('/').filter(|key| !key.is_empty()).map(str::to_owned).collect()
}

/// `temp/settings` as a finding shows it.
fn path(place: &str) -> String {
    keys(place).join(".").replace(".[", "[")
}

/// The base with this value at this place; objects on the way there are made.
fn with(edits: &[(&str, Value)]) -> String {
    let mut document = base();
    for (place, value) in edits {
        let slot = keys(place).into_iter().fold(&mut document, |node, key| {
            if !node.is_object() {
                *node = json!({});
            }
            &mut node[key.as_str()]
        });
        *slot = value.clone();
    }
    document.to_string()
}

/// The base without what is at this place.
fn without(place: &str) -> String {
    let mut document = base();
    let mut keys = keys(place);
    let last = keys.pop().unwrap();
    let parent = keys.iter().fold(&mut document, |node, key| &mut node[key.as_str()]);
    parent.as_object_mut().unwrap().remove(&last).unwrap();
    document.to_string()
}

/// Reads the base with this value at this place.
fn reading(place: &str, value: Value) -> Reading {
    read_str(&with(&[(place, value)])).unwrap()
}

fn temp(reading: &Reading) -> &crate::deployment::ModuleSpec {
    &reading.deployment.modules["temp"]
}

fn lines(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

#[test]
fn the_base_of_these_tests_has_no_faults_and_no_warnings() {
    let reading = read_str(&base().to_string()).unwrap();
    assert_eq!(lines(&reading.warnings), [""; 0]);
}
