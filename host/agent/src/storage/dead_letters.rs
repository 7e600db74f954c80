//! What a person asks about dead letters, on its way to the log's owner and back.

use std::sync::Arc;

use marram_core::{
    deployment::{DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY},
    log::{LogError, Reference, Stored},
    queue::ITEM_OVERHEAD,
    route::Sink,
};
use tokio::sync::oneshot;

use super::{Job, Storage, writer::Writer};
use crate::endpoint::Endpoint;

/// Read at once: a list of some hundred letters, or the largest one.
const STEP: usize = 256 << 10;

/// A question with its way back.
#[derive(Debug)]
pub(super) enum Question {
    List(Option<u64>, oneshot::Sender<Result<Vec<Stored>, LogError>>),
    Get(u64, oneshot::Sender<Result<Stored, LogError>>),
    Replay(u64, oneshot::Sender<Result<Replayed, LogError>>),
    Purge(Option<u64>, oneshot::Sender<u64>),
}

/// What became of a dead letter that was to be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Replayed {
    /// It waits for its receiver.
    Sent,
    /// No route leads to its receiver, which this was.
    NoRoute(Arc<str>),
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

    /// Sends one again.
    pub(crate) async fn replay(&self, id: u64) -> Option<Result<Replayed, LogError>> {
        self.ask(|reply| Question::Replay(id, reply)).await
    }

    /// Forgets one, or all; how many.
    pub(crate) async fn purge(&self, id: Option<u64>) -> Option<u64> {
        self.ask(|reply| Question::Purge(id, reply)).await
    }

    /// None: the log has ended.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.push(Job::Dead(question(reply))).ok()?;
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
            Question::Replay(id, reply) => {
                let replayed = self.replay(id);
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

    /// To the receiver that it had, as a new message: without a time to live, behind what waits.
    fn replay(&mut self, id: u64) -> Result<Replayed, LogError> {
        let letter = self.dead_letter(id)?;
        let name = letter.death.map(|death| death.endpoint).unwrap_or_default();
        let Some((endpoint, number)) = self.in_force(&name) else { return Ok(Replayed::NoRoute(name)) };
        let max_attempts = (endpoint.sink != Sink::Upstream).then_some(DEFAULT_MAX_ATTEMPTS);
        let to = Reference { endpoint: number, priority: DEFAULT_PRIORITY, deadline: None, max_attempts };
        self.log.replay(id, &[to])?;
        endpoint.revived(DEFAULT_PRIORITY, letter.accepted.message.size() + ITEM_OVERHEAD);
        Ok(Replayed::Sent)
    }

    fn in_force(&self, name: &str) -> Option<(Arc<Endpoint>, marram_core::log::EndpointId)> {
        let mut endpoints = self.endpoints.iter().filter_map(std::sync::Weak::upgrade);
        let endpoint = endpoints.find(|endpoint| *endpoint.name() == *name && !endpoint.is_closed())?;
        let id = endpoint.id()?;
        Some((endpoint, id))
    }
}
