//! Attacks on all that reads foreign bytes, as plain functions over bytes: one panics when the host would, or when a promise
//! does not hold. They run on stable, in the tests of this crate, over a kept corpus and changes of it; `cargo xtask fuzz`
//! links the same functions to libFuzzer (`libfuzzer/`).
//!
//! Knows no fuzzer, and is part of no host.

#![allow(clippy::unwrap_used)] // what panics here is a finding

mod agent_call;
pub mod change;
mod condition;
mod log;
mod manifest;
mod route;

pub use log::write_log;

/// What is attacked.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// The attack.
    pub attack: fn(&[u8]),
    /// What changes of an input put in, beside single bytes; none: the input is no text.
    pub words: &'static [&'static str],
}

/// A route text.
pub const ROUTE: Target = Target { name: "route", attack: route::attack, words: condition::WORDS };
/// The first line is a condition, what follows the body of the message that it is tried on.
pub const CONDITION: Target = Target { name: "condition", attack: condition::attack, words: condition::WORDS };
/// A deployment manifest.
pub const MANIFEST: Target = Target { name: "manifest", attack: manifest::attack, words: manifest::WORDS };
/// Changes of a kept message log, eight bytes each (`log.rs` has their form).
pub const LOG: Target = Target { name: "log", attack: log::attack, words: &[] };

/// The first line is the payload of a call of `$edgeAgent`, what follows the lines of a log that it may choose from.
pub const AGENT_CALL: Target = Target { name: "agent-call", attack: agent_call::attack, words: agent_call::WORDS };

/// Every target.
pub const TARGETS: [Target; 5] = [ROUTE, CONDITION, MANIFEST, LOG, AGENT_CALL];
