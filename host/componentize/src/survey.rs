//! What a core module asks for and offers, and what of it stands against a component. Reads validated modules; decides
//! nothing about types, which the encoder checks.

use std::collections::{BTreeMap, BTreeSet};

use wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as PREVIEW1;
use wasmparser::{ExternalKind, MemoryType, Parser, Payload, TypeRef};

use crate::{Adapter, Obstacle};

/// Names of one module that are shown; a module of a foreign host imports hundreds.
const SHOWN: usize = 4;
/// Longest part of a name that is shown, in characters.
const SHOWN_CHARS: usize = 60;
/// The program's entry in WASI preview 1.
const START: &str = "_start";
/// Sections with the types of a component's imports and exports begin so; wit-bindgen writes them.
const COMPONENT_TYPE: &str = "component-type";

/// A core module's imports and exports, as far as they matter here.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Functions it exports.
    pub(crate) functions: BTreeSet<String>,
    /// Names it imports, by module.
    imports: BTreeMap<String, BTreeSet<String>>,
    has_memory: bool,
    imports_memory: bool,
    is_threaded: bool,
    has_component_type: bool,
}

impl Survey {
    pub(crate) fn of(module: &[u8]) -> wasmparser::Result<Self> {
        let mut survey = Self::default();
        for payload in Parser::new(0).parse_all(module) {
            survey.read(payload?)?;
        }
        Ok(survey)
    }

    fn read(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        match payload {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    if let TypeRef::Memory(memory) = import.ty {
                        self.imports_memory = true;
                        self.see_memory(memory);
                    } else {
                        self.imports.entry(import.module.to_owned()).or_default().insert(import.name.to_owned());
                    }
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    self.see_memory(memory?);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    match export.kind {
                        ExternalKind::Func => drop(self.functions.insert(export.name.to_owned())),
                        ExternalKind::Memory => self.has_memory |= export.name == "memory",
                        _ => {}
                    }
                }
            }
            Payload::CustomSection(section) => self.has_component_type |= section.name().starts_with(COMPONENT_TYPE),
            _ => {}
        }
        Ok(())
    }

    fn see_memory(&mut self, memory: MemoryType) {
        self.is_threaded |= memory.shared;
    }

    /// Whether its exports show a program.
    pub(crate) fn is_program(&self) -> bool {
        self.functions.contains(START)
    }

    /// All that stands against adapting it, where the adapter has these functions.
    pub(crate) fn obstacles(&self, adapter: Adapter, offered: &BTreeSet<String>) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        let threads = self.is_threaded || self.imports.contains_key("wasi");
        if threads {
            let what = "it uses threads (shared memory, or `wasi` `thread-spawn`), which WASI 0.2 does not have";
            obstacles.push(Obstacle::new(what, "build it without threads, e.g. for wasm32-wasip1"));
        } else if self.imports_memory {
            let what = "it imports its memory, and a component's module has its own";
            obstacles.push(Obstacle::new(what, "link it without `--import-memory`"));
        }
        for (module, names) in &self.imports {
            obstacles.extend(self.import_obstacle(module, names, offered));
        }
        if self.imports.contains_key(PREVIEW1) && !self.has_memory && !self.imports_memory {
            let what = "it exports no memory named `memory`, in which the functions of WASI work";
            obstacles.push(Obstacle::new(what, "link it with a toolchain for wasm32-wasip1, which exports it"));
        }
        obstacles.extend(self.entry_obstacle(adapter));
        obstacles
    }

    fn import_obstacle(&self, module: &str, names: &BTreeSet<String>, offered: &BTreeSet<String>) -> Option<Obstacle> {
        match module {
            PREVIEW1 => {
                let missing: Vec<_> = names.iter().filter(|name| !offered.contains(*name)).collect();
                (!missing.is_empty()).then(|| {
                    let what =
                        format!("it imports {} of `{PREVIEW1}`, which the adapter does not have", shown(&missing));
                    Obstacle::new(what, "rebuild it with a current toolchain for wasm32-wasip1")
                })
            }
            "wasi_unstable" => {
                let what = "it imports `wasi_unstable`, which came before WASI preview 1";
                Some(Obstacle::new(what, "rebuild it with a current toolchain for wasm32-wasip1 or wasm32-wasip2"))
            }
            "wasi" => None,                                               // threads
            _ if is_interface(module) && self.has_component_type => None, // the encoder compares it with the type
            _ if is_interface(module) => {
                let what = format!("it imports `{}`, but carries no component type that tells of it", cut(module));
                Some(Obstacle::new(what, WIT_BINDGEN))
            }
            _ => {
                let names = shown(&names.iter().collect::<Vec<_>>());
                let what = format!("it imports {names} of `{}`, which is no interface of WASI", cut(module));
                let hint = "modules for JavaScript hosts (emscripten, wasm-bindgen) and functions that were missing when \
                     it was linked look so: build it for wasm32-wasip1 or wasm32-wasip2, with everything linked in";
                Some(Obstacle::new(what, hint))
            }
        }
    }

    fn entry_obstacle(&self, adapter: Adapter) -> Option<Obstacle> {
        match adapter {
            Adapter::Command if !self.is_program() => {
                let hint = "without `--adapter command` its exports tell what it is";
                Some(Obstacle::new("it exports no function `_start`, so that it is no program", hint))
            }
            Adapter::Reactor if !self.has_component_type => {
                let what = "it carries no component type, so that the component would export nothing";
                Some(Obstacle::new(what, WIT_BINDGEN))
            }
            _ => None,
        }
    }
}

/// What a module lacks that is neither a program nor made with bindings.
const WIT_BINDGEN: &str =
    "build it as a program, which exports `_start`, or with wit-bindgen for the interfaces of marram:edge";

impl Obstacle {
    fn new(what: impl Into<String>, hint: &'static str) -> Self {
        Self { what: what.into(), hint }
    }
}

/// `a:b/c@0.1.0`, `[export]a:b/c`, `$root`, and the later form `cm32p2|a:b/c`.
fn is_interface(module: &str) -> bool {
    module.contains(':')
        || module.starts_with("$root")
        || module.starts_with("[export]")
        || module.starts_with("cm32p2")
}

/// `` `a`, `b` and 7 more ``
fn shown(names: &[&String]) -> String {
    let first: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{}`", cut(name))).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) }
}

fn cut(name: &str) -> String {
    if name.chars().count() <= SHOWN_CHARS {
        return name.to_owned();
    }
    name.chars().take(SHOWN_CHARS).chain(['…']).collect()
}
