//! `Content-Range` (RFC 9110, 14.4): whether the part that came is the one that was asked for.

/// True: the part begins at `offset` and goes to the end of `size` bytes. An unknown whole (`*`) is no objection.
pub(crate) fn is_rest(content_range: &str, offset: u64, size: u64) -> bool {
    let rest = |text: &str| {
        let (unit, rest) = text.trim().split_once(' ')?;
        let (part, whole) = rest.trim().split_once('/')?;
        let (first, last) = part.split_once('-')?;
        let (first, last): (u64, u64) = (number(first)?, number(last)?);
        let fits = whole == "*" || number(whole)? == size;
        Some(unit.eq_ignore_ascii_case("bytes") && first == offset && last.checked_add(1)? == size && fits)
    };
    rest(content_range).unwrap_or(false)
}

/// Digits only: `+5` is no number here.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_rest_of_the_right_blob_will_do() {
        assert!(is_rest("bytes 10-99/100", 10, 100));
        assert!(is_rest("bytes 10-99/*", 10, 100));
        for bad in [
            "bytes 9-99/100",
            "bytes 11-99/100",
            "bytes 10-98/100",
            "bytes 10-99/101",
            "bytes 10-100/100",
            "bytes */100",
            "items 10-99/100",
            "bytes 10-99",
            "bytes=10-99/100",
            "10-99/100",
            "",
            "bytes +10-99/100",
            "bytes 10-18446744073709551615/100",
            "bytes -10-99/100",
        ] {
            assert!(!is_rest(bad, 10, 100), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic(text in "\\PC{0,40}", near in "bytes [0-9*/-]{0,60}") {
            is_rest(&text, 10, 100);
            is_rest(&near, 0, 0);
        }
    }
}
