//! Does on command what a module must not do, so that tests can show that the host survives it. Not for real modules.
//!
//! A command is a JSON object (see `command.rs` and the README). It comes as the body of a message on any input, as
//! `command` in the desired twin, as the payload of its method `do`, or as the environment variable `MISBEHAVE`, which is carried out in
//! `start`.

wit_bindgen::generate!({ path: "../../wit", world: "marram:misbehaving/misbehaving", inline: r#"
    package marram:misbehaving;
    world misbehaving {
        include marram:edge/handler@0.1.0;
        export marram:edge/start-handler@0.1.0;
        export marram:edge/twin-handler@0.1.0;
        export marram:edge/method-handler@0.1.0;
    }
"#, generate_all });

mod command;
mod deeds;

use command::Command;
use exports::marram::edge::{
    input_handler::{self, Message, Nack},
    method_handler::{self, MethodResponse},
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

/// `echo` gives the payload back; `alive` says whether it is well; `answer` answers with the `status` and the text `payload` of its payload, whatever that is; `do`
/// carries a command out.
impl method_handler::Guest for Misbehaving {
    fn invoke(name: String, payload: String) -> MethodResponse {
        let answer = |status, payload: String| MethodResponse { status, payload };
        let json: Value = serde_json::from_str(&payload).expect("the host hands out JSON");
        match &*name {
            "echo" => answer(200, payload),
            "alive" => {
                let (status, payload) = deeds::health();
                answer(status, payload)
            }
            "answer" => {
                let status = json["status"].as_i64().unwrap_or_default();
                answer(
                    status as i32,
                    json["payload"].as_str().unwrap_or_default().repeat(json["times"].as_u64().unwrap_or(1) as usize),
                )
            }
            "do" => match Command::read(&json) {
                Ok(Command::Invoke { target, name, payload, response_ms, connect_ms }) => {
                    answer(200, deeds::invoke(&target, &name, &payload, response_ms, connect_ms).to_string())
                }
                Ok(command) => match deeds::carry_out(command, None) {
                    Ok(()) => answer(200, String::new()),
                    Err(nack) => answer(409, Value::from(format!("{nack:?}")).to_string()),
                },
                Err(error) => answer(400, Value::from(error).to_string()),
            },
            _ => answer(501, String::new()),
        }
    }
}

export!(Misbehaving);
