//! Sections of twins that could not be stored with their deployment: told, and tried again until they are.

use std::sync::Weak;

use tokio::sync::watch;

use super::{
    Agent, ApplyError,
    deploying::InForce,
    rollout::{FIRST_RETRY, LAST_RETRY},
};

impl Agent {
    /// Notes how far a deployment is in force.
    pub(super) fn note_complete(&self, in_force: &mut InForce, result: &Result<(), ApplyError>) {
        in_force.complete = result.is_ok();
        in_force.incomplete = match result {
            Err(ApplyError::Twin { module, source }) => {
                self.missing_sections.send_replace(());
                Some(format!("the desired properties of `{module}` could not be stored: {source}"))
            }
            _ => None,
        };
    }

    /// Tries again until all sections of the deployment in force are stored. True: they are, or nobody wants them any more.
    async fn try_sections(&self) -> bool {
        let mut in_force = self.in_force.lock().await;
        let Some(deployment) = in_force.deployment.clone() else { return true };
        if in_force.stopping || in_force.incomplete.is_none() {
            return true;
        }
        let result = self.apply_sections(&in_force, &deployment).await;
        match &result {
            Ok(()) => tracing::info!(version = in_force.version, "the deployment is wholly in force now"),
            Err(error) => tracing::warn!(%error, "the deployment is not wholly in force; tried again"),
        }
        in_force.complete = result.is_ok();
        if result.is_ok() {
            in_force.incomplete = None;
        }
        result.is_ok()
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
