//! Tries each function of `state` and tells what came of it.

use serde_json::{Value, json};

use crate::marram::edge::state::{self, StateError};

pub(crate) fn taken() -> Value {
    let mut found = serde_json::Map::new();
    let mut note = |name: &str, what: String| found.insert(name.into(), what.into());
    note("missing", format!("{:?}", state::get("exam/none")));
    note("set", format!("{:?} {:?}", state::set("exam/a", b"1"), state::get("exam/a")));
    note("not expected", format!("{:?}", state::compare_and_set("exam/a", Some(b"2"), Some(b"3"))));
    note("there already", format!("{:?}", state::compare_and_set("exam/a", None, Some(b"3"))));
    note("expected", format!("{:?}", state::compare_and_set("exam/a", Some(b"1"), Some(b"3"))));
    let some = |key: &str| (key.to_owned(), Some(vec![b'x']));
    note("many", format!("{:?}", state::set_many(&[some("exam/b"), some("exam/c"), ("exam/a".into(), None)])));
    note("half", format!("{:?}", state::set_many(&[some("exam/d"), some("")])));
    note("keys", format!("{:?}", state::list_keys("exam/", None)));
    note("after", format!("{:?}", state::list_keys("exam/", Some("exam/b"))));
    note("delete", format!("{:?} {:?}", state::delete("exam/b"), state::delete("exam/none")));
    note("long", format!("{:?}", state::set("exam/long", &vec![0; 256 * 1024 + 1])));
    note("quota", quota());
    json!(found)
}

/// Fills the state, reads on, and makes room.
fn quota() -> String {
    let key = |n: u32| format!("exam/fill/{n}");
    let full = (0..5).find_map(|n| {
        // The last one is small: what is refused is paid for too.
        let bytes = if n < 4 { 250_000 } else { 60_000 };
        state::set(&key(n), &vec![0; bytes]).err().map(|error| (n, error))
    });
    let kept = state::get(&key(0)).ok().flatten().map(|value| value.len());
    let room = state::set_many(&(0..8).map(|n| (key(n), None)).collect::<Vec<_>>());
    match full {
        Some((n, StateError::Quota(bytes))) => format!("full after {n}, {bytes} would be too many; {kept:?} {room:?}"),
        other => format!("{other:?}"),
    }
}
