//! `cargo xtask ci`: every check that a change must pass, tests last. `.ci/run` is this and nothing else.

use std::{path::PathBuf, time::Instant};

use crate::{
    Result, guests, setup,
    shell::{cargo, output, root, run, say},
    test,
};

/// A heading and what is done under it.
type Section = (&'static str, fn(guests::Choice) -> Result<()>);

const SECTIONS: [Section; 8] = [
    ("set up", setup::setup),
    ("format", format),
    ("core stays pure", core_is_pure),
    ("licences, bans, sources", |_| deny()),
    ("advisories", |_| audit()),
    ("lints", lints),
    ("documentation", |_| documentation()),
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

fn deny() -> Result<()> {
    for workspace in workspaces() {
        let mut deny = cargo();
        deny.args(["deny", "--locked", "--log-level", "error"]);
        deny.arg("--manifest-path").arg(workspace.join("Cargo.toml")).arg("--config").arg(root().join("deny.toml"));
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

fn documentation() -> Result<()> {
    run(cargo()
        .args(["doc", "--quiet", "--locked", "--workspace", "--no-deps", "--profile", test::PROFILE])
        .env("RUSTDOCFLAGS", "-D warnings"))
}
