//! `marram twin` with a running host. The module is desired stopped: its twin is there all the same.

use serde_json::{Value, json};

use super::{GOOD, host::Host};

fn host() -> Host {
    let module = json!({ "a": { "type": "wasm", "status": "stopped", "settings": { "image": "r.example/a:1" } } });
    let section = r#""$edgeHub":{"#;
    let manifest = GOOD.replace(r#""modules":{}"#, &format!("\"modules\":{module}"));
    let manifest =
        manifest.replace(section, &format!(r#""a":{{"properties.desired":{{"limit":30,"unit":"C"}}}},{section}"#));
    Host::start(Some(&manifest), &[])
}

#[test]
fn get_shows_versions_and_when_each_property_was_last_changed() {
    let host = host();
    host.json(&["twin", "set", "a", r#"{"limit":35,"unit":"C"}"#]);
    let twin = host.json(&["twin", "get", "a"]);
    let desired = &twin["properties"]["desired"];
    assert_eq!((&desired["limit"], &desired["unit"], &desired["$version"]), (&json!(35), &json!("C"), &json!(3)));
    let of = |name: &str| &desired["$metadata"][name];
    assert_eq!((&of("limit")["$lastUpdatedVersion"], &of("unit")["$lastUpdatedVersion"]), (&json!(3), &json!(2)));
    assert_eq!(of("limit")["$lastUpdated"], *of("$lastUpdated"));
    let text = host.ask(&["twin", "get", "a"]);
    let text = String::from_utf8(text.stdout).unwrap();
    let head = format!("desired, version 3, written by local, last changed {}\n", of("$lastUpdated").as_str().unwrap());
    assert!(text.starts_with(&head) && text.contains("\nreported, version 1\n{}\n"), "{text}");
    // Kept over a restart.
    let host = host.restart();
    assert_eq!(host.json(&["twin", "get", "a"])["properties"], twin["properties"]);
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn a_patch_that_breaks_limits_names_all_the_places_and_changes_nothing() {
    let host = host();
    let patch = json!({ "a": { "b.c": 1 }, "list": [1, null], "n": 4_503_599_627_370_496_u64 }).to_string();
    let output = host.ask(&["twin", "set", "a", &patch, "--format", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    let error = &error["error"];
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!("bad-patch"), &json!("the patch has 3 faults; the twin is unchanged"))
    );
    let places: Vec<&str> =
        error["faults"].as_array().unwrap().iter().map(|fault| fault["at"].as_str().unwrap()).collect();
    assert_eq!(places, ["a.b.c", "list[1]", "n"]);
    let text = host.ask(&["twin", "set", "a", &patch]);
    assert!(String::from_utf8(text.stderr).unwrap().contains("\n  list[1]: null may not stand inside an array\n"));
    assert_eq!(host.json(&["twin", "get", "a"])["desiredVersion"], 2);
    assert_eq!(host.stop(), Some(0));
}
