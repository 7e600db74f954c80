//! Messages of senders that are busy at the same time, stored with one write. Each hands its message over, lets the others of its thread
//! have their turn, and then stores what has come together, unless another one was faster. The log's own thread is left asleep: two
//! switches of threads cost more than a write. It takes what has come together only if it is called for that: whoever it answers comes
//! back by the runtime's common queue, one in some thirty turns, and groups would be small for long.

use std::{
    sync::{
        Arc,
        atomic::Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use marram_core::time::Uptime;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{
    Append, Job, Jobs, MANY_TOLD, NotStored, Storage,
    at_once::{Idle, beside, soon},
    writer::GROUP_BYTES,
};
use crate::turn::turn;

/// Turns that a sender lets others have while the log is in other hands, as a rule its thread's that notes some dozens of settlements,
/// before it calls the thread.
const TURNS: usize = 8;
/// Outcomes that wait until senders let the thread go first: so many more have come since it was called.
const TOO_MANY_TOLD: usize = 16 * MANY_TOLD;

/// The number of a message that is on its way into the log.
#[derive(Debug)]
pub(crate) struct Answer {
    number: oneshot::Receiver<Result<u64, NotStored>>,
    joined: Option<Joined>,
}

/// A sender that sees to it that what has come together is stored: also when it is given up in the middle.
#[derive(Debug)]
struct Joined(Option<Arc<Storage>>);

/// What came of a try to store what has come together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// It is stored, or its thread does it.
    IsDone,
    /// The log is in other hands.
    IsTaken,
}

impl Answer {
    /// Waits for it.
    ///
    /// # Errors
    /// The message was not stored.
    pub(crate) async fn stored(mut self) -> Result<u64, NotStored> {
        if let Some(mut joined) = self.joined.take() {
            for _ in 0..TURNS {
                turn().await;
                match self.number.try_recv() {
                    Err(TryRecvError::Empty) => {}
                    answered => {
                        joined.0 = None;
                        return answered.unwrap_or(Err(NotStored::Stopped));
                    }
                }
                if joined.store() == Tried::IsDone {
                    break;
                }
            }
            drop(joined); // which calls the thread, if the log was taken each time
        }
        self.number.await.unwrap_or(Err(NotStored::Stopped))
    }
}

impl Joined {
    /// Stores what has come together, if that is left to it; once it is done, nothing is.
    fn store(&mut self) -> Tried {
        let tried = self.0.as_ref().map_or(Tried::IsDone, |storage| storage.store_together());
        if tried == Tried::IsDone {
            self.0 = None;
        }
        tried
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if self.store() == Tried::IsTaken
            && let Some(storage) = &self.0
        {
            let mut jobs = storage.lock();
            storage.leave_to_thread(&mut jobs);
        }
    }
}

impl Storage {
    /// Whether senders store together, rather than each at once.
    pub(crate) fn is_together(&self) -> bool {
        self.together.load(Relaxed)
    }

    /// Hands a message over at this time; `joins`: its sender waits for others and stores it with theirs. The caller holds the locks of its
    /// receivers, so that what becomes of them later comes later here. None: the log takes no more.
    pub(crate) fn append(
        self: &Arc<Self>,
        mut append: Append,
        joins: bool,
        now: impl FnOnce() -> Uptime,
    ) -> Option<Answer> {
        let (reply, number) = oneshot::channel();
        append.reply = Some(reply);
        let mut jobs = self.lock();
        if jobs.closed {
            return None;
        }
        if joins {
            if jobs.joined == 0 {
                jobs.joined_at = now();
            }
            jobs.joined += 1;
            jobs.joined_bytes += append.size + beside(append.receivers.len());
        }
        jobs.list.push(Job::Append(append));
        self.has_jobs.store(true, Release);
        drop(jobs);
        if !joins {
            self.came.notify_one();
        }
        Some(Answer { number, joined: joins.then(|| Joined(Some(self.clone()))) })
    }

    /// Has the thread take what has come together.
    fn leave_to_thread(&self, jobs: &mut Jobs) {
        jobs.is_called = true;
        self.came.notify_one();
    }

    /// Stores what has come together in the thread of the caller; leaves it to the log's thread where that has been called already, or where
    /// it may take long.
    fn store_together(&self) -> Tried {
        if !self.has_jobs.load(Acquire) {
            return Tried::IsDone;
        }
        let owner = soon(|| self.owner.try_lock().ok());
        let mut jobs = self.lock();
        // Its thread takes them along.
        if jobs.closed || !jobs.are_of_joined() || jobs.list.is_empty() {
            return Tried::IsDone;
        }
        if jobs.told.len() >= TOO_MANY_TOLD {
            self.leave_to_thread(&mut jobs);
            return Tried::IsDone;
        }
        let Some(mut owner) = owner else { return Tried::IsTaken };
        let bytes = jobs.joined_bytes;
        let Some(writer) = owner.as_mut() else { return Tried::IsDone };
        let now = writer.clock.uptime();
        if writer.slow_until > now || bytes > GROUP_BYTES || !writer.log.has_room_at_hand(bytes) {
            self.leave_to_thread(&mut jobs);
            return Tried::IsDone;
        }
        // As many come again, as a rule.
        let room = Vec::with_capacity(jobs.list.len());
        let list = std::mem::replace(&mut jobs.list, room);
        (jobs.joined, jobs.joined_bytes) = (0, 0);
        let waited = Duration::from_millis(now.0.saturating_sub(jobs.joined_at.0));
        self.has_jobs.store(jobs.look || jobs.told.len() >= MANY_TOLD, Release);
        drop(jobs);
        let messages = list.len();
        let mut idle = Idle { storage: self, owner };
        let Some(writer) = idle.owner.as_mut() else { return Tried::IsDone };
        writer.work_off(Vec::new(), list);
        writer.stored_together(messages, waited);
        let answers = std::mem::take(&mut writer.answers);
        idle.leave(now);
        for (reply, number) in answers {
            let _ = reply.send(Ok(number));
        }
        Tried::IsDone
    }
}
