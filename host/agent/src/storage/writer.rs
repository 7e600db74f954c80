//! The one owner of the log: does jobs in their order, several messages in one write, and in quiet moments what can wait: writing
//! settlements, syncing, giving room back.

mod condition;
mod letters;
mod read;

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use marram_core::{
    grouping::Grouping,
    log::{EndpointId, Entry, How, LogError, MessageLog, Place, Reference, Safety},
    queue::{Arrival, ITEM_OVERHEAD, Item},
    time::Uptime,
};
use tokio::sync::watch;

use self::{
    condition::{Condition, Lines},
    letters::Unburied,
};
use super::{Append, Few, Job, NotStored, Outcome, Reply, Storage};
use crate::{clock::Clock, endpoint::Endpoint};

/// Bytes of messages in one write. A quarter of a segment of 4 MiB; more would only keep the first sender waiting.
pub(super) const GROUP_BYTES: usize = 1 << 20;
/// What is written and not synced: at most this much, or as old as the owner allows. Surviving a kill needs only the write; each sync
/// costs some 17 KiB of the file system's own, so not twice as often.
const SYNC_BYTES: usize = 1 << 20;
/// Settlements go to the disk with the next message, or after this: as much is delivered again after a kill.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// Between two looks for what has failed (dead letters, readings) and for housekeeping.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two notes of the clocks, and two looks for what has expired.
const STAMP_EVERY: Duration = Duration::from_secs(60);
/// The same while nothing happens. It bounds how much longer a message may live after a loss of power.
const IDLE_STAMP_EVERY: Duration = Duration::from_secs(600);

pub(super) struct Writer {
    pub(super) log: Box<dyn MessageLog>,
    pub(super) storage: Arc<Storage>,
    pub(super) clock: Clock,
    /// None: the owner wants no syncs but those that routes ask for.
    sync_after: Option<Duration>,
    /// Messages that were given up because their endpoint is gone.
    removed: Arc<AtomicU64>,
    /// What this run of the host stores begins here.
    first: u64,
    pub(super) endpoints: Vec<Weak<Endpoint>>,
    /// Endpoints in force, until the messages of others have been buried.
    keep: Option<BTreeSet<Box<str>>>,
    /// Endpoints that are gone and have no message left.
    retired: BTreeSet<EndpointId>,
    /// Jobs that are being done.
    taken: std::vec::IntoIter<Job>,
    group: Vec<Append>,
    group_bytes: usize,
    /// Given once the log is idle again: senders go on at once, and would find it taken.
    pub(super) answers: Vec<(Reply, u64)>,
    unburied: Unburied,
    condition: Condition,
    /// Endpoints that could not be read.
    unread: Vec<Arc<Endpoint>>,
    unread_lines: Lines,
    unflushed: Option<Uptime>,
    /// Settlements wait for a flush also after another write: of messages that have become dead letters.
    has_letters: bool,
    unsynced: Option<Uptime>,
    unsynced_bytes: usize,
    stamped: Uptime,
    /// When the disk heard last: of the clocks too.
    written: Uptime,
    pub(super) untidy: bool,
    looked: Uptime,
    /// When the thread looks again by itself.
    pub(super) wakes_at: Uptime,
    /// Whether senders store together; told to the storage when it changes.
    grouping: Grouping,
    /// A write by a sender has taken long; until then no other is made.
    pub(super) slow_until: Uptime,
    /// Last, so that nobody hears of the end before it.
    end: watch::Sender<bool>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn new(
        log: Box<dyn MessageLog>,
        storage: Arc<Storage>,
        clock: Clock,
        sync_after: Option<Duration>,
        removed: Arc<AtomicU64>,
        end: watch::Sender<bool>,
    ) -> Self {
        let now = clock.uptime();
        Self {
            first: log.next_sequence(),
            log,
            storage,
            clock,
            sync_after,
            removed,
            endpoints: Vec::new(),
            keep: None,
            retired: BTreeSet::new(),
            taken: Vec::new().into_iter(),
            group: Vec::new(),
            group_bytes: 0,
            answers: Vec::new(),
            unburied: Unburied::default(),
            condition: Condition::default(),
            unread: Vec::new(),
            unread_lines: Lines::default(),
            unflushed: None,
            has_letters: false,
            // What a killed process has written may not be on the disk.
            unsynced: Some(now),
            unsynced_bytes: 0,
            stamped: now,
            written: now,
            untidy: true,
            looked: now,
            wakes_at: now,
            grouping: Grouping::default(),
            slow_until: now,
            end,
        }
    }

    /// Does jobs in their order. True: one of them was the last.
    pub(super) fn work_off(&mut self, told: Vec<Outcome>, jobs: Vec<Job>) -> bool {
        self.untidy |= !jobs.is_empty() || !told.is_empty();
        for outcome in told {
            self.note(outcome);
        }
        self.group.reserve(jobs.len());
        self.taken = jobs.into_iter();
        while let Some(job) = self.taken.next() {
            if matches!(job, Job::Stop) {
                self.stop();
                return true;
            }
            // What was handed over before is stored before, and its senders do not wait for what may take long.
            if !matches!(job, Job::Append(_) | Job::Outcome(_)) {
                self.commit();
                self.answer_all();
            }
            self.work(job);
        }
        self.commit();
        false
    }

    /// A sender has stored its message alone.
    pub(super) fn stored_alone(&mut self, append: &Append) {
        self.grouping.stored_alone(Arc::as_ptr(&append.sequence).addr());
        self.storage.together.store(self.grouping.is_together(), Relaxed);
    }

    /// Senders have stored so many messages together, the first of which has waited so long for the others.
    pub(super) fn stored_together(&mut self, messages: usize, waited: Duration) {
        self.grouping.stored_together(messages, waited);
        self.storage.together.store(self.grouping.is_together(), Relaxed);
    }

    fn answer_all(&mut self) {
        for (reply, answer) in std::mem::take(&mut self.answers) {
            let _ = reply.send(Ok(answer));
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Append(append) => {
                self.group_bytes += append.size;
                self.group.push(append);
                if self.group_bytes >= GROUP_BYTES {
                    self.commit();
                }
            }
            // Of messages that were stored before: the group need not be broken up.
            Job::Outcome(outcome) => self.note(outcome),
            Job::Begin(place, attempts, reply) => {
                self.log.attempt(place, attempts);
                self.flush();
                let _ = reply.send(());
            }
            Job::Open(endpoint, reply) => {
                self.open(endpoint);
                let _ = reply.send(());
            }
            Job::Load(endpoint) => self.load(endpoint),
            Job::Expire(endpoint) => self.expire_of(&endpoint, self.clock.uptime()),
            Job::ExpireBehind(endpoint, at) => self.expire_behind(&endpoint, at),
            Job::Keep(names) => {
                self.keep = Some(names);
                self.bury_others();
            }
            Job::KeepOn => self.bury_on(),
            Job::Dead(question) => self.answer(question),
            Job::Stop => {}
        }
    }

    /// Stores what has come together, with one write.
    fn commit(&mut self) {
        self.group_bytes = 0;
        let group = std::mem::take(&mut self.group);
        if !group.is_empty() {
            self.store(group);
        }
    }

    fn store(&mut self, mut group: Vec<Append>) {
        match self.write(&mut group) {
            Ok(numbers) => {
                self.note_stored();
                for (append, number) in group.into_iter().zip(numbers) {
                    self.hand_on(append, number);
                }
            }
            // The log takes all or none; some of them may fit.
            Err(LogError::Full(_) | LogError::Refused(_)) if group.len() > 1 => {
                let rest = group.split_off(group.len() / 2);
                self.store(group);
                self.store(rest);
            }
            Err(error) => {
                for append in group {
                    self.note_refused(&error, append.size);
                    append.refuse(NotStored::from(&error));
                }
            }
        }
    }

    pub(super) fn write(&mut self, group: &mut [Append]) -> Result<Range<u64>, LogError> {
        let enqueued = self.clock.utc_coarse();
        for append in &mut *group {
            (append.accepted.sequence, append.accepted.enqueued) = (append.number(), enqueued);
        }
        let references: Few<Few<Reference>> = group.iter().map(|append| self.references(append)).collect();
        let safety = group.iter().map(|append| append.safety).max().unwrap_or(Safety::Written);
        let entry = |(append, references)| {
            let (append, references): (&Append, &Few<Reference>) = (append, references);
            Entry { message: &append.accepted, references }
        };
        let entries: Few<Entry<'_>> = group.iter().zip(&references).map(entry).collect();
        let appended = self.log.append(&entries, safety);
        drop(entries);
        match appended {
            Ok(numbers) => {
                self.unflushed.take_if(|_| !self.has_letters);
                if safety == Safety::Synced {
                    (self.unsynced, self.unsynced_bytes) = (None, 0);
                    self.written = self.clock.uptime();
                } else {
                    self.wrote(group.iter().map(|append| append.size).sum());
                }
                Ok(numbers)
            }
            Err(error) => {
                for append in group.iter().rev() {
                    append.give_number_back(append.accepted.sequence);
                }
                Err(error)
            }
        }
    }

    fn references(&self, append: &Append) -> Few<Reference> {
        let stored = append.receivers.iter().filter(|receiver| receiver.stored);
        let stored = stored.filter_map(|receiver| Some((receiver, receiver.endpoint.id()?)));
        let reference = |(receiver, endpoint): (&super::Receiver, EndpointId)| Reference {
            endpoint,
            priority: receiver.priority,
            deadline: receiver.deadline.map(|at| self.storage.elapsed(at)),
            max_attempts: receiver.max_attempts,
        };
        stored.map(reference).collect()
    }

    /// A message is stored: its receivers and its sender hear of it.
    pub(super) fn hand_on(&mut self, append: Append, sequence: u64) {
        let Append { accepted, receivers, counts, size, reply, .. } = append;
        counts.accepted(size - ITEM_OVERHEAD);
        self.answers.extend(reply.map(|reply| (reply, accepted.sequence)));
        let copies = std::iter::repeat_n(accepted, receivers.len());
        for (receiver, accepted) in receivers.into_iter().zip(copies) {
            let super::Receiver { endpoint, priority, deadline, max_attempts, stored } = receiver;
            let stored = endpoint.id().filter(|_| stored).map(|endpoint| Place { endpoint, priority, sequence });
            let item = Item {
                accepted,
                size,
                priority,
                deadline,
                attempts: 0,
                max_attempts,
                stored,
                suspect: false,
                live: false,
                arrival: Arrival::default(),
                turn: 0,
            };
            endpoint.arrived(item);
        }
    }

    fn note(&mut self, outcome: Outcome) {
        let Outcome { done, expired, overflown, tried, dead } = outcome;
        for place in done {
            self.log.settle(place, How::Delivered);
        }
        for place in expired {
            self.log.settle(place, How::Expired);
        }
        for place in overflown {
            self.log.settle(place, How::Dropped);
        }
        for (place, attempts) in tried {
            self.log.attempt(place, attempts);
        }
        let now = self.clock.uptime();
        self.unflushed.get_or_insert(now);
        for (place, attempts, reason) in dead {
            self.bury(place, attempts, reason);
        }
    }

    /// When something is due, whatever comes.
    pub(super) fn due(&self) -> Uptime {
        let flush = self.unflushed.map(|since| since.after(FLUSH_AFTER));
        let sync = self.unsynced.zip(self.sync_after).map(|(since, after)| match self.unsynced_bytes {
            SYNC_BYTES.. => since,
            _ => since.after(after),
        });
        let waits = !self.unburied.is_empty() || !self.unread.is_empty() || self.condition.is_open();
        let look = (waits || self.keep.is_some() || self.untidy).then(|| self.looked.after(LOOK_AGAIN));
        let stamp = self.stamped.after(if self.untidy { STAMP_EVERY } else { IDLE_STAMP_EVERY });
        [flush, sync, look].into_iter().flatten().fold(stamp, Uptime::min)
    }

    /// How long the thread waits for jobs before something is due.
    pub(super) fn patience(&mut self) -> Duration {
        self.wakes_at = self.due();
        Duration::from_millis(self.wakes_at.0.saturating_sub(self.clock.uptime().0))
    }

    pub(super) fn keep_house(&mut self) {
        let now = self.clock.uptime();
        let is_over = |since: Uptime, span: Duration| since.after(span) <= now;
        if let (Some(since), Some(after)) = (self.unsynced, self.sync_after)
            && (self.unsynced_bytes >= SYNC_BYTES || is_over(since, after))
        {
            self.sync();
        }
        if self.unflushed.is_some_and(|since| is_over(since, FLUSH_AFTER)) {
            self.flush();
        }
        if is_over(self.stamped, STAMP_EVERY) {
            let is_silent = is_over(self.written, IDLE_STAMP_EVERY - STAMP_EVERY);
            self.stamped = now;
            self.log.stamp(&self.clock.clocks());
            self.expire(now);
            if is_silent && self.log.endpoints().iter().any(|endpoint| !endpoint.queues.is_empty()) {
                self.flush();
            }
        }
        if is_over(self.looked, LOOK_AGAIN) {
            self.looked = now;
            self.look_again();
        }
    }

    fn look_again(&mut self) {
        self.read_revived();
        self.bury_waiting();
        for endpoint in std::mem::take(&mut self.unread) {
            self.load(endpoint);
        }
        self.bury_others();
        self.untidy = self.log.tidy();
        self.look_for_room();
        self.note_facts();
    }

    pub(super) fn flush(&mut self) {
        match self.log.flush() {
            Ok(()) => {
                (self.unflushed, self.has_letters) = (None, false);
                self.wrote(ITEM_OVERHEAD);
            }
            Err(error) => {
                tracing::debug!(%error, "settlements wait for the disk");
                self.unflushed = Some(self.clock.uptime());
            }
        }
    }

    fn sync(&mut self) {
        match self.log.sync() {
            Ok(()) => {
                (self.unflushed, self.unsynced, self.unsynced_bytes, self.has_letters) = (None, None, 0, false);
            }
            Err(error) => {
                tracing::error!(%error, "the message log cannot be synced; the last messages may not survive a loss of power");
                (self.unsynced, self.unsynced_bytes) = (Some(self.clock.uptime()), 0);
            }
        }
    }

    fn wrote(&mut self, bytes: usize) {
        let now = self.clock.uptime();
        self.unsynced.get_or_insert(now);
        self.unsynced_bytes += bytes;
        self.written = now;
    }

    fn stop(&mut self) {
        self.commit();
        self.bury_last();
        self.log.stamp(&self.clock.clocks());
        self.sync();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Whether it ends or has died: who waits for an answer hears that there is none.
        let mut jobs = self.storage.lock();
        jobs.closed = true;
        self.storage.has_jobs.store(true, std::sync::atomic::Ordering::Release);
        let left = std::mem::take(&mut jobs.list);
        drop(jobs);
        for job in std::mem::take(&mut self.taken).chain(left) {
            if let Job::Append(append) = job {
                append.refuse(NotStored::Stopped);
            }
        }
        for append in std::mem::take(&mut self.group) {
            append.refuse(NotStored::Stopped);
        }
        self.answer_all();
        self.end.send_replace(true);
        // Whoever waits for the log looks again, and finds that it has ended.
        for endpoint in self.endpoints.iter().filter_map(Weak::upgrade) {
            endpoint.look_again();
        }
    }
}
