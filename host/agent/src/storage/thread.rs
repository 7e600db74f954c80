//! The log's own thread: does what is handed over, and in quiet moments what can wait.

use std::sync::{Arc, PoisonError};

use super::Storage;

/// Its end, however it comes, is the log's.
pub(super) struct Thread(pub(super) Arc<Storage>);

impl Thread {
    pub(super) fn run(self) {
        let storage = &*self.0;
        let mut patience = std::time::Duration::ZERO;
        if let Some(writer) = storage.owner.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            writer.note_facts();
        }
        loop {
            storage.wait(patience);
            // Poisoned: a sender has died with the log in its hands. What it has done is not known, so this is the end.
            let Ok(mut owner) = storage.owner.lock() else { return };
            let Some(writer) = owner.as_mut() else { return };
            let (told, jobs) = storage.take();
            let is_end = writer.work_off(told, jobs);
            let answers = std::mem::take(&mut writer.answers);
            drop(owner);
            // Now that the log is idle: who hears of it goes on at once, and would find it taken.
            for (reply, answer) in answers {
                let _ = reply.send(Ok(answer));
            }
            if is_end {
                return;
            }
            let Ok(mut owner) = storage.owner.lock() else { return };
            let Some(writer) = owner.as_mut() else { return };
            writer.keep_house();
            patience = writer.patience();
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let writer = self.0.owner.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(writer); // with it the log, and whoever waits for an answer hears of it
    }
}
