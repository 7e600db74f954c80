//! What a person asks about dead letters, on its way to the log's owner and back.

use marram_core::{
    log::{LogError, Reference, Stored},
    queue::ITEM_OVERHEAD,
};
use tokio::sync::oneshot;

use super::{Job, Storage, writer::Writer};
use crate::router::Revival;

/// Read at once: a list of some hundred letters, or the largest one.
const STEP: usize = 256 << 10;

/// A question with its way back.
#[derive(Debug)]
pub(super) enum Question {
    List(Option<u64>, oneshot::Sender<Result<Vec<Stored>, LogError>>),
    Get(u64, oneshot::Sender<Result<Stored, LogError>>),
    Replay(u64, Revival, oneshot::Sender<Result<Replayed, LogError>>),
    Purge(Option<u64>, oneshot::Sender<u64>),
}

/// What became of a dead letter that was to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Replayed {
    /// It waits for its receiver.
    Sent,
    /// No route leads to its receiver any more.
    NoRoute,
}

impl Storage {
    /// Dead letters behind `after`, oldest first; none of them: there are no more.
    pub(crate) async fn dead_letters(&self, after: Option<u64>) -> Option<Result<Vec<Stored>, LogError>> {
        self.ask(|reply| Question::List(after, reply)).await
    }

    /// One of them.
    pub(crate) async fn dead_letter(&self, id: u64) -> Option<Result<Stored, LogError>> {
        self.ask(|reply| Question::Get(id, reply)).await
    }

    /// Sends one again, to the receiver that it had.
    pub(crate) async fn replay(&self, id: u64, revival: Revival) -> Option<Result<Replayed, LogError>> {
        self.ask(|reply| Question::Replay(id, revival, reply)).await
    }

    /// Forgets one, or all; how many.
    pub(crate) async fn purge(&self, id: Option<u64>) -> Option<u64> {
        self.ask(|reply| Question::Purge(id, reply)).await
    }

    /// None: the log has ended.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.push(Job::Dead(question(reply))).then_some(())?;
        answer.await.ok()
    }
}

impl Writer {
    /// Who asks may have gone away meanwhile; then nobody hears the answer.
    pub(super) fn answer(&mut self, question: Question) {
        match question {
            Question::List(after, reply) => {
                let letters = self.log.dead_letters(after, STEP);
                self.note_facts();
                let _ = reply.send(letters);
            }
            Question::Get(id, reply) => {
                let _ = reply.send(self.dead_letter(id));
            }
            Question::Replay(id, revival, reply) => {
                let replayed = self.replay(id, &revival);
                self.flush(); // otherwise a kill brings the letter back beside the message
                self.note_facts();
                let _ = reply.send(replayed);
            }
            Question::Purge(id, reply) => {
                let purged = match id {
                    Some(id) => u64::from(self.log.purge(id)),
                    None => self.log.purge_all(),
                };
                self.flush();
                self.note_facts();
                let _ = reply.send(purged);
            }
        }
    }

    fn dead_letter(&mut self, id: u64) -> Result<Stored, LogError> {
        let first = self.log.dead_letters(id.checked_sub(1), 1)?.into_iter().next();
        first.filter(|letter| letter.place.sequence == id).ok_or(LogError::Unknown(id))
    }

    /// As a new message: behind what waits there in its priority, with its attempts counted anew.
    fn replay(&mut self, id: u64, revival: &Revival) -> Result<Replayed, LogError> {
        let Revival { endpoint, priority, deadline, max_attempts } = revival;
        let letter = self.dead_letter(id)?;
        let Some(number) = endpoint.id().filter(|_| !endpoint.is_closed()) else { return Ok(Replayed::NoRoute) };
        let deadline = deadline.map(|at| self.storage.elapsed(at));
        let to = Reference { endpoint: number, priority: *priority, deadline, max_attempts: *max_attempts };
        self.log.replay(id, &[to])?;
        endpoint.revived(*priority, letter.accepted.message.size() + ITEM_OVERHEAD);
        Ok(Replayed::Sent)
    }
}
