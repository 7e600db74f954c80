//! `route.properties`, `route.body`: what it costs to choose the receivers of a message by a condition, against the same
//! predicate written by hand in Rust on the same message. `route.1000`: the same beside 1,000 routes with other sources
//! (value), against that route alone (floor); as in the router, the source's routes were found before. `route.lookup.1000`:
//! finding them, which the router does once an output. CPU time of this thread a message; medians of interleaved rounds.
//!
//! No queue and no guest take part: `hop.memory.*` has those.

#[path = "../hop/report.rs"]
#[allow(dead_code)] // that of guests
mod report;

use std::hint::black_box;

use bytes::Bytes;
use marram_core::{
    deployment::{DEFAULT_PRIORITY, Deployment, RouteOptions, RouteSpec},
    message::Message,
    route::{Candidates, Origin, Route, Table, module_source},
};
use report::thread_cpu;

const MESSAGES: usize = 2000;
/// Rounds of each side, taken in turn; the first ones warm caches.
const ROUNDS: usize = 60;

const PROPERTIES: &str = "kind = 'alert' AND as_number(level) >= 3 AND NOT starts_with(sensor, 'test-')";
const BODY: &str = "$body.machine.temperature > 80 AND $body.machine.name = 'press' AND $body.readings[1].value < 10";

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let message = message();
    if report::wanted(&names, "route.properties") {
        against_hand("route.properties", PROPERTIES, &message, by_hand::properties);
    }
    if report::wanted(&names, "route.body") {
        against_hand("route.body", BODY, &message, by_hand::body);
    }
    among_others(&names, &message);
}

/// What a machine sends: some 300 bytes of JSON and a handful of properties.
fn message() -> Message {
    let body = br#"{"timestamp":"2026-01-31T12:00:00.000Z","machine":{"name":"press","line":4,"temperature":87.5,
        "pressure":1.25,"state":"running","operator":null},"readings":[{"sensor":"a","value":3.5,"unit":"mm"},
        {"sensor":"b","value":7.25,"unit":"mm"},{"sensor":"c","value":11,"unit":"mm"}],"sequence":123456,"ok":true}"#;
    let mut message = Message::new(Bytes::from_static(body));
    message.system_mut().content_type = Some("application/json".into());
    message.system_mut().content_encoding = Some("utf-8".into());
    for (name, value) in [("sensor", "line-4"), ("unit", "C"), ("level", "4"), ("kind", "alert")] {
        message.set_property(name, value);
    }
    message
}

mod by_hand {
    //! The same predicates as their author would write them for this message: typed, borrowing, no more than is needed.

    use marram_core::message::Message;
    use serde::Deserialize;

    pub(super) fn properties(message: &Message) -> bool {
        message.property("kind") == Some("alert")
            && message.property("level").and_then(|level| level.parse::<f64>().ok()).is_some_and(|level| level >= 3.0)
            && message.property("sensor").is_some_and(|sensor| !sensor.starts_with("test-"))
    }

    #[derive(Deserialize)]
    struct Body<'b> {
        #[serde(borrow)]
        machine: Machine<'b>,
        readings: Vec<Reading>,
    }

    #[derive(Deserialize)]
    struct Machine<'b> {
        name: &'b str,
        temperature: f64,
    }

    #[derive(Deserialize)]
    struct Reading {
        value: f64,
    }

    pub(super) fn body(message: &Message) -> bool {
        let system = message.system();
        let json = system.and_then(|system| system.content_type.as_deref()) == Some("application/json")
            && system.and_then(|system| system.content_encoding.as_deref()) == Some("utf-8");
        json && serde_json::from_slice::<Body<'_>>(&message.body).is_ok_and(|body| {
            body.machine.temperature > 80.0
                && body.machine.name == "press"
                && body.readings.get(1).is_some_and(|reading| reading.value < 10.0)
        })
    }
}

fn spec(text: &str) -> RouteSpec {
    RouteSpec {
        name: "r".into(),
        route: Route::parse(text).expect("a route"),
        priority: DEFAULT_PRIORITY,
        time_to_live: None,
        options: RouteOptions::default(),
    }
}

fn source() -> String {
    module_source("sensor", "readings")
}

fn candidates(routes: Vec<RouteSpec>) -> Candidates {
    let deployment = Deployment { routes, ..Deployment::default() };
    Table::new(&deployment).candidates(&deployment, &source())
}

fn origin() -> Origin {
    Origin { device: Some("device".into()), module: Some("sensor".into()), output: Some("readings".into()) }
}

/// How many sinks get the message: what the router does at each `send`.
fn choose(candidates: &Candidates, message: &Message, origin: &Origin) -> usize {
    let facts = candidates.facts(message, origin);
    candidates.sinks.iter().filter(|sink| sink.choose(&facts).is_some()).count()
}

/// CPU nanoseconds a message.
fn round(mut one: impl FnMut() -> bool) -> f64 {
    let started = thread_cpu();
    for _ in 0..MESSAGES {
        assert!(black_box(one()));
    }
    (thread_cpu() - started) as f64 / MESSAGES as f64
}

fn paired(name: &str, mut value: impl FnMut() -> bool, mut floor: impl FnMut() -> bool) {
    let (mut values, mut floors) = (Vec::new(), Vec::new());
    for number in 0..ROUNDS + 2 {
        let (floor, value) = (round(&mut floor), round(&mut value));
        if number >= 2 {
            floors.push(floor);
            values.push(value);
        }
    }
    report::cost(name, &values, &floors);
}

fn against_hand(name: &str, condition: &str, message: &Message, by_hand: fn(&Message) -> bool) {
    let candidates = candidates(vec![spec(&format!("FROM /messages/* WHERE {condition} INTO $upstream"))]);
    let origin = origin();
    paired(name, || choose(&candidates, black_box(message), &origin) == 1, || by_hand(black_box(message)));
}

/// One route of the source among many with other sources.
fn among_others(names: &[String], message: &Message) {
    let wanted = || spec(&format!("FROM {} WHERE {PROPERTIES} INTO $upstream", source()));
    let others =
        (0..1000).map(|n| spec(&format!("FROM /messages/modules/other-{n}/* WHERE {PROPERTIES} INTO $upstream")));
    let many = Deployment { routes: others.chain([wanted()]).collect(), ..Deployment::default() };
    let one = Deployment { routes: vec![wanted()], ..Deployment::default() };
    let (source, origin) = (source(), origin());
    let (in_many, in_one) = (Table::new(&many), Table::new(&one));
    if report::wanted(names, "route.1000") {
        let (many, one) = (in_many.candidates(&many, &source), in_one.candidates(&one, &source));
        let delivers = |candidates: &Candidates| choose(candidates, black_box(message), &origin) == 1;
        paired("route.1000", || delivers(&many), || delivers(&one));
    }
    if report::wanted(names, "route.lookup.1000") {
        let finds =
            |table: &Table, deployment: &Deployment| table.candidates(deployment, black_box(&source)).sinks.len() == 1;
        paired("route.lookup.1000", || finds(&in_many, &many), || finds(&in_one, &one));
    }
}
