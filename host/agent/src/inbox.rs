//! What a program receives and has not settled yet: the agent's side of `marram:edge/inbox`. Each message is a batch of its
//! own, so that they may be settled in any order; whatever ends the instance, they return to their queues.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use marram_core::{
    log::Place,
    ports::{Delivery, MAX_UNSETTLED, ReceiveError, Received, Settlement},
    queue::Batch,
    time::Uptime,
    traps::{HandledMessage, HeldMessages, MAX_HELD, MAX_HELD_BODY_BYTES},
};

use crate::{
    clock::Clock,
    delivery::{Inputs, StopSignal, sleep_until},
    doorbell::Doorbell,
    endpoint::Endpoint,
    router::Router,
};

/// Longest wait at once. A program that asks for more gets nothing after a day and asks again.
pub(crate) const MAX_PATIENCE: Duration = Duration::from_secs(86_400);

/// The messages of one instance of a program.
pub(crate) struct ProgramInbox {
    clock: Clock,
    router: Arc<Router>,
    bell: Arc<Doorbell>,
    module: Arc<str>,
    stop: Arc<StopSignal>,
    /// Deliveries that the module has settled, over all instances.
    received: Arc<AtomicU64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The instance has ended.
    closed: bool,
    inputs: Inputs,
    unsettled: BTreeMap<u64, Unsettled>,
    last_ticket: u64,
}

/// A message that is out; in the batch it is the one that was delivered last.
struct Unsettled {
    endpoint: Arc<Endpoint>,
    batch: Batch,
    /// What is being noted in the log before the program gets it.
    noted: Option<(Place, u32)>,
}

impl ProgramInbox {
    pub(crate) fn new(
        clock: Clock,
        router: Arc<Router>,
        bell: Arc<Doorbell>,
        module: Arc<str>,
        stop: Arc<StopSignal>,
        received: Arc<AtomicU64>,
    ) -> Self {
        Self { clock, router, bell, module, stop, received, state: Mutex::default() }
    }

    /// As [`marram_core::ports::ModuleHost::receive`].
    pub(crate) async fn receive(&self, patience: Duration) -> Result<Option<Received>, ReceiveError> {
        let until = self.clock.uptime().after(patience.min(MAX_PATIENCE));
        loop {
            // Listen first, then look: what comes in between is not missed.
            self.bell.arm();
            let mut stop = std::pin::pin!(self.stop.listen());
            stop.as_mut().enable();
            let now = self.clock.uptime();
            match self.take(now)? {
                Look::Found(received, None) => return Ok(Some(received)),
                Look::Found(received, Some((place, attempts))) => {
                    let beginning = Beginning { inbox: self, ticket: received.ticket };
                    self.router.storage().begin(place, attempts).await;
                    return if beginning.has_begun() { Ok(Some(received)) } else { Err(ReceiveError::Stopping) };
                }
                Look::Nothing(_) if now >= until => return Ok(None),
                Look::Nothing(due) => {
                    let due = due.map_or(until, |due| due.min(until));
                    tokio::select! {
                        biased;
                        () = self.bell.wait() => {}
                        () = stop => {}
                        () = sleep_until(self.clock, Some(due)) => {}
                    }
                }
            }
        }
    }

    fn take(&self, now: Uptime) -> Result<Look, ReceiveError> {
        let mut state = self.state();
        if state.closed || self.stop.is_stopping() {
            return Err(ReceiveError::Stopping);
        }
        if state.unsettled.len() >= MAX_UNSETTLED {
            return Err(ReceiveError::TooManyUnsettled);
        }
        state.inputs.refresh(&self.router, &self.module);
        while let Some(endpoint) = state.inputs.pick(now) {
            let mut batch = endpoint.take_one(now);
            let suspect = batch.suspect();
            let Some(item) = batch.next_item(|| now) else {
                endpoint.finish(batch, now); // it had expired
                continue;
            };
            let delivery = Delivery {
                input: endpoint.input.clone(),
                accepted: item.accepted.clone(),
                attempt: item.attempts.saturating_add(1),
            };
            state.last_ticket += 1;
            let ticket = state.last_ticket;
            state.unsettled.insert(ticket, Unsettled { endpoint, batch, noted: suspect });
            return Ok(Look::Found(Received { ticket, delivery }, suspect));
        }
        Ok(Look::Nothing(state.inputs.next_due()))
    }

    /// As [`marram_core::ports::ModuleHost::settle`].
    pub(crate) fn settle(&self, ticket: u64, settlement: Settlement) -> bool {
        let Some(Unsettled { endpoint, mut batch, .. }) = self.state().unsettled.remove(&ticket) else { return false };
        let now = self.clock.uptime();
        batch.settle(settlement, now, self.clock.jitter());
        self.received.fetch_add(1, Relaxed);
        endpoint.finish(batch, now);
        true
    }

    /// What is out, the last ones with their metadata and the beginning of their bodies; none if nothing is.
    pub(crate) fn held(&self) -> Option<HeldMessages> {
        let state = self.state();
        // What is being noted before the program gets it is not with it.
        let out: Vec<&Unsettled> = state.unsettled.values().filter(|it| it.noted.is_none()).collect();
        let held = out.len();
        let last = &out[held.saturating_sub(MAX_HELD)..];
        let tell = |it: &&Unsettled| {
            let item = it.batch.current()?;
            let attempt = item.attempts.saturating_add(1);
            Some(HandledMessage::with_body(&it.endpoint.input, &item.accepted, attempt, MAX_HELD_BODY_BYTES))
        };
        (held > 0).then(|| HeldMessages { held, messages: last.iter().filter_map(tell).collect() })
    }

    /// Nothing is given out any more, and what is out returns to its queue.
    pub(crate) fn close(&self) {
        let unsettled = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.unsettled)
        };
        unsettled.into_values().for_each(|unsettled| self.give_back(unsettled));
    }

    /// Returns a message to its queue. One that the program never got was not tried.
    fn give_back(&self, unsettled: Unsettled) {
        let Unsettled { endpoint, mut batch, noted } = unsettled;
        if let Some((place, attempts)) = noted {
            batch.take_back();
            self.router.storage().not_begun(place, attempts);
        }
        endpoint.finish(batch, self.clock.uptime());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in it is half changed where a panic could be.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ProgramInbox {
    fn drop(&mut self) {
        self.close(); // the instance's task died of a defect
    }
}

/// A message whose delivery is being noted in the log. Dropped before that is done, it is not delivered.
struct Beginning<'i> {
    inbox: &'i ProgramInbox,
    ticket: u64,
}

impl Beginning<'_> {
    /// False: the instance has ended meanwhile.
    fn has_begun(self) -> bool {
        let mut state = self.inbox.state();
        state.unsettled.get_mut(&self.ticket).map(|unsettled| unsettled.noted = None).is_some()
    }
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        let mut state = self.inbox.state();
        if state.unsettled.get(&self.ticket).is_some_and(|unsettled| unsettled.noted.is_some()) {
            let unsettled = state.unsettled.remove(&self.ticket);
            drop(state);
            unsettled.into_iter().for_each(|unsettled| self.inbox.give_back(unsettled));
        }
    }
}

/// What a look at the queues gave.
enum Look {
    /// And what is to be noted in the log before.
    Found(Received, Option<(Place, u32)>),
    /// Nothing before this time, unless the bell rings.
    Nothing(Option<Uptime>),
}
