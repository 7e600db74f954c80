//! Follows its twin: logs each change, sends it on, and acknowledges it.
//!
//! Shows: a program with a main loop of its own that hears of changes of its desired properties.

wit_bindgen::generate!({ path: "../../wit", world: "program" });

use std::{env, thread, time::Duration};

use marram::edge::{
    messaging,
    twin_watch::{self, Change, WatchError},
};

fn main() {
    let poll = env::var("POLL_MS").ok().and_then(|text| text.parse().ok()).map(Duration::from_millis);
    loop {
        match twin_watch::next_change(if poll.is_some() { 0 } else { 60_000 }) {
            Ok(Some(change)) => follow(&change),
            Ok(None) => thread::sleep(poll.unwrap_or_default()),
            Err(WatchError::Stopping) => return,
        }
    }
}

fn follow(Change { merge_patch_json, version }: &Change) {
    println!("version {version}: {merge_patch_json}");
    let version_text = version.to_string();
    let properties = [("version".to_owned(), version_text)];
    if let Err(error) = messaging::send_bytes("changes", merge_patch_json.as_bytes(), &properties) {
        eprintln!("not accepted: {error:?}");
    }
    let (code, description) = match merge_patch_json.contains(r#""refuse""#) {
        true => (400, "told to refuse it"),
        false => (200, "followed"),
    };
    if let Err(error) = twin_watch::acknowledge(*version, code, description) {
        eprintln!("cannot acknowledge: {error:?}");
    }
}
