//! `marram version`: what this binary is.

use serde_json::json;

use crate::{
    absent,
    args::{Format, Version},
    failure::Failure,
    output,
};

pub(crate) fn version(args: Version) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let wasmtime = marram_engine::WASMTIME_VERSION;
    let target = env!("MARRAM_TARGET");
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let features = absent::built_in();
    let text = match args.format {
        Format::Json => json!({
            "version": version, "wasmtime": wasmtime, "target": target, "profile": profile, "features": features,
        })
        .to_string(),
        Format::Text => {
            let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
            format!("marram {version}\nwasmtime {wasmtime}\ntarget {target}\nprofile {profile}\nfeatures {features}")
        }
    };
    output::data(&format!("{text}\n"))
}
