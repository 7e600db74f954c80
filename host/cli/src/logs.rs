//! `marram logs`: what a module has printed, and with `--follow` what it prints from then on.

use std::{
    fmt::Write as _,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use marram_agent::LogLine;
use marram_core::ports::LogStream;

use crate::{
    args::{Format, Logs},
    ask::{answer, read},
    client::{Call, segment},
    colour::{self, Paint},
    config,
    failure::{Failure, count},
    output::{self, plain},
};

/// How long the host holds an answer back while nothing is printed, in seconds. A module that was taken out and deployed
/// again in that time is found after it.
const WAIT: u64 = 10;

pub(crate) fn logs(args: Logs) -> Result<(), Failure> {
    if args.follow {
        let data = config::data_folder(&args.ask.place, None)?;
        return follow(&args, &data);
    }
    let call = Call::get(path(&args, &[("tail", args.tail.map(|tail| tail as u64)), ("since", since(&args))]));
    answer(&args.ask, call, |lines: Vec<LogLine>| text(&lines, Format::Text))
}

/// Ends without an error with the host, or with the reader of the output.
fn follow(args: &Logs, data: &Path) -> Result<(), Failure> {
    // One line at least, for its number: later lines are asked for by it.
    let tail = args.tail.map(|tail| tail.max(1) as u64);
    let ask = |path: String| -> Result<Vec<LogLine>, Failure> { read(&Call::get(path).send(data)?) };
    let mut lines = ask(path(args, &[("tail", tail), ("since", since(args))]))?;
    let mut after = lines.last().map(|line| line.n);
    if args.tail == Some(0) {
        lines.clear();
    }
    loop {
        if !output::data_to_reader(&text(&lines, args.ask.format))? {
            return Ok(());
        }
        // The time is of no use after the first line: the clock may be set back.
        let since = if after.is_none() { since(args) } else { None };
        lines = match ask(path(args, &[("after", after), ("since", since), ("wait", Some(WAIT))])) {
            Ok(lines) => lines,
            Err(failure) if failure.is_end_of_host() => {
                output::talk(&format!("end of the log: {}\n", plain(&failure.message)));
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        if let (Some(after), Some(first)) = (after, lines.first())
            && let Some(missing) = gap(after, first.n)
            && args.ask.format == Format::Text
        {
            output::talk(&format!("… {} not shown\n", count(missing, "line")));
        }
        after = lines.last().map(|line| line.n).or(after);
    }
}

/// How many lines lie between two answers: dropped before they were asked for. A lower number is that of a log that began
/// anew.
fn gap(after: u64, first: u64) -> Option<usize> {
    let before = if first > after { after } else { 0 };
    usize::try_from(first - before - 1).ok().filter(|missing| *missing > 0)
}

fn path(args: &Logs, query: &[(&str, Option<u64>)]) -> String {
    let mut path = format!("/v1/modules/{}/logs", segment(&args.module));
    let mut sign = '?';
    for (name, value) in query {
        if let Some(value) = value {
            let _ = write!(path, "{sign}{name}={value}");
            sign = '&';
        }
    }
    path
}

/// Milliseconds since 1970; a time before it is all time.
fn since(args: &Logs) -> Option<u64> {
    let since = args.since?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn text(lines: &[LogLine], format: Format) -> String {
    let json = |line| serde_json::to_string(line).unwrap_or_default() + "\n";
    match format {
        Format::Text => lines.iter().map(|line| log_line(line, colour::out())).collect(),
        Format::Json => lines.iter().map(json).collect(),
    }
}

fn log_line(line: &LogLine, coloured: bool) -> String {
    let stream = match line.stream {
        LogStream::Out => "out".into(),
        LogStream::Err => colour::paint("err", Paint::Warning, coloured),
    };
    // The host's clock may say anything; RFC 3339 ends with the year 9999.
    let time = UNIX_EPOCH + Duration::from_millis(line.time.0.min(253_402_300_799_999));
    let time = humantime::format_rfc3339_millis(time).to_string();
    format!("{} {stream} {}\n", colour::paint(&time, Paint::Dim, coloured), plain(&line.text))
}

#[cfg(test)]
mod tests {
    use marram_core::time::UtcMillis;

    use super::*;

    #[test]
    fn a_log_line_tells_when_and_where_and_cannot_fake_a_screen() {
        let line =
            LogLine { n: 1, time: UtcMillis(1_700_000_000_123), stream: LogStream::Err, text: "a\u{1b}[2Jb".into() };
        assert_eq!(log_line(&line, false), "2023-11-14T22:13:20.123Z err a\u{fffd}[2Jb\n");
        let odd = LogLine { time: UtcMillis(u64::MAX), ..line };
        assert!(log_line(&odd, false).starts_with("9999-12-31"));
    }

    #[test]
    fn lines_that_were_dropped_between_two_answers_are_counted() {
        assert_eq!((gap(4, 5), gap(4, 6), gap(4, 104)), (None, Some(1), Some(99)));
        // The module was taken out and deployed again: its lines count from 1.
        assert_eq!((gap(4, 1), gap(4, 3)), (None, Some(2)));
    }
}
