//! Reading files and standard input, never more than is useful.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use marram_core::manifest::MAX_MANIFEST_BYTES;
use rustix::fs::OFlags;

use crate::failure::{Code, Failure};

/// The name of standard input on the command line.
const STDIN: &str = "-";

/// The bytes of a file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?, limit)
}

/// As [`read_bounded`], of a regular file only: opening or reading anything else may wait for ever.
pub(crate) fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    bounded(open_regular(path)?, limit)
}

/// The first bytes of a regular file that has so many.
#[cfg(feature = "author")]
pub(crate) fn head_of_regular<const N: usize>(path: &Path) -> io::Result<[u8; N]> {
    let mut head = [0; N];
    open_regular(path)?.read_exact(&mut head)?;
    Ok(head)
}

fn open_regular(path: &Path) -> io::Result<File> {
    // A pipe would let us wait for its writer, a terminal would become ours.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

fn bounded(source: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Text of a file, or of standard input for `-`; at most as large as a manifest.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    let limit = MAX_MANIFEST_BYTES as u64;
    let stdin = path == Path::new(STDIN);
    let name = if stdin { "standard input".to_owned() } else { path.display().to_string() };
    let cannot = |why: String| Failure::new(Code::Failed, format!("cannot read {name}: {why}"));
    let bytes = if stdin { bounded(io::stdin().lock(), limit) } else { read_bounded(path, limit) };
    String::from_utf8(bytes.map_err(|error| cannot(error.to_string()))?).map_err(|_| cannot("it is not UTF-8".into()))
}

/// A file that is there is meant before a reference of the same name; what looks like a file's name is never looked for
/// in a registry.
pub(crate) fn is_component_file(subject: &str) -> bool {
    if subject.starts_with("oci:") {
        return false;
    }
    let path = Path::new(subject);
    subject.starts_with(['/', '.']) || path.extension().is_some_and(|extension| extension == "wasm") || path.is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_limit_is_refused_before_it_fills_the_memory() {
        assert_eq!(bounded(&b"1234"[..], 4).unwrap(), b"1234");
        assert!(bounded(io::repeat(0), 4).unwrap_err().to_string().contains("larger than 4 bytes"));
    }

    #[test]
    fn only_a_regular_file_is_read_where_a_file_is_watched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "text").unwrap();
        assert_eq!(read_regular(&path, 4).unwrap(), b"text");
        for odd in [folder.path(), Path::new("/dev/zero")] {
            assert!(read_regular(odd, 4).unwrap_err().to_string().contains("not a regular file"));
        }
    }

    #[test]
    fn what_looks_like_a_file_is_no_reference() {
        for file in ["a.wasm", "./a", "/a/b", "../x:1"] {
            assert!(is_component_file(file), "{file}");
        }
        for reference in ["oci:./a.wasm", "r.example/filter:1.2", "filter", "localhost:5000/a:b"] {
            assert!(!is_component_file(reference), "{reference}");
        }
    }
}
