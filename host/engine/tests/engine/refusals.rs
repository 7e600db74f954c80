//! What cannot run here is refused before it is compiled, with what to do instead.

use crate::{
    guests::{instances, program},
    support::{Bench, binary},
};

/// The one line of the refusal, without the digest in front.
async fn refusal(wat: &str) -> String {
    let bench = Bench::new();
    let error = bench.load(&binary(wat)).await.err().unwrap().0;
    let compiled = std::fs::read_dir(bench.cache()).unwrap().count();
    assert_eq!(compiled, 0, "nothing was compiled");
    assert!(!error.contains('\n'));
    error.split_once(": ").unwrap().1.to_owned()
}

#[tokio::test]
async fn a_core_module_names_the_way_to_a_component() {
    let text = refusal("(module (func (export \"_start\")))").await;
    assert!(text.contains("core WebAssembly module") && text.contains("wasm32-wasip2"), "{text}");
    assert!(text.contains("marram module componentize"), "{text}");
}

#[tokio::test]
async fn all_unknown_imports_are_named() {
    let text = refusal(
        r#"(component (import "acme:gpio/pins@1.0.0" (instance)) (import "wasi:keyvalue/store@0.2.3" (instance))
           (import "wasi:io/error@0.2.9" (instance)))"#,
    )
    .await;
    assert!(text.contains("`acme:gpio/pins@1.0.0`, `wasi:keyvalue/store@0.2.3`;"), "{text}");
}

#[tokio::test]
async fn an_import_of_wasi_http_names_the_way_to_build_without() {
    let text = refusal(
        r#"(component (import "wasi:http/types@0.2.3" (instance)) (import "wasi:http/outgoing-handler@0.2.3" (instance)))"#,
    )
    .await;
    assert!(text.contains("`wasi:http/outgoing-handler@0.2.3`, `wasi:http/types@0.2.3`;"), "{text}");
    assert!(text.contains("componentize-js: `-d http fetch-event`"), "{text}");
}

#[tokio::test]
async fn more_core_instances_than_are_made_are_refused() {
    let text = refusal(&instances(80, "")).await;
    assert!(text.contains("has 81 core instances, at most 64 are made"), "{text}");
}

#[tokio::test]
async fn memories_and_tables_of_64_bits_are_refused() {
    for core in ["(memory i64 1)", "(table i64 1 funcref)"] {
        let wat = program(&format!("{core} (func $run (result i32) (i32.const 0))"));
        let error = Bench::new().load(&binary(&wat)).await.err().unwrap().0;
        assert!(error.contains("does not compile") && error.contains("64"), "{error}");
    }
}

#[tokio::test]
async fn modules_that_come_as_arguments_are_refused() {
    let text = refusal(
        r#"(component
          (component $Inner (import "m" (core module $M)) (core instance (instantiate $M)))
          (core module $Big)
          (instance (instantiate $Inner (with "m" (core module $Big)))))"#,
    )
    .await;
    assert!(text.contains("link them statically"), "{text}");
}

#[tokio::test]
async fn wasi_03_and_async_lifting_name_the_rebuild() {
    let text = refusal(r#"(component (import "wasi:cli/environment@0.3.0" (instance)))"#).await;
    assert!(text.contains("`wasi:cli/environment@0.3.0`") && text.contains("rebuild it for WASI 0.2"), "{text}");
    let text = refusal(
        r#"(component
          (core module $M (func (export "f")))
          (core instance $m (instantiate $M))
          (func (export "f") async (canon lift (core func $m "f") async)))"#,
    )
    .await;
    assert!(text.contains("async lifting"), "{text}");
}

#[tokio::test]
async fn without_a_handler_the_expected_ones_are_listed() {
    let text = refusal("(component)").await;
    for name in ["wasi:cli/run@0.2", "start-handler", "input-handler", "twin-handler", "timer-handler"] {
        assert!(text.contains(name), "{text}");
    }
}

#[tokio::test]
async fn a_program_with_handlers_is_ambiguous() {
    let text = refusal(
        r#"(component
          (core module $M (func (export "run") (result i32) (i32.const 0)))
          (core instance $m (instantiate $M))
          (func $f (result (result)) (canon lift (core func $m "run")))
          (instance $i (export "run" (func $f)))
          (export "wasi:cli/run@0.2.0" (instance $i))
          (export "marram:edge/timer-handler@0.1.0" (instance $i)))"#,
    )
    .await;
    assert!(text.contains("either a program or handlers"), "{text}");
}

#[tokio::test]
async fn rubbish_is_no_component() {
    let bench = Bench::new();
    let error = bench.load(b"\0asm rubbish").await.err().unwrap().0;
    assert!(error.contains("not a WebAssembly component"), "{error}");
}

#[tokio::test]
async fn an_export_of_another_type_is_refused_at_load() {
    let wat = r#"(component
      (core module $M (func (export "fire")))
      (core instance $m (instantiate $M))
      (func $f (canon lift (core func $m "fire")))
      (instance $i (export "fire" (func $f)))
      (export "marram:edge/timer-handler@0.1.0" (instance $i)))"#;
    let error = Bench::new().load(&binary(wat)).await.err().unwrap().0;
    assert!(error.contains("`marram:edge/timer-handler@0.1.0#fire` has another type"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_not_what_its_digest_says_is_refused() {
    let bench = Bench::new();
    let artifact = bench.artifact(&binary(&program("(func $run (result i32) (i32.const 0))")));
    std::fs::write(&artifact.path, binary("(component)")).unwrap();
    let error = marram_core::ports::Engine::load(&bench.engine, &artifact, "oci:guest").await.err().unwrap().0;
    assert!(error.contains("expected sha256:"), "{error}");
}

#[tokio::test]
async fn two_handlers_of_messages_are_ambiguous() {
    let text = refusal(
        r#"(component
          (instance $i)
          (export "marram:edge/input-handler@0.1.0" (instance $i))
          (export "wasi:messaging/incoming-handler@0.2.0-draft" (instance $i)))"#,
    )
    .await;
    assert!(text.contains("messages go to one of them"), "{text}");
}

#[tokio::test]
async fn request_reply_is_not_offered_and_what_is_stands_in_the_refusal() {
    let text = refusal(r#"(component (import "wasi:messaging/request-reply@0.2.0-draft" (instance)))"#).await;
    assert!(text.contains("`wasi:messaging/request-reply@0.2.0-draft`;"), "{text}");
    assert!(
        text.contains("wasi:config/store@0.2.0-rc.1") && text.contains("wasi:messaging/producer@0.2.0-draft"),
        "{text}"
    );
}
