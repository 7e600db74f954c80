//! The load, on the log and on a plain file.

use std::{fs::File, io::Write, path::Path, sync::Arc};

use bytes::Bytes;
use marram_core::{
    elapsed::Clocks,
    message::{Accepted, Message},
    time::UtcMillis,
};
use marram_store::log::{EndpointId, Entry, How, Log, Options, Recovery, Reference, Safety, Stored};

/// Bytes of a body.
pub(crate) const BODY: usize = 300;
/// 10 endpoints with 3 priorities.
pub(crate) const QUEUES: usize = 30;

/// A log with a writer, and with readers that settle.
pub(crate) struct Load {
    pub(crate) log: Log,
    endpoints: Vec<EndpointId>,
    /// Incompressible, as sensors' readings are not; the bodies of messages are parts of it.
    noise: Bytes,
    sent: u64,
    read_to: Vec<Option<u64>>,
    batch: Vec<Stored>,
}

impl Load {
    pub(crate) fn open(folder: &Path) -> (Self, Recovery) {
        let options = Options { max_bytes: 2 << 30, ..Options::default() };
        let clocks = Clocks { boot: [1; 16], since_boot: 1000, utc: UtcMillis(1_790_000_000_000), synchronised: true };
        let (mut log, recovery) = Log::open(folder, options, &clocks).expect("a log");
        let endpoints = (0..10).map(|n| log.endpoint(&format!("modules/m{n}/inputs/in"))).collect();
        let load = Self { log, endpoints, noise: noise(), sent: 0, read_to: vec![None; QUEUES], batch: Vec::new() };
        (load, recovery)
    }

    /// Appends a group.
    pub(crate) fn append(&mut self, group: usize, safety: Safety) {
        let source: Arc<str> = "/messages/modules/temperature/outputs/readings".into();
        let first = self.sent;
        let messages: Vec<Accepted> = (first..first + group as u64)
            .map(|number| Accepted {
                message: Arc::new(Message::new(self.noise.slice(number as usize % 997..number as usize % 997 + BODY))),
                source: source.clone(),
                sequence: (3 << 36) + number,
                enqueued: UtcMillis(1_790_000_000_000 + number),
            })
            .collect();
        let references: Vec<Reference> =
            (first..first + group as u64).map(|number| self.queue(number as usize)).collect();
        let entries: Vec<Entry<'_>> = messages
            .iter()
            .zip(&references)
            .map(|(message, reference)| Entry { message, references: std::slice::from_ref(reference) })
            .collect();
        self.log.append(&entries, safety).expect("room");
        self.sent += group as u64;
    }

    fn queue(&self, number: usize) -> Reference {
        let queue = number % QUEUES;
        Reference {
            endpoint: self.endpoints[queue / 3],
            priority: (queue % 3) as u8,
            deadline: None,
            max_attempts: None,
        }
    }

    /// Reads what is new in so many queues and settles it.
    pub(crate) fn settle(&mut self, queues: usize, max_bytes: usize) -> u64 {
        let first = self.sent as usize + QUEUES - queues.min(QUEUES);
        let mut settled = 0;
        for number in first..first + queues.min(QUEUES) {
            settled += self.settle_one(number % QUEUES, max_bytes);
        }
        settled
    }

    fn settle_one(&mut self, queue: usize, max_bytes: usize) -> u64 {
        let Reference { endpoint, priority, .. } = self.queue(queue);
        self.batch.clear();
        self.log.read(endpoint, priority, self.read_to[queue], max_bytes, &mut self.batch).expect("a reading");
        for stored in &self.batch {
            assert_eq!(stored.accepted.message.body.len(), BODY);
            self.log.settle(stored.place, How::Delivered);
        }
        self.read_to[queue] = self.batch.last().map(|stored| stored.place.sequence).or(self.read_to[queue]);
        self.batch.len() as u64
    }
}

/// A file that is appended to and synced: what no store can be cheaper than, by much.
pub(crate) struct Raw {
    file: File,
    bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn create(path: &Path) -> Self {
        Self { file: File::create(path).expect("a file"), bytes: noise().to_vec() }
    }

    pub(crate) fn append(&mut self, group: usize) {
        self.bytes.resize(group * BODY, 7);
        self.file.write_all(&self.bytes).expect("room");
        self.file.sync_data().expect("a sync");
    }
}

fn noise() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes = (0..1400).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    bytes.collect()
}
