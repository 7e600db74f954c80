//! The made-up worlds.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use marram_core::{
    deployment::ModuleSpec,
    elapsed::Clocks,
    message::Message,
    name::ModuleName,
    ports::{
        Artifact, BoxFuture, Component, Delivery, DocumentError, Documents, Engine, Exit, Exports, FetchError,
        FetchRequest, Images, Inbox, Instance, Lease, LoadError, ModuleHost, Outgoing, Reported, Settlement, State,
        States, StoredDocument, TwinAnswer, Upstream, UpstreamError, UpstreamTwins,
    },
    state::StateError,
    twin::CloudTwin,
};
use marram_store::log;
use tokio::sync::{Semaphore, watch};

use super::hooked::{Gate, Hook, Hooked};
use crate::{Agent, Caches, Config, Time};

/// Longest wait for something that must happen.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// What a made-up guest does with a message: settles it, or ends its instance.
pub(super) type Handler =
    dyn Fn(&dyn ModuleHost, &Delivery) -> BoxFuture<'static, Result<Settlement, Exit>> + Send + Sync;

pub(super) type Program = dyn Fn(Arc<dyn ModuleHost>) -> BoxFuture<'static, Exit> + Send + Sync;

/// What `start-handler` and `timer-handler` do.
pub(super) type Start = dyn Fn(&dyn ModuleHost) -> Result<Result<(), String>, Exit> + Send + Sync;
pub(super) type Fire = dyn Fn(&dyn ModuleHost, &str, u64) -> Result<(), Exit> + Send + Sync;

/// What `method-handler` does: its status and payload.
pub(super) type Method =
    dyn Fn(Arc<dyn ModuleHost>, String, String) -> BoxFuture<'static, Result<(i32, String), Exit>> + Send + Sync;

/// Guests by image.
#[derive(Clone, Default)]
pub(super) struct World {
    guests: Arc<Mutex<BTreeMap<String, Guest>>>,
    pub(super) fetches: Arc<Mutex<Vec<(String, bool)>>>,
    /// Images that are fetched at once, if that is bounded.
    pub(super) places: Option<Arc<Semaphore>>,
    pub(super) log: Log,
    pub(super) upstream: Arc<MemoryUpstream>,
    pub(super) cloud: Arc<MemoryCloud>,
    pub(super) disk: Arc<MemoryDisk>,
    pub(super) caches: Option<Caches>,
    /// None: there is no state in this world.
    pub(super) states: Option<Arc<dyn States>>,
    /// The folder of the message log, which is the real one.
    pub(super) messages: Messages,
    pub(super) clocks: Option<fn() -> Clocks>,
    /// Of the agent; none: the device's.
    pub(super) time: Option<Time>,
    /// Called before calls of the log.
    pub(super) hook: Option<Hook>,
    /// With a hook: senders may write themselves.
    pub(super) at_hand: bool,
    pub(super) sync_after: SyncAfter,
}

/// How long the owner lets what was written be unsynced; none: for ever.
#[derive(Clone)]
pub(super) struct SyncAfter(pub(super) Option<Duration>);

impl Default for SyncAfter {
    fn default() -> Self {
        Self(Some(Duration::from_secs(5)))
    }
}

/// A folder that goes with the last of its users.
#[derive(Clone)]
pub(super) struct Messages(Arc<tempfile::TempDir>);

impl Default for Messages {
    fn default() -> Self {
        Self(Arc::new(tempfile::tempdir().unwrap()))
    }
}

impl Messages {
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A log of 16 MiB.
pub(super) fn open_log(path: &Path) -> (log::Log, log::Recovery) {
    open_log_at(path, crate::clocks)
}

fn open_log_at(path: &Path, clocks: fn() -> Clocks) -> (log::Log, log::Recovery) {
    log::Log::open(path, log::Options::within(16 << 20), &clocks()).unwrap()
}

/// What a made-up component is.
#[derive(Clone)]
pub(super) struct Guest {
    pub(super) exports: Exports,
    pub(super) handler: Arc<Handler>,
    /// What `wasi:cli/run` does, and whether it imports `inbox`.
    pub(super) program: Arc<Program>,
    pub(super) inbox: bool,
    pub(super) start: Arc<Start>,
    /// Its start, its fetch and its compilation take until there is a permit in these.
    pub(super) starts: Option<Arc<Semaphore>>,
    pub(super) fetched: Option<Arc<Semaphore>>,
    pub(super) loaded: Option<Arc<Semaphore>>,
    pub(super) fire: Arc<Fire>,
    pub(super) durable_timers: bool,
    pub(super) method: Arc<Method>,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            exports: Exports { input: true, ..Exports::default() },
            handler: Arc::new(|_, _| Box::pin(async { Ok(Settlement::Done) })),
            program: Arc::new(|_| Box::pin(std::future::pending())),
            inbox: false,
            start: Arc::new(|_| Ok(Ok(()))),
            starts: None,
            fetched: None,
            loaded: None,
            fire: Arc::new(|_, _, _| Ok(())),
            durable_timers: false,
            method: Arc::new(|_, _, payload| Box::pin(async { Ok((200, payload)) })),
        }
    }
}

/// A list that tests wait on.
#[derive(Clone)]
pub(super) struct Log(watch::Sender<Vec<String>>);

impl Default for Log {
    fn default() -> Self {
        Self(watch::channel(Vec::new()).0)
    }
}

impl Log {
    pub(super) fn push(&self, line: impl Into<String>) {
        self.0.send_modify(|lines| lines.push(line.into()));
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// Waits until the list satisfies `condition`; fails after [`DEADLINE`].
    pub(super) async fn until(&self, what: &str, condition: impl Fn(&[String]) -> bool) -> Vec<String> {
        let mut receiver = self.0.subscribe();
        let found = tokio::time::timeout(DEADLINE, receiver.wait_for(|lines| condition(lines))).await;
        match found {
            Ok(lines) => lines.unwrap().clone(),
            Err(_) => panic!("not seen in time: {what}; the log is {:?}", self.lines()),
        }
    }
}

impl World {
    /// A world with a hook before the calls of its message log.
    pub(super) fn hooked(hook: Hook) -> Self {
        Self { hook: Some(hook), ..Self::default() }
    }

    pub(super) fn guest(&self, image: &str, guest: Guest) {
        self.guests.lock().unwrap().insert(image.into(), guest);
    }

    /// A guest that handles with this closure.
    pub(super) fn handler(
        &self,
        image: &str,
        handler: impl Fn(&dyn ModuleHost, &Delivery) -> Result<Settlement, Exit> + Send + Sync + 'static,
    ) {
        let handler: Arc<Handler> = Arc::new(move |host, delivery| {
            let result = handler(host, delivery);
            Box::pin(async move { result })
        });
        self.guest(image, Guest { handler, ..Guest::default() });
    }

    /// The world as a kill of the host at this moment leaves it: what was written is there, what runs is not. (The agent of this one
    /// goes on, in a world of its own.)
    pub(super) fn after_kill(&self) -> Self {
        let messages = Messages::default();
        for file in std::fs::read_dir(self.messages.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), messages.path().join(file.file_name())).unwrap();
        }
        let disk = MemoryDisk::default();
        disk.documents.lock().unwrap().clone_from(&self.disk.documents.lock().unwrap());
        let guests = self.guests.lock().unwrap().clone();
        Self { guests: Arc::new(Mutex::new(guests)), disk: Arc::new(disk), messages, ..Self::default() }
    }

    pub(super) async fn agent(&self) -> Arc<Agent> {
        self.agent_with(None).await
    }

    pub(super) async fn agent_with(&self, initial: Option<String>) -> Arc<Agent> {
        let world = Arc::new(self.clone());
        let (log, recovery) = open_log_at(self.messages.path(), self.clocks.unwrap_or(crate::clocks));
        let config = Config {
            device_id: "device".into(),
            engine: world.clone(),
            images: world,
            upstream: self.upstream.clone(),
            upstream_twins: self.cloud.clone(),
            documents: self.disk.clone(),
            log: match &self.hook {
                Some(hook) => Box::new(Hooked { log, hook: hook.clone(), at_hand: self.at_hand }),
                None => Box::new(log),
            },
            damage: recovery.damage,
            clocks: self.clocks.unwrap_or(crate::clocks),
            sync_after: self.sync_after.0,
            states: self.states.clone().unwrap_or_else(|| self.disk.clone()),
            check_image: |_| Ok(()),
            max_memory: None,
            core_dumps: None,
            trap_bodies: false,
            caches: self.caches.clone(),
            initial,
        };
        match self.time {
            Some(time) => Agent::start_simulated(config, time).await.unwrap(),
            None => Agent::start(config).await.unwrap(),
        }
    }
}

impl Images for World {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Artifact, FetchError>> {
        self.fetches.lock().unwrap().push((request.image.clone(), request.prefer_cached));
        let guest = self.guests.lock().unwrap().get(&request.image).cloned();
        let places = self.places.clone();
        Box::pin(async move {
            let _place = match places {
                Some(places) => Some(places.acquire_owned().await.unwrap()),
                None => None,
            };
            if let Some(fetched) = guest.as_ref().and_then(|guest| guest.fetched.clone()) {
                fetched.acquire_owned().await.unwrap().forget();
            }
            if let Some(room) = request.room {
                room.make(10).await;
            }
            if guest.is_none() {
                // The registry of some is away.
                let transient = request.image.starts_with("away");
                return Err(FetchError { message: format!("no image {}", request.image), transient });
            }
            Ok(Artifact {
                manifest_digest: format!("sha256:{}", request.image),
                component_digest: request.image.clone(),
                path: "/".into(),
                stale: false,
                lease: Lease::default(),
            })
        })
    }
}

impl Engine for World {
    fn load(&self, artifact: &Artifact, _image: &str) -> BoxFuture<'_, Result<Arc<dyn Component>, LoadError>> {
        let guest = self.guests.lock().unwrap()[&artifact.component_digest].clone();
        let loaded = guest.loaded.clone();
        let component: Arc<dyn Component> = Arc::new(MadeUp { guest, log: self.log.clone() });
        Box::pin(async move {
            if let Some(loaded) = loaded {
                loaded.acquire().await.unwrap().forget();
            }
            Ok(component)
        })
    }
}

struct MadeUp {
    guest: Guest,
    log: Log,
}

impl Component for MadeUp {
    fn exports(&self) -> Exports {
        self.guest.exports
    }

    fn imports_inbox(&self) -> bool {
        self.guest.inbox
    }

    fn imports_durable_timers(&self) -> bool {
        self.guest.durable_timers
    }

    fn instantiate(
        &self,
        spec: &ModuleSpec,
        host: Arc<dyn ModuleHost>,
    ) -> BoxFuture<'_, Result<Box<dyn Instance>, Exit>> {
        self.log.push(format!("start {}", spec.name));
        let instance = MadeUpInstance { guest: self.guest.clone(), host, log: self.log.clone() };
        Box::pin(async move { Ok(Box::new(instance) as Box<dyn Instance>) })
    }
}

struct MadeUpInstance {
    guest: Guest,
    host: Arc<dyn ModuleHost>,
    log: Log,
}

impl Instance for MadeUpInstance {
    fn run(&mut self) -> BoxFuture<'_, Exit> {
        (self.guest.program)(self.host.clone())
    }

    fn start(&mut self) -> BoxFuture<'_, Result<Result<(), String>, Exit>> {
        let result = (self.guest.start)(&*self.host);
        let starts = self.guest.starts.clone();
        Box::pin(async move {
            if let Some(starts) = starts {
                starts.acquire_owned().await.unwrap().forget();
            }
            result
        })
    }

    fn handle_batch<'a>(&'a mut self, inbox: &'a mut dyn Inbox) -> BoxFuture<'a, Result<(), Exit>> {
        Box::pin(async move {
            while let Some(delivery) = inbox.next() {
                let settlement = (self.guest.handler)(&*self.host, &delivery).await?;
                inbox.settle(settlement);
            }
            Ok(())
        })
    }

    fn fire(&mut self, name: &str, missed: u64) -> BoxFuture<'_, Result<(), Exit>> {
        let result = (self.guest.fire)(&*self.host, name, missed);
        Box::pin(async move { result })
    }

    fn desired_changed(&mut self, patch_json: &str, version: u64) -> BoxFuture<'_, Result<TwinAnswer, Exit>> {
        self.log.push(format!("desired {version} {patch_json}"));
        Box::pin(async move { Ok(Ok(Some(marram_core::ports::TwinAck { code: 200, description: "ok".into() }))) })
    }

    fn invoke(&mut self, name: &str, payload: &str) -> BoxFuture<'_, Result<(i32, String), Exit>> {
        (self.guest.method)(self.host.clone(), name.to_owned(), payload.to_owned())
    }

    fn memory_bytes(&self) -> u64 {
        4096
    }
}

/// Keeps what it is given; can be made to refuse.
#[derive(Default)]
pub(super) struct MemoryUpstream {
    pub(super) taken: Log,
    pub(super) down: std::sync::atomic::AtomicBool,
    pub(super) flushed: std::sync::atomic::AtomicBool,
}

impl Upstream for MemoryUpstream {
    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<usize, UpstreamError>> {
        Box::pin(async move {
            if self.down.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(UpstreamError("down".into()));
            }
            // Never more than three, so that the rest is offered again.
            let count = batch.len().min(3);
            for outgoing in &batch[..count] {
                self.taken.push(text(&outgoing.accepted.message));
            }
            Ok(count)
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), UpstreamError>> {
        self.flushed.store(true, std::sync::atomic::Ordering::SeqCst);
        Box::pin(async { Ok(()) })
    }
}

/// A cloud that keeps twins; can be out of reach.
#[derive(Default)]
pub(super) struct MemoryCloud {
    pub(super) twins: Mutex<BTreeMap<ModuleName, CloudTwin>>,
    pub(super) down: std::sync::atomic::AtomicBool,
    /// What it was asked: `get MODULE`, or `MODULE VERSION PATCH`.
    pub(super) asked: Log,
}

impl MemoryCloud {
    fn ask(&self, what: String) -> Result<(), UpstreamError> {
        let down = self.down.load(std::sync::atomic::Ordering::SeqCst);
        self.asked.push(if down { format!("in vain: {what}") } else { what });
        if down { Err(UpstreamError("out of reach".into())) } else { Ok(()) }
    }
}

impl UpstreamTwins for MemoryCloud {
    fn report<'a>(&'a self, reported: &'a Reported) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(async move {
            let patch = serde_json::to_string(&reported.patch).unwrap();
            self.ask(format!("{} {} {patch}", reported.module, reported.version))?;
            if let Some(twin) = self.twins.lock().unwrap().get_mut(&reported.module) {
                marram_core::twin::merge_patch(&mut twin.reported, &reported.patch);
            }
            Ok(())
        })
    }

    fn twin<'a>(&'a self, module: &'a ModuleName) -> BoxFuture<'a, Result<Option<CloudTwin>, UpstreamError>> {
        Box::pin(async move {
            self.ask(format!("get {module}"))?;
            Ok(self.twins.lock().unwrap().get(module).cloned())
        })
    }
}

/// State that tests with these worlds do not keep: the store's own tests and the whole-system tests do.
impl States for MemoryDisk {
    fn open(&self, _: &ModuleName) -> Result<Box<dyn State>, StateError> {
        Err(StateError::Store("no state in this world".into()))
    }

    fn remove(&self, _: &ModuleName) -> Result<(), StateError> {
        Ok(())
    }
}

/// Documents in memory, shared by the agents of one test as a disk is.
#[derive(Default)]
pub(super) struct MemoryDisk {
    pub(super) documents: Mutex<BTreeMap<String, Vec<u8>>>,
    pub(super) full: std::sync::atomic::AtomicBool,
    /// The name of a document that cannot be written.
    pub(super) refuse: Mutex<Option<String>>,
    /// The name of a document that cannot be read now.
    pub(super) unreadable: Mutex<Option<String>>,
    /// How often that was tried.
    pub(super) refusals: std::sync::atomic::AtomicUsize,
    /// Documents of which only the previous generation can be read: this.
    pub(super) damaged: Mutex<BTreeMap<String, Vec<u8>>>,
    /// The next write of a document of this name waits here.
    pub(super) gate: Mutex<Option<(&'static str, Arc<Gate>)>>,
}

impl Documents for MemoryDisk {
    fn read(&self, name: &str) -> Result<Option<StoredDocument>, DocumentError> {
        if self.unreadable.lock().unwrap().as_deref() == Some(name) {
            self.refusals.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            return Err(DocumentError::Failed("too many open files".into()));
        }
        if let Some(previous) = self.damaged.lock().unwrap().get(name) {
            return Ok(Some(StoredDocument { bytes: previous.clone(), recovered: Some("damaged".into()) }));
        }
        let bytes = self.documents.lock().unwrap().get(name).cloned();
        Ok(bytes.map(|bytes| StoredDocument { bytes, recovered: None }))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DocumentError> {
        let gate = self.gate.lock().unwrap().take_if(|(gated, _)| *gated == name);
        if let Some((_, gate)) = gate {
            gate.pass();
        }
        if self.full.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(DocumentError::Failed("no space left".into()));
        }
        if self.refuse.lock().unwrap().as_deref() == Some(name) {
            return Err(DocumentError::Failed(format!("cannot write {name}")));
        }
        self.damaged.lock().unwrap().remove(name);
        self.documents.lock().unwrap().insert(name.into(), bytes.into());
        Ok(())
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>, DocumentError> {
        Ok(self.documents.lock().unwrap().keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }

    fn remove(&self, name: &str) -> Result<(), DocumentError> {
        self.documents.lock().unwrap().remove(name);
        Ok(())
    }
}

pub(super) fn message(text: &str) -> Arc<Message> {
    Arc::new(Message::new(Bytes::copy_from_slice(text.as_bytes())))
}

pub(super) fn text(message: &Message) -> String {
    String::from_utf8(message.body.to_vec()).unwrap()
}

/// A manifest with these modules (name, further keys of the module object as JSON) and routes, whose messages are in memory alone.
pub(super) fn manifest(modules: &[(&str, &str)], routes: &[&str]) -> String {
    manifest_with("memory", modules, routes)
}

/// The same with another durability of all routes that say nothing of their own.
pub(super) fn manifest_with(durability: &str, modules: &[(&str, &str)], routes: &[&str]) -> String {
    let modules: serde_json::Map<String, serde_json::Value> = modules
        .iter()
        .map(|(name, extra)| {
            let mut module = serde_json::json!({
                "type": "wasm", "status": "running", "restartPolicy": "always", "settings": { "image": name }
            });
            let extra: serde_json::Map<String, serde_json::Value> = serde_json::from_str(extra).unwrap();
            module.as_object_mut().unwrap().extend(extra);
            ((*name).to_owned(), module)
        })
        .collect();
    let routes: serde_json::Map<String, serde_json::Value> = routes
        .iter()
        .enumerate()
        .map(|(n, route)| {
            let mut route: serde_json::Value = serde_json::from_str(route).unwrap_or_else(|_| (*route).into());
            if route.is_string() {
                route = serde_json::json!({ "route": route });
            }
            let options = route.as_object_mut().unwrap().entry("marram").or_insert_with(|| serde_json::json!({}));
            options.as_object_mut().unwrap().entry("durability").or_insert_with(|| durability.into());
            (format!("r{n}"), route)
        })
        .collect();
    serde_json::json!({ "modulesContent": {
        "$edgeAgent": { "properties.desired": { "schemaVersion": "1.1",
            "runtime": { "type": "docker", "settings": {} }, "modules": modules } },
        "$edgeHub": { "properties.desired": { "schemaVersion": "1.1", "routes": routes,
            "storeAndForwardConfiguration": { "timeToLiveSecs": 7200 } } }
    }})
    .to_string()
}
