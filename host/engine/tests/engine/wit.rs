//! The engine links everything that `wit/` promises, with the types written there.

use std::path::Path;

use marram_core::ports::Exports;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

use crate::support::{Bench, Recorder, spec};

/// What makes a program of a world that has only imports.
const PROGRAM: &str = "package test:program;
world program { include marram:edge/program@0.1.0; export wasi:cli/run@0.2.0; }";

/// A component that imports and exports all of a world; every function of it traps.
fn component_of(world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (edge, _) = resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")).unwrap();
    resolve.push_str("run.wit", "package wasi:cli@0.2.0; interface run { run: func() -> result; }").unwrap();
    let program = resolve.push_str("program.wit", PROGRAM).unwrap();
    let package = if world == "program" { program } else { edge };
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

#[tokio::test]
async fn every_world_links_and_instantiates() {
    let bench = Bench::new();
    for (world, run, input, twin, timer, start) in [
        ("handler", false, true, false, false, false),
        ("configured-handler", false, true, true, false, false),
        ("sensor", false, false, true, true, true),
        ("program", true, false, false, false, false),
    ] {
        let component = bench.load(&component_of(world)).await.unwrap_or_else(|error| panic!("{world}: {error}"));
        assert_eq!(component.exports(), Exports { run, start, input, twin, timer }, "{world}");
        assert_eq!(component.imports_inbox(), run, "{world}");
        component.instantiate(&spec(|_| ()), Recorder::new()).await.unwrap_or_else(|exit| panic!("{world}: {exit:?}"));
    }
}
