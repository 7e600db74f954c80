//! What modules print: kept in memory, bounded, and passed on to the host's own log.
//!
//! Not on flash: a chatty module would wear it out. The host's log goes where the owner sends it (journald, a file).

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use marram_core::{
    name::ModuleName,
    ports::LogStream,
    time::{Uptime, UtcMillis},
};

use crate::clock::Clock;

/// Bytes of log kept for each module: about 2,000 lines. Twice as much for 30 modules would be 15 MiB of a small device.
const MAX_BYTES: usize = 256 << 10;
/// What a line counts beside its text.
const LINE_OVERHEAD: usize = 32;
/// Lines a second that are passed on to the host's log; further ones are only kept. A flood must not fill a disk.
const FORWARD_PER_SECOND: u32 = 100;

/// One line that a module printed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogLine {
    /// When, by the device's clock.
    #[serde(rename = "timeMs")]
    pub time: UtcMillis,
    /// Standard output or error.
    pub stream: LogStream,
    /// The line without its end.
    pub text: String,
}

/// The last lines of one module, over restarts.
#[derive(Debug)]
pub(crate) struct LogBuffer {
    module: ModuleName,
    clock: Clock,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<LogLine>,
    bytes: usize,
    window: Uptime,
    forwarded: u32,
    withheld: u64,
}

impl LogBuffer {
    pub(crate) fn new(module: ModuleName, clock: Clock) -> Self {
        Self { module, clock, inner: Mutex::default() }
    }

    pub(crate) fn push(&self, stream: LogStream, text: &str) {
        let line = LogLine { time: self.clock.utc(), stream, text: text.to_owned() };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.keep(line);
        let verdict = inner.forward(self.clock.uptime());
        drop(inner);
        if let Some(withheld) = verdict {
            if withheld > 0 {
                tracing::info!(target: "module", module = %self.module, withheld, "lines not passed on; see `marram logs`");
            }
            tracing::info!(target: "module", module = %self.module, stream = name(stream), "{text}");
        }
    }

    /// The last `tail` lines (none = all kept), oldest first.
    pub(crate) fn tail(&self, tail: Option<usize>) -> Vec<LogLine> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = tail.map_or(0, |tail| inner.lines.len().saturating_sub(tail));
        inner.lines.iter().skip(skip).cloned().collect()
    }
}

impl Inner {
    fn keep(&mut self, line: LogLine) {
        self.bytes += line.text.len() + LINE_OVERHEAD;
        self.lines.push_back(line);
        while self.bytes > MAX_BYTES {
            let Some(old) = self.lines.pop_front() else { break };
            self.bytes -= old.text.len() + LINE_OVERHEAD;
        }
    }

    /// Some: pass it on, after saying how many were withheld.
    fn forward(&mut self, now: Uptime) -> Option<u64> {
        if now.since(self.window).as_secs() >= 1 {
            self.window = now;
            self.forwarded = 0;
        }
        if self.forwarded >= FORWARD_PER_SECOND {
            self.withheld += 1;
            return None;
        }
        self.forwarded += 1;
        Some(std::mem::take(&mut self.withheld))
    }
}

/// As in the control API.
fn name(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Out => "out",
        LogStream::Err => "err",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest_lines() {
        let buffer = LogBuffer::new(ModuleName::new("m").unwrap(), Clock::start());
        for n in 0..10_000 {
            buffer.push(LogStream::Out, &format!("line {n:0>100}"));
        }
        let lines = buffer.tail(None);
        assert!(lines.len() > 1000 && lines.len() < 2500, "{}", lines.len());
        assert!(lines.last().is_some_and(|line| line.text.ends_with("9999")));
        let last_two = buffer.tail(Some(2));
        assert_eq!(last_two.len(), 2);
        assert!(last_two[0].text.ends_with("9998"));
    }
}
