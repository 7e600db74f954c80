//! A line of a log in the form that IoT Edge recommends, `<6> 2019-02-14 16:15:35.243 -08:00 text`, of which each part but the text
//! may be absent.

use crate::{ports::LogStream, time::UtcMillis};

/// Of lines that say no other: informational.
const DEFAULT_LEVEL: u8 = 6;

/// A line and what it says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'l> {
    /// When it was printed.
    pub time: UtcMillis,
    stream: LogStream,
    /// All of it.
    pub full: &'l str,
    /// Of syslog: 0 emergency to 7 debug.
    pub level: u8,
    own_time: Option<UtcMillis>,
    /// What is left without level and time.
    pub text: &'l str,
}

impl<'l> Line<'l> {
    /// Reads a line.
    #[must_use]
    pub fn read(time: UtcMillis, stream: LogStream, full: &'l str) -> Self {
        let (level, rest) = match level(full) {
            Some((level, rest)) => (level, rest),
            None => (DEFAULT_LEVEL, full),
        };
        let rest = rest.trim_start();
        let (own_time, text) = match own_time(rest) {
            Some((time, rest)) => (Some(time), rest.trim_start()),
            None => (None, rest),
        };
        Self { time, stream, full, level, own_time, text }
    }

    /// When it says that it was printed, else when it was; RFC 3339.
    pub(super) fn timestamp(&self) -> String {
        self.own_time.unwrap_or(self.time).to_string()
    }

    pub(super) fn stream(&self) -> &'static str {
        match self.stream {
            LogStream::Out => "stdout",
            LogStream::Err => "stderr",
        }
    }
}

fn level(text: &str) -> Option<(u8, &str)> {
    let rest = text.strip_prefix('<')?;
    let level = rest.chars().next()?.to_digit(10)?;
    let rest = rest.get(1..)?.strip_prefix('>')?;
    Some((u8::try_from(level).ok()?, rest))
}

/// `2019-02-14 16:15:35.243 -08:00`, and a blank after it.
fn own_time(text: &str) -> Option<(UtcMillis, &str)> {
    const LENGTH: usize = "2019-02-14 16:15:35.243 -08:00".len();
    let (time, rest) = text.split_at_checked(LENGTH)?;
    let (time, zone) = time.split_at_checked(LENGTH - " -08:00".len())?;
    let zone = zone.strip_prefix(' ')?;
    if !zone.starts_with(['+', '-']) || !time.contains('.') || !rest.starts_with(char::is_whitespace) {
        return None;
    }
    Some((UtcMillis::parse(&format!("{time}{zone}"))?, rest))
}
