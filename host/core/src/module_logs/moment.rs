//! A time as `since` and `until` write it.

use std::time::Duration;

use serde_json::Value;

use crate::time::UtcMillis;

/// A time, or so long before now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// By the device's clock.
    At(UtcMillis),
    /// Ago.
    Ago(Duration),
}

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const UNITS: [(&str, u64); 21] = [
    ("s", 1),
    ("sec", 1),
    ("secs", 1),
    ("second", 1),
    ("seconds", 1),
    ("m", MINUTE),
    ("min", MINUTE),
    ("mins", MINUTE),
    ("minute", MINUTE),
    ("minutes", MINUTE),
    ("h", HOUR),
    ("hr", HOUR),
    ("hrs", HOUR),
    ("hour", HOUR),
    ("hours", HOUR),
    ("d", DAY),
    ("day", DAY),
    ("days", DAY),
    ("w", 7 * DAY),
    ("week", 7 * DAY),
    ("weeks", 7 * DAY),
];

impl Moment {
    pub(super) const EXPECTED: &'static str =
        "a duration as `90m` or `2 days 3 hours`, a time as `2026-01-31T12:00:00Z`, or seconds since 1970";

    /// Reads one; a number is one of seconds since 1970.
    pub(super) fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Number(seconds) => Some(Self::seconds(seconds.as_u64()?)),
            Value::String(text) => Self::parse(text.trim()),
            _ => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(time) = UtcMillis::parse(text) {
            return Some(Self::At(time));
        }
        match text.parse() {
            Ok(seconds) => Some(Self::seconds(seconds)),
            Err(_) => duration(text).map(Self::Ago),
        }
    }

    fn seconds(seconds: u64) -> Self {
        Self::At(UtcMillis(seconds.saturating_mul(1000)))
    }

    pub(super) fn at(self, now: UtcMillis) -> UtcMillis {
        match self {
            Self::At(time) => time,
            Self::Ago(ago) => UtcMillis(now.0.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))),
        }
    }
}

/// `90m`, `1 day`, `2 days 3 hours 2 minutes`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim_start();
    let mut seconds = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, length) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(length)?)?;
        rest = after.trim_start();
    }
    Some(Duration::from_secs(seconds))
}
