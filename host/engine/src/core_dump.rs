//! The core dump of an instance that trapped, in the form that debuggers of WebAssembly read:
//! <https://github.com/WebAssembly/tool-conventions/blob/main/Coredump.md>. Written from the memories of the store to the
//! file, without a copy of them; within a bound, beyond which the rest of the memories is left out and counted. Nothing is
//! known here of folders, nor of when there is a dump ([`crate::dumps`]).
//!
//! wasmtime's own `WasmCoreDump::serialize` makes the same out of the same, but in two copies of all memories in the heap,
//! without a bound, and it panics for components whose adapters import globals of the component itself.

use std::{
    collections::HashMap,
    fmt::Debug,
    io::{self, Write},
};

use serde::Serialize;
use wasm_encoder::{
    ConstExpr, CoreDumpInstancesSection, CoreDumpModulesSection, CoreDumpSection, CoreDumpStackSection, CustomSection,
    Encode, GlobalSection, HeapType, MemorySection, RefType,
};
use wasmtime::{Extern, Instance, Memory, Module, Mutability, Store, Val, ValType, WasmCoreDump};

use crate::exit::one_line;

/// Memory is looked at in pieces of this size; those of zeros are not written.
const PIECE: usize = 4 << 10;
/// Globals of all core instances that a dump holds. Toolchains make a dozen; a guest may have a million.
const MAX_GLOBALS: usize = 4096;
/// Exports that are looked at for whom an import comes from, as above.
const MAX_EXPORTS: usize = 4096;
/// Stands for a memory or a global of which the dump does not know which it is, as in wasmtime's own dumps.
const UNKNOWN: u32 = u32::MAX;
/// What the lengths of the data section take at the most: its size, and the number of its segments.
const DATA_HEAD: u64 = 12;
/// The data section's.
const DATA: u8 = 11;

/// What the dump says of itself, in the custom section `marram`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct About<'a> {
    pub(crate) module: &'a str,
    pub(crate) image: &'a str,
    pub(crate) exit_code: i32,
    pub(crate) reason: &'a str,
}

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    /// Even without any memory.
    #[error("its frames and globals alone take {needed} bytes, more than the {max} that it may have")]
    TooLarge { needed: u64, max: u64 },
    #[error("cannot write it")]
    Disk(#[from] io::Error),
}

/// A dump that is ready to be written, and how long it will be.
pub(crate) struct Encoded<'a, T: 'static> {
    store: &'a Store<T>,
    memories: &'a [Memory],
    head: Vec<u8>,
    tail: Vec<u8>,
    data: Data,
    /// Of memory that is to be written.
    budget: u64,
}

/// What of the memories fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Data {
    segments: u32,
    /// With their heads.
    bytes: u64,
    /// Of memory that does not fit; zeros do not count.
    left_out: u64,
}

impl<'a, T> Encoded<'a, T> {
    /// Everything but the memories, and what of them fits in `max` bytes: from their beginnings, where stack and statics lie.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`].
    pub(crate) fn new(
        dump: &'a WasmCoreDump,
        store: &'a mut Store<T>,
        about: &About<'_>,
        max: u64,
    ) -> Result<Self, EncodeError> {
        let mut head = Vec::from(wasm_encoder::Module::HEADER);
        section(&mut head, &CoreDumpSection::new(one_line(about.image)));
        section(&mut head, &memories(dump, store));
        section(&mut head, &globals(dump, store));
        let mut tail = Vec::new();
        threads(&mut tail, dump, store);
        let needed = (head.len() + tail.len() + own_section(about, u64::MAX).len()) as u64 + DATA_HEAD;
        let Some(budget) = max.checked_sub(needed) else { return Err(EncodeError::TooLarge { needed, max }) };
        let memories = dump.memories();
        let data = segments(store, memories, budget, |_, _| Ok(()))?;
        tail.extend(own_section(about, data.left_out));
        Ok(Self { store, memories, head, tail, data, budget })
    }

    /// Of the whole dump.
    pub(crate) fn bytes(&self) -> u64 {
        let data = self.data_head().len() as u64 + self.data.bytes;
        (self.head.len() + self.tail.len()) as u64 + data
    }

    /// Bytes of the memories that did not fit.
    pub(crate) fn left_out(&self) -> u64 {
        self.data.left_out
    }

    /// Writes it from the front.
    ///
    /// # Errors
    /// Those of the writer.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.head)?;
        out.write_all(&self.data_head())?;
        segments(self.store, self.memories, self.budget, |head, bytes| {
            out.write_all(head)?;
            out.write_all(bytes)
        })?;
        out.write_all(&self.tail)
    }

    fn data_head(&self) -> Vec<u8> {
        let mut count = Vec::new();
        self.data.segments.encode(&mut count);
        let mut head = vec![DATA];
        (count.len() as u64 + self.data.bytes).encode(&mut head);
        head.extend(count);
        head
    }
}

fn section(out: &mut Vec<u8>, section: &impl wasm_encoder::Section) {
    section.append_to(out);
}

/// Each memory with the size that it has grown to.
fn memories<T>(dump: &WasmCoreDump, store: &Store<T>) -> MemorySection {
    let mut section = MemorySection::new();
    for memory in dump.memories() {
        let ty = memory.ty(store);
        section.memory(wasm_encoder::MemoryType {
            minimum: memory.size(store),
            maximum: ty.maximum(),
            memory64: ty.is_64(),
            shared: false,
            page_size_log2: None,
        });
    }
    section
}

/// Each global with the value that it has; references are null, for what they refer to is not in the dump.
fn globals<T>(dump: &WasmCoreDump, store: &mut Store<T>) -> GlobalSection {
    let mut section = GlobalSection::new();
    for global in dump.globals().iter().take(MAX_GLOBALS) {
        let mutable = global.ty(&*store).mutability() == Mutability::Var;
        let (val_type, value) = match (global.ty(&*store).content(), global.get(&mut *store)) {
            (ValType::I32, Val::I32(value)) => (wasm_encoder::ValType::I32, ConstExpr::i32_const(value)),
            (ValType::I64, Val::I64(value)) => (wasm_encoder::ValType::I64, ConstExpr::i64_const(value)),
            (ValType::F32, Val::F32(bits)) => {
                (wasm_encoder::ValType::F32, ConstExpr::f32_const(f32::from_bits(bits).into()))
            }
            (ValType::F64, Val::F64(bits)) => {
                (wasm_encoder::ValType::F64, ConstExpr::f64_const(f64::from_bits(bits).into()))
            }
            (ValType::V128, Val::V128(value)) => {
                (wasm_encoder::ValType::V128, ConstExpr::v128_const(value.as_u128().cast_signed()))
            }
            (_, Val::FuncRef(_)) => (RefType::FUNCREF.into(), ConstExpr::ref_null(HeapType::FUNC)),
            _ => (RefType::EXTERNREF.into(), ConstExpr::ref_null(HeapType::EXTERN)),
        };
        section.global(wasm_encoder::GlobalType { val_type, mutable, shared: false }, &value);
    }
    section
}

/// The modules, their instances and the frames.
fn threads<T>(out: &mut Vec<u8>, dump: &WasmCoreDump, store: &mut Store<T>) {
    let origins = Origins::of(dump, store);
    let mut modules: Vec<Module> = Vec::new();
    let mut instances = CoreDumpInstancesSection::new();
    // Of the instances of one module, the frames do not tell which one it was: the last one is taken, as wasmtime does.
    let mut last: Vec<u32> = Vec::new();
    let mut memory = 0;
    for (number, instance) in (0..).zip(dump.instances()) {
        let module = instance.module(&*store).clone();
        let index = modules.iter().position(|known| Module::same(known, &module)).unwrap_or(modules.len());
        if index == modules.len() {
            modules.push(module.clone());
            last.push(number);
        }
        last[index] = number;
        let own = module.resources_required().num_memories;
        let memories = origins.imported_memories(&module).into_iter().chain(memory..memory + own).collect::<Vec<_>>();
        memory += own;
        let globals = origins.imported_globals(&module).into_iter().chain(origins.globals_of(instance));
        instances.instance(to_u32(index), memories, globals.collect::<Vec<_>>());
    }
    let mut names = CoreDumpModulesSection::new();
    for (number, module) in modules.iter().enumerate() {
        names.module(module.name().map_or_else(|| format!("<module {number}>"), one_line));
    }
    let mut stack = CoreDumpStackSection::new("main");
    for frame in dump.frames() {
        let module = modules.iter().position(|module| Module::same(module, frame.module()));
        let instance = module.map_or(UNKNOWN, |index| last[index]);
        let offset = frame.func_offset().map_or(0, to_u32);
        // Neither locals nor operands: the compiler keeps them where nobody finds them.
        stack.frame(instance, frame.func_index(), offset, [], []);
    }
    section(out, &names);
    section(out, &instances);
    section(out, &stack);
}

/// Which of the dump's memories and globals an instance has. wasmtime tells it of what the instance defines: memories and
/// globals come in the order of the instances. Of what it imports it tells nothing; that is found by its name among the
/// exports, if there is only one of that name.
struct Origins {
    /// Of the globals: the instance that defines each.
    owners: Vec<Option<String>>,
    memories: HashMap<String, u32>,
    globals: HashMap<String, u32>,
    only_memory: Option<u32>,
}

impl Origins {
    fn of<T>(dump: &WasmCoreDump, store: &mut Store<T>) -> Self {
        let globals = &dump.globals()[..dump.globals().len().min(MAX_GLOBALS)];
        let memory_keys: HashMap<String, u32> = dump.memories().iter().map(key).zip(0..).collect();
        let global_keys: HashMap<String, u32> = globals.iter().map(key).zip(0..).collect();
        let (mut memories, mut named_globals) = (HashMap::new(), HashMap::new());
        for instance in dump.instances() {
            let exports: Vec<(String, Extern)> = instance
                .exports(&mut *store)
                .take(MAX_EXPORTS)
                .map(|export| (export.name().to_owned(), export.into_extern()))
                .collect();
            for (name, export) in exports {
                match export {
                    Extern::Memory(memory) => note(&mut memories, name, memory_keys.get(&key(&memory))),
                    Extern::Global(global) => note(&mut named_globals, name, global_keys.get(&key(&global))),
                    _ => {}
                }
            }
        }
        Self {
            owners: globals.iter().map(owner).collect(),
            memories,
            globals: named_globals,
            only_memory: (dump.memories().len() == 1).then_some(0),
        }
    }

    fn imported_memories(&self, module: &Module) -> Vec<u32> {
        let imports = module.imports().filter(|import| import.ty().memory().is_some());
        let known = |name: &str| self.only_memory.or_else(|| self.memories.get(name).copied());
        imports.map(|import| known(import.name()).unwrap_or(UNKNOWN)).collect()
    }

    fn imported_globals(&self, module: &Module) -> Vec<u32> {
        let imports = module.imports().filter(|import| import.ty().global().is_some());
        imports.map(|import| self.globals.get(import.name()).copied().unwrap_or(UNKNOWN)).collect()
    }

    fn globals_of(&self, instance: &Instance) -> impl Iterator<Item = u32> {
        let own = owner(instance);
        (0..).zip(&self.owners).filter(move |(_, owner)| owner.is_some() && **owner == own).map(|(number, _)| number)
    }
}

/// Remembers what has a name; two of one name are as good as none.
fn note(known: &mut HashMap<String, u32>, name: String, index: Option<&u32>) {
    let index = index.copied().unwrap_or(UNKNOWN);
    known
        .entry(name)
        .and_modify(|known| {
            if *known != index {
                *known = UNKNOWN
            }
        })
        .or_insert(index);
}

/// Tells handles of wasmtime apart. They can neither be compared nor hashed; their `Debug` form is all that is public.
fn key(handle: &impl Debug) -> String {
    format!("{handle:?}")
}

/// The number of the instance in the `Debug` form of a handle, see [`key`]; none when a later wasmtime writes it otherwise,
/// and the dump then does not say whose globals they are.
fn owner(handle: &impl Debug) -> Option<String> {
    let text = key(handle);
    let rest = text.rsplit_once("instance: ")?.1.trim_start_matches("InstanceId(");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (!digits.is_empty()).then_some(digits)
}

fn own_section(about: &About<'_>, left_out: u64) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Whole<'a> {
        #[serde(flatten)]
        about: &'a About<'a>,
        left_out_bytes: u64,
    }
    let data = serde_json::to_vec(&Whole { about, left_out_bytes: left_out }).unwrap_or_default();
    let mut out = Vec::new();
    section(&mut out, &CustomSection { name: "marram".into(), data: data.into() });
    out
}

/// Calls `each` with the head and the bytes of each segment until the budget is spent. The same twice in a row, for
/// nothing runs in the store: once to learn the lengths, which come first in the file, and once to write.
fn segments<T>(
    store: &Store<T>,
    memories: &[Memory],
    budget: u64,
    mut each: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
) -> io::Result<Data> {
    let mut data = Data::default();
    for (number, memory) in (0..).zip(memories) {
        let is_64 = memory.ty(store).is_64();
        for (at, bytes) in Runs::of(memory.data(store)) {
            let head = segment_head(number, at, is_64, bytes.len());
            let room = (budget - data.bytes).saturating_sub(head.len() as u64);
            let fits = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            data.left_out += (bytes.len() - fits) as u64;
            if fits == 0 {
                continue;
            }
            let head = segment_head(number, at, is_64, fits);
            each(&head, &bytes[..fits])?;
            data.bytes += (head.len() + fits) as u64;
            data.segments += 1;
        }
    }
    Ok(data)
}

fn segment_head(memory: u32, at: usize, is_64: bool, bytes: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(24);
    if memory == 0 {
        head.push(0);
    } else {
        head.push(2);
        memory.encode(&mut head);
    }
    let at = at as u64;
    let at = if is_64 { ConstExpr::i64_const(at.cast_signed()) } else { ConstExpr::i32_const(low_32(at)) };
    at.encode(&mut head);
    bytes.encode(&mut head);
    head
}

/// A memory without 64-bit addresses has none that this cuts.
fn low_32(at: u64) -> i32 {
    u32::try_from(at).unwrap_or(u32::MAX).cast_signed()
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What of a memory is not zero: pieces that follow each other are one run, without the zeros at its ends.
struct Runs<'a> {
    memory: &'a [u8],
    at: usize,
}

impl<'a> Runs<'a> {
    fn of(memory: &'a [u8]) -> Self {
        Self { memory, at: 0 }
    }

    /// The piece here and whether it is all zeros; none at the end.
    fn piece(&self, at: usize) -> Option<bool> {
        let end = self.memory.len().min(at + PIECE);
        // Without an early end, so that the compiler makes wide steps of it.
        (at < end).then(|| self.memory[at..end].iter().fold(0, |any, byte| any | byte) == 0)
    }
}

impl<'a> Iterator for Runs<'a> {
    type Item = (usize, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while self.piece(self.at)? {
            self.at += PIECE;
        }
        let mut end = self.at;
        while self.piece(end) == Some(false) {
            end += PIECE;
        }
        let run = &self.memory[self.at..end.min(self.memory.len())];
        let first = run.iter().position(|byte| *byte != 0).unwrap_or(0);
        let last = run.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let found = (self.at + first, &run[first..=last]);
        self.at = end;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_is_not_zero() {
        let mut memory = vec![0; 5 * PIECE + 10];
        assert_eq!(Runs::of(&memory).count(), 0);
        memory[PIECE + 7] = 1;
        memory[2 * PIECE + 3] = 2;
        *memory.last_mut().unwrap() = 3;
        let runs: Vec<_> = Runs::of(&memory).map(|(at, run)| (at, run.len())).collect();
        assert_eq!(runs, [(PIECE + 7, PIECE - 3), (5 * PIECE + 9, 1)]);
        assert_eq!(Runs::of(&[]).count(), 0);
    }
}
