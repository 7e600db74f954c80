//! Reads the device's load and memory from a granted folder, on a timer, and sends a JSON message on output `readings`.
//!
//! Shows: a timer, a folder grant, a twin property that applies at once. Keeps nothing between restarts.

wit_bindgen::generate!({ path: "../../wit", world: "sensor" });

mod reading;

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use exports::marram::edge::{start_handler, timer_handler, twin_handler};
use marram::edge::{messaging, module_info, timers, twin, types::Message};
use serde_json::{Value, json};
use twin_handler::Ack;

/// Time between two readings until the twin says otherwise.
const DEFAULT_INTERVAL_MS: u64 = 1000;
/// A shorter interval would measure little but this module itself.
const MIN_INTERVAL_MS: u64 = 10;
/// One day: a longer silence looks like a broken sensor.
const MAX_INTERVAL_MS: u64 = 86_400_000;
const TIMER: &str = "read";

thread_local! {
    /// Readings taken by this instance; part of the message id.
    static READINGS: Cell<u64> = const { Cell::new(0) };
    /// Start of this instance; makes message ids differ between restarts.
    static STARTED_MS: Cell<u64> = const { Cell::new(0) };
    /// The failure reported last, so that it is reported once and not every second.
    static REPORTED: RefCell<Option<String>> = const { RefCell::new(None) };
}

struct Telemetry;

impl start_handler::Guest for Telemetry {
    fn start() -> Result<(), String> {
        STARTED_MS.set(now_unix_ms());
        set_interval(DEFAULT_INTERVAL_MS)
    }
}

impl timer_handler::Guest for Telemetry {
    fn fire(_name: String, missed: u64) {
        if missed > 0 {
            println!("{missed} readings were skipped: this module was late");
        }
        match reading::read(&folder()) {
            Ok(reading) => {
                note(None);
                send(reading);
            }
            Err(why) => note(Some(why)),
        }
    }
}

impl twin_handler::Guest for Telemetry {
    fn desired_changed(merge_patch_json: String, _version: u64) -> Result<Option<Ack>, Ack> {
        let patch: Value = serde_json::from_str(&merge_patch_json).map_err(|err| refuse(format!("not JSON: {err}")))?;
        let Some(wanted) = patch.get("intervalMs") else { return Ok(None) };
        let interval = interval_ms(wanted).map_err(refuse)?;
        set_interval(interval).map_err(refuse)?;
        println!("reads every {interval} ms from now on");
        Ok(Some(Ack { code: 200, description: format!("reads every {interval} ms") }))
    }
}

/// The interval that a desired value means; null (the property was removed) is the default.
fn interval_ms(wanted: &Value) -> Result<u64, String> {
    if wanted.is_null() {
        return Ok(DEFAULT_INTERVAL_MS);
    }
    wanted.as_u64().filter(|ms| (MIN_INTERVAL_MS..=MAX_INTERVAL_MS).contains(ms)).ok_or_else(|| {
        format!("intervalMs: {wanted} is not a whole number from {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS}")
    })
}

fn refuse(description: String) -> Ack {
    println!("refused: {description}");
    Ack { code: 400, description }
}

fn set_interval(ms: u64) -> Result<(), String> {
    timers::set_periodic(TIMER, ms).map_err(|err| format!("cannot set a timer of {ms} ms: {err:?}"))
}

/// Where the grant put the device's `/proc`.
fn folder() -> PathBuf {
    std::env::var_os("PROC_DIR").unwrap_or_else(|| "/proc".into()).into()
}

fn send(reading: Value) {
    let number = READINGS.get() + 1;
    READINGS.set(number);
    let module = module_info::module_id();
    let msg = Message::new(reading.to_string().as_bytes());
    msg.set_content_type(Some("application/json"));
    msg.set_content_encoding(Some("utf-8"));
    msg.set_message_id(Some(&format!("{module}-{}-{number}", STARTED_MS.get())));
    msg.set_properties(&[("sensor".into(), "proc".into()), ("device".into(), module_info::device_id())]);
    if let Err(err) = messaging::send("readings", &msg) {
        println!("reading {number} was not accepted: {err:?}");
    }
}

/// Logs and reports a failure when it is new, and its end when it is over (`null` deletes the reported property).
fn note(failure: Option<String>) {
    let before = REPORTED.replace(failure.clone());
    if before == failure {
        return;
    }
    match &failure {
        Some(why) => eprintln!("cannot read: {why}"),
        None => println!("reads again"),
    }
    if let Err(err) = twin::report(&json!({ "error": failure }).to_string()) {
        eprintln!("cannot report: {err:?}");
    }
}

/// Milliseconds since 1970-01-01 UTC; 0 on a device whose clock stands before that.
pub(crate) fn now_unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

export!(Telemetry);
