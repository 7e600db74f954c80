//! Reading files and standard input, never more than is useful.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use marram_core::manifest::MAX_MANIFEST_BYTES;

use crate::failure::{Code, Failure};

/// The name of standard input on the command line.
const STDIN: &str = "-";

/// The bytes of a file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?, limit)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_limit_is_refused_before_it_fills_the_memory() {
        assert_eq!(bounded(&b"1234"[..], 4).unwrap(), b"1234");
        assert!(bounded(io::repeat(0), 4).unwrap_err().to_string().contains("larger than 4 bytes"));
    }
}
