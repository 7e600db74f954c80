//! Core modules, those of WASI preview 1 above all, become components of WASI 0.2. Bytes in, bytes out: touches no file,
//! runs nothing, and does not say whether a host would run the result.
//!
//! The work is `wit-component`'s, with the adapters of wasmtime's release. Ours is to say beforehand, and all at once, why a
//! module cannot be adapted. What the encoder does with a hostile module is not bounded here: call it in a process with
//! limits.

mod survey;

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as PREVIEW1, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER as COMMAND,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as REACTOR,
};
use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};
use wit_component::ComponentEncoder;

use survey::Survey;

/// What a module becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adapter {
    /// A program: its `_start` becomes `wasi:cli/run`.
    Command,
    /// Exports of its own, as its component type says; `_initialize` runs when it is instantiated.
    Reactor,
}

impl Adapter {
    /// `command` or `reactor`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Reactor => "reactor",
        }
    }

    fn module(self) -> &'static [u8] {
        match self {
            Self::Command => COMMAND,
            Self::Reactor => REACTOR,
        }
    }
}

/// A component that was made of a core module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// The binary, validated.
    pub bytes: Vec<u8>,
    /// What it was made into.
    pub adapter: Adapter,
}

/// Why a module did not become a component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComponentizeError {
    /// Nothing is to be done.
    #[error("it is a component already")]
    Component,
    /// The parser's words.
    #[error("it is not valid WebAssembly: {0}")]
    Invalid(String),
    /// Everything that stands against it.
    #[error("it cannot be adapted to WASI 0.2{}", listed(.0))]
    Unsuitable(Vec<Obstacle>),
    /// The encoder's words, with their causes.
    #[error("it does not fit the component model: {0}")]
    Encode(String),
}

/// One thing that stands against a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is, naming the import or export.
    pub what: String,
    /// What to try.
    pub hint: &'static str,
}

fn listed(obstacles: &[Obstacle]) -> String {
    obstacles.iter().fold(String::new(), |mut text, obstacle| {
        let _ = write!(text, "; {}", obstacle.what);
        text
    })
}

/// Whether these bytes begin as a core module does.
#[must_use]
pub fn is_core_module(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm\x01\0\0\0")
}

/// Makes a component of a core module. Without an `adapter` its exports decide: `_start` makes it a program.
///
/// # Errors
/// See [`ComponentizeError`]. A defect of the encoder counts as [`ComponentizeError::Encode`].
pub fn componentize(module: &[u8], adapter: Option<Adapter>) -> Result<Component, ComponentizeError> {
    if let Some(Ok(Payload::Version { encoding: Encoding::Component, .. })) = Parser::new(0).parse_all(module).next() {
        return Err(ComponentizeError::Component);
    }
    let invalid = |error: wasmparser::BinaryReaderError| ComponentizeError::Invalid(one_line(&error.to_string()));
    // All features: whether the engine has them is its own word.
    Validator::new_with_features(WasmFeatures::all()).validate_all(module).map_err(invalid)?;
    let survey = Survey::of(module).map_err(invalid)?;
    let adapter = adapter.unwrap_or(if survey.is_program() { Adapter::Command } else { Adapter::Reactor });
    let offered = Survey::of(adapter.module()).map_err(invalid)?.functions;
    let obstacles = survey.obstacles(adapter, &offered);
    if !obstacles.is_empty() {
        return Err(ComponentizeError::Unsuitable(obstacles));
    }
    // The encoder trusts the component type that a module carries in many places.
    let encoded = catch_unwind(AssertUnwindSafe(|| encode(module, adapter)));
    let bytes = encoded.unwrap_or_else(|_| Err("its component type makes no sense".into()));
    bytes.map(|bytes| Component { bytes, adapter }).map_err(ComponentizeError::Encode)
}

fn encode(module: &[u8], adapter: Adapter) -> Result<Vec<u8>, String> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|encoder| encoder.adapter(PREVIEW1, adapter.module()))
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| one_line(&format!("{error:#}")))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
