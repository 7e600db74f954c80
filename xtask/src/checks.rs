//! `cargo xtask ci`: every check that a change must pass, tests last. `.ci/run` is this and nothing else.

use std::{fs, path::PathBuf, time::Instant};

use crate::{
    Result, guests, setup,
    shell::{cargo, command, output, root, run, run_quietly, say, target},
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

/// Runs the sections in order and stops at the first that fails. Nothing is printed after the tests' own summary.
pub(crate) fn ci(choice: guests::Choice) -> Result<()> {
    let start = Instant::now();
    for (number, (heading, check)) in SECTIONS.iter().enumerate() {
        eprintln!("\n== {}/{} {heading} (at {} s)", number + 1, SECTIONS.len(), start.elapsed().as_secs());
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

fn deny() -> Result<()> {
    run(cargo().args(["deny", "--locked", "--log-level", "error", "check", "bans", "licenses", "sources"]))
}

/// The advisories come as a snapshot that stands beside the checkout, because CI cannot clone them; a machine without
/// the snapshot fetches them itself.
fn audit() -> Result<()> {
    let snapshot = root().join("../shared/advisory-db");
    let mut audit = cargo();
    audit.args(["audit", "--quiet"]);
    if snapshot.is_dir() {
        audit.args(["--no-fetch", "--stale", "--db"]).arg(as_repository(&snapshot)?);
    } else {
        say("advisories: no snapshot beside the checkout; cargo-audit fetches them");
    }
    run(&mut audit)
}

/// A copy of the snapshot in a git repository of its own: cargo-audit reads nothing else.
fn as_repository(snapshot: &std::path::Path) -> Result<PathBuf> {
    let copy = target().join("advisory-db");
    crate::shell::remove_folder(&copy)?;
    run_quietly(command("cp").arg("-r").arg(snapshot).arg(&copy))?;
    run_quietly(command("chmod").args(["-R", "u+w"]).arg(&copy))?;
    let git = |args: &[&str]| run_quietly(command("git").current_dir(&copy).args(args));
    git(&["init", "--quiet"])?;
    git(&["add", "--all", "--force"])?;
    let who = ["-c", "user.name=xtask", "-c", "user.email=xtask@localhost", "-c", "commit.gpgsign=false"];
    git(&[&who[..], &["commit", "--quiet", "--message", "snapshot"]].concat())?;
    fs::canonicalize(&copy).map_err(|err| format!("cannot find {}: {err}", copy.display()))
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
        guests::Toolchain::Debian { .. } => Ok(say("lints: the guests' are left out under the fallback toolchain")),
    }
}

fn documentation() -> Result<()> {
    run(cargo()
        .args(["doc", "--quiet", "--locked", "--workspace", "--no-deps", "--profile", test::PROFILE])
        .env("RUSTDOCFLAGS", "-D warnings"))
}
