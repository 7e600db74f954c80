//! What can go wrong while a component is fetched or pushed, in the three classes that matter to the caller.

use std::{io, path::Path};

use marram_core::{ports::FetchError, retry::Fault};

use crate::image::Image;

/// One fault. Its text says what, where and what to try; [`Failure::of`] adds which image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The source does not answer, or says that it cannot now. A copy on the device may stand in.
    #[error("{message}")]
    Unreachable {
        /// What, where.
        message: String,
        /// Whether to try again at once.
        fault: Fault,
    },
    /// Only a change helps: no access, not there, not what it claims to be. Nothing may stand in.
    #[error("{0}")]
    Refused(String),
    /// This device's own disk.
    #[error("cannot {action}: {source}")]
    Disk {
        /// What was tried, with the path.
        action: String,
        /// The system's word.
        #[source]
        source: io::Error,
    },
}

impl Failure {
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }

    pub(crate) fn unreachable(fault: Fault, message: impl Into<String>) -> Self {
        Self::Unreachable { message: message.into(), fault }
    }

    /// For `map_err` after a disk operation.
    pub(crate) fn disk(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let action = format!("{verb} {}", path.display());
        move |source| Self::Disk { action, source }
    }

    /// The task that did the blocking work is gone: the runtime is going down.
    pub(crate) fn stopped() -> Self {
        Self::unreachable(Fault::Lasting, "the host is stopping")
    }

    /// Says which image this is about.
    pub(crate) fn of(self, image: &Image) -> FetchError {
        FetchError { message: format!("image `{image}`: {self}"), transient: self.is_transient() }
    }

    /// True: the same request may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// Runs disk work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Failure::stopped())?
}
