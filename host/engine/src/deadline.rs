//! The two clocks of a call: processor time (see [`crate::cpu`]) and wall time, both measured only once a call proves slow.
//! A call that is done within a tick reads no clock and makes no timer. Programs have no deadline, but a share.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::Sleep;

use crate::{
    cpu::{Meter, PROGRAM_SHARE, Share},
    exit::Ended,
};

/// How much later than the guest's own checks the last resort comes, so that normally the trap with its backtrace wins.
const GRACE: Duration = Duration::from_millis(100);

/// Time that the current call may take. Part of the store's data.
pub(crate) struct Deadline {
    meter: Arc<Meter>,
    /// None: no deadline (programs).
    limits: Option<CallLimits>,
    /// What a program may use, and what it had used at the last tick.
    share: Share,
    seen: Duration,
    /// When the call first proved slow; at most a tick after its begin.
    slow_since: Option<Instant>,
}

/// Bounds of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallLimits {
    /// Processor time of guest code and of the host functions that it calls.
    pub(crate) running: Duration,
    /// Wall time, waiting included.
    pub(crate) wall: Duration,
}

impl Deadline {
    /// Of a call that is not bounded.
    pub(crate) fn none(meter: Arc<Meter>) -> Self {
        Self { meter, limits: None, share: Share::new(PROGRAM_SHARE), seen: Duration::ZERO, slow_since: None }
    }

    /// A call begins.
    pub(crate) fn begin(&mut self, limits: Option<CallLimits>) {
        self.meter.begin();
        self.limits = limits;
        self.seen = Duration::ZERO;
        self.slow_since = None;
    }

    /// Guest code runs at a tick. Returns how long it must pause: a program that used more than its share, or while all
    /// programs together use more than theirs.
    ///
    /// # Errors
    /// Its time is over.
    pub(crate) fn tick(&mut self) -> Result<Option<Duration>, Ended> {
        let now = Instant::now();
        let since = *self.slow_since.get_or_insert(now);
        let used = self.meter.read();
        let Some(limits) = self.limits else {
            let spent = used.saturating_sub(std::mem::replace(&mut self.seen, used));
            return Ok(self.share.spend(spent, now).max(self.meter.ticker.spend_of_programs(spent, now)));
        };
        if used >= limits.running {
            return Err(Ended::Deadline(format!(
                "the call ran for more than {:?} (limits.handlerTime)",
                limits.running
            )));
        }
        if now.saturating_duration_since(since) > limits.wall {
            return Err(limits.wall_exceeded("while guest code ran"));
        }
        Ok(None)
    }

    /// Until when a host function may wait; none = for ever. What exceeds it is [`CallLimits::wall_exceeded`].
    pub(crate) fn wait_until(&mut self) -> Option<(Instant, CallLimits)> {
        let since = *self.slow_since.get_or_insert_with(Instant::now);
        self.limits.map(|limits| (since + limits.wall, limits))
    }
}

impl CallLimits {
    /// The reason of an instance that waited too long.
    pub(crate) fn wall_exceeded(self, where_: &str) -> Ended {
        Ended::Deadline(format!("the call took more than {:?} (limits.handlerWall), {where_}", self.wall))
    }

    /// Drops `call` when it is still waiting after the wall bound: the last resort, without a backtrace, for host
    /// functions that do not watch the time themselves. The timer is only made when the call waits.
    ///
    /// # Errors
    /// [`Ended::Deadline`]; the store must not be used again.
    pub(crate) async fn last_resort<T>(self, call: Pin<&mut impl Future<Output = T>>) -> Result<T, Ended> {
        let bound = self.wall.saturating_add(GRACE);
        bounded(call, || tokio::time::sleep(bound))
            .await
            .ok_or_else(|| self.wall_exceeded("waiting in a host function; it was abandoned"))
    }
}

/// Drops `future` when it is still waiting at the end of `bound`. Many wait for no more than the turn of others, and a timer costs more than that: it is
/// made when the future waits for the second time, and once it has waited it is polled again in any case.
pub(crate) async fn bounded<T>(mut future: Pin<&mut impl Future<Output = T>>, bound: impl Fn() -> Sleep) -> Option<T> {
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let mut waited = false;
    poll_fn(move |context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        if !std::mem::replace(&mut waited, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let timer = timer.get_or_insert_with(|| Box::pin(bound()));
        timer.as_mut().poll(context).map(|()| None)
    })
    .await
}
