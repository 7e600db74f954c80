//! Reads the journal of the embedded upstream as it grows: whole lines only, each once, over all its files.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::wait::wait_for;

/// What went upstream so far.
pub struct Journal {
    folder: PathBuf,
    /// The file that is being read, and how many of its bytes were.
    at: (PathBuf, u64),
    entries: Vec<Value>,
}

impl Journal {
    /// The journal of a data folder; it need not exist yet.
    #[must_use]
    pub fn of(data: &Path) -> Self {
        Self { folder: data.join("upstream"), at: Default::default(), entries: Vec::new() }
    }

    /// What modules have reported upstream, in the same form.
    #[must_use]
    pub fn of_twins(data: &Path) -> Self {
        Self { folder: data.join("upstream/twins"), at: Default::default(), entries: Vec::new() }
    }

    /// All messages so far, in order.
    ///
    /// # Panics
    /// A whole line is not JSON.
    pub fn read(&mut self) -> &[Value] {
        for file in self.files() {
            if file < self.at.0 {
                continue;
            }
            if file != self.at.0 {
                self.at = (file, 0);
            }
            let fresh = read_from(&self.at.0, self.at.1).unwrap_or_default();
            let whole = fresh.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in fresh[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let entry = serde_json::from_slice(line);
                self.entries.push(entry.unwrap_or_else(|err| panic!("{err}: {}", String::from_utf8_lossy(line))));
            }
            self.at.1 += whole as u64;
        }
        &self.entries
    }

    /// Waits until the messages so far are as wanted; returns what `look` found in them.
    ///
    /// # Panics
    /// They are not in time.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut(&[Value]) -> Option<T>) -> T {
        wait_for(what, || look(self.read()))
    }

    /// Waits for this many messages more than there are now; returns those.
    ///
    /// # Panics
    /// They do not come in time.
    #[track_caller]
    pub fn wait_for_more(&mut self, count: usize) -> Vec<Value> {
        let before = self.read().len();
        let what = format!("{count} more messages upstream than {before}");
        self.wait_for(&what, |all| (all.len() >= before + count).then(|| all[before..].to_vec()))
    }

    /// The bytes of its files, oldest first.
    #[must_use]
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        self.files().iter().map(|file| fs::read(file).expect("a file of the journal")).collect()
    }

    /// Names sort by age.
    fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        files.sort();
        files
    }
}

fn read_from(path: &Path, offset: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A text at a JSON pointer; empty when there is none.
#[must_use]
pub fn text<'a>(entry: &'a Value, pointer: &str) -> &'a str {
    entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The sender's sequence of each message.
#[must_use]
pub fn sequences(entries: &[Value]) -> Vec<u64> {
    entries.iter().map(|entry| entry["sequence"].as_u64().unwrap_or_default()).collect()
}

/// The number that `misbehaving`'s flood wrote on each message.
#[must_use]
pub fn flood_numbers(entries: &[Value]) -> Vec<u64> {
    entries.iter().map(|entry| text(entry, "/properties/n").parse().unwrap_or_default()).collect()
}
