//! How a document looks on disk: its file's name and its file's content. Pure: no file is touched here.
//!
//! A file is JSON that a person can read, and it has exactly one form for a name and its bytes:
//!
//! ```text
//! {"name":"twin-temp","checksum":"sha256:…64 hex digits, of the document's bytes…","document":
//! {"limit": 30}
//! }
//! ```
//!
//! So reading needs no JSON parser and leaves nothing unchecked: the file is good if, and only if, it equals what would
//! be written for its bytes.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// Longest document name: `twin-` and a module's 128 bytes, with some room for other prefixes.
pub(crate) const MAX_NAME_BYTES: usize = 160;

/// Longest readable file name without its suffix. File systems end at 255 bytes; suffixes take 9.
const MAX_STEM_BYTES: usize = 200;

const TAIL: &[u8] = b"\n}\n";

/// The file's content.
pub(crate) fn encode(name: &str, document: &[u8]) -> Vec<u8> {
    let head = head(name, document);
    [head.as_bytes(), document, TAIL].concat()
}

/// The document in a file's content; the error says how it is damaged.
pub(crate) fn decode(name: &str, mut file: Vec<u8>) -> Result<Vec<u8>, String> {
    let head_len = head(name, b"").len();
    let Some(end) = file.len().checked_sub(TAIL.len()).filter(|end| *end >= head_len) else {
        return Err(format!("it is cut off after {} bytes", file.len()));
    };
    if !file.starts_with(format!("{{\"name\":\"{name}\",").as_bytes()) {
        return Err(format!("it does not begin as document `{name}`"));
    }
    if &file[end..] != TAIL {
        return Err("its end is missing".to_owned());
    }
    if !file.starts_with(head(name, &file[head_len..end]).as_bytes()) {
        return Err("its checksum does not match".to_owned());
    }
    file.truncate(end);
    file.drain(..head_len);
    Ok(file)
}

fn head(name: &str, document: &[u8]) -> String {
    format!("{{\"name\":\"{name}\",\"checksum\":\"sha256:{}\",\"document\":\n", sha256_hex(document))
}

/// Checks a document's name: 1 to 160 bytes of module names' alphabet, so it has no path separator and nothing that
/// JSON would escape.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!("a document's name has 1 to {MAX_NAME_BYTES} bytes, this one has {}", name.len()));
    }
    match name.chars().find(|c| !(c.is_ascii_alphanumeric() || "-._~+%:=@".contains(*c))) {
        Some(c) => Err(format!("{c:?} may not stand in a document's name")),
        None => Ok(()),
    }
}

/// The file's name without suffix. Different names never share a file, not even where a file system ignores case: lower
/// case, digits and `- _ .` stand for themselves, all else (and a leading dot) is `%` and two hex digits. A name that
/// would get too long is cut, and `%-` with its SHA-256 keeps it apart.
pub(crate) fn file_stem(name: &str) -> String {
    let mut stem = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => stem.push(char::from(byte)),
            b'.' if at > 0 => stem.push('.'),
            _ => push_hex(&mut stem, "%", byte),
        }
    }
    if stem.len() > MAX_STEM_BYTES {
        stem.truncate(MAX_STEM_BYTES / 2); // every character is ASCII
        stem.push_str("%-");
        stem.push_str(&sha256_hex(name.as_bytes()));
    }
    stem
}

/// The name whose [`file_stem`] this is; none where that was cut, or for any other text.
pub(crate) fn name_of(stem: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(stem.len());
    let mut rest = stem.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|name| file_stem(name) == stem)
}

fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        push_hex(&mut text, "", *byte);
        text
    })
}

fn push_hex(text: &mut String, prefix: &str, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(text, "{prefix}{byte:02x}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_is_json_that_a_person_can_read() {
        let file = encode("twin-temp", br#"{"limit": 30}"#);
        let json: serde_json::Value = serde_json::from_slice(&file).unwrap();
        assert_eq!(json["document"]["limit"], 30);
        assert_eq!(json["name"], "twin-temp");
        assert_eq!(std::str::from_utf8(&file).unwrap().lines().nth(1), Some(r#"{"limit": 30}"#));
    }

    #[test]
    fn a_copy_under_another_name_is_not_that_document() {
        let file = encode("twin-a", b"{}");
        assert_eq!(decode("twin-b", file.clone()), Err("it does not begin as document `twin-b`".into()));
        assert_eq!(decode("twin-a", file), Ok(b"{}".to_vec()));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let file = encode("twin-temp", br#"{"limit": 30, "unit": "C"}"#);
        for end in 0..file.len() {
            assert!(decode("twin-temp", file[..end].to_vec()).is_err(), "cut at {end}");
        }
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut flipped = file.clone();
                flipped[at] ^= 1 << bit;
                assert!(decode("twin-temp", flipped).is_err(), "bit {bit} of byte {at}");
            }
        }
        assert!(decode("twin-temp", [&file[..], b" "].concat()).is_err());
    }

    #[test]
    fn ordinary_names_stay_readable() {
        assert_eq!(file_stem("deployment"), "deployment");
        assert_eq!(file_stem("twin-temp_1.b"), "twin-temp_1.b");
        assert_eq!(file_stem("twin-Temp:x"), "twin-%54emp%3ax");
        assert_eq!(file_stem(".."), "%2e.");
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_folder() {
        for bad in ["", "../x", "a/b", "/etc/passwd", "a\0b", "a\\b", "é", "a\"b", "a\nb", &"x".repeat(161)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["deployment", "twin-a%b:c=d@e+f~g.h", "..", &"x".repeat(160)] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }

    fn names() -> impl Strategy<Value = String> {
        prop_oneof![
            proptest::string::string_regex("[A-Za-z0-9._~+%:=@-]{1,160}").unwrap(),
            // Close neighbours: case, escapes of escapes, suffixes.
            proptest::string::string_regex("(twin-)?[aA]?(%41|%2541)?(\\.json)?(\\.1)?(\\.tmp)?[xX:=]{1,3}").unwrap(),
            proptest::string::string_regex("[A-C:]{150,160}").unwrap(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn what_is_encoded_decodes_to_the_same_bytes(name in names(), document: Vec<u8>) {
            prop_assert_eq!(decode(&name, encode(&name, &document)), Ok(document));
        }

        #[test]
        fn different_names_have_different_files_even_without_case(a in names(), b in names()) {
            prop_assert_eq!(a == b, file_stem(&a).to_lowercase() == file_stem(&b).to_lowercase());
        }

        #[test]
        fn a_file_name_fits_every_file_system(name in names()) {
            let stem = file_stem(&name);
            prop_assert!(stem.len() + ".json.tmp".len() <= 255);
            prop_assert!(!stem.starts_with('.') && !stem.contains('/') && stem.is_ascii());
        }

        #[test]
        fn arbitrary_bytes_are_never_a_document_nor_a_panic(file: Vec<u8>) {
            prop_assert!(decode("twin-a", file).is_err());
        }
    }
}
