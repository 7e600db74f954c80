//! The message by value: body and properties are copied into this guest and out again. Compared with `forwarder` and
//! `sink`, which hold a handle, it shows what the form of the message costs. Not for real modules.

wit_bindgen::generate!({ path: "wit", world: "by-value" });

use std::cell::Cell;

thread_local! {
    static MESSAGES: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

struct ByValue;

impl Guest for ByValue {
    fn handle(input: String, body: Vec<u8>, properties: Vec<(String, String)>) -> Result<(), String> {
        if input != "sink" {
            return send("out", &body, &properties).map(drop);
        }
        BYTES.set(BYTES.get() + body.len() as u64);
        MESSAGES.set(MESSAGES.get() + 1);
        Ok(())
    }

    fn counts() -> (u64, u64) {
        (MESSAGES.get(), BYTES.get())
    }
}

export!(ByValue);
