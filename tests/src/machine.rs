//! A machine of its own: systemd as process 1 over a copy of this machine's files, in namespaces, without a network. What
//! is installed there is installed nowhere else. Needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    program::{Answer, Layout},
    wait::wait_for,
};

const BOOT: &str = include_str!("boot.sh");
/// The kernel takes back the groups of killed processes at its leisure.
const CLEAN_UP: Duration = Duration::from_secs(10);

/// A running machine; ended when dropped.
pub struct Machine {
    outer: Child,
    /// Its process 1, as this machine counts.
    init: u32,
    group: PathBuf,
    _folder: TempDir,
}

impl Machine {
    /// Boots one with the package of `MARRAM_DEB` in `/srv/marram.deb`. None, and a word about it, where the rights or the
    /// package are missing: `cargo xtask test` as root has both.
    ///
    /// # Panics
    /// It does not boot, or in CI it is left out.
    #[must_use]
    #[allow(clippy::print_stderr, reason = "a test that is left out says so")]
    pub fn boot() -> Option<Self> {
        let deb = std::env::var_os("MARRAM_DEB").map(PathBuf::from);
        let (Some(deb), true) = (deb, rustix::process::geteuid().is_root()) else {
            let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
            assert!(!is_ci, "CI is to test the package, as root, with MARRAM_DEB");
            eprintln!("left out: needs root, and the package of `cargo xtask test` in MARRAM_DEB");
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name = folder.path().file_name().unwrap_or_default();
        let group = cgroups().join(format!("marram-test{}", name.to_string_lossy()));
        fs::create_dir(&group).expect("a control group");
        let mut outer = Command::new("sh");
        // In a group of its own first: that is the root of all groups inside.
        outer.arg("-c").arg(
            "echo 0 >$0/cgroup.procs && exec unshare --mount --pid --fork --kill-child --uts --ipc --net --cgroup \
             sh -c \"$2\" boot \"$1\"",
        );
        outer.arg(&group).arg(folder.path()).arg(BOOT);
        let log = fs::File::create(folder.path().with_extension("log")).map_or(Stdio::null(), Stdio::from);
        outer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let outer = outer.spawn().expect("unshare starts");
        let mut machine = Self { outer, init: 0, group, _folder: folder };
        machine.init = wait_for("process 1", || machine.find_init());
        wait_for("systemd", || {
            let state = machine.run(&["systemctl", "is-system-running"]).out;
            ["running", "degraded"].contains(&state.trim()).then_some(())
        });
        fs::copy(deb, machine.file("/srv/marram.deb")).expect("copy the package");
        Some(machine)
    }

    /// The shell's child is `unshare`, whose child becomes systemd.
    fn find_init(&self) -> Option<u32> {
        let pid = self.outer.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let init = children.split_whitespace().next()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
        (name.trim() == "systemd").then_some(init)
    }

    /// Where a file of it can be reached from here.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Runs a command in it, as root.
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Answer {
        let mut command = Command::new("nsenter");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        command.arg("--target").arg(self.init.to_string());
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]).args(words);
        Answer::of(command.stdin(Stdio::null()))
    }

    /// Standard output of a command that succeeded.
    ///
    /// # Panics
    /// It failed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        self.run(words).ok().out.trim().to_owned()
    }

    /// Brings a layout to `/srv/layout`.
    ///
    /// # Panics
    /// It cannot be copied.
    pub fn bring(&self, layout: &Layout) {
        let to = self.file("/srv/layout");
        let _ = Answer::of(Command::new("cp").arg("-r").arg(layout.path()).arg(&to)).ok();
        let _ = Answer::of(Command::new("chmod").args(["-R", "a+rX"]).arg(&to)).ok();
    }

    /// `marram list`, of the host that runs as a service.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Value, Answer> {
        let answer = self.run(&["marram", "list", "--format", "json"]);
        if answer.code == Some(0) { Ok(answer.json()) } else { Err(answer) }
    }

    /// Waits until the only module is in a state; returns the host's whole status.
    ///
    /// # Panics
    /// It is not in time.
    #[track_caller]
    pub fn wait_for_module(&self, state: &str) -> Value {
        wait_for(&format!("the module to be {state}"), || {
            self.status().ok().filter(|status| status["modules"][0]["status"] == state)
        })
    }
}

/// Where the unified hierarchy is mounted.
fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").expect("the mounts");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    line.and_then(|line| line.split(' ').nth(1)).map(PathBuf::from).expect("control groups, version 2")
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.outer.kill(); // takes process 1 along, and that all others
        let _ = self.outer.wait();
        let start = Instant::now();
        while remove_groups(&self.group).is_err() && start.elapsed() < CLEAN_UP {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Groups are removed from below, and when their processes are gone.
fn remove_groups(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
