//! The host as a process, as devices run it: `start.cold` (how soon it works), `rss.*` (what it holds), `scale.modules`
//! (what a message costs beside many modules). The binary is `MARRAM_BIN`, which `cargo xtask bench` builds and sets.
//!
//! CPU time is that of the process by the kernel's count. Prints a JSON line a figure: `{"name","value","unit"}`, and
//! `"floor","ratio"` where there is something to compare with.

#[path = "../hop/report.rs"]
#[allow(dead_code)] // shared with the other bench
mod report;
mod rss;
mod scale;
mod start;

use marram_tests::{
    device::Device,
    host::Host,
    manifest::{Manifest, Module},
    program::Layout,
};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [flag, data, component] = &args[..]
        && flag == start::FLOOR
    {
        return start::floor(data.as_ref(), component.as_ref());
    }
    let wanted = |figure: &str| report::wanted(&args, figure);
    if wanted("start.cold") {
        start::cold();
    }
    for (name, count) in [("rss.host", 0), ("rss.10", 10), ("rss.100", 100)] {
        rss::rss(name, count, &wanted);
    }
    if wanted("scale.modules") {
        scale::modules();
    }
}

/// Adds forwarders that nobody sends to, each with a route of its own: they are there, and have nothing to do.
fn with_idle(manifest: Manifest, layout: &Layout, count: usize) -> Manifest {
    (0..count).fold(manifest, |manifest, index| {
        let name = format!("idle{index:04}");
        let into = format!(r#"INTO BrokeredEndpoint("/modules/{name}/inputs/in")"#);
        let route = format!("FROM /messages/modules/nobody/outputs/o{index} {into}");
        manifest.module(&name, Module::new(&layout.image("forwarder"))).route(&name, &route)
    })
}

/// Starts a host whose components are compiled already, and waits until all of its modules run.
fn started(device: &Device, manifest: &Manifest, modules: usize) -> Host {
    let all_run = |host: &Host| {
        host.wait("all modules to run", |host| {
            let status = host.status();
            let list = status["modules"].as_array().expect("a list");
            (list.iter().filter(|module| module["status"] == "running").count() == modules).then_some(())
        });
    };
    let first = device.start(manifest);
    all_run(&first);
    first.stop();
    let host = device.start_stored(&[]);
    all_run(&host);
    host
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
