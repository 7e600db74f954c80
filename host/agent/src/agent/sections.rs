//! Sections of twins that could not be stored with their deployment: told, and tried again until they are.

use std::{collections::BTreeMap, sync::Weak};

use marram_core::{deployment::Deployment, name::ModuleName};
use tokio::sync::watch;

use super::{
    Agent, ApplyError,
    deploying::InForce,
    rollout::{FIRST_RETRY, LAST_RETRY},
};
use crate::{
    supervisor::{Event, Unstored},
    twins::TwinError,
};

/// What an attempt at all sections has left to be stored, and why.
#[derive(Clone, Default)]
pub(super) struct Missing(BTreeMap<ModuleName, TwinError>);

impl Missing {
    pub(super) fn add(&mut self, module: &ModuleName, error: TwinError) {
        self.0.insert(module.clone(), error);
    }

    /// The first of them, in words; none: nothing is missing.
    pub(super) fn why(&self) -> Option<String> {
        self.0.first_key_value().map(|(module, error)| why(module, error))
    }

    fn of(&self, module: &str) -> Option<&TwinError> {
        self.0.iter().find(|(name, _)| name.as_str() == module).map(|(_, error)| error)
    }

    /// What is held against the deployment in force: not what was missing before it, and is wanted as it was.
    pub(super) fn judged(&self, in_force: &InForce) -> Option<Unstored> {
        let before = in_force.entry().map(|entry| &entry.accepted.unstored_before);
        let mut judged = self.0.iter().filter(|(module, _)| before.is_none_or(|before| !before.contains(*module)));
        judged.next().map(|(module, error)| Unstored { module: module.clone(), why: why(module, error) })
    }
}

fn why(module: &ModuleName, error: &TwinError) -> String {
    format!("the desired properties of `{module}` could not be stored: {error}")
}

impl Agent {
    /// Notes how far a deployment is in force.
    ///
    /// # Errors
    /// [`ApplyError::Twin`], if it is not wholly.
    pub(super) fn note_complete(&self, in_force: &mut InForce, missing: Missing) -> Result<(), ApplyError> {
        in_force.complete = missing.0.is_empty();
        in_force.missing = missing;
        let Some((module, source)) = in_force.missing.0.first_key_value() else { return Ok(()) };
        self.missing_sections.send_replace(());
        Err(ApplyError::Twin { module: module.clone(), source: source.clone() })
    }

    /// Applies the sections of the deployment in force once more. Modules whose sections are stored now, and that have failed for good without
    /// them, are started again; the trial hears of it when all are stored that it is judged by.
    pub(super) async fn complete_sections(
        &self,
        in_force: &mut InForce,
        deployment: &Deployment,
    ) -> Result<(), ApplyError> {
        let missing = self.apply_sections(in_force, deployment).await;
        let (version, all) = (in_force.version, missing.judged(in_force).is_none());
        let stored = in_force.missing.0.keys().filter(|module| !missing.0.contains_key(*module));
        let modules = stored.cloned().collect();
        // First: who goes away amid it leaves the rest to the next attempt.
        self.events.send(Event::Stored { version, modules, all }).await.map_err(|_| ApplyError::Stopping)?;
        self.note_complete(in_force, missing)
    }

    /// The section that a module lacks comes first: it replaces all, and would undo what is set before it.
    ///
    /// # Errors
    /// It still cannot be stored.
    pub(super) async fn complete_section_of(&self, in_force: &mut InForce, module: &str) -> Result<(), TwinError> {
        let (Some(_), Some(deployment)) = (in_force.missing.of(module), in_force.deployment.clone()) else {
            return Ok(());
        };
        // Told as what is missing yet, which may be that of others alone.
        let _ = self.complete_sections(in_force, &deployment).await;
        in_force.missing.of(module).cloned().map_or(Ok(()), Err)
    }

    /// Tries again until all sections of the deployment in force are stored. True: they are, or nobody wants them any more.
    async fn try_sections(&self) -> bool {
        let mut in_force = self.in_force.lock().await;
        let Some(deployment) = in_force.deployment.clone() else { return true };
        if in_force.stopping || in_force.missing.0.is_empty() {
            return true;
        }
        match self.complete_sections(&mut in_force, &deployment).await {
            Ok(()) => tracing::info!(version = in_force.version, "the deployment is wholly in force now"),
            Err(error @ ApplyError::Twin { .. }) => {
                tracing::warn!(%error, "the deployment is not wholly in force; tried again");
                return false;
            }
            Err(error) => tracing::debug!(%error, "the trial does not hear that the deployment is wholly in force"),
        }
        true
    }
}

/// Looks after the sections that are missing, as long as the agent lives.
pub(super) async fn complete(agent: Weak<Agent>, mut missing: watch::Receiver<()>) {
    while missing.changed().await.is_ok() {
        let mut wait = FIRST_RETRY;
        loop {
            tokio::time::sleep(wait).await;
            let Some(agent) = agent.upgrade() else { return };
            if agent.try_sections().await {
                break;
            }
            wait = (wait * 2).min(LAST_RETRY);
        }
    }
}
