//! `cargo xtask bench`: runs the benches of the `marram-tests` package and shows their figures.
//!
//! A bench prints one JSON line a figure: `{"name","value","unit","floor","ratio"}`. `floor` is what the same machine
//! does without Marram, measured in the same run; `ratio` is greater for better. Measures nothing itself.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::Value;

use crate::{
    Result, guests,
    shell::{cargo, say},
};

/// Runs the figures whose name contains one of `names`, or all; prints each when it is there, as a row of a table or as
/// its JSON line.
pub(crate) fn bench(choice: guests::Choice, names: &[String], json: bool) -> Result<()> {
    let guests = guests::build(choice, &[])?;
    say("bench: building and running; the release profile takes minutes the first time");
    let mut command = cargo();
    command.args(["bench", "--quiet", "--package", "marram-tests", "--benches", "--"]).args(names);
    command.env("MARRAM_GUESTS", guests).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|err| format!("cannot start cargo: {err}"))?;
    let mut figures = 0;
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines().map_while(|line| line.ok()))
    {
        // The test harness of a library prints its own lines.
        if !line.starts_with('{') {
            continue;
        }
        if json {
            println!("{line}");
        } else {
            if figures == 0 {
                println!("{:<32} {:>12} {:>12} {:<12} {:>6}", "figure", "value", "floor", "unit", "ratio");
            }
            row(&line)?;
        }
        figures += 1;
    }
    let status = child.wait().map_err(|err| format!("cannot wait for cargo: {err}"))?;
    match (status.success(), figures) {
        (false, _) => Err(format!("`cargo bench` ended with {status}")),
        (true, 0) => Err("no figure has such a name, or no bench printed one; `cargo xtask bench` measures all".into()),
        (true, _) => Ok(()),
    }
}

fn row(line: &str) -> Result<()> {
    let figure: Value = serde_json::from_str(line).map_err(|err| format!("a bench printed `{line}`: {err}"))?;
    let text = |name: &str| figure.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    let number = |name: &str, digits: usize| {
        figure.get(name).and_then(Value::as_f64).map_or("-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let (value, floor, ratio) = (number("value", 3), number("floor", 3), number("ratio", 2));
    println!("{:<32} {value:>12} {floor:>12} {:<12} {ratio:>6}", text("name"), text("unit"));
    Ok(())
}
