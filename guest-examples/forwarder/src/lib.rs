//! Forwards each message, unread, from any input to output `out`. The smallest handler there is: no WASI call of its
//! own, no state. Benches and router tests are made with it.

wit_bindgen::generate!({ path: "../../wit", world: "handler" });

use exports::marram::edge::input_handler::{Guest, Message, Nack};
use marram::edge::messaging;

struct Forwarder;

impl Guest for Forwarder {
    fn handle(_input: String, msg: Message) -> Result<(), Nack> {
        // Not accepted means not delivered: the host brings the message again.
        messaging::send("out", &msg).map(drop).map_err(|_| Nack::RetryAfter(None))
    }
}

export!(Forwarder);
