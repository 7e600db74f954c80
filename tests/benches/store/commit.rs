//! `commit.power*`: append, read and settle with every group synced, against append and fdatasync of groups of the same
//! size.

use std::time::Instant;

use marram_store::log::Safety;
use marram_tests::figure::figure;
use rustix::time::{ClockId, clock_gettime};

use crate::load::{Load, Raw};

/// Rounds of each side, in turn.
const ROUNDS: usize = 15;
/// Commits of a round: with groups of one, some tens of milliseconds.
const COMMITS: usize = 200;

pub(crate) fn commit(name: &str, group: usize) {
    let folder = crate::folder();
    let (mut load, _) = Load::open(&folder.path().join("log"));
    let mut raw = Raw::create(&folder.path().join("raw"));
    let (mut values, mut floors, mut cpu, mut cpu_floors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS + 2 {
        let floor = measure(group, || raw.append(group));
        let value = measure(group, || {
            load.append(group, Safety::Synced);
            load.settle(group, usize::MAX);
        });
        if round >= 2 {
            values.push(value.0);
            floors.push(floor.0);
            cpu.push(value.1);
            cpu_floors.push(floor.1);
        }
    }
    against(name, &values, &floors, "us/message");
    against(&format!("{name}.cpu"), &cpu, &cpu_floors, "us CPU/message");
    figure(&format!("{name}.disk"), load.log.usage().disk_bytes as f64 / 1_048_576.0, "MiB");
}

/// Microseconds a message: by the clock on the wall, and of this thread.
fn measure(group: usize, mut commit: impl FnMut()) -> (f64, f64) {
    let (started, cpu) = (Instant::now(), thread_cpu());
    for _ in 0..COMMITS {
        commit();
    }
    let messages = (COMMITS * group) as f64;
    (started.elapsed().as_secs_f64() * 1e6 / messages, (thread_cpu() - cpu) / messages)
}

fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Medians, and the median of the ratios round by round. A neighbour that disturbs the disk for a while can spoil one side of many
/// rounds: where the spread of the floor is large, the figure says so and is to be taken again.
#[allow(clippy::print_stdout)] // a bench prints its figures
fn against(name: &str, values: &[f64], floors: &[f64], unit: &str) {
    let ratios: Vec<f64> = floors.iter().zip(values).map(|(floor, value)| floor / value).collect();
    let (value, floor, ratio) = (quantile(values, 0.5), quantile(floors, 0.5), quantile(&ratios, 0.5));
    let spread = quantile(floors, 0.9) / quantile(floors, 0.1);
    println!(
        r#"{{"name":"{name}","value":{value:.3},"unit":"{unit}","floor":{floor:.3},"ratio":{ratio:.3},"floor-spread":{spread:.2}}}"#
    );
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}
