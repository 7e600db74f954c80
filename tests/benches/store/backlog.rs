//! `backlog.*`: a million messages wait. Each step is a process of its own, so that memory and caches are its own; the one that
//! fills kills itself.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use marram_store::log::Safety;
use marram_tests::{figure, memory::Memory};
use rustix::process::{Signal, getpid, kill_process};

use crate::load::{BODY, Load, QUEUES, Raw};

const MESSAGES: usize = 1_000_000;
const GROUP: usize = 256;
/// Fillings, each after one of a plain file.
const TURNS: usize = 5;
const PAYLOAD: f64 = (MESSAGES * BODY) as f64;
const MIB: f64 = 1_048_576.0;

pub(crate) fn backlog() {
    let folder = crate::folder();
    let (log, empty) = (folder.path().join("log"), folder.path().join("empty"));
    let (mut fills, mut fill) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        // A new file each, as the log's are.
        let _ = std::fs::remove_file(folder.path().join("raw"));
        let _ = std::fs::remove_dir_all(&log);
        let floor = run("raw", &folder.path().join("raw"))[0];
        fill = run("fill", &log);
        fills.push((fill[0], floor));
    }
    // The turn with the median ratio.
    fills.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
    let (filled, floor) = fills[TURNS / 2];
    let disk = size_of(&log);
    let empty = run("drain", &empty);
    let drain = run("drain", &log);
    figure::against("backlog.fill", filled, floor, "s");
    figure::figure("backlog.reopen", drain[0], "ms after SIGKILL");
    figure::against("backlog.drain", drain[1], floor, "s");
    figure::figure("backlog.rss", (drain[2] - empty[2]) / MIB, "MiB over an empty log, opened");
    figure::figure("backlog.rss.fill", (fill[1] - empty[2]) / MIB, "MiB over an empty log, filling");
    figure::figure("backlog.rss.drain", (drain[3] - empty[3]) / MIB, "MiB over an empty log, draining");
    figure::figure("backlog.disk", disk / PAYLOAD, "bytes on disk/byte of body");
    figure::figure("backlog.disk.after", drain[4], "files after the drain");
}

/// Runs a step in a process of its own; returns the numbers that it prints.
fn run(step: &str, folder: &Path) -> Vec<f64> {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    let out = command.args(["--child", step]).arg(folder).stderr(Stdio::inherit()).output().expect("a child");
    let text = String::from_utf8_lossy(&out.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(!numbers.is_empty(), "step {step} ended with {}", out.status);
    numbers
}

fn size_of(folder: &Path) -> f64 {
    let files = std::fs::read_dir(folder).expect("a folder").flatten();
    files.map(|file| file.metadata().map_or(0, |metadata| metadata.len()) as f64).sum()
}

/// A step, in its process.
#[allow(clippy::print_stdout)] // answers its parent
pub(crate) fn child(arguments: &[String]) {
    let [step, folder] = arguments else { panic!("a step and a folder") };
    let folder = Path::new(folder);
    match step.as_str() {
        "raw" => {
            let mut raw = Raw::create(folder);
            let started = Instant::now();
            (0..MESSAGES.div_ceil(GROUP)).for_each(|_| raw.append(GROUP));
            println!("{}", started.elapsed().as_secs_f64());
        }
        "fill" => {
            let (mut load, _) = Load::open(folder);
            let started = Instant::now();
            (0..MESSAGES.div_ceil(GROUP)).for_each(|_| load.append(GROUP, Safety::Synced));
            println!("{} {}", started.elapsed().as_secs_f64(), resident());
            kill_process(getpid(), Signal::KILL).expect("a kill");
        }
        _ => drain(folder),
    }
}

#[allow(clippy::print_stdout)] // answers its parent
fn drain(folder: &Path) {
    let started = Instant::now();
    let (mut load, recovery) = Load::open(folder);
    let reopen = started.elapsed().as_secs_f64() * 1e3;
    if recovery.references == 0 {
        load.append(GROUP, Safety::Synced);
    }
    let opened = resident();
    let (started, mut settled, mut most) = (Instant::now(), 0, opened);
    loop {
        // All queues side by side, some messages each: the segments are read once.
        let count = load.settle(QUEUES, 8 << 10);
        settled += count;
        if count == 0 {
            break;
        }
        if settled % 50_000 < count {
            most = most.max(resident());
        }
    }
    load.log.sync().expect("a sync");
    assert!(recovery.references == 0 || settled == recovery.references, "{settled} of {}", recovery.references);
    let seconds = started.elapsed().as_secs_f64();
    let files = std::fs::read_dir(folder).expect("a folder").count();
    println!("{reopen} {seconds} {opened} {most} {files}");
}

/// Resident bytes that are not pages of files.
fn resident() -> f64 {
    Memory::of(std::process::id()).rss as f64
}
