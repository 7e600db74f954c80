//! The command line as people and scripts meet it beside the control API's answers: watching a twin, manual pages,
//! completions in real shells.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use marram_tests::{
    device::Device,
    host::Host,
    manifest::{Manifest, Module},
    program::{Answer, Layout, command},
};
use serde_json::{Value, json};

// ---- twin watch ----

#[test]
fn a_watched_twin_shows_what_is_and_each_change_over_restarts_and_ends_with_the_host() {
    let (layout, device, host) = telemetry(json!({ "intervalMs": 3_600_000 }));
    let mut watcher = device.spawn(&["twin", "watch", "telemetry", "--format", "json"]);
    let mut lines = objects(&mut watcher);
    let (desired, reported) = (lines.next().unwrap(), lines.next().unwrap());
    assert_eq!((&desired["section"], &reported["section"]), (&json!("desired"), &json!("reported")));
    assert_eq!((&desired["properties"], &desired["patch"]), (&json!({ "intervalMs": 3_600_000 }), &Value::Null));

    let mut twin = Twin { desired, reported };
    let _ = device.marram(&["twin", "set", "telemetry", r#"{"intervalMs":3500000}"#]).ok();
    twin.follow(&mut lines, |twin| twin.has_acknowledged(3_500_000));

    let _ = device.marram(&["restart", "telemetry"]).ok();
    host.wait_for_module("telemetry", "to be replaced", |now| now["restartCount"] == 1 && now["status"] == "running");
    let manifest = manifest(&layout, json!({ "intervalMs": 3_400_000 }));
    let _ = device.apply(&manifest.to_json()).ok();
    twin.follow(&mut lines, |twin| twin.has_acknowledged(3_400_000));
    assert_eq!(twin.desired["origin"], "manifest (deployment 2)", "{}", twin.desired);

    host.stop();
    for line in lines {
        twin.take(line);
    }
    assert_eq!(watcher.wait().unwrap().code(), Some(0), "the host's end is no error");
}

#[test]
fn a_watch_of_a_module_that_leaves_the_deployment_ends_with_that() {
    let (_layout, device, _host) = telemetry(json!({}));
    let mut watcher = device.spawn(&["twin", "watch", "telemetry"]);
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains(" desired ") && first.ends_with(": {}"), "{first}");
    let _ = device.apply(&Manifest::new().to_json()).ok();
    assert_eq!(watcher.wait().unwrap().code(), Some(5));

    let nobody = device.marram(&["twin", "watch", "telemetry"]);
    assert_eq!(nobody.code, Some(5), "{nobody:?}");
}

#[test]
fn a_watch_whose_reader_goes_away_ends_though_nothing_changes() {
    let (_layout, device, _host) = telemetry(json!({ "intervalMs": 3_600_000 }));
    let mut watcher = device.spawn(&["twin", "watch", "telemetry"]);
    let mut lines = BufReader::new(watcher.stdout.take().unwrap()).lines();
    let _ = lines.next().unwrap().unwrap();
    drop(lines);
    assert_eq!(watcher.wait().unwrap().code(), Some(0));
}

/// The twin as the lines of a watch tell it.
struct Twin {
    desired: Value,
    reported: Value,
}

impl Twin {
    /// Takes lines until the twin is as wanted.
    fn follow(&mut self, lines: &mut impl Iterator<Item = Value>, wanted: impl Fn(&Self) -> bool) {
        while !wanted(self) {
            self.take(lines.next().expect("a later line"));
        }
    }

    /// Checks that no change is missing: the patch and the number of those before it make the new state.
    fn take(&mut self, line: Value) {
        let old = if line["section"] == "desired" { &mut self.desired } else { &mut self.reported };
        let number = |line: &Value, name: &str| line[name].as_u64().unwrap();
        assert_eq!(number(&line, "version"), number(old, "version") + 1 + number(&line, "coalesced"), "{old} {line}");
        for (key, value) in line["patch"].as_object().unwrap().iter().filter(|(_, value)| !value.is_object()) {
            assert_eq!(&line["properties"][key], value, "{line}");
        }
        *old = line;
    }

    /// The module has told that it took this interval.
    fn has_acknowledged(&self, interval: u64) -> bool {
        let ack = &self.reported["properties"]["desiredAck"];
        self.desired["properties"]["intervalMs"] == interval && ack["version"] == self.desired["version"]
    }
}

fn manifest(layout: &Layout, desired: Value) -> Manifest {
    let module = Module::new(&layout.image("device_telemetry")).reads_proc();
    Manifest::new().module("telemetry", module).twin("telemetry", desired)
}

/// A host with one module that acknowledges its desired properties.
fn telemetry(desired: Value) -> (Layout, Device, Host) {
    let (layout, device) = (Layout::with(&["device_telemetry"]), Device::new());
    let host = device.start(&manifest(&layout, desired));
    host.wait_for_status("telemetry", "running");
    (layout, device, host)
}

fn objects(child: &mut Child) -> impl Iterator<Item = Value> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap())
}

// ---- manual pages and completions ----

#[test]
fn manual_pages_are_written_and_man_can_show_them() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("share/man1");
    let _ = Answer::of(command().args(["man", "--output"]).arg(&pages)).ok();
    let main = fs::read_to_string(pages.join("marram.1")).unwrap();
    assert_eq!(Answer::of(command().arg("man")).ok().out, main);
    for entry in fs::read_dir(&pages).unwrap() {
        let page = entry.unwrap().path();
        // groff is what `man` calls; not every machine has it.
        let Some(shown) = shown_by("groff", &["-man", "-Tutf8", "-ww", "-P-cbou"], &page) else { return };
        assert_eq!(shown.err, "", "{}", page.display());
        assert!(shown.out.contains("NAME") && shown.out.contains("EXIT STATUS"), "{}", shown.out);
    }
}

/// What a program makes of a file; none when the program is not there.
fn shown_by(program: &str, args: &[&str], file: &Path) -> Option<Answer> {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    found.ok()?;
    Some(Answer::of(Command::new(program).args(args).arg(file)).ok())
}

/// Asks each shell itself what it would offer.
#[test]
fn completions_work_in_the_shells_that_are_here() {
    let folder = tempfile::tempdir().unwrap();
    let script = |shell: &str| Answer::of(command().args(["completions", shell])).ok().out;
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };

    let bash = file("marram.bash", &script("bash"));
    let ask =
        "source \"$1\"; COMP_WORDS=(marram twin w); COMP_CWORD=2; _marram marram w twin; echo \"${COMPREPLY[@]}\"";
    let answer = Answer::of(Command::new("bash").args(["--norc", "-c", ask, "bash"]).arg(&bash)).ok();
    assert_eq!((answer.out.as_str(), answer.err.as_str()), ("watch\n", ""));

    let fish = file("marram.fish", &script("fish"));
    let ask = "source $argv[1]; complete --do-complete 'marram twin w'";
    if let Some(answer) = shown_by("fish", &["--no-config", "-c", ask], &fish) {
        assert!(answer.out.starts_with("watch\t"), "{answer:?}");
    }

    file("_marram", &script("zsh"));
    let ask =
        "fpath=($1 $fpath); autoload -Uz compinit; compinit -u -D; whence -w _marram; autoload +X _marram && echo read";
    if let Some(answer) = shown_by("zsh", &["-f", "-c", ask, "zsh"], folder.path()) {
        assert_eq!(answer.out, "_marram: function\nread\n", "{answer:?}");
    }
}
