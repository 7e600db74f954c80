//! Brings twins and upstream together: hands over what was reported, and takes what the cloud wants. When is `core::twin`'s.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use marram_core::{
    name::ModuleName,
    ports::{Reported, UpstreamError, UpstreamEvent, UpstreamTwins},
    twin::{CloudPatch, Merged, SyncStep, TwinSync},
};
use tokio::sync::{Notify, mpsc, watch};

use super::Twins;
use crate::{clock::Clock, delivery::sleep_until};

/// Events of upstream that wait. A cloud session hands over one at a time and waits for room here.
pub(crate) const EVENTS: usize = 64;

/// Time for the last reports at a stop. The journal takes them in milliseconds; a cloud that does not gets them at the next start.
const LAST_REPORTS: Duration = Duration::from_secs(3);

/// Modules that have reported something.
#[derive(Default)]
pub(crate) struct Unsent {
    modules: Mutex<BTreeSet<ModuleName>>,
    /// The modules that are deployed since this was asked last.
    deployed: Mutex<Option<Vec<ModuleName>>>,
    bell: Notify,
}

impl Unsent {
    pub(super) fn add(&self, module: &ModuleName) {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner).insert(module.clone());
        self.bell.notify_one();
    }

    /// These modules are deployed now.
    pub(super) fn deploy(&self, modules: Vec<ModuleName>) {
        *self.deployed.lock().unwrap_or_else(PoisonError::into_inner) = Some(modules);
        self.bell.notify_one();
    }

    fn take_deployed(&self) -> Option<Vec<ModuleName>> {
        self.deployed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn take(&self) -> BTreeSet<ModuleName> {
        std::mem::take(&mut *self.modules.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The task.
pub(crate) struct SyncTask {
    pub(crate) clock: Clock,
    pub(crate) twins: Arc<Twins>,
    pub(crate) upstream: Arc<dyn UpstreamTwins>,
    pub(crate) events: mpsc::Receiver<UpstreamEvent>,
    /// True: nothing more is coming.
    pub(crate) closing: watch::Receiver<bool>,
}

impl SyncTask {
    /// Ends when `closing` is set, and what was reported is handed over or has had its time.
    pub(crate) async fn run(mut self) {
        let mut sync = TwinSync::default();
        while !*self.closing.borrow_and_update() {
            if let Some(modules) = self.twins.unsent().take_deployed() {
                sync.deployed(modules);
            }
            self.twins.unsent().take().into_iter().for_each(|module| sync.reported(module));
            if let Some(step) = sync.next(self.clock.uptime()) {
                self.carry_out(&mut sync, &step).await;
                continue;
            }
            let unsent = self.twins.unsent().clone();
            tokio::select! {
                biased;
                Some(event) = self.events.recv() => self.note(&mut sync, event).await,
                () = unsent.bell.notified() => {}
                () = sleep_until(self.clock, sync.next_due()) => {}
                changed = self.closing.changed() => if changed.is_err() { break },
            }
        }
        self.twins.unsent().take().into_iter().for_each(|module| sync.reported(module));
        let last = async {
            for module in sync.unreported() {
                if self.report(module).await.is_err() {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(LAST_REPORTS, last).await;
    }

    async fn note(&self, sync: &mut TwinSync, event: UpstreamEvent) {
        match event {
            UpstreamEvent::Connected => sync.connected(self.twins.deployed()),
            UpstreamEvent::DesiredChanged { module, patch_json } => {
                let merged = match CloudPatch::read(&patch_json) {
                    Ok(change) => self.merge(&module, change).await,
                    Err(error) => Err(error.to_string()),
                };
                match merged {
                    Ok(Merged::InForce | Merged::Known) => {}
                    Ok(Merged::Gap) => sync.gap(module),
                    Err(error) => {
                        tracing::warn!(%module, error, "cannot merge a change of the cloud; asking for the whole twin");
                        sync.gap(module);
                    }
                }
            }
        }
    }

    async fn merge(&self, module: &ModuleName, change: CloudPatch) -> Result<Merged, String> {
        let cell = self.twins.cell(module).await.map_err(|error| error.to_string())?;
        cell.merge_cloud_patch(change).await.map_err(|error| error.to_string())
    }

    async fn carry_out(&self, sync: &mut TwinSync, step: &SyncStep) {
        let result = match step {
            SyncStep::Fetch(module) => self.fetch(module).await,
            SyncStep::Report(module) => self.report(module).await,
        };
        match result {
            Ok(()) => sync.done(step, self.clock.uptime()),
            Err(error) => {
                let (what, module) = match step {
                    SyncStep::Fetch(module) => ("upstream does not tell a module's twin; asking again", module),
                    SyncStep::Report(module) => ("upstream does not take reported properties; they are kept", module),
                };
                tracing::warn!(%module, %error, "{what}");
                self.twins.note_retry(step);
                sync.failed(step, self.clock.uptime(), self.clock.jitter());
            }
        }
    }

    async fn fetch(&self, module: &ModuleName) -> Result<(), UpstreamError> {
        let Some(cloud) = self.upstream.twin(module).await? else { return Ok(()) };
        let cell = self.twins.cell(module).await.map_err(|error| UpstreamError(error.to_string()))?;
        match cell.take_cloud_twin(cloud).await {
            Ok(()) => Ok(()),
            // Trying again would not help: the next change in the cloud may.
            Err(super::TwinError::Limit(faults)) => {
                tracing::error!(%module, %faults, "the cloud's desired properties break a limit; those before stay in force");
                Ok(())
            }
            Err(error) => Err(UpstreamError(error.to_string())),
        }
    }

    async fn report(&self, module: &ModuleName) -> Result<(), UpstreamError> {
        let cell = self.twins.cell(module).await.map_err(|error| UpstreamError(error.to_string()))?;
        let twin = cell.twin();
        let Some(unreported) = twin.unreported() else { return Ok(()) };
        let reported = Reported {
            module: module.clone(),
            version: unreported.version,
            patch: unreported.patch,
            at: self.clock.utc(),
        };
        let begun = self.clock.uptime();
        self.upstream.report(&reported).await?;
        cell.counts.note_handed_over(self.clock.uptime().since(begun));
        cell.note(|now| now.upstream_took(twin.reported())).await;
        Ok(())
    }
}
