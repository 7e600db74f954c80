//! Messages of senders that are busy at the same time, stored with one write. Each hands its message over, lets the others of its thread
//! have their turn, and then stores what has come together, unless another one was faster. The log's own thread is left asleep: two
//! switches of threads cost more than a write.

use std::sync::{
    Arc,
    atomic::Ordering::{Acquire, Relaxed, Release},
};

use tokio::sync::oneshot;

use super::{
    Append, Job, NotStored, Storage,
    at_once::{Idle, beside, soon},
};

/// The number of a message that is on its way into the log.
#[derive(Debug)]
pub(crate) struct Answer {
    number: oneshot::Receiver<Result<u64, NotStored>>,
    joined: Option<Joined>,
}

/// A sender that sees to it that what has come together is stored: also when it is given up in the middle.
#[derive(Debug)]
struct Joined(Option<Arc<Storage>>);

impl Answer {
    /// Waits for it.
    ///
    /// # Errors
    /// The message was not stored.
    pub(crate) async fn stored(mut self) -> Result<u64, NotStored> {
        if let Some(mut joined) = self.joined.take() {
            tokio::task::yield_now().await;
            if let Ok(number) = self.number.try_recv() {
                joined.0 = None;
                return number;
            }
        }
        self.number.await.unwrap_or(Err(NotStored::Stopped))
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(storage) = &self.0 {
            storage.store_together();
        }
    }
}

impl Storage {
    /// Whether senders store together, rather than each at once.
    pub(crate) fn is_together(&self) -> bool {
        self.together.load(Relaxed)
    }

    /// Hands a message over; `joins`: its sender waits for others and stores it with theirs. The caller holds the locks of its receivers, so
    /// that what becomes of them later comes later here. None: the log takes no more.
    pub(crate) fn append(self: &Arc<Self>, mut append: Append, joins: bool) -> Option<Answer> {
        let (reply, number) = oneshot::channel();
        append.reply = Some(reply);
        let mut jobs = self.lock();
        if jobs.closed {
            return None;
        }
        if joins {
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

    /// Stores what has come together in the thread of the caller; leaves it to the log's thread where that has been called already, or where
    /// it may take long.
    fn store_together(&self) {
        if !self.has_jobs.load(Acquire) {
            return;
        }
        let owner = soon(|| self.owner.try_lock().ok());
        let mut jobs = self.lock();
        // With the others its thread was called.
        if jobs.closed || jobs.look || jobs.joined < jobs.list.len() || jobs.list.is_empty() {
            return;
        }
        let Some(mut owner) = owner else { return self.came.notify_one() };
        let bytes = jobs.joined_bytes;
        let Some(writer) = owner.as_mut() else { return };
        let now = writer.clock.uptime();
        if writer.slow_until > now || !writer.log.has_room_at_hand(bytes) {
            return self.came.notify_one();
        }
        // As many come again, as a rule.
        let room = Vec::with_capacity(jobs.list.len());
        let list = std::mem::replace(&mut jobs.list, room);
        (jobs.joined, jobs.joined_bytes) = (0, 0);
        self.has_jobs.store(false, Release);
        drop(jobs);
        let messages = list.len();
        let mut idle = Idle { storage: self, owner };
        let Some(writer) = idle.owner.as_mut() else { return };
        writer.work_off(Vec::new(), list);
        writer.stored_together(messages);
        let answers = std::mem::take(&mut writer.answers);
        idle.leave(now);
        for (reply, number) in answers {
            let _ = reply.send(Ok(number));
        }
    }
}
