//! The compact view on a terminal: what modules and queues do, redrawn in place once a second, log lines above it.
//!
//! Plain ANSI that every terminal knows: cursor up and erase below. Nothing is hidden or switched, so that a killed host
//! leaves a usable terminal behind.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use marram_agent::{Agent, ModuleStatus, QueueStatus, Status};

use super::logging::Sink;
use crate::output::{self, Table};

/// Time between two pictures. Faster would cost a small device more than a person can see.
const REDRAW: Duration = Duration::from_secs(1);
/// Terminal rows that are left to log lines.
const ROWS_FOR_LOG: usize = 6;
/// Log lines a picture; the rest of a flood is counted. `marram logs` has them.
const MAX_LOG_LINES: usize = 200;

/// How the view is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    colour: bool,
}

/// A line of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    text: String,
    style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Head,
    Trouble,
}

impl View {
    /// A view, when there is a terminal that can show one.
    pub(super) fn wanted(plain: bool) -> Option<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        let colour = set("NO_COLOR").is_none();
        (!plain && !dumb && io::stdout().is_terminal()).then_some(Self { colour })
    }

    /// Draws until `stop` is dropped. Runs in a thread of its own: a terminal on hold stops the view, not the host.
    pub(super) fn run(self, agent: &Agent, sink: &Sink, runtime: &tokio::runtime::Handle, stop: &Receiver<()>) {
        let logs_here = io::stderr().is_terminal();
        let mut drawn = 0;
        loop {
            let status = runtime.block_on(async { tokio::time::timeout(REDRAW, agent.status()).await });
            let (columns, rows) = terminal_size();
            let lines = match &status {
                Ok(Ok(status)) => frame(status, columns, rows),
                _ => Vec::new(), // stopping
            };
            let log = if logs_here { shorten(&sink.take()) } else { String::new() };
            let picture = self.picture(drawn, &log, &lines);
            drawn = lines.len();
            if io::stdout().lock().write_all(picture.as_bytes()).and_then(|()| io::stdout().flush()).is_err() {
                return; // the terminal is gone
            }
            if stop.recv_timeout(REDRAW) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Removes the last picture, writes the log lines, and draws the new one.
    fn picture(self, drawn: usize, log: &str, lines: &[Line]) -> String {
        let mut text = match drawn {
            0 => String::new(),
            _ => format!("\r\x1b[{drawn}A\x1b[J"),
        };
        text.push_str(log);
        for line in lines {
            let code = match (self.colour, line.style) {
                (false, _) | (_, Style::Plain) => None,
                (true, Style::Head) => Some("1"),
                (true, Style::Trouble) => Some("33"),
            };
            let _ = match code {
                Some(code) => writeln!(text, "\x1b[{code}m{}\x1b[0m", line.text),
                None => writeln!(text, "{}", line.text),
            };
        }
        text
    }
}

fn terminal_size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let size = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    size.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or((80, 24))
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

/// The view for a terminal of this size: never wider, and low enough to leave room for the log.
fn frame(status: &Status, columns: usize, rows: usize) -> Vec<Line> {
    let mut lines = vec![plain_line(String::new()), head(summary(status))];
    // The summary, the last line, and each table's head are always there.
    let room = rows.saturating_sub(ROWS_FOR_LOG + lines.len() + 3);
    let for_queues = status.queues.len().min(room / 3);
    let for_modules = room - for_queues;
    lines.extend(modules(&status.modules, for_modules));
    lines.extend(queues(&status.queues, room - status.modules.len().min(for_modules)));
    lines.push(plain_line("Ctrl-C stops the host".into()));
    for line in &mut lines {
        // The last column stays free: some terminals wrap when it is written.
        line.text = line.text.chars().take(columns.saturating_sub(1)).collect();
    }
    lines
}

fn summary(status: &Status) -> String {
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_ms / 1000));
    let deployment = match status.deployment_version {
        0 => "no deployment".to_owned(),
        version => format!("deployment {version}"),
    };
    format!("marram {} on {}, {deployment}, up {uptime}", status.version, output::plain(&status.device_id))
}

fn modules(modules: &[ModuleStatus], room: usize) -> Vec<Line> {
    let mut table = Table::new(&["MODULE", "STATUS", "MEMORY", "RESTARTS", "DESCRIPTION"], &[2, 3]);
    for module in modules {
        table.row([
            module.name.to_string(),
            module.status.clone(),
            output::bytes(module.memory_bytes),
            module.restart_count.to_string(),
            module.description.clone(),
        ]);
    }
    let style = |index: usize| match modules.get(index).map(|module| module.status.as_str()) {
        Some("backoff" | "failed") => Style::Trouble,
        _ => Style::Plain,
    };
    cut(table.lines(), room, style)
}

fn queues(queues: &[QueueStatus], room: usize) -> Vec<Line> {
    let mut table = Table::new(&["QUEUE", "WAITING", "BYTES", "DELIVERED", "DROPPED"], &[1, 2, 3, 4]);
    for queue in queues {
        table.row([
            queue.endpoint.clone(),
            queue.length.to_string(),
            output::bytes(queue.bytes as u64),
            queue.delivered.to_string(),
            queue.dropped.values().sum::<u64>().to_string(),
        ]);
    }
    cut(table.lines(), room, |_| Style::Plain)
}

/// A table's head and at most `room` more lines; what is left out is counted on the last of them.
fn cut(lines: Vec<String>, room: usize, style: impl Fn(usize) -> Style) -> Vec<Line> {
    let rows = lines.len() - 1;
    let shown = if rows > room { room.saturating_sub(1) } else { rows };
    let mut kept: Vec<Line> = lines
        .into_iter()
        .take(shown + 1)
        .enumerate()
        .map(|(index, text)| Line { text, style: index.checked_sub(1).map_or(Style::Head, &style) })
        .collect();
    if shown < rows && room > 0 {
        kept.push(plain_line(format!("and {} more; `marram list` shows all", rows - shown)));
    }
    kept
}

fn head(text: String) -> Line {
    Line { text, style: Style::Head }
}

fn plain_line(text: String) -> Line {
    Line { text, style: Style::Plain }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
