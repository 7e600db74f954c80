//! What the planner wants done: begins it. What becomes of it comes back as events.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use marram_core::{
    deployment::ModuleSpec,
    name::ModuleName,
    planner::Step,
    ports::{Component, Exit, FetchRequest, ModuleInfo, Progress},
};
use tokio::sync::oneshot;

use super::{
    Event, Supervisor, Unprepared,
    instance::StartedModule,
    record::{Preparation, Record, Running, Update},
};
use crate::delivery::StopSignal;

/// How long an instance may take to end after it was asked to, before it is stopped in the middle of a call.
const STOP_GRACE: Duration = Duration::from_secs(10);

impl Supervisor {
    pub(super) fn issue(&mut self, step: &Step) {
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
            Step::Stop(name) | Step::End(name) => self.stop(name),
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
            let unprepared = |reason, unreachable| Unprepared { reason, unreachable };
            let fetched = images.fetch(request).await;
            let artifact = fetched.map_err(|error| unprepared(error.to_string(), error.transient))?;
            let loaded = engine.load(&artifact, &image).await;
            let component = loaded.map_err(|error| unprepared(error.to_string(), false))?;
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
                Err(error) => {
                    let reason = format!("internal error while preparing: {error}");
                    Err(Unprepared { reason, unreachable: false })
                }
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

    pub(super) fn promote(&mut self, name: &ModuleName) {
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
            methods: self.worlds.methods.clone(),
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

    pub(super) fn stop(&mut self, name: &ModuleName) {
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
}
