//! SHA-256 content digests, the only kind that is accepted. OCI registers `sha512` too; nobody publishes components by it.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// `sha256:` and 64 lower-case hexadecimal digits, parsed. Its [`Digest::hex`] is safe as a file name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Reads `sha256:…`.
    ///
    /// # Errors
    /// Another algorithm, another length, or a character that is not a lower-case hexadecimal digit.
    pub fn parse(text: &str) -> Result<Self, BadDigest> {
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| BadDigest::Form(shorten(text)))?;
        if algorithm != "sha256" {
            return Err(BadDigest::Algorithm(shorten(algorithm)));
        }
        parse_hex(hex).map(Self).ok_or_else(|| BadDigest::Form(shorten(text)))
    }

    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
            text
        })
    }
}

fn parse_hex(hex: &str) -> Option<[u8; 32]> {
    let digits = hex.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Keeps a quoted text from filling a log line.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDigest {
    /// The algorithm that was named.
    #[error("digests by `{0}` are not supported, only sha256")]
    Algorithm(String),
    /// The text.
    #[error("`{0}` is not a digest (`sha256:` and 64 lower-case hexadecimal digits)")]
    Form(String),
}

/// Computes a digest piece by piece.
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest of no bytes, from FIPS 180-4's test vectors.
    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_is_written_as_it_is_read() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(Digest::parse(EMPTY).unwrap(), Digest::of(b""));
        assert_eq!(Hasher::new().finish(), Digest::of(b""));
    }

    #[test]
    fn only_lower_case_sha256_of_the_right_length_is_a_digest() {
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        for bad in ["", "sha256", "sha256:", "sha256:../../etc/passwd", &EMPTY[..70], &upper, &format!("{EMPTY}0")] {
            assert!(matches!(Digest::parse(bad), Err(BadDigest::Form(_))), "{bad}");
        }
        assert!(matches!(Digest::parse("sha512:00"), Err(BadDigest::Algorithm(_))));
    }
}
