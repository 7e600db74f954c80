//! [`Log`]: the messages that must outlive the host, of all queues, in one segmented log.
//!
//! ```text
//! GENERATION.log      a segment; 16 hex digits
//! GENERATION.spare    room that is set aside: for the next segment, and for settlements when the disk is full
//! GENERATION.damaged  a segment whose two headers are unreadable, kept for a person
//! ```
//!
//! A message is stored once, with a reference for each of its endpoints. Settlements and attempts are records of the same stream; they are
//! never synced alone. A segment begins with a checkpoint (names of endpoints, what is settled, attempts), and ends, when it is full,
//! with an index by queue and a summary. So an opening reads the last segment and the summaries of the others, and
//! memory holds summaries, not messages. A segment whose messages are all settled gives its room back at once; few live ones among many
//! dead ones are copied together. The form of the bytes is in `format.rs` and `record.rs`, the reasons are in `docs/store.md`.
//!
//! No clock, no task, no lock: one owner calls, each call blocks on the disk and returns. One process a folder: see
//! [`crate::lock_data_dir`].

mod append;
mod checkpoint;
mod compact;
mod dead;
mod deferred;
pub(crate) mod disk;
mod expire;
mod files;
mod format;
mod index;
mod medium;
mod opening;
mod pending;
mod port;
mod read;
mod reclaim;
mod record;
mod recover;
mod rotate;
mod scan;
mod segment;
mod settle;
mod spares;
#[cfg(test)]
pub(crate) mod tests;
mod types;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use marram_core::elapsed::{Clocks, Elapsed, Stamp};

pub use self::{
    dead::{DEAD_LETTERS, Removed, Replay},
    expire::{Expired, Letters},
    read::ReadError,
    types::{
        AppendError, Damage, Death, EndpointId, EndpointUsage, Entry, How, Loss, OpenError, Options, Place, QueueUsage,
        Recovery, Reference, Safety, Stored, Torn, Usage,
    },
};
use self::{
    deferred::Deferred,
    disk::{RealFolder, SegmentFolder},
    files::Files,
    index::Finder,
    pending::Pending,
    rotate::Active,
    segment::Segment,
    spares::Spare,
};

/// Endpoint and priority: a queue.
pub(crate) type Key = (u32, u8);

/// The message log of a host.
pub struct Log {
    path: PathBuf,
    folder: Arc<dyn SegmentFolder>,
    options: Options,
    salt: u64,
    next_generation: u64,
    next_sequence: u64,
    /// Full segments with messages left, in the order of their messages.
    segments: Vec<Segment>,
    /// The one that is written. None: before the first write, and after a failure.
    active: Option<Active>,
    spares: Vec<Spare>,
    /// A spare has been named or a segment removed since the names were last safe.
    names_dirty: bool,
    endpoints: Endpoints,
    /// Endpoints whose names may go when nothing is left for them.
    removed: Vec<u32>,
    queues: BTreeMap<Key, QueueState>,
    /// Of messages that are not settled, by queue and sequence.
    attempts: BTreeMap<(Key, u64), u32>,
    pending: Pending,
    deferred: Deferred,
    /// Settlements of messages that have become other ones (dead letters, and back), and not yet safe ones: written once those are.
    held: Pending,
    /// Endpoints of messages that were settled and, their marks being lost, are not any more.
    revived: BTreeSet<EndpointId>,
    /// A full segment has no message left: its room is to be given back.
    has_empty: bool,
    /// Segments without messages that go when the next one has begun: until then only they say what is settled, and the names.
    obsolete: Vec<(u64, u64)>,
    /// Copies of which the disk does not know yet that they replace what they were made of.
    unsaid_copies: BTreeSet<u64>,
    /// Names of files that must be gone before anything is written.
    strays: Vec<String>,
    files: Files,
    /// For records on their way to the disk; kept to spare allocations.
    buffer: Vec<u8>,
    stamp: Stamp,
    damage: Vec<Damage>,
    settled: [u64; How::COUNT],
}

/// What is in memory of a queue beside its parts in the segments.
#[derive(Default)]
struct QueueState {
    len: u64,
    /// Found lost, and not told yet.
    lost: u64,
    reader: Option<Walk>,
    settler: Option<Walk>,
}

/// A place in the index of a queue in one segment.
struct Walk {
    generation: u64,
    /// Of a full segment; that of the active one grows and is asked for each time.
    index: Option<Arc<[u8]>>,
    finder: Finder,
}

/// The names of endpoints.
#[derive(Default)]
struct Endpoints {
    names: BTreeMap<u32, Arc<str>>,
    numbers: BTreeMap<Arc<str>, u32>,
    next: u32,
    /// Not yet on the disk.
    new: Vec<u32>,
}

impl Endpoints {
    fn insert(&mut self, number: u32, name: Arc<str>) {
        self.next = self.next.max(number.saturating_add(1));
        self.numbers.insert(name.clone(), number);
        self.names.insert(number, name);
    }

    fn remove(&mut self, number: u32) {
        if let Some(name) = self.names.remove(&number) {
            self.numbers.remove(&name);
        }
        self.new.retain(|new| *new != number);
    }
}

impl Log {
    /// Opens the log in a folder, makes it (owner-only) when there is none, and brings it into order after a crash. Damage is no error:
    /// what can be read is in force, and [`Recovery`] says what was lost.
    ///
    /// # Errors
    /// The folder cannot be read or written, the log is of a newer version, or the options make no sense.
    pub fn open(path: impl AsRef<Path>, options: Options, clocks: &Clocks) -> Result<(Self, Recovery), OpenError> {
        let path = path.as_ref();
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        options.check()?;
        let folder = RealFolder::make(path).map_err(io)?;
        Self::open_on(path, Arc::new(folder), options, clocks)
    }

    /// The number of an endpoint; a name that is new gets one. The name is on the disk when a message for it is.
    pub fn endpoint(&mut self, name: &str) -> EndpointId {
        if let Some(number) = self.endpoints.numbers.get(name).copied() {
            self.removed.retain(|removed| *removed != number);
            return EndpointId(number);
        }
        let number = self.endpoints.next;
        self.endpoints.insert(number, name.into());
        self.endpoints.new.push(number);
        EndpointId(number)
    }

    /// All endpoints with messages or with a name in the log.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointUsage> {
        let mut all: BTreeMap<u32, EndpointUsage> = BTreeMap::new();
        for (number, name) in &self.endpoints.names {
            all.insert(*number, EndpointUsage { id: EndpointId(*number), name: name.clone(), queues: Vec::new() });
        }
        for (key, state) in self.queues.iter().filter(|(_, state)| state.len > 0) {
            if let Some(usage) = all.get_mut(&key.0) {
                usage.queues.push(self.queue_usage(*key, state));
            }
        }
        all.into_values().collect()
    }

    /// The queues of one endpoint that are not empty.
    #[must_use]
    pub fn usage_of(&self, EndpointId(number): EndpointId) -> Vec<QueueUsage> {
        let queues = self.queues.range((number, 0)..=(number, u8::MAX)).filter(|(_, state)| state.len > 0);
        queues.map(|(key, state)| self.queue_usage(*key, state)).collect()
    }

    fn queue_usage(&self, key: Key, state: &QueueState) -> QueueUsage {
        QueueUsage { priority: key.1, messages: state.len, bytes: self.live_bytes_of(key) }
    }

    /// What the log takes, and what was settled since it was opened.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            disk_bytes: self.disk_bytes(),
            max_bytes: self.options.max_bytes,
            segments: self.segments.len() + usize::from(self.active.is_some()),
            spares: self.spares.len(),
            references: self.queues.values().map(|state| state.len).sum(),
            settled: self.settled,
        }
    }

    /// Notes the clocks, which go to the disk with the next write: after a loss of power, elapsed time goes on from here. Once a minute
    /// is enough.
    pub fn stamp(&mut self, clocks: &Clocks) -> Elapsed {
        let elapsed = self.elapsed(clocks);
        self.stamp = Stamp { elapsed, clocks: *clocks };
        self.pending.stamp = true;
        elapsed
    }

    /// The moment that the clocks show, in this log's elapsed time; deadlines are such moments.
    #[must_use]
    pub fn elapsed(&self, clocks: &Clocks) -> Elapsed {
        self.stamp.at(clocks)
    }

    /// Damage that was found since the last call, by readings and copyings; that of the opening is in [`Recovery`].
    pub fn take_damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }

    /// Messages of a queue that were found lost since the last call.
    pub fn take_lost(&mut self, endpoint: EndpointId, priority: u8) -> u64 {
        let state = self.queues.get_mut(&endpoint.key(priority));
        state.map_or(0, |state| std::mem::take(&mut state.lost))
    }

    /// Endpoints of which messages that were settled wait again since the last call: an index was made again without a record that is
    /// lost, and its marks tell nothing any more.
    pub fn take_revived(&mut self) -> Vec<EndpointId> {
        std::mem::take(&mut self.revived).into_iter().collect()
    }

    /// Sequence of the next message.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    fn all_segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().chain(self.active.as_ref().map(|active| &active.segment))
    }

    fn disk_bytes(&self) -> u64 {
        let segments: u64 = self.all_segments().map(|segment| segment.len).sum();
        let obsolete: u64 = self.obsolete.iter().map(|(_, len)| len).sum();
        segments + obsolete + self.spares.iter().map(|spare| spare.len).sum::<u64>()
    }

    /// The segment that holds, or held, a message: its place among the full ones, or their number for the active one.
    fn locate(&self, sequence: u64) -> Option<usize> {
        if let Some(active) = &self.active
            && active.segment.spans(sequence)
        {
            return Some(self.segments.len());
        }
        let place = self.segments.partition_point(|segment| segment.last < sequence);
        self.segments.get(place).is_some_and(|segment| segment.spans(sequence)).then_some(place)
    }

    fn segment(&self, place: usize) -> Option<&Segment> {
        self.segments.get(place).or_else(|| self.active.as_ref().map(|active| &active.segment))
    }

    fn segment_mut(&mut self, place: usize) -> Option<&mut Segment> {
        match self.segments.get_mut(place) {
            Some(segment) => Some(segment),
            None => self.active.as_mut().map(|active| &mut active.segment),
        }
    }

    fn report(&mut self, damage: Damage) {
        tracing::error!("the message log is damaged: {damage}");
        if self.damage.len() < MAX_REPORTED {
            self.damage.push(damage);
        }
    }
}

/// Damage that is kept for [`Log::take_damage`]; the host's log has all of it. A disk that is worse is beyond lists.
const MAX_REPORTED: usize = 256;

fn file_name(generation: u64) -> String {
    format!("{generation:016x}.log")
}

fn spare_name(generation: u64) -> String {
    format!("{generation:016x}.spare")
}
