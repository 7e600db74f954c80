//! Which strings of a body IoT Edge's JSON library takes for a date and time (and so for undefined). Tells no time.

/// Whether a string has the form `yyyy-MM-ddTHH:mm:ss[.f{1,7}][Z|±HH[[:]mm]]`, with a day that exists.
pub(super) fn is_date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    // The library looks at strings of this length only.
    if !(19..=40).contains(&bytes.len()) || bytes[10] != b'T' {
        return false;
    }
    date(bytes).and_then(|()| time(&bytes[11..])).is_some_and(zone)
}

fn date(bytes: &[u8]) -> Option<()> {
    let year = number(&bytes[..4])?;
    let month = number(&bytes[5..7])?;
    let day = number(&bytes[8..10])?;
    let fits = year >= 1 && bytes[4] == b'-' && bytes[7] == b'-' && (1..=days(year, month)).contains(&day);
    fits.then_some(())
}

/// Days of a month; none for a month that does not exist.
fn days(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    }
}

/// Reads the time, midnight as 24:00:00 too; returns what follows.
fn time(bytes: &[u8]) -> Option<&[u8]> {
    let (hour, minute, second) = (number(&bytes[..2])?, number(&bytes[3..5])?, number(&bytes[6..8])?);
    let colons = bytes[2] == b':' && bytes[5] == b':';
    let midnight = hour == 24 && minute == 0 && second == 0;
    if !colons || !(hour < 24 || midnight) || minute > 59 || second > 59 {
        return None;
    }
    let rest = &bytes[8..];
    let Some((b'.', fraction)) = rest.split_first() else { return Some(rest) };
    let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let zero = fraction[..digits].iter().all(|digit| *digit == b'0');
    ((1..=7).contains(&digits) && (hour < 24 || zero)).then(|| &fraction[digits..])
}

fn zone(bytes: &[u8]) -> bool {
    match bytes {
        [] | [b'Z' | b'z'] => true,
        [b'+' | b'-', hours @ ..] if hours.len() >= 2 => {
            let (hours, minutes) = hours.split_at(2);
            let minutes = minutes.strip_prefix(b":").unwrap_or(minutes);
            number(hours).is_some() && (minutes.is_empty() || (minutes.len() == 2 && number(minutes).is_some()))
        }
        _ => false,
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + u32::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_and_time_is_told_from_other_strings() {
        for text in [
            "2017-03-09T00:00:00.000Z",
            "2017-03-09T00:00:00",
            "2017-03-09T23:59:59.1234567+01:00",
            "2017-03-09T23:59:59-0530",
            "2017-03-09T24:00:00z",
            "2020-02-29T12:00:00+02",
        ] {
            assert!(is_date_time(text), "{text}");
        }
        for text in [
            "",
            "2017-03-09",
            "2017-03-09 00:00:00",
            "2017-03-09T00:00:0",
            "2017-13-09T00:00:00",
            "2019-02-29T12:00:00",
            "2017-03-09T25:00:00",
            "2017-03-09T24:00:01",
            "2017-03-09T00:60:00",
            "2017-03-09T00:00:00.",
            "2017-03-09T00:00:00.12345678",
            "2017-03-09T00:00:00 ",
            "2017-03-09T00:00:00+1",
            "x017-03-09T00:00:00",
            "2017-03-0éT00:00:00",
            "0000-03-09T00:00:00",
        ] {
            assert!(!is_date_time(text), "{text}");
        }
    }
}
