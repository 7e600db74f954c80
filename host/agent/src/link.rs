//! What one instance may ask of the host: the agent's side of [`ModuleHost`].

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use bytes::Bytes;
use marram_core::{
    message::Message,
    methods::{InvokeError, MethodRequest, MethodResponse},
    name::check_port_name,
    ports::{
        BoxFuture, DurableTimerError, LogStream, ModuleHost, ModuleInfo, ReceiveError, Received, ReportError,
        SendError, Sent, Settlement, Storing, TimerError, TwinAck, TwinChange, TwinDocument, WatchError,
    },
    route::{Origin, module_output, module_source},
    state::{StateError, Write},
    time::Uptime,
    timers::{DueTimer, DurableTimer, Timers},
    traps::HeldMessages,
};

use crate::{
    clock::Clock,
    counts::SourceCounts,
    delivery::StopSignal,
    doorbell::Doorbell,
    inbox::ProgramInbox,
    logs::LogBuffer,
    methods::{Caller, Methods, is_system},
    router::{self, Attempt, Chosen, Refusal, Resolved, Router, Taken},
    state::StateCell,
    storage::Answer,
    twins::{TwinCell, Watch},
};

/// Outputs whose receivers are remembered. A module has a handful; one that makes up names only pays for look-ups.
const MAX_CACHED_OUTPUTS: usize = 32;

/// The host as one instance sees it.
pub(crate) struct ModuleLink {
    inner: Arc<Inner>,
}

struct Inner {
    info: ModuleInfo,
    clock: Clock,
    router: Arc<Router>,
    /// Of the module, over its instances.
    sequence: Arc<AtomicU64>,
    outputs: Mutex<Outputs>,
    closed: AtomicBool,
    twin: Arc<TwinCell>,
    watch: Arc<Watch>,
    state: Arc<StateCell>,
    timers: Mutex<Timers>,
    hears_timers: bool,
    has_durable_timers: bool,
    /// The last timer that fired was one.
    durable_was_last: AtomicBool,
    bell: Arc<Doorbell>,
    inbox: Arc<ProgramInbox>,
    methods: Arc<Methods>,
    caller: Caller,
    stop: Arc<StopSignal>,
    logs: Arc<LogBuffer>,
}

#[derive(Default)]
struct Outputs {
    resolved: Vec<(Box<str>, Resolved)>,
    /// What the last message goes to, while its sender has yet to wait for room.
    chosen: Option<(Box<str>, Arc<Message>, Chosen)>,
}

/// What a link is made of.
pub(crate) struct LinkParts {
    pub(crate) info: ModuleInfo,
    pub(crate) clock: Clock,
    pub(crate) router: Arc<Router>,
    pub(crate) sequence: Arc<AtomicU64>,
    pub(crate) twin: Arc<TwinCell>,
    pub(crate) state: Arc<StateCell>,
    pub(crate) methods: Arc<Methods>,
    pub(crate) hears_timers: bool,
    /// Its state may hold durable timers of another version, which are not its own if it does not import them.
    pub(crate) has_durable_timers: bool,
    pub(crate) stop: Arc<StopSignal>,
    /// Deliveries that the module has settled.
    pub(crate) received: Arc<AtomicU64>,
    pub(crate) logs: Arc<LogBuffer>,
}

impl ModuleLink {
    pub(crate) fn new(parts: LinkParts) -> Self {
        let LinkParts { info, clock, router, sequence, twin, state, methods, stop, received, logs, .. } = parts;
        let (hears_timers, has_durable_timers) = (parts.hears_timers, parts.has_durable_timers);
        let bell = router.doorbell(info.module_id.as_str());
        let module = info.module_id.shared();
        let watch = Arc::new(Watch::new(twin.clone(), stop.clone()));
        let inbox = Arc::new(ProgramInbox::new(clock, router.clone(), bell.clone(), module, stop.clone(), received));
        let caller = methods.caller(&info.module_id);
        let inner = Inner {
            info,
            clock,
            router,
            sequence,
            outputs: Mutex::default(),
            closed: AtomicBool::new(false),
            twin,
            watch,
            state,
            timers: Mutex::default(),
            hears_timers,
            has_durable_timers,
            durable_was_last: AtomicBool::new(false),
            bell,
            inbox,
            methods,
            caller,
            stop,
            logs,
        };
        Self { inner: Arc::new(inner) }
    }

    /// From now on the module is this instance.
    pub(crate) fn take_charge(&self) {
        self.inner.caller.take_charge();
    }

    /// The messages that the program has received and not settled; none if there are none.
    pub(crate) fn held(&self) -> Option<HeldMessages> {
        self.inner.inbox.held()
    }

    /// From now on nothing is accepted from this instance and nothing given to it; what it has not settled returns to its
    /// queue.
    pub(crate) fn close(&self) {
        self.inner.closed.store(true, SeqCst);
        self.inner.inbox.close();
    }

    /// The timer that is due, if any. Of both kinds in turns: a firing of a durable one is a write, and many of them may take longer than
    /// until the next is due.
    pub(crate) fn due_timer(&self) -> Option<Due> {
        let due = if self.inner.durable_was_last.load(Relaxed) {
            self.due_volatile().or_else(|| self.due_durable())
        } else {
            self.due_durable().or_else(|| self.due_volatile())
        };
        self.inner.durable_was_last.store(matches!(due, Some(Due::Durable(_))), Relaxed);
        due
    }

    fn due_durable(&self) -> Option<Due> {
        let state = self.inner.has_durable_timers.then_some(&self.inner.state)?;
        state.due_timer().map(Due::Durable)
    }

    fn due_volatile(&self) -> Option<Due> {
        let mut timers = self.inner.timers();
        // Without timers the clock is not read.
        timers.next_due()?;
        timers.pop_due(self.inner.clock.uptime()).map(|(name, missed)| Due::Volatile(name, missed))
    }

    /// The module has heard it.
    pub(crate) async fn timer_fired(&self, due: Due) {
        if let Due::Durable(due) = due {
            self.inner.state.timer_fired(&due).await;
        }
    }

    pub(crate) fn next_timer(&self) -> Option<Uptime> {
        let next = self.inner.timers().next_due();
        let durable = self.inner.has_durable_timers.then(|| self.inner.state.next_timer()).flatten();
        next.into_iter().chain(durable).min()
    }
}

/// A timer on its way into the guest.
pub(crate) enum Due {
    /// It is set anew, or gone.
    Volatile(Box<str>, u64),
    /// It stays due until it has fired.
    Durable(DueTimer),
}

impl Due {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Volatile(name, _) => name,
            Self::Durable(due) => &due.name,
        }
    }

    pub(crate) fn missed(&self) -> u64 {
        match self {
            Self::Volatile(_, missed) => *missed,
            Self::Durable(due) => due.missed,
        }
    }
}

impl Inner {
    fn timers(&self) -> std::sync::MutexGuard<'_, Timers> {
        self.timers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the receivers of an output and offers them a message.
    fn offer<T>(
        &self,
        output: &str,
        message: &Arc<Message>,
        mut accept: impl FnMut(&Resolved) -> Result<T, Refusal>,
    ) -> Result<T, Attempt> {
        if self.closed.load(SeqCst) {
            return Err(Attempt::Refused(SendError::ShuttingDown));
        }
        Router::check_size(message).map_err(Attempt::Refused)?;
        let mut outputs = self.outputs();
        // A change of the routes between look-up and lock shows as `Stale`; the next round sees the new ones.
        loop {
            let resolved = self.resolve(&mut outputs.resolved, output).map_err(Attempt::Refused)?;
            match accept(resolved) {
                Ok(taken) => return Ok(taken),
                Err(Refusal::Stale) => outputs.resolved.clear(),
                Err(Refusal::Full(endpoint, patience)) => return Err(Attempt::Full(endpoint, patience)),
                Err(Refusal::ToBeStored) => return Err(Attempt::ToBeStored),
                Err(Refusal::Stopped) => return Err(Attempt::Refused(SendError::ShuttingDown)),
            }
        }
    }

    fn outputs(&self) -> std::sync::MutexGuard<'_, Outputs> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolve<'c>(&self, outputs: &'c mut Vec<(Box<str>, Resolved)>, output: &str) -> Result<&'c Resolved, SendError> {
        let found = outputs.iter().position(|(name, _)| **name == *output);
        let index = match found {
            Some(index) if self.router.is_current(&outputs[index].1) => index,
            stale => {
                check_port_name(output).map_err(|error| SendError::Denied(format!("output {output:?}: {error}")))?;
                let (source, origin) = self.source(output);
                let resolved = self.router.resolve(&source, origin);
                if let Some(index) = stale {
                    outputs.swap_remove(index);
                } else if outputs.len() >= MAX_CACHED_OUTPUTS {
                    outputs.clear();
                }
                outputs.push((output.into(), resolved));
                outputs.len() - 1
            }
        };
        Ok(&outputs[index].1)
    }

    fn source(&self, output: &str) -> (String, Origin) {
        let module = self.info.module_id.as_str();
        let device = Some(self.info.device_id.as_str().into());
        (module_source(module, output), Origin { device, module: Some(module.into()), output: Some(output.into()) })
    }

    /// Where its messages on an output are counted. For those that were refused: it is not fast.
    fn counts(&self, output: &str) -> Arc<SourceCounts> {
        let (source, origin) = self.source(output);
        self.router.sources().of(&source.into(), &origin)
    }

    async fn send(&self, output: String, message: Arc<Message>, mut chosen: Option<Chosen>) -> Result<u64, SendError> {
        let mut accept = |found: &Resolved| self.router.accept(found, &message, &self.sequence, &mut chosen);
        let offer = || self.offer(&output, &message, &mut accept);
        router::patiently(offer, || self.counts(&output)).await
    }
}

impl Inner {
    /// The answer of a message that is being stored; it is offered again where the log refuses it, without reading its body again.
    fn storing(
        self: &Arc<Self>,
        answer: Answer,
        found: &Resolved,
        message: &Arc<Message>,
        chosen: Option<Chosen>,
    ) -> Storing {
        let (inner, source, message) = (self.clone(), found.source().clone(), message.clone());
        Storing(Box::pin(async move {
            match answer.stored().await {
                Ok(sequence) => Ok(sequence),
                Err(_) => inner.send_again(&source, message, chosen).await,
            }
        }))
    }

    /// Boxed: rare, and larger than the rest of it.
    fn send_again(
        self: Arc<Self>,
        source: &str,
        message: Arc<Message>,
        chosen: Option<Chosen>,
    ) -> BoxFuture<'static, Result<u64, SendError>> {
        let output = module_output(source).map_or("", |(_, output)| output).to_owned();
        Box::pin(async move { self.send(output, message, chosen).await })
    }
}

impl ModuleHost for ModuleLink {
    fn try_send(&self, output: &str, message: &Arc<Message>) -> Sent {
        let (inner, mut chosen) = (&self.inner, None);
        let accept = |found: &Resolved| {
            Ok(match inner.router.accept_now(found, message, &inner.sequence, &mut chosen)? {
                Taken::Now(sequence) => Sent::Accepted(sequence),
                Taken::Storing(answer, _) => Sent::Storing(inner.storing(answer, found, message, chosen.take())),
                Taken::Not(..) => Sent::Wait,
            })
        };
        match inner.offer(output, message, accept) {
            Ok(sent) => sent,
            Err(Attempt::Refused(error)) => Sent::Refused(error),
            Err(Attempt::Full(_, patience)) if patience.is_zero() => {
                inner.counts(output).full();
                Sent::Refused(SendError::Full)
            }
            Err(Attempt::Full(..) | Attempt::ToBeStored) => {
                inner.outputs().chosen = chosen.map(|chosen| (output.into(), message.clone(), chosen));
                Sent::Wait
            }
        }
    }

    fn send(&self, output: String, message: Arc<Message>) -> BoxFuture<'static, Result<u64, SendError>> {
        let inner = self.inner.clone();
        let chosen = inner.outputs().chosen.take();
        let of_this = |(to, of, _): &(Box<str>, Arc<Message>, Chosen)| **to == *output && Arc::ptr_eq(of, &message);
        let chosen = chosen.filter(of_this).map(|(_, _, chosen)| chosen);
        Box::pin(async move { inner.send(output, message, chosen).await })
    }

    fn desired(&self) -> TwinDocument {
        self.inner.twin.desired()
    }

    fn reported(&self) -> TwinDocument {
        self.inner.twin.reported()
    }

    fn report(&self, merge_patch_json: String) -> BoxFuture<'static, Result<u64, ReportError>> {
        let twin = self.inner.twin.clone();
        Box::pin(async move { twin.report(merge_patch_json).await })
    }

    fn next_change(&self, patience: Duration) -> BoxFuture<'static, Result<Option<TwinChange>, WatchError>> {
        let watch = self.inner.watch.clone();
        Box::pin(async move { watch.next(patience).await })
    }

    fn acknowledge(&self, version: u64, ack: TwinAck) -> BoxFuture<'static, Result<u64, ReportError>> {
        let twin = self.inner.twin.clone();
        Box::pin(async move { Ok(twin.acknowledge(&ack, version).await?) })
    }

    fn receive(&self, patience: Duration) -> BoxFuture<'static, Result<Option<Received>, ReceiveError>> {
        let inbox = self.inner.inbox.clone();
        Box::pin(async move { inbox.receive(patience).await })
    }

    fn settle(&self, ticket: u64, settlement: Settlement) -> bool {
        self.inner.inbox.settle(ticket, settlement)
    }

    fn state_get(&self, bucket: String, key: String) -> BoxFuture<'static, Result<Option<Bytes>, StateError>> {
        Box::pin(self.inner.state.clone().get(bucket, key))
    }

    fn state_keys(
        &self,
        bucket: String,
        prefix: String,
        after: Option<String>,
        max: usize,
    ) -> BoxFuture<'static, Result<Vec<Box<str>>, StateError>> {
        Box::pin(self.inner.state.clone().keys(bucket, prefix, after, max))
    }

    fn state_write(&self, writes: Vec<Write>) -> BoxFuture<'static, Result<(), StateError>> {
        Box::pin(self.inner.state.clone().write(writes))
    }

    fn set_timer(&self, name: &str, interval: Duration, periodic: bool) -> Result<(), TimerError> {
        if !self.inner.hears_timers {
            return Err(TimerError::NoHandler);
        }
        let now = self.inner.clock.uptime();
        let result = self.inner.timers().set(name, interval, periodic, now);
        // A program may set it while its task waits elsewhere.
        self.inner.bell.ring();
        result
    }

    fn cancel_timer(&self, name: &str) -> bool {
        self.inner.timers().cancel(name)
    }

    fn invoke(
        &self,
        target: String,
        request: MethodRequest,
    ) -> BoxFuture<'static, Result<MethodResponse, InvokeError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            if inner.closed.load(SeqCst) || inner.stop.is_stopping() {
                return Err(InvokeError::Stopping);
            }
            if is_system(&target) {
                let what = format!("`{target}` is the host's: the operator and the cloud may call it, modules may not");
                return Err(InvokeError::Denied(what));
            }
            tokio::select! {
                biased;
                answer = inner.methods.invoke(Some(&inner.caller), &target, request) => answer,
                // A module that is to end waits for nobody.
                () = inner.stop.stopped() => Err(InvokeError::Stopping),
            }
        })
    }

    fn set_durable_timer(
        &self,
        name: String,
        interval: Duration,
        periodic: bool,
    ) -> BoxFuture<'static, Result<(), DurableTimerError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            if !inner.hears_timers {
                return Err(TimerError::NoHandler.into());
            }
            let result = inner.state.clone().set_timer(name, interval, periodic).await;
            inner.bell.ring();
            result
        })
    }

    fn cancel_durable_timer(&self, name: String) -> BoxFuture<'static, Result<bool, DurableTimerError>> {
        Box::pin(self.inner.state.clone().cancel_timer(name))
    }

    fn durable_timers(&self) -> Vec<DurableTimer> {
        self.inner.state.timers()
    }

    fn info(&self) -> ModuleInfo {
        self.inner.info.clone()
    }

    fn log(&self, stream: LogStream, line: &str) {
        self.inner.logs.push(stream, line);
    }
}
