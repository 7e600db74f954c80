//! The last hop of `$upstream`. Here: [`Journal`], the embedded default, which writes each message as one line of JSON
//! into files on this device, and [`TwinJournal`] for what modules report.
//!
//! Knows no route, no queue and no retry: the agent offers messages again until they are taken. The cloud session will
//! stand beside the journal under the same trait.

mod body;
mod disk;
mod files;
mod journal;
mod line;
mod twins;
mod writer;

pub use files::journal_files;
pub use journal::{Journal, OpenError, Settings, SyncPolicy};
pub use twins::TwinJournal;
