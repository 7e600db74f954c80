//! What an instance has been told of its desired properties, and what is news to it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use marram_core::{
    ports::{TwinChange, WatchError},
    twin::{Twin, diff},
};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::TwinCell;
use crate::{delivery::StopSignal, inbox::MAX_PATIENCE};

/// What a guest knows of its desired properties.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) version: Option<u64>,
    desired: Map<String, Value>,
}

impl Told {
    /// Whether this version is news. The number is read without a lock and may lag behind the document that was told.
    pub(crate) fn is_behind(&self, version: u64) -> bool {
        self.version.is_none_or(|told| told < version)
    }

    /// What is to be told: all of it the first time.
    pub(crate) fn change(&self, twin: &Twin) -> TwinChange {
        let patch = match self.version {
            None => twin.desired().clone(),
            Some(_) => diff(&self.desired, twin.desired()),
        };
        TwinChange { merge_patch_json: super::text(&patch), version: twin.desired_version() }
    }

    /// It was told.
    pub(crate) fn note(&mut self, twin: &Twin) {
        self.version = Some(twin.desired_version());
        self.desired = twin.desired().clone();
    }
}

/// The changes that one instance of a program asks for.
pub(crate) struct Watch {
    cell: Arc<TwinCell>,
    stop: Arc<StopSignal>,
    told: Mutex<Told>,
}

impl Watch {
    pub(crate) fn new(cell: Arc<TwinCell>, stop: Arc<StopSignal>) -> Self {
        Self { cell, stop, told: Mutex::default() }
    }

    /// As [`marram_core::ports::ModuleHost::next_change`].
    pub(crate) async fn next(&self, patience: Duration) -> Result<Option<TwinChange>, WatchError> {
        let until = Instant::now() + patience.min(MAX_PATIENCE);
        let mut changed = self.cell.changed.subscribe();
        loop {
            // Listen first, then look: what comes in between is not missed.
            let mut stop = std::pin::pin!(self.stop.listen());
            stop.as_mut().enable();
            if self.stop.is_stopping() {
                return Err(WatchError::Stopping);
            }
            if let Some(change) = self.take() {
                return Ok(Some(change));
            }
            tokio::select! {
                biased;
                _ = changed.changed() => {} // the sender lives in the cell, which is ours
                () = stop => {}
                () = tokio::time::sleep_until(until) => return Ok(None),
            }
        }
    }

    fn take(&self) -> Option<TwinChange> {
        let twin = self.cell.twin();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.is_behind(twin.desired_version()) {
            return None;
        }
        let change = told.change(&twin);
        told.note(&twin);
        Some(change)
    }
}

#[cfg(test)]
mod tests {
    use marram_core::time::UtcMillis;

    use super::*;

    #[test]
    fn a_version_is_news_until_it_or_a_later_one_was_told() {
        let (mut told, mut twin) = (Told::default(), Twin::new());
        assert!(told.is_behind(twin.desired_version()), "the first is always told");
        let patch = Map::from_iter([("a".to_owned(), Value::from(1))]);
        twin.set_desired(&patch, UtcMillis(0)).unwrap();
        told.note(&twin);
        assert!(!told.is_behind(1), "a number that lags behind the document");
        assert!(!told.is_behind(2) && told.is_behind(3));
    }
}
