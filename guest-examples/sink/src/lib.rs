//! Counts messages and reads their bodies. A message on input `report` is not counted: it is answered on output
//! `counts` with the body `{"messages":N,"bytes":N}`. Benches and router tests are made with it.

wit_bindgen::generate!({ path: "../../wit", world: "handler" });

use std::cell::Cell;

use exports::marram::edge::input_handler::{Guest, Message, Nack};
use marram::edge::messaging;

thread_local! {
    static MESSAGES: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

struct Sink;

impl Guest for Sink {
    fn handle(input: String, msg: Message) -> Result<(), Nack> {
        if input == "report" {
            return report();
        }
        BYTES.set(BYTES.get() + msg.body().len() as u64);
        MESSAGES.set(MESSAGES.get() + 1);
        Ok(())
    }
}

fn report() -> Result<(), Nack> {
    let body = format!(r#"{{"messages":{},"bytes":{}}}"#, MESSAGES.get(), BYTES.get());
    messaging::send_bytes("counts", body.as_bytes(), &[]).map(drop).map_err(|_| Nack::RetryAfter(None))
}

export!(Sink);
