//! What is in memory of a segment: for each of its queues a summary and what is settled. Touches no file.

use std::sync::Arc;

use super::{
    Key, Reference,
    format::Header,
    index::{Index, Settled},
    record::{QueueSummary, Range, Summary},
};

/// A segment of the log.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: Header,
    /// Bytes of its file.
    pub(super) len: u64,
    /// Where its records end; in a sealed one the index follows.
    pub(super) data_end: u64,
    /// First and last sequence; first > last: no message.
    pub(super) first: u64,
    pub(super) last: u64,
    /// By key.
    pub(super) queues: Vec<Queue>,
    /// References that are not settled.
    pub(super) live: u64,
    pub(super) sources: Sources,
    /// Its file cannot be trusted to keep what was written last: it is to be copied.
    pub(super) suspect: bool,
    /// The disk has refused to keep what was written to it. Suspect as well.
    pub(super) unsafe_on_disk: bool,
    /// Copying was of no use while so many were live.
    pub(super) full_at: u64,
    /// What was live when the last segment was filled; none before.
    pub(super) was_live: Option<u64>,
    footer: u64,
}

/// What a footer takes at most beside indexes and names: for itself, for a queue, for the name of a source.
const OF_FOOTER: u64 = 128;
const OF_QUEUE: u64 = 96;
const OF_SOURCE: u64 = 16;

/// Where the names of a segment's sources are.
#[derive(Debug, Clone)]
pub(super) enum Sources {
    Memory(Arc<Vec<Arc<str>>>),
    /// In a record of the footer; 0 = there are none.
    Disk(u32),
}

/// A queue's part of a segment.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) key: Key,
    pub(super) count: u32,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) bytes: u64,
    /// No message of it lives longer; none = some never expire.
    pub(super) deadline: Option<u64>,
    pub(super) index: IndexAt,
    pub(super) settled: Settled,
}

#[derive(Debug)]
pub(super) enum IndexAt {
    Memory(Box<Index>),
    /// In a record of the footer.
    Disk(u32),
}

impl Queue {
    pub(super) fn live(&self) -> u32 {
        self.count - self.settled.done().min(self.count)
    }

    /// Bytes of what is not settled, by the mean.
    pub(super) fn live_bytes(&self) -> u64 {
        self.bytes * u64::from(self.live()) / u64::from(self.count.max(1))
    }

    /// The index, if it is in memory.
    pub(super) fn in_memory(&self) -> Option<&[u8]> {
        match &self.index {
            IndexAt::Memory(index) => Some(&index.bytes),
            IndexAt::Disk(_) => None,
        }
    }
}

impl Segment {
    pub(super) fn new(header: Header, len: u64, data_end: u64) -> Self {
        Self {
            header,
            len,
            data_end,
            first: u64::MAX,
            last: 0,
            queues: Vec::new(),
            live: 0,
            sources: Sources::Memory(Arc::default()),
            suspect: false,
            unsafe_on_disk: false,
            full_at: u64::MAX,
            was_live: None,
            footer: OF_FOOTER,
        }
    }

    pub(super) fn from_summary(header: Header, len: u64, data_end: u64, summary: Summary) -> Self {
        let mut segment = Self::new(header, len, data_end);
        segment.sources = Sources::Disk(summary.sources_at);
        segment.queues.reserve_exact(summary.queues.len());
        for QueueSummary { key, count, first, last, bytes, deadline, index_at } in summary.queues {
            segment.first = segment.first.min(first);
            segment.last = segment.last.max(last);
            segment.live += u64::from(count);
            let index = IndexAt::Disk(index_at);
            let settled = Settled::default();
            segment.queues.push(Queue { key, count, first, last, bytes, deadline, index, settled });
        }
        segment.queues.sort_by_key(|queue| queue.key);
        segment
    }

    pub(super) fn generation(&self) -> u64 {
        self.header.generation
    }

    /// Whether a sequence is among its first and last.
    pub(super) fn spans(&self, sequence: u64) -> bool {
        (self.first..=self.last).contains(&sequence)
    }

    pub(super) fn queue(&self, key: Key) -> Option<&Queue> {
        self.queues.binary_search_by_key(&key, |queue| queue.key).ok().map(|place| &self.queues[place])
    }

    pub(super) fn queue_mut(&mut self, key: Key) -> Option<&mut Queue> {
        self.queues.binary_search_by_key(&key, |queue| queue.key).ok().map(|place| &mut self.queues[place])
    }

    /// Adds a message whose record of `bytes` is at `at`. Sequences rise.
    pub(super) fn add(&mut self, sequence: u64, at: u64, bytes: usize, references: &[Reference]) {
        self.first = self.first.min(sequence);
        self.last = self.last.max(sequence);
        for reference in references {
            let queue = self.queue_or_new((reference.endpoint.0, reference.priority), sequence);
            queue.count += 1;
            queue.last = sequence;
            queue.bytes += bytes as u64;
            queue.deadline = queue.deadline.zip(reference.deadline).map(|(so_far, deadline)| so_far.max(deadline.0));
            let mut longer = 0;
            if let IndexAt::Memory(index) = &mut queue.index {
                let before = index.bytes.len();
                index.push(sequence, at as u32);
                longer = (index.bytes.len() - before) as u64;
            }
            self.footer += longer;
            self.live += 1;
        }
    }

    fn queue_or_new(&mut self, key: Key, first: u64) -> &mut Queue {
        let place = match self.queues.binary_search_by_key(&key, |queue| queue.key) {
            Ok(place) => place,
            Err(place) => {
                let index = IndexAt::Memory(Box::default());
                let (settled, deadline) = (Settled::default(), Some(0));
                self.queues
                    .insert(place, Queue { key, count: 0, first, last: first, bytes: 0, deadline, index, settled });
                self.footer += OF_QUEUE;
                place
            }
        };
        &mut self.queues[place]
    }

    /// Settles one message of a queue; false when it was.
    pub(super) fn settle(&mut self, key: Key, ordinal: u32) -> bool {
        let Some(queue) = self.queue_mut(key) else { return false };
        let new = ordinal < queue.count && queue.settled.insert(ordinal, queue.count);
        self.live -= u64::from(new);
        new
    }

    /// Settles all of a queue; returns how many were not, and their range.
    pub(super) fn settle_all(&mut self, key: Key) -> Option<(u32, Range)> {
        let queue = self.queue_mut(key)?;
        let new = queue.settled.insert_all(queue.count);
        let range = Range { key, first: queue.first, last: queue.last };
        self.live -= u64::from(new);
        (new > 0).then_some((new, range))
    }

    /// Bytes of its live records, by the mean and at most: a record with several references counts for each.
    pub(super) fn live_bytes(&self) -> u64 {
        let live: u64 = self.queues.iter().map(Queue::live_bytes).sum();
        live.min(self.data_end)
    }

    /// Bytes that its footer takes at most, while it is written. Kept, as it is asked for several times a message.
    pub(super) fn footer_bound(&self) -> u64 {
        self.footer
    }

    /// The same, counted.
    #[cfg(test)]
    pub(super) fn footer_sum(&self) -> u64 {
        let queues = self.queues.iter().map(|queue| OF_QUEUE + queue.in_memory().map_or(0, <[u8]>::len) as u64);
        let sources = match &self.sources {
            Sources::Memory(names) => names.iter().map(|name| name.len() as u64 + OF_SOURCE).sum::<u64>(),
            Sources::Disk(_) => 0,
        };
        OF_FOOTER + queues.sum::<u64>() + sources
    }

    /// Says what the names of its sources are.
    pub(super) fn set_sources(&mut self, names: Vec<Arc<str>>) {
        self.footer += names.iter().map(|name| name.len() as u64 + OF_SOURCE).sum::<u64>();
        self.sources = Sources::Memory(Arc::new(names));
    }

    /// Adds the name of a source; its number. None: it has its names on the disk.
    pub(super) fn add_source(&mut self, name: &Arc<str>) -> Option<u32> {
        let Sources::Memory(names) = &mut self.sources else { return None };
        let number = names.len() as u32;
        Arc::make_mut(names).push(name.clone());
        self.footer += name.len() as u64 + OF_SOURCE;
        Some(number)
    }

    /// Forgets all sources but the first ones.
    pub(super) fn take_back_sources(&mut self, kept: usize) {
        let Sources::Memory(names) = &mut self.sources else { return };
        if names.len() > kept {
            let gone = Arc::make_mut(names).drain(kept..);
            self.footer -= gone.map(|name| name.len() as u64 + OF_SOURCE).sum::<u64>();
        }
    }

    pub(super) fn summary(&self, sources_at: u32, index_at: impl Fn(usize) -> u32) -> Summary {
        let queues = self.queues.iter().enumerate().map(|(n, queue)| QueueSummary {
            key: queue.key,
            count: queue.count,
            first: queue.first,
            last: queue.last,
            bytes: queue.bytes,
            deadline: queue.deadline,
            index_at: index_at(n),
        });
        Summary { sources_at, queues: queues.collect() }
    }
}
