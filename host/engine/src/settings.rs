//! What the owner of the host decides about the engine, and how that becomes a wasmtime configuration.

use std::{ffi::OsString, fmt, num::NonZeroUsize, path::PathBuf, str::FromStr, time::Duration};

use wasmtime::{Config, WasmBacktraceDetails};

use crate::dumps::Dumps;

/// Frames kept of a backtrace. Deeper ones tell little, and each is a line in a log.
pub(crate) const MAX_FRAMES: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// Guest stack. A quarter of a MiB runs JavaScript and Python guests; the fiber below must hold it and the host's frames.
const GUEST_STACK_BYTES: usize = 256 << 10;
/// Stack of a fiber: the guest's and as much for host functions and wasmtime itself. Address space until touched.
const FIBER_STACK_BYTES: usize = 512 << 10;

/// How an engine is set up. Everything here is fixed for the life of the engine.
#[derive(Clone)]
pub struct Settings {
    /// Layout of guest memory.
    pub profile: Profile,
    /// Folder of compiled components; made with mode 0700 if absent, refused if others may enter it.
    pub cache: PathBuf,
    /// Folders of code that was made ahead, with `marram compile`; searched in this order, before the cache. Never written.
    pub precompiled: Vec<PathBuf>,
    /// Folders of the host that no module may be granted, nor a folder that holds one of them: its state, other modules'
    /// state, what it fetched. The cache and, for writing, `precompiled` are never granted either.
    pub private: Vec<PathBuf>,
    /// Who compiles.
    pub helper: HelperCommand,
    /// Bounds of one compilation.
    pub limits: CompileLimits,
    /// Core dumps of instances that trap; none unless the owner wants them.
    pub dumps: Option<Dumps>,
}

/// Layout of guest memory. It is baked into compiled code, so each profile has cache entries of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// 4 GiB of address space a memory, no bounds checks: for 64-bit systems.
    #[default]
    Wide,
    /// 1 MiB of address space a memory at first, bounds checks (1.5 times the CPU time): for 39-bit kernels, `ulimit -v`
    /// and 32-bit systems.
    Narrow,
}

/// Who turns a component into machine code.
#[derive(Debug, Clone)]
pub enum HelperCommand {
    /// A child process, `program args… INPUT OUTPUT PROFILE [TARGET]`, which calls `compile_helper`. Compiling foreign
    /// code takes much memory and may crash: neither may happen to the host.
    Process {
        /// The binary, usually the host's own.
        program: PathBuf,
        /// What comes before the arguments above, e.g. `compile-helper`.
        args: Vec<OsString>,
    },
    /// This process, without limits: for tests.
    InProcess,
    /// Nobody: only code runs that was made ahead. The device build's only choice.
    Nobody,
}

/// Bounds of one compilation in a child process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// CPU time of the child.
    pub cpu: Duration,
    /// Wall-clock time, for a child that waits or is starved.
    pub wall: Duration,
    /// Address space of the child in bytes.
    pub address_space: u64,
}

impl Default for CompileLimits {
    /// A JavaScript or Python component takes 8 CPU-seconds and 400 MiB on a fast core; a slow device needs ten times the
    /// seconds, but not the memory. The rest of the address space is room for the binary and its allocator.
    fn default() -> Self {
        Self { cpu: Duration::from_secs(300), wall: Duration::from_secs(900), address_space: 2 << 30 }
    }
}

impl Profile {
    /// As written in `marram.toml` and in the helper's arguments.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Narrow => "narrow",
        }
    }

    /// The wasmtime configuration that the host and its compiler share; code compiled under another one does not load.
    pub(crate) fn config(self) -> Config {
        let mut config = Config::new();
        // Without it a call costs half as much; WASI 0.3 guests would need it and are refused.
        config.concurrency_support(false);
        config.epoch_interruption(true);
        // No toolchain for WASI 0.2 needs it, and sizes that overflow stay out of reach.
        config.wasm_memory64(false);
        config.memory_init_cow(true);
        config.max_wasm_stack(GUEST_STACK_BYTES);
        config.async_stack_size(FIBER_STACK_BYTES);
        config.wasm_backtrace_max_frames(Some(MAX_FRAMES));
        config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
        if self == Self::Narrow {
            config.memory_reservation(1 << 20);
            config.memory_reservation_for_growth(1 << 20);
            config.memory_guard_size(64 << 10);
        }
        config
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown engine profile `{0}` (wide, narrow)")]
pub struct ParseProfileError(String);

impl FromStr for Profile {
    type Err = ParseProfileError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Wide, Self::Narrow]
            .into_iter()
            .find(|profile| profile.as_str() == text)
            .ok_or_else(|| ParseProfileError(text.to_owned()))
    }
}
