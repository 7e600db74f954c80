//! The built binary as people and scripts meet it: what it answers, where, and with which exit code. No guest runs here;
//! the `marram-tests` package has those.

#![allow(clippy::unwrap_used)] // helpers of tests

mod host;
mod plan;
mod twin;

use host::{Host, marram, scratch};
use serde_json::{Value, json};

const GOOD: &str = r#"{"modulesContent":{
  "$edgeAgent":{"properties.desired":{"schemaVersion":"1.1","modules":{}}},
  "$edgeHub":{"properties.desired":{"schemaVersion":"1.1","routes":{},"storeAndForwardConfiguration":{"timeToLiveSecs":60}}}}}"#;
const BAD: &str = r#"{"modulesContent":{
  "$edgeAgent":{"properties.desired":{"schemaVersion":"1.1","modules":{
    "a b":{"type":"wasm","status":"running","restartPolicy":"always","settings":{"image":"r.example/x:1"}},
    "b":{"type":"wasm","status":"running","restartPolicy":"sometimes","settings":{"image":"r.example/x:1"}}}}},
  "$edgeHub":{"properties.desired":{"schemaVersion":"1.1","routes":{},"storeAndForwardConfiguration":{"timeToLiveSecs":60}}}}}"#;

#[test]
fn exit_codes_are_as_documented() {
    let folder = scratch();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    std::fs::write(folder.path().join("bad.json"), BAD).unwrap();
    std::fs::write(folder.path().join("bad.toml"), "data = 7").unwrap();
    let bad = folder.path().join("bad.json");
    let toml = folder.path().join("bad.toml");
    let table: [(&[&str], i32); 12] = [
        (&["version"], 0),
        (&["--version"], 0),
        (&["--help"], 0),
        (&[], 2),
        (&["no-such-command"], 2),
        (&["run", "--grace", "soon"], 2),
        (&["check", "/does/not/exist.json"], 1),
        (&["check", bad.to_str().unwrap()], 3),
        (&["run", bad.to_str().unwrap(), "--data", data], 3),
        (&["run", "--config", toml.to_str().unwrap(), "--data", data], 3),
        (&["list", "--data", data], 4),
        (&["module", "push", "/does/not/exist.wasm", "oci:/does/not/exist:1"], 1),
    ];
    for (arguments, code) in table {
        let output = marram().args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "marram {arguments:?}: {errors}");
    }
}

#[test]
fn check_tells_all_faults_on_standard_error_and_nothing_on_standard_output() {
    let folder = scratch();
    let file = folder.path().join("d.json");
    std::fs::write(&file, BAD).unwrap();
    let output = marram().arg("check").arg(&file).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty());
    assert!(errors.starts_with(&format!("error: {} has 2 faults\n", file.display())), "{errors}");
    assert!(errors.contains("sometimes"), "{errors}");
}

#[test]
fn check_json_has_the_faults_on_standard_output() {
    let folder = scratch();
    let file = folder.path().join("d.json");
    std::fs::write(&file, BAD).unwrap();
    let output = marram().args(["check", "--format", "json"]).arg(&file).output().unwrap();
    assert!(output.stderr.is_empty());
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["code"], "bad-manifest");
    assert_eq!(document["error"]["faults"].as_array().unwrap().len(), 2);
}

#[test]
fn check_passes_a_good_manifest() {
    let folder = scratch();
    let file = folder.path().join("d.json");
    std::fs::write(&file, GOOD).unwrap();
    let output = marram().args(["check", "--format", "json"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["modules"], &document["routes"]), (&json!([]), &json!([])));
}

#[test]
fn completions_know_the_commands_and_are_whole_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let output = marram().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(script.contains("restart") && script.contains("follow"), "{shell}: {script}");
        assert!(!script.contains("compile-helper"), "{shell} offers what is no one's to call");
        let folder = scratch();
        let file = folder.path().join("script");
        std::fs::write(&file, &script).unwrap();
        // Who has the shell can see that it reads the script.
        if let Ok(output) = std::process::Command::new(shell).arg("-n").arg(&file).output() {
            assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert_eq!(marram().args(["completions", "dos"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_log_of_a_time_that_cannot_be_read_is_a_matter_of_usage() {
    for (since, code) in [("soon", 2), ("-10m", 2), ("10m", 4), ("2026-01-31T12:00:00Z", 4)] {
        let folder = scratch();
        let since = format!("--since={since}");
        let output = marram().args(["logs", "m", "-f", &since, "--data"]).arg(folder.path()).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{since}: {errors}");
        assert!(code == 4 || errors.contains("10m"), "{errors}");
    }
}

#[test]
fn version_names_the_engine_it_holds() {
    let output = marram().args(["version", "--format", "json"]).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    assert!(document["wasmtime"].as_str().unwrap().starts_with("48."));
}

#[test]
fn without_a_host_the_error_says_what_to_try() {
    let folder = scratch();
    let output = marram().args(["list", "--data"]).arg(folder.path()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("no host is running") && errors.contains("hint: start one with `marram run"), "{errors}");
    let output = marram().args(["list", "--format", "json", "--data"]).arg(folder.path()).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["error"]["code"], output.status.code()), (&json!("no-host"), Some(4)));
}

#[test]
fn a_data_folder_whose_socket_path_would_be_too_long_is_refused_with_the_limit() {
    let folder = scratch();
    let data = folder.path().join("d".repeat(110));
    let output = marram().args(["run", "--data"]).arg(&data).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(errors.contains("the system allows 107"), "{errors}");
    assert!(!data.exists());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = marram().arg("version").stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn an_empty_deployment_runs_until_sigterm_and_ends_well() {
    let host = Host::start(Some(GOOD), &[]);
    let status: Value = host.json(&["list"]);
    assert_eq!(status["modules"], json!([]));
    assert_eq!(status["deploymentVersion"], 1);
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn the_control_socket_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::start(None, &[]);
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(host.data().join("marram.sock")), 0o600);
    assert_eq!(mode(host.data().to_owned()), 0o700);
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn a_second_host_on_the_same_data_folder_is_refused() {
    let host = Host::start(None, &[]);
    let output = marram().args(["run", "--data"]).arg(host.data()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{errors}");
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn an_unknown_module_has_an_exit_code_of_its_own() {
    let host = Host::start(None, &[]);
    for arguments in [&["logs", "nobody"][..], &["restart", "nobody"], &["twin", "get", "nobody"], &["logs", "../x y"]]
    {
        let output = host.ask(arguments);
        assert_eq!(output.status.code(), Some(5), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn a_stopped_module_has_a_twin_and_refuses_a_restart() {
    let module = r#""modules":{"b":{"type":"wasm","status":"stopped","restartPolicy":"always",
        "settings":{"image":"oci:/does/not/exist:1"}}}"#;
    let host = Host::start(Some(&GOOD.replace(r#""modules":{}"#, module)), &[]);
    let refused = host.ask(&["restart", "b", "--format", "json"]);
    let document: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((&document["error"]["code"], refused.status.code()), (&json!("refused"), Some(6)));
    let set = host.json(&["twin", "set", "b", r#"{"limit":7}"#]);
    let twin = host.json(&["twin", "get", "b"]);
    assert_eq!((&twin["desired"], &twin["desiredVersion"]), (&json!({ "limit": 7 }), &set["version"]));
    assert_eq!(host.ask(&["twin", "set", "b", "[]"]).status.code(), Some(3));
    let piped = host.ask_with(&["twin", "set", "--format", "json", "b", "-"], r#"{"limit":null}"#);
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    assert_eq!(host.json(&["twin", "get", "b"])["desired"], json!({}));
    assert_eq!(host.json(&["logs", "b"]), json!([]));
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn apply_reads_standard_input_and_says_which_version_is_in_force() {
    let host = Host::start(None, &[]);
    let first = host.ask_with(&["apply", "-"], GOOD);
    assert_eq!(String::from_utf8_lossy(&first.stdout), "deployment 1 is in force\n");
    let again = host.ask_with(&["apply", "-"], GOOD);
    assert_eq!(String::from_utf8_lossy(&again.stdout), "deployment 1 is in force already\n");
    let bad = host.ask_with(&["apply", "-", "--format", "json"], BAD);
    let document: Value = serde_json::from_slice(&bad.stdout).unwrap();
    assert_eq!((&document["error"]["code"], bad.status.code()), (&json!("bad-manifest"), Some(3)));
    assert_eq!(host.json(&["list"])["deploymentVersion"], 1);
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn a_changed_deployment_file_is_applied_and_a_bad_or_missing_one_changes_nothing() {
    let host = Host::start(Some(GOOD), &[]);
    // As editors do: a new file in the place of the old one.
    let new = host.file().with_extension("new");
    std::fs::write(&new, GOOD.replace("60", "61")).unwrap();
    std::fs::rename(&new, host.file()).unwrap();
    host.wait_for_log("deployment file read version=2");
    std::fs::write(host.file(), BAD).unwrap();
    host.wait_for_log("has 2 faults; the deployment in force is unchanged");
    host.wait_for_log("sometimes");
    std::fs::remove_file(host.file()).unwrap();
    host.wait_for_log("there is no such file; the deployment in force is unchanged");
    std::fs::write(host.file(), GOOD.replace("60", "62")).unwrap();
    host.wait_for_log("deployment file read version=3");
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn a_bad_deployment_at_start_leaves_the_stored_one_in_force() {
    let host = Host::start(Some(GOOD), &[]);
    std::fs::write(host.file(), BAD).unwrap();
    let host = host.restart();
    host.wait_for_log("the stored deployment goes on version=1");
    assert_eq!(host.json(&["list"])["deploymentVersion"], 1);
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn a_host_with_a_file_does_not_start_the_stored_deployment_before() {
    let host = Host::start(Some(GOOD), &[]);
    std::fs::write(host.file(), GOOD.replace("60", "61")).unwrap();
    let host = host.restart();
    assert_eq!(host.json(&["list"])["deploymentVersion"], 2);
    assert!(!host.log().contains("resuming the stored deployment"), "{}", host.log());
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn a_deployment_that_is_no_regular_file_is_refused() {
    let folder = scratch();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for odd in [pipe.as_path(), folder.path(), std::path::Path::new("/dev/fd/0")] {
        let mut run = marram();
        // A pipe that nobody closes.
        let mut child = run.args(["run", "--data"]).arg(folder.path().join("data")).arg(odd);
        child = child.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = child.spawn().unwrap();
        let stdin = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{odd:?}: {errors}");
        assert!(errors.contains("it is not a regular file"), "{odd:?}: {errors}");
    }
}

#[test]
fn a_signal_ends_a_host_whose_start_hangs() {
    let folder = scratch();
    let data = folder.path().join("data");
    std::fs::create_dir_all(data.join("store")).unwrap();
    // A disk that does not answer.
    let document = data.join("store/deployment.json");
    assert!(std::process::Command::new("mkfifo").arg(&document).status().unwrap().success());
    let mut run = marram();
    run.args(["run", "--grace", "1", "--data"]).arg(&data).stderr(std::process::Stdio::piped());
    let mut child = run.spawn().unwrap();
    // Written once signals are heard: the open for writing returns when the host has the document open for reading.
    let held = std::fs::OpenOptions::new().write(true).open(&document).unwrap();
    let kill = format!("kill -TERM {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let code = child.wait().unwrap().code();
    drop(held);
    assert_eq!(code, Some(0));
}

#[test]
fn a_deployment_that_cannot_be_stored_is_tried_again() {
    let host = Host::start(Some(GOOD), &[]);
    // No document can be written where a folder has the name of its temporary file.
    let obstacle = host.data().join("store/deployment.json.tmp");
    std::fs::create_dir(&obstacle).unwrap();
    std::fs::write(host.file(), GOOD.replace("60", "61")).unwrap();
    host.wait_for_log("cannot store the deployment");
    std::fs::remove_dir(&obstacle).unwrap();
    host.wait_for_log("deployment file read version=2");
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn log_lines_are_json_when_asked_for() {
    let host = Host::start(None, &["--log-format", "json"]);
    let line = host.wait_for_log("host is up");
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["message"]), (&json!("INFO"), &json!("host is up")));
    assert_eq!(host.stop(), Some(0));
}

#[test]
fn sigint_ends_the_host_well_too() {
    let host = Host::start(None, &[]);
    host.signal("INT");
    assert_eq!(host.wait(), Some(0));
}

/// Runs a command with this input.
fn fed(arguments: &[&str], input: &str) -> std::process::Output {
    use std::io::Write;
    let mut command = marram();
    let pipe = std::process::Stdio::piped;
    let mut child = command.args(arguments).stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // Beside the reading of the answers: neither pipe holds all lines.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

#[test]
fn route_eval_answers_each_line_with_one_line() {
    let lines = [
        (r#"{"condition":"as_number(n) > 3","message":{"properties":{"N":"4"}}}"#, r#"{"result":"true"}"#),
        (r#"{"pattern":"/messages/*","source":"/messages/modules/m"}"#, r#"{"match":true}"#),
        (r#"{"condition":"a ==  1"}"#, r#"{"error":{"column":4,"message":""#),
    ];
    let input: String = (0..5000).flat_map(|_| lines).map(|(line, _)| format!("{line}\n\n")).collect();
    let output = fed(&["route", "eval"], &input);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answers = String::from_utf8(output.stdout).unwrap();
    assert_eq!(answers.lines().count(), 15_000);
    for (answer, (line, expected)) in answers.lines().zip((0..5000).flat_map(|_| lines)) {
        assert!(answer.starts_with(expected), "{line}: {answer}");
    }
}

#[test]
fn route_eval_answers_before_the_next_line_comes() {
    use std::io::{BufRead, BufReader, Write};
    let pipe = std::process::Stdio::piped;
    let mut child = marram().args(["route", "eval"]).stdin(pipe()).stdout(pipe()).spawn().unwrap();
    let (mut stdin, mut answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for value in ["true", "false"] {
        writeln!(stdin, "{{\"condition\":\"{value}\"}}").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim_end(), format!("{{\"result\":\"{value}\"}}"));
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn route_explain_tells_the_route_that_decides_and_the_value_of_each_part() {
    let folder = scratch();
    let file = folder.path().join("d.json");
    let routes = json!({
        "all": "FROM /messages/* INTO $upstream",
        "alerts": { "route": "FROM /messages/* WHERE kind = 'alert' INTO $upstream", "priority": 0 },
        "other": "FROM /messages/modules/other/* INTO $upstream",
    });
    std::fs::write(&file, GOOD.replace(r#""routes":{}"#, &format!("\"routes\":{routes}"))).unwrap();
    let file = file.to_str().unwrap();
    let explain = ["route", "explain", "--deployment", file, "--source", "/messages/modules/m/outputs/o"];
    let of = |message: &str, more: &[&str]| {
        let output = fed(&[&explain[..], &["--message", "-"], more].concat(), message);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let alert: Value = serde_json::from_str(&of(r#"{"properties":{"kind":"alert"}}"#, &["--format", "json"])).unwrap();
    let by_name =
        |name: &str| alert["routes"].as_array().unwrap().iter().find(|route| route["name"] == name).unwrap().clone();
    assert_eq!((&by_name("alerts")["delivers"], &by_name("alerts")["result"]), (&json!(true), &json!("true")));
    assert_eq!((&by_name("all")["delivers"], &by_name("all")["insteadDelivers"]), (&json!(false), &json!("alerts")));
    assert_eq!(by_name("other")["sourceMatches"], false);
    assert_eq!(by_name("alerts")["steps"][1]["value"], "'alert'");
    let plain = of("{}", &[]);
    assert!(plain.contains("all: yes\n") && plain.contains("other: no: the source does not match\n"), "{plain}");
    assert!(plain.contains("kind -> undefined  -- the message has no property `kind`\n"), "{plain}");
    let without = marram().args(explain).output().unwrap();
    let without = String::from_utf8(without.stdout).unwrap();
    assert!(without.contains("alerts: depends on the message: give one with --message\n"), "{without}");
    let bad = fed(&[&explain[..], &["--message", "-"]].concat(), r#"{"properties":{"a":1}}"#);
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("properties.a: a property is a string"), "{bad:?}");
}
