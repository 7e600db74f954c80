//! The core dump of an instance that trapped: what is in it, its bounds, and that there is none unless it is asked for.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use marram_core::{
    deployment::Sandbox,
    ports::{CoreDumps as _, Exit},
};
use marram_engine::{DumpFolder, Dumps, Profile, Settings, WasmEngine};
use wasmparser::{KnownCustom, Parser, Payload, Validator, WasmFeatures};

use crate::{
    guests::{program, starter, wasi_program},
    support::{Bench, Recorder, settings, spec},
};

const LIMIT: u64 = 4 << 20;

struct Dumping {
    bench: Bench,
    folder: Arc<DumpFolder>,
}

impl Dumping {
    fn new(max_bytes: u64) -> Self {
        Self::within(tempfile::tempdir().unwrap(), max_bytes)
    }

    fn within(folder: tempfile::TempDir, max_bytes: u64) -> Self {
        let dumps = Arc::new(DumpFolder::open(&folder.path().join("dumps")).unwrap());
        let wanted = Some(Dumps { folder: dumps.clone(), max_bytes });
        let engine = WasmEngine::new(Settings { dumps: wanted, ..settings(&folder, Profile::Wide) }).unwrap();
        Self { bench: Bench { engine, folder }, folder: dumps }
    }

    async fn exit_of(&self, wat: &str, change: impl FnOnce(&mut Sandbox)) -> Exit {
        match self.bench.start(wat, &spec(change), &Recorder::new()).await {
            Ok(mut instance) => instance.run().await,
            Err(exit) => exit,
        }
    }

    /// The dump that an exit speaks of.
    fn read(&self, exit: &Exit) -> Parsed {
        let dump = exit.core_dump.as_deref().unwrap_or_else(|| panic!("no dump: {exit:?}"));
        let bytes = std::fs::read(self.folder.path(&dump.file).unwrap()).unwrap();
        assert_eq!(bytes.len() as u64, dump.bytes);
        let parsed = Parsed::of(&bytes);
        assert_eq!(parsed.about["leftOutBytes"], dump.left_out_bytes);
        parsed
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.bench.folder.path().join("dumps")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// What a debugger finds.
#[derive(Default)]
struct Parsed {
    name: String,
    about: serde_json::Value,
    modules: Vec<String>,
    /// Of each: module, memories, globals.
    instances: Vec<(u32, Vec<u32>, Vec<u32>)>,
    /// Instance and function, innermost first.
    frames: Vec<(u32, u32)>,
    /// Pages of each.
    memories: Vec<u64>,
    globals: Vec<i64>,
    /// Memory, address, bytes.
    data: Vec<(u32, u32, Vec<u8>)>,
}

impl Parsed {
    fn of(bytes: &[u8]) -> Self {
        Validator::new_with_features(WasmFeatures::all()).validate_all(bytes).expect("a valid module");
        let mut parsed = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.unwrap() {
                Payload::MemorySection(memories) => {
                    parsed.memories = memories.into_iter().map(|memory| memory.unwrap().initial).collect();
                }
                Payload::GlobalSection(globals) => {
                    let value = |global: wasmparser::Global<'_>| match global.init_expr.get_operators_reader().read() {
                        Ok(wasmparser::Operator::I32Const { value }) => value.into(),
                        Ok(wasmparser::Operator::I64Const { value }) => value,
                        other => panic!("{other:?}"),
                    };
                    parsed.globals = globals.into_iter().map(|global| value(global.unwrap())).collect();
                }
                Payload::DataSection(data) => {
                    parsed.data = data.into_iter().map(|segment| segment_of(&segment.unwrap())).collect();
                }
                Payload::CustomSection(section) => match section.as_known() {
                    KnownCustom::CoreDump(core) => parsed.name = core.name.to_owned(),
                    KnownCustom::CoreDumpModules(modules) => {
                        parsed.modules = modules.modules.iter().map(|name| (*name).to_owned()).collect();
                    }
                    KnownCustom::CoreDumpInstances(instances) => {
                        let of = |it: wasmparser::CoreDumpInstance| (it.module_index, it.memories, it.globals);
                        parsed.instances = instances.instances.into_iter().map(of).collect();
                    }
                    KnownCustom::CoreDumpStack(stack) => {
                        parsed.frames = stack.frames.iter().map(|frame| (frame.instanceidx, frame.funcidx)).collect();
                    }
                    _ if section.name() == "marram" => parsed.about = serde_json::from_slice(section.data()).unwrap(),
                    _ => {}
                },
                _ => {}
            }
        }
        parsed
    }

    /// What stands at an address; zeros are not written.
    fn at(&self, memory: u32, address: u32, length: usize) -> Vec<u8> {
        let read = |address: u32| {
            let segments = self.data.iter().filter(|(of, ..)| *of == memory);
            let found =
                segments.filter_map(|(_, start, bytes)| bytes.get(address.checked_sub(*start)? as usize)).next();
            found.copied().unwrap_or(0)
        };
        (address..).take(length).map(read).collect()
    }
}

fn segment_of(segment: &wasmparser::Data<'_>) -> (u32, u32, Vec<u8>) {
    let wasmparser::DataKind::Active { memory_index, offset_expr } = &segment.kind else { panic!("{segment:?}") };
    let Ok(wasmparser::Operator::I32Const { value }) = offset_expr.get_operators_reader().read() else {
        panic!("{segment:?}")
    };
    (*memory_index, value.cast_unsigned(), segment.data.to_vec())
}

/// Writes text to its memory, counts in a global, and does `last`, two calls deep.
fn writer(last: &str) -> String {
    program(&format!(
        r#"(memory 4)
           (data (i32.const 70000) "written at run time")
           (global $unused i64 (i64.const 7))
           (global $count (mut i32) (i32.const 0))
           (func $end {last})
           (func $run (result i32)
             (i32.store (i32.const 140000) (i32.const 0x6b6f6f6c))
             (global.set $count (i32.const 4711))
             (call $end)
             (i32.const 0))"#
    ))
}

#[tokio::test]
async fn a_dump_holds_memories_globals_and_frames() {
    let dumping = Dumping::new(LIMIT);
    let exit = dumping.exit_of(&writer("unreachable"), |_| ()).await;
    assert_eq!(exit.code, Exit::TRAP);
    let dump = dumping.read(&exit);
    assert_eq!(dump.name, "oci:guest");
    assert_eq!(dump.about["module"], "guest");
    assert_eq!((&dump.about["exitCode"], &dump.about["reason"]), (&134.into(), &exit.reason.as_str().into()));
    let memory = dump.memories.iter().position(|pages| *pages == 4).unwrap() as u32;
    assert_eq!(dump.at(memory, 70_000, 19), b"written at run time");
    assert_eq!(dump.at(memory, 140_000, 5), b"look\0");
    let (instance, function) = dump.frames[0];
    assert_eq!(dump.frames.len(), exit.backtrace.len());
    assert_eq!(dump.frames[1], (instance, function + 1), "the caller of the same instance");
    let (module, memories, globals) = &dump.instances[instance as usize];
    assert!((*module as usize) < dump.modules.len());
    assert_eq!(memories, &[memory]);
    let values: Vec<i64> = globals.iter().map(|global| dump.globals[*global as usize]).collect();
    assert_eq!(values, [7, 4711]);
    let path = dumping.folder.path(&exit.core_dump.unwrap().file).unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn every_limit_that_ends_an_instance_leaves_a_dump() {
    let deep = "(call $end)";
    let endless = "(loop $again (br $again))";
    let grows = "(loop $again (drop (memory.grow (i32.const 1))) (br $again))";
    for (last, code) in [(deep, Exit::TRAP), (grows, Exit::MEMORY)] {
        let dumping = Dumping::new(LIMIT);
        let exit = dumping.exit_of(&writer(last), |sandbox| sandbox.memory_bytes = 1 << 20).await;
        assert_eq!(exit.code, code, "{}", exit.reason);
        let dump = dumping.read(&exit);
        assert!(!dump.frames.is_empty() && dump.globals.contains(&4711), "{last}");
    }
    let dumping = Dumping::new(LIMIT);
    let wat =
        starter(&format!("(func $start (result i32) (i32.store (i32.const 100) (i32.const 1)) {endless} unreachable)"));
    let spec = spec(|sandbox| sandbox.handler_time = Duration::from_millis(200));
    let mut instance = dumping.bench.start(&wat, &spec, &Recorder::new()).await.unwrap();
    let exit = instance.start().await.unwrap_err();
    assert_eq!(exit.code, Exit::DEADLINE);
    assert!(!dumping.read(&exit).frames.is_empty());
}

#[tokio::test]
async fn what_traps_while_it_is_made_leaves_a_dump() {
    let dumping = Dumping::new(LIMIT);
    let wat = program(
        r#"(memory 1) (data (i32.const 8) "early") (func $init unreachable) (start $init) (func $run (result i32) (i32.const 0))"#,
    );
    let exit = dumping.exit_of(&wat, |_| ()).await;
    assert_eq!(dumping.read(&exit).at(0, 8, 5), b"early");
}

/// Two components, one calling the other: the code between them has globals that belong to no core instance.
fn composed() -> String {
    r#"(component
  (component $Inner
    (core module $M (memory (export "memory") 1) (global (export "tag") i32 (i32.const 1)) (data (i32.const 16) "inner")
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
      (func (export "f") (param i32 i32) unreachable))
    (core instance $m (instantiate $M))
    (alias core export $m "memory" (core memory $memory))
    (alias core export $m "realloc" (core func $realloc))
    (func (export "f") (param "text" string) (canon lift (core func $m "f") (memory $memory) (realloc $realloc))))
  (component $Outer
    (import "f" (func $f (param "text" string)))
    (core module $Mem (memory (export "shared") 2) (global (export "tag") i32 (i32.const 2)) (data (i32.const 32) "outer"))
    (core instance $mem (instantiate $Mem))
    (alias core export $mem "shared" (core memory $memory))
    (core func $f' (canon lower (func $f) (memory $memory)))
    (core module $M (import "host" "f" (func $f (param i32 i32))) (import "mem" "shared" (memory 2))
      (import "mem" "tag" (global i32))
      (func (export "run") (result i32) (call $f (i32.const 32) (i32.const 5)) (i32.const 0)))
    (core instance $m (instantiate $M
      (with "host" (instance (export "f" (func $f'))))
      (with "mem" (instance $mem))))
    (func $run (result (result)) (canon lift (core func $m "run")))
    (instance $i (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $i)))
  (instance $inner (instantiate $Inner))
  (instance $outer (instantiate $Outer (with "f" (func $inner "f"))))
  (export "wasi:cli/run@0.2.0" (instance $outer "wasi:cli/run@0.2.0")))"#
        .into()
}

#[tokio::test]
async fn a_component_of_several_is_dumped_whole() {
    let dumping = Dumping::new(LIMIT);
    let exit = dumping.exit_of(&composed(), |_| ()).await;
    let dump = dumping.read(&exit);
    let memory = |pages: u64| dump.memories.iter().position(|it| *it == pages).unwrap() as u32;
    assert_eq!(dump.at(memory(1), 16, 5), b"inner");
    assert_eq!(dump.at(memory(1), 1024, 5), b"outer", "the argument that it was called with");
    assert_eq!(dump.at(memory(2), 32, 5), b"outer");
    let (inner, outer) = (dump.frames[0].0, dump.frames.last().unwrap().0);
    assert_eq!(dump.instances[inner as usize].1, [memory(1)]);
    let (_, memories, globals) = &dump.instances[outer as usize];
    assert_eq!(memories, &[memory(2)], "imported, and found by its name");
    assert_eq!(globals, &[u32::MAX], "two have that name");
}

#[tokio::test]
async fn what_a_memory_has_grown_to_is_dumped_and_of_the_globals_the_first() {
    let globals = "(global i32 (i32.const 5))".repeat(5_000);
    let wat = program(&format!(
        r#"(memory 1) {globals}
           (func $run (result i32)
             (drop (memory.grow (i32.const 2)))
             (i32.store8 (i32.const 196607) (i32.const 7))
             unreachable)"#
    ));
    let dumping = Dumping::new(LIMIT);
    let exit = dumping.exit_of(&wat, |_| ()).await;
    let dump = dumping.read(&exit);
    let memory = dump.memories.iter().position(|pages| *pages == 3).unwrap() as u32;
    assert_eq!(dump.at(memory, 196_607, 1), [7]);
    assert_eq!(dump.globals.len(), 4_096);
}

/// wasmtime does not tell which one a frame is of.
#[tokio::test]
async fn of_two_instances_of_a_module_a_frame_names_the_last() {
    let wat = r#"(component
      (core module $M (memory 1) (func (export "run") (result i32) unreachable))
      (core module $Other)
      (core instance (instantiate $Other))
      (core instance (instantiate $M))
      (core instance $m (instantiate $M))
      (func $run (result (result)) (canon lift (core func $m "run")))
      (instance $i (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    let dumping = Dumping::new(LIMIT);
    let exit = dumping.exit_of(wat, |_| ()).await;
    let dump = dumping.read(&exit);
    let of_module: Vec<u32> = (0..)
        .zip(&dump.instances)
        .filter(|(_, (_, memories, _))| !memories.is_empty())
        .map(|(number, _)| number)
        .collect();
    assert_eq!((of_module.len(), Some(&dump.frames[0].0)), (2, of_module.last()));
}

#[tokio::test]
async fn a_dump_has_a_bound_beyond_which_memory_is_left_out_and_counted() {
    const MAX: u64 = 100_000;
    let fills = "(memory.fill (i32.const 0) (i32.const 0xaa) (i32.const 262144)) unreachable";
    let dumping = Dumping::new(MAX);
    let exit = dumping.exit_of(&writer(fills), |_| ()).await;
    let told = exit.core_dump.clone().unwrap();
    assert!(told.bytes <= MAX && told.bytes > MAX - 64, "{told:?}");
    let dump = dumping.read(&exit);
    let there: usize = dump.data.iter().map(|(.., bytes)| bytes.len()).sum();
    assert_eq!(there as u64 + told.left_out_bytes, 262_144);
    assert_eq!(dump.at(0, 0, 100), [0xaa; 100], "the beginning, where the stack is");
    assert!(!dump.frames.is_empty());

    let dumping = Dumping::new(100);
    let exit = dumping.exit_of(&writer("unreachable"), |_| ()).await;
    assert_eq!((exit.code, &exit.core_dump), (Exit::TRAP, &None), "less than the frames: none");
    assert_eq!(dumping.files(), [] as [PathBuf; 0]);
}

/// On a file system that is really small. Root mounts it; others leave it out and say so.
#[tokio::test]
#[allow(clippy::print_stdout)] // says what it does not show
async fn none_is_written_that_takes_more_than_half_of_what_the_disk_has_free() {
    let folder = tempfile::tempdir().unwrap();
    let dumps = folder.path().join("dumps");
    std::fs::create_dir(&dumps).unwrap();
    if !mount(&dumps, "size=500k,mode=700") {
        println!("not shown: needs root");
        return;
    }
    let unmount = Unmount(dumps.clone());
    let dumping = Dumping::within(folder, LIMIT);
    let wat = writer("(memory.fill (i32.const 0) (i32.const 0xaa) (i32.const 262144)) unreachable");
    let exit = dumping.exit_of(&wat, |_| ()).await;
    assert_eq!((exit.code, exit.core_dump), (Exit::TRAP, None), "262,144 bytes of 512,000");
    assert_eq!(dumping.files(), [] as [PathBuf; 0]);
    assert!(mount(&dumps, "remount,size=600k"));
    let mut newer = spec(|_| ());
    newer.image = "oci:newer".into(); // at once
    let mut instance = dumping.bench.start(&wat, &newer, &Recorder::new()).await.unwrap();
    assert!(instance.run().await.core_dump.is_some());
    drop((dumping, unmount));
}

fn mount(at: &Path, options: &str) -> bool {
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output().is_ok_and(|output| output.status.success())
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn one_module_is_dumped_once_in_a_while_and_another_image_of_it_at_once() {
    let dumping = Dumping::new(LIMIT);
    let wat = writer("unreachable");
    assert!(dumping.exit_of(&wat, |_| ()).await.core_dump.is_some());
    assert!(dumping.exit_of(&wat, |_| ()).await.core_dump.is_none());
    assert_eq!(dumping.files().len(), 1);
    let mut newer = spec(|_| ());
    newer.image = "oci:newer".into();
    let mut instance = dumping.bench.start(&wat, &newer, &Recorder::new()).await.unwrap();
    assert!(instance.run().await.core_dump.is_some());
}

#[tokio::test]
async fn there_is_no_dump_unless_it_is_wanted_nor_of_what_ends_by_itself() {
    let bench = Bench::new();
    let mut instance = bench.start(&writer("unreachable"), &spec(|_| ()), &Recorder::new()).await.unwrap();
    let exit = instance.run().await;
    assert_eq!((exit.code, exit.core_dump), (Exit::TRAP, None));
    let dumping = Dumping::new(LIMIT);
    let exit = dumping.exit_of(&writer("nop"), |_| ()).await;
    assert_eq!((exit.code, exit.core_dump), (Exit::DONE, None));
    let leaves = wasi_program("(func $run (result i32) (call $exit (i32.const 1)) unreachable)");
    let exit = dumping.exit_of(&leaves, |_| ()).await;
    assert_eq!((exit.code, exit.core_dump), (1, None), "an exit is told as an error, too");
    assert_eq!(dumping.files(), [] as [PathBuf; 0]);
}

#[test]
fn a_folder_loses_what_was_half_written_and_what_nothing_leads_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dumps");
    drop(DumpFolder::open(&path).unwrap());
    for name in ["1-0.core", "2-0.core", "3-0.tmp", "notes.txt"] {
        std::fs::write(path.join(name), "x").unwrap();
    }
    let dumps = DumpFolder::open(&path).unwrap();
    assert!(!path.join("3-0.tmp").exists());
    std::fs::write(path.join("4-0.core"), "of this run").unwrap();
    dumps.keep_only(&["2-0.core"]);
    assert_eq!((dumps.path("1-0.core"), dumps.path("2-0.core")), (None, Some(path.join("2-0.core"))));
    assert!(dumps.path("4-0.core").is_some() && path.join("notes.txt").exists());
    assert_eq!(dumps.path("../dumps/2-0.core"), None);
    dumps.remove("notes.txt");
    assert!(path.join("notes.txt").exists());
    dumps.remove("2-0.core");
    assert_eq!(dumps.path("2-0.core"), None);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(DumpFolder::open(&path).is_err(), "others may enter it");
}
