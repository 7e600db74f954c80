//! `cargo xtask ci`: every check that a change must pass, tests last. `.ci/run` is this and nothing else.

use std::{path::PathBuf, time::Instant};

use crate::{
    Result, guests, setup,
    shell::{cargo, find, output, root, run, say},
    test,
};

/// A heading and what is done under it.
type Section = (&'static str, fn(guests::Choice) -> Result<()>);

const SECTIONS: [Section; 10] = [
    ("set up", setup::setup),
    ("format", format),
    ("core stays pure", core_is_pure),
    ("licences, bans, sources", |_| deny()),
    ("advisories", |_| audit()),
    ("lints", lints),
    ("device build", |_| device_build()),
    ("documentation", |_| documentation()),
    ("fallback toolchain", fallback),
    ("tests", |choice| test::test(choice, &[])),
];

/// Runs the sections in order, or those whose heading contains one of `names`, and stops at the first that fails.
/// Nothing is printed after the tests' own summary.
pub(crate) fn ci(choice: guests::Choice, names: &[String]) -> Result<()> {
    let wanted = |heading: &str| names.is_empty() || names.iter().any(|name| heading.contains(name.as_str()));
    let sections: Vec<&Section> = SECTIONS.iter().filter(|(heading, _)| wanted(heading)).collect();
    if sections.is_empty() {
        let headings: Vec<&str> = SECTIONS.iter().map(|(heading, _)| *heading).collect();
        return Err(format!("no such section; there are: {}", headings.join("; ")));
    }
    let start = Instant::now();
    for (number, (heading, check)) in sections.iter().enumerate() {
        eprintln!("\n== {}/{} {heading} (at {} s)", number + 1, sections.len(), start.elapsed().as_secs());
        check(choice).map_err(|err| format!("{heading}: {err}"))?;
    }
    Ok(())
}

fn format(_: guests::Choice) -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().current_dir(root().join("guest-examples")).args(["fmt", "--all", "--check"]))
}

/// The rules decide without a runtime and without an engine.
fn core_is_pure(_: guests::Choice) -> Result<()> {
    const FOREIGN: [&str; 4] = ["tokio", "wasmtime", "hyper", "rustix"];
    let args = ["tree", "--locked", "--package", "marram-core", "--edges", "normal", "--prefix", "none"];
    let tree = output(cargo().args(args).args(["--format", "{p}"]))?;
    let found = tree.lines().filter_map(|line| line.split(' ').next()).find(|name| FOREIGN.contains(name));
    found.map_or(Ok(()), |name| Err(format!("marram-core depends on {name}; see host/ARCHITECTURE.md")))
}

/// The two workspaces: the host's and the guests'.
fn workspaces() -> [PathBuf; 2] {
    [root(), root().join("guest-examples")]
}

/// The guests are judged twice: what builds them runs where the host does, what is in them on their own target.
fn deny() -> Result<()> {
    let [host, guests] = workspaces();
    for (workspace, target) in [(&host, None), (&guests, None), (&guests, Some(guests::TARGET))] {
        let mut deny = cargo();
        deny.args(["deny", "--locked", "--log-level", "error"]);
        deny.arg("--manifest-path").arg(workspace.join("Cargo.toml")).arg("--config").arg(root().join("deny.toml"));
        if let Some(target) = target {
            deny.args(["--target", target]);
        }
        run(deny.args(["check", "bans", "licenses", "sources"]))?;
    }
    Ok(())
}

/// The advisories come as a snapshot that stands beside the checkout, because CI cannot clone them; a machine without
/// the snapshot fetches them itself.
fn audit() -> Result<()> {
    let snapshot = root().join("../shared/advisory-db");
    if !snapshot.is_dir() {
        say("advisories: no snapshot beside the checkout; cargo-audit fetches them");
    }
    for workspace in workspaces() {
        let mut audit = cargo();
        audit.args(["audit", "--quiet", "--deny", "warnings", "--file"]).arg(workspace.join("Cargo.lock"));
        if snapshot.is_dir() {
            audit.args(["--no-fetch", "--stale", "--db"]).arg(&snapshot);
        }
        run(&mut audit)?;
    }
    Ok(())
}

fn lints(choice: guests::Choice) -> Result<()> {
    run(cargo()
        .args(["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--profile", test::PROFILE])
        .args(["--", "-D", "warnings"]))?;
    match guests::toolchain(choice)? {
        toolchain @ guests::Toolchain::Rustup => run(guests::build_command(&toolchain).args([
            "clippy",
            "--quiet",
            "--locked",
            "--release",
            "--workspace",
            "--",
            "-D",
            "warnings",
        ])),
        // clippy is tied to the compiler that it came with.
        guests::Toolchain::Debian { .. } => {
            say("lints: the guests' are left out under the fallback toolchain");
            Ok(())
        }
    }
}

/// What a device gets that runs precompiled components only: its lints, and those of a build without any feature, which
/// must not break either. In one call for all crates: apart, they would have other features and compile the engine's
/// dependencies twice.
fn device_build() -> Result<()> {
    for features in ["marram-cli/device", ""] {
        let mut clippy = cargo();
        clippy.args(["clippy", "--quiet", "--locked", "--profile", test::PROFILE, "--no-default-features"]);
        clippy.args(["--package", "marram-engine", "--package", "marram-registry", "--package", "marram-cli"]);
        run(clippy.args(["--features", features, "--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// The guest toolchain of machines whose rustup cannot download is not used on this one; so it is tried.
fn fallback(choice: guests::Choice) -> Result<()> {
    if matches!(choice, guests::Choice::Fallback) {
        say("fallback: it builds all guests already");
        return Ok(());
    }
    if find("apt-get").is_none() {
        say("fallback: left out, for it comes from Debian and there is no apt-get");
        return Ok(());
    }
    test::run_by_fallback()
}

fn documentation() -> Result<()> {
    run(cargo()
        .args(["doc", "--quiet", "--locked", "--workspace", "--no-deps", "--profile", test::PROFILE])
        .env("RUSTDOCFLAGS", "-D warnings"))
}
