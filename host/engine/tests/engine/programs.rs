//! Programs: exit codes, output as log lines, folders as granted.

use marram_core::{
    deployment::Mount,
    ports::{Exit, LogStream},
};

use crate::{
    guests::{program, wasi_program},
    support::{Bench, Recorder, spec},
};

async fn exit_of(wat: &str) -> (Exit, std::sync::Arc<Recorder>) {
    let host = Recorder::new();
    let mut instance = Bench::new().start(wat, &spec(|_| ()), &host).await.unwrap();
    (instance.run().await, host)
}

#[tokio::test]
async fn the_exit_code_is_the_programs_own() {
    for (core, code) in [
        ("(func $run (result i32) (i32.const 0))", 0),
        ("(func $run (result i32) (i32.const 1))", 1),
        ("(func $run (result i32) unreachable)", Exit::TRAP),
    ] {
        assert_eq!(exit_of(&program(core)).await.0.code, code, "{core}");
    }
    for (status, code) in [(0, 0), (1, 1)] {
        let core = format!("(func $run (result i32) (call $exit (i32.const {status})) unreachable)");
        let (exit, _) = exit_of(&wasi_program(&core)).await;
        assert_eq!((exit.code, exit.backtrace.len()), (code, 0), "exit({status})");
    }
}

#[tokio::test]
async fn a_program_may_choose_any_exit_code() {
    let core = "(func $run (result i32) (call $exit-with (i32.const 7)) unreachable)";
    assert_eq!(exit_of(&wasi_program(core)).await.0, Exit::new(7, "exited with code 7"));
}

#[tokio::test]
async fn output_becomes_lines_and_the_last_one_needs_no_end() {
    let core = r#"(data (i32.const 0) "one\0atwo\r\0a\0ahalf \ff")
      (func $run (result i32) (call $print (i32.const 0) (i32.const 2)) (call $print (i32.const 2) (i32.const 14))
        (i32.const 0))"#;
    let (_, host) = exit_of(&wasi_program(core)).await;
    assert_eq!(host.lines(), ["one", "two", "", "half \u{fffd}"]);
    assert!(host.lines.lock().unwrap().iter().all(|(stream, _)| *stream == LogStream::Out));
}

#[tokio::test]
async fn output_before_a_trap_is_kept() {
    let core = r#"(data (i32.const 0) "last words")
      (func $run (result i32) (call $print (i32.const 0) (i32.const 10)) unreachable)"#;
    let (exit, host) = exit_of(&wasi_program(core)).await;
    assert_eq!((exit.code, host.lines()), (Exit::TRAP, vec!["last words".to_owned()]));
}

#[tokio::test]
async fn a_line_without_end_is_cut_into_pieces_between_characters() {
    // 3 x 4095 bytes of "aé" pairs: no piece may be longer than 8 KiB or split an é.
    let core = r#"(func $run (result i32) (local $i i32)
      (loop $fill
        (i32.store8 (local.get $i) (i32.const 0x61))
        (i32.store16 (i32.add (local.get $i) (i32.const 1)) (i32.const 0xa9c3))
        (local.set $i (i32.add (local.get $i) (i32.const 3)))
        (br_if $fill (i32.lt_u (local.get $i) (i32.const 4095))))
      (call $print (i32.const 0) (i32.const 4095)) (call $print (i32.const 0) (i32.const 4095))
      (call $print (i32.const 0) (i32.const 4095)) (i32.const 0))"#;
    let (_, host) = exit_of(&wasi_program(core)).await;
    let lines = host.lines();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.len() <= 8192 && !line.contains('\u{fffd}')));
    assert_eq!(lines.concat(), "aé".repeat(3 * 4095 / 3));
}

/// Makes the folder `d` in the first folder that it sees; run fails if that does.
const MAKES_A_FOLDER: &str = r#"(component $C
  (import "wasi:filesystem/types@0.2.0" (instance $types
    (export "descriptor" (type $descriptor (sub resource)))
    (type $code' (enum "access" "would-block" "already" "bad-descriptor" "busy" "deadlock" "quota" "exist"
      "file-too-large" "illegal-byte-sequence" "in-progress" "interrupted" "invalid" "io" "is-directory" "loop"
      "too-many-links" "message-size" "name-too-long" "no-device" "no-entry" "no-lock" "insufficient-memory"
      "insufficient-space" "not-directory" "not-empty" "not-recoverable" "unsupported" "no-tty" "no-such-device"
      "overflow" "not-permitted" "pipe" "read-only" "invalid-seek" "text-file-busy" "cross-device"))
    (export "error-code" (type $code (eq $code')))
    (export "[method]descriptor.create-directory-at"
      (func (param "self" (borrow $descriptor)) (param "path" string) (result (result (error $code)))))))
  (alias export $types "descriptor" (type $descriptor))
  (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
    (alias outer $C $descriptor (type $d'))
    (export "descriptor" (type $d (eq $d')))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))
  (core module $Mem (memory (export "memory") 1)
    (data (i32.const 16) "d")
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.add (i32.const 1024) (local.get 3))))
  (core instance $mem (instantiate $Mem))
  (alias core export $mem "memory" (core memory $memory))
  (alias core export $mem "realloc" (core func $realloc))
  (core func $list (canon lower (func $preopens "get-directories") (memory $memory) (realloc $realloc)))
  (core func $make (canon lower (func $types "[method]descriptor.create-directory-at") (memory $memory)))
  (core module $Main
    (import "mem" "memory" (memory 1))
    (import "host" "list" (func $list (param i32)))
    (import "host" "make" (func $make (param i32 i32 i32 i32)))
    (func (export "run") (result i32)
      (call $list (i32.const 0))
      (call $make (i32.load (i32.load (i32.const 0))) (i32.const 16) (i32.const 1) (i32.const 32))
      (i32.load8_u (i32.const 32))))
  (core instance $main (instantiate $Main (with "mem" (instance $mem))
    (with "host" (instance (export "list" (func $list)) (export "make" (func $make))))))
  (func $f (result (result)) (canon lift (core func $main "run")))
  (instance $i (export "run" (func $f)))
  (export "wasi:cli/run@0.2.0" (instance $i)))"#;

#[tokio::test]
async fn a_folder_is_written_only_where_granted() {
    for (writable, code) in [(false, 1), (true, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let mount = Mount { host: folder.path().to_owned(), guest: "/data".into(), writable };
        let spec = spec(|sandbox| sandbox.mounts.push(mount));
        let mut instance = Bench::new().start(MAKES_A_FOLDER, &spec, &Recorder::new()).await.unwrap();
        let exit = instance.run().await;
        assert_eq!((exit.code, folder.path().join("d").exists()), (code, writable), "{exit:?}");
    }
}
