//! The journal's files: their names, their order, and how many whole lines they hold. Only reads.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::de::IgnoredAny;

/// Block of the searches below: large enough that a line is found in one or two reads.
const BLOCK: usize = 64 * 1024;

/// Name of file number `number`: `journal-00000001.jsonl`. Above 99,999,999 it gets longer.
pub(crate) fn file_name(number: u64) -> String {
    format!("journal-{number:08}.jsonl")
}

fn number_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let number = name.strip_prefix("journal-")?.strip_suffix(".jsonl")?.parse().ok()?;
    (file_name(number) == name).then_some(number) // `journal-+1.jsonl` is not ours
}

/// The journal's files with their numbers, oldest first. Other files in the folder are left alone.
pub(crate) fn numbered_files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    let mut files: Vec<_> = paths.into_iter().filter_map(|path| Some((number_of(&path)?, path))).collect();
    files.sort();
    Ok(files)
}

/// The files of a journal, oldest first. Their lines in this order are the messages in the order of publishing; the last
/// one may be growing, so that what follows its last line feed is not yet a line.
///
/// # Errors
/// The folder cannot be read.
pub fn journal_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(numbered_files(folder)?.into_iter().map(|(_, path)| path).collect())
}

/// Number of lines, for the log.
pub(crate) fn count_lines(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut block = vec![0; BLOCK];
    let mut lines = 0;
    loop {
        match file.read(&mut block)? {
            0 => return Ok(lines),
            read => lines += block[..read].iter().filter(|byte| **byte == b'\n').count() as u64,
        }
    }
}

/// Length of a file up to the end of its last whole line: it ends in a line feed and holds a JSON object. A killed process
/// leaves a line without its end, a loss of power may leave zeros as well.
pub(crate) fn whole_len(file: &File, len: u64) -> io::Result<u64> {
    let end = after_feed_before(file, len)?;
    let start = after_feed_before(file, end.saturating_sub(1))?;
    let mut last = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
    file.read_exact_at(&mut last, start)?;
    if end == 0 || is_line(&last) {
        return Ok(end);
    }
    whole_len_by_reading_all(file)
}

/// The slow way, for damage: one pass, so that no content makes it slower than its length.
fn whole_len_by_reading_all(file: &File) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(BLOCK, OffsetReader { file, at: 0 });
    let (mut line, mut read, mut whole) = (Vec::new(), 0, 0);
    while reader.read_until(b'\n', &mut line)? > 0 {
        read += line.len() as u64;
        if is_line(&line) {
            whole = read;
        }
        line.clear();
    }
    Ok(whole)
}

fn is_line(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'{')
        && bytes.last() == Some(&b'\n')
        && std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

/// The position after the last line feed before `end`, or 0.
fn after_feed_before(file: &File, mut end: u64) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let part = &mut block[..usize::try_from(end - start).map_err(io::Error::other)?];
        file.read_exact_at(part, start)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Reads by position: the file's own cursor is not touched.
struct OffsetReader<'a> {
    file: &'a File,
    at: u64,
}

impl Read for OffsetReader<'_> {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(block, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(content: &[u8], whole: usize) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, content).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(whole_len(&file, content.len() as u64).unwrap(), whole as u64, "{:?}", content.escape_ascii());
    }

    #[test]
    fn a_torn_tail_at_any_byte_is_not_part_of_the_whole_lines() {
        let lines = b"{\"a\":1}\n{\"bc\":\"x\"}\n{}\n";
        for cut in 0..=lines.len() {
            let whole = lines[..cut].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            check(&lines[..cut], whole);
        }
    }

    #[test]
    fn what_a_loss_of_power_leaves_is_not_a_line() {
        check(b"{\"a\":1}\n\0\0\0\0", 8);
        check(b"{\"a\":1}\n\0\0{}\n", 8);
        check(b"{\"a\":1}\n\n\n\n", 8);
        check(b"\0\0\0\n", 0);
        check(b"{\"a\":1}\n{\"b\n{\"c\":1}\n{\"d", 20);
        check(&[b"{\"a\":1}\n".as_slice(), &vec![b'\n'; 300_000]].concat(), 8);
    }

    #[test]
    fn lines_longer_than_a_block_are_found() {
        let long = format!("{{\"a\":\"{}\"}}\n", "x".repeat(3 * BLOCK));
        check(format!("{{}}\n{long}").as_bytes(), 3 + long.len());
        check(format!("{{}}\n{}", &long[..long.len() - 1]).as_bytes(), 3);
        check(&long.as_bytes()[..2 * BLOCK], 0);
    }

    #[test]
    fn only_the_journals_own_names_count_and_they_sort_by_number() {
        let folder = tempfile::tempdir().unwrap();
        for name in [file_name(100_000_000), file_name(2), file_name(10)] {
            fs::write(folder.path().join(name), "{}\n").unwrap();
        }
        for other in ["journal-1.jsonl", "journal-+0000001.jsonl", "journal-00000001.json", "notes", "journal-x.jsonl"]
        {
            fs::write(folder.path().join(other), "").unwrap();
        }
        let names: Vec<_> = numbered_files(folder.path()).unwrap().into_iter().map(|(number, _)| number).collect();
        assert_eq!(names, [2, 10, 100_000_000]);
        assert_eq!(count_lines(&journal_files(folder.path()).unwrap()[0]).unwrap(), 1);
    }
}
