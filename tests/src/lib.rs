//! What the whole-system tests share: other people's programs, started and stopped.
//!
//! No test stands here, and nothing of Marram's own: crates of the host use this package in their tests too.

pub mod registry;
