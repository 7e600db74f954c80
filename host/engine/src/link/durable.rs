//! `marram:edge/state` and `durable-timers`: what a module must not forget, bound by code that is generated from `wit/`.

use std::time::Duration;

use bytes::Bytes;
use marram_core::{
    ports::{DurableTimerError, TimerError},
    state::{StateError, Write, check_key},
};
use wasmtime::{
    Result,
    component::{HasSelf, Linker},
};

use self::bindings::marram::edge::{durable_timers, state};
use super::messaging::within;
use crate::state::GuestState;

#[allow(missing_docs, unreachable_pub)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit",
        inline: "
            package marram:engine;
            world durable {
                import marram:edge/state@0.1.0;
                import marram:edge/durable-timers@0.1.0;
            }
        ",
        world: "marram:engine/durable",
        imports: {
            "marram:edge/state@0.1.0": async | trappable,
            "marram:edge/durable-timers@0.1.0.set-once": async | trappable,
            "marram:edge/durable-timers@0.1.0.set-periodic": async | trappable,
            "marram:edge/durable-timers@0.1.0.cancel": async | trappable,
        },
    });
}

/// The bucket behind `state`: that which `wasi:keyvalue` opens under no name.
const BUCKET: &str = "";
/// Keys in one answer of `list-keys`: at most 256 KiB of them.
const KEYS_AT_ONCE: usize = 1024;

pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> Result<()> {
    state::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)?;
    durable_timers::add_to_linker::<_, HasSelf<GuestState>>(linker, |state| state)
}

type Answer<T, E> = Result<std::result::Result<T, E>>;

fn change(key: String, value: Option<Vec<u8>>) -> Write {
    Write { bucket: BUCKET.into(), key: key.into(), value: value.map(Bytes::from), only_if: None }
}

impl GuestState {
    async fn write(&mut self, writes: Vec<Write>) -> Answer<(), StateError> {
        within(self.deadline.wait_until(), self.host.state_write(writes)).await
    }

    async fn set_durable(&mut self, name: String, ms: u64, periodic: bool) -> Answer<(), DurableTimerError> {
        let until = self.deadline.wait_until();
        within(until, self.host.set_durable_timer(name, Duration::from_millis(ms), periodic)).await
    }
}

impl state::Host for GuestState {
    async fn get(&mut self, key: String) -> Answer<Option<Vec<u8>>, state::StateError> {
        if let Err(error) = check_key(&key) {
            return Ok(Err(error.into()));
        }
        let value = within(self.deadline.wait_until(), self.host.state_get(BUCKET.into(), key)).await?;
        Ok(value.map(|value| value.map(Vec::from)).map_err(Into::into))
    }

    async fn set(&mut self, key: String, value: Vec<u8>) -> Answer<(), state::StateError> {
        Ok(self.write(vec![change(key, Some(value))]).await?.map_err(Into::into))
    }

    async fn delete(&mut self, key: String) -> Answer<(), state::StateError> {
        Ok(self.write(vec![change(key, None)]).await?.map_err(Into::into))
    }

    async fn compare_and_set(
        &mut self,
        key: String,
        expected: Option<Vec<u8>>,
        value: Option<Vec<u8>>,
    ) -> Answer<bool, state::StateError> {
        let only_if = Some(expected.map(Bytes::from));
        Ok(match self.write(vec![Write { only_if, ..change(key, value) }]).await? {
            Ok(()) => Ok(true),
            Err(StateError::Changed) => Ok(false),
            Err(error) => Err(error.into()),
        })
    }

    async fn set_many(&mut self, entries: Vec<(String, Option<Vec<u8>>)>) -> Answer<(), state::StateError> {
        let writes = entries.into_iter().map(|(key, value)| change(key, value)).collect();
        Ok(self.write(writes).await?.map_err(Into::into))
    }

    async fn list_keys(&mut self, prefix: String, after: Option<String>) -> Answer<Vec<String>, state::StateError> {
        let until = self.deadline.wait_until();
        let keys = within(until, self.host.state_keys(BUCKET.into(), prefix, after, KEYS_AT_ONCE)).await?;
        Ok(keys.map(|keys| keys.into_iter().map(String::from).collect()).map_err(Into::into))
    }
}

impl From<StateError> for state::StateError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::BadKey => Self::BadKey,
            StateError::TooLarge => Self::TooLarge,
            StateError::Quota(bytes) => Self::Quota(bytes as u64),
            other => Self::Other(other.to_string()),
        }
    }
}

impl durable_timers::Host for GuestState {
    async fn set_once(&mut self, name: String, delay_ms: u64) -> Answer<(), durable_timers::DurableTimerError> {
        Ok(self.set_durable(name, delay_ms, false).await?.map_err(Into::into))
    }

    async fn set_periodic(&mut self, name: String, period_ms: u64) -> Answer<(), durable_timers::DurableTimerError> {
        Ok(self.set_durable(name, period_ms, true).await?.map_err(Into::into))
    }

    async fn cancel(&mut self, name: String) -> Answer<bool, durable_timers::DurableTimerError> {
        let cancelled = within(self.deadline.wait_until(), self.host.cancel_durable_timer(name)).await?;
        Ok(cancelled.map_err(Into::into))
    }

    fn list_timers(&mut self) -> Vec<durable_timers::DurableTimer> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let timers = self.host.durable_timers().into_iter();
        let shown = timers.map(|timer| durable_timers::DurableTimer {
            name: timer.name.into(),
            due_in_ms: millis(timer.due_in),
            period_ms: timer.period.map(millis),
        });
        shown.collect()
    }
}

impl From<DurableTimerError> for durable_timers::DurableTimerError {
    fn from(error: DurableTimerError) -> Self {
        match error {
            DurableTimerError::Timer(TimerError::BadName) => Self::BadName,
            DurableTimerError::Timer(TimerError::BadInterval) => Self::BadInterval,
            DurableTimerError::Timer(TimerError::TooMany) => Self::TooMany,
            DurableTimerError::Timer(TimerError::NoHandler) => Self::NoHandler,
            DurableTimerError::Store(error) => Self::Other(error.to_string()),
        }
    }
}
