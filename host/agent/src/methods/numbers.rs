//! How often and how long modules were called, by caller and target.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// In the place of a caller: whoever is no module, the operator or the cloud.
pub(crate) const OPERATOR: &str = "";

/// Pairs that are counted apart; the callers of a target beyond it are counted as one. Targets are deployed, so their number is bounded.
const MAX_PAIRS: usize = 128;
/// In the place of a caller: those that are not counted apart.
const OTHERS: &str = "…";

#[derive(Debug, Default)]
pub(super) struct Counts {
    pairs: Mutex<BTreeMap<Pair, Sum>>,
    agent: Mutex<BTreeMap<&'static str, u64>>,
}

/// Caller and target.
type Pair = (Box<str>, Box<str>);

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    calls: u64,
    millis: u64,
}

/// Of one caller and one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallNumbers {
    pub(crate) from: Box<str>,
    pub(crate) to: Box<str>,
    pub(crate) calls: u64,
    /// Of all of them together.
    pub(crate) millis: u64,
}

impl Counts {
    pub(super) fn note(&self, from: &str, to: &str, took: Duration) {
        let mut all = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = (from.into(), to.into());
        let pair = if all.len() < MAX_PAIRS || all.contains_key(&pair) { pair } else { (OTHERS.into(), to.into()) };
        let sum = all.entry(pair).or_default();
        sum.calls += 1;
        sum.millis += u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    }

    pub(super) fn all(&self) -> Vec<CallNumbers> {
        let all = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = |((from, to), sum): (&Pair, &Sum)| CallNumbers {
            from: from.clone(),
            to: to.clone(),
            calls: sum.calls,
            millis: sum.millis,
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
