//! `marram plan`, with a report of a runtime and with a running host.

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    BAD, GOOD, fed,
    host::{Host, marram, scratch},
};

fn module(image: &str) -> Value {
    json!({ "type": "wasm", "status": "running", "settings": { "image": image } })
}

fn manifest(modules: &Value) -> String {
    GOOD.replace(r#""modules":{}"#, &format!("\"modules\":{modules}"))
}

/// A folder with these files in it.
fn files(files: &[(&str, &str)]) -> (TempDir, Vec<String>) {
    let folder = scratch();
    let write = |(name, text): &(&str, &str)| {
        let path: PathBuf = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let paths = files.iter().map(write).collect();
    (folder, paths)
}

fn json_of(arguments: &[&str]) -> Value {
    let output = marram().args(arguments).args(["--format", "json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_report_is_planned_for_without_a_host_and_at_the_time_that_is_said() {
    let desired =
        manifest(&json!({ "a": module("r.example/a:1"), "b": module("r.example/b:1"), "c": module("r.example/c:1") }));
    let report = json!({ "modules": {
        "a": { "runtimeStatus": "failed", "exitCode": 1, "restartCount": 2,
               "lastStartTimeUtc": "2026-01-31T11:59:00Z", "lastExitTimeUtc": "2026-01-31T12:00:00Z" },
        "b": { "runtimeStatus": "running", "lastStartTimeUtc": "2026-01-31T11:59:00Z", "settingsDigest": "sha256:other" },
        "gone": { "runtimeStatus": "running" },
    }});
    let (_folder, paths) = files(&[("d.json", &desired), ("o.json", &report.to_string())]);
    let plan = ["plan", "--deployment", &paths[0], "--observed", &paths[1], "--now"];
    let early = json_of(&[&plan[..], &["2026-01-31T12:00:39Z"]].concat());
    let expected = json!({ "wake": "2026-01-31T12:00:40Z", "steps": [
        { "action": "remove", "module": "gone",
          "reason": "the deployment does not have it any more; its instance is stopped first" },
        { "action": "wait", "module": "a", "notBefore": "2026-01-31T12:00:40Z",
          "reason": "it ended with code 1; its back-off is 40 s after 3 failures in a row" },
        { "action": "update", "module": "b", "reason": "it was made from other settings (`settingsDigest`)" },
        { "action": "pull", "module": "c", "reason": "it is new in the deployment" },
    ]});
    assert_eq!(early, expected);
    let due = marram().args(plan).arg("2026-01-31T13:00:40+01:00").output().unwrap();
    let text = "\
ACTION   MODULE  NOT BEFORE  REASON
remove   gone    -           the deployment does not have it any more; its instance is stopped first
restart  a       -           it ended with code 1, and the back-off of 40 s is over
update   b       -           it was made from other settings (`settingsDigest`)
pull     c       -           it is new in the deployment
";
    assert_eq!((String::from_utf8(due.stdout).unwrap().as_str(), due.status.code()), (text, Some(0)));
}

#[test]
fn the_digest_that_check_tells_is_that_of_an_unchanged_module() {
    let (_folder, paths) = files(&[("d.json", &manifest(&json!({ "a": module("r.example/a:1") })))]);
    let digest = &json_of(&["check", &paths[0]])["settingsDigests"]["a"];
    let report = json!({ "modules": { "a": { "runtimeStatus": "running", "settingsDigest": digest } } }).to_string();
    let output = fed(&["plan", "--deployment", &paths[0], "--observed", "-"], &report);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "nothing to do\n");
}

#[test]
fn the_faults_of_both_files_are_told_at_once() {
    let (_folder, paths) =
        files(&[("d.json", BAD), ("o.json", "{\"modules\":{\n  \"a\":{\"runtimeStatus\":\"asleep\"},\"b\":{}}}")]);
    let document = json_of(&["plan", "--deployment", &paths[0], "--observed", &paths[1]]);
    let faults = document["error"]["faults"].as_array().unwrap();
    let places: Vec<&str> = faults.iter().map(|fault| fault["at"].as_str().unwrap()).collect();
    let of_manifest = "modulesContent.$edgeAgent.properties.desired.modules";
    let expected = [
        &format!("{of_manifest}.a b"),
        &format!("{of_manifest}.b.restartPolicy"),
        "modules.a.runtimeStatus",
        "modules.b.runtimeStatus",
    ];
    assert_eq!(places, expected);
    assert_eq!((&faults[2]["line"], &faults[1]["line"]), (&json!(2), &json!(4)));
    for (arguments, code) in [
        (vec!["plan", "--deployment", &paths[0], "--observed", &paths[1]], 3),
        (vec!["plan", "--deployment", "-", "--observed", "-"], 2),
        (vec!["plan", "--deployment", &paths[0], "--now", "soon"], 2),
        (vec!["plan", "--deployment", &paths[0], "--observed", "/does/not/exist.json"], 1),
    ] {
        assert_eq!(marram().args(&arguments).output().unwrap().status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn a_host_answers_for_what_it_observes_and_does_nothing() {
    let broken = manifest(&json!({ "a": module("oci:/does/not/exist:1") }));
    let host = Host::start(Some(&broken), &[]);
    host.wait_for_log("cannot be prepared");
    let (_folder, paths) = files(&[
        ("same.json", &broken),
        ("other.json", &manifest(&json!({ "b": module("oci:/does/not/exist:2") }))),
        ("bad.json", BAD),
    ]);
    // A clock of before the start: the back-off is waited for in full.
    let early = host.json(&["plan", "--deployment", &paths[0], "--now", "2000-01-01T00:00:00Z"]);
    assert_eq!((&early["steps"][0]["action"], &early["steps"][0]["module"]), (&json!("wait"), &json!("a")));
    let due = &early["steps"][0]["notBefore"];
    assert!(due.as_str().unwrap().starts_with("2000-01-01T00:0"), "{early}");
    assert_eq!(early["wake"], *due);
    let tomorrow = host.json(&["plan", "--deployment", &paths[0], "--now", "2099-01-01T00:00:00Z"]);
    assert_eq!((&tomorrow["steps"][0]["action"], &tomorrow["wake"]), (&json!("pull"), &Value::Null));
    let other = host.json(&["plan", "--deployment", &paths[1]]);
    let actions: Vec<String> = other["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| format!("{} {}", step["action"], step["module"]))
        .collect();
    assert_eq!(actions, [r#""remove" "a""#, r#""pull" "b""#]);
    let bad = host.ask(&["plan", "--deployment", &paths[2]]);
    assert_eq!(bad.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("line 3, column 5: modulesContent"), "{bad:?}");
    let status = host.json(&["list"]);
    assert_eq!((&status["deploymentVersion"], &status["modules"][0]["name"]), (&json!(1), &json!("a")));
    assert_eq!(host.stop(), Some(0));
}
