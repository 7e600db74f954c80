//! Turns `/proc/loadavg` and `/proc/meminfo` (Linux, `proc(5)`) into one JSON reading. Sends nothing.

use std::{fs, path::Path};

use serde_json::{Value, json};

/// One reading: load averages over 1, 5 and 15 minutes, memory in KiB, used memory in percent of the total.
///
/// An error names the file and what to check.
pub(crate) fn read(proc: &Path) -> Result<Value, String> {
    let [load1, load5, load15] = load(&text(&proc.join("loadavg"))?)?;
    let meminfo = text(&proc.join("meminfo"))?;
    let total = memory_kib(&meminfo, "MemTotal")?;
    let available = memory_kib(&meminfo, "MemAvailable")?;
    let used_percent = total.saturating_sub(available) as f64 * 100.0 / total.max(1) as f64;
    Ok(json!({
        "unixMs": crate::now_unix_ms(),
        "load1": load1,
        "load5": load5,
        "load15": load15,
        "memTotalKiB": total,
        "memAvailableKiB": available,
        "memUsedPercent": (used_percent * 100.0).round() / 100.0,
    }))
}

fn text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path)
        .map_err(|err| format!("{}: {err}; is the folder granted in settings.sandbox.filesystem?", path.display()))
}

/// The first three fields of `loadavg`.
fn load(text: &str) -> Result<[f64; 3], String> {
    let fields: Vec<f64> = text.split_whitespace().take(3).filter_map(|field| field.parse().ok()).collect();
    fields.try_into().map_err(|_| format!("loadavg: expected three numbers, found `{}`", text.trim()))
}

/// The value of a line such as `MemTotal:  16384 kB`.
fn memory_kib(text: &str, name: &str) -> Result<u64, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| format!("meminfo: no number for {name}"))
}
