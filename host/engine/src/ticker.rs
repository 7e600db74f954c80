//! Advances wasmtime's epoch every 10 ms while guest code may run, and sleeps otherwise: a host whose modules wait for the
//! next timer wakes nobody (battery). Decides nothing about deadlines.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use wasmtime::{Engine, EngineWeak};

use crate::cpu::Share;

/// Length of a tick. Shorter ones interrupt guests more often than the scheduler does; longer ones make deadlines coarse
/// and let one guest hold a worker thread.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Idle ticks before the thread parks. Waking it costs a system call, which a module that handles a message every few
/// milliseconds should not pay each time.
const IDLE_TICKS: u32 = 10;

/// The thread that ticks. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
    programs: Mutex<Share>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Polls of guest futures in progress.
    active: AtomicUsize,
    /// A poll began since the last tick.
    touched: AtomicBool,
    parked: AtomicBool,
    stop: AtomicBool,
}

impl Ticker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn start(engine: &Engine) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (theirs, engine) = (shared.clone(), engine.weak());
        let handle = thread::Builder::new().name("marram-ticker".into()).spawn(move || tick(&theirs, &engine))?;
        Ok(Self { shared, thread: handle.thread().clone(), programs: Mutex::new(Share::of_all()) })
    }

    /// A program used so much; how long it must pause because all of them together used too much.
    pub(crate) fn spend_of_programs(&self, spent: Duration, now: Instant) -> Option<Duration> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner).spend(spent, now)
    }

    /// Ticks until the guard is dropped.
    pub(crate) fn enter(&self) -> Running<'_> {
        // The order of this pair and of the one in `tick` makes sure that one side sees the other.
        self.shared.active.fetch_add(1, Ordering::SeqCst);
        if self.shared.parked.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        self.shared.touched.store(true, Ordering::Relaxed);
        Running(&self.shared)
    }

    #[cfg(test)]
    pub(crate) fn is_parked(&self) -> bool {
        self.shared.parked.load(Ordering::SeqCst)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

pub(crate) struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

fn tick(shared: &Shared, engine: &EngineWeak) {
    let mut idle = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        let busy = shared.active.load(Ordering::SeqCst) > 0 || shared.touched.swap(false, Ordering::Relaxed);
        idle = if busy { 0 } else { idle + 1 };
        if idle >= IDLE_TICKS {
            park(shared);
            idle = 0;
        }
        thread::sleep(TICK);
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
    }
}

fn park(shared: &Shared) {
    shared.parked.store(true, Ordering::SeqCst);
    if shared.active.load(Ordering::SeqCst) == 0 && !shared.stop.load(Ordering::SeqCst) {
        thread::park();
    }
    shared.parked.store(false, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Profile;

    #[tokio::test]
    async fn it_parks_when_no_guest_runs_and_wakes_for_the_next() {
        let engine = Engine::new(&Profile::Wide.config()).unwrap();
        let ticker = Arc::new(Ticker::start(&engine).unwrap());
        for _ in 0..2 {
            while !ticker.is_parked() {
                tokio::task::yield_now().await;
            }
            let _running = ticker.enter();
            while ticker.is_parked() {}
        }
    }
}
