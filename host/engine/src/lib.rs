//! Runs WebAssembly components on wasmtime 48: implements [`marram_core::ports::Engine`].
//!
//! Compiles in a child process, keeps compiled code in a verified folder, links `wit/` and WASI 0.2, and ends an instance
//! that breaks a limit with a readable [`marram_core::ports::Exit`], never the host. Knows nothing of routes, twins'
//! storage, restart policies or registries: those lie behind `ModuleHost` and the agent.

mod cache;
mod check;
mod compile;
mod component;
mod core_dump;
mod cost;
mod cpu;
mod deadline;
mod dumps;
mod engine;
mod exit;
mod instance;
mod keep;
mod limits;
mod link;
mod log;
mod messages;
#[cfg(feature = "compiler")]
mod precompile;
mod precompiled;
mod settings;
mod state;
mod target;
mod ticker;
mod wasi;

pub use cache::WASMTIME as WASMTIME_VERSION;
pub use check::{ComponentKind, Refusal, Surface, survey};
pub use compile::CompileError;
#[cfg(feature = "compiler")]
pub use compile::compile_helper;
pub use dumps::{DumpFolder, Dumps, MIN_INTERVAL};
pub use engine::{EngineError, WasmEngine};
#[cfg(feature = "compiler")]
pub use precompile::{Precompile, PrecompileError, Precompiled, precompile};
pub use settings::{CompileLimits, HelperCommand, ParseProfileError, Profile, Settings};
pub use target::{ParseTargetError, Target};

/// Exit code of an instance that could not be set up (a folder to be mounted is missing): what shells and container
/// engines answer for "cannot be invoked".
pub const EXIT_CANNOT_START: i32 = 126;
