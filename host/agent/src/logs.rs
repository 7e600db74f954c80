//! What modules print: kept in memory, bounded, and passed on to the host's own log.
//!
//! Not on flash: a chatty module would wear it out. The host's log goes where the owner sends it (journald, a file).

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use marram_core::{
    name::ModuleName,
    ports::LogStream,
    time::{Uptime, UtcMillis},
};
use tokio::{sync::watch, time::Instant};

use crate::clock::Clock;

/// Bytes of log kept for each module: about 2,000 lines. Twice as much for 30 modules would be 15 MiB of a small device.
const MAX_BYTES: usize = 256 << 10;
/// What a line counts beside its text.
const LINE_OVERHEAD: usize = size_of::<LogLine>();
/// Lines a second that are passed on to the host's log; further ones are only kept. A flood must not fill a disk.
const FORWARD_PER_SECOND: u32 = 100;

/// One line that a module printed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogLine {
    /// Its number: the first line of a module has 1, each further one its successor's, so a gap is a line that is not kept
    /// any more. They begin anew with the host, and when the module was out of the deployment.
    pub n: u64,
    /// When, by the device's clock.
    #[serde(rename = "timeMs")]
    pub time: UtcMillis,
    /// Standard output or error.
    pub stream: LogStream,
    /// The line without its end.
    pub text: String,
}

/// Which lines are wanted; all that are kept by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogQuery {
    /// Only the last so many.
    pub tail: Option<usize>,
    /// Only those with a higher number; all, when the log does not reach that number: then it began anew.
    pub after: u64,
    /// Only those of this time or later.
    pub since: UtcMillis,
    /// How long to wait until there is one. Zero: not at all.
    pub wait: Duration,
}

/// The last lines of one module, over restarts.
#[derive(Debug)]
pub(crate) struct LogBuffer {
    module: ModuleName,
    clock: Clock,
    inner: Mutex<Inner>,
    /// Wakes those who wait for a line.
    printed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: VecDeque<LogLine>,
    /// Number of the newest line.
    newest: u64,
    bytes: usize,
    window: Uptime,
    forwarded: u32,
    withheld: u64,
}

impl LogBuffer {
    pub(crate) fn new(module: ModuleName, clock: Clock) -> Self {
        Self { module, clock, inner: Mutex::default(), printed: watch::Sender::default() }
    }

    pub(crate) fn push(&self, stream: LogStream, text: &str) {
        let (time, own) = (self.clock.utc(), text.to_owned());
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.keep(time, stream, own);
        let verdict = inner.forward(self.clock.uptime());
        drop(inner);
        self.printed.send_replace(());
        if let Some(withheld) = verdict {
            if withheld > 0 {
                tracing::info!(target: "module", module = %self.module, withheld, "lines not passed on; see `marram logs`");
            }
            tracing::info!(target: "module", module = %self.module, stream = name(stream), "{text}");
        }
    }

    /// All lines, oldest first.
    pub(crate) fn kept(&self) -> Vec<LogLine> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).select(&LogQuery::default())
    }

    /// The wanted lines, oldest first. Waits for one as long as the query says; none when none has come.
    pub(crate) async fn lines(&self, query: &LogQuery) -> Vec<LogLine> {
        let deadline = Instant::now() + query.wait;
        let mut printed = self.printed.subscribe();
        loop {
            let lines = self.inner.lock().unwrap_or_else(PoisonError::into_inner).select(query);
            if !lines.is_empty() || query.wait.is_zero() {
                return lines;
            }
            // What was printed since the subscription counts as a change: nothing is missed.
            if tokio::time::timeout_at(deadline, printed.changed()).await.is_err() {
                return lines;
            }
        }
    }
}

impl Inner {
    fn keep(&mut self, time: UtcMillis, stream: LogStream, text: String) {
        self.newest += 1;
        self.bytes += text.len() + LINE_OVERHEAD;
        self.lines.push_back(LogLine { n: self.newest, time, stream, text });
        while self.bytes > MAX_BYTES {
            let Some(old) = self.lines.pop_front() else { break };
            self.bytes -= old.text.len() + LINE_OVERHEAD;
        }
    }

    fn select(&self, query: &LogQuery) -> Vec<LogLine> {
        let after = if query.after > self.newest { 0 } else { query.after };
        let first = self.lines.partition_point(|line| line.n <= after);
        // Not by bisection: the clock may have been set back.
        let wanted = || self.lines.range(first..).filter(|line| line.time >= query.since);
        let skip = query.tail.map_or(0, |tail| wanted().count().saturating_sub(tail));
        wanted().skip(skip).cloned().collect()
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
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn buffer() -> Arc<LogBuffer> {
        Arc::new(LogBuffer::new(ModuleName::new("m").unwrap(), Clock::start()))
    }

    fn numbers(lines: &[LogLine]) -> Vec<u64> {
        lines.iter().map(|line| line.n).collect()
    }

    #[tokio::test]
    async fn the_log_is_bounded_and_keeps_the_newest_lines() {
        let buffer = buffer();
        for n in 0..10_000 {
            buffer.push(LogStream::Out, &format!("line {n:0>100}"));
        }
        let lines = buffer.lines(&LogQuery::default()).await;
        assert!(lines.len() > 1000 && lines.len() < 2500, "{}", lines.len());
        assert!(lines.last().is_some_and(|line| line.text.ends_with("9999")));
        let last_two = buffer.lines(&LogQuery { tail: Some(2), ..LogQuery::default() }).await;
        assert_eq!(numbers(&last_two), [9_999, 10_000]);
        assert!(last_two[0].text.ends_with("9998"));
        // Who has read up to line 3 sees by the number how many are gone.
        let rest = buffer.lines(&LogQuery { after: 3, wait: LONG, ..LogQuery::default() }).await;
        assert_eq!(rest, lines);
        assert!(rest[0].n > 4);
    }

    #[tokio::test]
    async fn only_lines_after_a_number_and_since_a_time_are_given() {
        let buffer = buffer();
        for (time, text) in [(10, "a"), (30, "b"), (20, "c"), (40, "d")] {
            buffer.inner.lock().unwrap().keep(UtcMillis(time), LogStream::Out, text.into());
        }
        let table = [
            (LogQuery { after: 2, ..LogQuery::default() }, vec![3, 4]),
            (LogQuery { after: 4, ..LogQuery::default() }, vec![]),
            (LogQuery { after: 5, ..LogQuery::default() }, vec![1, 2, 3, 4]),
            (LogQuery { since: UtcMillis(30), ..LogQuery::default() }, vec![2, 4]),
            (LogQuery { since: UtcMillis(20), tail: Some(2), ..LogQuery::default() }, vec![3, 4]),
            (LogQuery { since: UtcMillis(41), ..LogQuery::default() }, vec![]),
            (LogQuery { tail: Some(0), ..LogQuery::default() }, vec![]),
        ];
        for (query, expected) in table {
            assert_eq!(numbers(&buffer.lines(&query).await), expected, "{query:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_the_next_line_or_with_its_time() {
        let buffer = buffer();
        buffer.push(LogStream::Out, "old");
        let query = LogQuery { after: 1, wait: LONG, ..LogQuery::default() };
        let start = Instant::now();
        assert!(buffer.lines(&query).await.is_empty());
        assert_eq!(start.elapsed(), LONG);

        let start = Instant::now();
        let (waiting, printer) = (buffer.clone(), buffer.clone());
        let answer = tokio::spawn(async move { waiting.lines(&query).await });
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(7)).await;
            printer.push(LogStream::Err, "new");
        });
        assert_eq!(numbers(&answer.await.unwrap()), [2]);
        assert_eq!(start.elapsed(), Duration::from_secs(7));
    }
}
