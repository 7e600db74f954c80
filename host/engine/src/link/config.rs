//! `wasi:config/store`: a module's desired properties as settings, for components that know nothing of twins. Which setting is
//! which property is `core::twin`'s.

use marram_core::twin::{setting, settings};
use serde_json::{Map, Value};
use wasmtime::{
    Result, StoreContextMut,
    component::{ComponentType, Linker, Lower},
};

use crate::state::GuestState;

/// The releases of the draft, which differ in their name only.
pub(crate) const INTERFACES: [&str; 2] = ["wasi:config/store@0.2.0-draft", "wasi:config/store@0.2.0-rc.1"];

type Cx<'a> = StoreContextMut<'a, GuestState>;

/// `error`.
#[derive(ComponentType, Lower, Debug)]
#[component(variant)]
enum Error {
    /// Never.
    #[component(name = "upstream")]
    #[allow(dead_code)] // a case of the interface
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    for interface in INTERFACES {
        let mut store = linker.instance(interface)?;
        store.func_wrap("get", |cx: Cx<'_>, (key,): (String,)| {
            Ok((desired(&cx).map(|desired| setting(&desired, &key)),))
        })?;
        store.func_wrap("get-all", |cx: Cx<'_>, (): ()| Ok((desired(&cx).map(|desired| settings(&desired)),)))?;
    }
    Ok(())
}

fn desired(cx: &Cx<'_>) -> std::result::Result<Map<String, Value>, Error> {
    serde_json::from_str(&cx.data().host.desired().json).map_err(|error| Error::Io(error.to_string()))
}
