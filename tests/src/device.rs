//! A device: a temporary folder with the data of one host, which may be started, ended and started again.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    host::Host,
    journal::Journal,
    manifest::Manifest,
    program::{Answer, command_of, marram},
};

/// A flood of some seconds must not make the journal delete what a test wants to count.
const CONFIG: &str = "[upstream]\njournal-max-bytes = 4_000_000_000\njournal-files = 100\n";

/// The folder of one host. Must outlive the host.
pub struct Device {
    folder: TempDir,
    binary: PathBuf,
}

impl Default for Device {
    fn default() -> Self {
        Self::new()
    }
}

impl Device {
    /// An empty one.
    ///
    /// # Panics
    /// No temporary folder can be made.
    #[must_use]
    pub fn new() -> Self {
        Self::with_binary(&marram())
    }

    /// An empty one whose `marram` is this binary.
    ///
    /// # Panics
    /// No temporary folder can be made.
    #[must_use]
    pub fn with_binary(binary: &Path) -> Self {
        let device = Self { folder: tempfile::tempdir().expect("a temporary folder"), binary: binary.to_owned() };
        device.configure("");
        device
    }

    /// Writes the owner's settings: the usual ones, and these.
    ///
    /// # Panics
    /// They cannot be written.
    pub fn configure(&self, settings: &str) {
        fs::write(self.config_file(), format!("{CONFIG}{settings}")).expect("write the settings");
    }

    /// The host's data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The deployment file that [`Device::start`] writes.
    #[must_use]
    pub fn deployment_file(&self) -> PathBuf {
        self.path().join("deployment.json")
    }

    fn config_file(&self) -> PathBuf {
        self.path().join("marram.toml")
    }

    /// Sets `cache.max-bytes`, for hosts and commands that start from now on.
    ///
    /// # Panics
    /// The settings cannot be written.
    pub fn set_cache_cap(&self, bytes: u64) {
        fs::write(self.config_file(), format!("{CONFIG}[cache]\nmax-bytes = {bytes}\n")).expect("write the settings");
    }

    /// A `marram` command with this device's settings.
    fn command(&self) -> Command {
        let mut command = command_of(&self.binary);
        command.env("MARRAM_CONFIG", self.config_file());
        command
    }

    /// What went upstream.
    #[must_use]
    pub fn journal(&self) -> Journal {
        Journal::of(&self.data())
    }

    /// Writes the deployment file in place, as `cp` does.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write_deployment(&self, manifest: &Manifest) {
        fs::write(self.deployment_file(), manifest.to_json().to_string()).expect("write the deployment");
    }

    /// Replaces the deployment file by another, as editors do.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn replace_deployment(&self, text: &str) {
        let new = self.path().join("deployment.json.new");
        fs::write(&new, text).expect("write the deployment");
        fs::rename(new, self.deployment_file()).expect("rename the deployment");
    }

    /// `marram run FILE` with this manifest; returns when the host answers.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    #[track_caller]
    pub fn start(&self, manifest: &Manifest) -> Host {
        self.start_with(manifest, &["--log-format", "json"])
    }

    /// [`Device::start`] with further arguments.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    #[track_caller]
    pub fn start_with(&self, manifest: &Manifest, args: &[&str]) -> Host {
        self.write_deployment(manifest);
        self.run(self.command().arg("run").arg(self.deployment_file()).args(args))
    }

    /// `marram run` without a file, with further arguments: what is stored runs.
    ///
    /// # Panics
    /// It does not start.
    #[must_use]
    #[track_caller]
    pub fn start_stored(&self, args: &[&str]) -> Host {
        self.run(self.command().args(["run", "--log-format", "json"]).args(args))
    }

    #[track_caller]
    fn run(&self, command: &mut Command) -> Host {
        Host::start(command.arg("--data").arg(self.data()), self.path(), &self.data())
    }

    /// Runs a command of `marram` for this device to its end.
    #[must_use]
    pub fn marram<S: AsRef<OsStr>>(&self, args: &[S]) -> Answer {
        Answer::of(self.command().args(args).arg("--data").arg(self.data()))
    }

    /// `marram check` with this device's settings; it knows no data folder.
    #[must_use]
    pub fn check<S: AsRef<OsStr>>(&self, args: &[S]) -> Answer {
        Answer::of(self.command().arg("check").args(args))
    }

    /// [`Device::marram`] with a file as its standard input.
    #[must_use]
    pub fn marram_with_input<S: AsRef<OsStr>>(&self, args: &[S], input: fs::File) -> Answer {
        Answer::of(self.command().args(args).arg("--data").arg(self.data()).stdin(input))
    }

    /// Starts a command of `marram` for this device that goes on; what it answers can be read.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command();
        command.args(args).arg("--data").arg(self.data()).stdout(Stdio::piped());
        command.spawn().expect("marram starts")
    }

    /// `marram apply`; returns its answer.
    ///
    /// # Panics
    /// The manifest cannot be written.
    #[must_use]
    pub fn apply(&self, manifest: &Value) -> Answer {
        let file = self.path().join("applied.json");
        fs::write(&file, manifest.to_string()).expect("write the manifest");
        self.marram(&[OsStr::new("apply"), file.as_os_str()])
    }

    /// All files of the data folder; sockets are none.
    ///
    /// # Panics
    /// It cannot be read.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.data()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder of the data").flatten() {
                let path = entry.path();
                match fs::symlink_metadata(&path) {
                    Ok(meta) if meta.is_dir() => folders.push(path),
                    Ok(meta) if meta.is_file() => files.push(path),
                    _ => {}
                }
            }
        }
        files
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}
