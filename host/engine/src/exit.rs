//! Turns the error that ended an instance into an [`Exit`] that an operator can read: code, one line, symbolised frames.

use marram_core::ports::Exit;
use wasmtime::{FrameInfo, WasmBacktrace};
use wasmtime_wasi::{I32Exit, ResourceTableError};

use crate::{limits, settings::MAX_FRAMES, state::HOSTCALL_BYTES};

/// Longest reason and longest frame in bytes: function names of generic code can be enormous.
const MAX_LINE_BYTES: usize = 512;

/// Why the host ends an instance; raised as a trap, so that the backtrace is kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// More memory or handles than allowed.
    #[error("{0}")]
    Memory(String),
    /// Too late.
    #[error("{0}")]
    Deadline(String),
    /// Broke a rule of the interface.
    #[error("{0}")]
    Rule(String),
}

impl Ended {
    fn code(&self) -> i32 {
        match self {
            Self::Memory(_) => Exit::MEMORY,
            Self::Deadline(_) => Exit::DEADLINE,
            Self::Rule(_) => Exit::TRAP,
        }
    }
}

/// What an error out of wasmtime means.
pub(crate) fn classify(error: &wasmtime::Error) -> Exit {
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return Exit::new(*code, format!("exited with code {code}"));
    }
    let (code, reason) = code_and_reason(error);
    Exit { code, reason: one_line(&reason), backtrace: backtrace(error), during: None, core_dump: None }
}

fn code_and_reason(error: &wasmtime::Error) -> (i32, String) {
    if let Some(ended) = error.downcast_ref::<Ended>() {
        return (ended.code(), ended.to_string());
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
        return (Exit::MEMORY, "too many open WASI resources (files, streams, timers)".into());
    }
    let root = error.root_cause().to_string();
    // Two errors of wasmtime that have no public type.
    if root.contains("handle limit exceeded") {
        return (Exit::MEMORY, "too many component handles".into());
    }
    if root.contains("fuel allocated for hostcalls") {
        let most = limits::bytes(HOSTCALL_BYTES as u64);
        return (Exit::TRAP, format!("passed more than {most} to the host in one call"));
    }
    (Exit::TRAP, root)
}

fn backtrace(error: &wasmtime::Error) -> Vec<String> {
    error.downcast_ref::<WasmBacktrace>().map_or_else(Vec::new, |trace| {
        trace.frames().iter().flat_map(frame_lines).map(|line| one_line(&line)).take(MAX_FRAMES.get()).collect()
    })
}

/// One line a frame; inlined functions, which only debug information tells, have lines of their own.
fn frame_lines(frame: &FrameInfo) -> Vec<String> {
    let function = || frame.func_name().map_or_else(|| format!("<function {}>", frame.func_index()), demangle);
    if frame.symbols().is_empty() {
        return vec![match frame.module().name() {
            Some(module) => format!("{module}!{}", function()),
            None => function(),
        }];
    }
    let place = |file: Option<&str>, line: Option<u32>| match (file, line) {
        (Some(file), Some(line)) => format!(" at {file}:{line}"),
        (Some(file), None) => format!(" at {file}"),
        _ => String::new(),
    };
    let line = |symbol: &wasmtime::FrameSymbol| {
        symbol.name().map_or_else(function, demangle) + &place(symbol.file(), symbol.line())
    };
    frame.symbols().iter().map(line).collect()
}

fn demangle(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// Cuts a text of a guest to one line of bounded length without control characters.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_LINE_BYTES));
    for c in text.trim().chars() {
        if line.len() + c.len_utf8() > MAX_LINE_BYTES {
            line.push('…');
            break;
        }
        line.push(if c.is_control() { ' ' } else { c });
    }
    line
}
