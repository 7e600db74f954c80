//! A disk in memory that knows what has reached the medium and what has not. It fails, tears, fills up, is killed and loses power.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use rustix::io::Errno;

use super::{
    super::disk::{Readable, SegmentFile, SegmentFolder},
    *,
};

/// What happens at changing operation number `at`, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    None,
    /// It fails, having done half of its work; the next ones succeed.
    Once {
        at: usize,
        with: Errno,
    },
    /// It and the next one fail.
    Twice {
        at: usize,
    },
    /// It fails, a name having changed all the same, and so does the next one.
    Done {
        at: usize,
    },
    /// This one, done by half, and all later ones fail.
    Dead {
        at: usize,
    },
}

#[derive(Debug, Clone, Default)]
struct File {
    /// What a process sees.
    seen: Vec<u8>,
    /// What the medium has.
    safe: Vec<u8>,
    /// Writes that a sync would make safe: place and bytes.
    unsafe_writes: Vec<(usize, Vec<u8>)>,
    /// It was made longer than the room that it was given.
    has_hole: bool,
}

#[derive(Debug, Clone)]
enum Change {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug, Clone, Default)]
struct State {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    safe_names: BTreeMap<String, usize>,
    unsafe_names: Vec<Change>,
    operations: usize,
    capacity: Option<u64>,
    no_more_files: bool,
    reads: usize,
    /// Numbers of the readings that fail, counted from 0.
    failing_reads: Range<usize>,
    /// Pages that cannot be read, by file.
    bad_pages: BTreeSet<(usize, usize)>,
}

#[derive(Clone)]
pub(crate) struct Sim {
    state: Arc<Mutex<State>>,
    fault: Arc<Mutex<Fault>>,
}

impl Sim {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), fault: Arc::new(Mutex::new(Fault::None)) }
    }

    pub(crate) fn failing(self, fault: Fault) -> Self {
        *self.fault.lock().unwrap() = fault;
        self.state().operations = 0;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn operations(&self) -> usize {
        self.state().operations
    }

    /// Bytes that all files together may take.
    pub(crate) fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// As with too many open files.
    pub(super) fn open_no_more(&self, no_more: bool) {
        self.state().no_more_files = no_more;
    }

    /// As while a controller is reset: the n-th readings from here on fail.
    pub(crate) fn fail_reads(&self, which: Range<usize>) {
        let mut state = self.state();
        state.reads = 0;
        state.failing_reads = which;
    }

    /// Readings since then.
    pub(super) fn reads(&self) -> usize {
        self.state().reads
    }

    /// A page of a file cannot be read any more.
    pub(super) fn spoil(&self, name: &str, page: usize) {
        let mut state = self.state();
        let file = state.names[name];
        state.bad_pages.insert((file, page));
    }

    pub(super) fn bytes(&self) -> u64 {
        let state = self.state();
        state.names.values().map(|file| state.files[*file].seen.len() as u64).sum()
    }

    pub(super) fn open(&self, options: Options, clocks: &Clocks) -> (Log, Recovery) {
        self.try_open(options, clocks).unwrap()
    }

    pub(super) fn try_open(&self, options: Options, clocks: &Clocks) -> Result<(Log, Recovery), OpenError> {
        Log::open_on(Path::new("/log"), Arc::new(self.clone()), options, clocks)
    }

    /// What a killed process leaves: the kernel has all that was written.
    pub(crate) fn killed(&self) -> Sim {
        let state = self.state().clone();
        Self::after(state)
    }

    /// A disk on which nothing fails, but for its bad pages.
    fn after(state: State) -> Self {
        let state = State { operations: 0, reads: 0, failing_reads: 0..0, ..state };
        Self { state: Arc::new(Mutex::new(state)), fault: Arc::new(Mutex::new(Fault::None)) }
    }

    /// What a loss of power leaves: of the writes and names that were not synced, any.
    pub(crate) fn without_power(&self, chance: &mut Chance) -> Sim {
        let mut state = self.state().clone();
        for file in &mut state.files {
            for (at, bytes) in std::mem::take(&mut file.unsafe_writes) {
                // By sectors: each is there or is not.
                for (n, sector) in bytes.chunks(512).enumerate() {
                    if chance.below(2) == 0 {
                        put(&mut file.safe, at + 512 * n, sector);
                    }
                }
            }
            file.seen = file.safe.clone();
        }
        lose_names(&mut state, chance);
        Self::after(state)
    }

    /// The same, and each sector is as it was at some moment since the last sync; in some losses most are the newest, or the oldest.
    pub(super) fn without_power_by_sectors(&self, chance: &mut Chance) -> Sim {
        let mut state = self.state().clone();
        let mostly = chance.below(4);
        for file in &mut state.files {
            let writes = std::mem::take(&mut file.unsafe_writes);
            let end = writes.iter().map(|(at, bytes)| at + bytes.len()).max().unwrap_or(0);
            for sector in (0..end).step_by(512) {
                let within = |(at, bytes)| part_within(at, bytes, sector..sector + 512);
                let parts: Vec<(usize, &[u8])> =
                    writes.iter().map(|(at, bytes)| (*at, &**bytes)).filter_map(within).collect();
                let kept = match mostly {
                    0 if chance.below(8) != 0 => parts.len(),
                    1 if chance.below(8) != 0 => 0,
                    _ => chance.below(parts.len() + 1),
                };
                parts[..kept].iter().for_each(|(at, bytes)| put(&mut file.safe, *at, bytes));
            }
            file.seen = file.safe.clone();
        }
        lose_names(&mut state, chance);
        Self::after(state)
    }

    /// Spares whose room is not set aside, though their length says so.
    pub(super) fn hollow_spares(&self) -> Vec<String> {
        let state = self.state();
        let hollow = state.names.iter().filter(|(name, file)| name.ends_with(".spare") && state.files[**file].has_hole);
        hollow.map(|(name, _)| name.clone()).collect()
    }

    /// The bytes of all files, by name.
    pub(crate) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].seen.clone())).collect()
    }

    /// A disk with these files.
    pub(super) fn with(contents: &BTreeMap<String, Vec<u8>>) -> Self {
        let sim = Self::new();
        {
            let mut state = sim.state();
            for (name, bytes) in contents {
                let number = state.files.len();
                state.files.push(File { seen: bytes.clone(), safe: bytes.clone(), ..File::default() });
                state.names.insert(name.clone(), number);
                state.safe_names.insert(name.clone(), number);
            }
        }
        sim
    }

    /// Counts an operation. An error: it is to fail, having done half of its work.
    fn count(&self) -> Result<(), Errno> {
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        match *self.fault.lock().unwrap() {
            Fault::Once { at, with } if number == at => Err(with),
            Fault::Dead { at } if number >= at => Err(Errno::IO),
            Fault::Twice { at } | Fault::Done { at } if number == at || number == at + 1 => Err(Errno::IO),
            _ => Ok(()),
        }
    }

    fn is_first_failure(&self) -> bool {
        let number = self.state().operations - 1;
        !matches!(*self.fault.lock().unwrap(), Fault::Dead { at } if number > at)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let counted = self.count();
        // Names change whole or not at all.
        let is_done = matches!(*self.fault.lock().unwrap(), Fault::Done { at } if self.state().operations == at + 1);
        if !is_done {
            counted?;
        }
        let mut state = self.state();
        apply(&mut state.names, &change);
        state.unsafe_names.push(change);
        drop(state);
        counted.map_err(io::Error::from)
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        Change::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Change::Remove(name) => {
            names.remove(name);
        }
    }
}

/// Of the changes of names that were not synced, some of the last are lost.
fn lose_names(state: &mut State, chance: &mut Chance) {
    let changes = std::mem::take(&mut state.unsafe_names);
    let count = chance.below(changes.len() + 1);
    for change in &changes[..count] {
        apply(&mut state.safe_names, change);
    }
    state.names = state.safe_names.clone();
}

/// What of a write lies within a range of its file.
fn part_within(at: usize, bytes: &[u8], range: Range<usize>) -> Option<(usize, &[u8])> {
    let (from, to) = (range.start.max(at), range.end.min(at + bytes.len()));
    (from < to).then(|| (from, &bytes[from - at..to - at]))
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

impl SegmentFolder for Sim {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        Ok(state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].seen.len() as u64)).collect())
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn SegmentFile>> {
        let (taken, capacity) = (self.bytes(), self.state().capacity);
        if capacity.is_some_and(|capacity| taken + len > capacity) {
            self.state().operations += 1;
            return Err(Errno::NOSPC.into());
        }
        let number = {
            let mut state = self.state();
            let zeros = vec![0; len as usize];
            state.files.push(File { seen: zeros.clone(), safe: zeros, ..File::default() });
            state.files.len() - 1
        };
        self.change(Change::Create(name.to_owned(), number))?;
        Ok(Arc::new(SimFile { sim: self.clone(), number }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>> {
        if self.state().no_more_files {
            return Err(Errno::MFILE.into());
        }
        let number = *self.state().names.get(name).ok_or(Errno::NOENT)?;
        Ok(Arc::new(SimFile { sim: self.clone(), number }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if !self.state().names.contains_key(from) {
            return Err(Errno::NOENT.into());
        }
        self.change(Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.state().names.contains_key(name) {
            return Ok(());
        }
        self.change(Change::Remove(name.to_owned()))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.count()?;
        let mut state = self.state();
        state.safe_names = state.names.clone();
        state.unsafe_names.clear();
        Ok(())
    }
}

struct SimFile {
    sim: Sim,
    number: usize,
}

impl Readable for SimFile {
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.sim.state();
        state.reads += 1;
        let pages = at as usize / 4096..=(at as usize + bytes.len().max(1) - 1) / 4096;
        if state.failing_reads.contains(&(state.reads - 1))
            || state.bad_pages.range((self.number, *pages.start())..=(self.number, *pages.end())).next().is_some()
        {
            return Err(Errno::IO.into());
        }
        let from = state.files[self.number].seen.get(at as usize..).unwrap_or_default();
        let count = from.len().min(bytes.len());
        bytes[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }
}

impl SegmentFile for SimFile {
    fn read_anew(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        self.read_at(bytes, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let counted = self.sim.count();
        let bytes = match counted {
            Ok(()) => bytes,
            Err(_) if self.sim.is_first_failure() => &bytes[..bytes.len() / 2],
            Err(_) => &[],
        };
        let mut state = self.sim.state();
        let file = &mut state.files[self.number];
        put(&mut file.seen, at as usize, bytes);
        file.unsafe_writes.push((at as usize, bytes.to_vec()));
        counted.map_err(io::Error::from)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (taken, capacity) = (self.sim.bytes(), self.sim.state().capacity);
        self.sim.count()?;
        let grows = len.saturating_sub(self.sim.state().files[self.number].seen.len() as u64);
        if grows > 0 && capacity.is_some_and(|capacity| taken + grows > capacity) {
            return Err(Errno::NOSPC.into());
        }
        let mut state = self.sim.state();
        let file = &mut state.files[self.number];
        file.has_hole |= len as usize > file.seen.len();
        file.seen.resize(len as usize, 0);
        // What is cut off is cut off on the medium at once: the harder case.
        file.safe.resize(len as usize, 0);
        for (at, bytes) in &mut file.unsafe_writes {
            bytes.truncate((len as usize).saturating_sub(*at));
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let counted = self.sim.count();
        let mut state = self.sim.state();
        let file = &mut state.files[self.number];
        let writes = std::mem::take(&mut file.unsafe_writes);
        match counted {
            Ok(()) => writes.iter().for_each(|(at, bytes)| put(&mut file.safe, *at, bytes)),
            // As Linux does: what could not be written is called clean and is never tried again.
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
