//! The command line as people and scripts meet it beside the control API's answers: watching a twin, manual pages,
//! completions in real shells, colours, errors, `check`, `init`, and the view on a terminal.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use marram_tests::{
    device::Device,
    host::{Host, Signal},
    manifest::{Manifest, Module},
    program::{Answer, Layout, command, guest, marram},
    wait::wait_for,
};
use rustix::process::{Pid, kill_process};
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
    assert!(script("bash").contains("--color"), "what all commands take is offered, too");

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

// ---- colours ----

#[test]
fn colours_are_for_terminals_and_as_the_reader_wants() {
    let coloured = |set: &[(&str, &str)], args: &[&str]| {
        let mut command = command();
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        let answer = Answer::of(command.envs(set.iter().copied()).args(args).args(["check", "/nowhere.json"]));
        assert_eq!(answer.code, Some(1), "{answer:?}");
        assert!(answer.err.contains("error:"), "{answer:?}");
        answer.err.contains("\u{1b}[1;31merror:\u{1b}[0m")
    };
    assert!(!coloured(&[], &[]), "not into a pipe");
    assert!(coloured(&[("CLICOLOR_FORCE", "1")], &[]));
    assert!(!coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], &[]));
    assert!(coloured(&[("NO_COLOR", "1")], &["--color", "always"]));
    assert!(coloured(&[], &["--color=always"]));
    assert!(!coloured(&[("CLICOLOR_FORCE", "1")], &["--color=never"]));
    // What clap says of a wrong line follows the same wish, and JSON has no colours.
    let wrong = Answer::of(command().args(["--color", "always", "dance"]));
    assert!(wrong.err.starts_with("\u{1b}[1;31merror:\u{1b}[0m there is no command"), "{wrong:?}");
    let json = Answer::of(command().args(["--color", "always", "check", "/nowhere.json", "--format", "json"]));
    assert!(!json.out.contains('\u{1b}') && json.json()["error"]["code"] == "failed", "{json:?}");
}

// ---- errors ----

/// Wrong invocations: arguments, exit code, how the error begins, and a part of its hint.
const WRONG: &[(&[&str], i32, &str, &str)] = &[
    (&["xylophone"], 2, "there is no command `xylophone`", "--help"),
    (&["lst"], 2, "there is no command `lst`", "did you mean `list`?"),
    (&["list", "--fromat", "x"], 2, "there is no option `--fromat` here", "did you mean `--format`?"),
    (&["list", "--format", "xml"], 2, "`xml` is no value of `--format <FORMAT>` (text, json)", "--help"),
    (&["list", "--color", "red"], 2, "`red` is no value of `--color <WHEN>` (auto, always, never)", "--help"),
    (&["twin", "set", "m"], 2, "`<PATCH>` is missing", "usage: marram twin set"),
    (&["logs", "m", "--tail", "-1"], 2, "there is no option `-1` here", ""),
    (&["logs", "m", "--since", "yesterday"], 2, "`yesterday` is no value of `--since <AGE|TIME>`: expected an age", ""),
    (&["run", "--grace", "x"], 2, "`x` is no value of `--grace <SECONDS>`", ""),
    (&["check", "/nowhere/deployment.json"], 1, "cannot read /nowhere/deployment.json", ""),
    (&["check", "/nowhere/marram.toml"], 1, "cannot read /nowhere/marram.toml", ""),
    (&["check", "/proc/version"], 3, "/proc/version has 1 fault", ""),
    (&["apply", "/nowhere/deployment.json"], 1, "cannot read /nowhere/deployment.json", ""),
    (&["list", "--data", "/nowhere"], 4, "no host is running on /nowhere", "marram run"),
    (&["list", "--config", "/nowhere.toml"], 1, "cannot read /nowhere.toml", "--config"),
    (&["module", "inspect", "/nowhere.wasm"], 1, "cannot read /nowhere.wasm", ""),
    (&["module", "push", "/nowhere.wasm", "oci:/tmp/x:y"], 1, "cannot push /nowhere.wasm", ""),
    (&["module", "pull", "UPPER CASE", "/tmp/x.wasm"], 2, "image `UPPER CASE`", ""),
    (&["module", "push", "a.wasm", "r.example/a", "--username", "u"], 2, "`--password-stdin` is missing", "usage"),
    (&["init", "/proc/nowhere"], 1, "cannot write /proc/nowhere", ""),
];

#[test]
fn every_error_says_what_and_what_to_try_in_one_form() {
    for (args, code, begin, hint) in WRONG {
        let answer = Answer::of(command().args(*args));
        assert_eq!((answer.code, answer.out.as_str()), (Some(*code), ""), "{args:?} {answer:?}");
        let lines: Vec<&str> = answer.err.lines().collect();
        assert!(lines[0].starts_with(&format!("error: {begin}")), "{args:?}: {}", answer.err);
        let rest_is_known = lines[1..].iter().all(|line| line.starts_with("  ") || line.starts_with("hint: "));
        assert!(rest_is_known && answer.err.ends_with('\n'), "{args:?}: {}", answer.err);
        assert!(
            hint.is_empty() || lines.last().unwrap().starts_with("hint: ") && answer.err.contains(hint),
            "{}",
            answer.err
        );
    }
}

#[test]
fn scripts_get_every_error_as_a_document() {
    for (args, code, begin, _) in
        WRONG.iter().filter(|(args, ..)| !["run"].contains(&args[0]) && !args.contains(&"xml"))
    {
        let answer = Answer::of(command().args(*args).args(["--format", "json"]));
        assert_eq!((answer.code, answer.err.as_str()), (Some(*code), ""), "{args:?} {answer:?}");
        let error = &answer.json()["error"];
        assert!(error["message"].as_str().unwrap().starts_with(begin) && error["code"].is_string(), "{args:?} {error}");
    }
}

// ---- check and init ----

#[test]
fn a_fault_is_told_with_line_column_path_and_hint() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deployment.json");
    let text = "{\n  \"modulesContent\": {\n    \"$edgeAgent\": { \"properties.desired\": {\n      \"schemaVersion\": \"1.1\",\n      \
                \"modules\": { \"temp\": { \"type\": \"wasm\", \"status\": \"running\",\n        \"restartPolicy\": \"sometimes\", \
                \"settings\": { \"image\": \"r.example/a\", \"sandbox\": { \"limit\": {} } } } }\n    } }\n  }\n}\n";
    fs::write(&file, text).unwrap();
    let answer = Answer::of(command().arg("check").arg(&file));
    assert_eq!(answer.code, Some(3), "{answer:?}");
    let path = "modulesContent.$edgeAgent.properties.desired.modules.temp";
    for part in [
        format!("  line 6, column 9: {path}.restartPolicy: unknown restart policy `sometimes`"),
        format!("  line 6, column 90: {path}.settings.sandbox.limit: unknown key\n    hint: did you mean `limits`?\n"),
    ] {
        assert!(answer.err.contains(&part), "{part} is not in {}", answer.err);
    }
    let answer = Answer::of(command().args(["check", "--format", "json"]).arg(&file));
    assert_eq!(answer.json()["error"]["faults"][0]["line"], 6, "{answer:?}");

    fs::write(&file, text.replace("sometimes", "always").replace("\"limit\"", "\"limits\"")).unwrap();
    let answer = Answer::of(command().arg("check").arg(&file)).ok();
    assert!(answer.err.contains("line 6, column 50: ") && answer.err.contains("names no version"), "{answer:?}");
    let strict = Answer::of(command().args(["check", "--strict"]).arg(&file));
    assert_eq!(strict.code, Some(3), "{strict:?}");
}

#[test]
fn settings_are_checked_with_the_files_that_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("marram.toml");
    fs::write(&file, "[registries]\ncertificate-authorities = [\"ca.pem\"]\n").unwrap();
    let answer = Answer::of(command().arg("check").arg(&file));
    assert_eq!(answer.code, Some(3), "{answer:?}");
    assert!(answer.err.contains("ca.pem"), "{answer:?}");
    fs::write(&file, "devise-id = \"a\"\n").unwrap();
    let answer = Answer::of(command().arg("check").arg(&file));
    assert!(answer.code == Some(3) && answer.err.contains("line 1, column 1: devise-id: unknown key"), "{answer:?}");
    assert!(answer.err.contains("hint: did you mean `device-id`?"), "{answer:?}");
}

/// The README's path: init, push, check, run.
#[test]
fn what_init_writes_is_good_and_runs_and_is_never_written_over() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("my device");
    let answer = Answer::of(command().arg("init").arg(&folder)).ok();
    assert_eq!(answer.out.lines().count(), 2, "{answer:?}");
    assert!(answer.err.contains("export MARRAM_CONFIG") && answer.err.contains("cd '"), "{answer:?}");
    let again = Answer::of(command().arg("init").arg(&folder));
    assert!(again.code == Some(1) && again.err.contains("nothing was written"), "{again:?}");

    let here = |args: &[&str]| {
        let mut command = command();
        command.env("MARRAM_CONFIG", folder.join("marram.toml")).current_dir(&folder).args(args);
        command
    };
    for file in ["marram.toml", "deployment.json"] {
        let answer = Answer::of(&mut here(&["check", "--strict", file])).ok();
        assert_eq!(answer.err, "", "{file}");
    }
    let component = guest("hello_marram");
    let _ = Answer::of(&mut here(&["module", "push", component.to_str().unwrap(), "oci:layout:hello"])).ok();
    let mut host = here(&["run", "deployment.json"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the first module to run", || {
        let list = Answer::of(&mut here(&["list", "--format", "json"]));
        (list.code == Some(0) && list.json()["modules"][0]["status"] == "running").then_some(())
    });
    assert!(folder.join("data/store").is_dir(), "the data lies beside the settings");
    interrupt(host.id());
    assert_eq!(host.wait().unwrap().code(), Some(0));
}

// ---- the view ----

#[test]
fn the_view_follows_the_terminal_and_leaves_it_usable() {
    if !["script", "stty"].iter().all(|name| Command::new(name).arg("--version").output().is_ok()) {
        return; // no pseudo-terminal to be had
    }
    let (layout, device) = (Layout::with(&["device_telemetry"]), Device::new());
    device.write_deployment(&manifest(&layout, json!({ "intervalMs": 100 })).upstream("telemetry"));
    let screen = Terminal::run(&device);

    screen.wait_for("rates of a module and a queue", |text| {
        let row = |name: &str| text.lines().rfind(|line| line.starts_with(name)).map(str::to_owned);
        let has_rate =
            |row: &String| row.split_whitespace().nth(3).and_then(|rate| rate.parse::<f64>().ok()) > Some(1.0);
        row("telemetry  running").filter(has_rate).and(row("$upstream").filter(has_rate))
    });
    screen.resize(40);
    screen.wait_for("a picture of the new width", |text| {
        let last = text.rsplit("\u{1b}[2J\u{1b}[H").next().filter(|last| last.len() < text.len())?;
        let lines: Vec<&str> =
            last.lines().filter(|line| line.starts_with("telemetry") || line.starts_with("$up")).collect();
        assert!(lines.iter().all(|line| line.chars().count() < 40), "{lines:?}");
        (lines.len() > 2).then_some(())
    });
    // Ctrl-Z and fg: the next picture is drawn below what a shell has written meanwhile.
    let pid = screen.host();
    signal(pid, Signal::STOP);
    wait_for("the host to be stopped", || process_state(pid).filter(|state| *state == 'T'));
    let before = screen.text().len();
    signal(pid, Signal::CONT);
    screen.wait_for("a picture after it goes on", |text| {
        // `script` stops itself when its child was stopped; a shell would continue both.
        signal(screen.script.id(), Signal::CONT);
        let new = text.get(before..)?;
        new.contains("telemetry")
            .then(|| assert!(!new[..new.find("telemetry").unwrap()].contains("A\u{1b}[J"), "{new:?}"))
    });
    let text = screen.end();
    for switched in ["\u{1b}[?25l", "\u{1b}[?1049h", "\u{1b}[?1h"] {
        assert!(!text.contains(switched), "nothing is hidden or switched: {text:?}");
    }
    assert!(!text.contains("\u{1b}[1m"), "NO_COLOR is set");
    assert!(text.contains("INFO") && text.contains("stopped"), "the log stands above: {text}");
}

/// `marram run` on a pseudo-terminal of util-linux's `script`.
struct Terminal {
    script: Child,
    written: Arc<Mutex<Vec<u8>>>,
    reader: thread::JoinHandle<()>,
}

impl Terminal {
    fn run(device: &Device) -> Self {
        let (deployment, data) = (device.deployment_file(), device.data());
        let line = format!(
            "stty cols 80 rows 24; exec '{}' run '{}' --data '{}'",
            marram().display(),
            deployment.display(),
            data.display()
        );
        let mut script = Command::new("script")
            .args(["-qfec", &line, "/dev/null"])
            .envs([("TERM", "xterm"), ("NO_COLOR", "1"), ("MARRAM_CONFIG", "/dev/null"), ("SHELL", "/bin/sh")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (written, mut output) = (Arc::<Mutex<Vec<u8>>>::default(), script.stdout.take().unwrap());
        let all = written.clone();
        let reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                all.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Self { script, written, reader }
    }

    /// All that was written to it, without the carriage returns that a terminal adds.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).replace('\r', "")
    }

    #[track_caller]
    fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&str) -> Option<T>) -> T {
        wait_for(what, || look(&self.text()))
    }

    /// The process of the host: `script`'s child, which the shell has become.
    fn host(&self) -> u32 {
        let pid = self.script.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap()
    }

    fn resize(&self, columns: u16) {
        let terminal = fs::read_link(format!("/proc/{}/fd/1", self.host())).unwrap();
        let columns = columns.to_string();
        let _ = Answer::of(Command::new("stty").arg("-F").arg(terminal).args(["cols", &columns])).ok();
    }

    /// Ctrl-C; the host ends in order.
    fn end(mut self) -> String {
        self.script.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
        assert_eq!(self.script.wait().unwrap().code(), Some(0));
        self.reader.join().unwrap();
        String::from_utf8_lossy(&self.written.lock().unwrap()).replace('\r', "")
    }
}

/// The third field of /proc/PID/stat.
fn process_state(pid: u32) -> Option<char> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit(") ").next()?.chars().next()
}

fn interrupt(pid: u32) {
    signal(pid, Signal::INT);
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, signal).unwrap();
}
