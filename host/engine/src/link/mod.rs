//! The host side of `wit/`: everything a guest may import. `types` and `messaging` carry every message, so they are bound
//! by hand, which saves a copy and an allocation a call; the rest is generated from the WIT files. A test links a
//! component that imports the whole of `wit/`, so neither can differ from it.

mod control;
mod files;
mod inbox;
mod messaging;
mod types;

pub(crate) use types::{MessageTag, Nack, settlement};

use wasmtime::{Engine, Result, component::Linker};

use crate::state::GuestState;

/// A linker with all of `marram:edge` and WASI 0.2.
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
    Ok(linker)
}
