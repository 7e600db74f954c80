//! The processor time that one instance uses, and the share of it that programs get. Waiting costs nothing: the clock is
//! the thread's own, read when a call goes on after a wait, when it waits again and at ticks. That clock costs a system call, which is
//! much for a guest that works for microseconds between two waits, again and again: for that one the wall clock counts, which never
//! says less. A call that neither waits nor meets a tick reads no clock. Ends nobody: [`crate::deadline`] does.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use crate::ticker::{TICK, Ticker};

/// The base of a call that has read no clock yet.
const UNKNOWN: u64 = u64::MAX;
/// The base of one that has looked at the wall since it goes on.
const ON_THE_WALL: u64 = u64::MAX - 1;

/// Nanoseconds between two waits beside which reading the thread's clock twice does not matter.
const LONG: u64 = 100_000;
/// No more is counted by the wall clock at once: a guest that works for longer meets a tick, and one that does not was held up, by a disk
/// for example.
const LONGEST: u64 = 2 * TICK.as_nanos() as u64;
/// A guest that has worked for less so often in a row is likely to do so again, and the wall clock does. If it does not, and is held up
/// by others at that moment, a little too much is counted.
const SHORT_IN_A_ROW: u32 = 8;

/// Cores that one program may use on average. A program that waits for events needs little; a busy one must leave room for
/// handlers even on a device with a single core.
pub(crate) const PROGRAM_SHARE: f64 = 0.5;

/// Over which time the average is taken: a program may start up at full speed for half of it.
const WINDOW: Duration = Duration::from_secs(1);

/// Longest pause at once, so that a wrong sum cannot stop a program for long.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Processor time of the current call of one instance, in nanoseconds. Its parts are only used within one poll at a time;
/// they are atomic because the poll and the store both reach them.
pub(crate) struct Meter {
    pub(crate) ticker: Arc<Ticker>,
    /// The thread's time up to which all is counted.
    base: AtomicU64,
    used: AtomicU64,
    /// When it went on, in nanoseconds since `origin`.
    went_on: AtomicU64,
    origin: Instant,
    /// How often in a row it has worked for less than [`LONG`].
    short: AtomicU32,
}

impl Meter {
    pub(crate) fn new(ticker: Arc<Ticker>) -> Arc<Self> {
        let (base, used, went_on) = (AtomicU64::new(UNKNOWN), AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self { ticker, base, used, went_on, origin: Instant::now(), short: AtomicU32::new(0) })
    }

    /// A call begins. What it uses before its first tick is not counted.
    pub(crate) fn begin(&self) {
        self.base.store(UNKNOWN, Relaxed);
        self.used.store(0, Relaxed);
    }

    /// Processor time of the call up to now.
    pub(crate) fn read(&self) -> Duration {
        let now = thread_time();
        let base = self.base.swap(now, Relaxed);
        let more = match base {
            UNKNOWN => 0,
            ON_THE_WALL => self.since_it_went_on().min(LONGEST),
            base => now.saturating_sub(base),
        };
        Duration::from_nanos(self.used.fetch_add(more, Relaxed) + more)
    }

    /// It goes on after a wait.
    fn go_on(&self) {
        self.went_on.store(self.wall(), Relaxed);
        let is_short = self.short.load(Relaxed) >= SHORT_IN_A_ROW;
        self.base.store(if is_short { ON_THE_WALL } else { thread_time() }, Relaxed);
    }

    /// It waits; `again`: after another wait of the same future.
    fn wait(&self, again: bool) {
        let worked = self.since_it_went_on();
        match self.base.load(Relaxed) {
            // A call that has begun since, and met no tick.
            UNKNOWN => {}
            ON_THE_WALL => {
                self.used.fetch_add(worked.min(LONGEST), Relaxed);
            }
            _ => {
                self.read();
            }
        }
        if again {
            let short = if worked < LONG { self.short.load(Relaxed).saturating_add(1) } else { 0 };
            self.short.store(short, Relaxed);
        }
    }

    fn since_it_went_on(&self) -> u64 {
        self.wall().saturating_sub(self.went_on.load(Relaxed))
    }

    fn wall(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Ticks while `future` is being polled and measures it after its first wait.
    pub(crate) async fn during<T>(self: Arc<Self>, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut waited = false;
        poll_fn(move |context| {
            let _running = self.ticker.enter();
            if waited {
                self.go_on();
            }
            let poll = future.as_mut().poll(context);
            if poll.is_pending() {
                self.wait(std::mem::replace(&mut waited, true));
            }
            poll
        })
        .await
    }
}

fn thread_time() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A token bucket of processor time.
#[derive(Debug)]
pub(crate) struct Share {
    /// Cores.
    rate: f64,
    /// Seconds that may be used at once; below 0: used too much.
    balance: f64,
    at: Option<Instant>,
}

impl Share {
    /// Full.
    pub(crate) fn new(rate: f64) -> Self {
        Self { rate, balance: rate * WINDOW.as_secs_f64(), at: None }
    }

    /// For all programs of the host together: half of its cores.
    pub(crate) fn of_all() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(cores as f64 * PROGRAM_SHARE)
    }

    /// `spent` was used up to `now`; how long to pause, if that is too much.
    pub(crate) fn spend(&mut self, spent: Duration, now: Instant) -> Option<Duration> {
        let elapsed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        let full = self.rate * WINDOW.as_secs_f64();
        self.balance = (self.balance + self.rate * elapsed.as_secs_f64()).min(full) - spent.as_secs_f64();
        (self.balance < 0.0).then(|| Duration::from_secs_f64(-self.balance / self.rate).min(MAX_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_of_short_works_that_is_held_up_is_not_charged_for_it() {
        let ticker = Ticker::start(&wasmtime::Engine::default()).unwrap();
        let meter = Meter::new(Arc::new(ticker));
        meter.short.store(SHORT_IN_A_ROW, Relaxed);
        for is_tick in [true, false] {
            meter.begin();
            meter.go_on();
            std::thread::sleep(Duration::from_millis(100)); // a disk
            if is_tick {
                meter.read();
            } else {
                meter.wait(true);
            }
            let used = Duration::from_nanos(meter.used.load(Relaxed));
            assert!(used <= 2 * TICK, "{used:?}");
        }
    }

    #[test]
    fn a_busy_program_gets_its_share_and_no_more() {
        let (mut share, begin) = (Share::new(PROGRAM_SHARE), Instant::now());
        let (mut now, mut used) = (begin, Duration::ZERO);
        while now - begin < Duration::from_secs(20) {
            used += Duration::from_millis(10);
            now += Duration::from_millis(10);
            now += share.spend(Duration::from_millis(10), now).unwrap_or_default();
        }
        let expected = Duration::from_millis(10_500);
        assert!(used.abs_diff(expected) < Duration::from_millis(50), "{used:?} of 20 s");
    }

    #[test]
    fn many_busy_programs_together_leave_half_of_the_cores() {
        const STEP: Duration = Duration::from_millis(10);
        let begin = Instant::now();
        let (mut all, mut now, mut used) = (Share::new(1.0), begin, Duration::ZERO);
        let mut programs: Vec<_> = (0..8).map(|_| (Share::new(PROGRAM_SHARE), begin)).collect();
        while now - begin < Duration::from_secs(20) {
            now += STEP;
            // Two cores, so two run, those first that waited longest.
            programs.sort_by_key(|(_, ready)| *ready);
            for (share, ready) in programs.iter_mut().filter(|(_, ready)| *ready < now).take(2) {
                used += STEP;
                *ready = now + share.spend(STEP, now).max(all.spend(STEP, now)).unwrap_or_default();
            }
        }
        assert!(used.abs_diff(Duration::from_secs(21)) < Duration::from_millis(200), "{used:?} of 40 s");
    }

    #[test]
    fn a_program_below_its_share_is_never_paused() {
        let (mut share, mut now) = (Share::new(PROGRAM_SHARE), Instant::now());
        for _ in 0..1000 {
            now += Duration::from_millis(25);
            assert_eq!(share.spend(Duration::from_millis(12), now), None);
        }
    }
}
