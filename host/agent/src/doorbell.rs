//! Wakes one waiting consumer, and costs a load when nobody waits.

use std::sync::atomic::{
    AtomicBool, AtomicU8,
    Ordering::{Relaxed, SeqCst},
};

use tokio::sync::Notify;

/// One consumer waits for work from many places.
///
/// No ring is lost if the consumer calls [`Doorbell::arm`], looks for work once more, and only then waits.
#[derive(Debug)]
pub(crate) struct Doorbell {
    armed: AtomicBool,
    notify: Notify,
    /// The most urgent priority that came since the consumer took messages last; [`NOTHING`] if none that is above the
    /// default.
    came: AtomicU8,
}

/// Less urgent than any priority.
const NOTHING: u8 = u8::MAX;

impl Default for Doorbell {
    fn default() -> Self {
        Self { armed: AtomicBool::new(false), notify: Notify::new(), came: AtomicU8::new(NOTHING) }
    }
}

impl Doorbell {
    /// As [`Doorbell::ring`], and lets a consumer that is busy with less urgent messages know.
    pub(crate) fn ring_for(&self, priority: u8) {
        if priority < marram_core::deployment::DEFAULT_PRIORITY {
            self.came.fetch_min(priority, Relaxed);
        }
        self.ring();
    }

    /// The consumer takes messages now: whatever came is among them.
    pub(crate) fn begin_batch(&self) {
        self.came.store(NOTHING, Relaxed);
    }

    /// Whether something more urgent than `priority` came since [`Doorbell::begin_batch`].
    pub(crate) fn has_more_urgent(&self, priority: u8) -> bool {
        self.came.load(Relaxed) < priority
    }

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
