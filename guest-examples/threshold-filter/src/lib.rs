//! Passes readings whose field is above a threshold on to output `alerts`, with a property `alert`.
//!
//! Shows: a handler that is configured by its twin, settles what it cannot read with `reject`, and reports counts
//! without a report for each message. The counts begin at 0 with each start.

wit_bindgen::generate!({ path: "../../wit", world: "configured-handler" });

mod settings;

use std::{cell::RefCell, time::Instant};

use exports::marram::edge::{
    input_handler::{self, Message, Nack},
    twin_handler::{self, Ack},
};
use marram::edge::{
    messaging::{self, SendError},
    twin,
};
use serde_json::{Value, json};
use settings::Settings;

/// A report goes out with the first message, then after this many messages or seconds, whichever is first. Each report
/// is stored by the host and may travel to the cloud, so it is not made for every message.
const REPORT_EVERY_MESSAGES: u64 = 50;
const REPORT_EVERY_SECS: u64 = 10;

#[derive(Default)]
struct State {
    settings: Settings,
    seen: u64,
    passed: u64,
    reported: Option<(Instant, u64)>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

struct Filter;

impl input_handler::Guest for Filter {
    fn handle(_input: String, msg: Message) -> Result<(), Nack> {
        let reading: Value =
            serde_json::from_slice(&msg.body()).map_err(|err| Nack::Reject(format!("the body is not JSON: {err}")))?;
        STATE.with_borrow_mut(|state| {
            let passes = state.settings.passes(&reading);
            if passes {
                pass_on(&msg, &state.settings)?;
            }
            state.count(passes);
            Ok(())
        })
    }
}

impl twin_handler::Guest for Filter {
    fn desired_changed(merge_patch_json: String, _version: u64) -> Result<Option<Ack>, Ack> {
        STATE.with_borrow_mut(|state| match state.settings.patched(&merge_patch_json) {
            Ok(settings) => {
                println!("passes {} above {}", settings.field, settings.threshold);
                let description = format!("passes {} above {}", settings.field, settings.threshold);
                state.settings = settings;
                Ok(Some(Ack { code: 200, description }))
            }
            Err(description) => {
                eprintln!("refused: {description}");
                Err(Ack { code: 400, description })
            }
        })
    }
}

/// Sends the message on. What was not accepted is not settled: the host brings it again.
fn pass_on(msg: &Message, settings: &Settings) -> Result<(), Nack> {
    msg.set_property("alert", &format!("{} above {}", settings.field, settings.threshold));
    match messaging::send("alerts", msg) {
        Ok(_) => Ok(()),
        Err(SendError::TooLarge(max)) => Err(Nack::Reject(format!("with the alert it is larger than {max} bytes"))),
        Err(_) => Err(Nack::RetryAfter(None)),
    }
}

impl State {
    fn count(&mut self, passed: bool) {
        self.seen += 1;
        self.passed += u64::from(passed);
        let due = self.reported.is_none_or(|(at, seen)| {
            self.seen - seen >= REPORT_EVERY_MESSAGES || at.elapsed().as_secs() >= REPORT_EVERY_SECS
        });
        if due {
            self.report();
        }
    }

    fn report(&mut self) {
        if let Err(err) = twin::report(&json!({ "seen": self.seen, "passed": self.passed }).to_string()) {
            eprintln!("cannot report: {err:?}");
        }
        self.reported = Some((Instant::now(), self.seen));
    }
}

export!(Filter);
