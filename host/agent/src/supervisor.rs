//! Carries out what `core::planner` decides: one loop, one owner of the state, slow work comes back as an event.

mod record;
mod shutdown;
pub(crate) mod tally;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use marram_core::{
    deployment::{Deployment, DesiredStatus, ModuleSpec},
    name::ModuleName,
    planner::{self, Explained, ModuleState, Observed, Step, explain, needs_new_instance, plan},
    ports::{Artifact, Component, Engine, Exit, FetchRequest, Images, ModuleInfo, Progress, Room},
    time::{Uptime, UtcMillis},
};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use self::record::{Preparation, Prepared, Record, Running, Update};
use crate::{
    agent::RUN_BITS,
    clock::Clock,
    delivery::{ModuleTask, StopSignal},
    link::{LinkParts, ModuleLink},
    logs::LogBuffer,
    metrics::Numbers,
    router::Router,
    state::{StateCell, StateCells},
    status::{MessageLogStatus, ModuleStatus, QueueStatus, Status},
    twins::Twins,
};

/// How long an instance may take to end after it was asked to, before it is stopped in the middle of a call.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Shortest sleep between two plans.
const SHORTEST: Duration = Duration::from_millis(5);

/// What the supervisor works with.
pub(crate) struct Worlds {
    pub(crate) clock: Clock,
    pub(crate) device_id: String,
    pub(crate) router: Arc<Router>,
    pub(crate) twins: Arc<Twins>,
    pub(crate) states: StateCells,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) images: Arc<dyn Images>,
    /// Asked before a component is downloaded.
    pub(crate) room: Option<Arc<dyn Room>>,
    /// Told when all modules have come to rest after a change.
    pub(crate) settled: Arc<Notify>,
    pub(crate) upstream_closing: watch::Sender<bool>,
    /// The number before the first sequence of each module in this run.
    pub(crate) first_sequence: u64,
}

/// What happens.
pub(crate) enum Event {
    /// Another deployment is in force.
    Deployed(Deployed),
    /// A component is ready, or not to be had.
    Prepared { name: ModuleName, run: u64, result: Result<(Artifact, Arc<dyn Component>), String> },
    /// An instance is ready for work.
    Up { name: ModuleName, run: u64 },
    /// An instance has ended.
    Ended { name: ModuleName, run: u64, exit: Exit },
    /// An operator wants a new instance.
    Restart { name: ModuleName, reply: oneshot::Sender<Result<(), String>> },
    /// Somebody wants to know.
    Status { reply: oneshot::Sender<Status> },
    /// Somebody wants to know what would be done for another deployment, now or at another time of the clock.
    Plan { desired: Box<Deployment>, at: Option<UtcMillis>, reply: oneshot::Sender<Explained> },
    /// Somebody wants to know all that is counted.
    Numbers { reply: oneshot::Sender<Numbers> },
    /// Somebody wants to know whether there is such a module. Asked before most questions, so it does not cost a status.
    IsDeployed { name: ModuleName, reply: oneshot::Sender<bool> },
    /// Somebody wants to know which components the modules run or are about to.
    Components { reply: oneshot::Sender<Vec<(ModuleName, String)>> },
    /// Somebody wants to read a module's log.
    Logs { name: ModuleName, reply: oneshot::Sender<Option<Arc<LogBuffer>>> },
    /// The host ends.
    Shutdown { grace: Duration, reply: oneshot::Sender<()> },
}

/// A deployment to be carried out.
pub(crate) struct Deployed {
    pub(crate) deployment: Arc<Deployment>,
    pub(crate) version: u64,
    /// From the stored document at boot: what is on the device is good enough.
    pub(crate) prefer_cached: bool,
}

/// Events under way: each module has at most three (prepared, up, ended), and the control API waits for its answers.
pub(crate) const EVENTS: usize = 4096;

/// Events that one plan follows, if so many are there at once. Beyond, starts would wait for questions.
const EVENTS_A_PLAN: usize = 64;

pub(crate) struct Supervisor {
    worlds: Worlds,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    desired: Arc<Deployment>,
    version: u64,
    prefer_cached: bool,
    observed: Observed,
    records: BTreeMap<ModuleName, Record>,
    /// Something has changed since the modules were at rest last.
    unsettled: bool,
    /// Kept also of modules that were removed: one that comes back goes on counting.
    sequences: BTreeMap<ModuleName, Arc<AtomicU64>>,
    runs: u64,
}

impl Supervisor {
    pub(crate) fn new(worlds: Worlds, events: mpsc::Receiver<Event>, sender: mpsc::Sender<Event>) -> Self {
        Self {
            worlds,
            events,
            sender,
            desired: Arc::default(),
            version: 0,
            prefer_cached: false,
            observed: Observed::default(),
            records: BTreeMap::new(),
            unsettled: false,
            sequences: BTreeMap::new(),
            runs: 0,
        }
    }

    /// Runs until it is told to shut down.
    pub(crate) async fn run(mut self) {
        loop {
            let wake_at = self.carry_out_plan();
            if self.unsettled && self.observed.is_settled() {
                self.unsettled = false;
                self.worlds.settled.notify_one();
            }
            let mut event = tokio::select! {
                event = self.events.recv() => event,
                // Never in the past: a plan that asks again at once without a step must not spin.
                () = sleep_until(self.worlds.clock, wake_at.map(|at| at.max(self.worlds.clock.uptime().after(SHORTEST)))) => continue,
            };
            // One plan for all that has happened: a thousand modules that come up are not planned a thousand times.
            let mut more = EVENTS_A_PLAN;
            loop {
                match event {
                    Some(Event::Shutdown { grace, reply }) => {
                        self.shut_down(grace).await;
                        // The one who asked may have gone; we end all the same.
                        let _ = reply.send(());
                        return;
                    }
                    Some(event) => self.on(event),
                    None => return,
                }
                more -= 1;
                // What is taken is heard: none is taken for later.
                event = match (more > 0).then(|| self.events.try_recv()) {
                    Some(Ok(next)) => Some(next),
                    Some(Err(_)) | None => break,
                };
            }
        }
    }

    fn carry_out_plan(&mut self) -> Option<Uptime> {
        loop {
            let now = self.worlds.clock.uptime();
            let plan = plan(&self.desired, &self.observed, now);
            for step in &plan.steps {
                self.observed.issued(step);
                self.issue(step);
            }
            // A wake-up that is due already asks for another plan at once.
            if plan.wake_at.is_none_or(|at| at > now) || plan.steps.is_empty() {
                return plan.wake_at;
            }
        }
    }

    fn issue(&mut self, step: &Step) {
        tracing::debug!(%step, "step");
        match step {
            Step::Prepare(spec) => self.prepare(spec),
            Step::Cancel(name) => {
                tracing::info!(module = %name, "not preparing any more what nobody wants");
                if let Some(record) = self.records.get_mut(name) {
                    record.cancel();
                }
            }
            Step::Start(name) => self.start(name),
            Step::Stop(name) => self.stop(name),
            Step::StartUpdate(name) => self.start_update(name),
            Step::StopUpdate(name) => self.stop_update(name),
            Step::Remove(name) => {
                self.records.remove(name);
                tracing::info!(module = %name, "removed");
            }
            Step::Promote(name) => self.promote(name),
            Step::Adopt(_) => {}
        }
    }

    fn prepare(&mut self, spec: &ModuleSpec) {
        let clock = self.worlds.clock;
        let first = self.worlds.first_sequence;
        let sequence = self.sequences.entry(spec.name.clone()).or_insert_with(|| Arc::new(AtomicU64::new(first)));
        let record =
            self.records.entry(spec.name.clone()).or_insert_with(|| Record::new(&spec.name, clock, sequence.clone()));
        let beside_old = self.observed.modules.get(&spec.name).is_some_and(|module| module.next.is_some());
        record.tally.preparing(beside_old, clock.uptime());
        let progress = Arc::<Progress>::default();
        record.progress = progress.clone();
        let request = FetchRequest {
            image: spec.image.clone(),
            policy: spec.pull_policy,
            prefer_cached: self.prefer_cached,
            credentials: self.desired.registry_credentials.clone(),
            progress,
            room: self.worlds.room.clone(),
        };
        tracing::info!(module = %spec.name, image = %spec.image, "preparing");
        let (images, engine) = (self.worlds.images.clone(), self.worlds.engine.clone());
        let image = spec.image.clone();
        let work = async move {
            let artifact = images.fetch(request).await.map_err(|error| error.to_string())?;
            let component = engine.load(&artifact, &image).await.map_err(|error| error.to_string())?;
            Ok((artifact, component))
        };
        self.runs += 1;
        let run = self.runs;
        let work = tokio::spawn(work);
        record.preparing(beside_old, Preparation { run, task: work.abort_handle() });
        let (name, sender) = (spec.name.clone(), self.sender.clone());
        tokio::spawn(async move {
            // A panic in one world is a failed step, not the end of the host.
            let result = match work.await {
                Ok(result) => result,
                Err(error) if error.is_cancelled() => return,
                Err(error) => Err(format!("internal error while preparing: {error}")),
            };
            let _ = sender.send(Event::Prepared { name, run, result }).await;
        });
    }

    fn start(&mut self, name: &ModuleName) {
        let Some(spec) = self.observed.modules.get(name).map(|module| module.spec.clone()) else { return };
        let Some(record) = self.records.get_mut(name) else { return };
        let Some(component) = record.prepared.as_ref().map(|prepared| prepared.component.clone()) else { return };
        record.started(self.worlds.clock.utc());
        let restart_count = record.restart_count;
        if let Some(running) = self.launch(spec, component, restart_count, None)
            && let Some(record) = self.records.get_mut(name)
        {
            record.running = Some(running);
        }
    }

    /// Beside the old instance. It waits at a gate once it is up, which its promotion opens.
    fn start_update(&mut self, name: &ModuleName) {
        let module = self.observed.modules.get(name);
        let Some(spec) = module.and_then(|module| module.next.as_ref()).map(|next| next.spec.clone()) else { return };
        let next = self.records.get(name).and_then(|record| record.next.as_ref());
        let Some(component) = next.map(|prepared| prepared.component.clone()) else { return };
        tracing::info!(module = %name, "starting its update beside it");
        let (open, gate) = oneshot::channel();
        let at = self.worlds.clock.utc();
        if let Some(running) = self.launch(spec, component, 0, Some(gate))
            && let Some(record) = self.records.get_mut(name)
        {
            record.update = Some(Update { running, open, at });
        }
    }

    /// In the middle of its start, if need be: it was never in charge.
    fn stop_update(&mut self, name: &ModuleName) {
        if let Some(record) = self.records.get_mut(name)
            && let Some(update) = &record.update
        {
            tracing::info!(module = %name, "ending its update, which is not wanted any more");
            update.running.stop.kill();
            record.tally.stops += 1;
        }
    }

    fn promote(&mut self, name: &ModuleName) {
        if let Some(record) = self.records.get_mut(name)
            && record.promote(self.worlds.clock.uptime())
        {
            tracing::info!(module = %name, "its update runs");
        }
        // What the old version could not handle the new one may.
        for endpoint in self.worlds.router.inputs_of(name.as_str()) {
            endpoint.retry_now();
        }
    }

    /// Starts an instance; what becomes of it comes back as events.
    fn launch(
        &mut self,
        spec: ModuleSpec,
        component: Arc<dyn Component>,
        restart_count: u32,
        gate: Option<oneshot::Receiver<()>>,
    ) -> Option<Running> {
        let record = self.records.get_mut(&spec.name)?;
        record.tally.starts += 1;
        self.runs += 1;
        let run = self.runs;
        let stop = Arc::new(StopSignal::default());
        let name = spec.name.clone();
        let start = StartedModule {
            info: ModuleInfo {
                device_id: self.worlds.device_id.clone(),
                module_id: name.clone(),
                deployment_version: self.version,
                restart_count,
            },
            spec,
            component,
            stop: stop.clone(),
            gate,
            sequence: record.sequence.clone(),
            logs: record.logs.clone(),
            memory: record.memory.clone(),
            received: record.received.clone(),
            clock: self.worlds.clock,
            router: self.worlds.router.clone(),
            twins: self.worlds.twins.clone(),
            state: self.worlds.states.cell(&name),
        };
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let (up, is_up) = oneshot::channel();
            let mut task = tokio::spawn(start.run(up));
            let mut is_up = std::pin::pin!(is_up);
            let exit = tokio::select! {
                biased;
                Ok(()) = &mut is_up => {
                    let _ = sender.send(Event::Up { name: name.clone(), run }).await;
                    task.await
                }
                exit = &mut task => exit,
            };
            let exit = exit
                .unwrap_or_else(|error| Exit::new(Exit::TRAP, format!("internal error in the module's task: {error}")));
            let _ = sender.send(Event::Ended { name, run, exit }).await;
        });
        Some(Running { run, stop })
    }

    fn stop(&mut self, name: &ModuleName) {
        let Some(record) = self.records.get_mut(name) else { return };
        let Some(stop) = record.running.as_ref().map(|running| running.stop.clone()) else { return };
        tracing::info!(module = %name, "stopping");
        record.tally.stops += 1;
        stop.stop();
        tokio::spawn(async move {
            tokio::time::sleep(STOP_GRACE).await;
            stop.kill();
        });
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Deployed(deployed) => {
                if deployed.deployment.registry_credentials != self.desired.registry_credentials {
                    self.forget_refusals();
                }
                self.unsettled = true;
                self.desired = deployed.deployment;
                self.version = deployed.version;
                self.prefer_cached = deployed.prefer_cached;
                self.forget_updates_taken_back();
                self.expect_running();
                // Of modules that were forgotten before they were removed.
                self.records.retain(|name, _| {
                    self.desired.modules.contains_key(name) || self.observed.modules.contains_key(name)
                });
                for (name, record) in self.records.iter().filter(|(_, record)| record.is_dead_end()) {
                    self.warn_of_dead_end(name, record);
                }
            }
            Event::Prepared { name, run, result } => self.on_prepared(&name, run, result),
            Event::Up { name, run } => self.on_up(&name, run),
            Event::Ended { name, run, exit } => self.on_ended(&name, run, exit),
            Event::Restart { name, reply } => {
                let _ = reply.send(self.restart(&name));
            }
            Event::Status { reply } => {
                let _ = reply.send(self.status());
            }
            Event::Plan { desired, at, reply } => {
                let _ = reply.send(self.explain(&desired, at));
            }
            Event::Numbers { reply } => {
                let now = self.worlds.clock.uptime();
                let module = |(name, record): (&ModuleName, &Record)| {
                    let spec = self.desired.modules.get(name);
                    let spec = spec.or_else(|| self.observed.modules.get(name).map(|module| &module.spec));
                    let version = spec.map(|spec| spec.version.clone()).unwrap_or_default();
                    (name.clone(), (version, record.tally.numbers(now)))
                };
                let modules = self.records.iter().map(module);
                let (modules, instance) = (modules.collect(), self.worlds.first_sequence >> RUN_BITS);
                let _ = reply.send(Numbers { status: self.status(), modules, instance });
            }
            Event::IsDeployed { name, reply } => {
                let known = self.desired.modules.contains_key(&name) || self.observed.modules.contains_key(&name);
                let _ = reply.send(known);
            }
            Event::Components { reply } => {
                let components = self.records.iter().flat_map(|(name, record)| {
                    record.components().map(|component| (name.clone(), component.to_owned()))
                });
                let _ = reply.send(components.collect());
            }
            Event::Logs { name, reply } => {
                let _ = reply.send(self.records.get(&name).map(|record| record.logs.clone()));
            }
            Event::Shutdown { .. } => {}
        }
    }

    /// Notes from when on which modules should run.
    fn expect_running(&mut self) {
        let now = self.worlds.clock.uptime();
        for (name, record) in &mut self.records {
            let wanted =
                self.desired.modules.get(name).is_some_and(|spec| spec.desired_status == DesiredStatus::Running);
            if wanted { record.tally.expected.begin(now) } else { record.tally.expected.end(now) }
        }
    }

    /// Routes into a module that takes no messages are no fault (it may take them in its next version), but what they bring
    /// waits in vain.
    fn warn_of_dead_end(&self, name: &ModuleName, record: &Record) {
        let inputs = self.worlds.router.inputs_of(name.as_str());
        if record.is_dead_end() && !inputs.is_empty() {
            let inputs: Vec<&str> = inputs.iter().map(|endpoint| &*endpoint.input).collect();
            tracing::warn!(
                module = %name,
                inputs = inputs.join(", "),
                "routes lead to a module that takes no messages (it exports no `input-handler`, imports no `inbox`); they \
                 wait until they expire or their queue is full"
            );
        }
    }

    /// Other credentials may open what was refused: it is tried at once, not after its back-off.
    fn forget_refusals(&mut self) {
        for name in self.observed.forget_refusals() {
            if let Some(record) = self.records.get_mut(&name) {
                record.forget_next();
            }
        }
    }

    /// A version that is not wanted any more, because the deployment is back at the one that runs: neither its component
    /// nor what was wrong with it is kept.
    fn forget_updates_taken_back(&mut self) {
        let updates = self.observed.modules.iter_mut().filter(|(_, module)| module.next.is_some());
        for (name, module) in updates {
            // An instance is ended first, by plan.
            let rests =
                module.next.as_ref().is_some_and(|next| !next.state.is_under_way() && !next.state.has_instance());
            let taken_back =
                self.desired.modules.get(name).is_some_and(|wanted| !needs_new_instance(&module.spec, wanted));
            if taken_back && rests {
                module.next = None;
                if let Some(record) = self.records.get_mut(name) {
                    record.forget_next();
                }
            }
        }
    }

    fn on_prepared(&mut self, name: &ModuleName, run: u64, result: Result<(Artifact, Arc<dyn Component>), String>) {
        let now = self.worlds.clock.uptime();
        // One that came to its end before it was cancelled is not heard.
        let Some(record) = self.records.get_mut(name).filter(|record| record.is_preparing(run)) else { return };
        let event = match result {
            Ok((artifact, component)) => {
                if artifact.stale {
                    tracing::warn!(module = %name, digest = %artifact.manifest_digest, "the registry is out of reach; using the copy on this device");
                }
                tracing::info!(module = %name, digest = %artifact.manifest_digest, "prepared");
                record.prepared(Prepared { artifact, component });
                self.unsettled = true;
                let record = &self.records[name];
                self.warn_of_dead_end(name, record);
                planner::Event::Prepared
            }
            Err(reason) => {
                tracing::error!(module = %name, reason, "cannot be prepared");
                record.prepare_error = Some(reason);
                planner::Event::PrepareFailed
            }
        };
        self.observed.happened(name, event, now);
        self.forget_updates_taken_back();
    }

    fn on_up(&mut self, name: &ModuleName, run: u64) {
        let now = self.worlds.clock.uptime();
        let Some(record) = self.records.get_mut(name) else { return };
        let starting = self.observed.modules.get(name).is_some_and(|module| module.state == ModuleState::Starting);
        if starting && record.is_run(run) {
            tracing::info!(module = %name, "running");
            record.tally.running.begin(now);
            self.observed.happened(name, planner::Event::Started, now);
        } else if record.is_update(run) {
            tracing::info!(module = %name, "its update is up");
            self.observed.happened(name, planner::Event::UpdateStarted, now);
        }
    }

    fn on_ended(&mut self, name: &ModuleName, run: u64, exit: Exit) {
        let (now, utc) = (self.worlds.clock.uptime(), self.worlds.clock.utc());
        let Some(record) = self.records.get_mut(name) else { return };
        if record.is_update(run) {
            // One that was asked to end is no news.
            if exit.code != Exit::STOPPED {
                tracing::error!(module = %name, code = exit.code, reason = exit.reason, backtrace = ?exit.backtrace, "its update did not start; the old version runs on");
            }
            record.update_ended(&exit);
            self.observed.happened(name, planner::Event::UpdateExited, now);
            if self.observed.modules.get(name).is_some_and(|module| module.next.is_none())
                && let Some(record) = self.records.get_mut(name)
            {
                record.forget_next();
            }
            return;
        }
        if !record.is_run(run) {
            return;
        }
        match exit.code {
            Exit::DONE | Exit::STOPPED => {
                tracing::info!(module = %name, code = exit.code, reason = exit.reason, "ended")
            }
            _ => {
                tracing::error!(module = %name, code = exit.code, reason = exit.reason, backtrace = ?exit.backtrace, "ended")
            }
        }
        let code = exit.code;
        let restart = record.ended(exit, now, utc);
        self.observed.happened(name, planner::Event::Exited(code), now);
        if restart {
            self.make_startable(name);
        }
    }

    /// An operator's restart is at once: the back-off is for what fails by itself.
    fn restart(&mut self, name: &ModuleName) -> Result<(), String> {
        let Some(spec) = self.desired.modules.get(name) else {
            return Err(format!("there is no module `{name}` in the deployment"));
        };
        if spec.desired_status == DesiredStatus::Stopped {
            return Err(format!("module `{name}` is stopped by its deployment; set its status to `running`"));
        }
        let Some(module) = self.observed.modules.get_mut(name) else { return Ok(()) };
        match module.state {
            ModuleState::Running { .. } | ModuleState::Starting => {
                module.state = ModuleState::Stopping;
                if let Some(record) = self.records.get_mut(name) {
                    record.restart_requested = true;
                }
                self.stop(name);
            }
            // Asked for twice, or on its way anyway.
            ModuleState::Stopping | ModuleState::Preparing | ModuleState::Prepared => {}
            ModuleState::PrepareFailed { .. } => {
                self.observed.modules.remove(name);
            }
            ModuleState::Stopped | ModuleState::Exited { .. } => self.make_startable(name),
        }
        Ok(())
    }

    fn make_startable(&mut self, name: &ModuleName) {
        let ready = self.records.get(name).is_some_and(|record| record.prepared.is_some());
        if let Some(module) = self.observed.modules.get_mut(name)
            && ready
        {
            module.state = ModuleState::Stopped;
        }
    }

    /// What would be done for this deployment. Nothing is.
    fn explain(&self, desired: &Deployment, at: Option<UtcMillis>) -> Explained {
        let (now, utc) = (self.worlds.clock.uptime(), self.worlds.clock.utc());
        let at = at.unwrap_or(utc);
        // An earlier time than this host's start is its start.
        let then = Uptime(now.0.saturating_add(at.0.saturating_sub(utc.0)).saturating_sub(utc.0.saturating_sub(at.0)));
        if desired.registry_credentials == self.desired.registry_credentials {
            return explain(desired, &self.observed, then, at);
        }
        let mut observed = self.observed.clone();
        observed.forget_refusals();
        explain(desired, &observed, then, at)
    }

    fn sent_by(&self, name: &ModuleName) -> u64 {
        self.worlds.router.sources().sent_by(name.as_str())
    }

    fn status(&self) -> Status {
        let (now, utc) = (self.worlds.clock.uptime(), self.worlds.clock.utc());
        let module = |(name, spec): (&ModuleName, &ModuleSpec)| -> ModuleStatus {
            let record = self.records.get(name);
            let mut status =
                record::module_status(spec, self.observed.modules.get(name), record, self.sent_by(name), now);
            if record.is_some_and(Record::is_dead_end) && !self.worlds.router.inputs_of(name.as_str()).is_empty() {
                status.description.push_str("; routes lead to it, but it takes no messages");
            }
            status
        };
        let mut modules: Vec<ModuleStatus> = self.desired.modules.iter().map(module).collect();
        for (name, observed) in &self.observed.modules {
            if !self.desired.modules.contains_key(name) {
                let (record, sent) = (self.records.get(name), self.sent_by(name));
                modules.push(record::module_status(&observed.spec, Some(observed), record, sent, now));
            }
        }
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            device_id: self.worlds.device_id.clone(),
            deployment_version: self.version,
            uptime_ms: now.0,
            modules,
            queues: self.worlds.router.endpoints().iter().map(|endpoint| queue_status(endpoint, utc)).collect(),
            no_route: self.worlds.router.sources().no_route(),
            endpoint_removed: self.worlds.router.endpoint_removed(),
            upstream_error: self.worlds.router.upstream_error(),
            message_log: message_log_status(self.worlds.router.storage().facts()),
        }
    }
}

fn message_log_status(facts: crate::storage::Facts) -> MessageLogStatus {
    let crate::storage::Facts { room, damaged, lost, dead_letters, error } = facts;
    MessageLogStatus { bytes: room.disk_bytes, max_bytes: room.max_bytes, damaged, lost, dead_letters, error }
}

fn queue_status(endpoint: &crate::endpoint::Endpoint, now: marram_core::time::UtcMillis) -> QueueStatus {
    let stats = endpoint.stats();
    QueueStatus {
        endpoint: match &endpoint.sink {
            marram_core::route::Sink::Upstream => "$upstream".into(),
            marram_core::route::Sink::Input { module, input } => format!("{module}/{input}"),
        },
        length: stats.len,
        bytes: stats.bytes,
        max_bytes: stats.max_bytes,
        // The clock may have been set back since.
        oldest_ms: stats.oldest.map(|oldest| now.0.saturating_sub(oldest.0)),
        accepted: stats.accepted,
        delivered: stats.handled.total(),
        retried: stats.retried,
        dropped: stats.given_up.totals().into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
    }
}

async fn sleep_until(clock: Clock, at: Option<Uptime>) {
    match at {
        Some(at) => tokio::time::sleep_until(clock.instant(at)).await,
        None => std::future::pending().await,
    }
}

/// All that an instance's task needs.
struct StartedModule {
    spec: ModuleSpec,
    component: Arc<dyn Component>,
    info: ModuleInfo,
    stop: Arc<StopSignal>,
    /// An update waits here once it is up, until the old version has ended.
    gate: Option<oneshot::Receiver<()>>,
    sequence: Arc<AtomicU64>,
    logs: Arc<LogBuffer>,
    memory: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    clock: Clock,
    router: Arc<Router>,
    twins: Arc<Twins>,
    state: Arc<StateCell>,
}

impl StartedModule {
    async fn run(self, up: oneshot::Sender<()>) -> Exit {
        let name = self.info.module_id.clone();
        let twin = match self.twins.cell(&name).await {
            Ok(twin) => twin,
            Err(error) => return Exit::new(1, format!("its twin cannot be read: {error}")),
        };
        let bell = self.router.doorbell(name.as_str());
        twin.ring_at_change(bell.clone());
        let exports = self.component.exports();
        let link = Arc::new(ModuleLink::new(LinkParts {
            info: self.info,
            clock: self.clock,
            router: self.router.clone(),
            sequence: self.sequence,
            twin: twin.clone(),
            state: self.state,
            hears_timers: exports.timer,
            stop: self.stop.clone(),
            received: self.received.clone(),
            logs: self.logs,
        }));
        let task = ModuleTask {
            clock: self.clock,
            router: self.router,
            link: link.clone(),
            twin,
            stop: self.stop.clone(),
            gate: self.gate,
            bell,
            module: name.shared(),
            memory: self.memory,
            received: self.received,
        };
        let instance = tokio::select! {
            biased;
            instance = self.component.instantiate(&self.spec, link) => instance,
            () = self.stop.stopped() => return Exit::new(Exit::STOPPED, "stopped before it was up"),
        };
        match instance {
            Ok(instance) => {
                let ready = || {
                    let _ = up.send(());
                };
                task.run(instance, exports, self.component.imports_inbox(), ready).await
            }
            Err(exit) => exit,
        }
    }
}
