//! A message comes in: into the queues of all its receivers or of none, in memory or through the log.

use std::{
    cell::LazyCell,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{Resolved, Router};
use crate::{
    endpoint::{Endpoint, Inner, Room},
    storage::{self, Answer, Append, Few, NotStored},
};
use marram_core::{
    deployment::Durability,
    log::Safety,
    message::{Accepted, MAX_MESSAGE_BYTES, Message},
    ports::SendError,
    queue::{Arrival, ITEM_OVERHEAD, Item},
    route::{MessageFacts, Target},
    time::UtcMillis,
};

/// A message that was accepted, or is on its way into the log.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Its number.
    Now(u64),
    /// The same, once it is stored; and how long a sender waits for a log that is full.
    Storing(Answer, std::time::Duration),
    /// It was not stored.
    Not(NotStored, std::time::Duration),
}

/// Why a message was not accepted at once.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// This endpoint is full, for senders that wait at most this long.
    Full(Arc<Endpoint>, std::time::Duration),
    /// Resolve again: the routes have changed.
    Stale,
    /// It goes into the log, and the sender did not want to wait for that.
    ToBeStored,
    /// The host ends.
    Stopped,
}

/// Which routes take a message. Kept by a sender that has to try again, so that conditions are evaluated, and the body is read, once.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// It holds as long as the routes.
    generation: u64,
    /// Places among the endpoints, and there among the routes.
    places: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, Copy)]
struct Receiver<'r> {
    endpoint: &'r Arc<Endpoint>,
    target: &'r Target,
    /// As in [`Chosen`].
    places: (usize, usize),
}

impl Resolved {
    /// Whose receivers these are.
    pub(crate) fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// The receivers of a message: as chosen before, if that still holds. What the body was read for is noted.
    fn receivers<'r>(&'r self, message: &Message, chosen: &mut Option<Chosen>) -> Few<Receiver<'r>> {
        if let Some(chosen) = chosen.as_ref().filter(|chosen| chosen.generation == self.generation) {
            return chosen.places.iter().filter_map(|places| self.receiver(*places)).collect();
        }
        let (receivers, body_was_read) = self.choosing(message, |facts| {
            let all = (0..self.endpoints.len()).filter_map(|place| self.choose(place, facts)).collect::<Few<_>>();
            (all, facts.body_was_read())
        });
        if body_was_read {
            self.note(&receivers, chosen);
        }
        receivers
    }

    /// The receiver at this place, if a route leads this message there.
    fn choose<'r>(&'r self, place: usize, facts: &MessageFacts<'_>) -> Option<Receiver<'r>> {
        let (_, sink) = self.endpoints.get(place)?;
        self.receiver((place, self.candidates.sinks.get(*sink)?.place(facts)?))
    }

    fn receiver(&self, places: (usize, usize)) -> Option<Receiver<'_>> {
        let (endpoint, sink) = self.endpoints.get(places.0)?;
        let target = &self.candidates.sinks.get(*sink)?.choices.get(places.1)?.target;
        Some(Receiver { endpoint, target, places })
    }

    /// Facts of a message, for as long as receivers are chosen by them.
    fn choosing<T>(&self, message: &Message, choose: impl FnOnce(&MessageFacts<'_>) -> T) -> T {
        let facts = self.candidates.facts(message, &self.origin);
        let result = choose(&facts);
        #[cfg(test)]
        BODIES_READ.with(|count| count.set(count.get() + usize::from(facts.body_was_read())));
        result
    }

    /// Notes what was chosen, unless it was noted before.
    fn note(&self, receivers: &[Receiver<'_>], chosen: &mut Option<Chosen>) {
        if chosen.as_ref().is_none_or(|chosen| chosen.generation != self.generation) {
            let places = receivers.iter().map(|receiver| receiver.places).collect();
            *chosen = Some(Chosen { generation: self.generation, places });
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How often conditions have read a body in this thread.
    pub(crate) static BODIES_READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl Router {
    /// Accepts a message for all its receivers, or for none, if that needs no waiting but for others that store together. `sequence` is
    /// advanced only on success; otherwise `chosen` tells [`Router::accept`] what need not be found again.
    pub(crate) fn accept_now(
        &self,
        resolved: &Resolved,
        message: &Arc<Message>,
        sequence: &Arc<AtomicU64>,
        chosen: &mut Option<Chosen>,
    ) -> Result<Taken, Refusal> {
        if resolved.is_durable {
            return match self.take(resolved, message, sequence, false, chosen)? {
                Taken::Not(..) => Err(Refusal::ToBeStored),
                taken => Ok(taken),
            };
        }
        // Most sources have one receiver: no list is made for it.
        let number = if resolved.endpoints.len() == 1 {
            match resolved.choosing(message, |facts| resolved.choose(0, facts)) {
                Some(receiver) => self
                    .accept_one(resolved, receiver, message, sequence)
                    .inspect_err(|_| resolved.note(&[receiver], chosen)),
                None => Ok(accept_nowhere(resolved, message, sequence)),
            }
        } else {
            let receivers = resolved.receivers(message, chosen);
            let number = match &*receivers {
                [] => Ok(accept_nowhere(resolved, message, sequence)),
                [only] => self.accept_one(resolved, *only, message, sequence),
                many => self.accept_many(resolved, many, message, sequence),
            };
            number.inspect_err(|_| resolved.note(&receivers, chosen))
        };
        number.map(Taken::Now)
    }

    /// The same, through the log where a receiver has its messages there. Whatever becomes of the answer, the message is stored for all
    /// its receivers or for none. `chosen` is of an earlier try, and for the next one.
    pub(crate) fn accept(
        &self,
        resolved: &Resolved,
        message: &Arc<Message>,
        sequence: &Arc<AtomicU64>,
        chosen: &mut Option<Chosen>,
    ) -> Result<Taken, Refusal> {
        self.take(resolved, message, sequence, true, chosen)
    }

    /// Without `may_wait` only if it is done when this returns, or when others have had their turn.
    fn take(
        &self,
        resolved: &Resolved,
        message: &Arc<Message>,
        sequence: &Arc<AtomicU64>,
        may_wait: bool,
        chosen: &mut Option<Chosen>,
    ) -> Result<Taken, Refusal> {
        let receivers = resolved.receivers(message, chosen);
        let taken = self.hand_over(resolved, &receivers, message, sequence, may_wait);
        // One that joins others is stored, as a rule.
        if !matches!(taken, Ok(Taken::Now(_))) && (may_wait || taken.is_err()) {
            resolved.note(&receivers, chosen);
        }
        taken
    }

    fn hand_over(
        &self,
        resolved: &Resolved,
        receivers: &[Receiver<'_>],
        message: &Arc<Message>,
        sequence: &Arc<AtomicU64>,
        may_wait: bool,
    ) -> Result<Taken, Refusal> {
        if receivers.is_empty() {
            return Ok(Taken::Now(accept_nowhere(resolved, message, sequence)));
        }
        let size = message.size() + ITEM_OVERHEAD;
        let is_power = receivers.iter().any(|receiver| receiver.target.durability == Durability::Power);
        // Of many that store together only the first one needs it.
        let now = LazyCell::new(|| self.clock.uptime());
        // Before the locks of the endpoints, in the order of the log's owner.
        let (may_write, together) = (resolved.is_durable && !is_power, self.storage.is_together());
        let joins = may_write && together;
        let idle = (may_write && !together).then(|| self.storage.idle_for(size, receivers.len(), *now)).flatten();
        if idle.is_none() && !joins && !may_wait {
            return Err(Refusal::ToBeStored);
        }
        let (mut locked, made_room) = self.lock_all(receivers, size)?;
        let stored: Few<bool> = locked.iter().map(|inner| Endpoint::stores(inner)).collect();
        if !stored.contains(&true) {
            drop(locked);
            return self.accept_many(resolved, receivers, message, sequence).map(Taken::Now);
        }
        let patience = receivers.iter().map(|receiver| receiver.target.send_timeout).min().unwrap_or_default();
        // What was given up for it goes to the disk with it: by the thread, which was told.
        let (idle, joins) = (idle.filter(|_| !made_room), joins && !made_room);
        if idle.is_none() && !joins && !may_wait {
            return Err(Refusal::ToBeStored);
        }
        let append = Append {
            accepted: Accepted {
                message: message.clone(),
                source: resolved.source.clone(),
                sequence: 0,
                enqueued: UtcMillis(0),
            },
            sequence: sequence.clone(),
            counts: resolved.counts.clone(),
            receivers: receivers
                .iter()
                .zip(stored)
                .map(|(Receiver { endpoint, target, .. }, stored)| storage::Receiver {
                    endpoint: (*endpoint).clone(),
                    priority: target.priority,
                    deadline: target.time_to_live.map(|ttl| now.after(ttl)),
                    max_attempts: target.max_attempts,
                    stored,
                })
                .collect(),
            size,
            safety: if is_power { Safety::Synced } else { Safety::Written },
            reply: None,
        };
        if let Some(idle) = idle {
            locked.iter_mut().for_each(|inner| Endpoint::reserve(inner, size));
            drop(locked);
            // An endpoint that is closed after this is buried after this: by the log's owner, which this is.
            return Ok(match idle.append(append, *now) {
                Ok(number) => Taken::Now(number),
                Err(why) => Taken::Not(why, patience),
            });
        }
        // Under the locks, as those of [`Storage::append`] say.
        let answer = self.storage.append(append, joins, || *now).ok_or(Refusal::Stopped)?;
        locked.iter_mut().for_each(|inner| Endpoint::reserve(inner, size));
        Ok(Taken::Storing(answer, patience))
    }

    /// The queues of these receivers, if all have room. Always in the order of their sinks, so that two senders never wait for each
    /// other. True: others were given up for it.
    fn lock_all<'r>(
        &self,
        receivers: &[Receiver<'r>],
        size: usize,
    ) -> Result<(Few<MutexGuard<'r, Inner>>, bool), Refusal> {
        let mut locked = Few::with_capacity(receivers.len());
        let mut must_make: Few<usize> = Few::new();
        for (n, receiver) in receivers.iter().enumerate() {
            let mut inner = receiver.endpoint.lock();
            if self.check(*receiver, &mut inner, size)? {
                must_make.push(n);
            }
            locked.push(inner);
        }
        // Only now: where one refuses, nobody gives up anything.
        for n in &must_make {
            self.make_room(receivers[*n], &mut locked[*n], size);
        }
        Ok((locked, !must_make.is_empty()))
    }

    fn accept_one(
        &self,
        resolved: &Resolved,
        receiver: Receiver<'_>,
        message: &Arc<Message>,
        sequence: &AtomicU64,
    ) -> Result<u64, Refusal> {
        let size = message.size() + ITEM_OVERHEAD;
        let mut inner = receiver.endpoint.lock();
        let must_make = self.check(receiver, &mut inner, size)?;
        if Endpoint::stores(&inner) {
            return Err(Refusal::ToBeStored);
        }
        if must_make {
            self.make_room(receiver, &mut inner, size);
        }
        let number = sequence.fetch_add(1, Relaxed) + 1;
        resolved.counts.accepted(size - ITEM_OVERHEAD);
        receiver.endpoint.push(&mut inner, self.item(resolved, receiver, message, number, size));
        drop(inner);
        receiver.endpoint.ring(receiver.target.priority);
        Ok(number)
    }

    fn accept_many(
        &self,
        resolved: &Resolved,
        receivers: &[Receiver<'_>],
        message: &Arc<Message>,
        sequence: &AtomicU64,
    ) -> Result<u64, Refusal> {
        let size = message.size() + ITEM_OVERHEAD;
        let (mut locked, _) = self.lock_all(receivers, size)?;
        if locked.iter().any(|inner| Endpoint::stores(inner)) {
            return Err(Refusal::ToBeStored);
        }
        let number = sequence.fetch_add(1, Relaxed) + 1;
        resolved.counts.accepted(size - ITEM_OVERHEAD);
        for (receiver, inner) in receivers.iter().zip(&mut locked) {
            receiver.endpoint.push(inner, self.item(resolved, *receiver, message, number, size));
        }
        drop(locked);
        for receiver in receivers {
            receiver.endpoint.ring(receiver.target.priority);
        }
        Ok(number)
    }

    /// True: there is room, once others have been given up for it.
    fn check(&self, receiver: Receiver<'_>, inner: &mut Inner, size: usize) -> Result<bool, Refusal> {
        let target = receiver.target;
        match receiver.endpoint.room_for(inner, size, target.priority, || self.clock.uptime()) {
            Room::Yes => Ok(false),
            Room::Makeable => Ok(true),
            Room::Closed => Err(Refusal::Stale),
            Room::Full => Err(Refusal::Full(receiver.endpoint.clone(), target.send_timeout)),
        }
    }

    fn make_room(&self, receiver: Receiver<'_>, inner: &mut Inner, size: usize) {
        receiver.endpoint.make_room(inner, size, receiver.target.priority, self.clock.uptime());
    }

    fn item(
        &self,
        resolved: &Resolved,
        receiver: Receiver<'_>,
        message: &Arc<Message>,
        sequence: u64,
        size: usize,
    ) -> Item {
        let target = receiver.target;
        Item {
            accepted: Accepted {
                message: message.clone(),
                source: resolved.source.clone(),
                sequence,
                enqueued: self.clock.utc_coarse(),
            },
            size,
            priority: target.priority,
            deadline: target.time_to_live.map(|ttl| self.clock.uptime().after(ttl)),
            attempts: 0,
            max_attempts: target.max_attempts,
            stored: None,
            suspect: false,
            live: false,
            arrival: Arrival::default(),
            turn: 0,
        }
    }

    /// Accepts a message from a source that is not a module here, without waiting for room.
    pub(crate) async fn publish(&self, source: &str, message: &Arc<Message>) -> Result<(), SendError> {
        Self::check_size(message)?;
        let mut chosen = None;
        loop {
            let resolved = self.resolve_foreign(source);
            let stored = match self.accept(&resolved, message, &self.foreign_sequence, &mut chosen) {
                Ok(Taken::Now(number)) => Ok(number),
                Ok(Taken::Storing(answer, _)) => answer.stored().await,
                Ok(Taken::Not(why, _)) => Err(why),
                Err(Refusal::Stale | Refusal::ToBeStored) => continue,
                Err(Refusal::Full(..)) => {
                    resolved.counts.full();
                    return Err(SendError::Full);
                }
                Err(Refusal::Stopped) => Err(NotStored::Stopped),
            };
            if stored.as_ref().is_err_and(NotStored::is_refusal) {
                resolved.counts.not_stored();
            }
            return stored.map(drop).map_err(SendError::from);
        }
    }

    /// Whether a message is small enough.
    pub(crate) fn check_size(message: &Message) -> Result<(), SendError> {
        if message.size() > MAX_MESSAGE_BYTES {
            return Err(SendError::TooLarge(MAX_MESSAGE_BYTES as u64));
        }
        Ok(())
    }
}

/// No route wants it: accepted, counted, dropped.
fn accept_nowhere(resolved: &Resolved, message: &Message, sequence: &AtomicU64) -> u64 {
    resolved.counts.accepted(message.size());
    resolved.counts.no_route();
    sequence.fetch_add(1, Relaxed) + 1
}

impl From<NotStored> for SendError {
    fn from(why: NotStored) -> Self {
        match why {
            NotStored::Full => Self::Full,
            NotStored::Disk(words) => Self::Other(words),
            NotStored::Stopped => Self::ShuttingDown,
        }
    }
}
