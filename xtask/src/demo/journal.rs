//! Reads the journal of the embedded upstream as it grows: one JSON line a message, in files that follow each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Where we are in the journal.
pub(crate) struct Journal {
    folder: PathBuf,
    /// The file that is being read, and how many bytes of it were.
    at: (PathBuf, usize),
}

/// A message that went upstream.
pub(crate) struct Entry {
    /// For a person, on one line.
    pub(crate) shown: String,
    /// Its property `alert`.
    pub(crate) alert: String,
}

impl Journal {
    /// The journal in the folder `upstream` of a data folder; it need not exist yet.
    pub(crate) fn new(data: &Path) -> Self {
        Self { folder: data.join("upstream"), at: Default::default() }
    }

    /// What was written since the last call. A line without its end is left for the next one.
    pub(crate) fn read_on(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for file in self.files_from_here() {
            if file != self.at.0 {
                self.at = (file, 0);
            }
            // A file that was rotated away meanwhile has been read to its end, or will not be.
            let text = fs::read(&self.at.0).unwrap_or_default();
            let fresh = text.get(self.at.1..).unwrap_or_default();
            let whole = fresh.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            entries.extend(String::from_utf8_lossy(&fresh[..whole]).lines().map(Entry::read));
            self.at.1 += whole;
        }
        entries
    }

    /// Names sort by age.
    fn files_from_here(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl") && *path >= self.at.0);
        files.sort();
        files
    }
}

impl Entry {
    fn read(line: &str) -> Self {
        let message: Value = serde_json::from_str(line).unwrap_or_default();
        let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str).unwrap_or("?").to_owned();
        let (time, source, alert) = (text("/time"), text("/source"), text("/properties/alert"));
        let clock = time.get(11..21).unwrap_or(&time);
        let source = source.strip_prefix("/messages/modules/").unwrap_or(&source);
        let body = message.get("body").map(Value::to_string).unwrap_or_default();
        Self { shown: format!("  {clock}  {source}  {alert}  {body}"), alert }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write};

    use super::*;

    fn append(data: &Path, name: &str, text: &str) {
        fs::create_dir_all(data.join("upstream")).unwrap();
        let mut file = OpenOptions::new().create(true).append(true).open(data.join("upstream").join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn alerts(journal: &mut Journal) -> Vec<String> {
        journal.read_on().into_iter().map(|entry| entry.alert).collect()
    }

    #[test]
    fn a_line_is_read_once_and_only_when_it_is_whole() {
        let data = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(data.path());
        assert!(alerts(&mut journal).is_empty());
        append(data.path(), "journal-00000001.jsonl", "{\"properties\":{\"alert\":\"a\"}}\n{\"properties\"");
        assert_eq!(alerts(&mut journal), ["a"]);
        append(data.path(), "journal-00000001.jsonl", ":{\"alert\":\"b\"}}\n");
        assert_eq!(alerts(&mut journal), ["b"]);
    }

    #[test]
    fn reading_goes_on_in_the_next_file() {
        let data = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(data.path());
        append(data.path(), "journal-00000001.jsonl", "{\"properties\":{\"alert\":\"a\"}}\n");
        assert_eq!(alerts(&mut journal), ["a"]);
        append(data.path(), "journal-00000001.jsonl", "{\"properties\":{\"alert\":\"b\"}}\n");
        append(data.path(), "journal-00000002.jsonl", "{\"properties\":{\"alert\":\"c\"}}\n");
        assert_eq!(alerts(&mut journal), ["b", "c"]);
    }
}
