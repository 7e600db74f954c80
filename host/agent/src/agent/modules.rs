//! What may be asked of modules, and done to them.

use std::{sync::Arc, time::Duration};

use marram_core::{
    name::ModuleName,
    ports::CacheError,
    state::StateError,
    twin::{Origin, Twin},
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Agent;
use crate::{
    cache::{CacheStatus, PruneRequest, Pruned},
    logs::{LogLine, LogQuery},
    state::RemoveError,
    status::Status,
    supervisor::Event,
    traps::{ModuleTraps, TrapsError},
    twins::{TwinCell, TwinError, TwinQuery},
};

/// A module's twin as the operator sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TwinView {
    /// The desired properties.
    pub desired: serde_json::Value,
    /// Their version.
    pub desired_version: u64,
    /// Who wrote them: `manifest` (with the deployment's version), `cloud` (with its version) or `local`.
    pub desired_origin: String,
    /// What was changed here since the manifest or the cloud wrote them, as a patch.
    #[serde(default)]
    pub local_changes: serde_json::Value,
    /// The reported properties.
    pub reported: serde_json::Value,
    /// Their version.
    pub reported_version: u64,
    /// Both as IoT Hub shows them to services, with `$version`, and in `$metadata` when what was last changed.
    #[serde(default)]
    pub properties: serde_json::Value,
}

/// Why a question about a module has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// No such module.
    #[error("there is no module `{0}` in the deployment; `marram list` shows the names")]
    Unknown(String),
    /// Its state does not allow it.
    #[error("{0}")]
    Refused(String),
    /// Its twin cannot be read or written.
    #[error(transparent)]
    Twin(#[from] TwinError),
    /// A cache cannot be read or changed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Its durable state cannot be changed.
    #[error("the state of the module could not be removed: {0}")]
    State(StateError),
    /// Its traps cannot be read.
    #[error(transparent)]
    Traps(#[from] TrapsError),
    /// The host is ending.
    #[error("the host is stopping")]
    Stopping,
}

impl TwinView {
    fn of(twin: &Twin) -> Self {
        Self {
            desired: twin.desired().clone().into(),
            desired_version: twin.desired_version(),
            desired_origin: match twin.desired_origin() {
                Origin::Manifest { deployment_version } => format!("manifest (deployment {deployment_version})"),
                Origin::Cloud { version } => format!("cloud (version {version})"),
                Origin::Local => "local".into(),
            },
            local_changes: twin.local_changes().into(),
            reported: twin.reported().clone().into(),
            reported_version: twin.reported_version(),
            properties: twin.properties(),
        }
    }
}

impl Agent {
    /// What everything is doing.
    ///
    /// # Errors
    /// The host is ending.
    pub async fn status(&self) -> Result<Status, ModuleError> {
        self.ask(|reply| Event::Status { reply }).await
    }

    /// The wanted lines of a module's log, oldest first; none when none came while the query waited.
    ///
    /// # Errors
    /// No such module, or the host is ending; a wait ends with it.
    pub async fn logs(&self, module: &str, query: &LogQuery) -> Result<Vec<LogLine>, ModuleError> {
        let name = known_name(module)?;
        let deadline = tokio::time::Instant::now() + query.wait;
        loop {
            let buffer = self.ask(|reply| Event::Logs { name: name.clone(), reply }).await?;
            let lines = async {
                match &buffer {
                    Some(buffer) => buffer.lines(query).await,
                    // Deployed, but never prepared (it is desired stopped): it has printed nothing, and has no log yet that
                    // could tell when it does.
                    None => {
                        let look = tokio::time::Instant::now() + Duration::from_secs(1);
                        tokio::time::sleep_until(look.min(deadline)).await;
                        Vec::new()
                    }
                }
            };
            if buffer.is_none() && !self.is_deployed(&name).await? {
                return Err(ModuleError::Unknown(module.into()));
            }
            let lines = tokio::select! {
                biased;
                lines = lines => lines,
                () = self.stopped() => return Err(ModuleError::Stopping),
            };
            if buffer.is_some() || tokio::time::Instant::now() >= deadline {
                return Ok(lines);
            }
        }
    }

    /// Replaces a module's instance by a new one.
    ///
    /// # Errors
    /// No such module, it is desired stopped, or the host is ending.
    pub async fn restart(&self, module: &str) -> Result<(), ModuleError> {
        let name = known_name(module)?;
        if !self.is_deployed(&name).await? {
            return Err(ModuleError::Unknown(module.into()));
        }
        self.ask(|reply| Event::Restart { name, reply }).await?.map_err(ModuleError::Refused)
    }

    /// Removes all that a module keeps; it need not be deployed any more.
    ///
    /// # Errors
    /// An instance of it runs, or the disk.
    pub async fn remove_state(&self, module: &str) -> Result<(), ModuleError> {
        let name = known_name(module)?;
        self.states.remove(&name).await.map_err(|error| match error {
            RemoveError::InUse => ModuleError::Refused(format!(
                "module `{name}` runs and has its state open; apply a manifest that has it stopped (`\"status\": \"stopped\"`) or \
                 without it, and try again"
            )),
            RemoveError::Disk(error) => ModuleError::State(error),
        })
    }

    /// The last traps of a module, which need not be deployed any more.
    ///
    /// # Errors
    /// There is none, and no such module; those that were kept cannot be read; or the host is ending.
    pub async fn traps(&self, module: &str) -> Result<ModuleTraps, ModuleError> {
        let name = known_name(module)?;
        let traps = self.traps.of(module).await?;
        if traps.traps.is_empty() && !self.is_deployed(&name).await? {
            return Err(ModuleError::Unknown(module.into()));
        }
        Ok(traps)
    }

    /// A module's twin.
    ///
    /// # Errors
    /// No such module, or its twin cannot be read.
    pub async fn twin(&self, module: &str) -> Result<TwinView, ModuleError> {
        self.twin_news(module, &TwinQuery::default()).await
    }

    /// A module's twin, once it is not the one that the query knows, or as it is when the query has waited.
    ///
    /// # Errors
    /// No such module, its twin cannot be read, or the host is ending; a wait ends with it.
    pub async fn twin_news(&self, module: &str, query: &TwinQuery) -> Result<TwinView, ModuleError> {
        let cell = self.deployed_twin(module).await?;
        tokio::select! {
            biased;
            twin = cell.news(query) => Ok(TwinView::of(&twin)),
            () = self.stopped() => Err(ModuleError::Stopping),
        }
    }

    /// Merges a patch into a module's desired properties; returns their version.
    ///
    /// # Errors
    /// No such module, a patch that breaks a rule, or a disk that fails.
    pub async fn set_twin(&self, module: &str, merge_patch_json: &str) -> Result<u64, ModuleError> {
        let cell = self.deployed_twin(module).await?;
        self.complete_section_of(&mut *self.in_force.lock().await, module).await?;
        // Without the lock: a disk that hangs must hold up neither the status nor a stop.
        Ok(cell.set_desired(merge_patch_json).await?)
    }

    async fn deployed_twin(&self, module: &str) -> Result<Arc<TwinCell>, ModuleError> {
        let name = known_name(module)?;
        if !self.is_deployed(&name).await? {
            return Err(ModuleError::Unknown(module.into()));
        }
        Ok(self.twins.cell(&name).await.map_err(TwinError::from)?)
    }

    async fn is_deployed(&self, name: &ModuleName) -> Result<bool, ModuleError> {
        self.ask(|reply| Event::IsDeployed { name: name.clone(), reply }).await
    }

    pub(crate) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, ModuleError> {
        let (reply, answer) = oneshot::channel();
        self.events.send(question(reply)).await.map_err(|_| ModuleError::Stopping)?;
        answer.await.map_err(|_| ModuleError::Stopping)
    }

    /// What the caches hold.
    ///
    /// # Errors
    /// There are none, they cannot be read, or the host is ending.
    pub async fn cache(&self) -> Result<CacheStatus, ModuleError> {
        let collector = self.collector.as_ref().ok_or_else(no_caches)?;
        Ok(collector.status(&self.ask(|reply| Event::Components { reply }).await?).await?)
    }

    /// Removes from the caches what nobody needs.
    ///
    /// # Errors
    /// There are none, they cannot be read or changed, or the host is ending.
    pub async fn prune(&self, request: PruneRequest) -> Result<Pruned, ModuleError> {
        let collector = self.collector.as_ref().ok_or_else(no_caches)?;
        Ok(collector.prune(request, &self.ask(|reply| Event::Components { reply }).await?).await?)
    }
}

fn no_caches() -> ModuleError {
    ModuleError::Refused("this host keeps no cache".into())
}

fn known_name(module: &str) -> Result<ModuleName, ModuleError> {
    ModuleName::new(module).map_err(|_| ModuleError::Unknown(module.into()))
}
