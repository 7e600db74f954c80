//! `scale.modules.1`, `.100`, `.1000`: CPU time of the process for a message from one guest to another, beside so many
//! modules that have nothing to do. The hosts take turns; the floor is the one with a single idle module.

use std::time::{Duration, Instant};

use marram_tests::{
    device::Device,
    figure::against,
    host::Host,
    manifest::{Manifest, Module},
    memory::cpu_time,
    program::Layout,
};
use serde_json::json;

/// Messages of a round: one look at the status of a thousand modules is then below a hundredth of its cost.
const MESSAGES: u64 = 100_000;
const ROUNDS: usize = 9;
const COUNTS: [usize; 3] = [1, 100, 1000];

pub(crate) fn modules() {
    let layout = Layout::with(&["misbehaving", "sink", "forwarder"]);
    let devices = COUNTS.map(|_| Device::new());
    let hosts: Vec<Host> = devices
        .iter()
        .zip(COUNTS)
        .map(|(device, count)| crate::started(device, &manifest(&layout, count), count + 2))
        .collect();
    let mut costs = vec![Vec::new(); COUNTS.len()];
    for round in 0..=ROUNDS {
        for ((host, device), costs) in hosts.iter().zip(&devices).zip(&mut costs) {
            let cost = flood(host, device, round);
            // The first one warms caches.
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    let floor = crate::median(costs[0].clone());
    for (count, costs) in COUNTS.iter().zip(costs) {
        against(&format!("scale.modules.{count}"), crate::median(costs), floor, "ns CPU/message");
    }
}

fn manifest(layout: &Layout, idle: usize) -> Manifest {
    let flood = Module::new(&layout.image("misbehaving")).limit("handlerTime", "1m");
    let route = r#"FROM /messages/modules/flood/* INTO BrokeredEndpoint("/modules/sink/inputs/in")"#;
    let manifest = Manifest::new().module("flood", flood).module("sink", Module::new(&layout.image("sink")));
    crate::with_idle(manifest.route("flood", route), layout, idle)
}

/// One round: CPU nanoseconds a message.
fn flood(host: &Host, device: &Device, round: usize) -> f64 {
    let ended = |host: &Host| host.log().matches(r#"{"flood""#).count() + host.log().matches(r#"{\"flood\""#).count();
    let (before, start) = (ended(host), cpu_time(host.pid()));
    if round == 0 {
        let command = json!({ "command": { "do": "flood", "count": MESSAGES, "bytes": 256 } });
        let _ = device.marram(&["twin", "set", "flood", &command.to_string()]).ok();
    } else {
        // It obeys its command again when it starts; its start is nothing beside so many messages.
        let _ = device.marram(&["restart", "flood"]).ok();
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    // Its log is read, not its socket: the host is not to work for us meanwhile.
    while ended(host) == before {
        assert!(Instant::now() < deadline, "the flood does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    host.wait("the sink to be done", |host| (host.queue("sink/in")["length"] == 0).then_some(()));
    (cpu_time(host.pid()) - start).as_nanos() as f64 / MESSAGES as f64
}
