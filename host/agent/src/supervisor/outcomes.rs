//! What has happened: folds it into what is observed. Starts nothing; the next plan does.

use std::sync::Arc;

use marram_core::{
    deployment::DesiredStatus,
    name::ModuleName,
    planner::{self, ModuleState, needs_new_instance},
    ports::{Artifact, Component, Exit},
    time::UtcMillis,
    traps::{Trap, is_trap},
};

use super::{
    Supervisor, Unprepared,
    record::{Prepared, Record},
};

impl Supervisor {
    /// Notes from when on which modules should run.
    pub(super) fn expect_running(&mut self) {
        let now = self.worlds.clock.uptime();
        for (name, record) in &mut self.records {
            let wanted =
                self.desired.modules.get(name).is_some_and(|spec| spec.desired_status == DesiredStatus::Running);
            if wanted { record.tally.expected.begin(now) } else { record.tally.expected.end(now) }
        }
    }

    /// Routes into a module that takes no messages are no fault (it may take them in its next version), but what they bring
    /// waits in vain.
    pub(super) fn warn_of_dead_end(&self, name: &ModuleName, record: &Record) {
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
    pub(super) fn forget_refusals(&mut self) {
        for name in self.observed.forget_refusals() {
            if let Some(record) = self.records.get_mut(&name) {
                record.forget_next();
            }
        }
    }

    /// A version that is not wanted any more, because the deployment is back at the one that runs: neither its component
    /// nor what was wrong with it is kept.
    pub(super) fn forget_updates_taken_back(&mut self) {
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

    pub(super) fn on_prepared(
        &mut self,
        name: &ModuleName,
        run: u64,
        result: Result<(Artifact, Arc<dyn Component>), Unprepared>,
    ) {
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
            Err(Unprepared { reason, unreachable }) => {
                tracing::error!(module = %name, reason, "cannot be prepared");
                record.prepare_error = Some(reason);
                record.unreachable = unreachable;
                planner::Event::PrepareFailed
            }
        };
        self.observed.happened(name, event, now);
        self.forget_updates_taken_back();
    }

    pub(super) fn on_up(&mut self, name: &ModuleName, run: u64) {
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

    pub(super) fn on_ended(&mut self, name: &ModuleName, run: u64, exit: Exit) {
        let (now, utc) = (self.worlds.clock.uptime(), self.worlds.clock.utc());
        let exit = self.why_it_ended(name, run, exit);
        self.keep_trap(name, run, &exit, utc);
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
        tell_end(name, &exit);
        let code = exit.code;
        let restart = record.ended(exit, now, utc);
        self.observed.happened(name, planner::Event::Exited(code), now);
        if restart {
            self.make_startable(name);
        }
    }

    /// Keeps in mind what ended an instance, if it was not its own will.
    pub(super) fn keep_trap(&self, name: &ModuleName, run: u64, exit: &Exit, at: UtcMillis) {
        let known = self.records.get(name).zip(self.observed.modules.get(name));
        let of_now = known.filter(|(record, _)| is_trap(exit) && (record.is_update(run) || record.is_run(run)));
        let Some((record, module)) = of_now else {
            if let Some(dump) = exit.core_dump.as_deref().cloned() {
                self.worlds.traps.forget_soon(dump);
            }
            return;
        };
        let is_update = record.is_update(run);
        let spec = module.next.as_ref().filter(|_| is_update).map_or(&module.spec, |next| &next.spec);
        let prepared = if is_update { &record.next } else { &record.prepared };
        let trap = Trap {
            module: name.clone(),
            at,
            exit_code: exit.code,
            reason: exit.reason.clone(),
            backtrace: exit.backtrace.clone(),
            during: exit.during.as_deref().cloned(),
            deployment: self.version,
            image: spec.image.clone(),
            digest: prepared.as_ref().map(|prepared| prepared.artifact.manifest_digest.clone()),
            core_dump: exit.core_dump.as_deref().cloned(),
        };
        self.worlds.traps.keep_soon(trap);
    }

    /// An operator's restart is at once: the back-off is for what fails by itself.
    pub(super) fn restart(&mut self, name: &ModuleName) -> Result<(), String> {
        let Some(spec) = self.desired.modules.get(name) else {
            return Err(format!("there is no module `{name}` in the deployment"));
        };
        if spec.desired_status == DesiredStatus::Stopped {
            return Err(format!("module `{name}` is stopped by its deployment; set its status to `running`"));
        }
        let Some(module) = self.observed.modules.get_mut(name) else { return Ok(()) };
        match module.state {
            ModuleState::Running { .. } | ModuleState::Ending { .. } | ModuleState::Starting => {
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

    pub(super) fn make_startable(&mut self, name: &ModuleName) {
        let ready = self.records.get(name).is_some_and(|record| record.prepared.is_some());
        if let Some(module) = self.observed.modules.get_mut(name)
            && ready
        {
            module.state = ModuleState::Stopped;
        }
    }
}

/// In the host's log.
pub(super) fn tell_end(name: &ModuleName, exit: &Exit) {
    match exit.code {
        Exit::DONE | Exit::STOPPED => {
            tracing::info!(module = %name, code = exit.code, reason = exit.reason, "ended")
        }
        _ => {
            tracing::error!(module = %name, code = exit.code, reason = exit.reason, backtrace = ?exit.backtrace, "ended")
        }
    }
}
