//! The demo's processes and folders, and what has been counted so far. Everything lies in `target/demo`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::journal::Journal;
use crate::{
    Result,
    registry::Registry,
    shell::{command, end, output, remove_folder, root, run_quietly, say, target, wait, write},
};

/// Modules stop within their grace time; a host that has not ended by then hangs.
const STOP_LIMIT: Duration = Duration::from_secs(30);

const CONFIG: &str = "marram.toml";

/// Why the acts did not come to their end.
pub(crate) enum Ended {
    /// The host ended.
    Stopped,
    /// Something was not as promised.
    Wrong(String),
}

/// A registry, a host and its journal.
pub(crate) struct Stage {
    marram: PathBuf,
    folder: PathBuf,
    host: Child,
    journal: Journal,
    /// Messages of the act that is on.
    count: usize,
    /// Acts that are over: what they showed, and how many messages arrived.
    acts: Vec<(String, usize)>,
    /// Held for its end: dropped after the host.
    _registry: Registry,
}

impl Stage {
    /// Starts a registry, pushes the modules, starts the host.
    pub(crate) fn set(marram: &Path, guests: &Path) -> Result<Self> {
        let folder = target().join("demo");
        remove_folder(&folder)?;
        // The machine's own settings must not change what is shown.
        write(&folder.join(CONFIG), "")?;
        let registry = Registry::start(&folder.join("registry"))?;
        say(format!("demo: a registry listens on {}", registry.address));
        for (file, name) in [("device_telemetry", "device-telemetry"), ("threshold_filter", "threshold-filter")] {
            let reference = format!("{}/{name}:demo", registry.address);
            say(format!("demo: marram module push {file}.wasm {reference}"));
            let wasm = guests.join(file).with_extension("wasm");
            run_quietly(program(marram, &folder).args(["module", "push"]).arg(wasm).arg(reference))?;
        }
        let template = root().join("guest-examples/demo/deployment.json");
        let text = fs::read_to_string(&template).map_err(|err| format!("cannot read {}: {err}", template.display()))?;
        let deployment = folder.join("deployment.json");
        write(&deployment, &text.replace("REGISTRY", &registry.address))?;
        let data = folder.join("data");
        say(format!("demo: marram run {} --data {}", deployment.display(), data.display()));
        let host = start(&mut program(marram, &folder), &deployment, &data, &folder.join("marram.log"))?;
        let journal = Journal::new(&data);
        let marram = marram.to_owned();
        Ok(Self { marram, folder, host, journal, count: 0, acts: Vec::new(), _registry: registry })
    }

    /// Shows messages as they arrive until one carries this alert.
    pub(crate) fn wait_for_alert(&mut self, alert: &str, limit: Duration) -> std::result::Result<(), Ended> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.show_new().iter().any(|seen| seen == alert) {
                return Ok(());
            }
            self.pause()?;
        }
        Err(Ended::Wrong(format!("no message `{alert}` arrived upstream within {} s", limit.as_secs())))
    }

    /// Shows messages as they arrive, for a while; returns how many did.
    pub(crate) fn watch(&mut self, time: Duration) -> std::result::Result<usize, Ended> {
        let (start, before) = (Instant::now(), self.count);
        while start.elapsed() < time {
            self.show_new();
            self.pause()?;
        }
        Ok(self.count - before)
    }

    /// Shows messages as they arrive until the host ends.
    pub(crate) fn watch_until_stopped(&mut self) {
        while self.pause().is_ok() {
            self.show_new();
        }
    }

    /// Closes the count of the act that is on.
    pub(crate) fn end_act(&mut self, what: &str) {
        self.acts.push((what.to_owned(), std::mem::take(&mut self.count)));
    }

    /// Patches the desired properties of a module's twin.
    pub(crate) fn change(&mut self, module: &str, patch: &str) -> std::result::Result<(), Ended> {
        self.tell(&["twin", "set", module, patch])
    }

    /// Gives the running host a command and shows its answer.
    pub(crate) fn tell(&mut self, args: &[&str]) -> std::result::Result<(), Ended> {
        say(format!("demo: marram {}", args.join(" ")));
        let answer = output(program(&self.marram, &self.folder).args(args).arg("--data").arg(self.folder.join("data")));
        answer.map(|text| print!("{text}")).map_err(Ended::Wrong)
    }

    /// A command to the running host as a person would type it at the top of the repository.
    pub(crate) fn command_line(&self, args: &str) -> String {
        let short = |path: &Path| path.strip_prefix(root()).unwrap_or(path).display().to_string();
        format!("{} {args} --data {}", short(&self.marram), short(&self.folder.join("data")))
    }

    /// The error for a person, with the end of the host's log.
    pub(crate) fn explain(&mut self, ended: Ended) -> String {
        let why = match ended {
            Ended::Wrong(why) => why,
            Ended::Stopped => "the host ended by itself".into(),
        };
        let log = self.folder.join("marram.log");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(15)..];
        format!("{why}\nthe end of {}:\n  {}", log.display(), last.join("\n  "))
    }

    /// Stops the host as a service manager would, and sums up.
    pub(crate) fn finish(mut self) -> Result<()> {
        if self.pause().is_ok() {
            say("demo: SIGTERM; the host stops its modules in order");
            run_quietly(command("sh").args(["-c", &format!("kill -TERM {}", self.host.id())]))?;
        }
        let good = wait(&mut self.host, STOP_LIMIT);
        self.show_new();
        self.end_act("while the host stopped");
        println!("\nmessages upstream");
        self.acts.iter().for_each(|(what, count)| println!("  {count:>4}  {what}"));
        println!("journal: {}", self.folder.join("data/upstream").display());
        match good {
            Some(true) => Ok(()),
            Some(false) => Err(self.explain(Ended::Wrong("the host ended with an error".into()))),
            None => Err(self.explain(Ended::Wrong(format!("the host did not end within {} s", STOP_LIMIT.as_secs())))),
        }
    }

    /// Shows what is new; returns the alerts.
    fn show_new(&mut self) -> Vec<String> {
        let entries = self.journal.read_on();
        self.count += entries.len();
        entries
            .into_iter()
            .map(|entry| {
                println!("{}", entry.shown);
                entry.alert
            })
            .collect()
    }

    fn pause(&mut self) -> std::result::Result<(), Ended> {
        if let Ok(None) = self.host.try_wait() {
            thread::sleep(Duration::from_millis(50));
            return Ok(());
        }
        Err(Ended::Stopped)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        end(&mut self.host);
    }
}

/// `marram` with the demo's settings.
fn program(marram: &Path, folder: &Path) -> Command {
    let mut program = command(marram);
    program.env("MARRAM_CONFIG", folder.join(CONFIG)).env_remove("MARRAM_DATA").env_remove("MARRAM_LOG");
    program
}

fn start(marram: &mut Command, deployment: &Path, data: &Path, log: &Path) -> Result<Child> {
    let cannot = |err| format!("cannot write {}: {err}", log.display());
    let file = fs::File::create(log).map_err(cannot)?;
    let same = file.try_clone().map_err(cannot)?;
    marram
        .arg("run")
        .arg(deployment)
        .arg("--data")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(same)
        .spawn()
        .map_err(|err| format!("cannot start marram: {err}"))
}
