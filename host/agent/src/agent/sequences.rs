//! Where the sequences of a run begin: above those of all runs before, for one small write at each start.

use std::sync::Arc;

use marram_core::{ports::Documents, time::UtcMillis};
use serde::{Deserialize, Serialize};

use crate::twins::blocking;

/// Bits of a sequence for the messages of one run: 68 billion of each module, and 131,072 starts before a reader that takes
/// JSON numbers for doubles loses the last bit.
pub(crate) const RUN_BITS: u32 = 36;

/// The document that counts the starts of the host.
const HOST: &str = "host";

/// Of that document.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct HostDocument {
    format: u32,
    starts: u64,
}

/// The number before the first sequence of this run: above all of earlier runs, because each start of the host on this
/// data folder has a number of its own in the upper bits.
pub(super) async fn first_sequence(documents: &Arc<dyn Documents>, now: UtcMillis) -> u64 {
    let starts = match starts_so_far(documents.clone()).await {
        Ok(starts) => starts,
        Err(error) => {
            // The file is left alone: it may be readable later. Minutes since 1970 are far above any count of starts.
            tracing::error!(error, "the starts of this host cannot be counted; sequence numbers go on from the clock");
            return (now.0 / 60_000) << RUN_BITS;
        }
    };
    let next = serde_json::to_vec(&HostDocument { format: FORMAT, starts: starts + 1 }).unwrap_or_default();
    let write = documents.clone();
    if let Err(error) = blocking(move || write.write(HOST, &next)).await {
        tracing::error!(%error, "this start cannot be counted; sequence numbers of messages may repeat after the next");
    }
    starts << RUN_BITS
}

async fn starts_so_far(documents: Arc<dyn Documents>) -> Result<u64, String> {
    let stored = blocking(move || documents.read(HOST)).await.map_err(|error| error.to_string())?;
    let Some(stored) = stored else { return Ok(0) };
    let host: HostDocument = serde_json::from_slice(&stored.bytes).map_err(|error| error.to_string())?;
    if host.format != FORMAT {
        return Err(format!("its format is {}, of a newer version of Marram", host.format));
    }
    if let Some(reason) = &stored.recovered {
        tracing::warn!(reason, "the count of this host's starts was damaged; going on with the one before");
    }
    // The generation before the damaged one does not know of the last start.
    Ok(host.starts + u64::from(stored.recovered.is_some()))
}
