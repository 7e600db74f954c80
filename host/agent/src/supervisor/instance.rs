//! One instance from its twin to its end.

use std::sync::{Arc, atomic::AtomicU64};

use marram_core::{
    deployment::ModuleSpec,
    ports::{Component, Exit, ModuleInfo},
};
use tokio::sync::oneshot;

use crate::{
    clock::Clock,
    delivery::{ModuleTask, StopSignal},
    link::{LinkParts, ModuleLink},
    logs::LogBuffer,
    methods::Methods,
    router::Router,
    state::StateCell,
    twins::Twins,
};

/// All that an instance's task needs.
pub(super) struct StartedModule {
    pub(super) spec: ModuleSpec,
    pub(super) component: Arc<dyn Component>,
    pub(super) info: ModuleInfo,
    pub(super) stop: Arc<StopSignal>,
    /// An update waits here once it is up, until the old version has ended.
    pub(super) gate: Option<oneshot::Receiver<()>>,
    pub(super) sequence: Arc<AtomicU64>,
    pub(super) logs: Arc<LogBuffer>,
    pub(super) memory: Arc<AtomicU64>,
    pub(super) received: Arc<AtomicU64>,
    pub(super) clock: Clock,
    pub(super) router: Arc<Router>,
    pub(super) twins: Arc<Twins>,
    pub(super) state: Arc<StateCell>,
    pub(super) methods: Arc<Methods>,
}

impl StartedModule {
    pub(super) async fn run(self, up: oneshot::Sender<()>) -> Exit {
        let name = self.info.module_id.clone();
        let twin = match self.twins.cell(&name).await {
            Ok(twin) => twin,
            Err(error) => return Exit::new(1, format!("its twin cannot be read: {error}")),
        };
        let has_durable_timers = self.component.imports_durable_timers();
        if has_durable_timers && let Err(error) = self.state.load_timers(self.clock).await {
            return Exit::new(1, format!("its durable timers cannot be read: {error}"));
        }
        let bell = self.router.doorbell(name.as_str());
        twin.ring_at_change(bell.clone());
        let exports = self.component.exports();
        let calls = self.methods.of(&name);
        let link = Arc::new(ModuleLink::new(LinkParts {
            info: self.info,
            clock: self.clock,
            router: self.router.clone(),
            sequence: self.sequence,
            twin: twin.clone(),
            state: self.state,
            methods: self.methods,
            hears_timers: exports.timer,
            has_durable_timers,
            stop: self.stop.clone(),
            received: self.received.clone(),
            logs: self.logs,
        }));
        if self.gate.is_none() {
            link.take_charge();
        }
        let task = ModuleTask {
            clock: self.clock,
            router: self.router,
            link: link.clone(),
            twin,
            methods: calls,
            stop: self.stop.clone(),
            gate: self.gate,
            bell,
            module: name.shared(),
            memory: self.memory,
            received: self.received,
        };
        let instance = tokio::select! {
            biased;
            instance = self.component.instantiate(&self.spec, link) => instance,
            () = self.stop.stopped() => return Exit::new(Exit::STOPPED, "stopped before it was up"),
        };
        match instance {
            Ok(instance) => {
                let ready = || {
                    let _ = up.send(());
                };
                task.run(instance, exports, self.component.imports_inbox(), ready).await
            }
            Err(exit) => exit,
        }
    }
}
