//! How often a module's reported properties were changed and handed over and how long that took, and what upstream was asked for again.

use std::{
    sync::{
        OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use marram_core::{name::ModuleName, time::Uptime, twin::SyncStep};

use super::{TwinCell, Twins};
use crate::counts::{Timed, TimedNumbers};

/// Counts of one module's twin.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Changes that were stored. Most modules report nothing, and have no counts.
    stored: OnceLock<Box<Timed>>,
    /// Patches that upstream took.
    handed_over: OnceLock<Box<Timed>>,
    fetches_retried: AtomicU64,
    reports_retried: AtomicU64,
}

/// The same as plain numbers.
#[derive(Debug)]
pub(crate) struct TwinNumbers {
    pub(crate) module: ModuleName,
    pub(crate) stored: Option<TimedNumbers>,
    pub(crate) handed_over: Option<TimedNumbers>,
    pub(crate) fetches_retried: u64,
    pub(crate) reports_retried: u64,
}

impl Counts {
    pub(super) fn note_stored(&self, took: Duration) {
        self.stored.get_or_init(Box::default).note(took);
    }

    pub(super) fn note_handed_over(&self, took: Duration) {
        self.handed_over.get_or_init(Box::default).note(took);
    }

    /// It failed, and is made again.
    fn note_retry(&self, step: &SyncStep) {
        let of = match step {
            SyncStep::Fetch(_) => &self.fetches_retried,
            SyncStep::Report(_) => &self.reports_retried,
        };
        of.fetch_add(1, Relaxed);
    }
}

impl TwinCell {
    fn numbers(&self, now: Uptime) -> TwinNumbers {
        let Counts { stored, handed_over, fetches_retried, reports_retried } = &self.counts;
        let numbers = |of: &OnceLock<Box<Timed>>| of.get().map(|timed| timed.numbers(now));
        TwinNumbers {
            module: self.module.clone(),
            stored: numbers(stored),
            handed_over: numbers(handed_over),
            fetches_retried: fetches_retried.load(Relaxed),
            reports_retried: reports_retried.load(Relaxed),
        }
    }
}

impl Twins {
    /// Of all twins that were asked for so far.
    pub(crate) fn numbers(&self) -> Vec<TwinNumbers> {
        let now = self.clock.uptime();
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).values().map(|cell| cell.numbers(now)).collect()
    }

    /// What upstream was asked for failed, and is asked for again.
    pub(super) fn note_retry(&self, step: &SyncStep) {
        let (SyncStep::Fetch(module) | SyncStep::Report(module)) = step;
        if let Some(cell) = self.cells.lock().unwrap_or_else(PoisonError::into_inner).get(module) {
            cell.counts.note_retry(step);
        }
    }
}
