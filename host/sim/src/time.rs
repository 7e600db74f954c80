//! The clocks of a simulation: they go as the paused clock of its runtime does, over the lives of its hosts.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use marram_agent::Time;
use marram_core::{elapsed::Clocks, time::UtcMillis};
use tokio::{runtime::Handle, time::Instant};

/// 2026-01-31T12:00:00Z: what the wall clock shows when a simulation begins.
const BEGIN: u64 = 1_769_860_800_000;

thread_local! {
    /// When the present runtime began, and what the clock showed then.
    static LIFE: Cell<Option<(Instant, u64)>> = const { Cell::new(None) };
    /// What the clock showed last. Outside of a runtime no time passes.
    static SHOWN: Cell<u64> = const { Cell::new(0) };
    /// How long the device was suspended since the simulation began.
    static SUSPENDED: Cell<u64> = const { Cell::new(0) };
    /// By how much the wall clock was set since the simulation began.
    static SET: Cell<i64> = const { Cell::new(0) };
}

/// The same for other threads, of which nothing depends on the time.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Where a simulated agent reads time from.
pub(crate) const TIME: Time = Time { since_boot: now, utc };

/// Milliseconds since the simulation began.
pub(crate) fn now() -> u64 {
    let Some((began, at)) = LIFE.get() else { return LAST.load(Relaxed) };
    if Handle::try_current().is_ok() {
        SHOWN.set(at + u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        LAST.store(SHOWN.get(), Relaxed);
    }
    SHOWN.get()
}

/// A runtime begins to run on this thread when the clock shows this.
pub(crate) fn begin(at: u64) {
    LIFE.set(Some((Instant::now(), at)));
    SHOWN.set(at);
}

/// The device is suspended: its clocks go on, and no timer does.
pub(crate) fn suspend(time: Duration) {
    let by = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    LIFE.set(LIFE.get().map(|(began, at)| (began, at + by)));
    SUSPENDED.set(SUSPENDED.get() + by);
}

/// Milliseconds since the simulation began in which the device was not suspended: by these timers go.
pub(crate) fn awake() -> u64 {
    awake_at(now())
}

/// The same for a time from now on.
pub(crate) fn awake_at(time: u64) -> u64 {
    time.saturating_sub(SUSPENDED.get())
}

/// Sets the wall clock forward, or back.
pub(crate) fn set_wall_clock(by: i64) {
    SET.set(SET.get() + by);
}

/// A simulation begins.
pub(crate) fn reset() {
    LIFE.set(None);
    SHOWN.set(0);
    SUSPENDED.set(0);
    SET.set(0);
}

/// Lets so much time pass at once.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

fn utc() -> UtcMillis {
    UtcMillis((BEGIN + now()).saturating_add_signed(SET.get()))
}

/// What the message log notes.
pub(crate) fn clocks() -> Clocks {
    Clocks { boot: [1; 16], since_boot: now(), utc: utc(), synchronised: true }
}
