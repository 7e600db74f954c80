//! One sum over everything that a guest makes the host keep: core instances, linear memories, tables, held messages.
//! Whoever would exceed the limit is stopped with a reason, instead of a `memory.grow` that fails and a guest that panics
//! without one. Growth is never given back: wasmtime reports a failure alike whether it asked before or not, so a guest
//! could make it give back what it holds. Growth that the system refused stays counted; such a guest is near its end.

use wasmtime::ResourceLimiter;

use crate::exit::Ended;

/// Bytes of a table element: a pointer on 64-bit systems.
const TABLE_ELEMENT_BYTES: u64 = 8;
/// Core instances of one component. JavaScript components have about ten, Python ones with native libraries thirty.
pub(crate) const MAX_INSTANCES: usize = 64;
/// Linear memories of one component. Each takes 4 GiB of address space under the wide profile.
const MAX_MEMORIES: usize = 32;
/// Tables of one component.
const MAX_TABLES: usize = 256;

/// Memory of one instance. Part of the store's data.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    instances: u64,
    linear: u64,
    tables: u64,
    messages: u64,
}

impl Memory {
    /// Nothing used yet.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, instances: 0, linear: 0, tables: 0, messages: 0 }
    }

    /// What may be used.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// What is used now.
    pub(crate) fn used(&self) -> u64 {
        self.instances + self.linear + self.tables + self.messages
    }

    /// Whether `more` bytes fit; `what` is the subject of the reason if they do not.
    ///
    /// # Errors
    /// [`Ended::Memory`].
    pub(crate) fn check(&self, more: u64, what: &str) -> Result<(), Ended> {
        match self.used().checked_add(more) {
            Some(total) if total <= self.limit => Ok(()),
            _ => Err(Ended::Memory(format!(
                "memory limit of {} exceeded: {what} asked for {} more, {} are in use (limits.memory)",
                bytes(self.limit),
                bytes(more),
                bytes(self.used()),
            ))),
        }
    }

    /// Counts what the core instances cost besides memories and tables (see [`crate::cost`]), before they are made.
    pub(crate) fn take_instances(&mut self, more: u64) -> Result<(), Ended> {
        self.check(more, "the component's globals, functions and instances")?;
        self.instances += more;
        Ok(())
    }

    /// Counts the bytes of a message that the guest holds from now on.
    pub(crate) fn take(&mut self, more: u64) -> Result<(), Ended> {
        self.check(more, "a message")?;
        self.messages += more;
        Ok(())
    }

    /// Counts a message no more.
    pub(crate) fn give_back(&mut self, less: u64) {
        self.messages = self.messages.saturating_sub(less);
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false); // the module's own declaration: an ordinary failure of memory.grow
        }
        let more = desired.saturating_sub(current) as u64;
        self.check(more, "linear memory")?;
        self.linear += more;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let more = (desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES);
        self.check(more, "a table")?;
        self.tables += more;
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }
}

/// `64 MiB`, `12.5 KiB`, `17 bytes`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) if count.is_multiple_of(unit) => format!("{} {name}", count / unit),
        Some((unit, name)) => format!("{:.1} {name}", count as f64 / unit as f64),
        None => format!("{count} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_tables_and_messages_share_one_limit() {
        let mut memory = Memory::new(200 << 10);
        assert!(memory.memory_growing(0, 64 << 10, None).unwrap());
        assert!(memory.memory_growing(0, 64 << 10, None).unwrap());
        assert!(memory.table_growing(0, 1024, None).unwrap());
        memory.take(64 << 10).unwrap();
        assert_eq!(memory.used(), 200 << 10);
        assert!(memory.take(1).is_err());
        assert!(memory.table_growing(1024, 1025, None).is_err());
        assert!(memory.memory_growing(64 << 10, 128 << 10, None).is_err());
        memory.give_back(64 << 10);
        assert!(memory.memory_growing(64 << 10, 128 << 10, None).unwrap());
    }

    #[test]
    fn a_failure_that_nobody_announced_gives_nothing_back() {
        let mut memory = Memory::new(1 << 20);
        assert!(memory.memory_growing(0, 64 << 10, None).unwrap());
        assert!(memory.table_growing(0, 1024, None).unwrap());
        let used = memory.used();
        // wasmtime says only this when the new size is beyond any number.
        memory.memory_grow_failed(wasmtime::Error::msg("overflow")).unwrap();
        memory.table_grow_failed(wasmtime::Error::msg("overflow")).unwrap();
        assert_eq!(memory.used(), used);
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(64 << 20), "64 MiB");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(17), "17 bytes");
    }
}
