//! A disk in memory that knows what has reached the medium and what has not, used to stop the folder at every operation:
//! by a killed process, by an error, by a loss of power with every state that it may leave behind.

use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
};

use super::*;

/// What happens at operation number `at`, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The operation fails, having done half of its work; the next ones succeed.
    Error {
        at: usize,
    },
    /// This one and all later ones fail.
    Dead {
        at: usize,
    },
}

#[derive(Debug, Clone, Default)]
struct File {
    bytes: Vec<u8>,
    synced: bool,
}

/// A change of the folder that a loss of power may still take back.
#[derive(Debug, Clone)]
enum Change {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Debug, Default, Clone)]
struct State {
    files: Vec<File>,
    /// What a process sees.
    names: BTreeMap<PathBuf, usize>,
    /// What the medium surely has.
    safe_names: BTreeMap<PathBuf, usize>,
    unsafe_changes: Vec<Change>,
    operations: usize,
}

#[derive(Debug, Clone)]
struct MemoryDisk {
    state: Arc<Mutex<State>>,
    fault: Fault,
}

impl MemoryDisk {
    fn new(state: State, fault: Fault) -> Self {
        Self { state: Arc::new(Mutex::new(State { operations: 0, ..state })), fault }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Counts a changing operation; an error when it is the one to fail.
    fn count(&self) -> io::Result<()> {
        let mut state = self.state();
        let number = state.operations;
        state.operations += 1;
        match self.fault {
            Fault::Error { at } if number == at => Err(Errno::NOSPC.into()),
            Fault::Dead { at } if number >= at => Err(Errno::IO.into()),
            _ => Ok(()),
        }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.count()?;
        let mut state = self.state();
        apply(&mut state.names, &change);
        state.unsafe_changes.push(change);
        Ok(())
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: &Change) {
    match change {
        Change::Create(path, file) => {
            names.insert(path.clone(), *file);
        }
        Change::Rename(from, to) => {
            if let Some(file) = names.remove(from) {
                names.insert(to.clone(), file);
            }
        }
        Change::Remove(path) => {
            names.remove(path);
        }
    }
}

impl Disk for MemoryDisk {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let state = self.state();
        let file = state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(state.files[*file].bytes.iter().copied().take(limit as usize).collect())
    }

    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = {
            let mut state = self.state();
            state.files.push(File::default());
            state.files.len() - 1
        };
        self.change(Change::Create(path.to_owned(), file))?;
        // Two operations, so that a torn write is a state of its own.
        for part in [bytes.len() / 2, bytes.len()] {
            self.count()?;
            self.state().files[file].bytes = bytes[..part].to_vec();
        }
        self.count()?;
        self.state().files[file].synced = true;
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if !self.state().names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if !self.state().names.contains_key(path) {
            return Ok(());
        }
        self.change(Change::Remove(path.to_owned()))
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        self.count()?;
        let mut state = self.state();
        state.safe_names = state.names.clone();
        state.unsafe_changes.clear();
        Ok(())
    }

    fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.state().names.keys().cloned().collect())
    }
}

/// Every disk that a loss of power may leave: any of the unsafe changes made it, in order, and a file that was not synced
/// is empty, torn, zeros or whole.
fn after_power_cut(state: &State) -> Vec<State> {
    let mut left = Vec::new();
    for subset in 0..1_u32 << state.unsafe_changes.len() {
        let mut names = state.safe_names.clone();
        for (number, change) in state.unsafe_changes.iter().enumerate() {
            if subset & (1 << number) != 0 {
                apply(&mut names, change);
            }
        }
        for damage in 0..4 {
            let mut files = state.files.clone();
            for file in files.iter_mut().filter(|file| !file.synced) {
                let len = file.bytes.len();
                match damage {
                    0 => file.bytes.clear(),
                    1 => file.bytes.truncate(len / 2),
                    2 => file.bytes.fill(0),
                    _ => {}
                }
                file.synced = true;
            }
            left.push(State { files, safe_names: names.clone(), names: names.clone(), ..State::default() });
        }
    }
    left
}

const NAME: &str = "deployment";
const OLDER: &[u8] = b"{\"version\": 1}";
const OLD: &[u8] = b"{\"version\": 2, \"modules\": {}}";
const NEW: &[u8] = b"{\"version\": 3}";

fn open(disk: &MemoryDisk) -> Folder {
    Folder::open_on("/documents".into(), Box::new(disk.clone())).unwrap()
}

/// States in which a write may find the folder, and the document in force then.
fn starts() -> Vec<(&'static str, State, Option<&'static [u8]>)> {
    let with = |documents: &[&[u8]]| {
        let disk = MemoryDisk::new(State::default(), Fault::None);
        let folder = open(&disk);
        for document in documents {
            folder.write(NAME, document).unwrap();
        }
        disk.state().clone()
    };
    let edited = |edit: &dyn Fn(&mut State, &Path)| {
        let mut state = with(&[OLDER, OLD]);
        edit(&mut state, Path::new("/documents/deployment.json"));
        state.safe_names = state.names.clone();
        state
    };
    vec![
        ("empty", with(&[]), None),
        ("one generation", with(&[OLD]), Some(OLD)),
        ("two generations", with(&[OLDER, OLD]), Some(OLD)),
        (
            "newest damaged",
            edited(&|state, newest| {
                let file = state.names[newest];
                state.files[file].bytes[70] ^= 1;
            }),
            Some(OLDER),
        ),
        (
            "newest missing",
            edited(&|state, newest| {
                state.names.remove(newest);
            }),
            Some(OLDER),
        ),
    ]
}

fn in_force(state: &State) -> Option<Vec<u8>> {
    let disk = MemoryDisk::new(state.clone(), Fault::None);
    bytes_of(&open(&disk), NAME)
}

/// Runs `act` with the fault at every operation in turn, until one run meets no fault.
fn at_every_operation(
    start: &State,
    fault: impl Fn(usize) -> Fault,
    mut act: impl FnMut(Folder, MemoryDisk, usize),
) -> usize {
    let opening = {
        let disk = MemoryDisk::new(start.clone(), Fault::None);
        open(&disk);
        disk.state().operations
    };
    for at in opening.. {
        let disk = MemoryDisk::new(start.clone(), fault(at));
        act(open(&disk), disk.clone(), at);
        if disk.state().operations <= at {
            return at - opening;
        }
    }
    unreachable!("a write ends")
}

#[test]
fn a_process_killed_at_any_operation_leaves_the_old_or_the_new_document() {
    for (case, start, old) in starts() {
        let operations = at_every_operation(
            &start,
            |at| Fault::Dead { at },
            |folder, disk, at| {
                let written = folder.write(NAME, NEW);
                let found = in_force(&disk.state());
                match written {
                    Ok(()) => assert_eq!(found.as_deref(), Some(NEW), "{case}, operation {at}"),
                    Err(_) => assert!(
                        found.as_deref() == old || found.as_deref() == Some(NEW),
                        "{case}, operation {at}: {found:?}"
                    ),
                }
            },
        );
        assert!(operations >= 6, "{case}: only {operations}"); // create, two writes, sync, rename, sync of the folder
    }
}

#[test]
fn a_loss_of_power_at_any_operation_leaves_the_old_or_the_new_document() {
    for (case, start, old) in starts() {
        at_every_operation(
            &start,
            |at| Fault::Dead { at },
            |folder, disk, at| {
                let written = folder.write(NAME, NEW);
                for left in after_power_cut(&disk.state()) {
                    let found = in_force(&left);
                    match written {
                        Ok(()) => assert_eq!(found.as_deref(), Some(NEW), "{case}, operation {at}: {left:?}"),
                        Err(_) => assert!(
                            found.as_deref() == old || found.as_deref() == Some(NEW),
                            "{case}, operation {at}: {found:?} in {left:?}"
                        ),
                    }
                }
            },
        );
    }
}

#[test]
fn one_failing_operation_leaves_the_old_document_in_force_and_the_next_write_succeeds() {
    for (case, start, old) in starts() {
        at_every_operation(
            &start,
            |at| Fault::Error { at },
            |folder, disk, at| {
                if let Err(error) = folder.write(NAME, NEW) {
                    assert_eq!(bytes_of(&folder, NAME).as_deref(), old, "{case}, operation {at}");
                    assert!(error.to_string().contains("deployment.json"), "{error}");
                    assert!(error.to_string().contains("free some space"), "{error}");
                    folder.write(NAME, NEW).unwrap();
                }

                for left in after_power_cut(&disk.state()) {
                    assert_eq!(in_force(&left).as_deref(), Some(NEW), "{case}, operation {at}");
                }
            },
        );
    }
}

#[test]
fn a_failed_write_leaves_no_unfinished_file_behind() {
    for (case, start, _) in starts() {
        at_every_operation(
            &start,
            |at| Fault::Error { at },
            |folder, disk, at| {
                let _ = folder.write(NAME, NEW);
                let names = disk.state().names.clone();
                assert!(
                    !names.keys().any(|path| path.to_string_lossy().ends_with(".tmp")),
                    "{case}, operation {at}: {names:?}"
                );
            },
        );
    }
}

#[test]
fn a_loss_of_power_while_removing_leaves_the_document_or_nothing() {
    for (case, start, old) in starts() {
        if case == "newest damaged" || case == "newest missing" {
            continue; // its older generation goes first, and then nothing good is left: that is what was asked for
        }
        at_every_operation(
            &start,
            |at| Fault::Dead { at },
            |folder, disk, at| {
                let removed = folder.remove(NAME);
                for left in after_power_cut(&disk.state()) {
                    let found = in_force(&left);
                    assert!(
                        found.is_none() || (removed.is_err() && found.as_deref() == old),
                        "{case}, operation {at}: {found:?}"
                    );
                }
            },
        );
    }
}

#[test]
fn writing_the_same_document_again_writes_no_file() {
    let (_, start, _) = starts().swap_remove(2);
    let disk = MemoryDisk::new(start, Fault::None);
    let files = disk.state().files.len();
    open(&disk).write(NAME, OLD).unwrap();
    assert_eq!(disk.state().files.len(), files);
}

#[test]
fn a_write_that_succeeds_after_a_dead_spell_is_safe_even_if_nothing_seems_to_change() {
    for (case, start, _) in starts() {
        at_every_operation(
            &start,
            |at| Fault::Dead { at },
            |folder, disk, at| {
                let _ = folder.write(NAME, NEW);
                // The same process goes on: nothing is opened again.
                let healed = MemoryDisk { state: disk.state.clone(), fault: Fault::None };
                let operations = disk.state().operations;
                let folder = Folder { path: folder.path, disk: Box::new(healed.clone()), turn: Mutex::new(()) };
                folder.write(NAME, NEW).unwrap();
                for left in after_power_cut(&healed.state()) {
                    assert_eq!(in_force(&left).as_deref(), Some(NEW), "{case}, operation {at}");
                }
                disk.state().operations = operations;
            },
        );
    }
}
