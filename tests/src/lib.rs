//! What the whole-system tests share: the built `marram` as a process, its journal, manifests, and other people's
//! programs. No test stands here.
//!
//! Nothing is mocked and nothing of Marram is linked in: what a test sees is what an operator sees. Crates of the host
//! use [`registry`] and [`server`] in their own tests too.

pub mod chance;
pub mod device;
pub mod figure;
pub mod host;
pub mod journal;
pub mod machine;
pub mod manifest;
pub mod memory;
pub mod mixed;
pub mod program;
pub mod receipts;
pub mod registry;
pub mod server;
pub mod skopeo;
pub mod wait;
pub mod wkg;
