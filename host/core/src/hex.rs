//! Bytes as hex digits.

use std::fmt::Write as _;

/// `lead`, then two lower-case digits for each byte.
pub(crate) fn hex(lead: &str, bytes: &[u8]) -> String {
    bytes.iter().fold(lead.to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
