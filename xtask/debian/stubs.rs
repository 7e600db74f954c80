//! What Rust's standard library names on wasm32-wasip2 and a C library of WASI's preview 1 lacks: sockets and threads.
//! Every function answers that it is not supported, so programs that do not use them link and run.
//!
//! Compiled by `xtask/src/debian.rs` into that C library; part of no crate.
#![feature(thread_local)]
#![no_std]
#![no_main]

use core::ffi::{c_char, c_int, c_void};

/// WASI's number for "function not supported".
const ENOSYS: c_int = 52;
/// "Non-recoverable failure in name resolution".
const EAI_FAIL: c_int = -4;

unsafe extern "C" {
    #[thread_local]
    static mut errno: c_int;
}

/// The way a C function says that it is not supported.
fn unsupported() -> c_int {
    // SAFETY: guests have one thread, and the C library defines `errno`.
    unsafe { errno = ENOSYS };
    -1
}

/// Functions that set `errno` and answer -1.
macro_rules! unsupported {
    ($($name:ident($($arg:ty),*) -> $result:ty;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($(_: $arg),*) -> $result {
            unsupported() as $result
        }
    )*};
}

/// Functions with a fixed answer.
macro_rules! answer {
    ($($name:ident($($arg:ty),*) -> $result:ty = $value:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($(_: $arg),*) -> $result {
            $value
        }
    )*};
}

type Address = *const c_void;
type Out = *mut c_void;

unsupported! {
    socket(c_int, c_int, c_int) -> c_int;
    connect(c_int, Address, u32) -> c_int;
    bind(c_int, Address, u32) -> c_int;
    listen(c_int, c_int) -> c_int;
    setsockopt(c_int, c_int, c_int, Address, u32) -> c_int;
    getsockname(c_int, Out, Out) -> c_int;
    getpeername(c_int, Out, Out) -> c_int;
    sendto(c_int, Address, usize, c_int, Address, u32) -> isize;
    recvfrom(c_int, Out, usize, c_int, Out, Out) -> isize;
}

answer! {
    getaddrinfo(*const c_char, *const c_char, Address, Out) -> c_int = EAI_FAIL;
    freeaddrinfo(Out) -> () = ();
    gai_strerror(c_int) -> *const c_char = c"not supported".as_ptr();
    pthread_attr_init(Out) -> c_int = 0;
    pthread_attr_destroy(Out) -> c_int = 0;
    pthread_attr_setstacksize(Out, usize) -> c_int = 0;
    pthread_create(Out, Address, Address, Out) -> c_int = ENOSYS;
    pthread_detach(usize) -> c_int = 0;
    pthread_join(usize, Out) -> c_int = ENOSYS;
}
