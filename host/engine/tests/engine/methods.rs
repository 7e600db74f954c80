//! Methods: a guest is called, calls others, and stays within the bounds of a call.

use std::{sync::Arc, time::Duration};

use marram_core::{
    methods::{InvokeError, MAX_PAYLOAD_BYTES, MethodResponse},
    ports::{Exit, Instance},
};

use crate::support::{Bench, Recorder, spec};

/// Exports `method-handler`. `core` defines `(func $invoke (param i32 i32 i32 i32) (result i32))`: texts of name and payload; the
/// result points at status, address and length of the answer. It may call `$call`: texts of target, name and payload, two options,
/// and where the answer goes. Text `b` lies at 512.
fn responder(core: &str) -> String {
    format!(
        r#"(component $C
  (import "marram:edge/method-types@0.1.0" (instance $types
    (type $response' (record (field "status" s32) (field "payload" string)))
    (export "method-response" (type $response (eq $response')))))
  (alias export $types "method-response" (type $response))
  (import "marram:edge/methods@0.1.0" (instance $methods
    (alias outer $C $response (type $response'))
    (export "method-response" (type $response (eq $response')))
    (type $options' (record (field "response-timeout-ms" (option u64)) (field "connect-timeout-ms" (option u64))))
    (export "call-options" (type $options (eq $options')))
    (type $error' (variant (case "invalid" string) (case "not-found") (case "not-running") (case "timeout")
      (case "denied" string) (case "busy") (case "shutting-down") (case "other" string)))
    (export "invoke-error" (type $error (eq $error')))
    (export "invoke" (func (param "target" string) (param "name" string) (param "payload" string)
      (param "options" $options) (result (result $response (error $error)))))))
  (core module $Mem
    (memory (export "memory") 8)
    (data (i32.const 512) "b")
    (global $next (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (global.get $next))
      (global.set $next (i32.and (i32.add (i32.add (local.get $at) (local.get 3)) (i32.const 15)) (i32.const -16)))
      (local.get $at)))
  (core instance $mem (instantiate $Mem))
  (alias core export $mem "memory" (core memory $memory))
  (alias core export $mem "realloc" (core func $realloc))
  (core func $call (canon lower (func $methods "invoke") (memory $memory) (realloc $realloc)))
  (core module $Main
    (import "mem" "memory" (memory 1))
    (import "host" "call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i64 i32 i64 i32)))
    {core}
    (export "invoke" (func $invoke)))
  (core instance $main (instantiate $Main
    (with "mem" (instance $mem))
    (with "host" (instance (export "call" (func $call))))))
  (func $f (param "name" string) (param "payload" string) (result $response)
    (canon lift (core func $main "invoke") (memory $memory) (realloc $realloc)))
  (instance $i (export "invoke" (func $f)))
  (export "marram:edge/method-handler@0.1.0" (instance $i)))"#
    )
}

/// Calls the same method of `b` and passes the answer on; an error becomes status -1, -2 … by its place in the interface.
const RELAY: &str = "(func $invoke (param i32 i32 i32 i32) (result i32)
  (call $call (i32.const 512) (i32.const 1) (local.get 0) (local.get 1) (local.get 2) (local.get 3)
    (i32.const 1) (i64.const 5000) (i32.const 1) (i64.const 250) (i32.const 64))
  (if (i32.load8_u (i32.const 64)) (then
    (i32.store (i32.const 68) (i32.sub (i32.const -1) (i32.load8_u (i32.const 68))))
    (i32.store (i32.const 76) (i32.const 0))))
  (i32.const 68))";

async fn relay(host: &Arc<Recorder>) -> Box<dyn Instance> {
    Bench::new().start(&responder(RELAY), &spec(|_| ()), host).await.unwrap()
}

fn answer(status: i32, payload: &str) -> Result<MethodResponse, InvokeError> {
    Ok(MethodResponse { status, payload: payload.into() })
}

#[tokio::test]
async fn name_payload_time_outs_and_answer_pass_through() {
    let host = Recorder::new();
    host.answers.lock().unwrap().extend([answer(207, r#"{"é":1}"#), answer(i32::MIN, "null")]);
    let mut instance = relay(&host).await;
    assert_eq!(instance.invoke("reset", "[1,2]").await, Ok((207, r#"{"é":1}"#.to_owned())));
    assert_eq!(instance.invoke("x", "").await, Ok((i32::MIN, "null".to_owned())));
    let invoked = host.invoked.lock().unwrap();
    let (target, request) = &invoked[0];
    assert_eq!((&**target, request.name(), request.payload()), ("b", "reset", "[1,2]"));
    let times = (request.response(), request.connect());
    assert_eq!(times, (Duration::from_secs(5), Duration::from_millis(250)));
    assert_eq!(invoked[1].1.payload(), "null");
}

#[tokio::test]
async fn each_refusal_is_a_word_of_the_interface_and_no_trap() {
    let host = Recorder::new();
    let not_running = InvokeError::NotRunning { module: "b".into(), connect: Duration::ZERO };
    let timeout = InvokeError::Timeout { module: "b".into(), response: Duration::ZERO };
    let errors = [
        InvokeError::Unknown("b".into()),
        not_running,
        timeout,
        InvokeError::Denied("no".into()),
        InvokeError::Busy("b".into()),
        InvokeError::Stopping,
    ];
    host.answers.lock().unwrap().extend(errors.map(Err));
    let mut instance = relay(&host).await;
    for status in [-2, -3, -4, -5, -6, -7] {
        assert_eq!(instance.invoke("m", "").await.unwrap().0, status, "in the order of the interface");
    }
    // What may not be called is told before anybody is asked.
    for (name, payload) in [("", "1"), ("m", "{"), (&*"n".repeat(101), "1"), ("m", &"1".repeat(MAX_PAYLOAD_BYTES + 1))]
    {
        assert_eq!(instance.invoke(name, payload).await.unwrap().0, -1, "{}", name.len());
    }
    assert_eq!(host.invoked.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn a_trap_in_a_method_ends_the_instance() {
    let core = "(func $invoke (param i32 i32 i32 i32) (result i32) unreachable)";
    let mut instance = Bench::new().start(&responder(core), &spec(|_| ()), &Recorder::new()).await.unwrap();
    assert_eq!(instance.invoke("m", "").await.unwrap_err().code, Exit::TRAP);
    assert_eq!(instance.invoke("m", "").await.unwrap_err().code, Exit::TRAP, "nothing touches it again");
}

#[tokio::test]
async fn a_method_has_the_bounds_of_a_handler() {
    let core = "(func $invoke (param i32 i32 i32 i32) (result i32) (loop $l (br $l)) unreachable)";
    let busy = spec(|sandbox| sandbox.handler_time = Duration::from_millis(50));
    let mut instance = Bench::new().start(&responder(core), &busy, &Recorder::new()).await.unwrap();
    let exit = instance.invoke("m", "").await.unwrap_err();
    assert!(exit.code == Exit::DEADLINE && exit.reason.contains("handlerTime"), "{exit:?}");

    let waiting = spec(|sandbox| sandbox.handler_wall = Duration::from_millis(50));
    let mut instance = Bench::new().start(&responder(RELAY), &waiting, &Recorder::new()).await.unwrap();
    let exit = instance.invoke("m", "").await.unwrap_err();
    assert!(exit.code == Exit::DEADLINE && exit.reason.contains("waiting in a host function"), "{exit:?}");
    assert!(!exit.backtrace.is_empty(), "it shows where it waited");
}
