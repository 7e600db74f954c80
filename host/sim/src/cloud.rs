//! A made-up upstream: a cloud that keeps twins, and that cannot always be reached. What must hold of what it hears is checked at once.

use std::{collections::BTreeMap, time::Duration};

use marram_core::{
    name::ModuleName,
    ports::{BoxFuture, Outgoing, Reported, Upstream, UpstreamError, UpstreamEvent, UpstreamTwins},
    twin::{BETWEEN_REPORTS, CloudTwin},
};
use serde_json::{Map, Value, json};

use crate::{
    fate::Dice,
    time::{now, pass},
    world::World,
};

/// What becomes of a change that is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Once,
    Twice,
    /// It is lost on its way: the next one does not follow.
    Never,
}

/// What the cloud knows.
#[derive(Debug, Default)]
pub(crate) struct Cloud {
    seed: u64,
    /// It keeps desired properties; otherwise it only takes what it is given, as the journal does.
    pub(crate) keeps: bool,
    pub(crate) connected: bool,
    twins: BTreeMap<String, Kept>,
    /// Requests so far, by module.
    requests: BTreeMap<String, u64>,
    pub(crate) broken: Vec<String>,
}

/// A twin in the cloud.
#[derive(Debug)]
struct Kept {
    desired: Map<String, Value>,
    version: u64,
    /// The desired properties of each version.
    written: BTreeMap<u64, Map<String, Value>>,
    reported: Map<String, Value>,
    /// The local version that the last patch led to.
    reported_version: u64,
    /// When that came, in this life of the host.
    reported_at: Option<u64>,
}

impl Default for Kept {
    fn default() -> Self {
        let (desired, reported) = (Map::new(), Map::new());
        let written = BTreeMap::from([(1, Map::new())]);
        Self { desired, version: 1, written, reported, reported_version: 0, reported_at: None }
    }
}

impl Cloud {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// A host begins, which knows nothing of when it reported.
    pub(crate) fn begins(&mut self) {
        self.twins.values_mut().for_each(|kept| kept.reported_at = None);
    }

    /// What a module has reported last the host does not know to be here.
    fn is_not_known(&mut self, module: &str) {
        self.twins.entry(module.into()).or_default().reported_at = None;
    }

    /// Somebody changes a desired property of a module, not always the same, or removes it. Returns the event that tells it.
    pub(crate) fn changes(&mut self, module: &str, value: Option<u64>) -> UpstreamEvent {
        let kept = self.twins.entry(module.into()).or_default();
        kept.version += 1;
        let key = ["c", "d", "e"][usize::try_from(kept.version % 3).unwrap_or(0)];
        match value {
            Some(value) => drop(kept.desired.insert(key.into(), value.into())),
            None => drop(kept.desired.remove(key)),
        }
        kept.written.insert(kept.version, kept.desired.clone());
        let patch_json = json!({ key: value, "$version": kept.version }).to_string();
        let module = ModuleName::new(module).unwrap_or_else(|bad| panic!("{bad}"));
        UpstreamEvent::DesiredChanged { module, patch_json }
    }

    /// What it wants of a module.
    pub(crate) fn desired(&self, module: &str) -> Map<String, Value> {
        self.twins.get(module).map(|kept| kept.desired.clone()).unwrap_or_default()
    }

    /// What the device has by its own word of the cloud's.
    pub(crate) fn invariant_what_the_cloud_wrote_is_in_force(&mut self, module: &str, origin: &str, desired: &Value) {
        let version = origin.strip_prefix("cloud (version ").and_then(|rest| rest.strip_suffix(')')?.parse().ok());
        let Some(version) = version else { return };
        let written = self.twins.get(module).and_then(|kept| kept.written.get(&version));
        if written.is_none_or(|written| *desired != Value::from(written.clone())) {
            self.broken.push(format!("what the cloud wrote is in force: {module} at {} ms", now()));
        }
    }

    /// What it has heard of a module.
    pub(crate) fn reported(&self, module: &str) -> Map<String, Value> {
        self.twins.get(module).map(|kept| kept.reported.clone()).unwrap_or_default()
    }

    /// Something that is drawn for the next request about a module.
    fn dice(&mut self, module: &str) -> Dice {
        let requests = self.requests.entry(module.into()).or_default();
        *requests += 1;
        Dice::new(self.seed, &format!("request {requests} about {module}"))
    }

    fn takes(&mut self, reported: &Reported, stops: bool) {
        let kept = self.twins.entry(reported.module.to_string()).or_default();
        let in_order = reported.version >= kept.reported_version;
        let soon = kept.reported_at.is_some_and(|at| u128::from(now() - at) < BETWEEN_REPORTS.as_millis());
        (kept.reported_version, kept.reported_at) = (reported.version, Some(now()));
        for (key, value) in &reported.patch {
            merge(&mut kept.reported, key, value);
        }
        self.check(in_order, "versions of reported properties rise for upstream", reported);
        self.check(!soon || stops, "patches of a module are not handed over too often", reported);
    }

    fn check(&mut self, holds: bool, name: &str, reported: &Reported) {
        if !holds {
            self.broken.push(format!("{name}: {} at {} ms", reported.module, now()));
        }
    }
}

/// As RFC 7396 says, and as another hand has written it.
fn merge(object: &mut Map<String, Value>, key: &str, value: &Value) {
    match value {
        Value::Null => drop(object.remove(key)),
        Value::Object(changes) => {
            let mut inner = match object.remove(key) {
                Some(Value::Object(inner)) => inner,
                _ => Map::new(),
            };
            changes.iter().for_each(|(key, value)| merge(&mut inner, key, value));
            object.insert(key.into(), inner.into());
        }
        other => drop(object.insert(key.into(), other.clone())),
    }
}

/// Takes all.
impl Upstream for World {
    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<usize, UpstreamError>> {
        Box::pin(async { Ok(batch.len()) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), UpstreamError>> {
        Box::pin(async { Ok(()) })
    }
}

impl UpstreamTwins for World {
    fn report<'a>(&'a self, reported: &'a Reported) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(async move {
            let mut dice = self.lock().cloud.dice(reported.module.as_str());
            pass(Duration::from_millis(dice.below(400))).await;
            let mut inner = self.lock();
            if inner.dead {
                return Err(UpstreamError("the host is dead".into()));
            }
            if !inner.cloud.connected && inner.cloud.keeps {
                inner.seen.note("a report while upstream is away");
                return Err(UpstreamError("upstream is away".into()));
            }
            let (draw, stops) = (dice.below(8), inner.watch.ending);
            if draw == 0 && inner.fates.are_by_chance() {
                inner.seen.note("a report that upstream does not take");
                return Err(UpstreamError("try again".into()));
            }
            inner.cloud.takes(reported, stops);
            let lost = inner.fates.are_by_chance() && !inner.calm && draw == 1;
            if lost {
                // It may come again at once.
                inner.cloud.is_not_known(reported.module.as_str());
                inner.seen.note("a report whose receipt is lost");
                return Err(UpstreamError("no receipt".into()));
            }
            inner.seen.note("a report that upstream takes");
            Ok(())
        })
    }

    fn twin<'a>(&'a self, module: &'a ModuleName) -> BoxFuture<'a, Result<Option<CloudTwin>, UpstreamError>> {
        Box::pin(async move {
            let mut dice = self.lock().cloud.dice(module.as_str());
            pass(Duration::from_millis(dice.below(400))).await;
            let mut inner = self.lock();
            if !inner.cloud.keeps {
                return Ok(None);
            }
            if !inner.cloud.connected {
                inner.seen.note("a question while upstream is away");
                return Err(UpstreamError("upstream is away".into()));
            }
            inner.seen.note("a whole twin from upstream");
            let kept = inner.cloud.twins.entry(module.to_string()).or_default();
            let (desired, reported) = (kept.desired.clone(), kept.reported.clone());
            Ok(Some(CloudTwin { desired, desired_version: kept.version, faults: vec![], reported }))
        })
    }
}
