//! The engine links everything that `wit/` promises, with the types written there.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

use crate::support::{Bench, Recorder, spec};

/// A component that imports and exports all of a world; every function of it traps.
fn component_of(world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

#[tokio::test]
async fn every_world_links_and_instantiates() {
    let bench = Bench::new();
    for (world, input, twin, timer, start) in [
        ("handler", true, false, false, false),
        ("configured-handler", true, true, false, false),
        ("sensor", false, true, true, true),
    ] {
        let component = bench.load(&component_of(world)).await.unwrap_or_else(|error| panic!("{world}: {error}"));
        let exports = component.exports();
        assert_eq!((exports.input, exports.twin, exports.timer, exports.start), (input, twin, timer, start), "{world}");
        component.instantiate(&spec(|_| ()), Recorder::new()).await.unwrap_or_else(|exit| panic!("{world}: {exit:?}"));
    }
}
