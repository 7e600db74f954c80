//! Writing answers: data to standard output, talk to standard error. A reader that went away is no error: the command
//! then ends quietly.

use std::{
    borrow::Cow,
    io::{self, ErrorKind, Write},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    colour::{self, Paint},
    failure::{Code, Failure},
};

/// Writes data. A closed pipe counts as written.
pub(crate) fn data(text: &str) -> Result<(), Failure> {
    data_to_reader(text).map(|_| ())
}

/// Writes data of which there may be more, also none for now. False: the pipe is closed, nobody reads on.
pub(crate) fn data_to_reader(text: &str) -> Result<bool, Failure> {
    if text.is_empty() {
        return Ok(!reader_is_gone());
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(Code::Failed, format!("cannot write the answer: {error}"))),
    }
}

/// Whether standard output leads nowhere any more; a write would say so, but there may be nothing to write for long.
fn reader_is_gone() -> bool {
    let out = io::stdout();
    let mut asked = [PollFd::new(&out, PollFlags::empty())];
    let told = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    told.is_ok() && asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// Writes words for people. Nobody to hear them is no error.
pub(crate) fn talk(text: &str) {
    let text = colour::labels(text, colour::err());
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// The text without control characters: what a module, a manifest or a registry wrote must not move the cursor, ring,
/// or retitle the terminal. Tabs stay.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let bad = |c: char| c.is_control() && c != '\t';
    if !text.contains(bad) {
        return text.into();
    }
    text.chars().map(|c| if bad(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Columns, two spaces between, the last one ragged. Numbers stand on the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: &'static [usize],
}

impl Table {
    /// `right` are the columns of numbers.
    pub(crate) fn new(head: &[&str], right: &'static [usize]) -> Self {
        Self { rows: vec![head.iter().map(|name| (*name).to_owned()).collect()], right }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell).into_owned()).collect());
    }

    /// All lines, each with its end.
    pub(crate) fn text(&self) -> String {
        self.lines().iter().map(|line| format!("{line}\n")).collect()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column| self.rows.iter().map(|row| length(row, column)).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        self.rows.iter().map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths.get(column).copied().unwrap_or(0);
            let cell = match self.right.contains(&column) {
                true => format!("{cell:>width$}  "),
                false => format!("{cell:<width$}  "),
            };
            line.push_str(&cell);
        }
        line.truncate(line.trim_end().len());
        line
    }
}

fn length(row: &[String], column: usize) -> usize {
    row.get(column).map_or(0, |cell| cell.chars().count())
}

/// The colour of a module's status; none when all is well.
pub(crate) fn trouble(status: &str) -> Option<Paint> {
    match status {
        "backoff" | "unhealthy" => Some(Paint::Warning),
        "failed" => Some(Paint::Error),
        _ => None,
    }
}

/// `350 ms`, `12 s`, `5 min`, `3 h`.
pub(crate) fn age(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// `640 B`, `1.5 MiB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{number} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_as_exact_as_a_glance() {
        for (ms, text) in [(999, "999 ms"), (61_000, "61 s"), (180_000, "3 min"), (7_200_000, "2 h")] {
            assert_eq!(age(ms), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "N", "WHY"], &[1]);
        table.row(["telemetry".into(), "12".into(), "so".into()]);
        table.row(["f".into(), "3".into(), String::new()]);
        assert_eq!(table.lines(), ["NAME        N  WHY", "telemetry  12  so", "f           3"]);
    }

    #[test]
    fn sizes_have_the_unit_that_reads_well() {
        for (number, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 19, "1.5 MiB")] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn control_characters_become_visible() {
        assert_eq!(plain("a\u{1b}[31mb\tc\r"), "a\u{fffd}[31mb\tc\u{fffd}");
        assert!(matches!(plain("plain"), Cow::Borrowed(_)));
    }
}
