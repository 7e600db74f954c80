//! What the host keeps on the device's disk: deployments and twins as plain JSON files, the key-value state of modules as
//! logs, and the lock that keeps two hosts off one data folder.
//!
//! No message passes through here yet, no network, no clock and no task: every call blocks on the disk and returns.

mod disk;
mod documents;
mod encoding;
mod lock;
mod state;

pub use documents::{Folder, MAX_DOCUMENT_BYTES, OpenError};
pub use lock::{DataLock, LOCK_FILE, LockError, lock_data_dir};
pub use state::StateFolder;
