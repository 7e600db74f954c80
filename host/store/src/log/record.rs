//! What is in the payloads of a segment's records. Pure.

use std::sync::Arc;

use bytes::Bytes;
use marram_core::{
    elapsed::{Clocks, Elapsed, Stamp},
    message::{Accepted, Message, SystemProperties},
    time::UtcMillis,
};

use super::{
    Death, Key, Reference,
    format::Base,
    wire::{Put, Take},
};

const HAS_DEADLINE: u64 = 1;
const HAS_MAX_ATTEMPTS: u64 = 2;
const HAS_SYSTEM: u64 = 1;
const HAS_DEATH: u64 = 2;

/// Most bytes of the payload of a message, before it is encoded.
pub(super) fn message_bound(message: &Accepted, references: usize, death: Option<&Death>) -> usize {
    let properties =
        message.message.properties().map(|(name, value)| 2 + (name.len() + value.len()) / 128).sum::<usize>();
    let death = death.map_or(0, |death| death.endpoint.len() + death.reason.len() + 40);
    64 + references * 30 + message.source.len() + message.message.size() + properties + death
}

/// Writes a message. `source` is its number in the segment; none = its name stands in the record.
pub(super) fn put_message(
    out: &mut Vec<u8>,
    base: Base,
    sequence: u64,
    message: &Accepted,
    source: Option<u32>,
    references: &[Reference],
    death: Option<&Death>,
) {
    out.put_delta(sequence, base.sequence);
    out.put(references.len() as u64);
    for reference in references {
        put_reference(out, base, reference);
    }
    match source {
        Some(number) => out.put(u64::from(number) + 1),
        None => {
            out.put(0);
            out.put_bytes(message.source.as_bytes());
        }
    }
    out.put(message.sequence);
    out.put_delta(message.enqueued.0, base.utc);
    let (system, dead) = (message.message.system(), death.is_some());
    out.put(if system.is_some() { HAS_SYSTEM } else { 0 } | if dead { HAS_DEATH } else { 0 });
    if let Some(death) = death {
        out.put_bytes(death.endpoint.as_bytes());
        out.put_bytes(death.reason.as_bytes());
        out.put(u64::from(death.attempts));
        out.put(death.at.0);
    }
    if let Some(system) = system {
        put_system(out, system);
    }
    out.put(message.message.properties().len() as u64);
    for (name, value) in message.message.properties() {
        out.put_bytes(name.as_bytes());
        out.put_bytes(value.as_bytes());
    }
    out.extend_from_slice(&message.message.body);
}

fn put_reference(out: &mut Vec<u8>, base: Base, reference: &Reference) {
    let Reference { endpoint, priority, deadline, max_attempts } = reference;
    out.put(u64::from(endpoint.0));
    let has_deadline = if deadline.is_some() { HAS_DEADLINE } else { 0 };
    let has_attempts = if max_attempts.is_some() { HAS_MAX_ATTEMPTS } else { 0 };
    out.put(u64::from(*priority) << 2 | has_deadline | has_attempts);
    if let Some(deadline) = deadline {
        out.put_delta(deadline.0, base.elapsed);
    }
    if let Some(max) = max_attempts {
        out.put(u64::from(*max));
    }
}

fn put_system(out: &mut Vec<u8>, system: &SystemProperties) {
    for value in [&system.content_type, &system.content_encoding, &system.message_id, &system.correlation_id] {
        out.put(value.as_ref().map_or(0, |text| text.len() as u64 + 1));
        out.extend_from_slice(value.as_deref().unwrap_or_default().as_bytes());
    }
}

/// The first part of a message's record: all that recovery needs.
#[derive(Debug, Clone)]
pub(super) struct MessageHead<'p> {
    pub(super) sequence: u64,
    pub(super) references: Vec<Reference>,
    rest: Take<'p>,
    base: Base,
}

pub(super) fn take_head(payload: &[u8], base: Base) -> Option<MessageHead<'_>> {
    let mut take = Take(payload);
    let sequence = take.delta(base.sequence)?;
    let count = take.small()?;
    let mut references = Vec::new();
    for _ in 0..count {
        references.push(take_reference(&mut take, base)?);
    }
    Some(MessageHead { sequence, references, rest: take, base })
}

fn take_reference(take: &mut Take<'_>, base: Base) -> Option<Reference> {
    let endpoint = super::EndpointId(take.small()?);
    let flags = take.number()?;
    let deadline = if flags & HAS_DEADLINE != 0 { Some(Elapsed(take.delta(base.elapsed)?)) } else { None };
    let max_attempts = if flags & HAS_MAX_ATTEMPTS != 0 { Some(take.small()?) } else { None };
    Some(Reference { endpoint, priority: (flags >> 2).try_into().ok()?, deadline, max_attempts })
}

impl MessageHead<'_> {
    /// The message itself. `source` knows the names of the segment.
    pub(super) fn message(mut self, source: impl FnOnce(u32) -> Option<Arc<str>>) -> Option<(Accepted, Option<Death>)> {
        let take = &mut self.rest;
        let source = match take.small()? {
            0 => take.text()?.into(),
            number => source(number - 1)?,
        };
        let sequence = take.number()?;
        let enqueued = UtcMillis(take.delta(self.base.utc)?);
        let flags = take.number()?;
        let death = if flags & HAS_DEATH != 0 { Some(take_death(take)?) } else { None };
        let system = if flags & HAS_SYSTEM != 0 { Some(take_system(take)?) } else { None };
        let mut properties = Vec::new();
        for _ in 0..take.small()? {
            properties.push((take.text()?.into(), take.text()?.into()));
        }
        let message = Message::restore(Bytes::copy_from_slice(take.0), properties, system);
        Some((Accepted { message: Arc::new(message), source, sequence, enqueued }, death))
    }
}

fn take_death(take: &mut Take<'_>) -> Option<Death> {
    let (endpoint, reason) = (take.text()?.into(), take.text()?.into());
    Some(Death { endpoint, reason, attempts: take.small()?, at: UtcMillis(take.number()?) })
}

fn take_system(take: &mut Take<'_>) -> Option<SystemProperties> {
    let mut value = || -> Option<Option<String>> {
        let Some(len) = take.number()?.checked_sub(1) else { return Some(None) };
        let (text, rest) = take.0.split_at_checked(len.try_into().ok()?)?;
        take.0 = rest;
        Some(Some(std::str::from_utf8(text).ok()?.to_owned()))
    };
    let (content_type, content_encoding) = (value()?, value()?);
    Some(SystemProperties { content_type, content_encoding, message_id: value()?, correlation_id: value()? })
}

/// All messages of `key` from `first` to `last` are settled, except those that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) key: Key,
    pub(super) first: u64,
    pub(super) last: u64,
}

pub(super) fn put_ranges(out: &mut Vec<u8>, base: Base, ranges: &[Range]) {
    for range in ranges {
        out.put(u64::from(range.key.0));
        out.put(u64::from(range.key.1));
        out.put_delta(range.first, base.sequence);
        out.put(range.last - range.first);
    }
}

pub(super) fn take_range(take: &mut Take<'_>, base: Base) -> Option<Range> {
    let key = (take.small()?, take.byte()?);
    let first = take.delta(base.sequence)?;
    Some(Range { key, first, last: first.checked_add(take.number()?)? })
}

/// A message has been tried so often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tried {
    pub(super) key: Key,
    pub(super) sequence: u64,
    pub(super) attempts: u32,
}

pub(super) fn put_tried(out: &mut Vec<u8>, base: Base, tried: &[Tried]) {
    for Tried { key, sequence, attempts } in tried {
        out.put(u64::from(key.0));
        out.put(u64::from(key.1));
        out.put_delta(*sequence, base.sequence);
        out.put(u64::from(*attempts));
    }
}

pub(super) fn take_tried(take: &mut Take<'_>, base: Base) -> Option<Tried> {
    Some(Tried { key: (take.small()?, take.byte()?), sequence: take.delta(base.sequence)?, attempts: take.small()? })
}

/// Numbers and names, of endpoints or of sources.
pub(super) fn put_names<'n>(out: &mut Vec<u8>, names: impl Iterator<Item = (u32, &'n str)>) {
    for (number, name) in names {
        out.put(u64::from(number));
        out.put_bytes(name.as_bytes());
    }
}

pub(super) fn take_name<'p>(take: &mut Take<'p>) -> Option<(u32, &'p str)> {
    Some((take.small()?, take.text()?))
}

/// The beginning of a checkpoint: what is not in the records behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Checkpoint {
    pub(super) stamp: Stamp,
    pub(super) next_sequence: u64,
    pub(super) next_endpoint: u32,
    /// Of the segments that have messages left, and how many references.
    pub(super) segments: Vec<(u64, u64)>,
}

impl Checkpoint {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_stamp(out, &self.stamp);
        out.put(self.next_sequence);
        out.put(u64::from(self.next_endpoint));
        out.put(self.segments.len() as u64);
        for (generation, live) in &self.segments {
            out.put(*generation);
            out.put(*live);
        }
    }

    pub(super) fn take(payload: &[u8]) -> Option<Self> {
        let mut take = Take(payload);
        let stamp = take_stamp(&mut take)?;
        let (next_sequence, next_endpoint) = (take.number()?, take.small()?);
        let mut segments = Vec::new();
        for _ in 0..take.number()? {
            segments.push((take.number()?, take.number()?));
        }
        take.is_empty().then_some(Self { stamp, next_sequence, next_endpoint, segments })
    }
}

pub(super) fn put_stamp(out: &mut Vec<u8>, stamp: &Stamp) {
    let Stamp { elapsed, clocks } = stamp;
    out.put(elapsed.0);
    out.extend_from_slice(&clocks.boot);
    out.put(clocks.since_boot);
    out.put(clocks.utc.0);
    out.put(u64::from(clocks.synchronised));
}

pub(super) fn take_stamp(take: &mut Take<'_>) -> Option<Stamp> {
    let elapsed = Elapsed(take.number()?);
    let (boot, rest) = take.0.split_at_checked(16)?;
    take.0 = rest;
    let clocks = Clocks {
        boot: boot.try_into().ok()?,
        since_boot: take.number()?,
        utc: UtcMillis(take.number()?),
        synchronised: take.number()? != 0,
    };
    Some(Stamp { elapsed, clocks })
}

/// What is kept in memory of a sealed segment, as it stands in its footer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Summary {
    /// Its record of sources, 0 = none.
    pub(super) sources_at: u32,
    pub(super) queues: Vec<QueueSummary>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueueSummary {
    pub(super) key: Key,
    pub(super) count: u32,
    pub(super) first: u64,
    pub(super) last: u64,
    /// Of its records, heads included.
    pub(super) bytes: u64,
    /// No message of it lives longer; none = some never expire.
    pub(super) deadline: Option<u64>,
    pub(super) index_at: u32,
}

/// Beside the priority of a queue in a summary: it has a deadline of its own.
const OWN_DEADLINE: u8 = 16;

impl Summary {
    pub(super) fn put(&self, out: &mut Vec<u8>, base: Base) {
        // The latest of the segment, and only where that of a queue is another one, its own.
        let latest = self.queues.iter().try_fold(0, |latest, queue| Some(queue.deadline?.max(latest)));
        out.put(u64::from(latest.is_some()));
        out.put_delta(latest.unwrap_or_default(), base.elapsed);
        out.put(u64::from(self.sources_at));
        for queue in &self.queues {
            out.put(u64::from(queue.key.0));
            let own = queue.deadline.filter(|_| queue.deadline != latest);
            out.put(u64::from(queue.key.1 | if own.is_some() { OWN_DEADLINE } else { 0 }));
            if let Some(own) = own {
                out.put_delta(own, base.elapsed);
            }
            out.put(u64::from(queue.count));
            out.put_delta(queue.first, base.sequence);
            out.put(queue.last - queue.first);
            out.put(queue.bytes);
            out.put(u64::from(queue.index_at));
        }
    }

    pub(super) fn take(payload: &[u8], base: Base) -> Option<Self> {
        let mut take = Take(payload);
        let has_deadline = take.number()? != 0;
        let latest = Some(take.delta(base.elapsed)?).filter(|_| has_deadline);
        let mut summary = Self { sources_at: take.small()?, queues: Vec::new() };
        while !take.is_empty() {
            let (endpoint, priority) = (take.small()?, take.byte()?);
            let key = (endpoint, priority & !OWN_DEADLINE);
            let deadline = if priority & OWN_DEADLINE == 0 { latest } else { Some(take.delta(base.elapsed)?) };
            let count = take.small()?;
            let first = take.delta(base.sequence)?;
            let last = first.checked_add(take.number()?)?;
            let (bytes, index_at) = (take.number()?, take.small()?);
            summary.queues.push(QueueSummary { key, count, first, last, bytes, deadline, index_at });
        }
        Some(summary)
    }
}
