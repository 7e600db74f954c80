//! A running instance: calls its exports one at a time, each within its bounds, and turns whatever ends it into an exit.

use std::{pin::pin, sync::Arc};

use marram_core::{
    ports::{self, BoxFuture, Exit, Inbox, Settlement, TwinAck, TwinAnswer},
    traps::is_trap,
};
use wasmtime::{
    Store, WasmCoreDump,
    component::{ComponentNamedList, ComponentType, Lift, Lower, Resource, TypedFunc},
};

use crate::{
    cpu::Meter,
    deadline::CallLimits,
    dumps::Dumper,
    exit::{classify, one_line},
    link::{MessageTag, Nack, WasiError, WasiMessageTag, settlement, wasi_settlement},
    log::LogPipe,
    state::GuestState,
};

pub(crate) type RunResults = (Result<(), ()>,);
pub(crate) type StartResults = (Result<(), String>,);
pub(crate) type HandleParams = (Arc<str>, Resource<MessageTag>);
pub(crate) type HandleResults = (Result<(), Nack>,);
pub(crate) type IncomingParams = (Resource<WasiMessageTag>,);
pub(crate) type IncomingResults = (Result<(), WasiError>,);
pub(crate) type FireParams = (String, u64);
pub(crate) type ChangedParams = (String, u64);
pub(crate) type ChangedResults = (Result<Option<Ack>, Ack>,);

pub(crate) type InvokeParams = (String, String);
pub(crate) type InvokeResults = (Response,);

/// `method-response`.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Response {
    status: i32,
    payload: String,
}

/// `twin-handler`'s `ack`.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct Ack {
    code: u16,
    description: String,
}

impl From<Ack> for TwinAck {
    fn from(ack: Ack) -> Self {
        Self { code: ack.code, description: one_line(&ack.description) }
    }
}

/// The exports of one instance that the host calls; typed, looked up once.
#[derive(Default)]
pub(crate) struct Handlers {
    pub(crate) run: Option<TypedFunc<(), RunResults>>,
    pub(crate) start: Option<TypedFunc<(), StartResults>>,
    pub(crate) handle: Option<TypedFunc<HandleParams, HandleResults>>,
    pub(crate) incoming: Option<TypedFunc<IncomingParams, IncomingResults>>,
    pub(crate) desired_changed: Option<TypedFunc<ChangedParams, ChangedResults>>,
    pub(crate) fire: Option<TypedFunc<FireParams, ()>>,
    pub(crate) invoke: Option<TypedFunc<InvokeParams, InvokeResults>>,
}

/// A store that may still be used, and the output that must not be lost with it.
pub(crate) struct Live {
    pub(crate) store: Store<GuestState>,
    stdout: LogPipe,
    stderr: LogPipe,
    /// None: the owner wants no core dumps.
    dumper: Option<Dumper>,
    /// True from the begin of a call to its end: still true at the next call if the caller dropped the future between.
    busy: bool,
}

impl Live {
    pub(crate) fn new(store: Store<GuestState>, stdout: LogPipe, stderr: LogPipe, dumper: Option<Dumper>) -> Self {
        Self { store, stdout, stderr, dumper, busy: false }
    }

    /// Logs what is left of the output, says why the instance ended and, if it trapped and the owner wants that, writes what
    /// it had in memory. The store is gone after.
    pub(crate) async fn end(mut self: Box<Self>, error: wasmtime::Error) -> Exit {
        self.flush();
        let exit = classify(&error);
        let Some(dumper) = self.dumper.take().filter(|_| is_trap(&exit)) else { return exit };
        let Ok(dump) = error.downcast::<WasmCoreDump>() else { return exit };
        let known = exit.clone();
        // It waits for the disk, and the next instance for it: two of them are never in memory.
        let written = tokio::task::spawn_blocking(move || dumper.write(&dump, &mut self.store, &known)).await;
        let core_dump = written.unwrap_or_else(|panic| {
            tracing::error!(%panic, "no core dump");
            None
        });
        Exit { core_dump: core_dump.map(Box::new), ..exit }
    }

    fn flush(&self) {
        self.stdout.flush_partial();
        self.stderr.flush_partial();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.flush(); // the host stopped it, or dropped the future of its call
    }
}

/// One instance of a component.
pub(crate) struct GuestInstance {
    state: State,
    handlers: Handlers,
    limits: CallLimits,
    meter: Arc<Meter>,
}

enum State {
    Live(Box<Live>),
    /// The store is gone, so nothing can touch it any more.
    Ended(Exit),
}

impl GuestInstance {
    pub(crate) fn new(live: Box<Live>, handlers: Handlers, limits: CallLimits, meter: Arc<Meter>) -> Self {
        Self { state: State::Live(live), handlers, limits, meter }
    }

    /// The store for a call. Whoever gets it says [`Live::busy`] false after.
    fn begin(&mut self) -> Result<&mut Live, Exit> {
        if matches!(&self.state, State::Live(live) if live.busy) {
            return Err(self.end(Exit::new(Exit::STOPPED, "a call was abandoned while it ran")));
        }
        match &mut self.state {
            State::Live(live) => {
                live.busy = true;
                Ok(live)
            }
            State::Ended(exit) => Err(exit.clone()),
        }
    }

    /// Drops the store.
    fn end(&mut self, exit: Exit) -> Exit {
        self.state = State::Ended(exit.clone());
        exit
    }

    async fn end_by(&mut self, error: wasmtime::Error) -> Exit {
        let abandoned = Exit::new(Exit::STOPPED, "it was abandoned while it ended");
        let exit = match std::mem::replace(&mut self.state, State::Ended(abandoned)) {
            State::Live(live) => live.end(error).await,
            State::Ended(exit) => exit,
        };
        self.end(exit)
    }

    /// One call within the bounds of a handler.
    async fn call<P, R>(&mut self, function: Option<TypedFunc<P, R>>, params: P, name: &str) -> Result<R, Exit>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        let limits = self.limits;
        let live = self.begin()?;
        let Some(function) = function else {
            return Err(self.end(Exit::new(Exit::TRAP, format!("the component does not export {name}"))));
        };
        live.store.data_mut().deadline.begin(Some(limits));
        let result = limits.last_resort(pin!(function.call_async(&mut live.store, params))).await;
        match result {
            Ok(Ok(results)) => {
                live.busy = false;
                Ok(results)
            }
            Ok(Err(error)) => Err(self.end_by(error).await),
            Err(late) => Err(self.end_by(late.into()).await),
        }
    }

    async fn run_program(&mut self) -> Exit {
        let function = self.handlers.run;
        let live = match self.begin() {
            Ok(live) => live,
            Err(exit) => return exit,
        };
        let Some(function) = function else {
            return self.end(Exit::new(Exit::TRAP, "the component does not export wasi:cli/run"));
        };
        live.store.data_mut().deadline.begin(None);
        let exit = match function.call_async(&mut live.store, ()).await {
            Ok((Ok(()),)) => Exit::new(Exit::DONE, "the program ended"),
            Ok((Err(()),)) => Exit::new(1, "the program ended with an error (see its log)"),
            Err(error) => return self.end_by(error).await,
        };
        self.end(exit)
    }

    /// Calls a handler for each delivery: `params` makes its parameters of a message's slot and its input, `settled` reads its
    /// answer.
    async fn batch<P, R>(
        &mut self,
        inbox: &mut dyn Inbox,
        function: Option<TypedFunc<P, R>>,
        params: impl Fn(&mut GuestState, u32, Arc<str>) -> P,
        settled: impl Fn(&GuestState, R) -> Settlement,
    ) -> Result<(), Exit>
    where
        P: ComponentNamedList + Lower + Send + Sync + 'static,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        let limits = self.limits;
        let live = self.begin()?;
        let Some(function) = function else {
            return Err(self.end(Exit::new(Exit::TRAP, "the component does not export marram:edge/input-handler")));
        };
        let ended = loop {
            let Some(delivery) = inbox.next() else {
                live.busy = false;
                return Ok(());
            };
            let (slot, input) = match live.store.data_mut().deliver(delivery, limits) {
                Ok(delivered) => delivered,
                Err(ended) => break ended.into(),
            };
            let params = params(live.store.data_mut(), slot, input);
            let result = limits.last_resort(pin!(function.call_async(&mut live.store, params))).await;
            match result {
                Ok(Ok(results)) => inbox.settle(settled(live.store.data(), results)),
                Ok(Err(error)) => break error,
                Err(late) => break late.into(),
            }
        };
        Err(self.end_by(ended).await)
    }
}

impl ports::Instance for GuestInstance {
    fn run(&mut self) -> BoxFuture<'_, Exit> {
        let meter = self.meter.clone();
        Box::pin(meter.during(self.run_program()))
    }

    fn start(&mut self) -> BoxFuture<'_, Result<Result<(), String>, Exit>> {
        let meter = self.meter.clone();
        Box::pin(meter.during(async {
            let (result,) = self.call(self.handlers.start, (), "marram:edge/start-handler").await?;
            Ok(result.map_err(|why| one_line(&why)))
        }))
    }

    fn handle_batch<'a>(&'a mut self, inbox: &'a mut dyn Inbox) -> BoxFuture<'a, Result<(), Exit>> {
        let (meter, handle, incoming) = (self.meter.clone(), self.handlers.handle, self.handlers.incoming);
        match incoming {
            None => Box::pin(meter.during(self.batch(
                inbox,
                handle,
                |_, slot, input| (input, Resource::new_own(slot)),
                |_, (result,)| settlement(result),
            ))),
            Some(_) => Box::pin(meter.during(self.batch(
                inbox,
                incoming,
                |state, slot, input| {
                    state.messages.name_input(slot, input);
                    (Resource::new_own(slot),)
                },
                |state, (result,)| wasi_settlement(state, result),
            ))),
        }
    }

    fn fire(&mut self, name: &str, missed: u64) -> BoxFuture<'_, Result<(), Exit>> {
        let (meter, params) = (self.meter.clone(), (name.to_owned(), missed));
        Box::pin(meter.during(async { self.call(self.handlers.fire, params, "marram:edge/timer-handler").await }))
    }

    fn desired_changed(&mut self, patch_json: &str, version: u64) -> BoxFuture<'_, Result<TwinAnswer, Exit>> {
        let (meter, params) = (self.meter.clone(), (patch_json.to_owned(), version));
        Box::pin(meter.during(async {
            let (answer,) = self.call(self.handlers.desired_changed, params, "marram:edge/twin-handler").await?;
            Ok(answer.map(|ack| ack.map(TwinAck::from)).map_err(TwinAck::from))
        }))
    }

    fn invoke(&mut self, name: &str, payload: &str) -> BoxFuture<'_, Result<(i32, String), Exit>> {
        let (meter, params) = (self.meter.clone(), (name.to_owned(), payload.to_owned()));
        Box::pin(meter.during(async {
            let (answer,) = self.call(self.handlers.invoke, params, "marram:edge/method-handler").await?;
            Ok((answer.status, answer.payload))
        }))
    }

    fn memory_bytes(&self) -> u64 {
        match &self.state {
            State::Live(live) => live.store.data().memory.used(),
            State::Ended(_) => 0,
        }
    }
}
