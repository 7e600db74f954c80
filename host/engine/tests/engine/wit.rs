//! The engine links everything that `wit/` promises, with the types written there.

use std::path::Path;

use marram_core::ports::Exports;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, PackageId, Resolve};

use crate::support::{Bench, Recorder, spec};

/// What makes a program of a world that has only imports.
const PROGRAM: &str = "package test:program;
world program { include marram:edge/program@0.1.0; export wasi:cli/run@0.2.0; }";

/// A component of other people's: all that the adapters offer.
const ADAPTERS: &str = "package test:adapters;
world adapters {
  include wasi:config/imports@0.2.0-rc.1;
  include wasi:keyvalue/imports@0.2.0-draft;
  include wasi:messaging/messaging@0.2.0-draft;
}";

/// The text of an adapter's interfaces.
fn adapter(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/adapters").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// A component that imports and exports all of a world; every function of it traps.
fn component_of(world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (edge, _) = resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")).unwrap();
    resolve.push_str("run.wit", "package wasi:cli@0.2.0; interface run { run: func() -> result; }").unwrap();
    let program = resolve.push_str("program.wit", PROGRAM).unwrap();
    for name in ["wasi-config.wit", "wasi-keyvalue.wit", "wasi-messaging.wit"] {
        resolve.push_str(name, &adapter(name)).unwrap();
    }
    let adapters = resolve.push_str("adapters.wit", ADAPTERS).unwrap();
    let package = match world {
        "program" => program,
        "adapters" => adapters,
        _ => edge,
    };
    encode(resolve, package, world)
}

fn encode(resolve: Resolve, package: PackageId, world: &str) -> Vec<u8> {
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

#[tokio::test]
async fn every_world_links_and_instantiates() {
    let bench = Bench::new();
    for (world, run, input, twin, timer, start, method) in [
        ("handler", false, true, false, false, false, false),
        ("configured-handler", false, true, true, false, false, false),
        ("sensor", false, false, true, true, true, false),
        ("responder", false, false, false, false, false, true),
        ("program", true, false, false, false, false, false),
        ("adapters", false, true, false, false, false, false),
    ] {
        let component = bench.load(&component_of(world)).await.unwrap_or_else(|error| panic!("{world}: {error}"));
        assert_eq!(component.exports(), Exports { run, start, input, twin, timer, method }, "{world}");
        assert_eq!(component.imports_inbox(), run, "{world}");
        component.instantiate(&spec(|_| ()), Recorder::new()).await.unwrap_or_else(|exit| panic!("{world}: {exit:?}"));
    }
}

#[tokio::test]
async fn the_older_name_of_the_configuration_links_too() {
    let mut resolve = Resolve::default();
    let text = adapter("wasi-config.wit").replace("0.2.0-rc.1", "0.2.0-draft");
    resolve.push_str("config.wit", &text).unwrap();
    resolve.push_str("run.wit", "package wasi:cli@0.2.0; interface run { run: func() -> result; }").unwrap();
    let world = "package test:old; world old { include wasi:config/imports@0.2.0-draft; export wasi:cli/run@0.2.0; }";
    let package = resolve.push_str("old.wit", world).unwrap();
    Bench::new().load(&encode(resolve, package, "old")).await.unwrap();
}
