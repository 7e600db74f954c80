//! Waiting for something that can be observed. Sleeps only between two looks, never to let time pass.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything is waited for. An idle machine takes a second or two for the slowest step, compiling a guest; this is
/// for a loaded one, and below the time after which the test runner ends a test.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// Pause between two looks: short against what is waited for, and cheap.
const LOOK: Duration = Duration::from_millis(20);

/// Looks until there is something; returns it.
///
/// # Panics
/// Nothing within [`DEADLINE`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited {} s in vain for {what}", DEADLINE.as_secs());
        thread::sleep(LOOK);
    }
}
