//! Calls of methods on their way to modules: from other modules, from the operator, from the cloud. Whose turn it is and when somebody
//! has waited long enough is decided in [`marram_core::methods`]; the module's own task makes the call, between two others.

mod numbers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{
    methods::{InvokeError, Mailbox, MethodRequest, MethodResponse, Refused, Target, Verdict, Waits},
    name::ModuleName,
    time::Uptime,
};
use tokio::sync::{Notify, oneshot};

use self::numbers::Counts;
pub(crate) use self::numbers::{CallNumbers, OPERATOR};
use crate::{clock::Clock, delivery::sleep_until, doorbell::Doorbell, router::Router};

/// The host's own part that answers `ping` and the like, under the name that IoT Edge has for it.
pub(crate) const EDGE_AGENT: &str = "$edgeAgent";
/// The other one.
pub(crate) const EDGE_HUB: &str = "$edgeHub";

/// Whether a target is no module but the host.
pub(crate) fn is_system(target: &str) -> bool {
    [EDGE_AGENT, EDGE_HUB].contains(&target)
}

/// The calls of all modules.
pub(crate) struct Methods {
    clock: Clock,
    router: Arc<Router>,
    inner: Mutex<Inner>,
    counts: Counts,
}

#[derive(Default)]
struct Inner {
    deployed: BTreeSet<ModuleName>,
    /// Kept also of modules that were removed: an instance may still be ending.
    boxes: BTreeMap<ModuleName, Arc<MethodBox>>,
    waits: Waits,
    callers: u64,
    closing: bool,
}

/// The instance that calls.
pub(crate) struct Caller {
    id: u64,
    module: ModuleName,
    in_charge: AtomicBool,
}

impl Caller {
    /// From now on calls of its module are its own.
    pub(crate) fn take_charge(&self) {
        self.in_charge.store(true, SeqCst);
    }
}

impl Methods {
    pub(crate) fn new(clock: Clock, router: Arc<Router>) -> Self {
        Self { clock, router, inner: Mutex::default(), counts: Counts::default() }
    }

    /// These modules are deployed, and no others.
    pub(crate) fn deploy<'m>(&self, modules: impl Iterator<Item = &'m ModuleName>) {
        let mut inner = self.inner();
        inner.deployed = modules.cloned().collect();
        inner.boxes.iter().for_each(|(name, of)| of.deploy(inner.deployed.contains(name)));
    }

    /// The host ends: who does not run will not run again.
    pub(crate) fn close(&self) {
        let mut inner = self.inner();
        inner.closing = true;
        inner.boxes.values().for_each(|of| of.close());
    }

    /// Where the calls of a module wait.
    pub(crate) fn of(&self, module: &ModuleName) -> Arc<MethodBox> {
        self.box_of(&mut self.inner(), module)
    }

    /// An instance that may call, and is not in charge yet.
    pub(crate) fn caller(&self, module: &ModuleName) -> Caller {
        let mut inner = self.inner();
        inner.callers += 1;
        Caller { id: inner.callers, module: module.clone(), in_charge: AtomicBool::new(false) }
    }

    /// Calls a method of a module, and waits for its answer. Without a caller it is the operator's or the cloud's.
    pub(crate) async fn invoke(
        &self,
        caller: Option<&Caller>,
        target: &str,
        request: MethodRequest,
    ) -> Result<MethodResponse, InvokeError> {
        let module = ModuleName::new(target).map_err(|_| InvokeError::Unknown(target.to_owned()))?;
        let from = caller.map_or(OPERATOR, |caller| caller.module.as_str());
        self.call(from, caller, &module, request).await
    }

    /// Calls a method of a module for the host's own sake.
    pub(crate) async fn check(
        &self,
        module: &ModuleName,
        request: MethodRequest,
    ) -> Result<MethodResponse, InvokeError> {
        self.call(EDGE_AGENT, None, module, request).await
    }

    async fn call(
        &self,
        from: &str,
        caller: Option<&Caller>,
        module: &ModuleName,
        request: MethodRequest,
    ) -> Result<MethodResponse, InvokeError> {
        let (mailbox, _wait) = self.admit(caller, module)?;
        let _counted = Counted { methods: self, from, to: module, begun: self.clock.uptime() };
        mailbox.call(request).await
    }

    /// Where the call waits, and that its caller waits for it, if it may be made.
    fn admit(
        &self,
        caller: Option<&Caller>,
        module: &ModuleName,
    ) -> Result<(Arc<MethodBox>, Option<Wait<'_>>), InvokeError> {
        let mut inner = self.inner();
        if !inner.deployed.contains(module) {
            return Err(InvokeError::Unknown(module.to_string()));
        }
        let mut wait = None;
        // While another instance answers the calls of its module, nobody waits for it.
        if let Some(Caller { id, module: from, .. }) = caller.filter(|caller| caller.in_charge.load(SeqCst)) {
            let noted = inner.waits.begin(*id, from, module);
            noted.map_err(|cycle| InvokeError::Denied(cycle.to_string()))?;
            wait = Some(Wait { methods: self, caller: *id });
        }
        Ok((self.box_of(&mut inner, module), wait))
    }

    fn box_of(&self, inner: &mut Inner, module: &ModuleName) -> Arc<MethodBox> {
        if let Some(known) = inner.boxes.get(module) {
            return known.clone();
        }
        let bell = self.router.doorbell(module.as_str());
        let new = Arc::new(MethodBox {
            module: module.clone(),
            clock: self.clock,
            bell,
            state: Mutex::default(),
            waiting: AtomicUsize::new(0),
            changed: Notify::new(),
        });
        if inner.closing {
            new.close();
        }
        inner.boxes.insert(module.clone(), new.clone());
        new
    }

    /// What was called, by caller and target.
    pub(crate) fn numbers(&self) -> Vec<CallNumbers> {
        self.counts.all(self.clock.uptime())
    }

    /// How many calls wait for each deployed module.
    pub(crate) fn waiting(&self) -> Vec<(ModuleName, usize)> {
        let inner = self.inner();
        let of = |name: &ModuleName| inner.boxes.get(name).map_or(0, |of| of.waiting());
        inner.deployed.iter().map(|name| (name.clone(), of(name))).collect()
    }

    pub(crate) fn note_agent_call(&self, name: &'static str) {
        self.counts.note_agent(name);
    }

    /// How often each method of `$edgeAgent` was called.
    pub(crate) fn agent_numbers(&self) -> BTreeMap<&'static str, u64> {
        self.counts.agent()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in it is half changed where a panic could be.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As long as it lives, the caller waits.
struct Wait<'m> {
    methods: &'m Methods,
    caller: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.methods.inner().waits.end(self.caller);
    }
}

/// Counts a call at its end, also when its caller gives it up.
struct Counted<'m> {
    methods: &'m Methods,
    from: &'m str,
    to: &'m ModuleName,
    begun: Uptime,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let took = self.methods.clock.uptime().since(self.begun);
        self.methods.counts.note(self.from, self.to.as_str(), took);
    }
}

/// Where the calls of one module wait, over all its instances.
pub(crate) struct MethodBox {
    module: ModuleName,
    clock: Clock,
    /// The module's: it looks for calls where it looks for messages.
    bell: Arc<Doorbell>,
    state: Mutex<State>,
    /// So that a busy module sees without a lock whether there is a call.
    waiting: AtomicUsize,
    /// The target has changed: when a wait ends has, too.
    changed: Notify,
}

#[derive(Default)]
struct State {
    mail: Mailbox<Reply>,
    /// Instances that take calls, or will once they are in charge.
    listening: usize,
    /// Instances that take none, those that are not in charge yet among them.
    deaf: usize,
    /// The module is not deployed any more, perhaps since its caller found this box.
    removed: bool,
}

type Reply = oneshot::Sender<Result<MethodResponse, InvokeError>>;

/// What an instance does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Listens,
    IsDeaf,
}

impl MethodBox {
    pub(crate) async fn call(&self, request: MethodRequest) -> Result<MethodResponse, InvokeError> {
        let (connect, response) = (request.connect(), request.response());
        let (reply, mut answer) = oneshot::channel();
        let offered = self.change(|state, now| match state.removed {
            true => None,
            false => Some(state.mail.offer(request, reply, now)),
        });
        let ticket = match offered {
            Some(Ok(ticket)) => ticket,
            Some(Err(refused)) => return self.word(refused, connect),
            None => return Err(self.unknown()),
        };
        let _call = Call { mailbox: self, ticket };
        self.bell.ring();
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let verdict = self.state().mail.verdict(ticket, self.clock.uptime());
            let given_up = match verdict {
                Verdict::Wait(until) => {
                    tokio::select! {
                        biased;
                        answer = &mut answer => return self.heard(answer.ok(), connect),
                        () = changed => continue,
                        () = sleep_until(self.clock, Some(until)) => continue,
                    }
                }
                Verdict::NotRunning => InvokeError::NotRunning { module: self.module.to_string(), connect },
                Verdict::Timeout => InvokeError::Timeout { module: self.module.to_string(), response },
            };
            // It may have been answered at the last moment; and whoever is not in the box any more has been.
            return match answer.try_recv() {
                Ok(answer) => self.heard(Some(answer), connect),
                Err(oneshot::error::TryRecvError::Closed) => self.heard(None, connect),
                Err(oneshot::error::TryRecvError::Empty) => Err(given_up),
            };
        }
    }

    /// None: the call was dropped without an answer.
    fn heard(
        &self,
        answer: Option<Result<MethodResponse, InvokeError>>,
        connect: Duration,
    ) -> Result<MethodResponse, InvokeError> {
        match answer {
            Some(Err(InvokeError::NotRunning { module, .. })) => Err(InvokeError::NotRunning { module, connect }),
            Some(answer) => answer,
            None => {
                Ok(MethodResponse::failed(&format!("module `{}` was stopped in the middle of the call", self.module)))
            }
        }
    }

    fn word(&self, refused: Refused, connect: Duration) -> Result<MethodResponse, InvokeError> {
        let module = || self.module.to_string();
        match refused {
            Refused::NotRunning => Err(InvokeError::NotRunning { module: module(), connect }),
            Refused::Closing => Err(InvokeError::Stopping),
            Refused::Deaf => Ok(MethodResponse::not_implemented(self.module.as_str())),
            Refused::Full => Err(InvokeError::Busy(module())),
        }
    }

    /// An instance is there, until what is returned is dropped.
    pub(crate) fn attend(self: &Arc<Self>, presence: Presence) -> Attendance {
        self.turn(|state| *state.count(presence) += 1);
        Attendance { mailbox: self.clone(), presence }
    }

    /// The call whose turn it is.
    pub(crate) fn take(&self) -> Option<BegunCall> {
        let (request, reply) = self.change(|state, now| state.mail.take(now))?;
        Some(BegunCall { request, reply })
    }

    /// Whether there is a call that may be taken.
    pub(crate) fn has_turn(&self) -> bool {
        self.waiting() > 0 && self.state().mail.has_turn(self.clock.uptime())
    }

    /// Calls that wait, of which some may have waited too long already. Costs a load.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Whether the module is deployed. What waits for one that is not will not be answered.
    fn deploy(&self, deployed: bool) {
        self.change(|state, _| {
            state.removed = !deployed;
            if state.removed {
                for reply in state.mail.clear() {
                    let _ = reply.send(Err(self.unknown()));
                }
            }
        });
    }

    fn unknown(&self) -> InvokeError {
        InvokeError::Unknown(self.module.to_string())
    }

    fn close(&self) {
        self.change(|state, now| {
            let refused = state.mail.close(now);
            self.refuse(refused);
        });
    }

    /// Changes who is there, and tells those who wait in vain. Under the lock: whoever finds its call gone has its answer.
    fn turn(&self, change: impl FnOnce(&mut State)) {
        self.change(|state, now| {
            change(state);
            let refused = state.mail.turn(state.target(), now);
            self.refuse(refused);
        });
        self.changed.notify_waiters();
    }

    fn refuse(&self, refused: Vec<(Reply, Refused)>) {
        for (reply, why) in refused {
            let _ = reply.send(self.word(why, Duration::ZERO)); // whoever hears it knows how long it waited
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State, Uptime) -> T) -> T {
        let mut state = self.state();
        let result = change(&mut state, self.clock.uptime());
        self.waiting.store(state.mail.len(), SeqCst);
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, presence: Presence) -> &mut usize {
        match presence {
            Presence::Listens => &mut self.listening,
            Presence::IsDeaf => &mut self.deaf,
        }
    }

    /// An update that listens is worth waiting for, whatever it replaces.
    fn target(&self) -> Target {
        match (self.listening, self.deaf) {
            (1.., _) => Target::Listening,
            (0, 1..) => Target::Deaf,
            (0, 0) => Target::Absent,
        }
    }
}

/// A call that somebody waits for; dropped, it is not begun any more.
struct Call<'b> {
    mailbox: &'b MethodBox,
    ticket: u64,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.mailbox.change(|state, _| state.mail.forget(self.ticket));
    }
}

/// As long as an instance has it, the instance is there.
pub(crate) struct Attendance {
    mailbox: Arc<MethodBox>,
    presence: Presence,
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.mailbox.turn(|state| *state.count(self.presence) -= 1);
    }
}

/// A call that an instance has taken. Dropped without an answer, the caller hears that the instance was stopped.
pub(crate) struct BegunCall {
    pub(crate) request: MethodRequest,
    reply: Reply,
}

impl BegunCall {
    pub(crate) fn answer(self, response: MethodResponse) {
        let _ = self.reply.send(Ok(response)); // the caller may have given up
    }
}
