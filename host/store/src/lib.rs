//! What the host keeps on the device's disk: deployments and twins as plain JSON files, and the lock that keeps two hosts
//! off one data folder.
//!
//! No message passes through here yet, no network, no clock and no task: every call blocks on the disk and returns.

mod disk;
mod documents;
mod encoding;
mod lock;

pub use documents::{Folder, MAX_DOCUMENT_BYTES, OpenError};
pub use lock::{DataLock, LOCK_FILE, LockError, lock_data_dir};
