//! The host side of `wit/`: everything a guest may import. `types` and `messaging` carry every message, so they are bound
//! by hand, which saves a copy and an allocation a call; the rest is generated from the WIT files. A test links a
//! component that imports the whole of `wit/`, so neither can differ from it.

mod config;
mod control;
mod durable;
mod files;
mod inbox;
mod keyvalue;
mod messaging;
mod methods;
mod types;
mod wasi_messaging;

pub(crate) use types::{MessageTag, Nack, settlement};
pub(crate) use wasi_messaging::{WasiError, WasiMessageTag, settlement as wasi_settlement};

use wasmtime::{Engine, Result, component::Linker};

use crate::state::GuestState;

/// Interfaces of other people that are offered as adapters, with the versions of their drafts.
pub(crate) fn adapters() -> impl Iterator<Item = &'static str> {
    config::INTERFACES.into_iter().chain(keyvalue::INTERFACES).chain(wasi_messaging::INTERFACES)
}

/// A linker with all of `marram:edge`, WASI 0.2 and the adapters.
///
/// # Errors
/// A name is defined twice; a bug.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    files::bound(&mut linker)?;
    types::add_to_linker(&mut linker)?;
    messaging::add_to_linker(&mut linker)?;
    inbox::add_to_linker(&mut linker)?;
    control::add_to_linker(&mut linker)?;
    methods::add_to_linker(&mut linker)?;
    durable::add_to_linker(&mut linker)?;
    config::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker)?;
    wasi_messaging::add_to_linker(&mut linker)?;
    Ok(linker)
}
