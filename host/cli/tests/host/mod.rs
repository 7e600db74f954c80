//! A host process under test: started in a temporary folder, asked by further processes, ended with the test.

#![allow(clippy::unwrap_used)] // tests

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

/// A machine under load starts a process within this time; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, without the settings of whoever runs the tests.
pub(crate) fn marram() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marram"));
    for name in ["MARRAM_CONFIG", "MARRAM_DATA", "MARRAM_LOG"] {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null());
    command
}

/// A folder with a short path: a socket must fit.
pub(crate) fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("mrm").tempdir_in("/tmp").unwrap()
}

/// A running host.
pub(crate) struct Host {
    folder: TempDir,
    child: Child,
    log: Arc<Log>,
    arguments: Vec<String>,
    with_file: bool,
}

#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Host {
    /// Starts a host and waits until it answers.
    pub(crate) fn start(deployment: Option<&str>, arguments: &[&str]) -> Self {
        let folder = scratch();
        if let Some(text) = deployment {
            std::fs::write(folder.path().join("deployment.json"), text).unwrap();
        }
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self::start_in(folder, deployment.is_some(), arguments)
    }

    fn start_in(folder: TempDir, with_file: bool, arguments: Vec<String>) -> Self {
        let mut command = marram();
        command.arg("run").args(&arguments).arg("--data").arg(folder.path().join("data"));
        if with_file {
            command.arg(folder.path().join("deployment.json"));
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let (writer, stderr) = (log.clone(), child.stderr.take().unwrap());
        std::thread::spawn(move || writer.follow(BufReader::new(stderr)));
        let host = Self { folder, child, log, arguments, with_file };
        host.wait_for_log("host is up");
        host
    }

    /// Stops it and starts another one on the same folder.
    pub(crate) fn restart(mut self) -> Self {
        self.signal("TERM");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let folder = std::mem::replace(&mut self.folder, scratch());
        Self::start_in(folder, self.with_file, self.arguments.clone())
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("deployment.json")
    }

    /// The first log line with this text, waiting for it.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        let state = self.log.lines.lock().unwrap();
        let find = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        let (state, _) = self
            .log
            .changed
            .wait_timeout_while(state, PATIENCE, |(lines, ended)| find(lines).is_none() && !*ended)
            .unwrap();
        find(&state.0).unwrap_or_else(|| panic!("no log line with {text:?}:\n{}", state.0.join("\n")))
    }

    /// All log lines so far.
    pub(crate) fn log(&self) -> String {
        self.log.lines.lock().unwrap().0.join("\n")
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        self.ask_with(arguments, "")
    }

    pub(crate) fn ask_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = marram();
        command.args(arguments).arg("--data").arg(self.data());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--format", "json"]).collect();
        let output = self.ask(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// SIGTERM, then [`Host::wait`].
    pub(crate) fn stop(self) -> Option<i32> {
        self.signal("TERM");
        self.wait()
    }

    /// Waits for its end; its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        let code = self.child.wait().unwrap().code();
        assert!(!self.socket().exists(), "the socket is left behind");
        code
    }

    fn socket(&self) -> PathBuf {
        Path::new(&self.data()).join("marram.sock")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended in a good test
        let _ = self.child.wait();
    }
}

impl Log {
    fn follow(&self, lines: impl BufRead) {
        for line in lines.lines().map_while(Result::ok) {
            self.lines.lock().unwrap().0.push(line);
            self.changed.notify_all();
        }
        self.lines.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}
