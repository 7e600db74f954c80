//! What the host keeps on the device's disk: deployments and twins as plain JSON files, the key-value state of modules as
//! logs, the log of messages, and the lock that keeps two hosts off one data folder.
//!
//! No network, no clock and no task: every call blocks on the disk and returns. No message passes through here yet.

mod disk;
mod documents;
mod encoding;
mod lock;
pub mod log;
mod state;

pub use documents::{Folder, MAX_DOCUMENT_BYTES, OpenError};
pub use lock::{DataLock, LOCK_FILE, LockError, lock_data_dir};
pub use state::{KeptState, StateFolder, kept_states};
