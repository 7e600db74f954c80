//! Numbers messages and passes them on, written to interfaces of WASI alone: `wasi:messaging` for messages, `wasi:config` for
//! settings, `wasi:keyvalue` for what it must not forget.
//!
//! Shows: a component of another ecosystem is a module as it is. An error of `handle` brings the message again.

wit_bindgen::generate!({
    path: ["../../wit/adapters/wasi-config.wit", "../../wit/adapters/wasi-keyvalue.wit", "../../wit/adapters/wasi-messaging.wit"],
    inline: "
        package example:portable;
        world portable {
            import wasi:config/store@0.2.0-rc.1;
            import wasi:keyvalue/store@0.2.0-draft;
            import wasi:keyvalue/atomics@0.2.0-draft;
            import wasi:messaging/producer@0.2.0-draft;
            export wasi:messaging/incoming-handler@0.2.0-draft;
        }
    ",
    world: "example:portable/portable",
    generate_all,
});

use std::cell::Cell;

use exports::wasi::messaging::incoming_handler::Guest;
use wasi::{
    config::store,
    keyvalue::{atomics, store as keyvalue},
    messaging::{
        producer,
        types::{Client, Error, Message},
    },
};

thread_local! {
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

struct Relay;

impl Guest for Relay {
    fn handle(message: Message) -> Result<(), Error> {
        let topic = setting("relay.topic")?.unwrap_or_else(|| "out".into());
        let n = message.metadata().unwrap_or_default().into_iter().find(|(name, _)| name == "n");
        if n.is_some_and(|(_, n)| setting("refuse").ok().flatten() == Some(n)) && !REFUSED.replace(true) {
            return Err(Error::Other("told to refuse it once".into()));
        }
        let number = count()?;
        message.add_metadata("number", &number.to_string()).map_err(|_| Error::Other("cannot add metadata".into()))?;
        let from = message.topic().unwrap_or_default();
        message.add_metadata("from", &from).map_err(|_| Error::Other("cannot add metadata".into()))?;
        message.set_content_type("application/octet-stream").map_err(|()| Error::Other("no content type".into()))?;
        producer::send(&Client::connect("")?, &topic, message)
    }
}

/// How many messages there have been, over all restarts.
fn count() -> Result<u64, Error> {
    let failed = |error| Error::Other(format!("cannot count: {error:?}"));
    atomics::increment(&keyvalue::open("portable").map_err(failed)?, "messages", 1).map_err(failed)
}

fn setting(key: &str) -> Result<Option<String>, Error> {
    store::get(key).map_err(|error| Error::Other(format!("{error:?}")))
}

export!(Relay);
