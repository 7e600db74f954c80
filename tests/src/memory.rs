//! What a process holds, as the kernel counts it. Linux' `/proc`; see `proc(5)`.

use std::{fs, time::Duration};

/// Memory and threads of a process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes of its proportional set: its own pages, and its share of those that others use too (`Pss`).
    pub pss: u64,
    /// Bytes that are resident, shared ones counted whole (`Rss`).
    pub rss: u64,
    /// Bytes that only it uses (`Private_Clean` and `Private_Dirty`).
    pub private: u64,
    /// Bytes that only it uses and that cannot be read again from a file (`Private_Dirty`).
    pub private_dirty: u64,
    /// Bytes of its page tables, which no set counts (`VmPTE`).
    pub page_tables: u64,
    /// Its mappings; the kernel allows `vm.max_map_count`, 65,530 by default.
    pub mappings: usize,
    /// Its threads.
    pub threads: u64,
    /// Its open files.
    pub files: usize,
}

impl Memory {
    /// Of the process with this id.
    ///
    /// # Panics
    /// It has ended, or belongs to somebody else.
    #[must_use]
    #[track_caller]
    pub fn of(pid: u32) -> Self {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).expect("the process runs");
        let (rollup, status) = (read("smaps_rollup"), read("status"));
        Self {
            pss: field(&rollup, "Pss:") * 1024,
            rss: field(&rollup, "Rss:") * 1024,
            private: (field(&rollup, "Private_Clean:") + field(&rollup, "Private_Dirty:")) * 1024,
            private_dirty: field(&rollup, "Private_Dirty:") * 1024,
            page_tables: field(&status, "VmPTE:") * 1024,
            mappings: read("maps").lines().count(),
            threads: field(&status, "Threads:"),
            files: fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count(),
        }
    }
}

/// CPU time that the living threads of a process took so far (`schedstat`), to the nanosecond.
///
/// # Panics
/// It has ended.
#[must_use]
#[track_caller]
pub fn cpu_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").flatten();
    // A thread that ends between the two looks is left out.
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
    Duration::from_nanos(texts.filter_map(|text| text.split(' ').next()?.parse::<u64>().ok()).sum())
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a field of /proc");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_this_process_adds_up() {
        let memory = Memory::of(std::process::id());
        assert!(memory.rss >= memory.pss && memory.pss >= memory.private, "{memory:?}");
        assert!(memory.private >= memory.private_dirty && memory.private_dirty > 0, "{memory:?}");
        assert!(memory.threads > 0 && memory.mappings > 0 && memory.page_tables > 0, "{memory:?}");
    }
}
