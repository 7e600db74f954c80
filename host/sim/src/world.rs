//! The made-up worlds of a simulated host: images, engine, upstream and a disk that can be full. What they hold outlives the
//! hosts; what they see is written into a trace and checked at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use marram_core::{
    deployment::ModuleSpec,
    methods::{InvokeError, MethodRequest, MethodResponse, Timeouts},
    name::ModuleName,
    ports::{
        Artifact, BoxFuture, Component, DocumentError, Documents, Engine, Exit, Exports, FetchError, FetchRequest,
        Images, Inbox, Instance, Lease, LoadError, ModuleHost, Outgoing, Reported, State, States, StoredDocument,
        TwinAnswer, TwinDocument, Upstream, UpstreamError, UpstreamTwins,
    },
    state::{StateError, Write},
    twin::{CloudTwin, merge_patch},
};
use serde_json::{Map, Value};

use crate::{
    beats::Beats,
    calls::Calls,
    fate::{Fate, Fates},
    invariants::Watch,
    op::HEALTH,
    rollouts::Rollouts,
    time::{now, pass},
};

/// The worlds, shared by the lives of a host.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<Inner>>);

pub(crate) struct Inner {
    pub(crate) fates: Fates,
    /// From now on nothing fails.
    pub(crate) calm: bool,
    /// The disk takes no more.
    pub(crate) full: bool,
    /// The host was killed: what is left of it neither writes nor counts.
    pub(crate) dead: bool,
    documents: BTreeMap<String, Vec<u8>>,
    pub(crate) rollouts: Rollouts,
    attempts: BTreeMap<(String, String), u64>,
    instances: u64,
    trace: Vec<(u64, String, String)>,
    pub(crate) watch: Watch,
    pub(crate) calls: Calls,
    pub(crate) beats: Beats,
    /// By module.
    states: BTreeMap<ModuleName, Entries>,
}

/// Values of a module's state, by bucket and key.
type Entries = BTreeMap<(Box<str>, Box<str>), Bytes>;

impl World {
    pub(crate) fn new(fates: Fates) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            fates,
            calm: false,
            full: false,
            dead: false,
            documents: BTreeMap::new(),
            rollouts: Rollouts::default(),
            attempts: BTreeMap::new(),
            instances: 0,
            trace: Vec::new(),
            watch: Watch::default(),
            calls: Calls::default(),
            beats: Beats::default(),
            states: BTreeMap::new(),
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn begins(&mut self, module: &str, instance: u64, number: u64) {
        if !self.dead {
            self.note_of(module, format!("begin {number} {module}"));
            self.calls.begins(module, instance, number);
        }
    }

    /// Whether the image that the deployment in force wants for a module has a durable timer.
    pub(crate) fn has_beats(&self, module: &str) -> bool {
        let wanted = self.watch.deployments.last().and_then(|deployment| deployment.get(module));
        wanted.is_some_and(|wanted| self.fates.of(&wanted.image, module, 0).beats.is_some())
    }

    /// A line of the trace: what happens from outside.
    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.note_of("", line);
    }

    /// A line of the trace, of a module or an image.
    fn note_of(&mut self, subject: &str, line: impl Into<String>) {
        if !self.dead {
            self.trace.push((now(), subject.into(), line.into()));
        }
    }

    /// A caller hears.
    pub(crate) fn answered(&mut self, number: u64, module: &str, answer: &Result<MethodResponse, InvokeError>) {
        if !self.dead {
            let word = self.calls.ended(number, answer);
            self.note_of(module, format!("call {number} {module}: {word}"));
        }
    }

    /// The trace, a line each. What happens in the same millisecond stands by module: tasks may run in any order.
    pub(crate) fn trace(&self) -> String {
        let mut lines = self.trace.clone();
        lines.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        lines.iter().map(|(at, _, line)| format!("{:>9}.{:03} {line}\n", at / 1000, at % 1000)).collect()
    }

    /// A deployment is stored: from now on it counts, and the one before no longer once the host has been told.
    fn is_stored(&mut self, document: &[u8]) {
        let told = self.rollouts.stored(document);
        if let Some(line) = told.line {
            self.note(line);
        }
        self.watch.deployments.push(told.deployment);
        self.watch.is_in_force();
        self.watch.forget_failures();
        self.watch.broken.extend(told.broken.into_iter().map(|name| format!("{name}, at {} ms", now())));
    }

    fn fate(&mut self, image: &str, module: &str) -> Fate {
        let attempt = self.attempts.entry((image.into(), module.into())).or_default();
        *attempt += 1;
        let fate = self.fates.of(image, module, *attempt);
        if self.calm {
            return Fate {
                missing: false,
                unreachable: false,
                refused: false,
                start_exit: None,
                life: None,
                sick: None,
                ..fate
            };
        }
        fate
    }
}

/// The name of each module's durable timer.
const BEAT: &str = "beat";

/// A call that says its number.
pub(crate) fn request(number: u64, connect: u64, response: u64) -> MethodRequest {
    let millis = |millis| Some(Duration::from_millis(millis));
    let timeouts = Timeouts { response: millis(response), connect: millis(connect) };
    MethodRequest::new("m", &number.to_string(), timeouts).unwrap_or_else(|bad| panic!("{bad}"))
}

impl Images for World {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Artifact, FetchError>> {
        Box::pin(async move {
            let fate = {
                let mut inner = self.lock();
                inner.note_of(&request.image, format!("fetch {}", request.image));
                inner.fate(&request.image, "")
            };
            pass(Duration::from_millis(fate.fetch)).await;
            if fate.missing {
                self.lock().note_of(&request.image, format!("missing {}", request.image));
                return Err(FetchError { message: format!("no image {}", request.image), transient: false });
            }
            if fate.unreachable {
                self.lock().note_of(&request.image, format!("unreachable {}", request.image));
                return Err(FetchError { message: format!("no way to {}", request.image), transient: true });
            }
            Ok(Artifact {
                manifest_digest: format!("sha256:{}", request.image),
                component_digest: request.image,
                path: "/".into(),
                stale: false,
                lease: Lease::default(),
            })
        })
    }
}

impl Engine for World {
    fn load(&self, artifact: &Artifact, _: &str) -> BoxFuture<'_, Result<Arc<dyn Component>, LoadError>> {
        let image = artifact.component_digest.clone();
        Box::pin(async move {
            let fate = self.lock().fate(&image, "load");
            pass(Duration::from_millis(fate.load)).await;
            if fate.refused {
                self.lock().note_of(&image, format!("refused {image}"));
                return Err(LoadError(format!("{image} does not fit")));
            }
            let (handles, beats) = (fate.answers.is_some(), fate.beats.is_some());
            let component = Made { world: self.clone(), image, handles, beats };
            Ok(Arc::new(component) as Arc<dyn Component>)
        })
    }
}

/// A component: a program, or one that handles methods.
struct Made {
    world: World,
    image: String,
    handles: bool,
    /// It has a durable timer.
    beats: bool,
}

impl Component for Made {
    fn exports(&self) -> Exports {
        // A handler hears of its twin when it takes charge.
        let (handles, beats) = (self.handles, self.beats);
        Exports { run: !handles, method: handles, twin: handles, start: beats, timer: beats, ..Exports::default() }
    }

    fn imports_inbox(&self) -> bool {
        false
    }

    fn imports_durable_timers(&self) -> bool {
        self.beats
    }

    fn instantiate(
        &self,
        spec: &ModuleSpec,
        host: Arc<dyn ModuleHost>,
    ) -> BoxFuture<'_, Result<Box<dyn Instance>, Exit>> {
        let module = spec.name.to_string();
        Box::pin(async move {
            let fate = {
                let mut inner = self.world.lock();
                inner.note_of(&module, format!("start {module} {}", self.image));
                inner.watch.starts(&module, &self.image);
                inner.fate(&self.image, &module)
            };
            pass(Duration::from_millis(fate.start)).await;
            let mut inner = self.world.lock();
            if let Some(code) = fate.start_exit {
                inner.note_of(&module, format!("start of {module} {} failed", self.image));
                inner.watch.start_failed(&module, &self.image);
                return Err(Exit::new(code, "its start failed"));
            }
            inner.instances += 1;
            let number = inner.instances;
            inner.watch.is_up(&module, &self.image, number);
            let (world, image) = (self.world.clone(), self.image.clone());
            let Fate { life, answers, beats, sick, .. } = fate;
            let (answers, charge, since) = (answers.unwrap_or_default(), None, now());
            let told = Told::default();
            Ok(
                Box::new(Running {
                    world,
                    module,
                    image,
                    number,
                    life,
                    answers,
                    beats,
                    sick,
                    host,
                    charge,
                    since,
                    told,
                }) as Box<dyn Instance>,
            )
        })
    }
}

/// An instance of it.
struct Running {
    world: World,
    module: String,
    image: String,
    number: u64,
    life: Option<(u64, i32)>,
    /// Milliseconds that a method takes.
    answers: u64,
    /// The period of its durable timer.
    beats: Option<u64>,
    /// Milliseconds after which it says that it is not well.
    sick: Option<u64>,
    host: Arc<dyn ModuleHost>,
    /// Of one that handles methods, once it has it.
    charge: Option<Charge>,
    since: u64,
    told: Told,
}

/// What it was told of its desired properties.
#[derive(Default)]
struct Told {
    version: u64,
    desired: Map<String, Value>,
}

impl Told {
    /// Whether this change follows, and leads to what is in force if nothing newer is.
    fn merge(&mut self, patch: &str, version: u64, now: &TwinDocument) -> bool {
        let Ok(patch) = serde_json::from_str(patch) else { return false };
        merge_patch(&mut self.desired, &patch);
        let in_order = version > self.version;
        self.version = version;
        in_order && (now.version != version || serde_json::from_str(&now.json).ok().as_ref() == Some(&self.desired))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.charge = None;
        self.world.lock().calls.is_gone(self.number);
        self.world.lock().watch.is_gone(&self.module, self.number);
    }
}

impl Instance for Running {
    fn run(&mut self) -> BoxFuture<'_, Exit> {
        Box::pin(async {
            let charge = Charge::take(self);
            let Some((life, code)) = self.life else { return std::future::pending().await };
            pass(Duration::from_millis(life)).await;
            // A life that was long before all became calm may end after it.
            if self.world.lock().calm {
                return std::future::pending().await;
            }
            charge.end(code);
            Exit::new(code, "it ended")
        })
    }

    fn start(&mut self) -> BoxFuture<'_, Result<Result<(), String>, Exit>> {
        Box::pin(async {
            let Some(period) = self.beats else { return Ok(Ok(())) };
            let set = self.host.set_durable_timer(BEAT.into(), Duration::from_millis(period), true).await;
            if set.is_ok() {
                self.world.lock().beats.set(&self.module, period);
            }
            Ok(Ok(()))
        })
    }

    fn handle_batch<'a>(&'a mut self, _: &'a mut dyn Inbox) -> BoxFuture<'a, Result<(), Exit>> {
        Box::pin(async { Ok(()) })
    }

    fn fire(&mut self, _: &str, missed: u64) -> BoxFuture<'_, Result<(), Exit>> {
        Box::pin(async move {
            let last = {
                let mut inner = self.world.lock();
                inner.note_of(&self.module, format!("beat {}, {missed} missed", self.module));
                inner.beats.begins(&self.module, missed)
            };
            pass(Duration::from_millis(self.answers)).await;
            self.world.lock().beats.ends(&self.module, last);
            Ok(())
        })
    }

    fn desired_changed(&mut self, patch: &str, version: u64) -> BoxFuture<'_, Result<TwinAnswer, Exit>> {
        if self.charge.is_none() {
            self.charge = Some(Charge::take(self));
        }
        let follows = self.told.merge(patch, version, &self.host.desired());
        self.world.lock().watch.invariant_changes_of_a_twin_come_once_and_in_order(&self.module, follows);
        Box::pin(async { Ok(Ok(None)) })
    }

    /// Every third call is passed on to another module first.
    fn invoke(&mut self, name: &str, payload: &str) -> BoxFuture<'_, Result<(i32, String), Exit>> {
        if name == HEALTH {
            return Box::pin(self.tell_health());
        }
        let number: u64 = payload.parse().unwrap_or_else(|_| panic!("{payload}"));
        Box::pin(async move {
            let world = self.world.clone();
            world.lock().begins(&self.module, self.number, number);
            pass(Duration::from_millis(self.answers)).await;
            if number.is_multiple_of(3) {
                let next = ["a", "b", "c"][usize::try_from(number / 3).unwrap_or(0) % 3];
                let passed = world.lock().calls.made(Some(self.number), next, 1_000, 5_000);
                let answer = self.host.invoke(next.into(), request(passed, 1_000, 5_000)).await;
                world.lock().answered(passed, next, &answer);
            }
            world.lock().calls.returns(self.number);
            match self.life {
                Some((life, code)) if code != 0 && now() >= self.since + life && !world.lock().calm => {
                    if let Some(charge) = self.charge.take() {
                        charge.end(code);
                    }
                    Err(Exit::new(code, "it ended"))
                }
                _ => Ok((200, String::new())),
            }
        })
    }

    fn memory_bytes(&self) -> u64 {
        4096
    }
}

impl Running {
    async fn tell_health(&mut self) -> Result<(i32, String), Exit> {
        self.world.lock().watch.is_asked(&self.module, self.number);
        pass(Duration::from_millis(self.answers)).await;
        let mut inner = self.world.lock();
        let sick = !inner.calm && self.sick.is_some_and(|sick| now() >= self.since + sick);
        if sick {
            inner.note_of(&self.module, format!("sick {} {}", self.module, self.image));
        }
        Ok((if sick { 503 } else { 200 }, String::new()))
    }
}

/// That an instance does the module's work. Given up without a word when the host ends it.
struct Charge {
    world: World,
    module: String,
    image: String,
    number: u64,
    has_ended: bool,
}

impl Charge {
    fn take(running: &Running) -> Self {
        let Running { world, module, image, number, .. } = running;
        let mut inner = world.lock();
        inner.note_of(module, format!("run {module} {image}"));
        inner.watch.runs(module, *number);
        drop(inner);
        Self { world: world.clone(), module: module.clone(), image: image.clone(), number: *number, has_ended: false }
    }

    fn end(mut self, code: i32) {
        self.has_ended = true;
        let mut inner = self.world.lock();
        inner.note_of(&self.module, format!("exit {} {} {code}", self.module, self.image));
        inner.watch.exited(&self.module, &self.image, self.number);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut inner = self.world.lock();
            inner.note_of(&self.module, format!("end {} {}", self.module, self.image));
            inner.watch.was_ended(&self.module, &self.image, self.number);
        }
    }
}

impl Documents for World {
    fn read(&self, name: &str) -> Result<Option<StoredDocument>, DocumentError> {
        let bytes = self.lock().documents.get(name).cloned();
        Ok(bytes.map(|bytes| StoredDocument { bytes, recovered: None }))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DocumentError> {
        let mut inner = self.lock();
        if inner.full || inner.dead {
            return Err(DocumentError("no space left".into()));
        }
        inner.documents.insert(name.into(), bytes.into());
        if name == "deployment" {
            inner.is_stored(bytes);
        }
        Ok(())
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>, DocumentError> {
        Ok(self.lock().documents.keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }

    fn remove(&self, name: &str) -> Result<(), DocumentError> {
        self.lock().documents.remove(name);
        Ok(())
    }
}

/// What no kill takes away.
impl States for World {
    fn open(&self, module: &ModuleName) -> Result<Box<dyn State>, StateError> {
        Ok(Box::new(Kept { world: self.clone(), module: module.clone() }))
    }

    fn remove(&self, module: &ModuleName) -> Result<(), StateError> {
        self.lock().states.remove(module);
        Ok(())
    }
}

/// The state of one module: only the host's own entries are in it.
struct Kept {
    world: World,
    module: ModuleName,
}

impl State for Kept {
    fn get(&self, bucket: &str, key: &str) -> Result<Option<Bytes>, StateError> {
        let inner = self.world.lock();
        Ok(inner.states.get(&self.module).and_then(|entries| entries.get(&(bucket.into(), key.into())).cloned()))
    }

    fn keys(&self, _: &str, _: &str, _: Option<&str>, _: usize) -> Vec<Box<str>> {
        Vec::new()
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), StateError> {
        let mut inner = self.world.lock();
        if inner.full || inner.dead {
            return Err(StateError::Store("no space left".into()));
        }
        for write in writes {
            let entries = inner.states.entry(self.module.clone()).or_default();
            let (key, value) = ((write.bucket.clone(), write.key.clone()), write.value.clone());
            match value {
                Some(value) => drop(entries.insert(key, value)),
                None => drop(entries.remove(&key)),
            }
        }
        inner.beats.stored(self.module.as_str());
        Ok(())
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
    fn report<'a>(&'a self, _: &'a Reported) -> BoxFuture<'a, Result<(), UpstreamError>> {
        Box::pin(async { Ok(()) })
    }

    fn twin<'a>(&'a self, _: &'a ModuleName) -> BoxFuture<'a, Result<Option<CloudTwin>, UpstreamError>> {
        Box::pin(async { Ok(None) })
    }
}
