//! Reads what a WebAssembly binary is and which names it imports and exports. Compiles nothing, runs nothing.

use wasmparser::{Encoding, Parser, Payload, Validator, WasmFeatures};

use crate::failure::Failure;

/// Bytes that tell a component from a core module.
pub(crate) const PREAMBLE_BYTES: usize = 8;
const COMPONENT: [u8; PREAMBLE_BYTES] = *b"\0asm\x0d\0\x01\0";
const CORE_MODULE: [u8; PREAMBLE_BYTES] = *b"\0asm\x01\0\0\0";
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What to do with a core module.
const BUILD_A_COMPONENT: &str = "it is a core WebAssembly module, not a component; build it for wasm32-wasip2, or make \
    it a component with `marram module componentize`";

/// What a binary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A component: what Marram runs.
    Component,
    /// A core module.
    CoreModule,
}

/// What a binary says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Component or core module.
    pub kind: Kind,
    /// Names as in the binary, sorted, each once: `wasi:cli/environment@0.2.6`. Of a core module: module names.
    pub imports: Vec<String>,
    /// Names as in the binary, sorted, each once: `wasi:cli/run@0.2.6`.
    pub exports: Vec<String>,
}

/// Validates a binary and lists its imports and exports.
///
/// # Errors
/// It is not valid WebAssembly; one line says where and why.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, String> {
    let head = &bytes[..bytes.len().min(PREAMBLE_BYTES)];
    if head != COMPONENT && head != CORE_MODULE {
        return Err(not_wasm(head));
    }
    // All features: whether a component can run is the engine's word, not ours.
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    validator.validate_all(bytes).map_err(|err| format!("it is not valid WebAssembly: {}", one_line(&err)))?;
    read_names(bytes).map_err(|err| format!("it is not valid WebAssembly: {}", one_line(&err)))
}

fn read_names(bytes: &[u8]) -> wasmparser::Result<Inspection> {
    let mut kind = Kind::CoreModule;
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    // Nested modules and components have names of their own, which are not the binary's.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding: Encoding::Component, .. } if depth == 0 => kind = Kind::Component,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            Payload::ComponentImportSection(section) => {
                for import in section {
                    imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    exports.push(export?.name.name.to_owned());
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    imports.push(import?.module.to_owned());
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    exports.push(export?.name.to_owned());
                }
            }
            _ => {}
        }
    }
    for names in [&mut imports, &mut exports] {
        names.sort_unstable();
        names.dedup();
    }
    Ok(Inspection { kind, imports, exports })
}

/// Whether something starts as a component does.
pub(crate) fn is_component(head: &[u8]) -> bool {
    head == COMPONENT
}

/// Refuses what does not start as a component does.
pub(crate) fn check_preamble(head: &[u8]) -> Result<(), Failure> {
    if is_component(head) {
        return Ok(());
    }
    Err(Failure::refused(if head == CORE_MODULE { BUILD_A_COMPONENT.to_owned() } else { not_wasm(head) }))
}

/// Refuses a core module.
pub(crate) fn check_component(inspection: &Inspection) -> Result<(), String> {
    match inspection.kind {
        Kind::Component => Ok(()),
        Kind::CoreModule => Err(BUILD_A_COMPONENT.to_owned()),
    }
}

fn not_wasm(head: &[u8]) -> String {
    if head.starts_with(&GZIP) || head.starts_with(&ZSTD) {
        return "it is compressed; a component is stored as it is (`application/wasm`)".to_owned();
    }
    "it is not a WebAssembly component (its first bytes are not a component's)".to_owned()
}

fn one_line(err: &wasmparser::BinaryReaderError) -> String {
    err.to_string().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: &str = r#"(component
        (import "wasi:cli/environment@0.2.6" (instance))
        (import "marram:edge/twin@0.1.0" (instance))
        (core module (import "hidden" "f" (func)) (export "secret" (memory 0)) (memory 0))
        (component (import "inner:a/b" (instance)))
        (instance $i)
        (export "wasi:cli/run@0.2.6" (instance $i)))"#;

    #[test]
    fn the_names_of_a_component_are_its_own_not_those_of_what_is_nested() {
        let found = inspect(&wat::parse_str(NESTED).unwrap()).unwrap();
        assert_eq!(found.kind, Kind::Component);
        assert_eq!(found.imports, ["marram:edge/twin@0.1.0", "wasi:cli/environment@0.2.6"]);
        assert_eq!(found.exports, ["wasi:cli/run@0.2.6"]);
    }

    #[test]
    fn a_core_module_is_told_from_a_component() {
        let text =
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (func (export "_start")))"#;
        let found = inspect(&wat::parse_str(text).unwrap()).unwrap();
        assert_eq!(found.kind, Kind::CoreModule);
        assert_eq!((found.imports, found.exports), (vec!["wasi_snapshot_preview1".into()], vec!["_start".into()]));
    }

    #[test]
    fn what_is_not_wasm_is_named() {
        assert!(inspect(b"").unwrap_err().contains("not a WebAssembly component"));
        assert!(inspect(b"\x1f\x8b\x08\0\0\0\0\0").unwrap_err().contains("compressed"));
        assert!(inspect(b"\0asm\x0d\0\x01\0\xff").unwrap_err().contains("not valid"));
        let cut = &wat::parse_str(NESTED).unwrap()[..40];
        assert!(inspect(cut).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(tail in proptest::collection::vec(0_u8.., 0..64), core: bool) {
            let mut bytes = if core { CORE_MODULE.to_vec() } else { COMPONENT.to_vec() };
            bytes.extend(tail);
            let _ = inspect(&bytes);
        }
    }
}
