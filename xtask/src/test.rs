//! `cargo xtask test`: everything a test needs, then all tests. The test runner's summary is the last that is printed.

use std::{path::PathBuf, process::Command};

use crate::{
    Result, guests, package, setup,
    shell::{cargo, run, say, target},
};

/// The cargo profile of tests and checks.
pub(crate) const PROFILE: &str = "ci";

/// Sets up, builds guests and host, runs the tests. `args` go to the test runner; with some, doc tests are left out.
pub(crate) fn test(choice: guests::Choice, args: &[String]) -> Result<()> {
    setup::for_tests(choice)?;
    let guests = guests::build(choice, &[])?;
    let preview1 = guests::build_preview1(choice)?;
    let marram = build_with_tests()?;
    if args.is_empty() {
        doc_tests()?;
    }
    let mut nextest = nextest();
    if let Some(deb) = package()? {
        nextest.env("MARRAM_DEB", deb);
    }
    say("test: cargo nextest run");
    run(nextest.args(args).env("MARRAM_BIN", marram).env("MARRAM_GUESTS", guests).env("MARRAM_PREVIEW1", preview1))
}

/// The package of the tests' binary; none on a machine that cannot make it, unless that is CI.
fn package() -> Result<Option<PathBuf>> {
    match package::package_for_tests() {
        Ok(deb) => Ok(Some(deb)),
        Err(why) if is_ci() => Err(why),
        Err(why) => {
            say(format!("test: the package's tests are left out: {why}"));
            Ok(None)
        }
    }
}

fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty())
}

/// Runs a guest of the fallback toolchain in the host: a test of such a guest, with that component.
pub(crate) fn run_by_fallback() -> Result<()> {
    let guests = guests::build_by_fallback("plain-program")?;
    let marram = build_with_tests()?;
    let one = ["-E", "package(marram-tests) and test(=what_a_program_prints_is_its_log)"];
    run(nextest().args(one).env("MARRAM_BIN", marram).env("MARRAM_GUESTS", guests))
}

/// The test runner over the whole workspace, which is built as one, see [`build_with_tests`].
pub(crate) fn nextest() -> Command {
    // cargo names the profile of its own output, nextest that of `.config/nextest.toml`.
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--workspace", "--cargo-profile", PROFILE]);
    if is_ci() {
        nextest.args(["--profile", "ci"]);
    }
    nextest
}

/// Builds all binaries and tests; returns the path of `marram`. In one call, because cargo unites the features of what it
/// builds together: the binary alone would have other features and compile half the dependencies once more.
pub(crate) fn build_with_tests() -> Result<PathBuf> {
    say(format!("building marram and its tests (profile {PROFILE})"));
    run(cargo().args(["build", "--quiet", "--workspace", "--bins", "--tests", "--profile", PROFILE]))?;
    Ok(target().join(PROFILE).join("marram"))
}

/// Builds the `marram` binary alone: quickly, or as devices get it. Returns its path.
pub(crate) fn build_marram(release: bool) -> Result<PathBuf> {
    let profile = if release { "release" } else { PROFILE };
    say(format!("building marram (profile {profile})"));
    run(cargo().args(["build", "--quiet", "--package", "marram-cli", "--bin", "marram", "--profile", profile]))?;
    Ok(target().join(profile).join("marram"))
}

fn doc_tests() -> Result<()> {
    say("test: doc tests");
    run(cargo().args(["test", "--quiet", "--workspace", "--doc", "--profile", PROFILE]))
}
