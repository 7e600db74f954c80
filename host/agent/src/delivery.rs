//! The task of one module: takes what is due (stop, twin change, method, timer, message) and calls the instance, one call
//! at a time. Ends with the instance's [`Exit`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{
    log::Place,
    methods::MethodResponse,
    ports::{Delivery, Exit, Exports, Inbox, Instance, Settlement, TwinAck, TwinChange},
    queue::Batch,
    time::Uptime,
    traps::{During, HandledCall, HandledMessage, is_trap},
};
use tokio::sync::{Notify, oneshot};

use crate::{
    clock::Clock,
    doorbell::{Attended, Doorbell},
    endpoint::Endpoint,
    link::ModuleLink,
    methods::{MethodBox, Presence},
    router::Router,
    turn::turn,
    twins::{Told, TwinCell},
};

/// Messages taken under one lock. Measured: halves the cost of a hop against one by one; more gains nothing.
const BATCH: usize = 64;

/// How long one input may keep the others of its module waiting, if they are as urgent.
const TURN: Duration = Duration::from_millis(100);

/// How a module is asked to end.
#[derive(Debug, Default)]
pub(crate) struct StopSignal {
    level: AtomicU8,
    changed: Notify,
}

/// No more timers; messages that wait are still handled.
const QUIESCE: u8 = 1;
/// After the call that runs now. A program has no calls: it ends where it waits next.
const STOP: u8 = 2;
/// At once, in the middle of a call.
const KILL: u8 = 3;

impl StopSignal {
    pub(crate) fn quiesce(&self) {
        self.raise(QUIESCE);
    }

    pub(crate) fn stop(&self) {
        self.raise(STOP);
    }

    pub(crate) fn kill(&self) {
        self.raise(KILL);
    }

    /// Ends when the module is to be stopped (or killed).
    pub(crate) async fn stopped(&self) {
        self.wait_for(STOP).await;
    }

    /// Whether the module is to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.at_least(STOP)
    }

    /// A future that ends when something changes after this call.
    pub(crate) fn listen(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    fn raise(&self, level: u8) {
        self.level.fetch_max(level, SeqCst);
        self.changed.notify_waiters();
    }

    fn at_least(&self, level: u8) -> bool {
        self.level.load(SeqCst) >= level
    }

    async fn wait_for(&self, level: u8) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.at_least(level) {
                return;
            }
            changed.await;
        }
    }
}

/// What the task of a module works with.
pub(crate) struct ModuleTask {
    pub(crate) clock: Clock,
    pub(crate) router: Arc<Router>,
    pub(crate) link: Arc<ModuleLink>,
    pub(crate) twin: Arc<TwinCell>,
    pub(crate) methods: Arc<MethodBox>,
    pub(crate) stop: Arc<StopSignal>,
    /// Once it is up it waits here until it is in charge; none: it is at once.
    pub(crate) gate: Option<oneshot::Receiver<()>>,
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) module: Arc<str>,
    pub(crate) memory: Arc<AtomicU64>,
    /// Deliveries that were settled, over all instances.
    pub(crate) received: Arc<AtomicU64>,
}

impl ModuleTask {
    /// Runs an instance to its end. `up` is called when it is ready for work.
    pub(crate) async fn run(
        mut self,
        mut instance: Box<dyn Instance>,
        exports: Exports,
        imports_inbox: bool,
        up: impl FnOnce(),
    ) -> Exit {
        let gate = self.gate.take();
        let exit = if exports.run {
            let _deaf = self.methods.attend(Presence::IsDeaf);
            up();
            match self.wait_at(gate).await {
                Ok(_attended) if imports_inbox => self.run_receiver(&mut *instance).await,
                Ok(_attended) => self.run_program(&mut *instance).await,
                Err(exit) => exit,
            }
        } else {
            let stop = self.stop.clone();
            tokio::select! {
                biased;
                exit = self.run_handler(&mut *instance, exports, up, gate) => exit,
                () = stop.wait_for(KILL) => killed(),
            }
        };
        self.link.close();
        exit
    }

    async fn run_program(&self, instance: &mut dyn Instance) -> Exit {
        // Its memory only grows while it runs, and it cannot be asked then: what it had at its start is shown.
        self.memory.store(instance.memory_bytes(), Relaxed);
        tokio::select! {
            biased;
            () = self.stop.wait_for(STOP) => Exit::new(Exit::STOPPED, "stopped"),
            exit = instance.run() => exit,
        }
    }

    /// A program that takes messages hears of the stop from `receive`, and settles what it holds.
    async fn run_receiver(&self, instance: &mut dyn Instance) -> Exit {
        self.memory.store(instance.memory_bytes(), Relaxed); // as above
        tokio::select! {
            biased;
            exit = instance.run() => match exit.code {
                Exit::DONE if self.stop.is_stopping() => Exit::new(Exit::STOPPED, "stopped"),
                _ if is_trap(&exit) => match self.link.held() {
                    Some(held) => exit.during(During::Messages(held)),
                    None => exit,
                },
                _ => exit,
            },
            () = self.stop.wait_for(KILL) => {
                Exit::new(Exit::STOPPED, "stopped where it was: it did not return after `receive` had said `stopping`")
            }
        }
    }

    /// Waits until it is in charge; then it is up.
    async fn wait_at(&self, gate: Option<oneshot::Receiver<()>>) -> Result<Attended, Exit> {
        let Some(gate) = gate else { return Ok(self.bell.attend()) };
        let opened = tokio::select! {
            biased;
            opened = gate => opened.is_ok(),
            () = self.stop.stopped() => false,
        };
        if !opened {
            return Err(Exit::new(Exit::STOPPED, "stopped before it was in charge"));
        }
        self.link.take_charge();
        Ok(self.bell.attend())
    }

    async fn run_handler(
        &self,
        instance: &mut dyn Instance,
        exports: Exports,
        up: impl FnOnce(),
        gate: Option<oneshot::Receiver<()>>,
    ) -> Exit {
        match self.handler_loop(instance, exports, up, gate).await {
            Ok(never) => match never {},
            Err(exit) => exit,
        }
    }

    async fn handler_loop(
        &self,
        instance: &mut dyn Instance,
        exports: Exports,
        up: impl FnOnce(),
        gate: Option<oneshot::Receiver<()>>,
    ) -> Result<std::convert::Infallible, Exit> {
        if exports.start
            && let Err(reason) = instance.start().await.map_err(|exit| exit.during(During::Start))?
        {
            return Err(Exit::new(1, format!("start-handler: {reason}")));
        }
        // Before it is in charge: while it takes over, calls find it as if the old version were there.
        let presence = if exports.method { Presence::Listens } else { Presence::IsDeaf };
        let _attends_calls = self.methods.attend(presence);
        up();
        let _attended = self.wait_at(gate).await?;
        let mut told = Told::default();
        let mut inputs = Inputs::default();
        loop {
            self.memory.store(instance.memory_bytes(), Relaxed);
            if self.stop.at_least(STOP) {
                return Err(Exit::new(Exit::STOPPED, "stopped"));
            }
            if exports.twin && told.is_behind(self.twin.desired_version()) {
                self.tell_twin(instance, &mut told).await?;
                continue;
            }
            if exports.method && self.answer_calls(instance, &told, exports).await? {
                continue;
            }
            if exports.timer
                && !self.stop.at_least(QUIESCE)
                && let Some(due) = self.link.due_timer()
            {
                let fired = instance.fire(due.name(), due.missed()).await;
                fired.map_err(|exit| exit.during(During::Timer { name: due.name().into() }))?;
                self.link.timer_fired(due).await;
                turn().await;
            }
            if exports.input && self.deliver(instance, &mut inputs, &told, exports).await? {
                // A busy guest may never wait by itself: let the others of this thread have their turn.
                turn().await;
                continue;
            }
            self.wait(&mut inputs, &told, exports).await;
        }
    }

    /// Answers the calls that wait, at most as many as are there now: those that come meanwhile must not keep timers and messages away
    /// for ever. True: something more urgent ended the round.
    async fn answer_calls(&self, instance: &mut dyn Instance, told: &Told, exports: Exports) -> Result<bool, Exit> {
        for _ in 0..self.methods.waiting() {
            if self.is_urgent(told, exports) {
                return Ok(true);
            }
            let Some(call) = self.methods.take() else { break };
            match instance.invoke(call.request.name(), call.request.payload()).await {
                Ok((status, payload)) => call.answer(MethodResponse::of_handler(status, payload)),
                Err(exit) => {
                    let what = format!("module `{}` ended in the middle of the call: {}", self.module, exit.reason);
                    let during = During::Method(HandledCall::new(call.request.name(), call.request.payload()));
                    call.answer(MethodResponse::failed(&what));
                    return Err(exit.during(during));
                }
            }
            turn().await;
        }
        Ok(false)
    }

    /// Tells the guest what has changed since it was told last, and keeps its answer.
    async fn tell_twin(&self, instance: &mut dyn Instance, told: &mut Told) -> Result<(), Exit> {
        let twin = self.twin.twin();
        let TwinChange { merge_patch_json, version } = told.change(&twin);
        let answer = instance.desired_changed(&merge_patch_json, version).await;
        let answer = answer.map_err(|exit| exit.during(During::Twin { version }))?;
        told.note(&twin);
        if let Some(ack) = answer.unwrap_or_else(Some) {
            self.keep_ack(&ack, version).await;
        }
        Ok(())
    }

    async fn keep_ack(&self, ack: &TwinAck, version: u64) {
        if let Err(error) = self.twin.answer(ack, version).await {
            tracing::warn!(module = %self.module, %error, "cannot keep the module's answer to its desired properties");
        }
    }

    /// Delivers one batch; false when nothing waits.
    async fn deliver(
        &self,
        instance: &mut dyn Instance,
        inputs: &mut Inputs,
        told: &Told,
        exports: Exports,
    ) -> Result<bool, Exit> {
        inputs.refresh(&self.router, &self.module);
        // Before the look: what comes after it and is more urgent ends the batch.
        self.bell.begin_batch();
        let now = self.clock.uptime();
        let Some(endpoint) = inputs.pick(now) else { return Ok(false) };
        let batch = endpoint.take(now, BATCH);
        if batch.is_empty() {
            return Ok(true); // all had expired
        }
        let turn_ends = (inputs.endpoints.len() > 1).then(|| now.after(TURN));
        let noted = batch.suspect();
        // The batch returns to its queue whatever happens: also when this future is dropped in the middle of a call.
        let mut inbox =
            EndpointInbox { endpoint, batch, task: self, told, exports, turn_ends, first: true, noted, settled: 0 };
        if let Some((place, attempts)) = noted {
            self.router.storage().begin(place, attempts).await;
        }
        match instance.handle_batch(&mut inbox).await {
            Ok(()) => Ok(true),
            Err(exit) => Err(inbox.tell(exit)),
        }
    }

    /// Whether something goes before the next message, other than a timer.
    fn is_urgent(&self, told: &Told, exports: Exports) -> bool {
        self.stop.at_least(STOP) || (exports.twin && told.is_behind(self.twin.desired_version()))
    }

    fn has_due_timer(&self, exports: Exports) -> bool {
        exports.timer
            && !self.stop.at_least(QUIESCE)
            && self.link.next_timer().is_some_and(|due| due <= self.clock.uptime())
    }

    async fn wait(&self, inputs: &mut Inputs, told: &Told, exports: Exports) {
        let mut stop = std::pin::pin!(self.stop.changed.notified());
        stop.as_mut().enable();
        self.bell.arm();
        // Once more, now that no ring is lost.
        inputs.refresh(&self.router, &self.module);
        let due_message = exports.input && inputs.pick(self.clock.uptime()).is_some();
        let due_call = exports.method && self.methods.has_turn();
        if self.is_urgent(told, exports) || due_call || self.has_due_timer(exports) || due_message {
            return;
        }
        let timer = self.link.next_timer().filter(|_| exports.timer && !self.stop.at_least(QUIESCE));
        let retry = exports.input.then(|| inputs.next_due()).flatten();
        let due = timer.into_iter().chain(retry).min();
        tokio::select! {
            biased;
            () = self.bell.wait() => {}
            () = stop => {}
            () = sleep_until(self.clock, due) => {}
        }
    }
}

pub(crate) async fn sleep_until(clock: Clock, due: Option<Uptime>) {
    match due {
        Some(due) => tokio::time::sleep_until(clock.instant(due)).await,
        None => std::future::pending().await,
    }
}

fn killed() -> Exit {
    Exit::new(Exit::STOPPED, "stopped in the middle of a call that did not end in time")
}

/// The module's queues, looked up again when the routes have changed.
#[derive(Default)]
pub(crate) struct Inputs {
    generation: Option<u64>,
    endpoints: Vec<Arc<Endpoint>>,
    turn: usize,
}

impl Inputs {
    pub(crate) fn refresh(&mut self, router: &Router, module: &str) {
        let generation = router.generation();
        if self.generation != Some(generation) {
            self.endpoints = router.inputs_of(module);
            self.generation = Some(generation);
        }
    }

    /// The queue with the most urgent message; among equals they take turns.
    pub(crate) fn pick(&mut self, now: Uptime) -> Option<Arc<Endpoint>> {
        if let [only] = &*self.endpoints {
            return only.most_urgent(now).map(|_| only.clone());
        }
        let count = self.endpoints.len();
        let best = (1..=count)
            .map(|step| (self.turn + step) % count)
            .filter_map(|index| Some((self.endpoints[index].most_urgent(now)?, index)))
            .min_by_key(|(priority, _)| *priority)?;
        self.turn = best.1;
        Some(self.endpoints[best.1].clone())
    }

    /// When the next message in back-off may be tried again.
    pub(crate) fn next_due(&self) -> Option<Uptime> {
        self.endpoints.iter().filter_map(|endpoint| endpoint.next_due()).min()
    }
}

/// A batch on its way into the guest.
struct EndpointInbox<'t> {
    endpoint: Arc<Endpoint>,
    batch: Batch,
    task: &'t ModuleTask,
    told: &'t Told,
    exports: Exports,
    /// When the other inputs have their turn; none = there are none.
    turn_ends: Option<Uptime>,
    /// Nothing has been taken yet. A timer that is always due must not keep messages away: each batch has one at least.
    first: bool,
    /// What the log was told of a delivery that has not begun.
    noted: Option<(Place, u32)>,
    /// Counted here, and added once a batch.
    settled: u64,
}

impl EndpointInbox<'_> {
    /// With the message that was being handled.
    fn tell(&self, exit: Exit) -> Exit {
        match self.batch.current() {
            Some(item) => {
                let message =
                    HandledMessage::new(&self.endpoint.input, &item.accepted, item.attempts.saturating_add(1));
                exit.during(During::Message(message))
            }
            None => exit,
        }
    }

    /// Whether the rest of the batch goes back for now.
    fn gives_way(&self) -> bool {
        let clock = self.task.clock;
        (self.exports.method && self.task.methods.waiting() > 0)
            || self.task.has_due_timer(self.exports)
            || self.batch.next_priority().is_some_and(|priority| self.task.bell.has_more_urgent(priority))
            || self.turn_ends.is_some_and(|end| end <= clock.uptime())
    }
}

impl Inbox for EndpointInbox<'_> {
    fn next(&mut self) -> Option<Delivery> {
        if self.task.is_urgent(self.told, self.exports) || (!self.first && self.gives_way()) {
            return None;
        }
        self.first = false;
        self.noted = None;
        let item = self.batch.next_item(|| self.task.clock.uptime())?;
        Some(Delivery {
            input: self.endpoint.input.clone(),
            accepted: item.accepted.clone(),
            attempt: item.attempts + 1,
        })
    }

    fn settle(&mut self, settlement: Settlement) {
        self.settled += 1;
        // Clock and chance are asked only where they matter: most messages are done.
        match settlement {
            Settlement::Done => self.batch.settle(Settlement::Done, Uptime(0), 0.0),
            other => self.batch.settle(other, self.task.clock.uptime(), self.task.clock.jitter()),
        }
        self.endpoint.credit(&mut self.batch);
    }
}

impl Drop for EndpointInbox<'_> {
    fn drop(&mut self) {
        self.task.received.fetch_add(self.settled, Relaxed);
        if let Some((place, attempts)) = self.noted {
            self.task.router.storage().not_begun(place, attempts);
        }
        self.endpoint.finish(std::mem::take(&mut self.batch), self.task.clock.uptime());
    }
}
