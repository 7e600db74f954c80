//! `cargo xtask bench`: runs the benches of the `marram-tests` package and shows their figures.
//!
//! A bench prints one JSON line a figure: `{"name","value","unit","floor","ratio"}`. `floor` is what the same machine
//! does without Marram, measured in the same run; `ratio` is greater for better. Measures nothing itself.

use serde_json::Value;

use crate::{
    Result, guests,
    shell::{cargo, output, say},
};

/// Runs the figures whose name contains one of `names`, or all; prints a table, or JSON lines.
pub(crate) fn bench(choice: guests::Choice, names: &[String], json: bool) -> Result<()> {
    let guests = guests::build(choice, &[])?;
    say("bench: building and running; the release profile takes minutes the first time");
    let mut command = cargo();
    command.args(["bench", "--quiet", "--package", "marram-tests", "--benches", "--"]).args(names);
    let printed = output(command.env("MARRAM_GUESTS", guests))?;
    let figures: Vec<&str> = printed.lines().filter(|line| line.starts_with('{')).collect();
    if figures.is_empty() {
        return Err(match names {
            [] => "no bench printed a figure".into(),
            names => format!("no figure is called like {}; without names all are measured", names.join(", ")),
        });
    }
    if json {
        figures.iter().for_each(|line| println!("{line}"));
        return Ok(());
    }
    println!("{:<32} {:>12} {:>12} {:<12} {:>6}", "figure", "value", "floor", "unit", "ratio");
    figures.iter().try_for_each(|line| row(line))
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
