//! The chores of this repository: set-up, guests, tests, checks, demo, benches. `cargo xtask` lists them.
//!
//! Ships with nothing, is run by people and by `.ci/run`. Needs little more than the standard library, so that it
//! compiles in seconds on a machine that has nothing yet.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for a terminal: it prints")]

mod bench;
mod checks;
mod debian;
mod demo;
mod footprint;
mod fuzz;
mod guests;
mod package;
mod registry;
mod setup;
mod shell;
mod soak;
mod test;

use std::{env, process::ExitCode};

/// The message is for a person: what, where, what to try.
type Result<T> = std::result::Result<T, String>;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  demo [--release]        runs the main job on this machine: registry, host, two modules, a change, a summary
  test [ARGS...]          sets up, builds guests and host, runs all tests; ARGS go to `cargo nextest run`
  guests [NAME...]        builds the guests in guest-examples/ as WebAssembly components
  bench [--json] [NAME...] measures; NAME picks the figures that contain it
  soak [--json] [--release] [NAME...] runs the tests that take minutes; NAME picks those whose name contains it
  fuzz TARGET [--seconds N]
                          attacks what reads foreign bytes (route, condition, manifest, log) with libFuzzer
  package [--profile P | --binary FILE]
                          makes a Debian package of the host (profile release), or of a built one, in target/package
  footprint               builds both builds as devices get them, measures them, writes docs/footprint.md; takes long
  setup                   installs what is missing: guest toolchain, registry, test runner, checkers
  ci [SECTION...]         what .ci/run runs: format, licences, advisories, lints, device build, documentation, tests

`--force-fallback` (demo, test, guests, soak, setup, ci), or MARRAM_GUEST_TOOLCHAIN=debian in the environment, builds the
guests with the toolchain for machines whose rustup cannot download.";

fn main() -> ExitCode {
    let mut args: Vec<String> = env::args().skip(1).collect();
    let forced = take_flag(&mut args, "--force-fallback");
    let guests = guests::Choice::new(forced);
    let command = if args.is_empty() { "help".to_owned() } else { args.remove(0) };
    let result = match command.as_str() {
        "demo" => {
            let release = take_flag(&mut args, "--release");
            nothing_left(&args).and_then(|()| demo::demo(guests, release))
        }
        // `demo` starts itself so once it has built everything, see there.
        demo::SHOW => demo::show(&args),
        "test" => test::test(guests, &args),
        "guests" => guests::build(guests, &args).map(drop),
        "bench" => {
            let json = take_flag(&mut args, "--json");
            bench::bench(guests, &args, json)
        }
        "soak" => {
            let (json, release) = (take_flag(&mut args, "--json"), take_flag(&mut args, "--release"));
            soak::soak(guests, &args, json, release)
        }
        "fuzz" => {
            let seconds = take_value(&mut args, "--seconds");
            let name = if args.is_empty() { String::new() } else { args.remove(0) };
            nothing_left(&args).and_then(|()| fuzz::fuzz(&name, seconds.as_deref()))
        }
        "package" => {
            let (binary, profile) = (take_value(&mut args, "--binary"), take_value(&mut args, "--profile"));
            nothing_left(&args).and_then(|()| package::package(profile.as_deref(), binary.as_deref())).map(drop)
        }
        "footprint" => nothing_left(&args).and_then(|()| footprint::footprint(guests)),
        "setup" => nothing_left(&args).and_then(|()| setup::setup(guests)),
        "ci" => checks::ci(guests, &args),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(format!("unknown command `{other}`\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn take_flag(args: &mut Vec<String>, flag: &str) -> bool {
    let before = args.len();
    args.retain(|arg| arg != flag);
    args.len() < before
}

fn take_value(args: &mut Vec<String>, name: &str) -> Option<String> {
    let at = args.iter().position(|arg| arg == name).filter(|at| at + 1 < args.len())?;
    args.remove(at);
    Some(args.remove(at))
}

fn nothing_left(args: &[String]) -> Result<()> {
    match args.first() {
        None => Ok(()),
        Some(arg) => Err(format!("unexpected argument `{arg}`\n{USAGE}")),
    }
}
