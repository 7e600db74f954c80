//! Finds the receivers of a message and puts it into their queues ([`accept`]), also for senders that wait ([`patience`]).
//!
//! Which routes match, and which conditions are true, is `core::route`'s; this keeps the tables and the locks.

mod accept;
mod patience;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
};

use marram_core::{
    deployment::{DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY, Deployment, Durability},
    message::Accepted,
    quantiles::Quantiles,
    route::{Candidates, Origin, Sink, Table},
    time::Uptime,
};

#[cfg(test)]
pub(crate) use self::accept::BODIES_READ;
pub(crate) use self::{
    accept::{Chosen, Refusal, Taken},
    patience::{Attempt, patiently},
};
use crate::{
    clock::Clock,
    counts::{GivenUp, Sender, SourceCounts, Sources},
    doorbell::Doorbell,
    endpoint::Endpoint,
    storage::Storage,
};

/// The routes in force and the queues behind them.
#[derive(Debug)]
pub(crate) struct Router {
    clock: Clock,
    storage: Arc<Storage>,
    table: RwLock<Arc<InForce>>,
    /// Rises with each change of the routes, so that senders know that what they resolved is stale.
    generation: AtomicU64,
    /// By module name; a module's queues ring its bell, whether it runs or not. Key "" is upstream.
    doorbells: Mutex<BTreeMap<Box<str>, Arc<Doorbell>>>,
    sources: Sources,
    past: Mutex<Past>,
    removed: Arc<AtomicU64>,
    /// Why upstream does not take messages.
    upstream_error: Mutex<Option<String>>,
    upstream_retries: AtomicU64,
    /// Of all sources that are not modules here: increasing for all of them together is increasing for each.
    foreign_sequence: Arc<AtomicU64>,
    /// What was resolved for such sources; of the routes in force alone.
    foreign: Mutex<BTreeMap<Box<str>, Arc<Resolved>>>,
}

/// Sources that are not modules here whose routes are kept found. Beyond, all are found anew: rare, and it bounds the memory.
const MAX_FOREIGN: usize = 256;

#[derive(Debug, Default)]
struct InForce {
    deployment: Arc<Deployment>,
    /// Of the deployment's routes.
    routes: Table,
    endpoints: BTreeMap<Sink, Arc<Endpoint>>,
    /// Queues to which only the way back of a deployment on trial has routes. Nothing gets in or out.
    held: BTreeMap<Sink, Arc<Endpoint>>,
}

/// What is counted of queues that are gone.
#[derive(Debug, Default)]
struct Past {
    /// What is out of them may come back still.
    endpoints: Vec<Arc<Endpoint>>,
    given_up: GivenUp,
}

impl Past {
    /// Keeps the numbers alone of those that nobody else knows any more.
    fn fold(&mut self) {
        for endpoint in self.endpoints.extract_if(.., |endpoint| Arc::strong_count(endpoint) == 1) {
            self.given_up.add_all(&endpoint.stats().given_up);
        }
    }
}

/// What may receive the messages of one source, found once and used until the routes change. Conditions choose for each
/// message.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    generation: u64,
    source: Arc<str>,
    origin: Arc<Origin>,
    pub(crate) counts: Arc<SourceCounts>,
    candidates: Arc<Candidates>,
    /// The endpoint of a sink and the sink's place among the candidates; in the order of the sinks, which is the order of
    /// locking.
    endpoints: Arc<[(Arc<Endpoint>, usize)]>,
    /// One of them has its messages in the log.
    is_durable: bool,
}

/// How a message that was a dead letter is delivered again.
#[derive(Debug)]
pub(crate) struct Revival {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) priority: u8,
    pub(crate) deadline: Option<Uptime>,
    pub(crate) max_attempts: Option<u32>,
}

impl Router {
    /// A router without routes: everything is dropped and counted. Sequences of sources that are not modules begin after
    /// `first_sequence`.
    #[must_use]
    pub(crate) fn new(clock: Clock, first_sequence: u64, storage: Arc<Storage>, removed: Arc<AtomicU64>) -> Self {
        Self {
            clock,
            storage,
            table: RwLock::default(),
            generation: AtomicU64::new(0),
            doorbells: Mutex::default(),
            sources: Sources::default(),
            past: Mutex::default(),
            removed,
            upstream_error: Mutex::default(),
            upstream_retries: AtomicU64::default(),
            foreign_sequence: Arc::new(AtomicU64::new(first_sequence)),
            foreign: Mutex::default(),
        }
    }

    /// Puts the routes of a deployment in force. Queues of sinks that are still in use stay as they are, and new ones begin with what
    /// the log has for them; what waits for one that is not in use is given up, counted and logged.
    pub(crate) async fn apply(&self, deployment: Arc<Deployment>) {
        self.apply_on_trial(deployment, None).await;
    }

    /// The same; but what waits for a sink of this way back stays, until [`Router::let_go`].
    pub(crate) async fn apply_on_trial(&self, deployment: Arc<Deployment>, way_back: Option<&Deployment>) {
        let old = self.table();
        let endpoints = self.endpoints_of(&deployment, &old, &BTreeMap::new()).await;
        let held = match way_back {
            Some(way_back) => self.endpoints_of(way_back, &old, &endpoints).await,
            None => BTreeMap::new(),
        };
        let names: BTreeSet<_> = endpoints.values().chain(held.values()).map(|endpoint| endpoint.name()).collect();
        let stays = |sink: &Sink| endpoints.contains_key(sink) || held.contains_key(sink);
        let gone: Vec<_> = old.endpoints.iter().chain(&old.held).filter(|(sink, _)| !stays(sink)).collect();
        let routes = Table::new(&deployment);
        let table = Arc::new(InForce { deployment, routes, endpoints, held });
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        self.generation.fetch_add(1, SeqCst);
        self.foreign().clear();
        for (_, endpoint) in gone {
            endpoint.close(self.clock.uptime());
            self.past().endpoints.push(endpoint.clone());
        }
        self.past().fold();
        // After that: what was handed over for them before is buried with the rest.
        self.storage.keep(names);
        // Who waits for room may have other receivers now.
        for endpoint in self.endpoints() {
            endpoint.wake_senders();
        }
        for bell in self.doorbells.lock().unwrap_or_else(PoisonError::into_inner).values() {
            bell.ring();
        }
    }

    /// The deployment in force is good: nobody goes back to what only the one before had routes to.
    pub(crate) async fn let_go(&self) {
        let table = self.table();
        if !table.held.is_empty() {
            self.apply(table.deployment.clone()).await;
        }
    }

    /// The queues to which a deployment has routes, but for those in `others`.
    async fn endpoints_of(
        &self,
        deployment: &Deployment,
        old: &InForce,
        others: &BTreeMap<Sink, Arc<Endpoint>>,
    ) -> BTreeMap<Sink, Arc<Endpoint>> {
        let mut endpoints = BTreeMap::new();
        let sinks: BTreeSet<&Sink> = deployment.routes.iter().map(|spec| &spec.route.sink).collect();
        let inputs = sinks.iter().filter(|sink| ***sink != Sink::Upstream).count();
        for sink in sinks.into_iter().filter(|sink| !others.contains_key(*sink)) {
            let known = old.endpoints.get(sink).or_else(|| old.held.get(sink)).cloned();
            let endpoint = known.clone().unwrap_or_else(|| self.new_endpoint(sink.clone()));
            let routes = deployment.routes.iter().filter(|spec| spec.route.sink == *sink).map(|spec| &spec.options);
            // All say the same of the queue.
            let options = routes.clone().next().map(|options| options.queue).unwrap_or_default();
            let strictest = routes.map(|options| options.durability).max().unwrap_or(Durability::Memory);
            endpoint.configure(options, strictest, inputs);
            if known.is_none() {
                // What has expired in the log meanwhile is given up at once, as the options say.
                self.storage.open(endpoint.clone()).await;
            }
            endpoints.insert(sink.clone(), endpoint);
        }
        endpoints
    }

    fn new_endpoint(&self, sink: Sink) -> Arc<Endpoint> {
        let bell = match &sink {
            Sink::Upstream => self.doorbell(""),
            Sink::Input { module, .. } => self.doorbell(module),
        };
        Arc::new(Endpoint::new(sink, bell, self.removed.clone(), self.storage.clone()))
    }

    /// The message log.
    pub(crate) fn storage(&self) -> &Arc<Storage> {
        &self.storage
    }

    /// The bell of a module's queues; `""` is upstream's.
    pub(crate) fn doorbell(&self, module: &str) -> Arc<Doorbell> {
        let mut bells = self.doorbells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.entry(module.into()).or_default().clone()
    }

    fn table(&self) -> Arc<InForce> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// The queues that feed a module, by input name.
    #[must_use]
    pub(crate) fn inputs_of(&self, module: &str) -> Vec<Arc<Endpoint>> {
        let table = self.table();
        let first = Sink::Input { module: module.into(), input: "".into() };
        let of_module = |sink: &Sink| matches!(sink, Sink::Input { module: m, .. } if **m == *module);
        let inputs = table.endpoints.range(first..).take_while(|(sink, _)| of_module(sink));
        inputs.map(|(_, endpoint)| endpoint.clone()).collect()
    }

    /// Upstream's queue, if a route leads there.
    #[must_use]
    pub(crate) fn upstream(&self) -> Option<Arc<Endpoint>> {
        self.table().endpoints.get(&Sink::Upstream).cloned()
    }

    /// All queues.
    #[must_use]
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.table().endpoints.values().cloned().collect()
    }

    /// What was accepted and refused, by source.
    #[must_use]
    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Sizes of what was accepted of late, by sender.
    pub(crate) fn sizes(&self) -> Vec<(Sender, Arc<str>, Quantiles)> {
        self.sources.sizes(self.clock.uptime())
    }

    /// Messages that were given up, since the host started; also by queues that are gone.
    pub(crate) fn given_up(&self) -> GivenUp {
        let mut past = self.past();
        past.fold();
        let mut all = past.given_up.clone();
        let table = self.table();
        let present = table.endpoints.values().chain(table.held.values());
        past.endpoints.iter().chain(present).for_each(|endpoint| all.add_all(&endpoint.stats().given_up));
        all
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The priorities of the routes into a sink.
    pub(crate) fn priorities(&self, sink: &Sink) -> BTreeSet<u8> {
        let table = self.table();
        let routes = table.deployment.routes.iter().filter(|spec| spec.route.sink == *sink);
        routes.map(|spec| spec.priority).collect()
    }

    /// Messages that were given up because no route led to their queue any more, since the host started.
    #[must_use]
    pub(crate) fn endpoint_removed(&self) -> u64 {
        self.removed.load(Relaxed)
    }

    /// Why upstream does not take messages; none while it does.
    #[must_use]
    pub(crate) fn upstream_error(&self) -> Option<String> {
        self.upstream_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often upstream was not handed messages and is tried again, since the host started.
    pub(crate) fn upstream_retries(&self) -> u64 {
        self.upstream_retries.load(Relaxed)
    }

    /// Notes how the last try to hand messages over went; once a batch. What failed is tried again.
    pub(crate) fn note_upstream(&self, error: Option<String>) {
        if error.is_some() {
            self.upstream_retries.fetch_add(1, Relaxed);
        }
        *self.upstream_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Whether some route takes messages of this source, whatever its condition says of them.
    pub(crate) fn takes(&self, source: &str) -> bool {
        let table = self.table();
        !table.routes.candidates(&table.deployment, source).sinks.is_empty()
    }

    /// Finds what may receive the messages of a source, whose sender this is.
    pub(crate) fn resolve(&self, source: &str, origin: Origin) -> Resolved {
        // Read first: a change between the two makes the result stale, never wrong.
        let generation = self.generation();
        let table = self.table();
        let candidates = table.routes.candidates(&table.deployment, source);
        let sinks = candidates.sinks.iter().enumerate();
        let endpoints: Arc<[_]> =
            sinks.filter_map(|(place, sink)| Some((table.endpoints.get(&sink.sink)?.clone(), place))).collect();
        let is_durable = endpoints.iter().any(|(endpoint, _)| endpoint.is_durable());
        let source = source.into();
        let counts = self.sources.of(&source, &origin);
        let (origin, candidates) = (Arc::new(origin), Arc::new(candidates));
        Resolved { generation, source, origin, counts, candidates, endpoints, is_durable }
    }

    /// The same for a source that is not a module here, found once as long as the routes do not change.
    pub(crate) fn resolve_foreign(&self, source: &str) -> Arc<Resolved> {
        let found = self.foreign().get(source).cloned();
        if let Some(resolved) = found.filter(|resolved| self.is_current(resolved)) {
            return resolved;
        }
        let resolved = Arc::new(self.resolve(source, Origin::default()));
        let mut foreign = self.foreign();
        // Under the lock that a change clears it under, after it: what is stale keeps no queue alive.
        if self.is_current(&resolved) {
            if foreign.len() >= MAX_FOREIGN {
                foreign.clear();
            }
            foreign.insert(source.into(), resolved.clone());
        }
        resolved
    }

    fn foreign(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Arc<Resolved>>> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_current(&self, resolved: &Resolved) -> bool {
        resolved.generation == self.generation()
    }

    /// How a message is delivered again whose receiver has this name in the log: as the route says that leads it there now, else as by a
    /// route that says nothing. None: no route leads to that receiver.
    pub(crate) fn revival(&self, accepted: &Accepted, origin: &Origin, name: &str) -> Option<Revival> {
        let table = self.table();
        let (sink, endpoint) = table.endpoints.iter().find(|(_, endpoint)| *endpoint.name() == *name)?;
        let candidates = table.routes.candidates(&table.deployment, &accepted.source);
        let facts = candidates.facts(&accepted.message, origin);
        let candidate = candidates.sinks.iter().find(|candidate| candidate.sink == *sink);
        let target = candidate.and_then(|candidate| candidate.choose(&facts)).map(|choice| &choice.target);
        let attempts = (*sink != Sink::Upstream).then_some(DEFAULT_MAX_ATTEMPTS);
        let time_to_live = target.map_or(table.deployment.time_to_live, |target| target.time_to_live);
        Some(Revival {
            endpoint: endpoint.clone(),
            priority: target.map_or(DEFAULT_PRIORITY, |target| target.priority),
            deadline: time_to_live.map(|ttl| self.clock.uptime().after(ttl)),
            max_attempts: target.map_or(attempts, |target| target.max_attempts),
        })
    }
}
