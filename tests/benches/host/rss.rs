//! `rss.host`, `rss.10`, `rss.100`: the proportional set of a host with so many small handlers of one component, and its
//! page tables, which no set counts. After a warm start, before any message. `.device` is the build for devices, which
//! `MARRAM_DEVICE_BIN` names. Code comes from `marram compile`, for both builds.

use std::path::Path;

use marram_tests::{
    device::Device,
    figure::figure,
    manifest::Manifest,
    memory::Memory,
    program::{Answer, Layout, command, device_marram, guest, marram},
};

/// The component of the handlers.
const GUEST: &str = "forwarder";

/// Measures those of both builds that are wanted.
pub(crate) fn rss(name: &str, count: usize, wanted: &dyn Fn(&str) -> bool) {
    if wanted(name) {
        measure(name, count, &marram());
    }
    let name = format!("{name}.device");
    if wanted(&name) {
        measure(&name, count, &device_marram());
    }
}

fn measure(name: &str, count: usize, binary: &Path) {
    let (layout, code) = (Layout::with(&[GUEST]), tempfile::tempdir().expect("a temporary folder"));
    let made = Answer::of(command().arg("compile").arg(guest(GUEST)).arg("--output").arg(code.path()));
    let _ = made.ok();
    let device = Device::with_binary(binary);
    device.configure(&format!("[engine]\nprecompiled = [{:?}]\n", code.path().display().to_string()));
    let host = crate::started(&device, &crate::with_idle(Manifest::new(), &layout, count), count);
    let memory = Memory::of(host.pid());
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    figure(name, kib(memory.pss), "KiB PSS");
    figure(&format!("{name}.dirty"), kib(memory.private_dirty), "KiB private");
    figure(&format!("{name}.page-tables"), kib(memory.page_tables), "KiB");
    host.stop();
}
