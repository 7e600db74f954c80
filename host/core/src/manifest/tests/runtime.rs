//! Facts about reports of a runtime.

use crate::{
    manifest::{MAX_MANIFEST_BYTES, read_runtime},
    planner::{RuntimeModule, RuntimeStatus},
    time::UtcMillis,
};

fn faults(text: &str) -> Vec<String> {
    read_runtime(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_report_has_a_status_and_what_else_is_known() {
    let text = r#"{"modules":{
        "full":{"runtimeStatus":"backoff","exitCode":-1,"restartCount":3,"lastStartTimeUtc":"2019-10-01T05:43:06.1234567Z",
            "lastExitTimeUtc":"1970-01-01T00:00:01+00:00","lastPullFailureTimeUtc":"1970-01-01T00:00:02Z",
            "settingsDigest":"sha256:x"},
        "bare":{"runtimeStatus":"Running"},
        "never":{"runtimeStatus":"stopped","exitCode":null,"lastStartTimeUtc":"0001-01-01T00:00:00","lastExitTimeUtc":null}}}"#;
    let runtime = read_runtime(text).unwrap();
    let full = RuntimeModule {
        status: RuntimeStatus::Backoff,
        exit_code: Some(-1),
        restart_count: 3,
        last_start: UtcMillis::parse("2019-10-01T05:43:06.123Z"),
        last_exit: Some(UtcMillis(1000)),
        last_pull_failure: Some(UtcMillis(2000)),
        settings_digest: Some("sha256:x".into()),
    };
    let nothing = |status| RuntimeModule {
        status,
        exit_code: None,
        restart_count: 0,
        last_start: None,
        last_exit: None,
        last_pull_failure: None,
        settings_digest: None,
    };
    assert_eq!(runtime.modules["full"], full);
    assert_eq!(runtime.modules["bare"], nothing(RuntimeStatus::Running));
    assert_eq!(runtime.modules["never"], nothing(RuntimeStatus::Stopped));
}

#[test]
fn the_reported_properties_of_an_edge_agent_are_such_a_report() {
    let text = r#"{"schemaVersion":"1.0","lastDesiredStatus":{"code":200},"runtime":{"type":"docker"},
        "systemModules":{"edgeHub":{"runtimeStatus":"running"}},
        "modules":{"a":{"type":"docker","status":"running","restartPolicy":"always","runtimeStatus":"running","exitCode":0,
            "statusDescription":"Up 1 hour","lastRestartTimeUtc":"0001-01-01T00:00:00Z","settings":{"image":"x"}}}}"#;
    assert_eq!(read_runtime(text).unwrap().modules.len(), 1);
}

#[test]
fn all_faults_are_told_at_once_with_their_paths() {
    let text = r#"{"modules":{
        "a b":{"runtimeStatus":"running"},
        "list":[],
        "none":{},
        "odd":{"runtimeStatus":"sleeping","exitCode":"1","restartCount":-1,"lastStartTimeUtc":"yesterday",
            "lastExitTimeUtc":"2026-02-30T00:00:00Z","settingsDigest":" "},
        "big":{"runtimeStatus":"failed","exitCode":2147483648},
        "twice":{"runtimeStatus":"failed","RuntimeStatus":"running"}}}"#;
    let expected = [
        "modules.a b: ' ' may not stand in a name (letters, digits and - . _ ~ + % : = @ may)",
        "modules.list: expected an object, found a list",
        "modules.none.runtimeStatus: is missing",
        "modules.odd.runtimeStatus: unknown runtime status `sleeping` (unknown, backoff, running, unhealthy, stopped, failed, dead)",
        "modules.odd.exitCode: expected a whole number, found a string",
        "modules.odd.restartCount: expected a whole number from 0 to 4294967295",
        "modules.odd.lastStartTimeUtc: `yesterday` is not a time such as \"2026-01-31T12:00:00Z\"",
        "modules.odd.lastExitTimeUtc: `2026-02-30T00:00:00Z` is not a time such as \"2026-01-31T12:00:00Z\"",
        "modules.odd.settingsDigest: may not be empty",
        "modules.big.exitCode: expected a whole number from -2147483648 to 2147483647",
        "modules.twice.RuntimeStatus: `runtimeStatus` and `RuntimeStatus` are the same key: its case does not count",
    ];
    assert_eq!(faults(text), expected);
}

#[test]
fn what_is_no_report_at_all_is_a_fault() {
    assert_eq!(faults("{}"), ["modules: is missing"]);
    assert_eq!(faults("[]"), ["expected an object, found a list"]);
    assert_eq!(faults(r#"{"modules":[]}"#), ["modules: expected an object, found a list"]);
    assert_eq!(faults(r#"{"modules":{},"modules":{}}"#), ["modules: the key `modules` stands twice in its object"]);
    assert!(faults("{").first().unwrap().starts_with("line 1, column 1: not JSON: "));
    let large = format!("{{\"modules\":{{}},\"x\":\"{}\"}}", "x".repeat(MAX_MANIFEST_BYTES));
    assert!(faults(&large)[0].starts_with("a report of a runtime has at most 2097152 bytes"));
}
