//! Brings components to the device: image references, OCI registries and OCI image layouts, a cache keyed by content.
//!
//! Nothing that comes from outside is believed: sizes are bounded before and while bytes arrive, every digest is computed
//! here over the bytes that are kept, and a file in the cache is checked again before its first use in a process.
//! Signatures are not checked here, components are not compiled here, and nothing here is process-wide.

// Here and there something is used by a push alone; where there is none, the linker leaves it out.
#![cfg_attr(not(feature = "push"), allow(dead_code))]

mod answer;
mod auth;
mod cache;
mod credential_helper;
mod describe;
mod digest;
mod docker_config;
mod download;
mod failure;
mod fetch;
mod http;
mod image;
mod inspect;
mod keep;
mod layout;
mod manifest;
mod mirror;
mod partial;
mod proxy;
#[cfg(feature = "push")]
mod push;
mod range;
mod retry;
mod session;
mod settings;
mod signatures;
mod source;

pub use describe::{Description, Part};
pub use digest::{BadDigest, Digest};
pub use docker_config::check_docker_config;
pub use fetch::Registry;
pub use image::{Authority, BadImage, Image, LayoutImage, RemoteImage};
pub use inspect::{Inspection, Kind, inspect};
pub use mirror::Mirror;
pub use proxy::Proxy;
#[cfg(feature = "push")]
pub use push::{PushError, PushResult};
pub use settings::{
    DEFAULT_CONCURRENT_DOWNLOADS, DEFAULT_MAX_COMPONENT_BYTES, DEFAULT_MAX_MANIFEST_BYTES, Settings, SettingsError,
    Timeouts,
};
pub use signatures::{Signature, SignatureKind};
