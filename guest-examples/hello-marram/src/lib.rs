//! Says hello every second, to whom its twin says.

wit_bindgen::generate!({ path: "wit", world: "sensor" });

use exports::marram::edge::{start_handler, timer_handler, twin_handler};
use marram::edge::{messaging, timers, twin, types::Message};

struct Hello;

impl start_handler::Guest for Hello {
    fn start() -> Result<(), String> {
        timers::set_periodic("hello", 1000).map_err(|error| format!("no timer: {error:?}"))
    }
}

impl timer_handler::Guest for Hello {
    fn fire(_name: String, _missed: u64) {
        let body = format!(r#"{{"hello":{}}}"#, twin::desired().json);
        let message = Message::new(body.as_bytes());
        message.set_content_type(Some("application/json"));
        if let Err(error) = messaging::send("greetings", &message) {
            eprintln!("not accepted: {error:?}");
        }
    }
}

impl twin_handler::Guest for Hello {
    fn desired_changed(patch: String, version: u64) -> Result<Option<twin_handler::Ack>, twin_handler::Ack> {
        println!("my twin changed, version {version}: {patch}");
        Ok(None)
    }
}

export!(Hello);
