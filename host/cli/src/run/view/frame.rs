//! One picture of the view: what stands in it, for a terminal of some size. Draws nothing.

use std::{borrow::Cow, time::Duration};

use marram_agent::{ModuleStatus, QueueStatus, Status};

use super::rates::Measured;
use crate::{
    colour::Paint,
    output::{self, Table, age},
};

/// Terminal rows that are left to log lines.
pub(super) const ROWS_FOR_LOG: usize = 6;
/// Longest name in a table; a longer one would push all else off a terminal of 80 columns.
const MAX_NAME: usize = 26;

/// A line of the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) paint: Option<Paint>,
}

/// The view for a terminal of this size: never wider, and low enough to leave room for the log.
pub(super) fn frame(status: &Status, measured: &Measured, (columns, rows): (usize, usize)) -> Vec<Line> {
    let mut lines = vec![plain_line(String::new()), Line { text: summary(status), paint: Some(Paint::Head) }];
    // The last lines and each table's head are always there.
    let last = last_lines(status);
    let room = rows.saturating_sub(ROWS_FOR_LOG + lines.len() + last.len() + 2);
    let for_queues = status.queues.len().min(room / 3);
    let for_modules = room - for_queues;
    lines.extend(modules(&status.modules, measured, for_modules));
    lines.extend(queues(&status.queues, measured, room - status.modules.len().min(for_modules)));
    lines.extend(last);
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

fn last_lines(status: &Status) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(error) = &status.upstream_error {
        let text = format!("upstream takes nothing: {}", output::plain(error));
        lines.push(Line { text, paint: Some(Paint::Warning) });
    }
    let lost = [(status.no_route, "that no route wanted"), (status.endpoint_removed, "whose route was removed")];
    let lost: Vec<String> =
        lost.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if !lost.is_empty() {
        lines.push(plain_line(format!("messages given up: {}", lost.join(", "))));
    }
    lines.push(plain_line("Ctrl-C stops the host".into()));
    lines
}

fn modules(modules: &[ModuleStatus], measured: &Measured, room: usize) -> Vec<Line> {
    let head = ["MODULE", "STATUS", "IN/s", "OUT/s", "MEMORY", "RESTARTS", "DESCRIPTION"];
    let mut table = Table::new(&head, &[2, 3, 4, 5]);
    for module in modules {
        let (received, sent) = measured.module(module.name.as_str());
        table.row([
            short(module.name.as_str()).into_owned(),
            module.status.clone(),
            per_second(received),
            per_second(sent),
            output::bytes(module.memory_bytes),
            module.restart_count.to_string(),
            module.description.clone(),
        ]);
    }
    cut(table.lines(), room, |index| modules.get(index).and_then(|module| output::trouble(&module.status)))
}

fn queues(queues: &[QueueStatus], measured: &Measured, room: usize) -> Vec<Line> {
    let head = ["QUEUE", "WAITING", "IN/s", "OUT/s", "BYTES", "OLDEST", "DROPPED"];
    let mut table = Table::new(&head, &[1, 2, 3, 4, 5]);
    for queue in queues {
        let (accepted, delivered) = measured.queue(&queue.endpoint);
        table.row([
            short(&queue.endpoint).into_owned(),
            queue.length.to_string(),
            per_second(accepted),
            per_second(delivered),
            output::bytes(queue.bytes as u64),
            queue.oldest_ms.map_or_else(|| "-".into(), age),
            dropped(queue),
        ]);
    }
    cut(table.lines(), room, |_| None)
}

/// `0`, or how many by reason.
fn dropped(queue: &QueueStatus) -> String {
    let reasons: Vec<String> = queue.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    if reasons.is_empty() { "0".into() } else { reasons.join(", ") }
}

fn short(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(MAX_NAME) {
        Some(_) => format!("{}…", name.chars().take(MAX_NAME - 1).collect::<String>()).into(),
        None => name.into(),
    }
}

/// `-` when it is not known yet, `0.4`, `12`, `15k`.
fn per_second(rate: Option<f64>) -> String {
    match rate {
        None => "-".into(),
        Some(0.0) => "0".into(),
        Some(rate) if rate < 9.95 => format!("{rate:.1}"),
        Some(rate) if rate < 9_999.5 => format!("{rate:.0}"),
        Some(rate) => format!("{:.0}k", rate / 1000.0),
    }
}

/// A table's head and at most `room` more lines; what is left out is counted on the last of them.
fn cut(lines: Vec<String>, room: usize, paint: impl Fn(usize) -> Option<Paint>) -> Vec<Line> {
    let rows = lines.len() - 1;
    let shown = if rows > room { room.saturating_sub(1) } else { rows };
    let mut kept: Vec<Line> = lines
        .into_iter()
        .take(shown + 1)
        .enumerate()
        .map(|(index, text)| Line { text, paint: index.checked_sub(1).map_or(Some(Paint::Head), &paint) })
        .collect();
    if shown < rows && room > 0 {
        kept.push(plain_line(format!("and {} more; `marram list --format json` has all", rows - shown)));
    }
    kept
}

fn plain_line(text: String) -> Line {
    Line { text, paint: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_exact_as_a_glance() {
        let rates = [(None, "-"), (Some(0.0), "0"), (Some(0.25), "0.2"), (Some(9.96), "10"), (Some(15_400.0), "15k")];
        for (rate, text) in rates {
            assert_eq!(per_second(rate), text);
        }
    }

    #[test]
    fn a_long_name_leaves_room_for_the_rest() {
        assert_eq!(short("filter"), "filter");
        assert_eq!(short(&"n".repeat(26)), "n".repeat(26));
        assert_eq!(short(&"n".repeat(128)), format!("{}…", "n".repeat(25)));
    }
}
