//! The disk of a simulated host: its documents in two generations, as the store keeps them, and its modules' state. It fails as it is told,
//! for a while; and a document may be damaged when the host is killed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use marram_core::{
    name::ModuleName,
    ports::{DocumentError, Documents, State, States, StoredDocument},
    state::{StateError, Write},
};

use crate::{fate::Dice, world::World};

/// How writes fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no room. Nothing has changed.
    Full,
    /// An error of input and output. Nothing has changed.
    Io,
    /// What was written cannot be synced, and perhaps not be taken back: after a kill it may be there.
    Sync,
    /// A third of all writes end in an error.
    Flaky,
}

impl Fault {
    fn words(self) -> &'static str {
        match self {
            Self::Full => "no space left",
            Self::Io | Self::Flaky => "input/output error",
            Self::Sync => "cannot sync: input/output error",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Full => "a write on a full disk",
            Self::Io => "a write that fails",
            Self::Sync => "a sync that fails",
            Self::Flaky => "a single write that fails",
        }
    }
}

/// What is on it.
#[derive(Debug)]
pub(crate) struct Disk {
    seed: u64,
    pub(crate) fault: Option<Fault>,
    documents: BTreeMap<String, Document>,
    /// By module.
    states: BTreeMap<ModuleName, Entries>,
    /// Kills of the host.
    kills: u64,
    /// Documents whose last write failed since the host has started.
    behind: BTreeSet<String>,
    /// What was read from a previous generation, and is to be told.
    pub(crate) to_say: Vec<String>,
}

/// A document in its generations.
#[derive(Debug, Default)]
struct Document {
    newest: Option<Vec<u8>>,
    previous: Option<Vec<u8>>,
    is_damaged: bool,
    /// What was written last, and neither synced nor surely taken back.
    in_doubt: Option<Vec<u8>>,
}

/// Values of a module's state, by bucket and key.
type Entries = BTreeMap<(Box<str>, Box<str>), Bytes>;

impl Document {
    fn keep(&mut self, bytes: &[u8]) {
        self.in_doubt = None;
        if !self.is_damaged {
            if self.newest.as_deref() == Some(bytes) {
                return;
            }
            self.previous = self.newest.take().or(self.previous.take());
        }
        (self.newest, self.is_damaged) = (Some(bytes.into()), false);
    }

    fn in_force(&self) -> Option<&[u8]> {
        if self.is_damaged { self.previous.as_deref() } else { self.newest.as_deref() }
    }
}

impl Disk {
    /// An empty one.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            fault: None,
            documents: BTreeMap::new(),
            states: BTreeMap::new(),
            kills: 0,
            behind: BTreeSet::new(),
            to_say: Vec::new(),
        }
    }

    /// Whether a write of this fails.
    fn failure(&self, name: &str, bytes: &[u8]) -> Option<Fault> {
        // By what is written: when that is, and how often something is tried again, may depend on the order of tasks.
        let dice = || Dice::new(self.seed, &format!("{name} {}", String::from_utf8_lossy(bytes)));
        self.fault.filter(|fault| *fault != Fault::Flaky || dice().below(3) == 0)
    }

    /// What a document holds for those who read it now.
    pub(crate) fn in_force(&self, name: &str) -> Option<&[u8]> {
        self.documents.get(name).and_then(Document::in_force)
    }

    /// The host was killed. Returns the documents that hold what the host was told they do not.
    pub(crate) fn is_cut_off(&mut self) -> Vec<String> {
        self.kills += 1;
        let (seed, kills) = (self.seed, self.kills);
        let is_kept = |name: &str| Dice::new(seed, &format!("kill {kills}, {name}")).below(2) == 0;
        let mut kept = Vec::new();
        for (name, document) in &mut self.documents {
            if let Some(bytes) = document.in_doubt.take().filter(|_| is_kept(name)) {
                document.keep(&bytes);
                kept.push(name.clone());
            }
        }
        kept
    }

    /// The newest generation of a document cannot be read any more. False: it is the only one, and left alone.
    pub(crate) fn damage(&mut self, name: &str) -> bool {
        let document = self.documents.get_mut(name).filter(|document| document.previous.is_some());
        document.is_some_and(|document| !std::mem::replace(&mut document.is_damaged, true))
    }

    /// What a document that is damaged held before.
    pub(crate) fn damaged(&self, name: &str) -> Option<&[u8]> {
        self.documents.get(name).filter(|document| document.is_damaged)?.newest.as_deref()
    }

    /// Whether a document lacks what the host knew when it ended.
    pub(crate) fn take_behind(&mut self, name: &str) -> bool {
        self.behind.remove(name)
    }

    fn entries(&mut self, module: &ModuleName) -> &mut Entries {
        self.states.entry(module.clone()).or_default()
    }
}

impl Documents for World {
    fn read(&self, name: &str) -> Result<Option<StoredDocument>, DocumentError> {
        let mut inner = self.lock();
        let kills = inner.disk.kills;
        let Some(document) = inner.disk.documents.get(name) else { return Ok(None) };
        let Some(bytes) = document.in_force() else { return Ok(None) };
        let bytes = bytes.to_vec();
        let recovered = document.is_damaged.then(|| format!("{name} was damaged at kill {kills}"));
        if let Some(reason) = &recovered {
            inner.seen.note("a document read from its previous generation");
            inner.disk.to_say.push(reason.clone());
        }
        Ok(Some(StoredDocument { bytes, recovered }))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DocumentError> {
        let mut inner = self.lock();
        if inner.dead {
            return Err(DocumentError::Failed("the host is dead".into()));
        }
        if let Some(fault) = inner.disk.failure(name, bytes) {
            inner.seen.note(fault.kind());
            inner.disk.behind.insert(name.into());
            if fault == Fault::Sync {
                inner.disk.documents.entry(name.into()).or_default().in_doubt = Some(bytes.into());
            }
            return Err(DocumentError::Failed(fault.words().into()));
        }
        inner.disk.behind.remove(name);
        let document = inner.disk.documents.entry(name.into()).or_default();
        document.keep(bytes);
        if name == "deployment" {
            inner.is_stored(bytes);
        }
        Ok(())
    }

    fn names(&self, prefix: &str) -> Result<Vec<String>, DocumentError> {
        let inner = self.lock();
        let all = inner.disk.documents.iter().filter(|(_, document)| document.in_force().is_some());
        Ok(all.map(|(name, _)| name).filter(|name| name.starts_with(prefix)).cloned().collect())
    }

    fn remove(&self, name: &str) -> Result<(), DocumentError> {
        let mut inner = self.lock();
        if inner.dead {
            return Err(DocumentError::Failed("the host is dead".into()));
        }
        if let Some(fault) = inner.disk.fault.filter(|fault| matches!(fault, Fault::Io | Fault::Sync)) {
            return Err(DocumentError::Failed(fault.words().into()));
        }
        inner.disk.documents.remove(name);
        Ok(())
    }
}

/// What no kill takes away.
impl States for World {
    fn open(&self, module: &ModuleName) -> Result<Box<dyn State>, StateError> {
        Ok(Box::new(Kept { world: self.clone(), module: module.clone() }))
    }

    fn remove(&self, module: &ModuleName) -> Result<(), StateError> {
        self.lock().disk.states.remove(module);
        Ok(())
    }
}

/// The state of one module: only the host's own entries are in it.
struct Kept {
    world: World,
    module: ModuleName,
}

impl State for Kept {
    fn get(&self, bucket: &str, key: &str) -> Result<Option<Bytes>, StateError> {
        Ok(self.world.lock().disk.entries(&self.module).get(&(bucket.into(), key.into())).cloned())
    }

    fn keys(&self, _: &str, _: &str, _: Option<&str>, _: usize) -> Vec<Box<str>> {
        Vec::new()
    }

    fn write(&mut self, writes: &[Write]) -> Result<(), StateError> {
        let mut inner = self.world.lock();
        if inner.dead {
            return Err(StateError::Store("the host is dead".into()));
        }
        let values: Vec<u8> = writes.iter().filter_map(|write| write.value.clone()).flatten().collect();
        if let Some(fault) = inner.disk.failure(self.module.as_str(), &values) {
            inner.seen.note("a write of a module's state that fails");
            return Err(StateError::Store(fault.words().into()));
        }
        let entries = inner.disk.entries(&self.module);
        for write in writes {
            let (key, value) = ((write.bucket.clone(), write.key.clone()), write.value.clone());
            match value {
                Some(value) => drop(entries.insert(key, value)),
                None => drop(entries.remove(&key)),
            }
        }
        inner.beats.stored(self.module.as_str());
        Ok(())
    }
}
