//! What is planned for modules as a runtime reports them: IoT Edge's cases (spec/iotedge-semantics.md, 2.2 to 2.6) with our
//! answers.

use super::*;
use crate::{manifest::read_runtime, time::UtcMillis};

const NOW: &str = "2026-01-31T12:00:00Z";

/// The plan for a report, a step a line: `restart a`, `wait b until 12:00:10`, and the next wake-up if there is one.
fn planned(desired: &Deployment, report: &str, now: &str) -> Vec<String> {
    let now = UtcMillis::parse(now).unwrap();
    let runtime = read_runtime(report).unwrap();
    let explained = explain(desired, &runtime.observed(desired, now), uptime(now), now);
    let line = |step: &ExplainedStep| {
        let until = step.not_before.map(|at| format!(" until {}", &at.to_string()[11..19])).unwrap_or_default();
        assert!(!step.reason.is_empty());
        format!("{} {}{until}", step.action.as_str(), step.module)
    };
    assert_eq!(explained.wake, explained.steps.iter().filter_map(|step| step.not_before).min());
    explained.steps.iter().map(line).collect()
}

/// For one module `a` with these fields.
fn of(policy: RestartPolicy, fields: &str) -> String {
    let desired = deployment([with("a", |spec| spec.restart_policy = policy)]);
    planned(&desired, &format!(r#"{{"modules":{{"a":{{{fields}}}}}}}"#), NOW).join(", ")
}

/// Up for a minute when it ended `ago` before now.
fn ended(status: &str, code: i32, restarts: u32, ago: &str) -> String {
    let (start, exit) = match ago {
        "5 s" => ("11:58:55", "11:59:55"),
        "9.999 s" => ("11:58:50", "11:59:50.001"),
        "10 s" => ("11:58:50", "11:59:50"),
        "299 s" => ("11:54:01", "11:55:01"),
        "300 s" => ("11:54:00", "11:55:00"),
        other => panic!("{other}"),
    };
    format!(
        r#""runtimeStatus":"{status}","exitCode":{code},"restartCount":{restarts},
           "lastStartTimeUtc":"2026-01-31T{start}Z","lastExitTimeUtc":"2026-01-31T{exit}Z""#
    )
}

#[test]
fn each_policy_has_its_answer_to_each_end() {
    use RestartPolicy::{Always, Never, OnFailure, OnUnhealthy};
    let table = [
        // policy, status, exit code, ago, plan
        (Never, "failed", 1, "300 s", ""),
        (Never, "stopped", 0, "300 s", ""),
        (OnFailure, "failed", 1, "10 s", "restart a"),
        (OnFailure, "failed", 1, "5 s", "wait a until 12:00:05"),
        (OnFailure, "failed", 1, "9.999 s", "wait a until 12:00:00"),
        (OnFailure, "backoff", 1, "10 s", "restart a"),
        // IoT Edge starts these at once, and again and again.
        (OnFailure, "stopped", 0, "300 s", ""),
        (OnUnhealthy, "stopped", 0, "300 s", ""),
        (OnUnhealthy, "failed", 137, "10 s", "restart a"),
        (OnUnhealthy, "backoff", 134, "5 s", "wait a until 12:00:05"),
        (Always, "stopped", 0, "10 s", "restart a"),
        (Always, "stopped", 0, "5 s", "wait a until 12:00:05"),
        (Always, "backoff", 0, "10 s", "restart a"),
        (Always, "failed", 1, "5 s", "wait a until 12:00:05"),
        // Stopped by hand or by a deployment: 143 says so.
        (OnFailure, "stopped", 143, "5 s", "start a"),
        (Never, "stopped", 143, "5 s", "start a"),
        // The runtime ended and tells no more; the code does.
        (OnFailure, "unknown", 1, "5 s", "wait a until 12:00:05"),
        (OnFailure, "unknown", 0, "5 s", ""),
        // Cannot be used any more: made anew, after a back-off.
        (OnFailure, "dead", 1, "5 s", "wait a until 12:00:05"),
        (OnFailure, "dead", 1, "10 s", "pull a"),
    ];
    for (policy, status, code, ago, expected) in table {
        assert_eq!(of(policy, &ended(status, code, 0, ago)), expected, "{policy:?} {status} {code} {ago}");
    }
}

#[test]
fn the_back_off_doubles_with_each_restart_up_to_300_seconds_and_never_ends_in_giving_up() {
    for (restarts, until) in [(0, "12:00:05"), (1, "12:00:15"), (2, "12:00:35"), (3, "12:01:15"), (4, "12:02:35")] {
        assert_eq!(of(RestartPolicy::OnFailure, &ended("failed", 1, restarts, "5 s")), format!("wait a until {until}"));
    }
    for restarts in [5, 19, 20, 21, u32::MAX] {
        assert_eq!(of(RestartPolicy::OnFailure, &ended("failed", 1, restarts, "299 s")), "wait a until 12:00:01");
        assert_eq!(of(RestartPolicy::OnFailure, &ended("failed", 1, restarts, "300 s")), "restart a");
    }
}

#[test]
fn ten_minutes_of_running_clear_the_count() {
    let report = |start: &str| {
        format!(
            r#""runtimeStatus":"failed","exitCode":1,"restartCount":9,"lastStartTimeUtc":"2026-01-31T{start}Z",
               "lastExitTimeUtc":"2026-01-31T11:59:50Z""#
        )
    };
    assert_eq!(of(RestartPolicy::OnFailure, &report("11:49:50")), "restart a");
    assert_eq!(of(RestartPolicy::OnFailure, &report("11:49:51")), "wait a until 12:04:50");
}

#[test]
fn a_limit_of_restarts_ends_in_giving_up() {
    let desired = |limit| deployment([with("a", |spec| spec.max_restarts = limit)]);
    let report = |restarts| format!(r#"{{"modules":{{"a":{{{}}}}}}}"#, ended("failed", 1, restarts, "300 s"));
    assert_eq!(planned(&desired(Some(20)), &report(19), NOW), ["restart a"]);
    assert_eq!(planned(&desired(Some(20)), &report(20), NOW), ["give-up a"]);
    assert_eq!(planned(&desired(None), &report(20), NOW), ["restart a"]);
}

#[test]
fn a_clock_that_was_set_back_starts_the_back_off_anew_and_does_not_skip_it() {
    let ahead = r#""runtimeStatus":"failed","exitCode":1,"restartCount":1,
        "lastStartTimeUtc":"2026-02-03T12:00:00Z","lastExitTimeUtc":"2026-02-03T12:01:00Z""#;
    assert_eq!(of(RestartPolicy::OnFailure, ahead), "wait a until 12:00:20");
    let unknown = r#""runtimeStatus":"backoff","exitCode":1,"restartCount":2"#;
    assert_eq!(of(RestartPolicy::OnFailure, unknown), "wait a until 12:00:40");
}

#[test]
fn what_has_never_run_is_started_whatever_its_policy() {
    for fields in [
        r#""runtimeStatus":"stopped""#,
        r#""runtimeStatus":"unknown","exitCode":0,"lastStartTimeUtc":null"#,
        // .NET's time for none.
        r#""runtimeStatus":"stopped","exitCode":0,"lastStartTimeUtc":"0001-01-01T00:00:00","lastExitTimeUtc":"0001-01-01T00:00:00Z""#,
    ] {
        assert_eq!(of(RestartPolicy::Never, fields), "start a", "{fields}");
    }
    let ran = r#""runtimeStatus":"unknown","exitCode":1,"lastStartTimeUtc":"2026-01-31T11:00:00Z","lastExitTimeUtc":"2026-01-31T10:00:00Z""#;
    assert_eq!(of(RestartPolicy::Never, ran), "start a", "it ran when the runtime ended");
}

#[test]
fn what_runs_is_left_alone_unless_its_health_check_fails() {
    let fields =
        |status: &str, start: &str| format!(r#""runtimeStatus":"{status}","lastStartTimeUtc":"2026-01-31T{start}Z""#);
    assert_eq!(of(RestartPolicy::Always, &fields("running", "11:59:59")), "");
    assert_eq!(of(RestartPolicy::OnFailure, &fields("unhealthy", "11:00:00")), "");
    assert_eq!(of(RestartPolicy::OnUnhealthy, &fields("unhealthy", "11:00:00")), "restart a");
    assert_eq!(of(RestartPolicy::Always, &fields("unhealthy", "11:59:55")), "wait a until 12:00:05");
}

#[test]
fn a_module_desired_stopped_is_stopped_if_it_runs_and_else_left_alone() {
    let desired = deployment([super::facts::stopped("a")]);
    for (status, expected) in [
        ("running", "stop a"),
        ("unhealthy", "stop a"),
        ("stopped", ""),
        ("failed", ""),
        ("backoff", ""),
        ("dead", ""),
        ("unknown", ""),
    ] {
        let report = format!(r#"{{"modules":{{"a":{{{}}}}}}}"#, ended(status, 1, 0, "300 s"));
        assert_eq!(planned(&desired, &report, NOW).join(", "), expected, "{status}");
    }
    assert_eq!(planned(&desired, r#"{"modules":{}}"#, NOW).join(", "), "", "it is not even fetched");
}

#[test]
fn what_the_deployment_does_not_have_is_removed_whatever_it_does() {
    for status in ["unknown", "backoff", "running", "unhealthy", "stopped", "failed", "dead"] {
        let report =
            format!(r#"{{"modules":{{"gone":{{"runtimeStatus":"{status}"}},"a":{{"runtimeStatus":"running"}}}}}}"#);
        assert_eq!(planned(&deployment([spec("a")]), &report, NOW), ["remove gone"], "{status}");
    }
}

#[test]
fn a_new_module_is_pulled_and_one_of_other_settings_is_updated() {
    let desired = deployment([spec("a"), spec("new")]);
    let (same, other) = (spec("a").settings_digest(), super::facts::version("a", "2").settings_digest());
    let report = |status: &str, digest: &str| {
        format!(
            r#"{{"modules":{{"a":{{"runtimeStatus":"{status}","exitCode":1,"settingsDigest":"{digest}",
               "lastStartTimeUtc":"2026-01-31T11:59:58Z","lastExitTimeUtc":"2026-01-31T11:59:59Z"}}}}}}"#
        )
    };
    assert_eq!(planned(&desired, &report("running", &same), NOW), ["pull new"]);
    assert_eq!(planned(&desired, &report("failed", &same), NOW), ["wait a until 12:00:09", "pull new"]);
    // A repaired module does not wait for the back-off of the one before.
    for status in ["running", "failed", "backoff", "stopped", "unknown"] {
        assert_eq!(planned(&desired, &report(status, &other), NOW), ["update a", "pull new"], "{status}");
    }
    let stopped = deployment([super::facts::stopped("a")]);
    assert_eq!(planned(&stopped, &report("running", &other), NOW), ["stop a"]);
    assert_eq!(planned(&stopped, &report("stopped", &other), NOW).join(", "), "", "fetched when it is wanted");
}

#[test]
fn a_first_start_waits_for_lower_startup_orders_and_a_restart_does_not() {
    let desired = deployment([super::facts::order("a", 1), super::facts::order("b", 2)]);
    let two = |a: &str, b: &str| {
        let module = |fields: &str| match fields {
            "new" => r#"{"runtimeStatus":"stopped"}"#.to_owned(),
            "up" => r#"{"runtimeStatus":"running"}"#.to_owned(),
            "down" => format!("{{{}}}", ended("failed", 1, 0, "10 s")),
            other => panic!("{other}"),
        };
        planned(&desired, &format!(r#"{{"modules":{{"a":{},"b":{}}}}}"#, module(a), module(b)), NOW)
    };
    assert_eq!(two("new", "new"), ["start a", "wait b"]);
    assert_eq!(two("up", "new"), ["start b"]);
    assert_eq!(two("new", "down"), ["start a", "restart b"]);
    assert_eq!(two("down", "new"), ["restart a", "start b"], "a failure holds nothing up");
    assert_eq!(planned(&desired, r#"{"modules":{}}"#, NOW), ["pull a", "pull b"], "what waits is fetched meanwhile");
}

#[test]
fn the_digest_of_settings_tells_what_takes_a_new_instance() {
    let old = spec("a");
    type Change = fn(&mut ModuleSpec);
    let changes: [(Change, bool); 10] = [
        (|spec| spec.version = "2".into(), true),
        (|spec| spec.image = "registry.test/a:2".into(), true),
        (|spec| spec.pull_policy = PullPolicy::Never, true),
        (|spec| drop(spec.env.insert("A".into(), "1".into())), true),
        (|spec| spec.sandbox.memory_bytes += 1, true),
        (|spec| spec.sandbox.args.push(String::new()), true),
        (|spec| spec.restart_policy = RestartPolicy::Always, false),
        (|spec| spec.max_restarts = Some(1), false),
        (|spec| spec.desired_status = DesiredStatus::Stopped, false),
        (|spec| spec.startup_order = 1, false),
    ];
    for (change, differs) in changes {
        let new = with("a", change);
        assert_eq!(old.settings_digest() != new.settings_digest(), differs, "{new:?}");
        assert_eq!(needs_new_instance(&old, &new), differs, "{new:?}");
    }
    assert_eq!(
        old.settings_digest(),
        spec("a").settings_digest(),
        "the same settings have the same digest in every life of the host"
    );
}
