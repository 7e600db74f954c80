//! An engine in a temporary folder, and a host that records what its guest does.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use marram_core::{
    deployment::{DesiredStatus, ModuleSpec, PullPolicy, RestartPolicy, Sandbox},
    message::{Accepted, Message},
    methods::{InvokeError, MethodRequest, MethodResponse},
    name::ModuleName,
    ports::*,
    state::{StateError, Write},
    time::UtcMillis,
    timers::DurableTimer,
};
use marram_engine::{CompileLimits, HelperCommand, Profile, Settings, WasmEngine};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// An engine with a cache of its own.
pub(crate) struct Bench {
    pub(crate) engine: WasmEngine,
    pub(crate) folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_profile(Profile::Wide)
    }

    pub(crate) fn with_profile(profile: Profile) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = WasmEngine::new(settings(&folder, profile)).unwrap();
        Self { engine, folder }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("compiled")
    }

    pub(crate) fn artifact(&self, bytes: &[u8]) -> Artifact {
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.folder.path().join(&digest);
        std::fs::write(&path, bytes).unwrap();
        let digest = format!("sha256:{digest}");
        Artifact {
            manifest_digest: digest.clone(),
            component_digest: digest,
            path,
            stale: false,
            lease: Lease::default(),
        }
    }

    pub(crate) async fn load(&self, bytes: &[u8]) -> Result<Arc<dyn Component>, LoadError> {
        self.engine.load(&self.artifact(bytes), "oci:guest").await
    }

    /// Loads and instantiates text.
    pub(crate) async fn start(
        &self,
        wat: &str,
        spec: &ModuleSpec,
        host: &Arc<Recorder>,
    ) -> Result<Box<dyn Instance>, Exit> {
        self.load(&binary(wat)).await.unwrap().instantiate(spec, host.clone()).await
    }
}

pub(crate) fn settings(folder: &TempDir, profile: Profile) -> Settings {
    Settings {
        profile,
        cache: folder.path().join("compiled"),
        precompiled: Vec::new(),
        private: Vec::new(),
        helper: HelperCommand::InProcess,
        limits: CompileLimits::default(),
        dumps: None,
    }
}

pub(crate) fn binary(wat: &str) -> Vec<u8> {
    wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}\n{wat}"))
}

pub(crate) fn spec(change: impl FnOnce(&mut Sandbox)) -> ModuleSpec {
    let mut sandbox = Sandbox::default();
    change(&mut sandbox);
    ModuleSpec {
        name: ModuleName::new("guest").unwrap(),
        version: String::new(),
        image: "oci:guest".into(),
        desired_status: DesiredStatus::Running,
        restart_policy: RestartPolicy::Always,
        max_restarts: None,
        health: None,
        pull_policy: PullPolicy::OnCreate,
        startup_order: 0,
        env: Default::default(),
        sandbox,
    }
}

/// A host that accepts everything, or nothing, and remembers.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) lines: Mutex<Vec<(LogStream, String)>>,
    pub(crate) sent: Mutex<Vec<(String, Arc<Message>)>>,
    /// Receivers are full and never get room.
    pub(crate) full: AtomicBool,
    /// Receivers have room for this many messages, then refuse after a wait; 0 = any number.
    pub(crate) room: AtomicU64,
    /// It says so once others have had their turn.
    pub(crate) stores: AtomicBool,
    /// What a program may receive, and how it settled it by ticket. Tickets count from 1.
    pub(crate) arriving: Mutex<VecDeque<Delivery>>,
    pub(crate) settled: Mutex<Vec<(u64, Settlement)>>,
    /// The program is to end.
    pub(crate) stopping: AtomicBool,
    /// How long it said that it would wait.
    pub(crate) patience: Mutex<Vec<Duration>>,
    /// Which methods it has called, and what it is told; when there is nothing left, it waits for ever.
    pub(crate) invoked: Mutex<Vec<(String, MethodRequest)>>,
    pub(crate) answers: Mutex<VecDeque<Result<MethodResponse, InvokeError>>>,
    sequence: AtomicU64,
    tickets: AtomicU64,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().iter().map(|(_, line)| line.clone()).collect()
    }

    /// A host of which a program receives these.
    pub(crate) fn with_messages(bodies: &[&'static str]) -> Arc<Self> {
        let host = Self { arriving: Mutex::new(Queue::of(bodies).waiting), ..Self::default() };
        Arc::new(host)
    }

    pub(crate) fn settled(&self) -> Vec<(u64, Settlement)> {
        self.settled.lock().unwrap().clone()
    }

    pub(crate) fn sent(&self) -> Vec<(String, Arc<Message>)> {
        self.sent.lock().unwrap().clone()
    }
}

impl ModuleHost for Recorder {
    fn try_send(&self, output: &str, message: &Arc<Message>) -> Sent {
        let room = self.room.load(Ordering::SeqCst);
        if self.full.load(Ordering::SeqCst) || room > 0 && self.sent().len() as u64 >= room {
            let again = || Sent::Storing(Storing(self.send(output.to_owned(), message.clone())));
            return if self.stores.load(Ordering::SeqCst) { again() } else { Sent::Wait };
        }
        self.sent.lock().unwrap().push((output.to_owned(), message.clone()));
        let sequence = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        let storing = async move {
            tokio::task::yield_now().await;
            Ok(sequence)
        };
        let stores = self.stores.load(Ordering::SeqCst);
        if stores { Sent::Storing(Storing(Box::pin(storing))) } else { Sent::Accepted(sequence) }
    }

    fn send(&self, _: String, _: Arc<Message>) -> BoxFuture<'static, Result<u64, SendError>> {
        if self.full.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        Box::pin(async {
            tokio::task::yield_now().await;
            Err(SendError::Full)
        })
    }

    fn desired(&self) -> TwinDocument {
        TwinDocument { json: "{}".into(), version: 1 }
    }

    fn reported(&self) -> TwinDocument {
        TwinDocument { json: "{}".into(), version: 1 }
    }

    fn report(&self, _: String) -> BoxFuture<'static, Result<u64, ReportError>> {
        Box::pin(async { Ok(2) })
    }

    fn receive(&self, patience: Duration) -> BoxFuture<'static, Result<Option<Received>, ReceiveError>> {
        self.patience.lock().unwrap().push(patience);
        let next = self.arriving.lock().unwrap().pop_front();
        let ticket = || self.tickets.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = match next {
            Some(delivery) => Ok(Some(Received { ticket: ticket(), delivery })),
            None if self.stopping.load(Ordering::SeqCst) => Err(ReceiveError::Stopping),
            None => Ok(None),
        };
        Box::pin(async {
            tokio::task::yield_now().await;
            answer
        })
    }

    fn settle(&self, ticket: u64, settlement: Settlement) -> bool {
        let mut settled = self.settled.lock().unwrap();
        let first = settled.iter().all(|(other, _)| *other != ticket);
        settled.push((ticket, settlement));
        first
    }

    fn state_get(&self, _: String, _: String) -> BoxFuture<'static, Result<Option<Bytes>, StateError>> {
        Box::pin(async { Ok(None) })
    }

    fn state_keys(
        &self,
        _: String,
        _: String,
        _: Option<String>,
        _: usize,
    ) -> BoxFuture<'static, Result<Vec<Box<str>>, StateError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn state_write(&self, _: Vec<Write>) -> BoxFuture<'static, Result<(), StateError>> {
        Box::pin(async { Ok(()) })
    }

    fn set_timer(&self, _: &str, _: Duration, _: bool) -> Result<(), TimerError> {
        Ok(())
    }

    fn cancel_timer(&self, _: &str) -> bool {
        false
    }

    fn invoke(
        &self,
        target: String,
        request: MethodRequest,
    ) -> BoxFuture<'static, Result<MethodResponse, InvokeError>> {
        self.invoked.lock().unwrap().push((target, request));
        match self.answers.lock().unwrap().pop_front() {
            Some(answer) => Box::pin(async {
                tokio::task::yield_now().await;
                answer
            }),
            None => Box::pin(std::future::pending()),
        }
    }

    fn next_change(&self, _: Duration) -> BoxFuture<'static, Result<Option<TwinChange>, WatchError>> {
        Box::pin(async { Ok(None) })
    }

    fn acknowledge(&self, _: u64, _: TwinAck) -> BoxFuture<'static, Result<u64, ReportError>> {
        Box::pin(async { Ok(2) })
    }

    fn set_durable_timer(&self, _: String, _: Duration, _: bool) -> BoxFuture<'static, Result<(), DurableTimerError>> {
        Box::pin(async { Ok(()) })
    }

    fn cancel_durable_timer(&self, _: String) -> BoxFuture<'static, Result<bool, DurableTimerError>> {
        Box::pin(async { Ok(false) })
    }

    fn durable_timers(&self) -> Vec<DurableTimer> {
        Vec::new()
    }

    fn info(&self) -> ModuleInfo {
        ModuleInfo {
            device_id: "device".into(),
            module_id: ModuleName::new("guest").unwrap(),
            deployment_version: 1,
            restart_count: 0,
        }
    }

    fn log(&self, stream: LogStream, line: &str) {
        self.lines.lock().unwrap().push((stream, line.to_owned()));
    }
}

/// Deliveries to hand out and the settlements that came back.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) waiting: VecDeque<Delivery>,
    pub(crate) settled: Vec<Settlement>,
}

impl Queue {
    pub(crate) fn of(bodies: &[&'static str]) -> Self {
        let waiting = bodies.iter().enumerate().map(|(n, body)| delivery(n as u64 + 1, body)).collect();
        Self { waiting, settled: Vec::new() }
    }
}

impl Inbox for Queue {
    fn next(&mut self) -> Option<Delivery> {
        self.waiting.pop_front()
    }

    fn settle(&mut self, settlement: Settlement) {
        self.settled.push(settlement);
    }
}

fn delivery(sequence: u64, body: &'static str) -> Delivery {
    let accepted = Accepted {
        message: Arc::new(Message::new(Bytes::from_static(body.as_bytes()))),
        source: "/messages/modules/source/outputs/out".into(),
        sequence,
        enqueued: UtcMillis(1_700_000_000_000),
    };
    Delivery { input: "in".into(), accepted, attempt: 1 }
}
