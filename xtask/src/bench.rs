//! `cargo xtask bench`: runs the benches of the `marram-tests` package and shows their figures.
//!
//! A bench prints one JSON line a figure: `{"name","value","unit","floor","ratio"}`. `floor` is what the same machine
//! does without Marram, measured in the same run; `ratio` is greater for better. Measures nothing itself.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    Result, footprint, guests,
    shell::{cargo, command, output, say, target},
};

/// Runs the figures whose name contains one of `names`, or all; prints each when it is there, as a row of a table or as
/// its JSON line.
pub(crate) fn bench(choice: guests::Choice, names: &[String], json: bool) -> Result<()> {
    let guests = guests::build(choice, &[])?;
    say("bench: building and running; the release profile takes minutes the first time");
    // Before the other build, which has the same name.
    let device = if wants_device_build(names) { Some(footprint::release_for_devices()?) } else { None };
    let benches = build()?;
    let mut table = Table::new(json);
    for bench in benches {
        let mut command = command(&bench);
        // Some benches start the host as a process, as devices have it.
        command.env("MARRAM_GUESTS", &guests).env("MARRAM_BIN", target().join("release/marram"));
        command.envs(device.as_ref().map(|path| ("MARRAM_DEVICE_BIN", path)));
        figures(command.args(names), &mut table)?;
    }
    if table.figures == 0 {
        return Err("no figure has such a name, or no bench printed one; `cargo xtask bench` measures all".into());
    }
    Ok(())
}

/// Whether `rss.*` may be among the figures: it compares with the build for devices.
fn wants_device_build(names: &[String]) -> bool {
    names.is_empty() || names.iter().any(|name| name.contains("rss") || name.contains("device"))
}

/// Builds the host and the benches; returns the benches. In one call, because cargo unites the features of what it builds
/// together: apart, the engine would be compiled twice.
fn build() -> Result<Vec<PathBuf>> {
    let mut build = cargo();
    build.args(["build", "--release", "--package", "marram-cli", "--package", "marram-tests", "--bin", "marram"]);
    build.args(["--benches", "--message-format", "json"]);
    let messages = output(&mut build)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let benches = messages.filter(|message| message["target"]["kind"][0] == "bench");
    Ok(benches.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).collect())
}

fn figures(command: &mut Command, table: &mut Table) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|err| format!("cannot start a bench: {err}"))?;
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines().map_while(|line| line.ok()))
    {
        table.line(&line)?;
    }
    let status = child.wait().map_err(|err| format!("cannot wait for a bench: {err}"))?;
    if status.success() { Ok(()) } else { Err(format!("a bench ended with {status}")) }
}

/// Figures as they come: rows for people, or the JSON lines themselves.
pub(crate) struct Table {
    json: bool,
    figures: usize,
}

impl Table {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, figures: 0 }
    }

    /// A line of a program's output. One that is no figure is left out: test harnesses print lines of their own.
    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        if !line.starts_with('{') {
            return Ok(());
        }
        if self.json {
            println!("{line}");
        } else {
            if self.figures == 0 {
                println!("{:<36} {:>12} {:>12} {:<16} {:>6}", "figure", "value", "floor", "unit", "ratio");
            }
            row(line)?;
        }
        self.figures += 1;
        Ok(())
    }
}

fn row(line: &str) -> Result<()> {
    let figure: Value = serde_json::from_str(line).map_err(|err| format!("a bench printed `{line}`: {err}"))?;
    let text = |name: &str| figure.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    let number = |name: &str, digits: usize| {
        figure.get(name).and_then(Value::as_f64).map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let (value, floor, ratio) = (number("value", 3), number("floor", 3), number("ratio", 2));
    println!("{:<36} {value:>12} {floor:>12} {:<16} {ratio:>6}", text("name"), text("unit"));
    Ok(())
}
