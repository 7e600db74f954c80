//! Keeps a book that outlives it: starts, changes of its twin, and what its durable timers have fired.
//!
//! Shows: durable state with compare-and-set, and timers that survive restarts.

wit_bindgen::generate!({ path: "../../wit", world: "example:logbook/logbook", inline: r#"
    package example:logbook;
    world logbook {
        include marram:edge/imports@0.1.0;
        export marram:edge/start-handler@0.1.0;
        export marram:edge/timer-handler@0.1.0;
        export marram:edge/twin-handler@0.1.0;
    }
"#, generate_all });

mod exam;

use std::env;

use exports::marram::edge::{start_handler, timer_handler, twin_handler};
use marram::edge::{durable_timers, messaging, state, twin, types::Message};
use serde_json::{Value, json};

struct Logbook;

impl start_handler::Guest for Logbook {
    fn start() -> Result<(), String> {
        let starts = count("starts")?;
        if let Some(ms) = number("BEAT_MS") {
            durable_timers::set_periodic("beat", ms).map_err(|error| format!("no beat: {error:?}"))?;
        }
        if let Some(ms) = number("ALARM_MS").filter(|_| starts == 1) {
            durable_timers::set_once("alarm", ms).map_err(|error| format!("no alarm: {error:?}"))?;
        }
        if env::var_os("EXAM").is_some() {
            send("exam", &exam::taken());
        }
        enter(json!({ "start": starts, "timers": timers() }));
        Ok(())
    }
}

impl timer_handler::Guest for Logbook {
    fn fire(name: String, missed: u64) {
        let told = add(&format!("told/{name}"), missed + 1);
        let fired = count(&format!("fired/{name}"));
        enter(
            json!({ "timer": name, "missed": missed, "fired": fired.ok(), "told": told.ok(), "starts": read("starts") }),
        );
    }
}

impl twin_handler::Guest for Logbook {
    fn desired_changed(patch: String, version: u64) -> Result<Option<twin_handler::Ack>, twin_handler::Ack> {
        let changes = count("changes").ok();
        let patch: Value = serde_json::from_str(&patch).unwrap_or_default();
        enter(json!({ "change": patch, "version": version, "changes": changes, "starts": read("starts") }));
        Ok(Some(twin_handler::Ack { code: 200, description: "entered".into() }))
    }
}

/// Adds one to a number of the book.
fn count(key: &str) -> Result<u64, String> {
    add(key, 1)
}

/// Two instances may do so at once, while an update takes over.
fn add(key: &str, more: u64) -> Result<u64, String> {
    loop {
        let old = state::get(key).map_err(|error| format!("cannot read `{key}`: {error:?}"))?;
        let new = of(old.as_deref()) + more;
        let changed = state::compare_and_set(key, old.as_deref(), Some(new.to_string().as_bytes()));
        if changed.map_err(|error| format!("cannot count `{key}`: {error:?}"))? {
            return Ok(new);
        }
    }
}

fn read(key: &str) -> u64 {
    of(state::get(key).ok().flatten().as_deref())
}

fn of(digits: Option<&[u8]>) -> u64 {
    digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or_default()
}

fn timers() -> Vec<Value> {
    let shown = |timer: durable_timers::DurableTimer| json!({ "name": timer.name, "periodMs": timer.period_ms });
    durable_timers::list_timers().into_iter().map(shown).collect()
}

/// An entry of the book: told to the log, to whom it may concern, and in the twin.
fn enter(entry: Value) {
    println!("{entry}");
    send("entries", &entry);
    if let Err(error) = twin::report(&json!({ "last": entry.to_string() }).to_string()) {
        eprintln!("cannot report: {error:?}");
    }
}

fn send(output: &str, entry: &Value) {
    let message = Message::new(entry.to_string().as_bytes());
    message.set_content_type(Some("application/json"));
    if let Err(error) = messaging::send(output, &message) {
        eprintln!("not accepted: {error:?}");
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

export!(Logbook);
