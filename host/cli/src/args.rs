//! The command line: what can be written, and its help. Reads no file and decides nothing.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use marram_core::time::UtcMillis;

/// A module host for edge devices: runs WebAssembly components, routes their messages, supervises them.
#[derive(Debug, Parser)]
#[command(name = "marram", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = crate::help::exit_codes())]
pub(crate) struct Cli {
    /// Colours in what people read
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) color: crate::colour::When,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the host: the stored deployment, or DEPLOYMENT, which is watched for changes
    Run(Run),
    /// Write a commented marram.toml and a first deployment
    #[cfg(feature = "author")]
    Init(Init),
    /// Read a deployment manifest, or marram.toml, and report all its faults; starts nothing
    Check(Check),
    /// Give a deployment manifest to the running host
    Apply(Apply),
    /// Tell what would be done for a deployment, and why, without doing it
    Plan(Plan),
    /// List the deployments of the device, how each came and what became of it
    History(Ask),
    /// Put an earlier deployment in force again: the last good one
    Rollback(Rollback),
    /// List the modules of the running host
    List(Ask),
    /// Show what became of the deployment, and what each module does, in IoT Edge's words
    Status(Ask),
    /// List the queues: what waits, how old it is, what was given up and why
    Queues(Ask),
    /// Write the numbers of the running host for Prometheus
    Metrics(Metrics),
    /// Look at messages that were given up, send them again, forget them
    #[command(name = "deadletters", subcommand)]
    DeadLetters(DeadLetters),
    /// Show what a module has printed, and prints
    Logs(Logs),
    /// Show why instances of a module were ended by a trap, a limit or a deadline, and what they were doing
    Traps(Traps),
    /// Replace a module's instance by a new one
    Restart(Restart),
    /// Show or change a module's twin
    #[command(subcommand)]
    Twin(Twin),
    /// Call the methods of modules, and those of the host
    #[command(subcommand)]
    Method(Method),
    /// Show what routes do with a message, without a host
    #[command(subcommand)]
    Route(Route),
    /// Work with modules in registries
    #[command(subcommand)]
    Module(Module),
    /// Look at what is kept of images on this device, and make room
    #[command(subcommand)]
    Cache(Cache),
    /// Look at what modules keep on this device, and remove it
    #[command(subcommand)]
    State(State),
    /// Write a completion script for a shell
    #[cfg(feature = "author")]
    Completions(Completions),
    /// Write the manual pages
    #[cfg(feature = "author")]
    Man(Man),
    /// Show versions and features of this binary
    Version(Version),
    /// Compile components ahead of time, for devices without a compiler
    #[cfg(feature = "compiler")]
    Compile(Compile),
    /// Compile a component in this process; the host calls it
    #[cfg(feature = "compiler")]
    #[command(hide = true)]
    CompileHelper(CompileHelper),
    /// Make a component of a core module in this process; `module componentize` and `module push` call it
    #[cfg(feature = "author")]
    #[command(hide = true)]
    ComponentizeHelper(ComponentizeHelper),
}

/// Where settings and state lie.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Place {
    /// Settings of this device [default: marram.toml in ~/.config/marram, then in /etc/marram]
    #[arg(long, value_name = "FILE", env = "MARRAM_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Data folder [default: `data` of marram.toml, else /var/lib/marram for root, ~/.local/state/marram otherwise]
    #[arg(long, value_name = "DIR", env = "MARRAM_DATA", hide_env_values = true)]
    pub(crate) data: Option<PathBuf>,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON document; errors too, as `{"error": …}`
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Deployment manifest; without it the stored deployment runs, and `marram apply` replaces it
    pub(crate) deployment: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
    /// How long modules may take to stop before they are cut off, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub(crate) grace: u64,
    /// Write log lines even on a terminal, instead of the view
    #[arg(long)]
    pub(crate) plain: bool,
    /// Form of the log lines on standard error [default: journal under systemd, text otherwise]
    #[arg(long, value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    /// Least important log lines to write [default: info, or the filter in MARRAM_LOG]
    #[arg(long, value_enum)]
    pub(crate) log_level: Option<LogLevel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
    /// For systemd's journal: priorities in front, no times, which the journal has itself
    Journal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Deployment manifest, or settings when it ends in .toml; `-` reads a manifest from standard input
    pub(crate) file: PathBuf,
    /// Take warnings for faults
    #[arg(long)]
    pub(crate) strict: bool,
    /// Settings with the owner's ceilings [default: marram.toml in ~/.config/marram, then in /etc/marram]
    #[arg(long, value_name = "FILE", env = "MARRAM_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[cfg(feature = "author")]
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Folder for the files; made if it is not there
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) folder: PathBuf,
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// A question to the running host.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub(crate) place: Place,
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// Deployment manifest; `-` reads standard input
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Deployment manifest; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) deployment: PathBuf,
    /// What a runtime reports of its modules, in IoT Edge's words; `-` reads standard input [default: ask the running host]
    #[arg(long, value_name = "FILE")]
    pub(crate) observed: Option<PathBuf>,
    /// Plan as if it were this time, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) now: Option<UtcMillis>,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The deployment of this version, as `marram history` shows it, whatever became of it [default: the last good one]
    #[arg(long, value_name = "VERSION")]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Name of the module
    pub(crate) module: String,
    /// Only the last N lines [default: all that are kept]
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<usize>,
    /// Only lines since then: an age as `10m` or `2h 30m`, or a time as RFC 3339
    #[arg(long, value_name = "AGE|TIME", value_parser = since)]
    pub(crate) since: Option<SystemTime>,
    /// Go on with new lines, until Ctrl-C or the host's end; JSON is then one object a line
    #[arg(short, long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Traps {
    /// Name of the module
    pub(crate) module: String,
    /// Write the core dump that is kept of it to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) dump: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long, requires = "dump")]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// Name of the module
    pub(crate) module: String,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Twin {
    /// Show desired and reported properties
    Get {
        /// Name of the module
        module: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Change desired properties
    Set {
        /// Name of the module
        module: String,
        /// JSON merge patch: `null` removes a property; `-` reads standard input
        patch: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show the properties, and each change as it happens, until Ctrl-C or the host's end
    Watch {
        /// Name of the module
        module: String,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Method {
    /// Call a method and show its answer
    Invoke(Invoke),
}

#[derive(Debug, Args)]
pub(crate) struct Invoke {
    /// Name of the module, or `$edgeAgent` for the host's own methods
    pub(crate) module: String,
    /// Name of the method
    pub(crate) name: String,
    /// JSON; `-` reads standard input [default: null]
    #[arg(allow_negative_numbers = true)]
    pub(crate) payload: Option<String>,
    /// How long to wait for the answer, from when the module runs, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(5..=300))]
    pub(crate) timeout: u64,
    /// How long to wait for the module to run, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=300))]
    pub(crate) connect_timeout: u64,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Route {
    /// Tell which routes of a deployment take a message, and why the others do not
    Explain(Explain),
    /// Answer JSON lines of standard input: conditions with messages, routes, patterns with sources
    Eval,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Deployment manifest; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) deployment: PathBuf,
    /// Source of the message, as `/messages/modules/MODULE/outputs/OUTPUT`
    #[arg(long, value_name = "SOURCE")]
    pub(crate) source: String,
    /// The message: `{"properties": {}, "systemProperties": {}, "body": any JSON}`; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) message: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Module {
    /// Store a component in a registry (HOST/REPOSITORY:TAG) or in an image-layout folder (oci:FOLDER:TAG)
    #[cfg(feature = "author")]
    Push(Push),
    /// Fetch a component from a registry or an image-layout folder into a file, all digests checked
    Pull(Pull),
    /// Show what a component is, imports and exports: a .wasm file, an image-layout folder or a registry
    Inspect(Inspect),
    /// Make a component of a core module: one for WASI preview 1 (wasm32-wasip1), or one made with wit-bindgen
    #[cfg(feature = "author")]
    Componentize(Componentize),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List them, oldest first
    List(Ask),
    /// Show one with its properties and its body
    Show {
        /// Its number in the list
        #[arg(value_name = "ID")]
        id: u64,
        #[command(flatten)]
        ask: Ask,
    },
    /// Send them to their receivers again
    Replay(Letters),
    /// Forget them
    Purge(Letters),
}

/// Which dead letters.
#[derive(Debug, Args)]
pub(crate) struct Letters {
    /// Their numbers in the list
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<u64>,
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// List the components that are kept, with their machine code
    List(Ask),
    /// Remove what no module needs, those used longest ago first, until the rest fits `cache.max-bytes`
    Prune(Prune),
}

#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Remove everything that no module needs
    #[arg(long, group = "goal")]
    pub(crate) all: bool,
    /// Remove what was used last longer ago than this: `30d`, `12h`
    #[arg(long, value_name = "AGE", group = "goal", value_parser = humantime::parse_duration)]
    pub(crate) older_than: Option<Duration>,
    /// Remove until the rest has at most so many bytes: `500000`, `64KiB`, `100MiB`, `1GiB`
    #[arg(long, value_name = "BYTES", group = "goal", value_parser = byte_count)]
    pub(crate) to: Option<u64>,
    /// Only tell what would be removed
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum State {
    /// List the modules that keep state
    List(Ask),
    /// Remove all that a module keeps, while it does not run
    Remove(RemoveState),
}

#[derive(Debug, Args)]
pub(crate) struct RemoveState {
    /// The module; deployed or not
    pub(crate) module: String,
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// As whom and how a registry is asked.
#[derive(Debug, Args)]
pub(crate) struct Access {
    /// User at the registry [default: the credentials of marram.toml, then of Docker]
    #[arg(long, value_name = "USER", requires = "password_stdin")]
    pub(crate) username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    pub(crate) password_stdin: bool,
    /// Speak HTTP without TLS to this registry; loopback needs no such word
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Settings of this device [default: marram.toml in ~/.config/marram, then in /etc/marram]
    #[arg(long, value_name = "FILE", env = "MARRAM_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
}

#[cfg(feature = "author")]
#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The component; a core module is made a component first, as by `componentize`
    pub(crate) file: PathBuf,
    /// Where to
    pub(crate) reference: String,
    #[command(flatten)]
    pub(crate) access: Access,
    /// Creation time to write, RFC 3339 in UTC; the same one gives the same digest [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) created: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Where from: HOST/REPOSITORY:TAG, with or without @sha256:…, or oci:FOLDER:TAG
    pub(crate) reference: String,
    /// The file to write
    pub(crate) file: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) access: Access,
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A file, or a reference as `pull` takes it; what ends in .wasm, or starts with / or ., is a file
    #[arg(value_name = "FILE|REFERENCE")]
    pub(crate) subject: String,
    /// Write its imports and exports with all their types, as WIT
    #[arg(long)]
    pub(crate) wit: bool,
    #[command(flatten)]
    pub(crate) access: Access,
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[cfg(feature = "author")]
#[derive(Debug, Args)]
pub(crate) struct Componentize {
    /// The core module
    pub(crate) input: PathBuf,
    /// The component to write
    pub(crate) output: PathBuf,
    /// What the component is to be
    #[arg(long, value_enum, default_value_t)]
    pub(crate) adapter: AdapterChoice,
    /// Replace the output file if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// What a core module is made into.
#[cfg(feature = "author")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum AdapterChoice {
    /// A program if it exports `_start`, handlers otherwise
    #[default]
    Auto,
    /// A program: runs `_start`
    Command,
    /// Handlers, as its bindings say
    Reactor,
}

#[cfg(feature = "author")]
impl AdapterChoice {
    /// As it is written on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Command => "command",
            Self::Reactor => "reactor",
        }
    }
}

#[cfg(feature = "author")]
#[derive(Debug, Args)]
pub(crate) struct ComponentizeHelper {
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
    #[arg(value_enum)]
    pub(crate) adapter: AdapterChoice,
}

#[derive(Debug, Args)]
pub(crate) struct Version {
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[cfg(feature = "compiler")]
#[derive(Debug, Args)]
pub(crate) struct CompileHelper {
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
    pub(crate) profile: marram_engine::Profile,
    /// Without it: for this machine's very processor
    pub(crate) target: Option<marram_engine::Target>,
}

#[cfg(feature = "compiler")]
#[derive(Debug, Args)]
pub(crate) struct Compile {
    /// Components: .wasm files, references as `module pull` takes them, or both
    #[arg(value_name = "FILE|REFERENCE", required = true)]
    pub(crate) subjects: Vec<String>,
    /// Folder for the code and its records; made if absent
    #[arg(short, long, value_name = "FOLDER")]
    pub(crate) output: PathBuf,
    /// Machine that the code is for, as x86_64-linux, aarch64-linux or a target triple; may be repeated [default: this
    /// machine's kind]
    #[arg(long, value_name = "TARGET")]
    pub(crate) target: Vec<marram_engine::Target>,
    /// `engine.profile` of the hosts that will run it: wide or narrow
    #[arg(long, value_name = "PROFILE", default_value_t)]
    pub(crate) profile: marram_engine::Profile,
    #[command(flatten)]
    pub(crate) access: Access,
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[cfg(feature = "author")]
#[derive(Debug, Args)]
pub(crate) struct Completions {
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[cfg(feature = "author")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[cfg(feature = "author")]
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder that gets one page a command, marram.1 and so on; made if it is not there [default: marram.1 to standard
    /// output]
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

/// A number of bytes, with or without a binary unit.
fn byte_count(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0)];
    let unit = UNITS.into_iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    let number = digits.trim_end().parse::<u64>().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| "expected a number of bytes as `500000` or `64MiB`".to_owned())
}

fn time(text: &str) -> Result<UtcMillis, String> {
    UtcMillis::parse(text).ok_or_else(|| "expected a time as `2026-01-31T12:00:00Z`".to_owned())
}

/// An age before now, or a time.
fn since(text: &str) -> Result<SystemTime, String> {
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time);
    }
    let age: Duration = humantime::parse_duration(text)
        .map_err(|_| "expected an age as `10m` or `2h 30m`, or a time as `2026-01-31T12:00:00Z`")?;
    Ok(SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH))
}

impl Command {
    /// How errors of this command are written.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Run(_) | Self::Metrics(_) | Self::Route(Route::Eval) => Format::Text,
            #[cfg(feature = "author")]
            Self::Init(Init { format, .. }) => *format,
            #[cfg(feature = "author")]
            Self::Completions(_) | Self::Man(_) => Format::Text,
            #[cfg(feature = "compiler")]
            Self::CompileHelper(_) => Format::Text,
            #[cfg(feature = "compiler")]
            Self::Compile(Compile { format, .. }) => *format,
            Self::Check(Check { format, .. }) | Self::Version(Version { format }) => *format,
            Self::Route(Route::Explain(Explain { format, .. })) => *format,
            Self::Queues(ask)
            | Self::DeadLetters(
                DeadLetters::List(ask)
                | DeadLetters::Show { ask, .. }
                | DeadLetters::Replay(Letters { ask, .. })
                | DeadLetters::Purge(Letters { ask, .. }),
            ) => ask.format,
            Self::List(ask) | Self::Cache(Cache::List(ask) | Cache::Prune(Prune { ask, .. })) => ask.format,
            Self::State(State::List(ask) | State::Remove(RemoveState { ask, .. })) => ask.format,
            Self::History(ask)
            | Self::Status(ask)
            | Self::Traps(Traps { ask, .. })
            | Self::Rollback(Rollback { ask, .. })
            | Self::Plan(Plan { ask, .. })
            | Self::Apply(Apply { ask, .. })
            | Self::Logs(Logs { ask, .. })
            | Self::Restart(Restart { ask, .. }) => ask.format,
            Self::Method(Method::Invoke(Invoke { ask, .. })) => ask.format,
            Self::Twin(Twin::Get { ask, .. } | Twin::Set { ask, .. } | Twin::Watch { ask, .. }) => ask.format,
            #[cfg(feature = "author")]
            Self::Module(Module::Push(Push { format, .. }) | Module::Componentize(Componentize { format, .. })) => {
                *format
            }
            Self::Module(Module::Pull(Pull { format, .. }) | Module::Inspect(Inspect { format, .. })) => *format,
            #[cfg(feature = "author")]
            Self::ComponentizeHelper(_) => Format::Json,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_may_have_a_unit() {
        for (text, bytes) in
            [("0", 0), ("500000", 500_000), ("3B", 3), ("64KiB", 64 << 10), ("2 MiB", 2 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(byte_count(text), Ok(bytes));
        }
        for bad in ["", "MiB", "-1", "1.5MiB", "1MB", "99999999999GiB"] {
            assert!(byte_count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        crate::help::command().debug_assert();
    }
}
