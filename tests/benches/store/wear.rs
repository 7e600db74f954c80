//! `wear.*`: bytes at the block device a byte of messages. A file system of its own on a loop device with direct I/O, whose
//! counters are read; needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use marram_store::log::Safety;
use marram_tests::figure::figure;

use crate::load::{BODY, Load, QUEUES};

/// Of the image: a backlog of 200,000 messages and room.
const IMAGE: u64 = 512 << 20;

#[allow(clippy::print_stderr)] // says what is not measured
pub(crate) fn wear() {
    let folder = crate::folder();
    let Some(device) = Device::mount(folder.path()) else {
        eprintln!("wear: not measured: needs root and a loop device");
        return;
    };
    for (name, group, rounds) in
        [("wear.steady.16", 16, 4000), ("wear.steady.256", 256, 400), ("wear.commit.1", 1, 6000)]
    {
        steady(&device, name, group, rounds);
    }
    trickle(&device);
    backlog(&device);
}

/// Append, read and settle, each group synced; after as much of the same, so that segments are recycled.
fn steady(device: &Device, name: &str, group: usize, rounds: usize) {
    let (mut load, _) = Load::open(&device.log());
    let mut turn = || {
        for _ in 0..rounds {
            load.append(group, Safety::Synced);
            load.settle(group, usize::MAX);
        }
    };
    // Until segments are recycled.
    (0..60_000 / (group * rounds) + 1).for_each(|_| turn());
    let before = device.counters();
    let handed = handed_to_write();
    turn();
    let handed = handed_to_write() - handed;
    let after = device.counters();
    let bytes = (group * rounds * BODY) as f64;
    figure(name, (after.bytes - before.bytes) / bytes, "device bytes/byte of body");
    figure(&format!("{name}.handed"), handed / bytes, "bytes handed to write/byte of body");
    figure(&format!("{name}.KiB"), (after.bytes - before.bytes) / 1024.0 / rounds as f64, "KiB/commit");
    figure(&format!("{name}.flushes"), (after.flushes - before.flushes) / rounds as f64, "flushes/commit");
}

/// 20 messages a second, a write each, a sync each 5 seconds; settled as they come. Without the waiting.
fn trickle(device: &Device) {
    let (mut load, _) = Load::open(&device.log());
    let mut turn = || {
        for _ in 0..100 {
            load.append(1, Safety::Written);
            load.settle(1, usize::MAX);
        }
        load.log.sync().expect("a sync");
    };
    (0..600).for_each(|_| turn());
    let before = device.counters();
    (0..300).for_each(|_| turn());
    let bytes = (300 * 100 * BODY) as f64;
    figure("wear.trickle", (device.counters().bytes - before.bytes) / bytes, "device bytes/byte of body");
}

/// Fills and drains.
fn backlog(device: &Device) {
    const GROUPS: usize = 800;
    let (mut load, _) = Load::open(&device.log());
    let bytes = (GROUPS * 256 * BODY) as f64;
    let (before, handed) = (device.counters(), handed_to_write());
    (0..GROUPS).for_each(|_| load.append(256, Safety::Synced));
    let filled = device.counters();
    figure("wear.backlog.fill", (filled.bytes - before.bytes) / bytes, "device bytes/byte of body");
    while load.settle(QUEUES, 8 << 10) > 0 {}
    load.log.sync().expect("a sync");
    device.settle();
    let drained = device.counters();
    figure("wear.backlog", (drained.bytes - before.bytes) / bytes, "device bytes/byte of body, fill and drain");
    figure("wear.backlog.handed", (handed_to_write() - handed) / bytes, "bytes handed to write/byte of body");
}

/// Bytes that this process gave to `write` and its kin.
fn handed_to_write() -> f64 {
    let text = fs::read_to_string("/proc/self/io").expect("counters");
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: ")).expect("wchar");
    line.trim().parse().expect("a number")
}

struct Counters {
    bytes: f64,
    flushes: f64,
}

/// An ext4 on a loop device.
struct Device {
    loop_device: String,
    mount: PathBuf,
    logs: std::cell::Cell<u32>,
}

impl Device {
    fn mount(folder: &Path) -> Option<Self> {
        let (image, mount) = (folder.join("image"), folder.join("mount"));
        fs::File::create(&image).ok()?.set_len(IMAGE).ok()?;
        fs::create_dir(&mount).ok()?;
        let out = Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&image).output().ok()?;
        let loop_device = String::from_utf8(out.stdout).ok()?.trim().to_owned();
        if !out.status.success() || loop_device.is_empty() {
            return None;
        }
        let device = Self { loop_device, mount, logs: 0.into() };
        // Tables are written now, not beside what is measured.
        let lazy = ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
        let made = run(Command::new("mkfs.ext4").args(lazy).arg(&device.loop_device));
        (made && run(Command::new("mount").arg(&device.loop_device).arg(&device.mount))).then_some(device)
    }

    fn log(&self) -> PathBuf {
        self.logs.set(self.logs.get() + 1);
        self.mount.join(format!("log{}", self.logs.get()))
    }

    fn settle(&self) {
        run(Command::new("sync").arg("-f").arg(&self.mount));
    }

    /// See `Documentation/block/stat.rst` of the kernel.
    fn counters(&self) -> Counters {
        let name = self.loop_device.trim_start_matches("/dev/");
        let text = fs::read_to_string(format!("/sys/block/{name}/stat")).expect("counters");
        let fields: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        Counters { bytes: fields[6] * 512.0, flushes: fields.get(15).copied().unwrap_or(0.0) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        run(Command::new("umount").arg(&self.mount));
        run(Command::new("losetup").arg("--detach").arg(&self.loop_device));
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}
