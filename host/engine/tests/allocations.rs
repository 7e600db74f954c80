//! Choosing receivers by conditions on properties takes no memory. The promise is `marram-core`'s; its test stands here
//! because only this crate may hold unsafe code, and an allocator that counts is such.
#![allow(clippy::unwrap_used, unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::Bytes;
use marram_core::{
    deployment::{DEFAULT_PRIORITY, Deployment, RouteOptions, RouteSpec},
    message::Message,
    route::{Origin, Route, Table},
};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: all is passed on to the system's allocator as it came. Counting touches a number of this thread that has neither
// a constructor nor a destructor, so it neither allocates nor runs after its end.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; `alloc` has it from there.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether a message goes to the one sink, and how often memory was taken to find that out.
fn choose(condition: &str) -> (bool, usize) {
    let route = RouteSpec {
        name: "r".into(),
        route: Route::parse(&format!("FROM /messages/* WHERE {condition} INTO $upstream")).unwrap(),
        priority: DEFAULT_PRIORITY,
        time_to_live: None,
        options: RouteOptions::default(),
    };
    let deployment = Deployment { routes: vec![route], ..Deployment::default() };
    let candidates = Table::new(&deployment).candidates(&deployment, "/messages/modules/m/outputs/o");
    let mut message = Message::new(Bytes::from_static(br#"{"a":"text"}"#));
    message.system_mut().content_type = Some("application/json".into());
    message.system_mut().content_encoding = Some("utf-8".into());
    for (name, value) in [("kind", "alert"), ("level", "4.5"), ("sensor", "line-4"), ("unit", "É")] {
        message.set_property(name, value);
    }
    let origin = Origin { device: Some("device".into()), module: Some("m".into()), output: Some("o".into()) };
    let before = COUNT.get();
    let facts = candidates.facts(&message, &origin);
    let chosen = candidates.sinks[0].choose(&facts).is_some();
    (chosen, COUNT.get() - before)
}

#[test]
fn conditions_on_properties_take_no_memory() {
    for condition in [
        "kind = 'alert' AND as_number(level) >= 3 AND NOT starts_with(sensor, 'test-')",
        "(kind != 'x' OR none = 'y') AND is_defined(level) AND KIND < 'b'",
        "$connectionModuleId = 'm' AND $contentType = 'application/json' AND is_null(none) = false",
        "substring(kind, 1, 3) = 'ler' AND index_of(kind, 'e') = 2 AND length(unit) = 1 AND upper('ABC') = 'ABC'",
        "as_number(level) * 2 + 1 = 10 AND (none ?? kind) = 'alert' AND as_number(' (7) ') = -7",
    ] {
        assert_eq!(choose(condition), (true, 0), "{condition}");
    }
}

/// So the count above counts.
#[test]
fn texts_that_are_made_and_values_of_the_body_take_memory() {
    for condition in ["kind || 'x' = 'alertx'", "upper(kind) = 'ALERT'", "$body.a = 'text'"] {
        let (chosen, count) = choose(condition);
        assert!(chosen && count > 0, "{condition}: {count}");
    }
}
