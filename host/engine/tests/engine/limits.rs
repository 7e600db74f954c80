//! What a guest makes the host keep has bounds: instances, files, listings.

use std::{path::Path, time::Duration};

use marram_core::{deployment::Mount, ports::Exit};
use marram_engine::survey;

use crate::{
    guests::{file_program, instances, program, wasi_program},
    support::{Bench, Recorder, binary, spec},
};

#[tokio::test]
async fn globals_of_many_instances_count_as_memory() {
    let wat = instances(60, &"(global (mut i64) (i64.const 1))\n".repeat(20_000));
    let (bench, host) = (Bench::new(), Recorder::new());
    let bytes = binary(&wat);
    let loaded = bench.load(&bytes).await.unwrap();
    let exit = loaded.instantiate(&spec(|sandbox| sandbox.memory_bytes = 1 << 20), host.clone()).await.err().unwrap();
    assert_eq!(exit.code, Exit::MEMORY);
    assert!(exit.reason.contains("globals") && exit.reason.contains("limits.memory"), "{}", exit.reason);

    let enough = spec(|sandbox| sandbox.memory_bytes = 32 << 20);
    let mut instance = loaded.instantiate(&enough, host.clone()).await.unwrap();
    assert!(instance.memory_bytes() >= 60 * 20_000 * 16, "{}", instance.memory_bytes());
    assert_eq!(instance.run().await.code, Exit::DONE);

    // The cost is kept with the compiled form.
    drop((instance, loaded));
    let again = bench.load(&bytes).await.unwrap().instantiate(&enough, host).await.unwrap();
    assert!(again.memory_bytes() >= 60 * 20_000 * 16);
}

#[test]
fn instances_in_nested_components_count_each_time() {
    let globals = "(global i64 (i64.const 1))".repeat(1000);
    let once = format!("(component (core module $M {globals}) (core instance (instantiate $M)))");
    let nested = format!(
        "(component $Outer
          (core module $M {globals})
          (component $Inner (alias outer $Outer $M (core module $M')) (core instance (instantiate $M')))
          (component $Twice (alias outer $Outer $Inner (component $I)) (instance (instantiate $I)) (instance (instantiate $I)))
          (instance (instantiate $Twice)) (instance (instantiate $Twice)))"
    );
    let (once, nested) = (survey(&binary(&once)).unwrap(), survey(&binary(&nested)).unwrap());
    assert_eq!((once.core_instances, nested.core_instances), (1, 4));
    assert!(once.instance_bytes >= 16_000 && nested.instance_bytes >= 4 * 16_000);
}

#[test]
fn nesting_without_measure_cannot_overflow_the_sum() {
    let mut wat = String::from("(component (component $C0 (core module $M) (core instance (instantiate $M)))");
    for level in 1..100 {
        let inner = level - 1;
        wat += &format!(
            "(component $C{level} (alias outer 1 $C{inner} (component $I)) (instance (instantiate $I)) (instance (instantiate $I)))"
        );
    }
    wat += "(instance (instantiate $C99)))";
    assert_eq!(survey(&binary(&wat)).unwrap().core_instances, u64::MAX);
}

#[tokio::test]
async fn small_guests_are_charged_little() {
    let wat = program("(func $run (result i32) (i32.const 0))");
    let instance = Bench::new().start(&wat, &spec(|_| ()), &Recorder::new()).await.unwrap();
    assert!(instance.memory_bytes() < 4096, "{}", instance.memory_bytes());
}

/// Runs `core` with 16 MiB and a folder of files; 0 if its own checks held.
async fn with_files(core: &str, files: usize) -> Exit {
    with_memory_and_files(16 << 20, core, files).await
}

async fn with_memory_and_files(memory_bytes: u64, core: &str, files: usize) -> Exit {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..files {
        std::fs::write(folder.path().join(format!("f{number}")), "x").unwrap();
    }
    let mount = Mount { host: folder.path().into(), guest: "/d".into(), writable: false };
    let spec = spec(|sandbox| {
        sandbox.mounts.push(mount);
        sandbox.memory_bytes = memory_bytes;
    });
    let mut instance = Bench::new().start(&file_program(core), &spec, &Recorder::new()).await.unwrap();
    let exit = instance.run().await;
    // A listing's helper thread may close its own a moment later.
    let closed = async {
        while open_below(folder.path()) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closed).await.expect("what an ended instance had open is closed");
    exit
}

/// Descriptors of this process (of this test alone under nextest) that lead to a folder.
fn open_below(folder: &Path) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    all.filter(|fd| std::fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|path| path.starts_with(folder))).count()
}

/// Counts in `$n` how often `call` succeeds, and stops at the first error or after 1000.
fn until_refused(call: &str) -> String {
    format!(
        "(block $refused (loop $l
          {call}
          (br_if $refused (i32.load8_u (i32.const 16)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $l (i32.lt_u (local.get $n) (i32.const 1000)))))"
    )
}

#[tokio::test]
async fn open_files_are_bounded_and_the_guest_may_go_on() {
    // The folder itself is one; 22 is `insufficient-memory`. After one is closed another can be opened.
    let core = until_refused("(call $open (local.get $d))")
        + "(if (i32.ne (local.get $n) (i32.const 63)) (then unreachable))
           (if (i32.ne (i32.load8_u (i32.const 20)) (i32.const 22)) (then unreachable))
           (call $drop (i32.const 9))
           (call $open (local.get $d))
           (i32.load8_u (i32.const 16))";
    assert_eq!(with_files(&core, 1).await.code, Exit::DONE);
}

#[tokio::test]
async fn streams_that_keep_files_open_are_bounded_by_the_memory_limit() {
    let open_and_forget = until_refused(
        "(call $open (local.get $d)) (local.set $file (i32.load (i32.const 20)))
         (call $stream (local.get $file)) (call $drop (local.get $file))",
    );
    for (memory, streams) in [(16 << 20, 64), (6 << 20, 24), (1 << 20, 16)] {
        let core = format!("{open_and_forget} (i32.ne (local.get $n) (i32.const {streams}))");
        assert_eq!(with_memory_and_files(memory, &core, 1).await.code, Exit::DONE, "{streams} of {memory} bytes");
    }
}

#[tokio::test]
async fn wasi_resources_are_bounded_by_the_memory_limit() {
    let timers = |count: u32| {
        format!(
            "(func $run (result i32) (local $n i32)
               (loop $l (drop (call $timer (i64.const 1))) (local.set $n (i32.add (local.get $n) (i32.const 1)))
                 (br_if $l (i32.lt_u (local.get $n) (i32.const {count})))) (i32.const 0))"
        )
    };
    // Each timer and what it waits for: two resources. A sixteenth of 4 MiB holds 256 of 1 KiB.
    let spec = spec(|sandbox| sandbox.memory_bytes = 4 << 20);
    let (bench, host) = (Bench::new(), Recorder::new());
    let mut few = bench.start(&wasi_program(&timers(128)), &spec, &host).await.unwrap();
    assert_eq!(few.run().await.code, Exit::DONE);
    let mut many = bench.start(&wasi_program(&timers(129)), &spec, &host).await.unwrap();
    let exit = many.run().await;
    assert_eq!((exit.code, exit.reason.contains("WASI resources")), (Exit::MEMORY, true), "{exit:?}");
}

#[tokio::test]
async fn listings_at_once_are_bounded() {
    let core = until_refused("(call $list (local.get $d))") + "(i32.ne (local.get $n) (i32.const 8))";
    assert_eq!(with_files(&core, 100).await.code, Exit::DONE);
}

#[tokio::test]
async fn a_folder_of_thousands_of_files_is_not_listed() {
    // The first answer is `insufficient-memory`.
    let core = "(call $list (local.get $d))
        (i32.ne (i32.load8_u (i32.const 16)) (i32.const 1))
        (i32.ne (i32.load8_u (i32.const 20)) (i32.const 22)) (i32.or)";
    assert_eq!(with_files(core, 9000).await.code, Exit::DONE);
}

#[tokio::test]
async fn the_soft_limit_of_open_files_is_the_hard_one() {
    use rustix::process::{Resource, getrlimit};
    let _bench = Bench::new();
    let limit = getrlimit(Resource::Nofile);
    assert_eq!(limit.current, limit.maximum);
}
