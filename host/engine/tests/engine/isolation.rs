//! Whatever a guest does, it ends itself and not the host, with a reason.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use marram_core::ports::Exit;
use marram_engine::{EXIT_CANNOT_START, Profile};

use crate::{
    guests::{handler, program, sleeper, starter, wasi_program},
    support::{Bench, Queue, Recorder, spec},
};

/// Ends `start-handler` of `core` and returns how.
async fn start_of(core: &str, memory_bytes: u64) -> Exit {
    let spec = spec(|sandbox| {
        sandbox.memory_bytes = memory_bytes;
        sandbox.handler_time = Duration::from_millis(100);
    });
    let mut instance = Bench::new().start(&starter(core), &spec, &Recorder::new()).await.unwrap();
    let exit = instance.start().await.unwrap_err();
    assert_eq!(instance.start().await.unwrap_err(), exit, "a dead instance repeats how it ended");
    assert_eq!(instance.memory_bytes(), 0, "a dead instance holds nothing");
    exit
}

#[tokio::test]
async fn a_trap_names_its_cause_and_the_functions_that_led_to_it() {
    let core = "(func $start (result i32) (call $deep) (i32.const 0)) (func $deep unreachable)";
    let exit = start_of(core, 1 << 20).await;
    assert_eq!(exit.code, Exit::TRAP);
    assert_eq!(exit.reason, "wasm trap: wasm `unreachable` instruction executed");
    let frames: Vec<_> = exit.backtrace.iter().map(|line| line.rsplit('!').next().unwrap()).collect();
    assert_eq!(frames, ["deep", "start"]);
}

#[tokio::test]
async fn names_of_rust_functions_are_demangled() {
    let core = "(func $start (result i32) (call $_ZN3app5sense17h0123456789abcdefE) (i32.const 0))
                (func $_ZN3app5sense17h0123456789abcdefE unreachable)";
    let exit = start_of(core, 1 << 20).await;
    assert!(exit.backtrace[0].ends_with("app::sense"), "{:?}", exit.backtrace);
}

#[tokio::test]
async fn endless_recursion_is_a_trap_with_a_short_backtrace() {
    let exit = start_of("(func $start (result i32) (call $start))", 1 << 20).await;
    assert_eq!(exit.code, Exit::TRAP);
    assert!(exit.reason.contains("call stack exhausted"), "{}", exit.reason);
    assert!(exit.backtrace.len() <= 32);
}

#[tokio::test(flavor = "current_thread")]
async fn an_endless_loop_is_interrupted_while_other_tasks_go_on() {
    static TURNS: AtomicU64 = AtomicU64::new(0);
    let other = tokio::spawn(async {
        loop {
            TURNS.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let spec = spec(|sandbox| sandbox.handler_time = Duration::from_millis(100));
    let wat = starter("(func $start (result i32) (loop $l (br $l)) unreachable)");
    let mut instance = Bench::new().start(&wat, &spec, &Recorder::new()).await.unwrap();
    let before = TURNS.load(Ordering::Relaxed);
    let exit = instance.start().await.unwrap_err();
    other.abort();
    assert_eq!(exit.code, Exit::DEADLINE);
    assert_eq!(exit.reason, "the call ran for more than 100ms (limits.handlerTime)");
    assert!(exit.backtrace[0].ends_with("start"));
    assert!(TURNS.load(Ordering::Relaxed) > before, "the same thread served another task meanwhile");
}

#[tokio::test]
async fn an_endless_initialiser_is_interrupted() {
    let spec = spec(|sandbox| sandbox.handler_time = Duration::from_millis(50));
    let wat = program("(func $init (loop $l (br $l))) (start $init) (func $run (result i32) (i32.const 0))");
    let exit = Bench::new().start(&wat, &spec, &Recorder::new()).await.err().unwrap();
    assert_eq!(exit.code, Exit::DEADLINE);
}

#[tokio::test]
async fn a_memory_bomb_is_stopped_with_the_limit_in_the_reason() {
    let core = "(func $start (result i32) (loop $l (drop (memory.grow (i32.const 16))) (br $l)) unreachable)";
    let exit = start_of(core, 10 << 20).await;
    assert_eq!(exit.code, Exit::MEMORY);
    assert_eq!(
        exit.reason,
        "memory limit of 10 MiB exceeded: linear memory asked for 1 MiB more, 9.1 MiB are in use (limits.memory)"
    );
    assert!(exit.backtrace[0].ends_with("start"));
}

#[tokio::test]
async fn growth_beyond_the_modules_own_maximum_is_its_own_business() {
    let bench = Bench::new();
    let core = r#"(memory 1 2) (func $run (result i32) (i32.ne (memory.grow (i32.const 5)) (i32.const -1)))"#;
    let mut instance = bench.start(&program(core), &spec(|_| ()), &Recorder::new()).await.unwrap();
    assert_eq!(instance.run().await.code, Exit::DONE);
}

#[tokio::test]
async fn a_table_bomb_is_stopped() {
    let core = "(table $t 1 funcref)
        (func $start (result i32)
          (loop $l (drop (table.grow $t (ref.null func) (i32.const 65536))) (br $l)) unreachable)";
    let exit = start_of(core, 4 << 20).await;
    assert_eq!((exit.code, exit.reason.contains("a table asked for 512 KiB more")), (Exit::MEMORY, true), "{exit:?}");
}

#[tokio::test]
async fn many_small_memories_count_as_one_large() {
    let core = "(memory 40) (memory 40) (func $run (result i32) (i32.const 0))";
    let spec = spec(|sandbox| sandbox.memory_bytes = 4 << 20);
    let exit = Bench::new().start(&program(core), &spec, &Recorder::new()).await.err().unwrap();
    assert_eq!(exit.code, Exit::MEMORY);
}

#[tokio::test]
async fn hoarded_handles_end_the_instance() {
    let core = "(func $handle (param i32 i32 i32) (result i32)
        (loop $l (drop (call $new (i32.const 0) (i32.const 0))) (br $l)) unreachable)";
    let mut instance = Bench::new().start(&handler(core), &spec(|_| ()), &Recorder::new()).await.unwrap();
    let mut queue = Queue::of(&["x"]);
    let exit = instance.handle_batch(&mut queue).await.unwrap_err();
    assert_eq!((exit.code, &*exit.reason), (Exit::MEMORY, "more than 4096 message handles held"));
    assert!(queue.settled.is_empty(), "the message during which it ended is not settled");
}

#[tokio::test]
async fn hoarded_wasi_resources_end_the_instance() {
    let core = "(func $run (result i32) (loop $l (drop (call $timer (i64.const 1))) (br $l)) unreachable)";
    let mut instance = Bench::new().start(&wasi_program(core), &spec(|_| ()), &Recorder::new()).await.unwrap();
    let exit = instance.run().await;
    assert_eq!(exit.code, Exit::MEMORY, "{exit:?}");
}

#[tokio::test]
async fn held_messages_count_against_the_memory_limit() {
    let core = "(func $handle (param i32 i32 i32) (result i32)
        (loop $l (drop (call $new (i32.const 0) (i32.const 60000))) (br $l)) unreachable)";
    let spec = spec(|sandbox| sandbox.memory_bytes = 1 << 20);
    let mut instance = Bench::new().start(&handler(core), &spec, &Recorder::new()).await.unwrap();
    let exit = instance.handle_batch(&mut Queue::of(&["x"])).await.unwrap_err();
    assert_eq!(exit.code, Exit::MEMORY);
    assert!(exit.reason.contains("a message asked for"), "{}", exit.reason);
}

#[tokio::test]
async fn a_send_that_waits_too_long_traps_where_it_waits() {
    let core = "(func $handle (param i32 i32 i32) (result i32)
        (call $send (i32.const 512) (i32.const 3) (local.get 2) (i32.const 256)) (i32.const 0))";
    let host = Recorder::new();
    host.full.store(true, Ordering::SeqCst);
    let spec = spec(|sandbox| sandbox.handler_wall = Duration::from_millis(80));
    let mut instance = Bench::new().start(&handler(core), &spec, &host).await.unwrap();
    let exit = instance.handle_batch(&mut Queue::of(&["x"])).await.unwrap_err();
    assert_eq!(exit.code, Exit::DEADLINE);
    assert_eq!(exit.reason, "the call took more than 80ms (limits.handlerWall), waiting in a host function");
    assert!(exit.backtrace[0].ends_with("handle"), "{:?}", exit.backtrace);
}

#[tokio::test]
async fn a_handler_that_sleeps_too_long_in_wasi_is_abandoned() {
    let spec = spec(|sandbox| sandbox.handler_wall = Duration::from_millis(50));
    let mut instance = Bench::new().start(&sleeper(3_600_000_000_000), &spec, &Recorder::new()).await.unwrap();
    let exit = instance.fire("t", 0).await.unwrap_err();
    assert_eq!(exit.code, Exit::DEADLINE);
    assert!(exit.reason.contains("limits.handlerWall") && exit.reason.contains("abandoned"), "{}", exit.reason);
}

#[tokio::test]
async fn waiting_is_not_running_time() {
    let spec = spec(|sandbox| sandbox.handler_time = Duration::from_millis(30));
    let mut instance = Bench::new().start(&sleeper(200_000_000), &spec, &Recorder::new()).await.unwrap();
    instance.fire("t", 0).await.unwrap();
    instance.fire("t", 0).await.unwrap();
}

#[tokio::test]
async fn an_abandoned_call_leaves_a_dead_instance() {
    let core = "(func $handle (param i32 i32 i32) (result i32)
        (call $send (i32.const 512) (i32.const 3) (local.get 2) (i32.const 256)) (i32.const 0))";
    let host = Recorder::new();
    host.full.store(true, Ordering::SeqCst);
    let mut instance = Bench::new().start(&handler(core), &spec(|_| ()), &host).await.unwrap();
    let mut queue = Queue::of(&["x"]);
    tokio::select! {
        biased;
        _ = instance.handle_batch(&mut queue) => panic!("nobody makes room"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(instance.handle_batch(&mut queue).await.unwrap_err().code, Exit::STOPPED);
}

#[tokio::test]
async fn a_program_waits_and_runs_longer_than_a_handler_may() {
    let core = "(func $run (result i32) (call $sleep (i64.const 200000000)) (i32.const 0))";
    let spec = spec(|sandbox| {
        sandbox.handler_time = Duration::from_millis(10);
        sandbox.handler_wall = Duration::from_millis(20);
    });
    let mut instance = Bench::new().start(&wasi_program(core), &spec, &Recorder::new()).await.unwrap();
    assert_eq!(instance.run().await.code, Exit::DONE);
}

#[tokio::test]
async fn a_missing_folder_is_named() {
    let mount =
        marram_core::deployment::Mount { host: "/no/such/folder".into(), guest: "/data".into(), writable: false };
    let spec = spec(|sandbox| sandbox.mounts.push(mount));
    let wat = program("(func $run (result i32) (i32.const 0))");
    let exit = Bench::new().start(&wat, &spec, &Recorder::new()).await.err().unwrap();
    assert_eq!(exit.code, EXIT_CANNOT_START);
    assert!(exit.reason.contains("/no/such/folder") && exit.reason.contains("/data"), "{}", exit.reason);
}

#[tokio::test]
async fn the_narrow_profile_keeps_the_same_promises() {
    let bench = Bench::with_profile(Profile::Narrow);
    let spec = spec(|sandbox| sandbox.memory_bytes = 3 << 20);
    let core = "(func $start (result i32) (loop $l (drop (memory.grow (i32.const 16))) (br $l)) unreachable)";
    let mut instance = bench.start(&starter(core), &spec, &Recorder::new()).await.unwrap();
    assert_eq!(instance.start().await.unwrap_err().code, Exit::MEMORY);
    let core = "(func $start (result i32) (drop (i32.load (i32.const 65536))) (i32.const 0))";
    let mut instance = bench.start(&starter(core), &spec, &Recorder::new()).await.unwrap();
    let exit = instance.start().await.unwrap_err();
    assert!(exit.reason.contains("out of bounds memory access"), "{}", exit.reason);
}

#[tokio::test]
async fn no_module_is_granted_a_folder_of_the_host_nor_one_that_holds_it() {
    let bench = Bench::new();
    let wat = program("(func $run (result i32) (i32.const 0))");
    let compiled = bench.folder.path().join("compiled");
    let around = tempfile::tempdir().unwrap();
    let link = around.path().join("link");
    std::os::unix::fs::symlink(&compiled, &link).unwrap();
    for host in [compiled.as_path(), bench.folder.path(), &link] {
        for writable in [false, true] {
            let mount = marram_core::deployment::Mount { host: host.into(), guest: "/data".into(), writable };
            let spec = spec(|sandbox| sandbox.mounts.push(mount));
            let exit = bench.start(&wat, &spec, &Recorder::new()).await.err().unwrap();
            assert_eq!(exit.code, EXIT_CANNOT_START, "{exit:?}");
            assert!(exit.reason.contains("the host's own"), "{exit:?}");
        }
    }
}
