//! Simulations of a host's decisions: the real agent with its supervisor, its planner and its twins, on made-up images, a made-up
//! engine, a disk that fails and a cloud that comes and goes, in a runtime whose clock is paused and jumps from one event to the next.
//! Hours take milliseconds. What happens comes from a scenario in a text file, or from a seed; the same seed always gives the same.
//!
//! No message, network or component is simulated: whole-system tests and the store's own attacks have those.

mod beats;
mod calls;
mod cloud;
mod disk;
mod fate;
mod guest;
mod host;
mod images;
mod invariants;
mod op;
mod reports;
mod rollouts;
mod said;
mod scenario;
mod seed;
mod seen;
mod time;
mod world;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::{scenario::play, seed::attack, seen::Seen};

/// One simulation at a time in a process: the agent bounds its work on the disk for the whole process, and what waits for another
/// runtime does not stop the clock of its own. The clock and the log that is listened to are the process's, too.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
