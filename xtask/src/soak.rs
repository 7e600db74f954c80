//! `cargo xtask soak`: the tests that take minutes, of the whole system, of the store, and the attacks, one after the other,
//! with their figures as a table. They are those that `cargo xtask test` leaves out (`#[ignore]`).

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use crate::{Result, bench, guests, setup, shell::say, test};

/// The test that needs `wkg`, whose compilation takes minutes.
const WKG_TEST: &str = "what_wkg_pushed_runs_and_what_we_pushed_wkg_pulls";

/// Runs the tests whose name contains one of `names`, or all.
pub(crate) fn soak(choice: guests::Choice, names: &[String], json: bool, release: bool) -> Result<()> {
    setup::for_tests(choice)?;
    if names.is_empty() || names.iter().any(|name| WKG_TEST.contains(name.as_str())) {
        setup::wkg()?;
    }
    let guests = guests::build(choice, &[])?;
    let marram = test::build_with_tests()?;
    // Figures of a host as devices have it; the tests themselves need no more than the tests' profile.
    let marram = if release { test::build_marram(true)? } else { marram };
    say("soak: cargo nextest run --run-ignored only");
    let mut nextest = test::nextest(Some("soak"));
    let packages = "package(marram-tests) or package(marram-store) or package(marram-fuzz) or package(marram-sim)";
    nextest.args(["--run-ignored", "only", "--no-capture", "-E", packages]);
    nextest.args(names).env("MARRAM_BIN", marram).env("MARRAM_GUESTS", guests).env_remove("CI").stdout(Stdio::piped());
    let mut child = nextest.spawn().map_err(|err| format!("cannot start cargo: {err}"))?;
    let mut table = bench::Table::new(json);
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines().map_while(|line| line.ok()))
    {
        table.line(&line)?;
    }
    let status = child.wait().map_err(|err| format!("cannot wait for cargo: {err}"))?;
    if status.success() { Ok(()) } else { Err(format!("`cargo nextest run` ended with {status}")) }
}
