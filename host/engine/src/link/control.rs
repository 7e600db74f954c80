//! `marram:edge/twin`, `twin-watch`, `timers` and `module-info`: rare calls, bound by code that is generated from `wit/`.

use std::time::Duration;

use marram_core::ports::{ReportError, TimerError, TwinAck, TwinDocument, WatchError};
use wasmtime::{
    Result,
    component::{HasSelf, Linker},
};

use self::bindings::marram::edge::{module_info, timers, twin, twin_watch};
use super::messaging::within;
use crate::state::GuestState;

#[allow(missing_docs, unreachable_pub)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "
            package marram:engine;
            world control {
                import marram:edge/twin@0.1.0;
                import marram:edge/twin-watch@0.1.0;
                import marram:edge/timers@0.1.0;
                import marram:edge/module-info@0.1.0;
            }
        ",
        world: "marram:engine/control",
        imports: {
            "marram:edge/twin@0.1.0.report": async | trappable,
            "marram:edge/twin-watch@0.1.0": async | trappable,
        },
    });
}

/// Longest patch that is handed on. A document has at most 32 KiB; a patch that deletes much may be longer than that.
const MAX_PATCH_BYTES: usize = 128 << 10;

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    twin::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    twin_watch::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    timers::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    module_info::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)
}

impl twin::Host for GuestState {
    fn desired(&mut self) -> twin::Document {
        self.host.desired().into()
    }

    fn reported(&mut self) -> twin::Document {
        self.host.reported().into()
    }

    async fn report(&mut self, merge_patch_json: String) -> Result<Result<u64, twin::TwinError>> {
        if merge_patch_json.len() > MAX_PATCH_BYTES {
            let why = format!("the patch has {} bytes, at most {MAX_PATCH_BYTES} are read", merge_patch_json.len());
            return Ok(Err(twin::TwinError::Invalid(why)));
        }
        let until = self.deadline.wait_until();
        let answer = within(until, self.host.report(merge_patch_json)).await?;
        Ok(answer.map_err(twin::TwinError::from))
    }
}

impl From<ReportError> for twin::TwinError {
    fn from(error: ReportError) -> Self {
        match error {
            ReportError::Invalid(why) => Self::Invalid(why),
            ReportError::Other(why) => Self::Other(why),
        }
    }
}

impl twin_watch::Host for GuestState {
    async fn next_change(
        &mut self,
        timeout_ms: u64,
    ) -> Result<Result<Option<twin_watch::Change>, twin_watch::WatchError>> {
        let until = self.deadline.wait_until();
        let answer = within(until, self.host.next_change(Duration::from_millis(timeout_ms))).await?;
        Ok(match answer {
            Ok(change) => Ok(change.map(|change| twin_watch::Change {
                merge_patch_json: change.merge_patch_json,
                version: change.version,
            })),
            Err(WatchError::Stopping) => Err(twin_watch::WatchError::Stopping),
        })
    }

    async fn acknowledge(
        &mut self,
        version: u64,
        code: u16,
        description: String,
    ) -> Result<Result<u64, twin::TwinError>> {
        let until = self.deadline.wait_until();
        let answer = within(until, self.host.acknowledge(version, TwinAck { code, description })).await?;
        Ok(answer.map_err(twin::TwinError::from))
    }
}

impl From<TwinDocument> for twin::Document {
    fn from(document: TwinDocument) -> Self {
        Self { json: document.json, version: document.version }
    }
}

impl timers::Host for GuestState {
    fn set_once(&mut self, name: String, delay_ms: u64) -> Result<(), timers::TimerError> {
        Ok(self.host.set_timer(&name, Duration::from_millis(delay_ms), false)?)
    }

    fn set_periodic(&mut self, name: String, period_ms: u64) -> Result<(), timers::TimerError> {
        Ok(self.host.set_timer(&name, Duration::from_millis(period_ms), true)?)
    }

    fn cancel(&mut self, name: String) -> bool {
        self.host.cancel_timer(&name)
    }
}

impl From<TimerError> for timers::TimerError {
    fn from(error: TimerError) -> Self {
        match error {
            TimerError::BadName => Self::BadName,
            TimerError::BadInterval => Self::BadInterval,
            TimerError::TooMany => Self::TooMany,
            TimerError::NoHandler => Self::NoHandler,
        }
    }
}

impl module_info::Host for GuestState {
    fn device_id(&mut self) -> String {
        self.host.info().device_id
    }

    fn module_id(&mut self) -> String {
        self.host.info().module_id.as_str().to_owned()
    }

    fn deployment_version(&mut self) -> u64 {
        self.host.info().deployment_version
    }

    fn restart_count(&mut self) -> u32 {
        self.host.info().restart_count
    }
}
