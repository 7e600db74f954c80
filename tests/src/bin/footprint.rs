//! Measures what an idle host takes: memory and threads with 0, 1, 10 and 100 modules, as one JSON line each. `cargo xtask
//! footprint` runs it for both builds and writes the table; what is measured, `docs/footprint.md` says.

#![allow(clippy::print_stdout)] // a tool

use std::{path::Path, thread, time::Duration};

use marram_tests::{
    device::Device,
    manifest::{Manifest, Module},
    memory::Memory,
    program::{Answer, Layout, command, device_marram, guest, marram},
};
use serde_json::json;

/// The guest: a timer a second, a message each.
const GUEST: &str = "hello_marram";
/// How many modules run it.
const MODULES: [usize; 4] = [0, 1, 10, 100];
/// Messages of each module before the host counts as warmed up.
const MESSAGES: usize = 3;
/// Looks, one after the other; the one with the median memory counts.
const LOOKS: usize = 5;
/// Pause between two looks, so that they see different moments of the second.
const PAUSE: Duration = Duration::from_millis(300);

fn main() {
    let (layout, code) = (Layout::with(&[GUEST]), tempfile::tempdir().expect("a temporary folder"));
    let made = Answer::of(command().arg("compile").arg(guest(GUEST)).arg("--output").arg(code.path()));
    let _ = made.ok();
    for (build, binary) in [("full", marram()), ("device", device_marram())] {
        for modules in MODULES {
            let memory = measure(&binary, &layout, code.path(), modules);
            println!(
                "{}",
                json!({
                    "build": build, "modules": modules, "rss": memory.rss, "pss": memory.pss,
                    "private": memory.private, "dirty": memory.private_dirty, "pageTables": memory.page_tables,
                    "threads": memory.threads,
                })
            );
        }
    }
}

/// Of a host that was started again from what it had stored: nothing was fetched or compiled by this process.
fn measure(binary: &Path, layout: &Layout, code: &Path, modules: usize) -> Memory {
    let device = Device::with_binary(binary);
    device.configure(&format!("[engine]\nprecompiled = [{:?}]\n", code.display().to_string()));
    let names: Vec<_> = (0..modules).map(|number| format!("hello-{number}")).collect();
    let module =
        |manifest: Manifest, name: &String| manifest.module(name, Module::new(&layout.image(GUEST))).upstream(name);
    let manifest = names.iter().fold(Manifest::new(), module);
    let first = device.start(&manifest);
    names.iter().for_each(|name| drop(first.wait_for_status(name, "running")));
    first.stop();

    let (host, mut journal) = (device.start_stored(&[]), device.journal());
    names.iter().for_each(|name| drop(host.wait_for_status(name, "running")));
    let _ = journal.wait_for_more(MESSAGES * modules);
    let mut looks: Vec<_> = (0..LOOKS)
        .map(|_| {
            thread::sleep(PAUSE);
            Memory::of(host.pid())
        })
        .collect();
    looks.sort_by_key(|memory| memory.pss);
    host.stop();
    looks[LOOKS / 2]
}
