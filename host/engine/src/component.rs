//! A compiled component whose imports are met: which exports it has, and how to instantiate it.

use std::{pin::pin, sync::Arc};

use marram_core::{
    deployment::ModuleSpec,
    ports::{self, BoxFuture, Exit, Exports, LoadError, LogStream, ModuleHost},
};
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Linker, Lower, types::ComponentItem,
};

use crate::{
    check::{INCOMING, INPUT, Interface, METHOD, RUN, START, Surface, TIMER, TWIN},
    cpu::Meter,
    deadline::CallLimits,
    dumps::{Dumper, Dumps},
    instance::{
        ChangedParams, ChangedResults, FireParams, GuestInstance, HandleParams, HandleResults, Handlers,
        IncomingParams, IncomingResults, InvokeParams, InvokeResults, Live, RunResults, StartResults,
    },
    log::LogPipe,
    state::GuestState,
    ticker::Ticker,
    wasi::{self, Walls},
};

/// A component, linked; shared by its instances.
pub(crate) struct WasmComponent {
    linked: InstancePre<GuestState>,
    entries: Entries,
    imports_inbox: bool,
    imports_durable_timers: bool,
    /// Of one instance; see [`crate::cost`].
    cost: u64,
    ticker: Arc<Ticker>,
    walls: Arc<Walls>,
    dumps: Option<Dumps>,
}

/// Where the functions are that the host calls.
struct Entries {
    run: Option<ComponentExportIndex>,
    start: Option<ComponentExportIndex>,
    input: Option<ComponentExportIndex>,
    incoming: Option<ComponentExportIndex>,
    twin: Option<ComponentExportIndex>,
    timer: Option<ComponentExportIndex>,
    method: Option<ComponentExportIndex>,
}

impl WasmComponent {
    /// Checks every import and every export against the host's interfaces.
    ///
    /// # Errors
    /// Names the import or export that does not fit.
    pub(crate) fn link(
        linker: &Linker<GuestState>,
        component: &Component,
        cost: u64,
        ticker: Arc<Ticker>,
        walls: Arc<Walls>,
        dumps: Option<Dumps>,
    ) -> Result<Self, LoadError> {
        let linked = linker
            .instantiate_pre(component)
            .map_err(|error| LoadError(format!("an import does not fit this host: {error:#}")))?;
        let (types, engine) = (component.component_type(), component.engine());
        let imports = types.imports(engine).map(|(name, _)| name.to_owned()).collect();
        let exports = types.exports(engine).map(|(name, _)| name.to_owned()).collect();
        let surface = Surface { imports, exports, ..Surface::default() };
        surface.kind().map_err(|refusal| LoadError(refusal.to_string()))?;
        let entries = Entries {
            run: entry::<(), RunResults>(&linked, &surface, RUN, "run")?,
            start: entry::<(), StartResults>(&linked, &surface, START, "start")?,
            input: entry::<HandleParams, HandleResults>(&linked, &surface, INPUT, "handle")?,
            incoming: entry::<IncomingParams, IncomingResults>(&linked, &surface, INCOMING, "handle")?,
            twin: entry::<ChangedParams, ChangedResults>(&linked, &surface, TWIN, "desired-changed")?,
            timer: entry::<FireParams, ()>(&linked, &surface, TIMER, "fire")?,
            method: entry::<InvokeParams, InvokeResults>(&linked, &surface, METHOD, "invoke")?,
        };
        let (imports_inbox, imports_durable_timers) = (surface.imports_inbox(), surface.imports_durable_timers());
        Ok(Self { linked, entries, imports_inbox, imports_durable_timers, cost, ticker, walls, dumps })
    }

    async fn instance(
        &self,
        spec: &ModuleSpec,
        host: Arc<dyn ModuleHost>,
        meter: Arc<Meter>,
    ) -> Result<GuestInstance, Exit> {
        let stdout = LogPipe::new(host.clone(), LogStream::Out);
        let stderr = LogPipe::new(host.clone(), LogStream::Err);
        let wasi = wasi::context(spec, &self.walls, &stdout, &stderr)?;
        let limits = CallLimits { running: spec.sandbox.handler_time, wall: spec.sandbox.handler_wall };
        let state = GuestState::new(host, wasi, spec.sandbox.memory_bytes, meter.clone());
        let dumper =
            self.dumps.clone().map(|dumps| Dumper { dumps, module: spec.name.clone(), image: spec.image.clone() });
        let mut live = Box::new(Live::new(state.into_store(self.linked.engine()), stdout, stderr, dumper));
        if let Err(over) = live.store.data_mut().memory.take_instances(self.cost) {
            return Err(live.end(over.into()).await);
        }
        // Initialisers run now: guest code like any other, so within the bounds of a call.
        live.store.data_mut().deadline.begin(Some(limits));
        let made = limits.last_resort(pin!(self.linked.instantiate_async(&mut live.store))).await;
        let instance = match made {
            Ok(Ok(instance)) => instance,
            Ok(Err(error)) => return Err(live.end(error).await),
            Err(late) => return Err(live.end(late.into()).await),
        };
        let handlers = match self.entries.handlers(&instance, &mut live.store) {
            Ok(handlers) => handlers,
            Err(error) => return Err(live.end(error).await),
        };
        Ok(GuestInstance::new(live, handlers, limits, meter))
    }
}

impl ports::Component for WasmComponent {
    fn exports(&self) -> Exports {
        let Entries { run, start, input, incoming, twin, timer, method } = &self.entries;
        Exports {
            run: run.is_some(),
            start: start.is_some(),
            input: input.is_some() || incoming.is_some(),
            twin: twin.is_some(),
            timer: timer.is_some(),
            method: method.is_some(),
        }
    }

    fn imports_inbox(&self) -> bool {
        self.imports_inbox
    }

    fn imports_durable_timers(&self) -> bool {
        self.imports_durable_timers
    }

    fn instantiate(
        &self,
        spec: &ModuleSpec,
        host: Arc<dyn ModuleHost>,
    ) -> BoxFuture<'_, Result<Box<dyn ports::Instance>, Exit>> {
        let (spec, meter) = (spec.clone(), Meter::new(self.ticker.clone()));
        Box::pin(meter.clone().during(async move {
            let instance = self.instance(&spec, host, meter).await?;
            Ok(Box::new(instance) as Box<dyn ports::Instance>)
        }))
    }
}

impl Entries {
    fn handlers(
        &self,
        instance: &wasmtime::component::Instance,
        store: &mut wasmtime::Store<GuestState>,
    ) -> wasmtime::Result<Handlers> {
        let mut handlers = Handlers::default();
        if let Some(index) = &self.run {
            handlers.run = Some(instance.get_typed_func(&mut *store, index)?);
        }
        if let Some(index) = &self.start {
            handlers.start = Some(instance.get_typed_func(&mut *store, index)?);
        }
        if let Some(index) = &self.input {
            handlers.handle = Some(instance.get_typed_func(&mut *store, index)?);
        }
        if let Some(index) = &self.incoming {
            handlers.incoming = Some(instance.get_typed_func(&mut *store, index)?);
        }
        if let Some(index) = &self.twin {
            handlers.desired_changed = Some(instance.get_typed_func(&mut *store, index)?);
        }
        if let Some(index) = &self.timer {
            handlers.fire = Some(instance.get_typed_func(&mut *store, index)?);
        }
        if let Some(index) = &self.method {
            handlers.invoke = Some(instance.get_typed_func(&mut *store, index)?);
        }
        Ok(handlers)
    }
}

/// Finds `interface`'s `function` and checks its type.
fn entry<Params, Results>(
    linked: &InstancePre<GuestState>,
    surface: &Surface,
    interface: Interface,
    function: &str,
) -> Result<Option<ComponentExportIndex>, LoadError>
where
    Params: ComponentNamedList + Lower,
    Results: ComponentNamedList + Lift,
{
    let Some(name) = surface.export(interface) else { return Ok(None) };
    let component = linked.component();
    let found =
        component.get_export_index(None, name).and_then(|instance| component.get_export(Some(&instance), function));
    match found {
        Some((ComponentItem::ComponentFunc(item), index)) => match item
            .typecheck::<Params, Results>(&linked.instance_type())
        {
            Ok(()) => Ok(Some(index)),
            Err(error) => Err(LoadError(format!("export `{name}#{function}` has another type than here: {error:#}"))),
        },
        _ => Err(LoadError(format!("export `{name}` has no function `{function}`"))),
    }
}
