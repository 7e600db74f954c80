//! A sender that waits: for room at a receiver, or for the log, as long as its routes say.

use std::{sync::Arc, time::Duration};

use marram_core::{message::Message, ports::SendError, route::Origin};
use tokio::time::Instant;

use super::{Chosen, Refusal, Router, Taken};
use crate::{
    counts::SourceCounts,
    endpoint::Endpoint,
    storage::{ASK_AGAIN, NotStored},
    turn::turn,
};

/// Why one offer of a message came to nothing.
pub(crate) enum Attempt {
    /// Waiting would not help.
    Refused(SendError),
    /// This receiver is full, for senders that wait at most this long.
    Full(Arc<Endpoint>, Duration),
    /// It goes into the log.
    ToBeStored,
}

/// Offers a message until it is taken, refused, or the sender has waited long enough. `counts` says where refusals are counted.
///
/// # Errors
/// Nothing was stored.
pub(crate) async fn patiently(
    mut offer: impl FnMut() -> Result<Taken, Attempt>,
    counts: impl Fn() -> Arc<SourceCounts>,
) -> Result<u64, SendError> {
    let mut deadline = None;
    let mut refused_by: Option<Arc<Endpoint>> = None;
    loop {
        // Listen first, then look: room made in between is not missed.
        let listening = refused_by.take();
        let room = listening.as_deref().map(Endpoint::room);
        let mut room = std::pin::pin!(room);
        if let Some(room) = room.as_mut().as_pin_mut() {
            room.enable();
        }
        let (endpoint, patience) = match offer() {
            Ok(Taken::Now(sequence)) => return Ok(sequence),
            Ok(Taken::Storing(answer, patience)) => match answer.stored().await {
                Ok(sequence) => return Ok(sequence),
                Err(NotStored::Stopped) => return Err(SendError::ShuttingDown),
                Err(why) => {
                    wait_for_log(&counts, why, patience, &mut deadline).await?;
                    continue;
                }
            },
            Ok(Taken::Not(why, patience)) => {
                wait_for_log(&counts, why, patience, &mut deadline).await?;
                continue;
            }
            Err(Attempt::Refused(error)) => return Err(error),
            Err(Attempt::ToBeStored) => continue, // the log has taken over meanwhile
            Err(Attempt::Full(endpoint, patience)) => (endpoint, patience),
        };
        let until = *deadline.get_or_insert_with(|| Instant::now() + patience);
        if Instant::now() >= until {
            counts().full();
            return Err(SendError::Full);
        }
        match room.as_pin_mut() {
            // It is full still: wait. After the time-out the loop looks a last time.
            Some(room) if listening.as_ref().is_some_and(|old| Arc::ptr_eq(old, &endpoint)) => {
                let _ = tokio::time::timeout_at(until, room).await;
            }
            // Another receiver is the full one now: listen to that one.
            _ => turn().await,
        }
        refused_by = Some(endpoint);
    }
}

/// Waits before the log is asked again; an error once the sender has waited long enough.
async fn wait_for_log(
    counts: impl Fn() -> Arc<SourceCounts>,
    why: NotStored,
    patience: Duration,
    deadline: &mut Option<Instant>,
) -> Result<(), SendError> {
    let now = Instant::now();
    let until = *deadline.get_or_insert_with(|| now + patience);
    if now >= until {
        counts().not_stored();
        return Err(why.into());
    }
    tokio::time::sleep_until(until.min(now + ASK_AGAIN)).await;
    Ok(())
}

impl Router {
    /// Accepts a message that the host itself sends, waiting as a module's `send` does.
    ///
    /// # Errors
    /// Nothing was stored.
    pub(crate) async fn publish_patiently(
        &self,
        source: &str,
        origin: &Origin,
        message: &Arc<Message>,
    ) -> Result<u64, SendError> {
        Self::check_size(message)?;
        let mut chosen = None;
        let offer = || self.offer(source, origin, message, &mut chosen);
        patiently(offer, || self.sources().of(&source.into(), origin)).await
    }

    fn offer(
        &self,
        source: &str,
        origin: &Origin,
        message: &Arc<Message>,
        chosen: &mut Option<Chosen>,
    ) -> Result<Taken, Attempt> {
        loop {
            match self.accept(&self.resolve(source, origin.clone()), message, &self.foreign_sequence, chosen) {
                Ok(taken) => return Ok(taken),
                Err(Refusal::Stale | Refusal::ToBeStored) => {}
                Err(Refusal::Full(endpoint, patience)) => return Err(Attempt::Full(endpoint, patience)),
                Err(Refusal::Stopped) => return Err(Attempt::Refused(SendError::ShuttingDown)),
            }
        }
    }
}
