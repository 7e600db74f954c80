//! `rss.host`, `rss.10`, `rss.100`: the proportional set of a host with so many small handlers of one component, and its
//! page tables, which no set counts. After a warm start, before any message.

use marram_tests::{device::Device, figure::figure, manifest::Manifest, memory::Memory, program::Layout};

pub(crate) fn rss(name: &str, count: usize) {
    let (layout, device) = (Layout::with(&["forwarder"]), Device::new());
    let host = crate::started(&device, &crate::with_idle(Manifest::new(), &layout, count), count);
    let memory = Memory::of(host.pid());
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    figure(name, kib(memory.pss), "KiB PSS");
    figure(&format!("{name}.dirty"), kib(memory.private_dirty), "KiB private");
    figure(&format!("{name}.page-tables"), kib(memory.page_tables), "KiB");
    host.stop();
}
