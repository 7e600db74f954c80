//! The real thing: agent, router, queues and engine as the binary has them; only the far ends are made up.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use marram_agent::{Agent, Config};
use marram_core::{
    message::Message,
    name::ModuleName,
    ports::{
        Artifact, BoxFuture, DocumentError, Documents, FetchError, FetchRequest, Images, Lease, Outgoing, Reported,
        State, States, StoredDocument, Upstream, UpstreamError, UpstreamTwins,
    },
    state::StateError,
    twin::CloudTwin,
};
use marram_engine::{CompileLimits, HelperCommand, Profile, Settings, WasmEngine};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::report::thread_cpu;

/// `/messages` → forwarders → sink.
pub(crate) struct Hop {
    agent: Arc<Agent>,
    /// Where messages are published, one for each forwarder.
    sources: Vec<String>,
    delivered: u64,
    _cache: tempfile::TempDir,
}

impl Hop {
    /// One forwarder, everything in memory.
    pub(crate) async fn new() -> Self {
        Self::with("memory", 1).await
    }

    /// So many forwarders, which send at the same time; `durability` is that of the hop from them to the sink.
    pub(crate) async fn with(durability: &str, forwarders: usize) -> Self {
        let module = |guest| serde_json::json!({ "type": "wasm", "status": "running", "settings": { "image": guest } });
        let route = |route: String, durability: &str| serde_json::json!({ "route": route, "marram": { "durability": durability } });
        let (mut modules, mut routes) = (serde_json::Map::new(), serde_json::Map::new());
        for n in 0..forwarders {
            modules.insert(format!("forwarder{n}"), module("forwarder"));
            let into = format!("FROM /messages/bench{n} INTO BrokeredEndpoint('/modules/forwarder{n}/inputs/in')");
            routes.insert(format!("in{n}"), route(into, "memory"));
            let hop = format!("FROM /messages/modules/forwarder{n}/* INTO BrokeredEndpoint('/modules/sink/inputs/in')");
            routes.insert(format!("hop{n}"), route(hop, durability));
        }
        modules.insert("sink".into(), module("sink"));
        let manifest = serde_json::json!({ "modulesContent": {
            "$edgeAgent": { "properties.desired": { "schemaVersion": "1.1", "runtime": { "type": "docker", "settings": {} },
                "modules": modules } },
            "$edgeHub": { "properties.desired": { "schemaVersion": "1.1", "routes": routes,
                "storeAndForwardConfiguration": { "timeToLiveSecs": -1 } } }
        }});
        Self::start(&manifest, forwarders, Arc::new(Nowhere)).await
    }

    /// `/messages/bench0` → forwarder → upstream, and when each message arrives there.
    pub(crate) async fn to_upstream() -> (Self, mpsc::UnboundedReceiver<Instant>) {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let route = |route: &str| serde_json::json!({ "route": route, "marram": { "durability": "memory" } });
        let module = serde_json::json!({ "type": "wasm", "status": "running", "settings": { "image": "forwarder" } });
        let manifest = serde_json::json!({ "modulesContent": {
            "$edgeAgent": { "properties.desired": { "schemaVersion": "1.1", "runtime": { "type": "docker", "settings": {} },
                "modules": { "forwarder": module } } },
            "$edgeHub": { "properties.desired": { "schemaVersion": "1.1", "routes": {
                "in": route("FROM /messages/bench0 INTO BrokeredEndpoint('/modules/forwarder/inputs/in')"),
                "up": route("FROM /messages/modules/* INTO $upstream")
            }, "storeAndForwardConfiguration": { "timeToLiveSecs": -1 } } }
        }});
        (Self::start(&manifest, 1, Arc::new(Arrivals(arrived))).await, arrivals)
    }

    pub(crate) async fn publish(&self, message: &Arc<Message>) {
        self.agent.publish(&self.sources[0], message).await.expect("room");
    }

    async fn start(manifest: &serde_json::Value, forwarders: usize, upstream: Arc<dyn Upstream>) -> Self {
        let cache = tempfile::tempdir().expect("a folder");
        let settings = Settings {
            profile: Profile::Wide,
            cache: cache.path().join("compiled"),
            precompiled: Vec::new(),
            private: Vec::new(),
            helper: HelperCommand::InProcess,
            limits: CompileLimits::default(),
            dumps: None,
        };
        let options = marram_store::log::Options::default();
        let opened = marram_store::log::Log::open(cache.path().join("messages"), options, &marram_agent::clocks());
        let (log, recovery) = opened.expect("a log");
        let config = Config {
            device_id: "bench".into(),
            engine: Arc::new(WasmEngine::new(settings).expect("an engine")),
            images: Arc::new(Guests),
            upstream,
            upstream_twins: Arc::new(Nowhere),
            documents: Arc::new(Nowhere),
            log: Box::new(log),
            damage: recovery.damage,
            clocks: marram_agent::clocks,
            sync_after: None,
            states: Arc::new(Nowhere),
            check_image: |_| Ok(()),
            max_memory: None,
            core_dumps: None,
            trap_bodies: false,
            caches: None,
            initial: None,
        };
        let agent = Agent::start(config).await.expect("an agent");
        agent.apply(&manifest.to_string()).await.expect("a deployment");
        loop {
            let modules = agent.status().await.expect("a status").modules;
            if modules.iter().all(|module| module.status == "running") {
                break;
            }
            let failed = modules.iter().find(|module| ["backoff", "failed"].contains(&module.status.as_str()));
            assert!(failed.is_none(), "{failed:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let sources = (0..forwarders).map(|n| format!("/messages/bench{n}")).collect();
        Self { agent, sources, delivered: 0, _cache: cache }
    }

    /// CPU nanoseconds of this thread a message, from the first call of the forwarder to the last one of the sink. The forwarder's
    /// queue is filled before, while neither module can run: this thread is the only one that runs guests.
    pub(crate) async fn round(&mut self, message: &Arc<Message>, count: usize) -> f64 {
        self.round_by(message, count, thread_cpu).await
    }

    /// The same by another clock.
    pub(crate) async fn round_by(&mut self, message: &Arc<Message>, count: usize, clock: fn() -> u64) -> f64 {
        for source in self.sources.iter().cycle().take(count) {
            self.agent.publish(source, message).await.expect("room");
        }
        let target = self.delivered + count as u64;
        let started = clock();
        while self.handled() < target {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.delivered = target;
        (clock() - started) as f64 / count as f64
    }

    fn handled(&self) -> u64 {
        self.agent.delivered("sink", "in")
    }

    pub(crate) async fn end(self) {
        self.agent.shut_down(Duration::from_secs(5)).await;
    }
}

/// Images are names of guests.
struct Guests;

impl Images for Guests {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Artifact, FetchError>> {
        let path: PathBuf = crate::report::guest(&request.image);
        let bytes = std::fs::read(&path).expect("a guest");
        let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
        let artifact = Artifact {
            manifest_digest: digest.clone(),
            component_digest: digest,
            path,
            stale: false,
            lease: Lease::default(),
        };
        Box::pin(async move { Ok(artifact) })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Tells when messages arrive.
struct Arrivals(mpsc::UnboundedSender<Instant>);

impl Upstream for Arrivals {
    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<usize, UpstreamError>> {
        let now = Instant::now();
        for _ in batch {
            let _ = self.0.send(now);
        }
        Box::pin(async { Ok(batch.len()) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), UpstreamError>> {
        Box::pin(async { Ok(()) })
    }
}

struct Nowhere;

impl Upstream for Nowhere {
    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<usize, UpstreamError>> {
        Box::pin(async { Ok(batch.len()) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), UpstreamError>> {
        Box::pin(async { Ok(()) })
    }
}

impl States for Nowhere {
    fn open(&self, _: &ModuleName) -> Result<Box<dyn State>, StateError> {
        Err(StateError::Store("these guests keep nothing".into()))
    }

    fn remove(&self, _: &ModuleName) -> Result<(), StateError> {
        Ok(())
    }
}

impl Documents for Nowhere {
    fn read(&self, _: &str) -> Result<Option<StoredDocument>, DocumentError> {
        Ok(None)
    }

    fn write(&self, _: &str, _: &[u8]) -> Result<(), DocumentError> {
        Ok(())
    }

    fn names(&self, _: &str) -> Result<Vec<String>, DocumentError> {
        Ok(Vec::new())
    }

    fn remove(&self, _: &str) -> Result<(), DocumentError> {
        Ok(())
    }
}

impl UpstreamTwins for Nowhere {
    fn report<'a>(&'a self, _: &'a Reported) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(async { Ok(()) })
    }

    fn twin<'a>(&'a self, _: &'a ModuleName) -> BoxFuture<'a, Result<Option<CloudTwin>, UpstreamError>> {
        Box::pin(async { Ok(None) })
    }
}
