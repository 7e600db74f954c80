//! Wakes one waiting consumer, and costs a load when nobody waits.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicU8, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
};

use tokio::sync::Notify;

/// One consumer waits for work from many places.
///
/// No ring is lost if the consumer calls [`Doorbell::arm`], looks for work once more, and only then waits.
#[derive(Debug)]
pub(crate) struct Doorbell {
    armed: AtomicBool,
    notify: Notify,
    /// How many answer; more than one for moments at most.
    attended: AtomicUsize,
    /// The most urgent priority that came since the consumer took messages last; [`NOTHING`] if none that is above the
    /// default.
    came: AtomicU8,
}

/// Less urgent than any priority.
const NOTHING: u8 = u8::MAX;

impl Default for Doorbell {
    fn default() -> Self {
        let (armed, attended) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { armed, notify: Notify::new(), attended, came: AtomicU8::new(NOTHING) }
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

    /// The consumer is up, until what is returned is dropped.
    pub(crate) fn attend(self: &Arc<Self>) -> Attended {
        self.attended.fetch_add(1, SeqCst);
        Attended(self.clone())
    }

    /// Whether the consumer is up.
    pub(crate) fn is_attended(&self) -> bool {
        self.attended.load(SeqCst) > 0
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

/// As long as a consumer has it, it is up.
#[derive(Debug)]
pub(crate) struct Attended(Arc<Doorbell>);

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.attended.fetch_sub(1, SeqCst);
    }
}
