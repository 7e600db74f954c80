//! What the host keeps for one instance inside its wasmtime store.

use std::sync::Arc;

use marram_core::{
    message::MAX_MESSAGE_BYTES,
    ports::{Delivery, ModuleHost},
};
use wasmtime::{Engine, Store, UpdateDeadline, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::{
    cpu::Meter,
    deadline::{CallLimits, Deadline},
    exit::Ended,
    limits::Memory,
    messages::{Held, MAX_MESSAGES, Messages},
};

/// Bytes that a guest may pass in one call to the host: the largest message and room for its names. Also enough for WASI,
/// whose streams take at most 64 KiB at once.
pub(crate) const HOSTCALL_BYTES: usize = MAX_MESSAGE_BYTES + (64 << 10);

/// WASI resources (files, streams, timers) of one instance, whatever memory it may use.
const MAX_WASI_RESOURCES: usize = 4096;
/// WASI resources that even the smallest module may have: its folders, its output and a few files.
const MIN_WASI_RESOURCES: usize = 64;
/// What a WASI resource costs the host, buffers of files aside (see [`crate::link`]); they may use a sixteenth of the
/// module's memory limit.
const WASI_RESOURCE_BYTES: u64 = 1 << 10;

/// Handles in the guest's own tables: those of messages and of WASI resources.
const MAX_COMPONENT_HANDLES: usize = MAX_MESSAGES + MAX_WASI_RESOURCES;

/// Data of a store.
pub(crate) struct GuestState {
    pub(crate) host: Arc<dyn ModuleHost>,
    pub(crate) messages: Messages,
    pub(crate) memory: Memory,
    pub(crate) deadline: Deadline,
    wasi: WasiCtx,
    resources: ResourceTable,
}

impl GuestState {
    pub(crate) fn new(host: Arc<dyn ModuleHost>, wasi: WasiCtx, memory_bytes: u64, meter: Arc<Meter>) -> Self {
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(wasi_resources(memory_bytes));
        Self {
            host,
            messages: Messages::default(),
            memory: Memory::new(memory_bytes),
            deadline: Deadline::none(meter),
            wasi,
            resources,
        }
    }

    /// A store with all its limits in force.
    pub(crate) fn into_store(self, engine: &Engine) -> Store<Self> {
        let mut store = Store::new(engine, self);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        store.set_max_component_handles(MAX_COMPONENT_HANDLES);
        store.set_epoch_deadline(1);
        // Only our own data is touched in here, never the store (CVE-2026-104855).
        store.epoch_deadline_callback(|mut context| {
            Ok(match context.data_mut().deadline.tick()? {
                None => UpdateDeadline::Yield(1),
                Some(pause) => UpdateDeadline::YieldCustom(1, Box::pin(tokio::time::sleep(pause))),
            })
        });
        store
    }

    /// Makes a delivery the guest's and begins its call. Returns the handle and the input's name.
    pub(crate) fn deliver(&mut self, delivery: Delivery, limits: CallLimits) -> Result<(u32, Arc<str>), Ended> {
        self.deadline.begin(Some(limits));
        let (held, input) = Held::delivered(delivery);
        Ok((self.messages.insert(&mut self.memory, held)?, input))
    }
}

fn wasi_resources(memory_bytes: u64) -> usize {
    let most = memory_bytes / 16 / WASI_RESOURCE_BYTES;
    usize::try_from(most).unwrap_or(usize::MAX).clamp(MIN_WASI_RESOURCES, MAX_WASI_RESOURCES)
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}
