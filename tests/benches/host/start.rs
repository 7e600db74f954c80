//! `start.cold`: from the start of the process to its first message upstream, everything compiled and in the page cache.
//! The floor is a process that does nothing but set the engine up, and map, check and link the same compiled component.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use marram_core::ports::{Artifact, Engine as _, Lease};
use marram_engine::{CompileLimits, HelperCommand, Profile, Settings, WasmEngine};
use marram_tests::{
    device::Device,
    figure::against,
    manifest::{Manifest, Module},
    memory::cpu_time,
    program::Layout,
};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::json;

/// The first argument of the process that is the floor; then come a data folder and a compiled component in it.
pub(crate) const FLOOR: &str = "start-floor";

const ROUNDS: usize = 40;
/// Longest wait for a first message.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn cold() {
    let (layout, device) = (Layout::with(&["misbehaving"]), Device::new());
    // It sends one message in its start.
    let module = Module::new(&layout.image("misbehaving")).misbehave(&json!({ "do": "flood", "count": 1 }));
    // A stored one of the life before, which was killed, would be there first.
    let up = json!({
        "route": "FROM /messages/modules/first/outputs/* INTO $upstream",
        "marram": { "durability": "memory" },
    });
    let host = device.start(&Manifest::new().module("first", module).route_object("up", up));
    let _ = device.journal().wait_for_more(1);
    host.stop();
    let component = compiled(&device);
    let (mut values, mut floors) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (value, floor) = (first_message(&device), bare(&device, &component));
        if round > 0 {
            values.push(value);
            floors.push(floor);
        }
    }
    let medians = |list: &[(f64, f64)]| {
        let (wall, cpu): (Vec<f64>, Vec<f64>) = list.iter().copied().unzip();
        (crate::median(wall), crate::median(cpu))
    };
    let ((wall, cpu), (floor_wall, floor_cpu)) = (medians(&values), medians(&floors));
    against("start.cold", wall, floor_wall, "ms");
    against("start.cold.cpu", cpu, floor_cpu, "ms CPU");
}

/// Wall-clock and CPU time in ms.
fn first_message(device: &Device) -> (f64, f64) {
    let size = || device.journal().bytes().iter().map(Vec::len).sum::<usize>();
    let (before, start) = (size(), Instant::now());
    let mut child = device.spawn(&["run", "--plain", "--grace", "1"]);
    while size() == before {
        assert!(start.elapsed() < LIMIT, "no message");
        thread::sleep(Duration::from_micros(100));
    }
    let took = (millis(start.elapsed()), millis(cpu_time(child.id())));
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    took
}

/// The same of the floor, to the end of the process.
fn bare(device: &Device, component: &Path) -> (f64, f64) {
    let own = std::env::current_exe().expect("own path");
    let start = Instant::now();
    let mut child = Command::new(own)
        .arg(FLOOR)
        .arg(device.data())
        .arg(component)
        .stdout(Stdio::null())
        .spawn()
        .expect("the floor starts");
    // Waits, and leaves it there to be asked for its CPU time.
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).expect("it ends");
    let took = (millis(start.elapsed()), millis(cpu_time(child.id())));
    assert!(child.wait().expect("it has ended").success(), "the floor fails");
    took
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn compiled(device: &Device) -> PathBuf {
    let files = fs::read_dir(device.data().join("compiled")).expect("compiled components").flatten();
    let code =
        files.map(|file| file.path()).find(|path| path.extension().is_some_and(|extension| extension == "cwasm"));
    code.expect("a compiled component")
}

/// The process that is the floor: the engine alone, without router, documents, registry, logs or socket.
pub(crate) fn floor(data: &Path, component: &Path) {
    let settings = Settings {
        profile: Profile::Wide,
        cache: data.join("compiled"),
        precompiled: Vec::new(),
        private: Vec::new(),
        helper: HelperCommand::InProcess,
        limits: CompileLimits::default(),
        dumps: None,
    };
    let digest = component.file_name().and_then(|name| name.to_str()).and_then(|name| name.get(..64));
    let digest = format!("sha256:{}", digest.expect("named by its digest"));
    let artifact = Artifact {
        manifest_digest: digest.clone(),
        component_digest: digest,
        path: "/nowhere: it is compiled already".into(),
        stale: false,
        lease: Lease::default(),
    };
    let engine = WasmEngine::new(settings).expect("an engine");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(engine.load(&artifact, "compiled")).map(drop).expect("a component");
}
