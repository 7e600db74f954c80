//! Clock, medians and the line of a figure.

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread in nanoseconds.
pub(crate) fn thread_cpu() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// CPU time of all threads of this process in nanoseconds.
pub(crate) fn process_cpu() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Whether a figure was asked for; all are when none is named.
pub(crate) fn wanted(names: &[String], figure: &str) -> bool {
    names.is_empty() || names.iter().any(|name| figure.contains(name.as_str()))
}

/// A cost in nanoseconds a message: the median, and the median of the ratios round by round, floor ÷ value.
#[allow(clippy::print_stdout)] // a bench prints its figures
pub(crate) fn cost(name: &str, values: &[f64], floors: &[f64]) {
    let ratios: Vec<f64> = floors.iter().zip(values).map(|(floor, value)| floor / value).collect();
    let (value, floor, ratio) = (median(values), median(floors), median(&ratios));
    println!(r#"{{"name":"{name}","value":{value:.1},"unit":"ns CPU/message","floor":{floor:.1},"ratio":{ratio:.3}}}"#);
}

/// Waits in nanoseconds: the medians, and the 99th percentiles.
#[allow(clippy::print_stdout)] // a bench prints its figures
pub(crate) fn latency(name: &str, mut values: Vec<f64>, mut floors: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    floors.sort_by(f64::total_cmp);
    let at = |sorted: &[f64], percent: usize| sorted[sorted.len() * percent / 100] / 1000.0;
    for (percent, name) in [(50, name.to_owned()), (99, format!("{name}.p99"))] {
        let (value, floor) = (at(&values, percent), at(&floors, percent));
        let ratio = floor / value;
        println!(r#"{{"name":"{name}","value":{value:.1},"unit":"µs","floor":{floor:.1},"ratio":{ratio:.3}}}"#);
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The file of a guest that `cargo xtask guests` has built.
pub(crate) fn guest(name: &str) -> std::path::PathBuf {
    let folder = std::env::var_os("MARRAM_GUESTS").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-examples/target/wasm32-wasip2/release"),
        std::path::PathBuf::from,
    );
    let path = folder.join(format!("{name}.wasm"));
    assert!(path.exists(), "{} is not there; `cargo xtask guests` builds it", path.display());
    path
}
