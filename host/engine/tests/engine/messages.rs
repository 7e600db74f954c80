//! Messages between host and guest: settled one by one, shared and never changed behind a receiver's back.

use std::sync::atomic::Ordering::SeqCst;

use marram_core::ports::{Exit, Settlement};

use crate::{
    guests::handler,
    support::{Bench, Queue, Recorder, spec},
};

#[tokio::test]
async fn each_delivery_is_settled_with_the_guests_word() {
    // Rejects bodies of length 1 with the reason `out`, asks for a retry in 7 ms for length 2, else is content.
    let core = "(func $handle (param i32 i32 i32) (result i32) (local $len i64)
      (local.set $len (call $body-len (local.get 2)))
      (call $drop (local.get 2))
      (i64.store (i32.const 256) (i64.const 0)) (i64.store (i32.const 264) (i64.const 0))
      (i64.store (i32.const 272) (i64.const 0)) (i64.store (i32.const 280) (i64.const 0))
      (if (i64.eq (local.get $len) (i64.const 1)) (then
        (i32.store8 (i32.const 256) (i32.const 1)) (i32.store8 (i32.const 264) (i32.const 1))
        (i32.store (i32.const 272) (i32.const 512)) (i32.store (i32.const 276) (i32.const 3))))
      (if (i64.eq (local.get $len) (i64.const 2)) (then
        (i32.store8 (i32.const 256) (i32.const 1))
        (i32.store8 (i32.const 272) (i32.const 1)) (i64.store (i32.const 280) (i64.const 7))))
      (i32.const 256))";
    let mut instance = Bench::new().start(&handler(core), &spec(|_| ()), &Recorder::new()).await.unwrap();
    let before = instance.memory_bytes();
    let mut queue = Queue::of(&["1", "22", "333"]);
    instance.handle_batch(&mut queue).await.unwrap();
    assert_eq!(
        queue.settled,
        [
            Settlement::Reject("out".into()),
            Settlement::Retry(Some(std::time::Duration::from_millis(7))),
            Settlement::Done
        ]
    );
    assert_eq!(instance.memory_bytes(), before, "messages that the guest dropped are not counted any more");
}

#[tokio::test]
async fn a_setter_after_send_changes_only_the_guests_own_copy() {
    // Forwards, then changes body and a property, then forwards again.
    let core = "(func $handle (param i32 i32 i32) (result i32)
      (call $send (i32.const 512) (i32.const 3) (local.get 2) (i32.const 256))
      (call $set-body (local.get 2) (i32.const 528) (i32.const 7))
      (call $set-property (local.get 2) (i32.const 512) (i32.const 3) (i32.const 528) (i32.const 7))
      (call $send (i32.const 512) (i32.const 3) (local.get 2) (i32.const 256))
      (i32.const 0))";
    let host = Recorder::new();
    let mut instance = Bench::new().start(&handler(core), &spec(|_| ()), &host).await.unwrap();
    let mut queue = Queue::of(&["original"]);
    let delivered = queue.waiting[0].accepted.message.clone();
    instance.handle_batch(&mut queue).await.unwrap();
    let sent = host.sent();
    assert_eq!(sent.len(), 2);
    assert_eq!((&*sent[0].0, &sent[0].1.body[..]), ("out", &b"original"[..]));
    assert!(std::sync::Arc::ptr_eq(&sent[0].1, &delivered), "a message that is forwarded unchanged is not copied");
    assert_eq!((&sent[1].1.body[..], sent[1].1.property("out")), (&b"changed"[..], Some("changed")));
    assert_eq!((&delivered.body[..], delivered.property("out")), (&b"original"[..], None));
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_before_the_router_sees_it() {
    // 64 KiB of body, then properties of 60000 bytes each until it is above 256 KiB; the error's case goes into the body.
    let core = "(func $handle (param i32 i32 i32) (result i32)
      (call $set-body (local.get 2) (i32.const 0) (i32.const 65536))
      (call $set-property (local.get 2) (i32.const 512) (i32.const 1) (i32.const 1024) (i32.const 60000))
      (call $set-property (local.get 2) (i32.const 513) (i32.const 1) (i32.const 1024) (i32.const 60000))
      (call $set-property (local.get 2) (i32.const 514) (i32.const 1) (i32.const 1024) (i32.const 60000))
      (call $set-property (local.get 2) (i32.const 528) (i32.const 1) (i32.const 1024) (i32.const 60000))
      (call $send (i32.const 512) (i32.const 3) (local.get 2) (i32.const 256))
      (if (i32.ne (i32.load8_u (i32.const 256)) (i32.const 1)) (then unreachable))
      (if (i32.ne (i32.load8_u (i32.const 264)) (i32.const 0)) (then unreachable))
      (if (i64.ne (i64.load (i32.const 272)) (i64.const 262144)) (then unreachable))
      (i32.const 0))";
    let host = Recorder::new();
    let mut instance = Bench::new().start(&handler(core), &spec(|_| ()), &host).await.unwrap();
    let mut queue = Queue::of(&["x"]);
    instance.handle_batch(&mut queue).await.unwrap();
    assert_eq!(queue.settled, [Settlement::Done]);
    assert!(host.sent().is_empty());
}

#[tokio::test]
async fn a_batch_is_accepted_up_to_where_room_ends() {
    // Sends its message five times in one batch, then again; the answers are 3 accepted, and then the error `full`.
    let core = "(func $handle (param i32 i32 i32) (result i32) (local $i i32)
      (loop $fill
        (i32.store (i32.add (i32.const 768) (i32.mul (local.get $i) (i32.const 4))) (local.get 2))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $fill (i32.lt_u (local.get $i) (i32.const 5))))
      (call $send-batch (i32.const 512) (i32.const 3) (i32.const 768) (i32.const 5) (i32.const 256))
      (if (i32.load8_u (i32.const 256)) (then unreachable))
      (if (i32.ne (i32.load (i32.const 264)) (i32.const 3)) (then unreachable))
      (call $send-batch (i32.const 512) (i32.const 3) (i32.const 768) (i32.const 5) (i32.const 256))
      (if (i32.ne (i32.load8_u (i32.const 256)) (i32.const 1)) (then unreachable))
      (if (i32.ne (i32.load8_u (i32.const 264)) (i32.const 1)) (then unreachable))
      (i32.const 0))";
    for stores in [false, true] {
        let host = Recorder::new();
        host.room.store(3, SeqCst);
        host.stores.store(stores, SeqCst);
        let mut instance = Bench::new().start(&handler(core), &spec(|_| ()), &host).await.unwrap();
        let mut queue = Queue::of(&["x"]);
        instance.handle_batch(&mut queue).await.unwrap();
        assert_eq!((queue.settled, host.sent().len()), (vec![Settlement::Done], 3), "{stores}");
    }
}

#[tokio::test]
async fn a_message_that_is_being_stored_is_waited_for_and_where_it_is_refused_the_host_says_why() {
    // Sends its message twice: the first is accepted as the host's number 1, the second is refused for want of room.
    let core = "(func $handle (param i32 i32 i32) (result i32)
      (call $send (i32.const 512) (i32.const 3) (local.get 2) (i32.const 256))
      (if (i32.load8_u (i32.const 256)) (then unreachable))
      (if (i64.ne (i64.load (i32.const 264)) (i64.const 1)) (then unreachable))
      (call $send (i32.const 512) (i32.const 3) (local.get 2) (i32.const 256))
      (if (i32.ne (i32.load8_u (i32.const 256)) (i32.const 1)) (then unreachable))
      (if (i32.ne (i32.load8_u (i32.const 264)) (i32.const 1)) (then unreachable))
      (i32.const 0))";
    let host = Recorder::new();
    host.room.store(1, SeqCst);
    host.stores.store(true, SeqCst);
    let mut instance = Bench::new().start(&handler(core), &spec(|_| ()), &host).await.unwrap();
    let mut queue = Queue::of(&["x"]);
    instance.handle_batch(&mut queue).await.unwrap();
    assert_eq!((queue.settled, host.sent().len()), (vec![Settlement::Done], 1));
}

#[tokio::test]
async fn a_flood_of_properties_ends_the_instance() {
    // Two-byte names, all different.
    let core = "(func $handle (param i32 i32 i32) (result i32) (local $n i32)
      (loop $l
        (i32.store8 (i32.const 600) (i32.add (i32.const 97) (i32.rem_u (local.get $n) (i32.const 26))))
        (i32.store8 (i32.const 601) (i32.add (i32.const 97) (i32.div_u (local.get $n) (i32.const 26))))
        (call $set-property (local.get 2) (i32.const 600) (i32.const 2) (i32.const 512) (i32.const 3))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $n) (i32.const 400))))
      (i32.const 0))";
    let mut instance = Bench::new().start(&handler(core), &spec(|_| ()), &Recorder::new()).await.unwrap();
    let exit = instance.handle_batch(&mut Queue::of(&["x"])).await.unwrap_err();
    assert_eq!((exit.code, &*exit.reason), (Exit::MEMORY, "more than 256 properties in one message"));
}

#[tokio::test]
async fn so_does_a_list_of_properties_that_no_message_may_hold() {
    let core = "(func $handle (param i32 i32 i32) (result i32)
      (call $send-bytes (i32.const 512) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 8192) (i32.const 257)
        (i32.const 256))
      (i32.const 0))";
    let host = Recorder::new();
    let mut instance = Bench::new().start(&handler(core), &spec(|_| ()), &host).await.unwrap();
    let exit = instance.handle_batch(&mut Queue::of(&["x"])).await.unwrap_err();
    assert_eq!((exit.code, &*exit.reason), (Exit::MEMORY, "more than 256 properties in one message"));
    assert!(host.sent().is_empty());
}

#[tokio::test]
async fn an_enormous_argument_traps_instead_of_filling_the_host() {
    let core = "(func $handle (param i32 i32 i32) (result i32)
      (drop (memory.grow (i32.const 16)))
      (call $set-body (local.get 2) (i32.const 0) (i32.const 1000000)) (i32.const 0))";
    let mut instance = Bench::new().start(&handler(core), &spec(|_| ()), &Recorder::new()).await.unwrap();
    let exit = instance.handle_batch(&mut Queue::of(&["x"])).await.unwrap_err();
    assert_eq!(exit.reason, "passed more than 320 KiB to the host in one call");
}

#[tokio::test]
async fn a_batch_of_many_messages_needs_no_more_memory_than_one() {
    let core = "(func $handle (param i32 i32 i32) (result i32)
      (call $send (i32.const 512) (i32.const 3) (local.get 2) (i32.const 256)) (call $drop (local.get 2)) (i32.const 0))";
    let host = Recorder::new();
    let spec = spec(|sandbox| sandbox.memory_bytes = 128 << 10);
    let mut instance = Bench::new().start(&handler(core), &spec, &host).await.unwrap();
    let mut queue = Queue::of(&["x"; 10_000]);
    instance.handle_batch(&mut queue).await.unwrap();
    assert_eq!((queue.settled.len(), host.sent().len()), (10_000, 10_000));
}
