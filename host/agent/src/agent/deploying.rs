//! The deployment that is in force: read, stored, resumed, replaced.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use marram_core::{
    deployment::Deployment,
    manifest::{self, Faults, Finding},
    name::ModuleName,
    ports::{DocumentError, Documents},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Agent, StartError};
use crate::{
    supervisor::{Deployed, Event},
    twins::{TwinError, blocking},
};

/// The name of the stored deployment.
const DEPLOYMENT: &str = "deployment";

const FORMAT: u32 = 1;

/// What became of a manifest that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// Version of the deployment in force.
    pub version: u64,
    /// False: it is the one that was in force already.
    pub changed: bool,
    /// Oddities that do not stop it.
    pub warnings: Vec<String>,
}

/// Why a manifest was not accepted. The deployment in force stays.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The document is bad.
    #[error("{0}")]
    Bad(Faults),
    /// It could not be stored.
    #[error("cannot store the deployment: {0}")]
    Store(DocumentError),
    /// It is in force, but a module's desired properties could not be stored.
    #[error("the deployment is in force, but the twin of `{module}` could not be changed: {source}")]
    Twin {
        /// Whose.
        module: ModuleName,
        /// Why.
        source: TwinError,
    },
    /// The host is ending.
    #[error("the host is stopping")]
    Stopping,
}

/// What holds now.
#[derive(Default)]
pub(super) struct InForce {
    pub(super) deployment: Option<Arc<Deployment>>,
    pub(super) version: u64,
    /// False: a twin section could not be stored; the same manifest may be applied again.
    pub(super) complete: bool,
    /// The host is ending: nothing new is taken.
    pub(super) stopping: bool,
}

impl InForce {
    fn set(&mut self, deployment: Arc<Deployment>, version: u64, complete: bool) {
        self.deployment = Some(deployment);
        self.version = version;
        self.complete = complete;
    }
}

/// The stored deployment.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    format: u32,
    version: u64,
    accepted_ms: u64,
    /// As it was written: the order of its keys matters, and numbers keep their text.
    manifest: Box<RawValue>,
}

impl Stored {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice::<Self>(bytes) {
            Ok(stored) if stored.format == FORMAT => Ok(stored),
            Ok(stored) => Err(format!("was written by a newer version of Marram (format {})", stored.format)),
            Err(error) => Err(format!("cannot be read: {error}")),
        }
    }
}

/// The stored deployment cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the stored deployment {0}")]
pub struct ReadError(String);

/// The deployment that a host on these documents would begin with; none = none is stored.
pub(crate) fn read_stored(
    documents: &dyn Documents,
    check_image: fn(&str) -> Result<(), String>,
) -> Result<Option<Deployment>, ReadError> {
    let document = documents.read(DEPLOYMENT).map_err(|error| ReadError(format!("cannot be read: {error}")))?;
    let Some(document) = document else { return Ok(None) };
    let stored = Stored::read(&document.bytes).map_err(ReadError)?;
    let context = manifest::Context::new(&check_image);
    let reading = manifest::read(stored.manifest.get(), &context);
    reading.map(|reading| Some(reading.deployment)).map_err(|faults| ReadError(format!("is not valid here: {faults}")))
}

impl Agent {
    /// Applies the manifest to begin with; a bad one leaves the stored deployment in force. One that says what is stored
    /// already is no new deployment, and is resumed like it: without any network.
    pub(super) async fn begin_with(self: &Arc<Self>, text: &str) -> Result<(), StartError> {
        let stored = self.stored().await?;
        let old = stored.as_ref().and_then(|stored| self.read_accepted(stored.manifest.get()).ok());
        let new = self.read_accepted(text).ok();
        if let (Some(stored), Some((old, _)), Some((new, warnings))) = (&stored, old, new)
            && old == new
        {
            let warnings = warnings.iter().map(ToString::to_string).collect();
            let _ = self.initial.set(Ok(Applied { version: stored.version, changed: false, warnings }));
            return self.resume().await;
        }
        // Later deployments count on from the stored one, whether or not it is put in force.
        if let Some(stored) = stored {
            self.deployment_version.store(stored.version, SeqCst);
        }
        let result = self.apply(text).await;
        let resume = matches!(result, Err(ApplyError::Bad(_) | ApplyError::Store(_)));
        let _ = self.initial.set(result);
        if resume {
            self.resume().await?;
        }
        Ok(())
    }

    /// What became of [`crate::Config::initial`]; none when there was none.
    #[must_use]
    pub fn initial(&self) -> Option<&Result<Applied, ApplyError>> {
        self.initial.get()
    }

    async fn stored(&self) -> Result<Option<Stored>, StartError> {
        let documents = self.documents.clone();
        let Some(document) = blocking(move || documents.read(DEPLOYMENT)).await? else { return Ok(None) };
        if let Some(reason) = document.recovered {
            tracing::warn!(reason, "the stored deployment was damaged; going on with the one before");
        }
        match Stored::read(&document.bytes) {
            Ok(stored) => Ok(Some(stored)),
            Err(why) => {
                tracing::error!("the stored deployment {why}; apply a manifest to replace it");
                Ok(None)
            }
        }
    }

    /// Puts the stored deployment in force.
    pub(super) async fn resume(&self) -> Result<(), StartError> {
        let mut in_force = self.in_force.lock().await;
        let Some(stored) = self.stored().await? else { return Ok(()) };
        self.deployment_version.store(stored.version, SeqCst);
        let version = stored.version;
        match self.read_accepted(stored.manifest.get()) {
            Ok((deployment, _)) => {
                if let Err(faults) = self.read(stored.manifest.get()) {
                    tracing::warn!(%faults, "the stored deployment would not be accepted any more; it goes on");
                }
                tracing::info!(version, modules = deployment.modules.len(), "resuming the stored deployment");
                let deployment = Arc::new(deployment);
                let complete = self.put_in_force(deployment.clone(), version, true).await;
                if let Err(error) = &complete {
                    tracing::error!(%error, "the stored deployment is not wholly in force");
                }
                in_force.set(deployment, version, complete.is_ok());
            }
            Err(faults) => tracing::error!(%faults, "the stored deployment is not valid for this version of Marram"),
        }
        Ok(())
    }

    /// What a manifest means that is to be accepted now.
    pub(crate) fn read(&self, text: &str) -> Result<(Deployment, Vec<Finding>), Faults> {
        self.read_within(text, self.max_memory)
    }

    /// What one means that was accepted before. A ceiling that was lowered since counts for the next one: it must not leave a
    /// device without any.
    fn read_accepted(&self, text: &str) -> Result<(Deployment, Vec<Finding>), Faults> {
        self.read_within(text, None)
    }

    fn read_within(&self, text: &str, max_memory: Option<u64>) -> Result<(Deployment, Vec<Finding>), Faults> {
        let context = manifest::Context { max_memory, ..manifest::Context::new(&self.check_image) };
        manifest::read(text, &context).map(|reading| (reading.deployment, reading.warnings))
    }

    /// Checks a manifest, stores it and puts it in force. A bad one changes nothing. Once it is being stored it is put in force also
    /// when nobody waits for that any more.
    ///
    /// # Errors
    /// [`ApplyError`]; only [`ApplyError::Twin`] leaves the new deployment in force.
    pub async fn apply(self: &Arc<Self>, text: &str) -> Result<Applied, ApplyError> {
        let mut in_force = self.in_force.clone().lock_owned().await;
        if in_force.stopping {
            return Err(ApplyError::Stopping);
        }
        let (deployment, warnings) = self.read(text).map_err(ApplyError::Bad)?;
        let warnings = warnings.iter().map(ToString::to_string).collect();
        let (agent, text) = (self.clone(), text.to_owned());
        // A task: a caller who goes away amid it must not leave what is stored and what is in force different.
        let applying = tokio::spawn(async move { agent.apply_read(&mut in_force, &text, deployment.into()).await });
        let (version, changed) = match applying.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(result) => result?,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => return Err(ApplyError::Stopping),
        };
        Ok(Applied { version, changed, warnings })
    }

    async fn apply_read(
        &self,
        in_force: &mut InForce,
        text: &str,
        deployment: Arc<Deployment>,
    ) -> Result<(u64, bool), ApplyError> {
        if in_force.deployment.as_ref() == Some(&deployment) {
            let (version, changed) = (in_force.version, !in_force.complete);
            if changed {
                self.apply_sections(&deployment, version).await?;
                in_force.complete = true;
            }
            return Ok((version, changed));
        }
        let version = self.deployment_version.load(SeqCst) + 1;
        self.store(text, version).await.map_err(ApplyError::Store)?;
        self.deployment_version.store(version, SeqCst);
        tracing::info!(
            version,
            modules = deployment.modules.len(),
            routes = deployment.routes.len(),
            "deployment accepted"
        );
        let result = self.put_in_force(deployment.clone(), version, false).await;
        in_force.set(deployment, version, result.is_ok());
        result.map(|()| (version, true))
    }

    async fn store(&self, text: &str, version: u64) -> Result<(), DocumentError> {
        let internal = |error: serde_json::Error| DocumentError(format!("the manifest cannot be kept: {error}"));
        // As the reader does: some editors put a byte order mark first.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let manifest = RawValue::from_string(text.to_owned()).map_err(internal)?;
        let stored = Stored { format: FORMAT, version, accepted_ms: self.clock.utc().0, manifest };
        let bytes = serde_json::to_vec(&stored).map_err(internal)?;
        let documents = self.documents.clone();
        blocking(move || documents.write(DEPLOYMENT, &bytes)).await
    }

    /// Twins first, so that a module that starts sees its section; then routes, so that its first message finds them.
    async fn put_in_force(
        &self,
        deployment: Arc<Deployment>,
        version: u64,
        prefer_cached: bool,
    ) -> Result<(), ApplyError> {
        let sections = self.apply_sections(&deployment, version).await;
        self.router.apply(deployment.clone()).await;
        self.methods.deploy(deployment.modules.keys());
        if let Some(collector) = &self.collector {
            // Before anything of it is asked for.
            collector.want(deployment.clone()).await;
        }
        let (twins, modules) = (self.twins.clone(), deployment.clone());
        // Now that their routes are there. It may wait for room.
        tokio::spawn(async move { twins.tell_what_is_left(modules.modules.keys()).await });
        let deployed = Deployed { deployment, version, prefer_cached };
        self.events.send(Event::Deployed(deployed)).await.map_err(|_| ApplyError::Stopping)?;
        sections
    }

    /// Applies the sections of all modules; the others too when one fails.
    async fn apply_sections(&self, deployment: &Deployment, version: u64) -> Result<(), ApplyError> {
        let mut result = Ok(());
        for (module, section) in &deployment.twins {
            if let Err(source) = self.apply_section(module, section.clone(), version).await {
                result = Err(ApplyError::Twin { module: module.clone(), source });
            }
        }
        result
    }

    async fn apply_section(
        &self,
        module: &ModuleName,
        section: serde_json::Map<String, serde_json::Value>,
        version: u64,
    ) -> Result<(), TwinError> {
        self.twins.cell(module).await?.apply_section(section, version).await
    }
}
