//! The view of a build without the feature `console`: there is none, and log lines are written as everywhere else.

use marram_agent::Agent;
use tokio::sync::oneshot;

use super::logging::Sink;

/// Never there.
#[derive(Debug, Clone, Copy)]
pub(super) enum View {}

impl View {
    pub(super) fn wanted(_plain: bool) -> Option<Self> {
        None
    }

    pub(super) fn run(self, _: &Agent, _: &Sink, _: &tokio::runtime::Handle, _: oneshot::Receiver<()>) {
        match self {}
    }
}
