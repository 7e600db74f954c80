//! Sections of twins that could not be stored with their deployment: told, and tried again until they are.

use std::sync::Weak;

use marram_core::deployment::Deployment;
use tokio::sync::watch;

use super::{
    Agent, ApplyError,
    deploying::InForce,
    rollout::{FIRST_RETRY, LAST_RETRY},
};
use crate::supervisor::{Event, Unstored};

/// What an attempt at all sections has left to be stored.
pub(super) fn unstored(result: &Result<(), ApplyError>) -> Option<Unstored> {
    let Err(ApplyError::Twin { module, source }) = result else { return None };
    let why = format!("the desired properties of `{module}` could not be stored: {source}");
    Some(Unstored { module: module.clone(), why })
}

impl Agent {
    /// Notes how far a deployment is in force.
    pub(super) fn note_complete(&self, in_force: &mut InForce, result: &Result<(), ApplyError>) {
        in_force.complete = result.is_ok();
        in_force.incomplete = unstored(result).map(|unstored| unstored.why);
        if in_force.incomplete.is_some() {
            self.missing_sections.send_replace(());
        }
    }

    /// Applies the sections of the deployment in force once more; its trial hears of it when all are stored.
    pub(super) async fn complete_sections(
        &self,
        in_force: &mut InForce,
        deployment: &Deployment,
    ) -> Result<(), ApplyError> {
        let result = self.apply_sections(in_force, deployment).await;
        self.note_complete(in_force, &result);
        result?;
        let version = in_force.version;
        self.events.send(Event::Stored { version }).await.map_err(|_| ApplyError::Stopping)
    }

    /// Tries again until all sections of the deployment in force are stored. True: they are, or nobody wants them any more.
    async fn try_sections(&self) -> bool {
        let mut in_force = self.in_force.lock().await;
        let Some(deployment) = in_force.deployment.clone() else { return true };
        if in_force.stopping || in_force.incomplete.is_none() {
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
