//! Work with the log in the thread of whoever brings it, while the log has nothing else to do: a message costs one write then, and no
//! switch of threads. Only what is one write into a file that is there; a disk that has kept a sender waiting is left to the log's
//! own thread for a while.

use std::{
    sync::{
        MutexGuard,
        atomic::Ordering::{Acquire, Release},
    },
    time::Duration,
};

use marram_core::time::Uptime;

use super::{Append, NotStored, Storage, writer::Writer};

/// A write into the page cache takes microseconds. One that takes longer than this may have been held up by the disk (or by other
/// processes, which cannot be told apart): guests of other modules must not wait for that again and again.
const SLOW: Duration = Duration::from_millis(10);
/// How long senders leave a slow disk alone: so many times what the write took.
const REST: u32 = 8;
/// So often a sender looks whether the log is idle, each time after a longer pause: some microseconds in all.
const LOOKS: usize = 12;
/// What a message takes in the log beside its own bytes, at most, for so many receivers.
pub(super) const fn beside(receivers: usize) -> usize {
    1024 + receivers * 512
}

/// The log, in the hands of a sender.
pub(crate) struct Idle<'s> {
    pub(super) storage: &'s Storage,
    pub(super) owner: MutexGuard<'s, Option<Writer>>,
}

impl Storage {
    /// The log, if nobody works with it and nothing waits to be done. What is done with it comes after all that was handed over before.
    fn idle(&self) -> Option<Idle<'_>> {
        // Looked at first, so that the thread does not find the lock taken when it comes for the jobs.
        if self.has_jobs.load(Acquire) {
            return None;
        }
        let owner = self.owner.try_lock().ok()?;
        // Once more: what this sender has handed over before must be done.
        let is_idle = owner.is_some() && !self.has_jobs.load(Acquire);
        is_idle.then_some(Idle { storage: self, owner })
    }

    /// Has the thread look what is due.
    fn call_thread(&self) {
        let mut jobs = self.lock();
        jobs.look = true;
        // So that senders leave it to the thread when that comes.
        self.has_jobs.store(true, Release);
        drop(jobs);
        self.came.notify_one();
    }

    /// The log for a message of so many bytes, if it is idle or soon is, and to write that is likely to take no time. Not to be called
    /// under the lock of an endpoint: who has the log may wait for that.
    pub(crate) fn idle_for(&self, size: usize, receivers: usize, now: Uptime) -> Option<Idle<'_>> {
        let idle = soon(|| self.idle())?;
        let writer = idle.owner.as_ref()?;
        (writer.slow_until <= now && writer.log.has_room_at_hand(size + beside(receivers))).then_some(idle)
    }
}

/// Looks a few times. Whoever has the log is likely to let it go at once: most writes take microseconds. Two switches of threads cost
/// more.
pub(super) fn soon<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    (0..LOOKS).find_map(|n| {
        (0..n).for_each(|_| std::hint::spin_loop());
        look()
    })
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Nobody knows what has been done: the thread finds the lock poisoned, and ends.
            self.storage.call_thread();
        }
    }
}

impl Idle<'_> {
    /// Stores a message whose receivers have set its bytes aside, and hands it on to them. The caller has let go of their locks.
    pub(crate) fn append(mut self, append: Append, now: Uptime) -> Result<u64, NotStored> {
        let Some(writer) = self.owner.as_mut() else { return Err(NotStored::Stopped) };
        let mut group = [append];
        let written = writer.write(&mut group);
        let [append] = group;
        let result = match written {
            Ok(numbers) => {
                writer.note_stored();
                writer.stored_alone(&append);
                let number = append.accepted.sequence;
                writer.hand_on(append, numbers.start);
                Ok(number)
            }
            Err(error) => {
                writer.note_refused(&error, append.size);
                let why = NotStored::from(&error);
                append.refuse(why.clone());
                Err(why)
            }
        };
        self.leave(now);
        result
    }

    /// Lets the log go that was taken at this time. What is due before its thread looks again: it hears of that.
    pub(super) fn leave(mut self, since: Uptime) {
        let Some(writer) = self.owner.as_mut() else { return };
        let now = writer.clock.uptime();
        let took = Duration::from_millis(now.0.saturating_sub(since.0));
        if took >= SLOW {
            writer.slow_until = now.after(took * REST);
        }
        writer.untidy = true;
        let due = writer.due();
        if due >= writer.wakes_at {
            return;
        }
        writer.wakes_at = due;
        self.storage.call_thread();
    }
}
