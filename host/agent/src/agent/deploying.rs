//! The deployment that is in force: read, stored, resumed, replaced.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use marram_core::{
    deployment::Deployment,
    manifest::{self, Faults, Finding},
    name::ModuleName,
    ports::DocumentError,
    reported::{self, Code, Refusal},
    rollout::{Entry, History, Way, manifest_digest},
};
use serde::{Deserialize, Serialize};

use super::{
    Agent,
    sections::Missing,
    stored::{Lost, Stored},
};
use crate::{
    supervisor::{Deployed, Event},
    twins::TwinError,
};

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
    /// It is not put in force as things are; says why and what to do.
    #[error("{0}")]
    Refused(String),
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
    /// Which, and why; it is tried again.
    pub(super) missing: Missing,
    /// The one that should be in its place, of what was stored at the start.
    pub(super) lost: Option<Lost>,
    /// The host is ending: nothing new is taken.
    pub(super) stopping: bool,
    /// This deployment and those before it.
    pub(super) history: History,
    /// There was an earlier one, and it cannot be read.
    pub(super) history_lost: bool,
    /// Digests of the manifests that are stored for the history.
    pub(super) texts: BTreeSet<String>,
    /// Why the manifest that came after it was refused.
    pub(super) refused: Option<Refusal>,
}

/// Why a manifest that was rolled back is refused.
fn not_again(bad: &Entry) -> String {
    let (version, reason) = (bad.accepted.version, bad.reason.as_deref().unwrap_or("it was not good"));
    format!(
        "this manifest was rolled back as deployment {version} ({reason}) and is not tried again until it changes; \
         `marram rollback --to {version}` puts it in force nevertheless"
    )
}

impl InForce {
    /// Another one is, and how far is not known yet.
    pub(super) fn set(&mut self, deployment: Arc<Deployment>, version: u64) {
        self.deployment = Some(deployment);
        self.version = version;
        self.complete = false;
        self.missing = Missing::default();
        self.lost = None;
    }
}

impl Agent {
    /// Applies the manifest to begin with; a bad one leaves the stored deployment in force. One that says what is stored
    /// already is no new deployment, and is resumed like it: without any network.
    pub(super) async fn begin_with(self: &Arc<Self>, text: &str) {
        let (stored, _) = self.stored(&self.in_force.lock().await.history).await;
        let old = stored.as_ref().and_then(|stored| self.read_accepted(stored.manifest.get()).ok());
        let new = self.read_accepted(text).ok();
        if let (Some(stored), Some((old, _)), Some((new, warnings))) = (&stored, &old, &new)
            && old == new
        {
            self.resume().await;
            let in_force = self.in_force.lock().await;
            let initial = match in_force.history.rolled_back(&manifest_digest(text)) {
                Some(bad) if in_force.version != stored.version => Err(ApplyError::Refused(not_again(bad))),
                _ => {
                    let warnings = warnings.iter().map(ToString::to_string).collect();
                    Ok(Applied { version: in_force.version, changed: in_force.version != stored.version, warnings })
                }
            };
            let _ = self.initial.set(initial);
            return;
        }
        // Later deployments count on from the stored one, whether or not it is put in force.
        if let Some(stored) = stored {
            let mut in_force = self.in_force.lock().await;
            self.remember(&mut in_force, &stored);
            if let Some((old, _)) = old {
                in_force.set(old.into(), stored.version);
            }
        }
        let result = self.apply_from(Way::File, text).await;
        let resume = matches!(result, Err(ApplyError::Bad(_) | ApplyError::Store(_) | ApplyError::Refused(_)));
        let _ = self.initial.set(result);
        if resume {
            self.resume().await;
        }
    }

    /// What became of [`crate::Config::initial`]; none when there was none.
    #[must_use]
    pub fn initial(&self) -> Option<&Result<Applied, ApplyError>> {
        self.initial.get()
    }

    /// Puts the stored deployment in force; or, if it is known to be bad, the one that takes its place.
    pub(super) async fn resume(self: &Arc<Self>) {
        let mut in_force = self.in_force.lock().await;
        let (stored, lost) = self.stored(&in_force.history).await;
        let Some(stored) = stored else {
            in_force.version = in_force.history.newest();
            self.go_back(&mut in_force, "it is lost".into()).await;
            return;
        };
        let version = stored.version;
        self.remember(&mut in_force, &stored);
        let deployment = match self.read_accepted(stored.manifest.get()) {
            Ok((deployment, _)) => Arc::new(deployment),
            Err(faults) => {
                tracing::error!(%faults, "the stored deployment is not valid for this version of Marram");
                let fault = faults.0.first().map(|fault| format!(": {fault}")).unwrap_or_default();
                (in_force.deployment, in_force.version) = (None, version);
                self.go_back(&mut in_force, format!("its manifest is not valid for this version of Marram{fault}"))
                    .await;
                return;
            }
        };
        if let Err(faults) = self.read(stored.manifest.get()) {
            tracing::warn!(%faults, "the stored deployment would not be accepted any more; it goes on");
        }
        in_force.set(deployment.clone(), version);
        in_force.lost = lost;
        if self.replace_at_boot(&mut in_force).await {
            return;
        }
        tracing::info!(version, modules = deployment.modules.len(), "resuming the stored deployment");
        let missing = self.put_in_force(&in_force, true).await;
        if let Err(error) = missing.and_then(|missing| self.note_complete(&mut in_force, missing)) {
            tracing::error!(%error, "the stored deployment is not wholly in force");
        }
    }

    /// What a manifest means that is to be accepted now.
    pub(crate) fn read(&self, text: &str) -> Result<(Deployment, Vec<Finding>), Faults> {
        self.read_within(text, self.max_memory)
    }

    /// What one means that was accepted before. A ceiling that was lowered since counts for the next one: it must not leave a
    /// device without any.
    pub(super) fn read_accepted(&self, text: &str) -> Result<(Deployment, Vec<Finding>), Faults> {
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
        self.apply_from(Way::Apply, text).await
    }

    /// The same for the file that the host follows.
    ///
    /// # Errors
    /// As [`Agent::apply`].
    pub async fn apply_file(self: &Arc<Self>, text: &str) -> Result<Applied, ApplyError> {
        self.apply_from(Way::File, text).await
    }

    async fn apply_from(self: &Arc<Self>, way: Way, text: &str) -> Result<Applied, ApplyError> {
        let mut in_force = self.in_force.clone().lock_owned().await;
        if in_force.stopping {
            return Err(ApplyError::Stopping);
        }
        let (deployment, warnings) = match self.read(text) {
            Ok(read) => read,
            Err(faults) => {
                in_force.refused = Some(reported::refusal(text, &faults));
                return Err(ApplyError::Bad(faults));
            }
        };
        let warnings = warnings.iter().map(ToString::to_string).collect();
        let text = text.to_owned();
        let apply =
            move |agent: Arc<Self>| async move { agent.apply_read(&mut in_force, &text, deployment.into(), way).await };
        let (version, changed) = self.see_through(apply).await?;
        Ok(Applied { version, changed, warnings })
    }

    /// In a task: a caller who goes away amid it must not leave what is stored and what is in force different.
    pub(super) async fn see_through<T, F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F) -> Result<T, ApplyError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ApplyError>> + Send + 'static,
    {
        match tokio::spawn(work(self.clone())).await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(result) => result,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => Err(ApplyError::Stopping),
        }
    }

    async fn apply_read(
        &self,
        in_force: &mut InForce,
        text: &str,
        deployment: Arc<Deployment>,
        way: Way,
    ) -> Result<(u64, bool), ApplyError> {
        in_force.refused = None;
        if in_force.deployment.as_ref() == Some(&deployment) {
            let (version, changed) = (in_force.version, !in_force.complete);
            if changed {
                self.complete_sections(in_force, &deployment).await?;
            }
            return Ok((version, changed));
        }
        if let Some(bad) = in_force.history.rolled_back(&manifest_digest(text)) {
            let message = not_again(bad);
            in_force.refused = Some(Refusal { code: Code::Failed, description: message.clone(), hub: None });
            return Err(ApplyError::Refused(message));
        }
        self.accept(in_force, text, deployment, way).await.map(|version| (version, true))
    }

    /// Stores a deployment and puts it in force. Only [`ApplyError::Twin`] leaves it in force.
    pub(super) async fn accept(
        &self,
        in_force: &mut InForce,
        text: &str,
        deployment: Arc<Deployment>,
        way: Way,
    ) -> Result<u64, ApplyError> {
        // What an earlier deployment needs may be had only from the device.
        let prefer_cached = matches!(way, Way::Rollback { .. } | Way::ByHand { .. });
        let version = self.deployment_version.load(SeqCst) + 1;
        let before = [
            self.failing_before(in_force, &deployment, &way).await,
            self.unstored_before(in_force, &deployment, &way).await,
        ];
        let stored = Stored::new(version, self.clock.utc(), way, before, text).map_err(ApplyError::Store)?;
        self.store(&stored).await.map_err(ApplyError::Store)?;
        tracing::info!(
            version,
            modules = deployment.modules.len(),
            routes = deployment.routes.len(),
            "deployment accepted"
        );
        in_force.history.accept(stored.accepted());
        in_force.texts.insert(manifest_digest(stored.manifest.get()));
        self.deployment_version.store(version, SeqCst);
        self.save_history(in_force).await;
        in_force.refused = None;
        in_force.set(deployment, version);
        let missing = self.put_in_force(in_force, prefer_cached).await?;
        self.note_complete(in_force, missing).map(|()| version)
    }

    /// Twins first, so that a module that starts sees its section; then routes, so that its first message finds them.
    pub(super) async fn put_in_force(&self, in_force: &InForce, prefer_cached: bool) -> Result<Missing, ApplyError> {
        let Some(deployment) = in_force.deployment.clone() else { return Ok(Missing::default()) };
        let version = in_force.version;
        let sections = self.apply_sections(in_force, &deployment).await;
        let way_back = self.way_back(in_force).await;
        self.router.apply_on_trial(deployment.clone(), way_back.as_deref()).await;
        self.methods.deploy(deployment.modules.keys());
        let trial = in_force.trial(way_back.as_deref());
        // Before anything of it is asked for.
        self.keep_images(in_force, way_back).await;
        let modules: Vec<ModuleName> = deployment.modules.keys().cloned().collect();
        self.twins.deploy(modules.clone());
        let twins = self.twins.clone();
        // Now that their routes are there.
        tokio::spawn(async move { twins.tell_of(&modules).await });
        let unstored = sections.judged(in_force);
        let deployed = Deployed { deployment, version, prefer_cached, trial, unstored };
        self.events.send(Event::Deployed(deployed)).await.map_err(|_| ApplyError::Stopping)?;
        Ok(sections)
    }

    /// Applies the sections of all modules; the others too when one fails. A rollback concerns also modules without any.
    pub(super) async fn apply_sections(&self, in_force: &InForce, deployment: &Deployment) -> Missing {
        let back_to = match in_force.entry().map(|entry| &entry.accepted.way) {
            Some(Way::Rollback { to, .. } | Way::ByHand { to, .. }) => Some(*to),
            _ => None,
        };
        let others =
            deployment.modules.keys().filter(|name| back_to.is_some() && !deployment.twins.contains_key(*name));
        let sections = deployment.twins.iter().map(|(name, section)| (name, Some(section.clone())));
        let mut missing = Missing::default();
        for (module, section) in sections.chain(others.map(|name| (name, None))) {
            if let Err(error) = self.apply_section(in_force, module, section, back_to).await {
                missing.add(module, error);
            }
        }
        missing
    }

    async fn apply_section(
        &self,
        in_force: &InForce,
        module: &ModuleName,
        section: Option<serde_json::Map<String, serde_json::Value>>,
        back_to: Option<u64>,
    ) -> Result<(), TwinError> {
        let version = in_force.version;
        let good = in_force.history.good_before(version).next().map_or(0, |entry| entry.accepted.version);
        self.twins.cell(module).await?.apply_section(section, version, back_to, good).await
    }
}
