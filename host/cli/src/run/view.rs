//! The compact view on a terminal: what modules and queues do, redrawn in place once a second, log lines above it.
//!
//! Plain ANSI that every terminal knows: cursor up and erase below. Nothing is hidden or switched, so that a host that
//! ends in any way (killed, stopped, a panic) leaves a usable terminal behind. What stands in a picture is `frame`'s.

mod frame;
mod rates;

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    time::Duration,
};

use marram_agent::Agent;
use rustix::process::Signal;
use tokio::{
    runtime::Handle,
    signal::unix::{Signal as Stream, SignalKind, signal},
    sync::oneshot,
    time::Instant,
};

use super::logging::Sink;
use crate::colour;
use frame::{Line, frame};
use rates::Rates;

/// Time between two pictures. Faster would cost a small device more than a person can see.
const REDRAW: Duration = Duration::from_secs(1);
/// Log lines a picture; the rest of a flood is counted. `marram logs` has them.
const MAX_LOG_LINES: usize = 200;

/// How the view is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    colour: bool,
}

/// What stands on the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Screen {
    /// Lines of the last picture.
    drawn: usize,
    /// Its columns and rows then.
    size: (usize, usize),
}

/// Why the next picture is drawn.
enum Wake {
    Time,
    /// The process was stopped (Ctrl-Z) and goes on: a shell has written meanwhile.
    Continued,
    End,
}

impl View {
    /// A view, when there is a terminal that can show one.
    pub(super) fn wanted(plain: bool) -> Option<Self> {
        let term = std::env::var_os("TERM").filter(|term| !term.is_empty());
        let dumb = term.is_none_or(|term| term == "dumb");
        (!plain && !dumb && io::stdout().is_terminal()).then(|| Self { colour: colour::out() })
    }

    /// Draws until `stop` is dropped. Runs in a thread of its own: a terminal on hold stops the view, not the host.
    pub(super) fn run(self, agent: &Agent, sink: &Sink, runtime: &Handle, mut stop: oneshot::Receiver<()>) {
        let logs_here = io::stderr().is_terminal();
        let (mut screen, mut rates) = (Screen::default(), Rates::default());
        let mut notices = runtime.block_on(async { Notices::listen() });
        loop {
            let status = runtime.block_on(async { tokio::time::timeout(REDRAW, agent.status()).await });
            let size = terminal_size();
            let lines = match &status {
                Ok(Ok(status)) if has_terminal() => frame(status, &rates.update(status), size),
                _ => Vec::new(), // stopping, or in the background of a shell
            };
            let log = if logs_here { shorten(&sink.take()) } else { String::new() };
            let picture = self.picture(screen, size, &log, &lines);
            screen = Screen { drawn: lines.len(), size };
            if io::stdout().lock().write_all(picture.as_bytes()).and_then(|()| io::stdout().flush()).is_err() {
                return; // the terminal is gone
            }
            match runtime.block_on(notices.next(&mut stop)) {
                Wake::Time => {}
                Wake::Continued => screen.drawn = 0,
                Wake::End => return,
            }
        }
    }

    /// Removes the last picture, writes the log lines, and draws the new one. On a terminal of another size than before, the
    /// old lines may have been wrapped, and nobody knows how many they are now: then it begins on an empty screen.
    fn picture(self, old: Screen, size: (usize, usize), log: &str, lines: &[Line]) -> String {
        let mut text = match old.drawn {
            0 => String::new(),
            _ if old.size != size => "\x1b[2J\x1b[H".to_owned(),
            drawn => format!("\r\x1b[{drawn}A\x1b[J"),
        };
        text.push_str(log);
        for line in lines {
            let _ = match line.paint {
                Some(paint) => writeln!(text, "{}", colour::paint(&line.text, paint, self.colour)),
                None => writeln!(text, "{}", line.text),
            };
        }
        text
    }
}

/// The notices that a view waits for. Where the system gives none, the next picture comes in time.
struct Notices {
    continued: Option<Stream>,
    resized: Option<Stream>,
}

impl Notices {
    /// Inside a runtime.
    fn listen() -> Self {
        let continued = signal(SignalKind::from_raw(Signal::CONT.as_raw())).ok();
        Self { continued, resized: signal(SignalKind::window_change()).ok() }
    }

    /// Waits until there is a reason for a picture.
    async fn next(&mut self, stop: &mut oneshot::Receiver<()>) -> Wake {
        let start = Instant::now();
        tokio::select! {
            biased;
            _ = stop => Wake::End,
            () = heard(&mut self.continued) => Wake::Continued,
            () = heard(&mut self.resized) => Wake::Time,
            // Much longer than asked for: it was stopped, and the notice is still on its way.
            () = tokio::time::sleep(REDRAW) => if start.elapsed() > REDRAW * 2 { Wake::Continued } else { Wake::Time },
        }
    }
}

async fn heard(stream: &mut Option<Stream>) {
    match stream {
        Some(stream) => drop(stream.recv().await),
        None => std::future::pending().await,
    }
}

fn terminal_size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let size = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    size.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or((80, 24))
}

/// False in the background of a shell (`bg`): another program has the screen then, and only log lines are written.
fn has_terminal() -> bool {
    rustix::termios::tcgetpgrp(io::stdout()).map_or(true, |group| group == rustix::process::getpgrp())
}

fn shorten(log: &str) -> String {
    let lines = log.lines().count();
    if lines <= MAX_LOG_LINES {
        return log.to_owned();
    }
    let hidden = lines - MAX_LOG_LINES;
    let last: String = log.lines().skip(hidden).map(|line| format!("{line}\n")).collect();
    format!("({hidden} log lines are not shown)\n{last}")
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
