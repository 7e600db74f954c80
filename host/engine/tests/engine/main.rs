//! The engine's promises, each attacked by a small real component that is written as text and compiled here.
//! Guests of real toolchains are tested in `/tests`, with the built binary.
#![allow(clippy::unwrap_used)]

mod cache;
mod core_dumps;
mod cpu;
mod guests;
mod inbox;
mod isolation;
mod limits;
mod messages;
mod methods;
mod precompiled;
mod programs;
mod refusals;
mod support;
mod wit;
