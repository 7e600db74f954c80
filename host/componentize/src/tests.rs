//! What becomes a component, and what is told of what does not.

use std::path::Path;

use proptest::prelude::*;
use wit_component::{StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{ManglingAndAbi, Resolve};

use super::*;

/// A program as a toolchain of WASI preview 1 makes it.
const PROGRAM: &str = r#"(module
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "_start") i32.const 0 call $exit))"#;

/// Handlers as wit-bindgen makes them: with a component type, and here with functions that trap.
fn handlers(world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Standard32);
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

fn exports(component: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload.unwrap() {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentExportSection(section) if depth == 0 => {
                names.extend(section.into_iter().map(|export| export.unwrap().name.name.to_owned()));
            }
            _ => {}
        }
    }
    names
}

/// All that is told of a module, in one text.
fn told(wat: &str, adapter: Option<Adapter>) -> String {
    componentize(&wat::parse_str(wat).unwrap(), adapter).unwrap_err().to_string()
}

#[test]
fn a_module_that_exports_start_becomes_a_program() {
    let component = componentize(&wat::parse_str(PROGRAM).unwrap(), None).unwrap();
    assert_eq!(component.adapter, Adapter::Command);
    let exports = exports(&component.bytes);
    assert!(matches!(&exports[..], [run] if run.starts_with("wasi:cli/run@0.2.")), "{exports:?}");
}

#[test]
fn a_module_with_a_component_type_becomes_handlers() {
    let component = componentize(&handlers("sensor"), None).unwrap();
    assert_eq!(component.adapter, Adapter::Reactor);
    let exports = exports(&component.bytes);
    for handler in ["start-handler", "timer-handler", "twin-handler"] {
        assert!(exports.contains(&format!("marram:edge/{handler}@0.1.0")), "{exports:?}");
    }
}

#[test]
fn the_same_module_gives_the_same_component() {
    let module = wat::parse_str(PROGRAM).unwrap();
    assert_eq!(componentize(&module, None), componentize(&module, Some(Adapter::Command)));
}

#[test]
fn each_obstacle_is_named() {
    let memory = r#"(memory (export "memory") 1)"#;
    let start = r#"(func (export "_start"))"#;
    let import = |module: &str, name: &str| format!(r#"(import "{module}" "{name}" (func))"#);
    let cases = [
        (format!("{} {memory} {start}", import("wasi_snapshot_preview1", "fd_teleport")), "`fd_teleport` of"),
        (format!("{} {memory} {start}", import("wasi_unstable", "fd_write")), "before WASI preview 1"),
        (format!("{} {memory} {start}", import("env", "emscripten_resize_heap")), "`emscripten_resize_heap` of `env`"),
        (format!("{} {memory} {start}", import("wasi", "thread-spawn")), "threads"),
        (format!(r#"(memory (export "memory") 1 2 shared) {start}"#), "threads"),
        (format!(r#"(import "env" "memory" (memory 1)) {start}"#), "imports its memory"),
        (format!("{} {start}", import("wasi_snapshot_preview1", "sched_yield")), "no memory named `memory`"),
        (format!("{} {start}", import("marram:edge/twin@0.1.0", "desired")), "no component type that tells of it"),
        (memory.to_owned(), "would export nothing"),
    ];
    for (module, expected) in cases {
        let told = told(&format!("(module {module})"), None);
        assert!(told.contains(expected), "{module}: {told}");
    }
    assert!(told(&format!("(module {memory})"), Some(Adapter::Command)).contains("no function `_start`"));
}

#[test]
fn all_obstacles_are_told_at_once() {
    let mut imports: String = (0..9).map(|n| format!(r#"(import "env" "f{n}" (func))"#)).collect();
    imports.push_str(r#"(import "wasi_unstable" "fd_write" (func))"#);
    let module = wat::parse_str(format!("(module {imports})")).unwrap();
    let Err(ComponentizeError::Unsuitable(obstacles)) = componentize(&module, None) else { panic!("it was adapted") };
    assert_eq!(obstacles.len(), 3, "{obstacles:?}");
    assert!(obstacles[0].what.contains("`f0`, `f1`, `f2`, `f3` and 5 more of `env`"), "{obstacles:?}");
    assert!(obstacles.iter().all(|obstacle| !obstacle.hint.is_empty()));
}

#[test]
fn what_the_encoder_finds_is_one_line() {
    // As it is named, but not of its type.
    let wrong = PROGRAM.replace("(param i32)", "(param i64)").replace("i32.const", "i64.const");
    let told = told(&wrong, None);
    assert!(told.starts_with("it does not fit the component model: ") && told.contains("proc_exit"), "{told}");
    assert!(!told.contains('\n'), "{told}");
}

#[test]
fn what_is_no_core_module_is_told() {
    assert!(matches!(componentize(b"", None), Err(ComponentizeError::Invalid(_))));
    assert!(matches!(componentize(b"\0asm\x01\0\0\0\xff", None), Err(ComponentizeError::Invalid(_))));
    let component = componentize(&wat::parse_str(PROGRAM).unwrap(), None).unwrap();
    assert_eq!(componentize(&component.bytes, None), Err(ComponentizeError::Component));
}

/// Where the component type of a module begins: the part that the encoder trusts most.
fn component_type_at(module: &[u8]) -> usize {
    let needle = b"component-type";
    module.windows(needle.len()).position(|window| window == needle).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn no_bytes_make_it_panic(at in 0.0..1.0_f64, new in any::<[u8; 2]>(), cut in any::<bool>(), in_type: bool) {
        let mut module = handlers("handler");
        let from = if in_type { component_type_at(&module) } else { 0 };
        let at = from + ((module.len() - from - 2) as f64 * at) as usize;
        module[at..at + 2].copy_from_slice(&new);
        if cut {
            module.truncate(at + 2);
        }
        let _ = componentize(&module, None);
    }
}
