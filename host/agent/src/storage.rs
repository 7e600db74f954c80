//! The message log behind the router. It has one owner at a time ([`writer`]): as a rule a thread of its own ([`thread`]), because calls may
//! block on the disk; everybody else hands it jobs, which it does in their order. What senders hand over while it writes is its next
//! write: so groups form by themselves. A sender that finds the log idle and the disk quick does not wait for another thread: it stores
//! its message itself ([`at_once`]); many at the same time let each other have their turn first, and store together ([`together`]).

mod at_once;
mod dead_letters;
mod thread;
mod together;
mod writer;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Release, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{
    elapsed::Elapsed,
    log::{Damage, LogError, Loss, MessageLog, Place, Room, Safety},
    message::Accepted,
    time::Uptime,
};
use tokio::sync::{oneshot, watch};

pub(crate) use self::{dead_letters::Replayed, together::Answer};
use self::{thread::Thread, writer::Writer};
use crate::{clock::Clock, counts::SourceCounts, endpoint::Endpoint};

/// How long a sender that was refused by a full log waits before it asks again. Short beside the second in which a log goes on that has
/// room again, long beside a write.
pub(crate) const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Outcomes that wait until senders leave the log to its thread.
const MANY_TOLD: usize = 64;
/// So long the thread waits for more of them, if it has nothing else to do. Each time that it comes costs two switches of threads, and
/// senders find the log taken meanwhile.
const GATHER: Duration = Duration::from_millis(20);

/// The log as the rest of the agent sees it.
#[derive(Debug)]
pub(crate) struct Storage {
    jobs: Mutex<Jobs>,
    came: Condvar,
    /// Whether `jobs` has some, or takes no more. Set under its lock.
    has_jobs: AtomicBool,
    /// Whether senders store together.
    together: AtomicBool,
    /// Whoever works with the log; none: nobody does any more. Locked before the locks of endpoints and of `jobs`.
    owner: Mutex<Option<Writer>>,
    facts: Mutex<Facts>,
    /// The log's elapsed time when the clock began.
    began: Elapsed,
    /// Bytes that messages may take.
    for_messages: u64,
    ended: watch::Receiver<bool>,
}

#[derive(Debug, Default)]
struct Jobs {
    list: Vec<Job>,
    /// How many of them are messages whose senders see to it that they are stored, and their size.
    joined: usize,
    joined_bytes: usize,
    /// When the first of them came.
    joined_at: Uptime,
    /// What is done with. It may be noted before jobs that came earlier, and nobody waits for it.
    told: Vec<Outcome>,
    /// The thread is to look what is due.
    look: bool,
    /// The thread is to take what senders see to.
    is_called: bool,
    /// The writer ends, or has died.
    closed: bool,
}

/// What is to be done with the log.
#[derive(Debug)]
enum Job {
    /// Store a message.
    Append(Append),
    /// What became of deliveries.
    Outcome(Outcome),
    /// Note that a delivery begins, and say when that is written.
    Begin(Place, u32, oneshot::Sender<()>),
    /// An endpoint is new: what waits for it in the log?
    Open(Arc<Endpoint>, oneshot::Sender<()>),
    /// An endpoint's window has room.
    Load(Arc<Endpoint>),
    /// An endpoint looks full, and what is behind its window may have expired.
    Expire(Arc<Endpoint>),
    /// The same of what was behind its window at this moment.
    ExpireBehind(Arc<Endpoint>, Uptime),
    /// These endpoints are in force: what waits for others becomes dead letters.
    Keep(BTreeSet<Box<str>>),
    /// Go on with that.
    KeepOn,
    /// A person asks.
    Dead(dead_letters::Question),
    /// Write all, sync it, and end.
    Stop,
}

/// One, as a rule.
pub(crate) type Few<T> = smallvec::SmallVec<[T; 1]>;

/// A message on its way into the log. Each receiver has set its bytes aside.
#[derive(Debug)]
pub(crate) struct Append {
    /// Its number and time are set when it is written.
    pub(crate) accepted: Accepted,
    /// Of the sender; advanced when the message is stored.
    pub(crate) sequence: Arc<AtomicU64>,
    /// Of its source.
    pub(crate) counts: Arc<SourceCounts>,
    pub(crate) receivers: Few<Receiver>,
    /// In the account of each receiver.
    pub(crate) size: usize,
    pub(crate) safety: Safety,
    /// None: the caller stores it.
    pub(crate) reply: Option<Reply>,
}

/// Where the number of a message goes once it is stored.
pub(crate) type Reply = oneshot::Sender<Result<u64, NotStored>>;

/// Who gets it.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) priority: u8,
    pub(crate) deadline: Option<Uptime>,
    pub(crate) max_attempts: Option<u32>,
    /// It gets it from the log; otherwise from memory alone.
    pub(crate) stored: bool,
}

/// What became of messages that are in the log.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) done: Vec<Place>,
    pub(crate) expired: Vec<Place>,
    /// Given up by a full queue.
    pub(crate) overflown: Vec<Place>,
    /// With the attempts made.
    pub(crate) tried: Vec<(Place, u32)>,
    /// With the attempts made, and why they were given up.
    pub(crate) dead: Vec<(Place, u32, String)>,
}

impl Outcome {
    fn is_empty(&self) -> bool {
        self.done.is_empty()
            && self.expired.is_empty()
            && self.overflown.is_empty()
            && self.tried.is_empty()
            && self.dead.is_empty()
    }
}

/// Why a message was not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotStored {
    /// The log is full; perhaps not for long.
    Full,
    /// The disk fails.
    Disk(String),
    /// The host ends.
    Stopped,
}

/// What a person may want to know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) room: Room,
    /// Places that were found damaged since the host started, its opening included.
    pub(crate) damaged: u64,
    /// Messages that were lost by that, at most, as far as they can be counted, and given-up ones that can never be dead letters.
    pub(crate) lost: u64,
    pub(crate) dead_letters: u64,
    /// Why the log does not take messages; none while it does.
    pub(crate) error: Option<String>,
}

impl Facts {
    fn count(&mut self, damage: &[Damage]) {
        for damage in damage {
            self.damaged += 1;
            self.lost += match damage.loss {
                Loss::Messages(count) | Loss::Segment(Some(count)) => count,
                Loss::Segment(None) | Loss::End | Loss::Name(_) | Loss::Settlements | Loss::Nothing => 0,
            };
        }
    }
}

/// Most bytes of the queue of upstream, or of one of so many inputs: a share of what the log has for messages. All shares together fit into
/// it: a module that handles one message by sending another finds room for that whatever waits elsewhere, or a full log would never empty.
/// (A message that is larger than its share has an empty queue for itself; for many of those the log may be full.) Upstream may be away for
/// days, and is what the log is for.
pub(crate) fn share(for_messages: u64, is_upstream: bool, inputs: usize) -> usize {
    let seventh = for_messages / 7;
    let share = if is_upstream { 4 * seventh } else { seventh.min(3 * seventh / inputs.max(1) as u64) };
    usize::try_from(share).unwrap_or(usize::MAX)
}

impl Storage {
    /// Takes a log that has just been opened into service. `damage` is what its opening found; `removed` counts messages whose endpoint
    /// is gone.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start(
        mut log: Box<dyn MessageLog>,
        damage: &[Damage],
        clock: Clock,
        sync_after: Option<Duration>,
        removed: Arc<AtomicU64>,
    ) -> std::io::Result<Arc<Self>> {
        let now = log.stamp(&clock.clocks());
        let mut facts = Facts { room: log.room(), ..Facts::default() };
        facts.count(damage);
        let (end, ended) = watch::channel(false);
        let storage = Arc::new(Self {
            jobs: Mutex::default(),
            came: Condvar::new(),
            has_jobs: AtomicBool::new(false),
            together: AtomicBool::new(false),
            owner: Mutex::new(None),
            began: Elapsed(now.0.saturating_sub(clock.uptime().0)),
            for_messages: facts.room.for_messages,
            facts: Mutex::new(facts),
            ended,
        });
        let writer = Writer::new(log, storage.clone(), clock, sync_after, removed, end);
        *storage.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        let thread = Thread(storage.clone());
        std::thread::Builder::new().name("message-log".into()).spawn(move || thread.run())?;
        Ok(storage)
    }

    /// As [`share`].
    pub(crate) fn share(&self, is_upstream: bool, inputs: usize) -> usize {
        share(self.for_messages, is_upstream, inputs)
    }

    /// A moment of this run in the log's elapsed time.
    fn elapsed(&self, at: Uptime) -> Elapsed {
        Elapsed(self.began.0.saturating_add(at.0))
    }

    /// The reverse; what was before this run is its beginning.
    fn uptime(&self, at: Elapsed) -> Uptime {
        Uptime(at.0.saturating_sub(self.began.0))
    }

    /// Tells what became of deliveries. When the log has ended, they come again at the next start.
    pub(crate) fn tell(&self, outcome: Outcome) {
        if outcome.is_empty() {
            return;
        }
        // In order with the notes of attempts; and to bury takes time.
        if !outcome.dead.is_empty() || !outcome.tried.is_empty() {
            self.push(Job::Outcome(outcome));
            return;
        }
        let mut jobs = self.lock();
        if jobs.closed {
            return;
        }
        jobs.told.push(outcome);
        let told = jobs.told.len();
        if told >= MANY_TOLD {
            self.has_jobs.store(true, Release);
        }
        drop(jobs);
        if told == 1 || told == MANY_TOLD {
            self.came.notify_one();
        }
    }

    /// Has the beginning of a delivery written, so that a message which ends the host is not delivered for ever.
    pub(crate) async fn begin(&self, place: Place, attempts: u32) {
        let (reply, done) = oneshot::channel();
        if self.push(Job::Begin(place, attempts, reply)) {
            let _ = done.await;
        }
    }

    /// The delivery whose beginning was noted as this attempt did not begin.
    pub(crate) fn not_begun(&self, place: Place, attempts: u32) {
        self.tell(Outcome { tried: vec![(place, attempts.saturating_sub(1))], ..Outcome::default() });
    }

    /// Gives an endpoint what waits for it in the log.
    pub(crate) async fn open(&self, endpoint: Arc<Endpoint>) {
        let (reply, done) = oneshot::channel();
        if self.push(Job::Open(endpoint, reply)) {
            let _ = done.await;
        }
    }

    pub(crate) fn load(&self, endpoint: Arc<Endpoint>) {
        self.push(Job::Load(endpoint));
    }

    /// Has what expired of an endpoint given up, in memory and in the log.
    pub(crate) fn expire(&self, endpoint: Arc<Endpoint>) {
        self.push(Job::Expire(endpoint));
    }

    /// The same of what was behind its window at this moment; after all that was told before.
    pub(crate) fn expire_behind(&self, endpoint: Arc<Endpoint>, at: Uptime) {
        self.push(Job::ExpireBehind(endpoint, at));
    }

    /// Makes dead letters of what waits for other endpoints than these.
    pub(crate) fn keep(&self, endpoints: BTreeSet<Box<str>>) {
        self.push(Job::Keep(endpoints));
    }

    /// Goes on with that, after what has come meanwhile.
    fn keep_on(&self) {
        self.push(Job::KeepOn);
    }

    pub(crate) fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does all that was handed over, makes it safe, and ends.
    pub(crate) async fn stop(&self) {
        self.close();
        self.ended().await;
    }

    fn close(&self) {
        // Under one lock: what comes later is refused, and does not lie behind the stop where nobody does it.
        let mut jobs = self.lock();
        if !jobs.closed {
            jobs.list.push(Job::Stop);
        }
        jobs.closed = true;
        self.has_jobs.store(true, Release);
        drop(jobs);
        self.came.notify_one();
    }

    /// Ends when the writer has.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.clone();
        // An error: its end is gone, which says the same.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Whether nobody works with the log any more.
    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// False: nobody does it any more.
    fn push(&self, job: Job) -> bool {
        let mut jobs = self.lock();
        if jobs.closed {
            return false;
        }
        jobs.list.push(job);
        self.has_jobs.store(true, Release);
        drop(jobs);
        self.came.notify_one();
        true
    }

    /// Waits for jobs, at most so long. They stay where they are until the caller has the log.
    fn wait(&self, patience: Duration) {
        let nothing = |jobs: &mut Jobs| jobs.are_of_joined() && !jobs.look;
        let waited = self.came.wait_timeout_while(self.lock(), patience, |jobs| nothing(jobs) && jobs.told.is_empty());
        let (jobs, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let few = |jobs: &mut Jobs| nothing(jobs) && (1..MANY_TOLD).contains(&jobs.told.len());
        let waited = self.came.wait_timeout_while(jobs, GATHER, few);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether nobody works with the log at this moment.
    #[cfg(test)]
    pub(crate) fn is_free(&self) -> bool {
        self.owner.try_lock().is_ok()
    }

    /// What is to be done; not what senders see to, unless its thread was called for that.
    fn take(&self) -> (Vec<Outcome>, Vec<Job>) {
        let mut jobs = self.lock();
        jobs.look = false;
        let told = std::mem::take(&mut jobs.told);
        if jobs.are_of_joined() {
            self.has_jobs.store(jobs.closed || !jobs.list.is_empty(), Release);
            return (told, Vec::new());
        }
        self.has_jobs.store(jobs.closed, Release);
        jobs.is_called = false;
        (jobs.joined, jobs.joined_bytes) = (0, 0);
        (told, std::mem::take(&mut jobs.list))
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        // A list that is pushed to and taken whole.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Jobs {
    /// Whether there are none but messages whose senders see to it that they are stored.
    fn are_of_joined(&self) -> bool {
        self.joined == self.list.len() && !self.is_called
    }
}

impl Append {
    /// Nothing of it is stored.
    fn refuse(self, why: NotStored) {
        for receiver in &self.receivers {
            receiver.endpoint.release(self.size);
        }
        if let Some(reply) = self.reply {
            let _ = reply.send(Err(why));
        }
    }

    /// The next number of its sender.
    fn number(&self) -> u64 {
        self.sequence.fetch_add(1, SeqCst) + 1
    }

    /// It was not used. Another one may have been drawn meanwhile (an update's new instance, another foreign source): then there is a
    /// gap, which is allowed.
    fn give_number_back(&self, number: u64) {
        let _ = self.sequence.compare_exchange(number, number - 1, SeqCst, SeqCst);
    }
}

impl NotStored {
    /// The log could not, rather than that the host ends.
    pub(crate) fn is_refusal(&self) -> bool {
        *self != Self::Stopped
    }
}

impl From<&LogError> for NotStored {
    fn from(error: &LogError) -> Self {
        match error {
            LogError::Full(_) => Self::Full,
            LogError::Disk(words) | LogError::Refused(words) => Self::Disk(words.clone()),
            LogError::Unknown(_) => Self::Disk(error.to_string()),
        }
    }
}
