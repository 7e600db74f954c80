//! Small components as text. The caller writes the core functions; these frames make components of them.

/// Exports `start-handler`; `core` defines `(func $start (result i32))`, whose result points at the answer. Address 0 of
/// the memory reads as `ok`.
pub(crate) fn starter(core: &str) -> String {
    format!(
        r#"(component
  (core module $M
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    {core}
    (export "start" (func $start)))
  (core instance $m (instantiate $M))
  (alias core export $m "memory" (core memory $memory))
  (alias core export $m "realloc" (core func $realloc))
  (func $f (result (result (error string)))
    (canon lift (core func $m "start") (memory $memory) (realloc $realloc)))
  (instance $i (export "start" (func $f)))
  (export "marram:edge/start-handler@0.1.0" (instance $i)))"#
    )
}

/// Exports `input-handler`. `core` defines `(func $handle (param i32 i32 i32) (result i32))` (text of the input, its
/// length, the message) and may call `$new`, `$drop`, `$set-body`, `$set-property`, `$body-len`, `$send-bytes`,
/// `$send` (output, length, message, where the answer goes) and `$send-batch` (with address and count of handles instead). Address 0 reads as `ok`, text `out` lies at 512.
pub(crate) fn handler(core: &str) -> String {
    format!(
        r#"(component $C
  (import "marram:edge/types@0.1.0" (instance $types
    (export "message" (type $message (sub resource)))
    (type $nack' (variant (case "retry-after" (option u64)) (case "reject" string)))
    (export "nack" (type $nack (eq $nack')))
    (export "[constructor]message" (func (param "body" (list u8)) (result (own $message))))
    (export "[method]message.set-body" (func (param "self" (borrow $message)) (param "body" (list u8))))
    (export "[method]message.set-property"
      (func (param "self" (borrow $message)) (param "name" string) (param "value" string)))
    (export "[method]message.body-len" (func (param "self" (borrow $message)) (result u64)))))
  (alias export $types "message" (type $message))
  (alias export $types "nack" (type $nack))
  (import "marram:edge/messaging@0.1.0" (instance $messaging
    (alias outer $C $message (type $message'))
    (export "message" (type $message (eq $message')))
    (type $send-error' (variant
      (case "too-large" u64) (case "full") (case "denied" string) (case "shutting-down") (case "other" string)))
    (export "send-error" (type $send-error (eq $send-error')))
    (export "send" (func (param "output" string) (param "msg" (borrow $message))
      (result (result u64 (error $send-error)))))
    (export "send-bytes" (func (param "output" string) (param "body" (list u8))
      (param "properties" (list (tuple string string))) (result (result u64 (error $send-error)))))
    (export "send-batch" (func (param "output" string) (param "msgs" (list (borrow $message)))
      (result (result u32 (error $send-error)))))))
  (core module $Mem
    (memory (export "memory") 1)
    (data (i32.const 512) "out")
    (data (i32.const 528) "changed")
    (global $next (mut i32) (i32.const 4096))
    (func (export "realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (if (i32.gt_u (i32.add (global.get $next) (local.get $size)) (i32.const 60000))
        (then (global.set $next (i32.const 4096))))
      (local.set $at (global.get $next))
      (global.set $next (i32.and (i32.add (i32.add (global.get $next) (local.get $size)) (i32.const 15)) (i32.const -16)))
      (local.get $at)))
  (core instance $mem (instantiate $Mem))
  (alias core export $mem "memory" (core memory $memory))
  (alias core export $mem "realloc" (core func $realloc))
  (core func $new (canon lower (func $types "[constructor]message") (memory $memory)))
  (core func $drop (canon resource.drop $message))
  (core func $set-body (canon lower (func $types "[method]message.set-body") (memory $memory)))
  (core func $set-property (canon lower (func $types "[method]message.set-property") (memory $memory)))
  (core func $body-len (canon lower (func $types "[method]message.body-len")))
  (core func $send (canon lower (func $messaging "send") (memory $memory) (realloc $realloc)))
  (core func $send-batch (canon lower (func $messaging "send-batch") (memory $memory) (realloc $realloc)))
  (core func $send-bytes (canon lower (func $messaging "send-bytes") (memory $memory) (realloc $realloc)))
  (core module $Main
    (import "mem" "memory" (memory 1))
    (import "host" "send-bytes" (func $send-bytes (param i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "send-batch" (func $send-batch (param i32 i32 i32 i32 i32)))
    (import "host" "new" (func $new (param i32 i32) (result i32)))
    (import "host" "drop" (func $drop (param i32)))
    (import "host" "set-body" (func $set-body (param i32 i32 i32)))
    (import "host" "set-property" (func $set-property (param i32 i32 i32 i32 i32)))
    (import "host" "body-len" (func $body-len (param i32) (result i64)))
    (import "host" "send" (func $send (param i32 i32 i32 i32)))
    {core}
    (export "handle" (func $handle)))
  (core instance $main (instantiate $Main
    (with "mem" (instance $mem))
    (with "host" (instance
      (export "new" (func $new))
      (export "drop" (func $drop))
      (export "set-body" (func $set-body))
      (export "set-property" (func $set-property))
      (export "body-len" (func $body-len))
      (export "send-batch" (func $send-batch))
      (export "send-bytes" (func $send-bytes))
      (export "send" (func $send))))))
  (func $f (param "input" string) (param "msg" (own $message)) (result (result (error $nack)))
    (canon lift (core func $main "handle") (memory $memory) (realloc $realloc)))
  (instance $i (export "handle" (func $f)))
  (export "marram:edge/input-handler@0.1.0" (instance $i)))"#
    )
}

/// Exports `wasi:cli/run`; `core` defines `(func $run (result i32))`.
pub(crate) fn program(core: &str) -> String {
    format!(
        r#"(component
  (core module $M {core} (export "run" (func $run)))
  (core instance $m (instantiate $M))
  (func $f (result (result)) (canon lift (core func $m "run")))
  (instance $i (export "run" (func $f)))
  (export "wasi:cli/run@0.2.3" (instance $i)))"#
    )
}

/// A program beside `count` instances of a core module that holds `fields`.
pub(crate) fn instances(count: usize, fields: &str) -> String {
    let instances = "(core instance (instantiate $G))".repeat(count);
    program("(func $run (result i32) (i32.const 0))").replacen(
        "(component",
        &format!("(component (core module $G {fields}) {instances}"),
        1,
    )
}

/// A program that may call `$exit` (0 ok, 1 error), `$exit-with` (code), `$sleep` (nanoseconds) and `$print` (address, length of at most 4096);
/// `core` defines `(func $run (result i32))` and may hold data segments for the memory.
pub(crate) fn wasi_program(core: &str) -> String {
    format!(
        r#"(component $C
  (import "wasi:cli/exit@0.2.0" (instance $exit
    (export "exit" (func (param "status" (result))))
    (export "exit-with-code" (func (param "status-code" u8)))))
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer $C $pollable (type $p'))
    (export "pollable" (type $p (eq $p')))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $stream (sub resource)))
    (alias outer $C $error (type $e'))
    (export "error" (type $e (eq $e')))
    (type $stream-error' (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $stream-error')))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $stream)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer $C $stream (type $s'))
    (export "output-stream" (type $s (eq $s')))
    (export "get-stdout" (func (result (own $s))))))
  (core module $Mem (memory (export "memory") 1))
  (core instance $mem (instantiate $Mem))
  (alias core export $mem "memory" (core memory $memory))
  (core func $exit (canon lower (func $exit "exit")))
  (core func $exit-with (canon lower (func $exit "exit-with-code")))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $timer (canon lower (func $clock "subscribe-duration")))
  (core func $get (canon lower (func $stdout "get-stdout")))
  (core func $write
    (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $memory)))
  (core module $Main
    (import "mem" "memory" (memory 1))
    (import "host" "exit" (func $exit (param i32)))
    (import "host" "exit-with" (func $exit-with (param i32)))
    (import "host" "block" (func $block (param i32)))
    (import "host" "timer" (func $timer (param i64) (result i32)))
    (import "host" "get" (func $get (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (global $stdout (mut i32) (i32.const -1))
    (func $sleep (param i64) (call $block (call $timer (local.get 0))))
    (func $print (param i32 i32)
      (if (i32.eq (global.get $stdout) (i32.const -1)) (then (global.set $stdout (call $get))))
      (call $write (global.get $stdout) (local.get 0) (local.get 1) (i32.const 65000)))
    {core}
    (export "run" (func $run)))
  (core instance $main (instantiate $Main
    (with "mem" (instance $mem))
    (with "host" (instance
      (export "exit" (func $exit)) (export "exit-with" (func $exit-with)) (export "block" (func $block)) (export "timer" (func $timer))
      (export "get" (func $get)) (export "write" (func $write))))))
  (func $f (result (result)) (canon lift (core func $main "run")))
  (instance $i (export "run" (func $f)))
  (export "wasi:cli/run@0.2.0" (instance $i)))"#
    )
}

/// Exports `timer-handler`, which waits for `nanoseconds` in WASI.
pub(crate) fn sleeper(nanoseconds: u64) -> String {
    waiter(&format!("(call $block (call $timer (i64.const {nanoseconds})))"))
}

/// Exports `timer-handler`, whose body is `core`; it may call `$timer` (nanoseconds, result a handle) and `$block` (that).
pub(crate) fn waiter(core: &str) -> String {
    format!(
        r#"(component $C
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer $C $pollable (type $p'))
    (export "pollable" (type $p (eq $p')))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $timer (canon lower (func $clock "subscribe-duration")))
  (core module $M
    (import "host" "block" (func $block (param i32)))
    (import "host" "timer" (func $timer (param i64) (result i32)))
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "fire") (param i32 i32 i64) {core}))
  (core instance $m (instantiate $M
    (with "host" (instance (export "block" (func $block)) (export "timer" (func $timer))))))
  (alias core export $m "memory" (core memory $memory))
  (alias core export $m "realloc" (core func $realloc))
  (func $f (param "name" string) (param "missed" u64)
    (canon lift (core func $m "fire") (memory $memory) (realloc $realloc)))
  (instance $i (export "fire" (func $f)))
  (export "marram:edge/timer-handler@0.1.0" (instance $i)))"#
    )
}

/// A program with a folder, whose handle is in `$d`; `core` is the body of `run` (result 0: ok), has a local `$n` and may
/// call `$open` (handle; opens the file `f0`), `$open-folder` (handle; the folder itself), `$list` (handle),
/// `$stream` (handle; reads) and `$drop` (handle). Those that make something answer at 16: a byte that is 0 for success,
/// and at 20 the new handle.
pub(crate) fn file_program(core: &str) -> String {
    let errors = "access would-block already bad-descriptor busy deadlock quota exist file-too-large \
        illegal-byte-sequence in-progress interrupted invalid io is-directory loop too-many-links message-size \
        name-too-long no-device no-entry no-lock insufficient-memory insufficient-space not-directory not-empty \
        not-recoverable unsupported no-tty no-such-device overflow not-permitted pipe read-only invalid-seek \
        text-file-busy cross-device";
    let errors: String = errors.split(' ').filter(|name| !name.is_empty()).map(|name| format!("\"{name}\" ")).collect();
    format!(
        r#"(component $C
  (import "wasi:io/streams@0.2.0" (instance $streams (export "input-stream" (type $in (sub resource)))))
  (alias export $streams "input-stream" (type $in))
  (import "wasi:filesystem/types@0.2.0" (instance $fs
    (export "descriptor" (type $d (sub resource)))
    (export "directory-entry-stream" (type $s (sub resource)))
    (alias outer $C $in (type $in'))
    (export "input-stream" (type $i (eq $in')))
    (type $e' (enum {errors}))
    (export "error-code" (type $e (eq $e')))
    (type $pf' (flags "symlink-follow"))
    (export "path-flags" (type $pf (eq $pf')))
    (type $of' (flags "create" "directory" "exclusive" "truncate"))
    (export "open-flags" (type $of (eq $of')))
    (type $df' (flags "read" "write" "file-integrity-sync" "data-integrity-sync" "requested-write-sync"
      "mutate-directory"))
    (export "descriptor-flags" (type $df (eq $df')))
    (export "[method]descriptor.read-directory"
      (func (param "self" (borrow $d)) (result (result (own $s) (error $e)))))
    (export "[method]descriptor.read-via-stream"
      (func (param "self" (borrow $d)) (param "offset" u64) (result (result (own $i) (error $e)))))
    (export "[method]descriptor.open-at" (func (param "self" (borrow $d)) (param "path-flags" $pf)
      (param "path" string) (param "open-flags" $of) (param "flags" $df) (result (result (own $d) (error $e)))))))
  (alias export $fs "descriptor" (type $d))
  (import "wasi:filesystem/preopens@0.2.0" (instance $pre
    (alias outer $C $d (type $d'))
    (export "descriptor" (type $d (eq $d')))
    (export "get-directories" (func (result (list (tuple (own $d) string)))))))
  (core module $Mem (memory (export "memory") 1) (data (i32.const 512) "f0.")
    (global $next (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $next (i32.add (global.get $next) (i32.const 64))) (global.get $next)))
  (core instance $mem (instantiate $Mem))
  (alias core export $mem "memory" (core memory $memory))
  (alias core export $mem "realloc" (core func $realloc))
  (core func $folders (canon lower (func $pre "get-directories") (memory $memory) (realloc $realloc)))
  (core func $list (canon lower (func $fs "[method]descriptor.read-directory") (memory $memory)))
  (core func $stream (canon lower (func $fs "[method]descriptor.read-via-stream") (memory $memory)))
  (core func $open (canon lower (func $fs "[method]descriptor.open-at") (memory $memory)))
  (core func $drop (canon resource.drop $d))
  (core module $Main
    (import "mem" "memory" (memory 1))
    (import "host" "folders" (func $folders (param i32)))
    (import "host" "list" (func $list' (param i32 i32)))
    (import "host" "stream" (func $stream' (param i32 i64 i32)))
    (import "host" "open" (func $open' (param i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "drop" (func $drop (param i32)))
    (func $open (param i32)
      (call $open' (local.get 0) (i32.const 0) (i32.const 512) (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16)))
    (func $open-folder (param i32)
      (call $open' (local.get 0) (i32.const 0) (i32.const 514) (i32.const 1) (i32.const 2) (i32.const 1) (i32.const 16)))
    (func $list (param i32) (call $list' (local.get 0) (i32.const 16)))
    (func $stream (param i32) (call $stream' (local.get 0) (i64.const 0) (i32.const 16)))
    (func $run (result i32) (local $n i32) (local $d i32) (local $file i32)
      (call $folders (i32.const 0))
      (local.set $d (i32.load (i32.load (i32.const 0))))
      {core})
    (export "run" (func $run)))
  (core instance $main (instantiate $Main
    (with "mem" (instance $mem))
    (with "host" (instance (export "folders" (func $folders)) (export "list" (func $list))
      (export "stream" (func $stream)) (export "open" (func $open)) (export "drop" (func $drop))))))
  (func $f (result (result)) (canon lift (core func $main "run")))
  (instance $i (export "run" (func $f)))
  (export "wasi:cli/run@0.2.0" (instance $i)))"#
    )
}
