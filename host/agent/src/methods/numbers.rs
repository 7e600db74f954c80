//! How often and how long modules were called, by caller and target.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use marram_core::time::Uptime;

use crate::counts::{Timed, TimedNumbers};

/// In the place of a caller: whoever is no module, the operator or the cloud.
pub(crate) const OPERATOR: &str = "";

/// Pairs that are counted apart; the callers of a target beyond it are counted as one. Targets are deployed, so their number is bounded.
const MAX_PAIRS: usize = 128;
/// In the place of a caller: those that are not counted apart.
const OTHERS: &str = "…";

#[derive(Debug, Default)]
pub(super) struct Counts {
    pairs: Mutex<BTreeMap<Pair, Timed>>,
    agent: Mutex<BTreeMap<&'static str, u64>>,
}

/// Caller and target.
type Pair = (Box<str>, Box<str>);

/// Of one caller and one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallNumbers {
    pub(crate) from: Box<str>,
    pub(crate) to: Box<str>,
    pub(crate) calls: TimedNumbers,
}

impl Counts {
    pub(super) fn note(&self, from: &str, to: &str, took: Duration) {
        let mut all = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (from.into(), to.into());
        let pair = if all.len() < MAX_PAIRS || all.contains_key(&pair) { pair } else { (OTHERS.into(), to.into()) };
        all.entry(pair).or_default().note(took);
    }

    pub(super) fn all(&self, now: Uptime) -> Vec<CallNumbers> {
        let all = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = |((from, to), calls): (&Pair, &Timed)| CallNumbers {
            from: from.clone(),
            to: to.clone(),
            calls: calls.numbers(now),
        };
        all.iter().map(numbers).collect()
    }

    /// A method of the host's own was called.
    pub(super) fn note_agent(&self, name: &'static str) {
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    }

    /// How often each was.
    pub(super) fn agent(&self) -> BTreeMap<&'static str, u64> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
