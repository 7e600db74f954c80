//! Times as text: RFC 3339, in the Gregorian calendar of the years 1 to 9999.

use std::fmt;

use super::UtcMillis;

/// 9999-12-31T23:59:59.999Z, the last time that RFC 3339 can write. A clock beyond it is broken, and shows as this.
const LAST: u64 = 253_402_300_799_999;
const MILLIS_A_DAY: u64 = 86_400_000;
/// Days from 0000-03-01 to 1970-01-01. Years that begin in March have their leap day last.
const DAYS_TO_1970: i64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const DAYS_A_CYCLE: i64 = 146_097;

/// `2026-01-31T12:00:00Z`, with milliseconds where there are some.
impl fmt::Display for UtcMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.0.min(LAST);
        let (year, month, day) = date(i64::try_from(time / MILLIS_A_DAY).unwrap_or(0));
        let of_day = time % MILLIS_A_DAY;
        let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        match of_day % 1000 {
            0 => f.write_str("Z"),
            millis => write!(f, ".{millis:03}Z"),
        }
    }
}

impl UtcMillis {
    /// Reads `2026-01-31T12:00:00Z`, with or without parts of a second (finer ones than milliseconds are cut), with an
    /// offset as `+02:00`, or without a zone, which is UTC then: .NET writes so. None: it is no such time. What lies before
    /// 1970 is 1970.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (date, rest) = text.split_at_checked(10)?;
        let rest = rest.strip_prefix(['T', 't', ' '])?;
        let (time, rest) = rest.split_at_checked(8)?;
        let days = parse_date(date)?;
        let seconds = parse_time(time)?;
        let (millis, zone) = parse_fraction(rest)?;
        let offset = parse_zone(zone)?;
        let total = (days * 86_400 + seconds - offset) * 1000 + millis;
        Some(Self(u64::try_from(total).unwrap_or(0)))
    }
}

/// As text in JSON: `#[serde(with = "marram_core::time::as_text")]`.
pub mod as_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use super::UtcMillis;

    /// Writes RFC 3339, or null.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(time: &Option<UtcMillis>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(|time| time.to_string()).serialize(serializer)
    }

    /// Reads RFC 3339, or null.
    ///
    /// # Errors
    /// Neither of the two.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UtcMillis>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        UtcMillis::parse(&text).map(Some).ok_or_else(|| D::Error::custom(format!("`{text}` is not a time")))
    }
}

/// Year, month and day, so many days after 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_1970;
    let (cycle, day) = (days.div_euclid(DAYS_A_CYCLE), days.rem_euclid(DAYS_A_CYCLE));
    // Leap days so far in the cycle: each 4 years, not each 100, and the one at the end of 400.
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, five months have 153 days.
    let month = (5 * day + 2) / 153;
    let (year, day) = (cycle * 400 + year, day - (153 * month + 2) / 5 + 1);
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// Days from 1970-01-01, negative before.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (cycle, of_cycle) = (year.div_euclid(400), year.rem_euclid(400));
    let leap_days = of_cycle / 4 - of_cycle / 100;
    cycle * DAYS_A_CYCLE + 365 * of_cycle + leap_days + (153 * month + 2) / 5 + day - 1 - DAYS_TO_1970
}

fn parse_date(text: &str) -> Option<i64> {
    let [year, month, day] = numbers(text, '-', [4, 2, 2])?;
    let days = days(year, month, day);
    // A day that the month does not have comes back as one of the next.
    (year >= 1 && date(days) == (year, month, day)).then_some(days)
}

fn parse_time(text: &str) -> Option<i64> {
    let [hour, minute, second] = numbers(text, ':', [2, 2, 2])?;
    // 60: a leap second.
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Milliseconds, and what stands behind.
fn parse_fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, zone) = rest.split_at(end);
    let millis: String = digits.chars().chain("00".chars()).take(3).collect();
    Some((if digits.is_empty() { return None } else { millis.parse().ok()? }, zone))
}

/// Seconds ahead of UTC.
fn parse_zone(text: &str) -> Option<i64> {
    let sign = match text.get(..1) {
        None | Some("Z" | "z") => return (text.len() <= 1).then_some(0),
        Some("+") => 1,
        Some("-") => -1,
        Some(_) => return None,
    };
    let [hours, minutes] = numbers(text.get(1..)?, ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// Numbers of so many digits each.
fn numbers<const N: usize>(text: &str, between: char, digits: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(between);
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next()?;
        let fits = part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit());
        *number = fits.then(|| part.parse().ok())??;
    }
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_written_and_read_as_the_rfc_says() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_078_099_200_000, "2004-03-01T00:00:00Z"),
            (1_795_398_993_655, "2026-11-23T01:56:33.655Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (LAST, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(UtcMillis(millis).to_string(), text);
            assert_eq!(UtcMillis::parse(text), Some(UtcMillis(millis)), "{text}");
        }
        assert_eq!(UtcMillis(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn offsets_fine_fractions_and_a_missing_zone_are_understood() {
        for (text, millis) in [
            ("1970-01-01T01:00:00.5+01:00", 500),
            ("1969-12-31T23:30:01-00:30", 1000),
            ("1970-01-01T00:00:01.2345678Z", 1234),
            ("1970-01-01 00:00:01", 1000),
            ("1970-01-01t00:00:01z", 1000),
            ("0001-01-01T00:00:00", 0),
        ] {
            assert_eq!(UtcMillis::parse(text), Some(UtcMillis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "1970-01-01",
            "1970-01-01T00:00",
            "1970-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-00-01T00:00:00Z",
            "1970-01-00T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:61Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00ZZ",
            "1970-01-01T00:00:00+1:00",
            "1970-01-01T00:00:00+01:60",
            "+970-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "1970-01-01T00:00:0éZ",
            "é",
        ] {
            assert_eq!(UtcMillis::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis in 0..=LAST) {
            prop_assert_eq!(UtcMillis::parse(&UtcMillis(millis).to_string()), Some(UtcMillis(millis)));
        }

        #[test]
        fn nothing_written_makes_the_reader_panic(text in "\\PC{0,40}", tail in "[-+:.0-9TZé]{0,30}") {
            let _ = UtcMillis::parse(&text);
            let _ = UtcMillis::parse(&format!("1970-01-01T{tail}"));
        }
    }
}
