//! The decisions of Marram: manifests, routes, queues, twins, what to start and when.
//!
//! Pure: no IO, no clock, no task runtime. Time is an argument ([`time::Uptime`], [`time::UtcMillis`]); what must be
//! done comes back as data, and the other crates do it. `clippy.toml` bans the rest.

pub mod allowance;
pub mod backlog;
pub mod cache;
pub mod deployment;
pub mod edge_agent;
pub mod elapsed;
pub mod exposition;
pub mod grouping;
pub mod health;
mod hex;
pub mod log;
pub mod manifest;
pub mod message;
pub mod methods;
pub mod module_logs;
pub mod name;
pub mod pace;
pub mod planner;
pub mod ports;
pub mod quantiles;
pub mod queue;
pub mod reported;
pub mod retry;
pub mod rollout;
pub mod route;
pub mod shutdown;
pub mod state;
pub mod time;
pub mod timers;
pub mod traps;
pub mod twin;
mod wide;
