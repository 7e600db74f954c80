//! What would be done for a deployment, without doing it: the planner's answer for what the supervisor observes.

use marram_core::{planner::Explained, time::UtcMillis};

use crate::{
    agent::{Agent, ApplyError},
    supervisor::Event,
};

impl Agent {
    /// What would be done next if this manifest were in force: now, or when the device's clock shows `at`, if nothing happens
    /// until then.
    ///
    /// # Errors
    /// [`ApplyError::Bad`], or the host is ending.
    pub async fn plan(&self, manifest: &str, at: Option<UtcMillis>) -> Result<Explained, ApplyError> {
        let (deployment, _) = self.read(manifest).map_err(ApplyError::Bad)?;
        let desired = Box::new(deployment);
        self.ask(|reply| Event::Plan { desired, at, reply }).await.map_err(|_| ApplyError::Stopping)
    }
}
