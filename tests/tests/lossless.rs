//! Nothing that was accepted is lost: in mixed load with restarts of modules and of the host, updates and kills, and on a full disk. The
//! sender writes receipts, and each of them must be met upstream. Half a minute in each run of the tests, minutes with `cargo xtask
//! soak lossless`.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use marram_tests::{
    chance::Chance,
    device::Device,
    figure::figure,
    host::Host,
    journal::text,
    manifest::{Manifest, Module},
    mixed::Mixed,
    program::push,
    receipts,
    registry::DockerRegistry,
};
use serde_json::{Value, json};

#[test]
fn nothing_is_lost_in_half_a_minute_of_load_with_restarts_and_updates() {
    load_for(Duration::from_secs(30));
}

#[test]
#[ignore = "takes long: `cargo xtask soak lossless`"]
fn delivery_is_lossless_in_minutes_of_load_with_restarts_and_updates() {
    let seconds =
        env::var("MARRAM_SOAK_SECONDS").map_or(600, |text| text.parse().expect("MARRAM_SOAK_SECONDS is a number"));
    load_for(Duration::from_secs(seconds));
}

/// Where images come from, and where the sender writes what was accepted.
struct Scene {
    registry: DockerRegistry,
    receipts: tempfile::TempDir,
    /// Bytes of a message.
    bytes: u32,
    /// Durability of the way upstream.
    up: &'static str,
    /// Load of other kinds.
    mixed: Option<Mixed>,
}

impl Scene {
    fn new(bytes: u32, up: &'static str) -> Self {
        let registry = DockerRegistry::start();
        ["misbehaving", "forwarder", "device_telemetry"]
            .iter()
            .for_each(|image| drop(push(image, &registry.image(&format!("{image}:1")))));
        Self { registry, receipts: tempfile::tempdir().unwrap(), bytes, up, mixed: None }
    }

    fn receipts(&self) -> PathBuf {
        self.receipts.path().join("lines")
    }

    /// A flood with two ways upstream, one of them through a forwarder.
    fn manifest(&self, version: usize, sender: &str, forwarder: &str) -> Manifest {
        let image = |name: &str| self.registry.image(&format!("{name}:1"));
        let command =
            json!({ "do": "flood", "count": 1_u64 << 50, "bytes": self.bytes, "receipts": "/receipts/lines" });
        let bad = Module::new(&image("misbehaving")).limit("handlerTime", "1h").limit("handlerWall", "1h");
        let module = Module::new(&image("forwarder")).env("VERSION", &version.to_string()).status(forwarder);
        let forward = r#"FROM /messages/modules/bad/* INTO BrokeredEndpoint("/modules/forwarder/inputs/in")"#;
        let up = "FROM /messages/modules/forwarder/* INTO $upstream";
        let manifest = Manifest::new()
            .module("bad", bad.writes(self.receipts.path(), "/receipts").status(sender))
            .module("forwarder", module)
            .route_object("up", json!({ "route": up, "marram": { "durability": self.up } }))
            .route("forward", forward)
            .twin("bad", json!({ "command": command }));
        match &self.mixed {
            Some(mixed) => mixed.add(manifest, image, sender),
            None => manifest,
        }
    }

    /// Takes note of the dead letters.
    fn collect(&mut self, device: &Device) {
        if let Some(mixed) = &mut self.mixed {
            mixed.collect(device);
        }
    }
}

fn load_for(time: Duration) {
    let (mut scene, device, mut chance) = (Scene::new(200, "crash"), Device::new(), Chance::new());
    scene.mixed = Some(Mixed::new());
    device.configure("[messages]\nmax-bytes = 8388608\n");
    let mut host = device.start(&scene.manifest(0, "running", "running"));
    wait_for_more(&host);
    let begun = Instant::now();
    let (mut version, mut deeds) = (0, [0_u32; 4]);
    while begun.elapsed() < time {
        let deed = chance.below(4);
        deeds[deed] += 1;
        match deed {
            0 => drop(device.marram(&["restart", "forwarder"]).ok()),
            1 => {
                version += 1;
                drop(device.apply(&scene.manifest(version, "running", "running").to_json()).ok());
            }
            2 => {
                host.kill();
                host = device.start_stored(&["--grace", "2"]);
            }
            _ => {
                host.stop();
                host = device.start_stored(&["--grace", "2"]);
            }
        }
        wait_for_more(&host);
        scene.collect(&device);
    }
    let again = drain_and_check(&mut scene, &device, host, version);
    assert!(deeds.iter().sum::<u32>() > 4, "{deeds:?}");
    for (name, count) in ["restarts", "updates", "kills", "stops"].iter().zip(deeds) {
        figure(&format!("lossless.{name}"), f64::from(count), "");
    }
    figure("lossless.again", again as f64, "");
}

/// Stops the sender, has all handled, and compares. Returns how many messages came more than once.
fn drain_and_check(scene: &mut Scene, device: &Device, host: Host, version: usize) -> usize {
    let _ = device.apply(&scene.manifest(version + 1, "stopped", "running").to_json()).ok();
    host.wait("all queues to be empty", |host| {
        let status = host.status();
        let queues = status["queues"].as_array().into_iter().flatten();
        queues.into_iter().all(|queue| queue["length"] == 0).then_some(())
    });
    let status = host.status();
    assert!(status["queues"].as_array().unwrap().iter().all(Mixed::is_as_expected), "{status}");
    assert_eq!((&status["messageLog"]["damaged"], &status["messageLog"]["lost"]), (&json!(0), &json!(0)), "{status}");
    scene.collect(device);
    host.stop();
    let mut journal = device.journal();
    let entries = journal.read();
    if let Some(mixed) = &scene.mixed {
        figure("lossless.expired", mixed.check(entries) as f64, "");
    }
    let receipts = receipts::check(&scene.receipts(), entries, &["forwarder"]);
    figure("lossless.receipts", receipts as f64, "");
    let numbered = |entry: &&Value| entry["properties"]["n"].is_string();
    let of = |entry: &Value| (text(entry, "/source").to_owned(), entry["sequence"].as_u64());
    let unique: BTreeSet<_> = entries.iter().filter(numbered).map(of).collect();
    entries.iter().filter(numbered).count() - unique.len()
}

/// Until messages pass through the forwarder that runs now.
fn wait_for_more(host: &Host) {
    let delivered = |host: &Host| host.queue("$upstream")["delivered"].as_u64();
    let before = delivered(host);
    host.wait("messages upstream", |host| (delivered(host)? > before.unwrap_or(0) + 100).then_some(()));
}

#[test]
fn on_a_full_disk_senders_hear_full_readings_go_on_and_appends_resume_when_there_is_room() {
    // Large ones: what the host counts for each beside its bytes must not fill the queue before the disk.
    // What the forwarder sends needs no room.
    let (mut scene, device) = (Scene::new(4000, "memory"), Device::new());
    // Of this size, the largest with segments of 1 MiB, an input may have 5.4 MiB: more than there will be, for two spares are not for it.
    device.configure("[messages]\nmax-bytes = 66060288\n");
    let Some(disk) = SmallDisk::mount(&device.data().join("messages"), 7) else { return };
    disk.fill(7 << 19);
    let host = device.start(&scene.manifest(0, "running", "stopped"));
    let error = |host: &Host| host.status()["messageLog"]["error"].clone();
    let full = |host: &Host| host.wait("the disk to be full", |host| error(host).is_string().then_some(()));
    full(&host);
    let accepted = || fs::read_to_string(scene.receipts()).unwrap_or_default().lines().count();
    let before = accepted();
    disk.free();
    let freed = Instant::now();
    host.wait("messages to be accepted again", |_| (accepted() > before).then_some(()));
    let resumed = freed.elapsed();
    assert!(resumed < Duration::from_secs(1), "{resumed:?}");
    figure("full.resumed", resumed.as_secs_f64() * 1000.0, "ms");

    // It fills up again, and what is there is read and settled all the same.
    disk.fill(12 << 20);
    full(&host);
    let _ = device.apply(&scene.manifest(1, "stopped", "running").to_json()).ok();
    let mut journal = device.journal();
    let expected = accepted();
    journal.wait_for("all that was accepted", |all| (all.len() >= expected).then_some(()));
    // Settled on the disk too, though no room was left there: the next host, on what is left, has nothing to deliver again.
    disk.top_up();
    host.stop();
    let host = device.start_stored(&["--grace", "2"]);
    host.wait_for_status("forwarder", "running");
    assert_eq!(host.queue("forwarder/in")["length"], 0);
    assert_eq!(drain_and_check(&mut scene, &device, host, 1), 0, "messages that came again");
}

/// A file system of some MiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None without the right to mount.
    fn mount(at: &Path, mib: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(at.to_owned()));
        }
        let _ = writeln!(std::io::stderr(), "not measured: needs root");
        None
    }

    /// Takes so many bytes of it, or all that is left.
    fn fill(&self, bytes: usize) {
        self.write(fs::File::create(self.0.join("ballast")).unwrap(), bytes);
    }

    /// Takes what has become free.
    fn top_up(&self) {
        let ballast = fs::File::options().append(true).open(self.0.join("ballast"));
        self.write(ballast.unwrap(), usize::MAX);
    }

    fn write(&self, mut ballast: fs::File, bytes: usize) {
        let chunk = [0; 4096];
        for _ in 0..bytes / chunk.len() {
            if ballast.write_all(&chunk).is_err() {
                return;
            }
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a host that a failed test leaves is killed after this.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
