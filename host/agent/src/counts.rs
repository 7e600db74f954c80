//! What the router counts, by source: the one bookkeeping behind `list`, `queues` and the metrics. A module may make up names of outputs,
//! so the number of sources is bounded; what is beyond is counted together.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use marram_core::{
    deployment::PRIORITIES,
    quantiles::{Quantiles, Recent},
    queue::Done,
    route::Origin,
    time::Uptime,
};

/// Outputs of one module that are counted apart. A module has a handful.
const MAX_OUTPUTS: usize = 32;
/// Entries of one endpoint by source and priority, or by source and reason. All outputs of four busy modules; each entry takes a line of a
/// page that is read each minute.
const MAX_ENTRIES: usize = 128;

/// Of the messages of one source, since the host started.
#[derive(Debug, Default)]
pub(crate) struct SourceCounts {
    /// One of a module for all its outputs.
    sizes: Arc<Recent>,
    messages: AtomicU64,
    bytes: AtomicU64,
    no_route: AtomicU64,
    full: AtomicU64,
    not_stored: AtomicU64,
}

/// The same as plain numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SourceNumbers {
    /// Accepted.
    pub(crate) messages: u64,
    /// Their bodies and properties.
    pub(crate) bytes: u64,
    /// Those of them that no route wanted.
    pub(crate) no_route: u64,
    /// Refused because a queue was full.
    pub(crate) full: u64,
    /// Refused because the message log could not store them.
    pub(crate) not_stored: u64,
}

impl SourceCounts {
    pub(crate) fn accepted(&self, bytes: usize) {
        self.sizes.note(bytes as u64);
        self.messages.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Of those accepted.
    pub(crate) fn no_route(&self) {
        self.no_route.fetch_add(1, Relaxed);
    }

    pub(crate) fn full(&self) {
        self.full.fetch_add(1, Relaxed);
    }

    pub(crate) fn not_stored(&self) {
        self.not_stored.fetch_add(1, Relaxed);
    }

    fn numbers(&self) -> SourceNumbers {
        SourceNumbers {
            messages: self.messages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            no_route: self.no_route.load(Relaxed),
            full: self.full.load(Relaxed),
            not_stored: self.not_stored.load(Relaxed),
        }
    }
}

/// Counts of all sources; kept also of modules that were removed, as their sequences are.
#[derive(Debug, Default)]
pub(crate) struct Sources(Mutex<BTreeMap<Sender, BySource>>);

type BySource = BTreeMap<Arc<str>, Arc<SourceCounts>>;

/// A module's name; none = all that are no modules here.
pub(crate) type Sender = Option<Box<str>>;

/// In the place of a source: all that are not counted apart.
pub(crate) const OTHERS: &str = "";

impl Sources {
    /// Where the messages of a source are counted.
    pub(crate) fn of(&self, source: &Arc<str>, origin: &Origin) -> Arc<SourceCounts> {
        // What the host sends on a module's behalf is not the module's: it has no output.
        let sender: Sender = origin.output.as_ref().and(origin.module.clone());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_sender = all.entry(sender).or_default();
        let known = of_sender.contains_key(source) || of_sender.len() < MAX_OUTPUTS;
        let key = if known { source.clone() } else { OTHERS.into() };
        let sizes = of_sender.values().next().filter(|_| origin.output.is_some()).map(|of| of.sizes.clone());
        let new = || SourceCounts { sizes: sizes.unwrap_or_default(), ..SourceCounts::default() }.into();
        of_sender.entry(key).or_insert_with(new).clone()
    }

    /// Sizes of the messages of each sender of late, one source of it for its name.
    pub(crate) fn sizes(&self, now: Uptime) -> Vec<(Sender, Arc<str>, Quantiles)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = all.iter().flat_map(|(sender, sources)| {
            let shown = if sender.is_some() { 1 } else { sources.len() };
            sources.iter().take(shown).map(move |(source, counts)| (sender, source, counts))
        });
        each.map(|(sender, source, counts)| (sender.clone(), source.clone(), counts.sizes.quantiles(now))).collect()
    }

    /// All of them: the sender's name (none: no module here), the source ([`OTHERS`]: those that are not counted apart), the numbers.
    pub(crate) fn numbers(&self) -> Vec<(Sender, Arc<str>, SourceNumbers)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = all.iter().flat_map(|(sender, sources)| sources.iter().map(move |entry| (sender, entry)));
        sources.map(|(sender, (source, counts))| (sender.clone(), source.clone(), counts.numbers())).collect()
    }

    /// Messages that were accepted from a module.
    pub(crate) fn sent_by(&self, module: &str) -> u64 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sources = all.get(&Some(module.into()));
        sources.into_iter().flat_map(BTreeMap::values).map(|counts| counts.numbers().messages).sum()
    }

    /// Messages that no route wanted.
    pub(crate) fn no_route(&self) -> u64 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().flat_map(BTreeMap::values).map(|counts| counts.numbers().no_route).sum()
    }
}

/// Numbers of one endpoint by source and something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tally<K>(BTreeMap<(Arc<str>, K), u64>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy> Tally<K> {
    pub(crate) fn add(&mut self, source: &Arc<str>, what: K, number: u64) {
        let key = (source.clone(), what);
        if let Some(sum) = self.0.get_mut(&key) {
            *sum += number;
            return;
        }
        let key = if self.0.len() < MAX_ENTRIES { key } else { (OTHERS.into(), what) };
        *self.0.entry(key).or_default() += number;
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        other.iter().for_each(|(source, what, number)| self.add(source, what, number));
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// By the other part of the key alone.
    pub(crate) fn totals(&self) -> BTreeMap<K, u64> {
        let mut totals = BTreeMap::new();
        for ((_, what), number) in &self.0 {
            *totals.entry(*what).or_default() += number;
        }
        totals
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, K, u64)> {
        self.0.iter().map(|((source, what), number)| (source, *what, *number))
    }
}

/// What was handled, by priority.
pub(crate) type Handled = Tally<u8>;
/// What was given up, by reason.
pub(crate) type GivenUp = Tally<&'static str>;

impl Handled {
    pub(crate) fn add_done(&mut self, done: &[Done]) {
        done.iter().for_each(|Done { source, priority, messages }| self.add(source, *priority, *messages as u64));
    }
}

/// How often something was done, and how long it took.
#[derive(Debug, Default)]
pub(crate) struct Timed {
    count: AtomicU64,
    millis: AtomicU64,
    recent: Recent,
}

/// The same as plain numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimedNumbers {
    pub(crate) count: u64,
    /// Of all of them together.
    pub(crate) millis: u64,
    /// Milliseconds of those of late.
    pub(crate) recent: Quantiles,
}

impl Timed {
    pub(crate) fn note(&self, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Relaxed);
        self.millis.fetch_add(millis, Relaxed);
        self.recent.note(millis);
    }

    pub(crate) fn numbers(&self, now: Uptime) -> TimedNumbers {
        let (count, millis) = (self.count.load(Relaxed), self.millis.load(Relaxed));
        TimedNumbers { count, millis, recent: self.recent.quantiles(now) }
    }
}

/// Messages by priority.
pub(crate) type Lengths = [u64; PRIORITIES];

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(module: &str) -> Origin {
        Origin { device: None, module: Some(module.into()), output: Some("o".into()) }
    }

    #[test]
    fn outputs_that_a_module_makes_up_share_one_count_beyond_the_bound() {
        let sources = Sources::default();
        for n in 0..1000 {
            sources.of(&format!("/messages/modules/a/outputs/{n}").into(), &origin("a")).accepted(3);
        }
        sources.of(&"/messages/modules/b/outputs/1".into(), &origin("b")).accepted(5);
        let sizes = sources.sizes(Uptime(0)).into_iter().map(|(sender, _, sizes)| (sender.unwrap(), sizes.unwrap()));
        assert!(sizes.eq([("a".into(), [3; 4]), ("b".into(), [5; 4])]), "those of a module are together");
        let numbers = sources.numbers();
        assert_eq!(numbers.len(), MAX_OUTPUTS + 2, "the others of `a`, and one of `b`, which `a` has not crowded out");
        let others: Vec<_> = numbers.iter().filter(|(_, source, _)| **source == *OTHERS).collect();
        assert_eq!((others.len(), others[0].2.messages), (1, 1000 - MAX_OUTPUTS as u64));
        assert_eq!((sources.sent_by("a"), sources.sent_by("b")), (1000, 1), "all are counted");
        assert_eq!(numbers.iter().map(|(.., numbers)| numbers.bytes).sum::<u64>(), 3005);
    }

    #[test]
    fn an_endpoint_counts_sources_together_beyond_the_bound() {
        let mut tally = Handled::default();
        for n in 0..500 {
            tally.add(&format!("{n}").into(), 3, 1);
            tally.add(&"first".into(), 10, 2);
        }
        assert!(tally.iter().count() <= MAX_ENTRIES + PRIORITIES);
        assert_eq!(tally.totals(), [(3, 500), (10, 1000)].into());
        assert!(tally.iter().any(|(source, priority, number)| (&**source, priority, number) == ("first", 10, 1000)));
    }
}
