//! Durable timers: entries of the module's state that the host keeps there, so that they survive and go with it. What is due
//! when is `core::timers`'s.

use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use marram_core::{
    elapsed::Elapsed,
    ports::{DurableTimerError, TimerError},
    state::{HOST_BUCKET, StateError, Write},
    time::Uptime,
    timers::{DueTimer, DurableTimer, DurableTimers},
};

use super::StateCell;
use crate::clock::Clock;

const KEY: &str = "timers";

/// The timers of a module, once an instance that may set them has been started.
#[derive(Default)]
pub(super) struct Durable {
    timers: DurableTimers,
    clock: Option<Clock>,
    /// Elapsed time when the clock showed none; wraps around.
    offset: u64,
    /// None fires before. Noting that one has fired holds the module up for as long as the write takes or has to wait; as long is left to its
    /// other timers and messages.
    rests_until: Uptime,
}

impl Durable {
    fn now(&self) -> Option<Elapsed> {
        Some(Elapsed(self.offset.wrapping_add(self.clock?.uptime().0)))
    }
}

impl StateCell {
    /// Reads them, the first time that this is asked for.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) async fn load_timers(self: &Arc<Self>, clock: Clock) -> Result<(), StateError> {
        let _one_writer = self.timer_writer.lock().await;
        if self.durable().clock.is_some() {
            return Ok(());
        }
        let stored = self.clone().get(HOST_BUCKET.into(), KEY.into()).await?;
        let (timers, now) = match stored {
            None => (DurableTimers::default(), Elapsed::default()),
            Some(bytes) => DurableTimers::from_bytes(&bytes, &clock.clocks()).map_err(StateError::Store)?,
        };
        let offset = now.0.wrapping_sub(clock.uptime().0);
        *self.durable() = Durable { timers, clock: Some(clock), offset, rests_until: clock.uptime() };
        Ok(())
    }

    pub(crate) async fn set_timer(
        self: Arc<Self>,
        name: String,
        interval: Duration,
        periodic: bool,
    ) -> Result<(), DurableTimerError> {
        self.change_timers(|timers, now| timers.set(&name, interval, periodic, now)).await.map(drop)
    }

    pub(crate) async fn cancel_timer(self: Arc<Self>, name: String) -> Result<bool, DurableTimerError> {
        self.change_timers(|timers, _| Ok(timers.cancel(&name))).await
    }

    pub(crate) fn timers(&self) -> Vec<DurableTimer> {
        let durable = self.durable();
        durable.now().map(|now| durable.timers.list(now)).unwrap_or_default()
    }

    /// The timer that is due, if any.
    pub(crate) fn due_timer(&self) -> Option<DueTimer> {
        let durable = self.durable();
        // Without timers the clock is not read.
        durable.timers.next_due()?;
        if durable.clock?.uptime() < durable.rests_until {
            return None;
        }
        durable.timers.due(durable.now()?)
    }

    /// When the next one is due; the past is now.
    pub(crate) fn next_timer(&self) -> Option<Uptime> {
        let durable = self.durable();
        let due = durable.timers.next_due()?;
        let left = due.0.saturating_sub(durable.now()?.0);
        Some(durable.clock?.uptime().after(Duration::from_millis(left)).max(durable.rests_until))
    }

    /// The module has heard it.
    pub(crate) async fn timer_fired(self: &Arc<Self>, fired: &DueTimer) {
        let Some(clock) = self.durable().clock else { return };
        let begun = clock.uptime();
        let changed = self.clone().change_timers(|timers, _| Ok(timers.fired(fired))).await;
        if let Err(error) = changed {
            tracing::warn!(module = %self.module, timer = %fired.name, %error, "a timer has fired, and would again after a restart");
            self.durable().timers.fired(fired);
        }
        let now = clock.uptime();
        self.durable().rests_until = now.after(now.since(begun));
    }

    /// Changes a copy, stores it, then puts it in force; what changes nothing is not written.
    async fn change_timers(
        self: Arc<Self>,
        change: impl FnOnce(&mut DurableTimers, Elapsed) -> Result<bool, TimerError>,
    ) -> Result<bool, DurableTimerError> {
        let _one_writer = self.timer_writer.lock().await;
        let (mut timers, now, clock) = {
            let durable = self.durable();
            let now = durable.now().ok_or_else(|| StateError::Store("the module's timers are not read yet".into()))?;
            (durable.timers.clone(), now, durable.clock)
        };
        if !change(&mut timers, now)? {
            return Ok(false);
        }
        let bytes = timers.to_bytes(now, clock.map(|clock| clock.clocks()).unwrap_or_default());
        let write = Write { bucket: HOST_BUCKET.into(), key: KEY.into(), value: Some(bytes.into()), only_if: None };
        self.clone().write(vec![write]).await?;
        self.durable().timers = timers;
        Ok(true)
    }

    fn durable(&self) -> MutexGuard<'_, Durable> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
