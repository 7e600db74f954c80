//! The host's own log: structured lines on standard error, or above the view on a terminal.
//!
//! Tasks never wait for whoever reads the log: lines go through a bounded buffer to a thread of their own. A reader that
//! does not keep up loses lines, and is told how many.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use marram_agent::Agent;
use tokio::sync::oneshot;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::view::View;
use crate::{
    args::{LogFormat, LogLevel, Run},
    colour::{self, Paint},
    failure::{Code, Failure},
    output::plain,
};

/// Bytes of lines that wait for their reader: some thousand lines. More would only make a stuck reader's backlog older.
const MAX_WAITING_BYTES: usize = 1 << 20;
/// How long the last lines may take at the end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where words for people go while the host runs.
pub(super) struct Console {
    sink: Arc<Sink>,
    view: Option<View>,
    running: Mutex<Option<Running>>,
}

/// The view's thread; dropping the sender asks it to end.
struct Running {
    stop: oneshot::Sender<()>,
    ended: mpsc::Receiver<()>,
}

/// Starts logging as the arguments say.
pub(super) fn start(args: &Run) -> Result<Console, Failure> {
    let filter = filter(args.log_level)?;
    let sink = Arc::new(Sink::default());
    let view = View::wanted(args.plain);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).log_internal_errors(false);
    let format = args.log_format.unwrap_or(if is_journal() { LogFormat::Journal } else { LogFormat::Text });
    let set = match format {
        // JSON escapes control characters by itself.
        LogFormat::Json => builder.json().flatten_event(true).with_writer(sink.clone()).try_init(),
        LogFormat::Text => {
            builder.with_writer(Arc::new(Cleaned { sink: sink.clone(), coloured: colour::err() })).try_init()
        }
        LogFormat::Journal => {
            let plain = tracing_subscriber::fmt::format().without_time().with_level(false).with_ansi(false);
            builder
                .event_format(Prioritised(plain))
                .with_writer(Arc::new(Cleaned { sink: sink.clone(), coloured: false }))
                .try_init()
        }
    };
    set.map_err(|error| Failure::new(Code::Failed, format!("cannot start the log: {error}")))?;
    // With the view on the same terminal, the lines stand above it; otherwise they have a stream of their own.
    if view.is_none() || !io::stderr().is_terminal() {
        let pump = sink.clone();
        thread::Builder::new()
            .name("marram-log".into())
            .spawn(move || pump.pump())
            .map_err(|error| Failure::new(Code::Failed, format!("cannot start the log: {error}")))?;
    }
    Ok(Console { sink, view, running: Mutex::default() })
}

/// Whether standard error leads to systemd's journal, as `systemd.exec(5)` says how to tell.
fn is_journal() -> bool {
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Lines with the priority of `syslog(3)` in front: `<4>…` is a warning.
struct Prioritised<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn filter(level: Option<LogLevel>) -> Result<EnvFilter, Failure> {
    let text = match level {
        Some(LogLevel::Error) => "error".to_owned(),
        Some(LogLevel::Warn) => "warn".to_owned(),
        Some(LogLevel::Info) => "info".to_owned(),
        Some(LogLevel::Debug) => "debug".to_owned(),
        Some(LogLevel::Trace) => "trace".to_owned(),
        None => std::env::var("MARRAM_LOG").ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "info".to_owned()),
    };
    EnvFilter::try_new(&text).map_err(|error| {
        Failure::new(Code::Usage, format!("MARRAM_LOG: cannot read the filter `{text}`: {error}"))
            .hint("write a level, or levels by target: `info,marram_registry=debug,module=off`")
    })
}

impl Console {
    pub(super) fn has_view(&self) -> bool {
        self.view.is_some()
    }

    /// Shows the view from now on, if there is one.
    pub(super) fn show(&self, agent: Arc<Agent>) {
        let Some(view) = self.view else { return };
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = mpsc::channel();
        let (sink, runtime) = (self.sink.clone(), tokio::runtime::Handle::current());
        let thread = thread::Builder::new().name("marram-view".into()).spawn(move || {
            // A defect of the view is no reason for a log without words.
            let shown = AssertUnwindSafe(|| view.run(&agent, &sink, &runtime, stopped));
            let fell = catch_unwind(shown).is_err();
            drop(end);
            if fell {
                sink.pump();
            }
        });
        match thread {
            Ok(_) => *self.lock() = Some(Running { stop, ended }),
            Err(error) => tracing::error!(%error, "cannot show the view"),
        }
    }

    /// Ends the view and brings the last lines out. Waits a moment at the most: a terminal on hold must not keep a host.
    pub(super) fn close(&self) {
        if let Some(running) = self.lock().take() {
            drop(running.stop);
            // It never sends: disconnected says that its thread has ended.
            if running.ended.recv_timeout(LAST_LINES) == Err(mpsc::RecvTimeoutError::Timeout) {
                return self.sink.mute(); // the terminal is on hold, and would hold us too
            }
        }
        self.sink.close(LAST_LINES);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Console {
    /// A host that could not start has something to say as well.
    fn drop(&mut self) {
        self.close();
    }
}

/// Lines on their way out.
#[derive(Default)]
pub(super) struct Sink {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    bytes: usize,
    lost: u64,
    /// A thread writes them out.
    pumped: bool,
    writing: bool,
    closed: bool,
    muted: bool,
}

impl Sink {
    fn push(&self, line: &str) {
        let mut state = self.lock();
        if state.muted {
            // Nobody takes lines any more, and writing would block.
        } else if state.closed {
            drop(state);
            let _ = io::stderr().lock().write_all(line.as_bytes()); // the end is near, and nobody else writes
        } else if state.bytes + line.len() > MAX_WAITING_BYTES {
            state.lost += 1;
        } else {
            state.bytes += line.len();
            state.lines.push_back(line.to_owned());
            drop(state);
            self.changed.notify_all();
        }
    }

    /// All lines that wait; a word about lost ones is the last.
    #[cfg(feature = "console")]
    pub(super) fn take(&self) -> String {
        self.lock().take()
    }

    /// Writes lines to standard error until the end.
    fn pump(&self) {
        let mut state = self.lock();
        state.pumped = true;
        loop {
            state = self
                .changed
                .wait_while(state, |state| state.lines.is_empty() && !state.closed)
                .unwrap_or_else(PoisonError::into_inner);
            let text = state.take();
            if text.is_empty() {
                return; // closed
            }
            state.writing = true;
            drop(state);
            let _ = io::stderr().lock().write_all(text.as_bytes()); // nobody to hear it is no error
            state = self.lock();
            state.writing = false;
            self.changed.notify_all();
        }
    }

    /// Brings out what waits. Later lines are written where they are said.
    fn close(&self, limit: Duration) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        if state.pumped {
            let busy = |state: &mut State| state.writing || !state.lines.is_empty();
            state = self.changed.wait_timeout_while(state, limit, busy).map_or_else(|e| e.into_inner().0, |(s, _)| s);
        }
        state.closed = true;
        state.muted = state.writing; // the reader hangs
        let text = if state.muted { String::new() } else { state.take() };
        drop(state);
        self.changed.notify_all();
        if !text.is_empty() {
            let _ = io::stderr().lock().write_all(text.as_bytes());
        }
    }

    /// Drops what waits and all that comes.
    fn mute(&self) {
        let mut state = self.lock();
        (state.closed, state.muted) = (true, true);
        state.take();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> String {
        self.bytes = 0;
        let mut text: String = std::mem::take(&mut self.lines).into_iter().collect();
        match std::mem::take(&mut self.lost) {
            0 => {}
            lost => text.push_str(&format!("{lost} log lines were lost: their reader did not keep up\n")),
        }
        text
    }
}

impl Write for &Sink {
    /// One event a call.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes control characters out: modules and registries have their words in these lines. Colours come after that.
struct Cleaned {
    sink: Arc<Sink>,
    coloured: bool,
}

impl Write for &Cleaned {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let lines: String = text.lines().map(|line| levelled(&plain(line), self.coloured) + "\n").collect();
        self.sink.push(&lines);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line with its time and level in their colours: `2026-01-31T12:00:00.123456Z  WARN …`.
fn levelled(line: &str, coloured: bool) -> String {
    const TIME: usize = "2026-01-31T12:00:00.123456Z".len();
    let parts =
        line.split_at_checked(TIME).and_then(|(time, rest)| Some((time, rest.split_at_checked(" ERROR".len())?)));
    let Some((time, (level, rest))) = parts.filter(|_| coloured) else { return line.to_owned() };
    let level = match level.trim_start() {
        "ERROR" => colour::paint(level, Paint::Error, true),
        "WARN" => colour::paint(level, Paint::Warning, true),
        "INFO" | "DEBUG" | "TRACE" => level.into(),
        _ => return line.to_owned(),
    };
    format!("{}{level}{rest}", colour::paint(time, Paint::Dim, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_does_not_keep_up_loses_lines_and_is_told() {
        let sink = Sink::default();
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..1030 {
            sink.push(&line);
        }
        let text = sink.take();
        assert_eq!(text.lines().filter(|line| line.starts_with('x')).count(), 1024);
        assert!(text.ends_with("6 log lines were lost: their reader did not keep up\n"));
        assert_eq!(sink.take(), "");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        let sink = Arc::new(Sink::default());
        (&mut &Cleaned { sink: sink.clone(), coloured: true }).write_all("a\u{1b}[2J\rb\nc\n".as_bytes()).unwrap();
        assert_eq!(sink.take(), "a\u{fffd}[2J\u{fffd}b\nc\n");
    }

    #[test]
    fn a_level_has_its_colour_and_other_words_have_none() {
        let line = |level: &str| format!("2026-01-31T12:00:00.123456Z {level} marram: ERROR is a word");
        let time = "\x1b[2m2026-01-31T12:00:00.123456Z\x1b[0m";
        assert_eq!(levelled(&line(" WARN"), true), format!("{time}\x1b[33m  WARN\x1b[0m marram: ERROR is a word"));
        assert_eq!(levelled(&line(" INFO"), true), format!("{time}  INFO marram: ERROR is a word"));
        assert_eq!(levelled(&line("ERROR"), false), line("ERROR"));
        for odd in ["", "ü", "the second line of something, long enough for a level"] {
            assert_eq!(levelled(odd, true), odd);
        }
    }
}
