//! Joins the worlds: supervises modules, routes and delivers messages, keeps twins, answers the control API.
//!
//! Does, and holds no policy: what to do is decided in `marram-core`. Knows the engine, the registry, the disk and the
//! cloud only through [`marram_core::ports`].

mod agent;
mod cache;
mod clock;
pub mod control;
mod counts;
mod dead_letters;
mod delivery;
mod doorbell;
mod endpoint;
mod inbox;
mod link;
mod logs;
mod methods;
mod metrics;
mod plan;
mod router;
mod state;
mod status;
mod storage;
mod supervisor;
mod traps;
mod turn;
mod twins;
mod upstream;

pub use agent::{Agent, Applied, ApplyError, Config, Deployments, ModuleError, ReadError, StartError, TwinView};
pub use cache::{CacheStatus, Caches, Collector, PruneRequest, Pruned};
pub use clock::{Time, clocks};
pub use control::{SocketError, serve};
pub use dead_letters::{DeadLetter, DeadLetterError, DeadLetters, DeadMessage};
pub use logs::{LogLine, LogQuery};
pub use metrics::serve_metrics;
pub use status::{HealthStatus, MessageLogStatus, ModuleStatus, QueueStatus, Status};
pub use traps::{ModuleTraps, TrapsError};
pub use twins::{TwinError, TwinQuery};

#[cfg(test)]
mod tests;
