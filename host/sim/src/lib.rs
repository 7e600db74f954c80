//! Simulations of a host's decisions: the real agent with its supervisor, its planner and its twins, on made-up images, a made-up
//! engine and a disk that fills up, in a runtime whose clock is paused and jumps from one event to the next. Hours take
//! milliseconds. What happens comes from a scenario in a text file, or from a seed; the same seed always gives the same.
//!
//! No message, network or guest is simulated: whole-system tests and the store's own attacks have those.

mod beats;
mod calls;
mod fate;
mod host;
mod invariants;
mod op;
mod rollouts;
mod scenario;
mod seed;
mod time;
mod world;

pub use self::{scenario::play, seed::attack};
