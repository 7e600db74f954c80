//! A running host: a process, its log on standard error, and its control socket. Asked as other programs would ask it.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;

use crate::wait::wait_for;

/// Lines of the host's log that are shown when a test fails.
const SHOWN: usize = 40;
/// Longest answer time of the control socket.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// A host; killed when dropped.
pub struct Host {
    child: RefCell<Child>,
    socket: PathBuf,
    log: PathBuf,
}

impl Host {
    /// Starts the command; its log goes into a file in `folder`. Returns when it answers.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub(crate) fn start(command: &mut Command, folder: &Path, data: &Path) -> Self {
        let log = (1..).map(|n| folder.join(format!("log-{n}"))).find(|path| !path.exists());
        let log = log.unwrap_or_else(|| unreachable!("numbers do not end"));
        let file = File::create(&log).expect("create the log");
        let child = command.stdout(Stdio::null()).stderr(file).spawn().expect("marram starts");
        let host = Self { child: RefCell::new(child), socket: data.join("marram.sock"), log };
        host.wait("the control socket", |host| host.get("/v1/status").ok().map(drop));
        host
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.borrow().id()
    }

    /// Looks until there is something; fails at once when the host ends meanwhile.
    ///
    /// # Panics
    /// Nothing comes in time, or the host ends.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        wait_for(what, || {
            let ended = self.child.borrow_mut().try_wait().expect("the host's state");
            assert!(ended.is_none(), "the host ended ({ended:?}) while the test waited for {what}");
            look(self)
        })
    }

    // ---- what it tells ----

    /// `GET` of its control API.
    ///
    /// # Errors
    /// The socket cannot be reached, or the answer is none of success.
    pub fn get(&self, path: &str) -> io::Result<Value> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: marram\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(answer));
        }
        serde_json::from_str(body).map_err(io::Error::other)
    }

    /// Everything that `marram list` shows.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> Value {
        self.get("/v1/status").expect("the host's status")
    }

    /// One module's part of the status; null when there is no such module.
    #[must_use]
    #[track_caller]
    pub fn module(&self, name: &str) -> Value {
        let status = self.status();
        let modules = status["modules"].as_array().into_iter().flatten();
        modules.into_iter().find(|module| module["name"] == name).cloned().unwrap_or_default()
    }

    /// The deployments that it remembers, the newest first.
    ///
    /// # Panics
    /// It does not answer.
    #[must_use]
    #[track_caller]
    pub fn deployments(&self) -> Vec<Value> {
        self.get("/v1/history").expect("the history")["deployments"].as_array().expect("a list").clone()
    }

    /// Waits until this became of a deployment; returns its entry.
    ///
    /// # Panics
    /// It is not in time.
    #[track_caller]
    pub fn wait_for_outcome(&self, version: u64, outcome: &str) -> Value {
        self.wait(&format!("deployment {version} to be {outcome}"), |host| {
            host.deployments().into_iter().find(|it| it["version"] == version && it["outcome"] == outcome)
        })
    }

    /// Waits until module `m`, a `plain_program`, runs with this in its environment as `VALUE`.
    ///
    /// # Panics
    /// It is not in time.
    #[track_caller]
    pub fn wait_for_value(&self, value: &str) {
        let line = format!("plain-program: env VALUE={value}");
        self.wait(&format!("an instance with {value}"), |host| {
            let last = host.logs("m").into_iter().rfind(|text| text.contains("env VALUE="));
            (last.as_ref() == Some(&line) && host.module("m")["status"] == "running").then_some(())
        });
    }

    /// Waits until a module is in a state; returns its part of the status.
    ///
    /// # Panics
    /// It is not in time; the message has its last status.
    #[track_caller]
    pub fn wait_for_status(&self, module: &str, status: &str) -> Value {
        self.wait_for_module(module, &format!("to be `{status}`"), |now| now["status"] == status)
    }

    /// Waits until a module's status is as wanted; returns it.
    ///
    /// # Panics
    /// It is not in time; the message has its last status.
    #[track_caller]
    pub fn wait_for_module(&self, module: &str, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let mut shown = Value::Null;
        self.wait(&format!("module {module} {what}"), |host| {
            let now = host.module(module);
            let plain = now["status"].clone();
            if plain != shown {
                eprint_line(&format!("module {module}: {now}"));
                shown = plain;
            }
            wanted(&now).then_some(now)
        })
    }

    /// A queue's part of the status; null when there is none.
    #[must_use]
    #[track_caller]
    pub fn queue(&self, endpoint: &str) -> Value {
        let status = self.status();
        let queues = status["queues"].as_array().into_iter().flatten();
        queues.into_iter().find(|queue| queue["endpoint"] == endpoint).cloned().unwrap_or_default()
    }

    /// A module's twin: `desired`, `desiredVersion`, `desiredOrigin`, `reported`, `reportedVersion`.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    #[track_caller]
    pub fn twin(&self, module: &str) -> Value {
        self.get(&format!("/v1/modules/{module}/twin")).expect("the module's twin")
    }

    /// Waits until a reported property is there (and true to `wanted`); returns it.
    ///
    /// # Panics
    /// It is not in time.
    #[track_caller]
    pub fn wait_for_reported(&self, module: &str, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait(&format!("reported property {name} of {module}"), |host| {
            // The module may not be deployed yet.
            let value = host.get(&format!("/v1/modules/{module}/twin")).ok()?["reported"][name].clone();
            (!value.is_null() && wanted(&value)).then_some(value)
        })
    }

    /// What a module has printed.
    ///
    /// # Panics
    /// There is no such module.
    #[must_use]
    #[track_caller]
    pub fn logs(&self, module: &str) -> Vec<String> {
        let lines = self.get(&format!("/v1/modules/{module}/logs")).expect("the module's log");
        let lines = lines.as_array().cloned().unwrap_or_default();
        lines.iter().map(|line| line["text"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Its own log so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    // ---- what it takes ----

    /// Most bytes of memory that were resident at once since its start (`VmHWM`; its compiling children not counted).
    ///
    /// # Panics
    /// It has ended.
    #[must_use]
    pub fn peak_resident_bytes(&self) -> u64 {
        self.proc_status("VmHWM:")
    }

    /// Bytes of memory that are resident now (`VmRSS`).
    ///
    /// # Panics
    /// It has ended.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.proc_status("VmRSS:")
    }

    fn proc_status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the host runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field of /proc/PID/status");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB") * 1024
    }

    // ---- its end ----

    /// Sends a signal.
    ///
    /// # Panics
    /// It cannot be sent.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// It does not in time.
    #[track_caller]
    pub fn wait_for_exit(&self) -> ExitStatus {
        wait_for("the host to end", || self.child.borrow_mut().try_wait().expect("the host's state"))
    }

    /// SIGTERM, and its exit code is 0.
    ///
    /// # Panics
    /// It does not end so.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::TERM);
        let status = self.wait_for_exit();
        assert_eq!(status.code(), Some(0), "{status:?}");
    }

    /// SIGKILL: as a crash, or a loss of power but for the disk's cache.
    #[track_caller]
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        let _ = self.wait_for_exit();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(SHOWN)..];
            eprint_line(&format!("the end of the host's log:\n  {}", last.join("\n  ")));
        }
    }
}

/// The test runner shows it when the test fails.
fn eprint_line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
