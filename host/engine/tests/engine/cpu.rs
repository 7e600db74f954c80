//! Running time is processor time: waiting costs nothing, and programs get a share.

use std::time::Duration;

use marram_core::ports::Exit;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    guests::{program, waiter},
    support::{Bench, Recorder, spec},
};

/// Processor time of this thread; on a runtime of one thread that of the guests too.
fn used() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Repeats `core` so many times.
fn times(count: u32, core: &str) -> String {
    format!(
        "(local $n i32) (local $i i32)
         (loop $l {core}
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $l (i32.lt_u (local.get $n) (i32.const {count}))))"
    )
}

#[tokio::test(flavor = "current_thread")]
async fn many_short_waits_use_up_nothing() {
    let wat = waiter(&times(170, "(call $block (call $timer (i64.const 6000000)))"));
    let spec = spec(|sandbox| sandbox.handler_time = Duration::from_millis(200));
    let mut instance = Bench::new().start(&wat, &spec, &Recorder::new()).await.unwrap();
    let begin = std::time::Instant::now();
    instance.fire("t", 0).await.unwrap();
    assert!(begin.elapsed() > Duration::from_secs(1));
}

#[tokio::test(flavor = "current_thread")]
async fn short_waits_do_not_hide_running() {
    let spin = "(local.set $i (i32.const 0))
      (loop $s (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $s (i32.lt_u (local.get $i) (i32.const 4000000))))
      (call $block (call $timer (i64.const 1000000)))";
    let spec = spec(|sandbox| sandbox.handler_time = Duration::from_millis(200));
    let mut instance = Bench::new().start(&waiter(&times(100_000, spin)), &spec, &Recorder::new()).await.unwrap();
    let before = used();
    let exit = instance.fire("t", 0).await.unwrap_err();
    let ran = used() - before;
    assert_eq!((exit.code, &*exit.reason), (Exit::DEADLINE, "the call ran for more than 200ms (limits.handlerTime)"));
    assert!((Duration::from_millis(195)..Duration::from_millis(400)).contains(&ran), "{ran:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn nor_do_waits_between_which_next_to_nothing_runs() {
    let spin = "(local.set $i (i32.const 0))
      (loop $s (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $s (i32.lt_u (local.get $i) (i32.const 100000))))
      (call $block (call $timer (i64.const 1000)))";
    let spec = spec(|sandbox| sandbox.handler_time = Duration::from_millis(50));
    let mut instance = Bench::new().start(&waiter(&times(100_000, spin)), &spec, &Recorder::new()).await.unwrap();
    let before = used();
    let exit = instance.fire("t", 0).await.unwrap_err();
    let ran = used() - before;
    assert_eq!((exit.code, &*exit.reason), (Exit::DEADLINE, "the call ran for more than 50ms (limits.handlerTime)"));
    assert!(ran < Duration::from_millis(200), "{ran:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_busy_handler_gets_its_running_time_and_no_more() {
    let spec = spec(|sandbox| sandbox.handler_time = Duration::from_millis(200));
    let mut instance = Bench::new().start(&waiter("(loop $l (br $l))"), &spec, &Recorder::new()).await.unwrap();
    let before = used();
    let exit = instance.fire("t", 0).await.unwrap_err();
    let ran = used() - before;
    assert_eq!(exit.code, Exit::DEADLINE);
    assert!((Duration::from_millis(195)..Duration::from_millis(300)).contains(&ran), "{ran:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_busy_program_leaves_half_of_a_core() {
    let wat = program("(func $run (result i32) (loop $l (br $l)) unreachable)");
    let mut instance = Bench::new().start(&wat, &spec(|_| ()), &Recorder::new()).await.unwrap();
    let before = used();
    tokio::time::timeout(Duration::from_secs(3), instance.run()).await.unwrap_err();
    let ran = used() - before;
    // Half a second at once, and half of the three.
    assert!(ran < Duration::from_millis(2200), "{ran:?} of 3 s");
}
