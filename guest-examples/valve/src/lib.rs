//! A valve that is operated by methods: `open` (`{"percent": 40}`, or all of it), `close`, `position`. Keeps its position in the twin.
//!
//! Shows: a handler of methods. A call that is at fault is answered with 400 and the reason, a name that is not known with 501.

wit_bindgen::generate!({ path: "../../wit", world: "responder" });

use std::cell::Cell;

use exports::marram::edge::method_handler::{self, MethodResponse};
use marram::edge::twin;
use serde_json::{Value, json};

thread_local! {
    /// Percent that it is open. Calls come one at a time, so no lock is needed.
    static POSITION: Cell<u64> = const { Cell::new(0) };
}

struct Valve;

impl method_handler::Guest for Valve {
    fn invoke(name: String, payload: String) -> MethodResponse {
        match &*name {
            "open" => match percent(&payload) {
                Ok(percent) => turn(percent),
                Err(reason) => answer(400, json!({ "message": reason })),
            },
            "close" => turn(0),
            "position" => answer(200, json!({ "percent": POSITION.get() })),
            _ => answer(501, json!({ "message": format!("a valve has open, close and position, not {name}") })),
        }
    }
}

fn percent(payload: &str) -> Result<u64, String> {
    // The host hands out nothing but JSON.
    let payload: Value = serde_json::from_str(payload).map_err(|error| error.to_string())?;
    match &payload["percent"] {
        Value::Null => Ok(100),
        percent => {
            percent.as_u64().filter(|percent| *percent <= 100).ok_or("percent is a whole number up to 100".into())
        }
    }
}

fn turn(percent: u64) -> MethodResponse {
    POSITION.set(percent);
    let position = json!({ "percent": percent });
    println!("valve: {percent} % open");
    match twin::report(&position.to_string()) {
        Ok(_) => answer(200, position),
        // It has turned, and nobody would know: the caller may ask again.
        Err(error) => answer(500, json!({ "message": format!("cannot report: {error:?}") })),
    }
}

fn answer(status: i32, payload: Value) -> MethodResponse {
    MethodResponse { status, payload: payload.to_string() }
}

export!(Valve);
