//! Changes of reported properties as messages, for the routes that take them.

use std::sync::Arc;

use marram_core::{
    name::ModuleName,
    ports::SendError,
    route::{Origin, TWIN_CHANGES},
    twin::Notice,
};

use crate::router::Router;

/// Where the twins of a device tell of their changes.
pub(crate) struct Notices {
    pub(crate) router: Arc<Router>,
    pub(crate) device: Box<str>,
}

impl Notices {
    /// Whether some route takes them: otherwise none is made, which IoT Edge would make, count and drop.
    pub(super) fn are_wanted(&self) -> bool {
        self.router.takes(TWIN_CHANGES)
    }

    /// Sends one, waiting for room as `send` does. False: the host ends, and it is to be sent at its next start.
    pub(super) async fn send(&self, module: &ModuleName, notice: &Notice) -> bool {
        if !self.are_wanted() {
            return true;
        }
        let message = Arc::new(notice.message(&self.device, module.as_str()));
        let origin = Origin { device: Some(self.device.clone()), module: Some(module.as_str().into()), output: None };
        match self.router.publish_patiently(TWIN_CHANGES, &origin, &message).await {
            Ok(_) => true,
            Err(SendError::ShuttingDown) => false,
            Err(error) => {
                tracing::warn!(%module, version = notice.version, %error, "nobody hears of a change of the reported properties");
                true
            }
        }
    }
}
