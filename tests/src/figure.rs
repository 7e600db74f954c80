//! Figures that a test or bench prints: one JSON line each, which `cargo xtask bench` and `soak` show as a table.

use std::io::Write;

/// Prints a figure that was only measured: nothing is promised about it.
pub fn figure(name: &str, value: f64, unit: &str) {
    print(&format!(r#"{{"name":"{name}","value":{value:.3},"unit":"{unit}"}}"#));
}

/// Prints a figure beside what the same machine does without Marram. `ratio` is floor ÷ value: greater is better.
pub fn against(name: &str, value: f64, floor: f64, unit: &str) {
    let ratio = floor / value;
    print(&format!(r#"{{"name":"{name}","value":{value:.3},"unit":"{unit}","floor":{floor:.3},"ratio":{ratio:.3}}}"#));
}

/// Past the test harness, which would keep the line for itself.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
