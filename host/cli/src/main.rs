//! The `marram` binary: arguments, output, exit codes. The only crate that names every world; it joins them and decides
//! nothing about modules or messages.

mod absent;
mod access;
mod args;
mod ask;
mod cache;
mod check;
mod client;
mod colour;
#[cfg(feature = "compiler")]
mod compile;
#[cfg(feature = "author")]
mod completions;
#[cfg(feature = "author")]
mod componentize;
mod config;
mod dead_letters;
mod failure;
mod help;
mod history;
#[cfg(feature = "author")]
mod init;
mod input;
mod inspect;
mod logs;
#[cfg(feature = "author")]
mod man;
mod methods;
mod metrics;
mod output;
mod plan;
mod progress;
mod pull;
#[cfg(feature = "author")]
mod push;
mod queues;
mod route;
mod run;
mod state;
mod status;
mod traps;
mod twin_watch;
mod usage;
mod version;
#[cfg(feature = "author")]
mod wit;

use std::{ffi::OsString, process::ExitCode};

use clap::FromArgMatches;

use args::{Cli, Command, Format, Module, Route};
use failure::Failure;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    colour::choose(&words);
    let read = help::command().try_get_matches_from(&words).and_then(|matches| Cli::from_arg_matches(&matches));
    let (result, format) = match read {
        Ok(Cli { command, .. }) => {
            let format = command.format();
            (carry_out(command), format)
        }
        Err(error) => {
            let Some(failure) = usage::failure(&error) else {
                usage::show(&error);
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            };
            (Err(failure), if usage::wants_json(&words) { Format::Json } else { Format::Text })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure, format);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn carry_out(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(args),
        #[cfg(feature = "author")]
        Command::Init(args) => init::init(args),
        Command::Check(args) => check::check(args),
        Command::Apply(args) => ask::apply(args),
        Command::Plan(args) => plan::plan(&args),
        Command::History(args) => history::history(&args),
        Command::Rollback(args) => history::rollback(&args),
        Command::List(args) => ask::list(args),
        Command::Status(args) => status::status(&args),
        Command::Queues(args) => queues::queues(&args),
        Command::Metrics(args) => metrics::metrics(&args),
        Command::DeadLetters(args) => dead_letters::dead_letters(args),
        Command::Logs(args) => logs::logs(args),
        Command::Traps(args) => traps::traps(&args),
        Command::Restart(args) => ask::restart(args),
        Command::Twin(args) => ask::twin(args),
        Command::Method(args) => methods::methods(args),
        Command::Route(Route::Explain(args)) => route::explain(&args),
        Command::Route(Route::Eval) => route::eval(),
        #[cfg(feature = "author")]
        Command::Module(Module::Push(args)) => push::push(args),
        Command::Module(Module::Pull(args)) => pull::pull(args),
        Command::Module(Module::Inspect(args)) => inspect::inspect(args),
        Command::Cache(args) => cache::cache(args),
        Command::State(args) => state::state(args),
        #[cfg(feature = "author")]
        Command::Module(Module::Componentize(args)) => componentize::componentize(args),
        #[cfg(feature = "author")]
        Command::Completions(args) => completions::completions(&args),
        #[cfg(feature = "author")]
        Command::Man(args) => man::man(&args),
        Command::Version(args) => version::version(args),
        #[cfg(feature = "compiler")]
        Command::Compile(args) => compile::compile(args),
        #[cfg(feature = "compiler")]
        Command::CompileHelper(args) => compile_helper(&args),
        #[cfg(feature = "author")]
        Command::ComponentizeHelper(args) => componentize::helper(&args),
    }
}

/// Errors are talk, unless a script asked for JSON: then it reads one stream, whatever happens.
fn tell(failure: &Failure, format: Format) {
    match format {
        Format::Text => output::talk(&failure.to_text()),
        Format::Json if failure.is_told() => {}
        Format::Json => {
            let _ = output::data(&format!("{}\n", failure.to_json())); // the exit code still tells
        }
    }
}

/// The body of the engine's child process. Reads no settings and starts no runtime: it lives under limits.
#[cfg(feature = "compiler")]
fn compile_helper(args: &args::CompileHelper) -> Result<(), Failure> {
    marram_engine::compile_helper(&args.input, &args.output, args.profile, args.target)
        .map_err(|error| Failure::failed(&error))
}
