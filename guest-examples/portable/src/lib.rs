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
            import wasi:keyvalue/batch@0.2.0-draft;
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
    keyvalue::{atomics, batch, store as keyvalue},
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
        if let Some(keys) = setting("inventory")? {
            for (name, value) in inventory(keys.parse().unwrap_or_default())? {
                message.add_metadata(name, &value).map_err(|_| Error::Other("cannot add metadata".into()))?;
            }
        }
        message.set_content_type("application/octet-stream").map_err(|()| Error::Other("no content type".into()))?;
        producer::send(&Client::connect("")?, &topic, message)
    }
}

/// How many messages there have been, over all restarts.
fn count() -> Result<u64, Error> {
    let failed = |error| Error::Other(format!("cannot count: {error:?}"));
    atomics::increment(&keyvalue::open("portable").map_err(failed)?, "messages", 1).map_err(failed)
}

/// Writes so many keys, lists, reads and deletes them, and tells what came of it.
fn inventory(keys: usize) -> Result<Vec<(&'static str, String)>, Error> {
    let failed = |error| Error::Other(format!("cannot take the inventory: {error:?}"));
    let bucket = keyvalue::open("inventory").map_err(failed)?;
    let names: Vec<String> = (0..keys).map(|n| format!("key {n:06}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.clone(), name.as_bytes()[4..].to_vec())).collect();
    batch::set_many(&bucket, &entries).map_err(failed)?;

    let (mut listed, mut pages, mut cursor, mut old) = (Vec::new(), Vec::new(), None, None);
    loop {
        let answer = bucket.list_keys(cursor).map_err(failed)?;
        pages.push(answer.keys.len().to_string());
        listed.extend(answer.keys);
        (old, cursor) = (cursor.or(old), answer.cursor);
        if cursor.is_none() {
            break;
        }
    }
    bucket.list_keys(None).map_err(failed)?;
    let stale = old.map(|old| bucket.list_keys(Some(old)).err());

    let asked = [names[0].clone(), "missing".into(), names[keys - 1].clone()];
    let got = batch::get_many(&bucket, &asked).map_err(failed)?.into_iter();
    let shown = |(name, value): (String, Vec<u8>)| format!("{name} = {}", String::from_utf8_lossy(&value));
    let got: Vec<_> = got.map(|entry| entry.map_or("none".into(), shown)).collect();

    let half = [("good".to_owned(), vec![1]), (String::new(), vec![2])];
    let refused = batch::set_many(&bucket, &half).err();
    let half_written = bucket.exists("good").map_err(failed)?;

    let gone = [&names[1..], &["missing".to_owned()]].concat();
    batch::delete_many(&bucket, &gone).map_err(failed)?;
    let left = bucket.list_keys(None).map_err(failed)?.keys;
    Ok(vec![
        ("pages", pages.join(" ")),
        ("all listed in order", (listed == names).to_string()),
        ("stale cursor", format!("{stale:?}")),
        ("got", got.join(", ")),
        ("refused", format!("{refused:?}")),
        ("half written", half_written.to_string()),
        ("left", left.join(", ")),
    ])
}

fn setting(key: &str) -> Result<Option<String>, Error> {
    store::get(key).map_err(|error| Error::Other(format!("{error:?}")))
}

export!(Relay);
