//! Programs that ask for messages: each is settled once, by its handle, and a mistake is an answer, not a trap.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use marram_core::ports::{Exit, Settlement};

use crate::support::{Bench, Recorder, binary, spec};

/// A program; `core` defines `(func $run (result i32))` and may call `$new`, `$drop`, `$receive` (time-out, where the answer
/// goes: at +4 whether there is one, at +16 the message) and `$settle` (message, 1 for an error, 1 for `reject`, whether
/// there is a delay, the delay, where the answer goes).
fn receiver(core: &str) -> String {
    format!(
        r#"(component $C
  (import "marram:edge/types@0.1.0" (instance $types
    (export "message" (type $message (sub resource)))
    (type $nack' (variant (case "retry-after" (option u64)) (case "reject" string)))
    (export "nack" (type $nack (eq $nack')))
    (export "[constructor]message" (func (param "body" (list u8)) (result (own $message))))))
  (alias export $types "message" (type $message))
  (alias export $types "nack" (type $nack))
  (import "marram:edge/inbox@0.1.0" (instance $inbox
    (alias outer $C $message (type $message'))
    (export "message" (type $message (eq $message')))
    (alias outer $C $nack (type $nack'))
    (export "nack" (type $nack (eq $nack')))
    (type $receive-error' (variant (case "stopping") (case "too-many-unsettled")))
    (export "receive-error" (type $receive-error (eq $receive-error')))
    (type $settle-error' (variant (case "already-settled") (case "not-received")))
    (export "settle-error" (type $settle-error (eq $settle-error')))
    (export "receive" (func (param "timeout-ms" u64)
      (result (result (option (tuple string (own $message))) (error $receive-error)))))
    (export "settle" (func (param "msg" (borrow $message)) (param "outcome" (result (error $nack)))
      (result (result (error $settle-error)))))))
  (core module $Mem
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096)))
  (core instance $mem (instantiate $Mem))
  (alias core export $mem "memory" (core memory $memory))
  (alias core export $mem "realloc" (core func $realloc))
  (core func $new (canon lower (func $types "[constructor]message") (memory $memory)))
  (core func $drop (canon resource.drop $message))
  (core func $receive (canon lower (func $inbox "receive") (memory $memory) (realloc $realloc)))
  (core func $settle (canon lower (func $inbox "settle") (memory $memory) (realloc $realloc)))
  (core module $Main
    (import "mem" "memory" (memory 1))
    (import "host" "new" (func $new (param i32 i32) (result i32)))
    (import "host" "drop" (func $drop (param i32)))
    (import "host" "receive" (func $receive (param i64 i32)))
    (import "host" "settle" (func $settle (param i32 i32 i32 i32 i64 i32)))
    (func $next (result i32)
      (call $receive (i64.const 250) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then unreachable))
      (if (i32.eqz (i32.load8_u (i32.const 68))) (then unreachable))
      (i32.load (i32.const 80)))
    (func $expect (param $answer i32) (if (i32.ne (i32.load16_u (i32.const 128)) (local.get $answer)) (then unreachable)))
    {core}
    (export "run" (func $run)))
  (core instance $main (instantiate $Main
    (with "mem" (instance $mem))
    (with "host" (instance
      (export "new" (func $new)) (export "drop" (func $drop))
      (export "receive" (func $receive)) (export "settle" (func $settle))))))
  (func $f (result (result)) (canon lift (core func $main "run")))
  (instance $i (export "run" (func $f)))
  (export "wasi:cli/run@0.2.0" (instance $i)))"#
    )
}

async fn exit_of(core: &str, host: &Arc<Recorder>) -> Exit {
    let mut instance = Bench::new().start(&receiver(core), &spec(|_| ()), host).await.unwrap();
    instance.run().await
}

/// `$settle` with the word `done`; the answer is at 128.
const DONE: &str = "(i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 128)";
/// `already-settled` and `not-received`, as 16 bits at 128.
const ALREADY_SETTLED: &str = "(call $expect (i32.const 0x0001))";
const NOT_RECEIVED: &str = "(call $expect (i32.const 0x0101))";

#[tokio::test]
async fn each_message_is_settled_with_the_programs_word_and_in_any_order() {
    // Holds two; rejects the second (its reason is the input's name, at 4096), asks for the first again in 7 ms.
    let core = "(func $run (result i32) (local $a i32) (local $b i32)
      (local.set $a (call $next)) (local.set $b (call $next))
      (call $settle (local.get $b) (i32.const 1) (i32.const 1) (i32.const 4096) (i64.const 2) (i32.const 128))
      (call $expect (i32.const 0))
      (call $settle (local.get $a) (i32.const 1) (i32.const 0) (i32.const 1) (i64.const 7) (i32.const 128))
      (call $expect (i32.const 0))
      (call $receive (i64.const 0) (i32.const 64))
      (i32.load8_u (i32.const 68)))";
    let host = Recorder::with_messages(&["1", "22"]);
    assert_eq!(exit_of(core, &host).await.code, 0, "then there is none");
    let retry = Settlement::Retry(Some(Duration::from_millis(7)));
    assert_eq!(host.settled(), [(2, Settlement::Reject("in".into())), (1, retry)]);
    let patience = [250, 250, 0].map(Duration::from_millis);
    assert_eq!(*host.patience.lock().unwrap(), patience);
}

#[tokio::test]
async fn a_message_that_is_settled_twice_or_was_never_received_is_an_error_of_settle() {
    let core = format!(
        "(func $run (result i32) (local $a i32)
      (local.set $a (call $next))
      (call $settle (local.get $a) {DONE}) (call $expect (i32.const 0))
      (call $settle (local.get $a) {DONE}) {ALREADY_SETTLED}
      (call $settle (call $new (i32.const 0) (i32.const 1)) {DONE}) {NOT_RECEIVED}
      (i32.const 0))"
    );
    let host = Recorder::with_messages(&["1"]);
    assert_eq!(exit_of(&core, &host).await, Exit::new(Exit::DONE, "the program ended"));
    assert_eq!(host.settled(), [(1, Settlement::Done)]);
}

#[tokio::test]
async fn a_handle_that_is_dropped_unsettled_asks_for_a_retry() {
    let core = format!(
        "(func $run (result i32) (local $a i32)
      (call $drop (call $next))
      (local.set $a (call $next))
      (call $settle (local.get $a) {DONE}) (call $expect (i32.const 0))
      (call $drop (local.get $a))
      (i32.const 0))"
    );
    let host = Recorder::with_messages(&["1", "2"]);
    assert_eq!(exit_of(&core, &host).await.code, 0);
    assert_eq!(host.settled(), [(1, Settlement::Retry(None)), (2, Settlement::Done)]);
}

#[tokio::test]
async fn a_stop_is_an_answer_of_receive() {
    let core = "(func $run (result i32)
      (call $receive (i64.const 1000) (i32.const 64))
      (if (i32.ne (i32.load8_u (i32.const 64)) (i32.const 1)) (then unreachable))
      (i32.load8_u (i32.const 68)))";
    let host = Recorder::new();
    host.stopping.store(true, Ordering::SeqCst);
    assert_eq!(exit_of(core, &host).await.code, 0);
}

#[tokio::test]
async fn messages_that_are_held_count_against_the_memory_limit() {
    let core = "(func $run (result i32) (loop $l (drop (call $next)) (br $l)) unreachable)";
    let host = Recorder::with_messages(&["x"; 10_000]);
    let spec = spec(|sandbox| sandbox.memory_bytes = 256 << 10);
    let mut instance = Bench::new().start(&receiver(core), &spec, &host).await.unwrap();
    let exit = instance.run().await;
    assert_eq!(exit.code, Exit::MEMORY, "{exit:?}");
    assert!(host.settled().is_empty(), "what the host does with them then is its own affair");
}

#[tokio::test]
async fn a_handler_may_not_ask_for_messages() {
    let wat = receiver("(func $run (result i32) (i32.const 0))").replace(
        r#"(func $f (result (result)) (canon lift (core func $main "run")))
  (instance $i (export "run" (func $f)))
  (export "wasi:cli/run@0.2.0" (instance $i))"#,
        r#"(func $f (param "name" string) (param "missed" u64)
    (canon lift (core func $main "run") (memory $memory) (realloc $realloc)))
  (instance $i (export "fire" (func $f)))
  (export "marram:edge/timer-handler@0.1.0" (instance $i))"#,
    );
    let wat = wat.replace("(func $run (result i32) (i32.const 0))", "(func $run (param i32 i32 i64))");
    let error = Bench::new().load(&binary(&wat)).await.err().unwrap().0;
    assert!(error.contains("imports `marram:edge/inbox`, which is for programs"), "{error}");
}
