//! Does on command what a module must not do, so that tests can show that the host survives it. Not for real modules.
//!
//! A command is a JSON object (see `command.rs` and the README). It comes as the body of a message on any input, as
//! `command` in the desired twin, or as the environment variable `MISBEHAVE`, which is carried out in `start`.

wit_bindgen::generate!({ path: "../../wit", world: "marram:misbehaving/misbehaving", inline: r#"
    package marram:misbehaving;
    world misbehaving {
        include marram:edge/handler@0.1.0;
        export marram:edge/start-handler@0.1.0;
        export marram:edge/twin-handler@0.1.0;
    }
"#, generate_all });

mod command;
mod deeds;

use command::Command;
use exports::marram::edge::{
    input_handler::{self, Message, Nack},
    start_handler,
    twin_handler::{self, Ack},
};
use serde_json::Value;

struct Misbehaving;

impl start_handler::Guest for Misbehaving {
    fn start() -> Result<(), String> {
        let Ok(text) = std::env::var("MISBEHAVE") else { return Ok(()) };
        let command = serde_json::from_str(&text).map_err(|err| err.to_string()).and_then(|json| Command::read(&json));
        deeds::carry_out(command.map_err(|err| format!("MISBEHAVE: {err}"))?, None).map_err(|nack| format!("{nack:?}"))
    }
}

impl input_handler::Guest for Misbehaving {
    fn handle(_input: String, msg: Message) -> Result<(), Nack> {
        let json: Value = serde_json::from_slice(&msg.body()).map_err(|err| Nack::Reject(err.to_string()))?;
        let command = Command::read(&json).map_err(Nack::Reject)?;
        deeds::carry_out(command, Some(msg))
    }
}

impl twin_handler::Guest for Misbehaving {
    fn desired_changed(merge_patch_json: String, _version: u64) -> Result<Option<Ack>, Ack> {
        let refuse = |description: String| Ack { code: 400, description };
        let patch: Value = serde_json::from_str(&merge_patch_json).map_err(|err| refuse(err.to_string()))?;
        let Some(json) = patch.get("command").filter(|json| !json.is_null()) else { return Ok(None) };
        let command = Command::read(json).map_err(refuse)?;
        deeds::carry_out(command, None).map_err(|nack| refuse(format!("{nack:?}")))?;
        Ok(Some(Ack { code: 200, description: "done".into() }))
    }
}

export!(Misbehaving);
