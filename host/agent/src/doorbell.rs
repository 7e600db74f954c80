//! Wakes one waiting consumer, and costs a load when nobody waits.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::sync::Notify;

/// One consumer waits for work from many places.
///
/// No ring is lost if the consumer calls [`Doorbell::arm`], looks for work once more, and only then waits.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    armed: AtomicBool,
    notify: Notify,
}

impl Doorbell {
    /// Wakes the consumer if it waits or is about to.
    pub(crate) fn ring(&self) {
        if self.armed.load(SeqCst) && self.armed.swap(false, SeqCst) {
            self.notify.notify_one();
        }
    }

    /// From now on rings are kept.
    pub(crate) fn arm(&self) {
        self.armed.store(true, SeqCst);
    }

    /// Waits for a ring since [`Doorbell::arm`].
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }
}
