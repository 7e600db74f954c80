//! Builds the guests, with rustup's target where rustup has it and with Debian's compiler otherwise.

use std::{env, fs, path::PathBuf, process::Command, time::Duration};

use crate::{
    Result, debian,
    shell::{cargo, command, make_folder, output, root, run, run_quietly, run_within, say, tools, write},
};

/// What guests are compiled for: components of WASI 0.2.
pub(crate) const TARGET: &str = "wasm32-wasip2";

/// What some are compiled for once more: core modules of WASI preview 1, to test what makes components of such.
pub(crate) const PREVIEW1_TARGET: &str = "wasm32-wasip1";

/// Both, with the standard library.
pub(crate) const TARGETS: [&str; 2] = [TARGET, PREVIEW1_TARGET];

/// `rustup target add` takes seconds. One that has not finished by then has no network and would wait for long.
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);

/// Which toolchain the caller wants.
#[derive(Clone, Copy)]
pub(crate) enum Choice {
    /// rustup's where it works, the fallback otherwise.
    Best,
    /// The fallback, also where rustup works: so that it is tested.
    Fallback,
}

impl Choice {
    /// From the switch, or `MARRAM_GUEST_TOOLCHAIN=debian` in the environment.
    pub(crate) fn new(force_fallback: bool) -> Self {
        let asked = env::var_os("MARRAM_GUEST_TOOLCHAIN").is_some_and(|value| value == "debian");
        if force_fallback || asked { Self::Fallback } else { Self::Best }
    }
}

/// A toolchain that is ready.
pub(crate) enum Toolchain {
    /// The machine's own.
    Rustup,
    /// Another compiler under the machine's cargo.
    Debian {
        /// The compiler, for `RUSTC`.
        rustc: PathBuf,
    },
}

/// Makes a toolchain ready, or finds it so.
pub(crate) fn toolchain(choice: Choice) -> Result<Toolchain> {
    if let Choice::Best = choice {
        match rustup() {
            Ok(()) => return Ok(Toolchain::Rustup),
            Err(why) => say(format!("setup: rustup lacks {} ({}); taking Debian's", TARGETS.join(" or "), why.trim())),
        }
    }
    debian::toolchain().map(|rustc| Toolchain::Debian { rustc })
}

/// Builds guests by folder name, or all; returns the folder of the components.
pub(crate) fn build(choice: Choice, names: &[String]) -> Result<PathBuf> {
    let mut cargo = build_command(&toolchain(choice)?);
    build_args(&mut cargo);
    for name in names {
        cargo.args(["--package", name]);
    }
    say("guests: building");
    run(&mut cargo)?;
    Ok(folder())
}

/// Builds a program and a handler as core modules of WASI preview 1; returns the folder of the modules.
pub(crate) fn build_preview1(choice: Choice) -> Result<PathBuf> {
    let mut cargo = build_command(&toolchain(choice)?);
    build_args(cargo.env("CARGO_BUILD_TARGET", PREVIEW1_TARGET));
    say("guests: building core modules");
    run(cargo.args(["--package", "plain-program", "--package", "device-telemetry"]))?;
    Ok(target().join(PREVIEW1_TARGET).join("release"))
}

/// cargo in the guests' workspace, for the guests' target, with this toolchain.
pub(crate) fn build_command(toolchain: &Toolchain) -> Command {
    let mut cargo = cargo();
    cargo.current_dir(root().join("guest-examples"));
    // The host's own settings are not the guests'.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("RUSTC_WRAPPER");
    cargo.env("CARGO_TARGET_DIR", target()).env("CARGO_BUILD_TARGET", TARGET);
    if let Toolchain::Debian { rustc } = toolchain {
        cargo.env("RUSTC", rustc);
    }
    cargo
}

/// What every build of guests says. Debian's compiler is older than what the guests ask of rustup's; whether it can build
/// them is seen when it does.
fn build_args(cargo: &mut Command) -> &mut Command {
    cargo.args(["build", "--quiet", "--release", "--locked", "--ignore-rust-version"])
}

/// Builds all guests with the fallback toolchain, apart from the others; returns the folder of the components.
pub(crate) fn build_by_fallback() -> Result<PathBuf> {
    let apart = target().join("fallback");
    let mut cargo = build_command(&toolchain(Choice::Fallback)?);
    cargo.env("CARGO_TARGET_DIR", &apart);
    say("guests: building with the fallback toolchain");
    run(build_args(&mut cargo))?;
    Ok(apart.join(TARGET).join("release"))
}

/// Where the components are.
pub(crate) fn folder() -> PathBuf {
    target().join(TARGET).join("release")
}

fn target() -> PathBuf {
    root().join("guest-examples/target")
}

/// rustup's targets, added when one is missing. They count when they compile a program: a machine that cannot download
/// may know the name of a target only.
fn rustup() -> Result<()> {
    let version = output(command("rustc").arg("-vV"))?;
    let stamp = tools().join("rustup-wasi-targets");
    let are_installed = || TARGETS.iter().all(|target| installed(target).is_ok());
    if are_installed() && fs::read_to_string(&stamp).is_ok_and(|text| text == version) {
        return Ok(());
    }
    if !are_installed() {
        say(format!("setup: rustup target add {}", TARGETS.join(" ")));
        run_within(command("rustup").args(["target", "add"]).args(TARGETS), RUSTUP_LIMIT)?;
    }
    TARGETS.iter().try_for_each(|target| compiles(target))?;
    write(&stamp, &version)
}

/// Whether the standard library for the target lies where rustc looks for it.
fn installed(target: &str) -> Result<()> {
    let folder = output(command("rustc").args(["--print", "target-libdir", "--target", target]))?;
    let mut entries = fs::read_dir(folder.trim()).map_err(|err| err.to_string())?;
    let found =
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")));
    if found { Ok(()) } else { Err("its standard library is missing".into()) }
}

fn compiles(target: &str) -> Result<()> {
    let folder = tools().join("probe");
    make_folder(&folder)?;
    let source = folder.join("probe.rs");
    write(&source, "fn main() { println!(\"{:?}\", std::env::args()); }")?;
    run_quietly(command("rustc").args(["--target", target, "-o"]).arg(folder.join("probe.wasm")).arg(&source))
}
