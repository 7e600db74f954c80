//! Keeps what is known of instances that a trap, a limit or a deadline ended, over restarts of the host.

use std::sync::Arc;

use marram_core::{
    ports::{DocumentError, Documents},
    traps::{Trap, Traps},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::twins::blocking;

/// The name of the document.
const TRAPS: &str = "traps";

const FORMAT: u32 = 1;

/// Traps of one module. `GET /v1/modules/{module}/traps` of the control API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleTraps {
    /// The newest first.
    pub traps: Vec<Trap>,
}

#[derive(Serialize, Deserialize)]
struct StoredTraps {
    format: u32,
    #[serde(flatten)]
    traps: Traps,
}

pub(crate) struct TrapKeeper {
    documents: Arc<dyn Documents>,
    /// Bodies of messages and payloads of calls are kept, too.
    bodies: bool,
    /// None: not read yet.
    traps: Mutex<Option<Traps>>,
}

impl TrapKeeper {
    pub(crate) fn new(documents: Arc<dyn Documents>, bodies: bool) -> Self {
        Self { documents, bodies, traps: Mutex::default() }
    }

    /// Keeps one more. What cannot be stored is kept in memory, and stored with the next.
    pub(crate) async fn keep(&self, mut trap: Trap) {
        if let Some(during) = trap.during.as_mut().filter(|_| !self.bodies) {
            during.forget_bodies();
        }
        let mut slot = self.traps.lock().await;
        let mut traps = self.known(&mut slot).await;
        traps.keep(trap);
        if let Err(error) = self.store(&traps).await {
            tracing::warn!(%error, "the trap cannot be stored");
        }
        *slot = Some(traps);
    }

    /// Those of a module, the newest first.
    pub(crate) async fn of(&self, module: &str) -> ModuleTraps {
        let mut slot = self.traps.lock().await;
        let traps = self.known(&mut slot).await;
        let of_module = ModuleTraps { traps: traps.of(module).cloned().collect() };
        *slot = Some(traps);
        of_module
    }

    async fn known(&self, slot: &mut Option<Traps>) -> Traps {
        if let Some(traps) = slot.take() {
            return traps;
        }
        let documents = self.documents.clone();
        let read = blocking(move || documents.read(TRAPS)).await.map_err(|error| error.to_string());
        let stored = read.and_then(|document| match document {
            None => Ok(Traps::default()),
            Some(document) => {
                if let Some(reason) = document.recovered {
                    tracing::warn!(reason, "the traps that were kept were damaged; going on with those before");
                }
                match serde_json::from_slice::<StoredTraps>(&document.bytes) {
                    Ok(stored) if stored.format == FORMAT => Ok(stored.traps),
                    Ok(stored) => Err(format!("they are of a newer version of Marram (format {})", stored.format)),
                    Err(error) => Err(error.to_string()),
                }
            }
        });
        stored.unwrap_or_else(|error| {
            tracing::error!(error, "the traps that were kept cannot be read; they begin anew");
            Traps::default()
        })
    }

    async fn store(&self, traps: &Traps) -> Result<(), DocumentError> {
        let bytes = serde_json::to_vec(&StoredTraps { format: FORMAT, traps: traps.clone() });
        let bytes = bytes.map_err(|error| DocumentError(error.to_string()))?;
        let documents = self.documents.clone();
        blocking(move || documents.write(TRAPS, &bytes)).await
    }
}
