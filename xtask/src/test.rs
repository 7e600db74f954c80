//! `cargo xtask test`: everything a test needs, then all tests. The test runner's summary is the last that is printed.

use std::{fs, path::PathBuf, process::Command};

use crate::{
    Result, guests, package, setup,
    shell::{cargo, make_folder, run, say, target},
};

/// The cargo profile of tests and checks.
pub(crate) const PROFILE: &str = "ci";

/// Sets up, builds guests and host, runs the tests. `args` go to the test runner; with some, doc tests are left out.
pub(crate) fn test(choice: guests::Choice, args: &[String]) -> Result<()> {
    setup::for_tests(choice)?;
    let guests = guests::build(choice, &[])?;
    let preview1 = guests::build_preview1(choice)?;
    let device = if wants_device_build(args) { Some(build_for_devices()?) } else { None };
    let marram = build_with_tests()?;
    if args.is_empty() {
        doc_tests()?;
    }
    let mut nextest = nextest(None);
    if let Some(deb) = package()? {
        nextest.env("MARRAM_DEB", deb);
    }
    say("test: cargo nextest run");
    nextest.envs(device.map(|path| ("MARRAM_DEVICE_BIN", path)));
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

/// Whether the tests of the device build may be among those that `args` pick. It is a second build of half the
/// dependencies, which a run of some other test need not wait for.
fn wants_device_build(args: &[String]) -> bool {
    let is_name = |arg: &String| !arg.starts_with('-') && !arg.contains("marram-tests") && !arg.contains('(');
    !args.last().is_some_and(is_name) || args.iter().any(|arg| arg.contains("device"))
}

/// Runs the guests of the fallback toolchain in the host: tests that between them start each guest but the benches'
/// own, with those components.
pub(crate) fn run_by_fallback() -> Result<()> {
    setup::for_tests(guests::Choice::Best)?;
    let guests = guests::build_by_fallback()?;
    let marram = build_with_tests()?;
    let tests = ["-E", BY_FALLBACK, "--no-fail-fast"];
    run(nextest(None).args(tests).env("MARRAM_BIN", marram).env("MARRAM_GUESTS", guests))
}

/// The tests that the guests of the fallback toolchain must pass too.
const BY_FALLBACK: &str = "package(marram-tests) and \
    binary(/^(adapters|conditions|first_module|inbox|main_job|misbehaviour|programs|stopping)$/)";

/// The test runner over the whole workspace, which is built as one, see [`build_with_tests`].
pub(crate) fn nextest(profile: Option<&str>) -> Command {
    // cargo names the profile of its own output, nextest that of `.config/nextest.toml`.
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--workspace", "--cargo-profile", PROFILE]);
    if let Some(profile) = profile.or_else(|| is_ci().then_some("ci")) {
        nextest.args(["--profile", profile]);
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

/// Builds the `marram` binary for devices; returns its path. It lies apart, for the build of everything that follows puts
/// another one under the usual name. Its own crates have other features and are built twice; what they have in common is
/// shared.
fn build_for_devices() -> Result<PathBuf> {
    say(format!("building marram for devices (profile {PROFILE})"));
    let args = ["build", "--quiet", "--locked", "--package", "marram-cli", "--bin", "marram", "--profile", PROFILE];
    run(cargo().args(args).args(DEVICE_FEATURES))?;
    let folder = target().join(PROFILE).join("device");
    make_folder(&folder)?;
    let path = folder.join("marram");
    // By a rename: a host of an earlier run may still have the old file open.
    let new = folder.join("marram.new");
    let copied = fs::copy(target().join(PROFILE).join("marram"), &new).and_then(|_| fs::rename(&new, &path));
    copied.map_err(|err| format!("cannot copy the device build to {}: {err}", path.display()))?;
    Ok(path)
}

/// What makes a build of the `marram` package one for devices.
pub(crate) const DEVICE_FEATURES: [&str; 3] = ["--no-default-features", "--features", "device"];

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_build_is_left_out_when_other_tests_are_named() {
        let wants = |args: &[&str]| wants_device_build(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        for args in [&[][..], &["-p", "marram-tests"], &["device_build"], &["-E", "package(marram-tests)"]] {
            assert!(wants(args), "{args:?}");
        }
        for args in [&["images"][..], &["-p", "marram-tests", "images"]] {
            assert!(!wants(args), "{args:?}");
        }
    }
}
