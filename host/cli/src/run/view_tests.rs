//! The view as pictures, without a terminal.

use marram_agent::Status;
use serde_json::json;

use super::{frame::ROWS_FOR_LOG, *};
use crate::colour::Paint;

fn module(n: usize, status: &str) -> serde_json::Value {
    json!({
        "name": format!("module-{n}"), "status": status, "description": "running for a long while ".repeat(5),
        "desiredStatus": "running", "image": "i", "digest": null, "exitCode": null, "restartCount": n,
        "lastStartMs": null, "lastExitMs": null, "memoryBytes": 1_400_000, "memoryLimit": 67_108_864,
        "sent": 10, "received": 20,
    })
}

fn queue(n: usize) -> serde_json::Value {
    json!({
        "endpoint": format!("module-{n}/in"), "length": 1, "bytes": 2, "accepted": 3, "delivered": 4, "oldestMs": 2500,
        "dropped": { "rejected": 5, "ttl_expiry": 6 },
    })
}

fn status(modules: usize, queues: usize) -> Status {
    let modules: Vec<_> = (0..modules).map(|n| module(n, "running")).collect();
    let queues: Vec<_> = (0..queues).map(queue).collect();
    serde_json::from_value(json!({
        "version": "1.2.3", "deviceId": "pump", "deploymentVersion": 7, "uptimeMs": 3_661_000,
        "modules": modules, "queues": queues, "noRoute": 0, "upstreamError": null,
    }))
    .unwrap()
}

fn lines(status: &Status, size: (usize, usize)) -> Vec<Line> {
    frame(status, &Rates::default().update(status), size)
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[test]
fn a_view_is_never_wider_than_the_terminal_and_leaves_room_for_the_log() {
    for (modules, queues) in [(0, 0), (2, 3), (50, 0), (0, 50), (50, 50)] {
        for size in [(80, 24), (20, 14), (200, 60)] {
            let mut status = status(modules, queues);
            (status.upstream_error, status.no_route) = (Some("the disk is full ".repeat(20)), 7);
            let lines = lines(&status, size);
            assert!(lines.len() <= size.1 - ROWS_FOR_LOG, "{modules} {queues} in {size:?}: {}", lines.len());
            assert!(lines.iter().all(|line| line.text.chars().count() < size.0));
        }
    }
}

#[test]
fn a_terminal_of_a_few_rows_still_gets_a_view() {
    assert!(!lines(&status(50, 50), (5, 2)).is_empty());
}

#[test]
fn the_view_shows_host_modules_and_queues() {
    let mut rates = Rates::default();
    let first = status(1, 1);
    rates.update(&first);
    let mut second = status(1, 1);
    second.uptime_ms += 2_000;
    (second.modules[0].received, second.modules[0].sent) = (44, 11);
    (second.queues[0].accepted, second.queues[0].delivered) = (3, 24);
    let lines = frame(&second, &rates.update(&second), (200, 24));
    let texts = texts(&lines);
    assert_eq!(texts[1], "marram 1.2.3 on pump, deployment 7, up 1h 1m 3s");
    assert_eq!(texts[2], "MODULE    STATUS   IN/s  OUT/s   MEMORY  RESTARTS  DESCRIPTION");
    assert!(
        texts[3].starts_with("module-0  running    12    0.5  1.3 MiB         0  running for a long"),
        "{}",
        texts[3]
    );
    assert_eq!(texts[4], "QUEUE        WAITING  IN/s  OUT/s  BYTES  OLDEST  DROPPED");
    assert_eq!(texts[5], "module-0/in        1     0     10    2 B     2 s  5 rejected, 6 ttl_expiry");
}

#[test]
fn what_has_no_rate_yet_has_a_dash_and_trouble_is_said() {
    let mut status = status(1, 0);
    status.modules[0].status = "backoff".into();
    status.upstream_error = Some("the disk\u{1b}[2J is full".into());
    let lines = lines(&status, (80, 24));
    assert!(lines[3].text.starts_with("module-0  backoff     -      -"), "{}", lines[3].text);
    assert_eq!(lines[3].paint, Some(Paint::Warning));
    assert!(texts(&lines).contains(&"upstream takes nothing: the disk\u{fffd}[2J is full"), "{lines:?}");
}

#[test]
fn what_does_not_fit_is_counted() {
    let lines = lines(&status(50, 0), (80, 24));
    let shown = lines.iter().filter(|line| line.text.starts_with("module-")).count();
    assert!(texts(&lines).contains(&format!("and {} more; `marram list --format json` has all", 50 - shown).as_str()));
}

#[test]
fn the_next_picture_takes_the_place_of_the_last_and_the_log_stays_above() {
    let lines = [Line { text: "a".into(), paint: Some(Paint::Head) }, Line { text: "b".into(), paint: None }];
    let view = View { colour: false };
    let (none, two, size) = (Screen::default(), Screen { drawn: 2, size: (80, 24) }, (80, 24));
    assert_eq!(view.picture(none, size, "", &lines), "a\nb\n");
    assert_eq!(view.picture(two, size, "log\n", &lines), "\r\x1b[2A\x1b[Jlog\na\nb\n");
    assert_eq!(view.picture(two, (40, 24), "", &lines), "\x1b[2J\x1b[Ha\nb\n");
    assert_eq!(View { colour: true }.picture(none, size, "", &lines[..1]), "\x1b[1ma\x1b[0m\n");
}

#[test]
fn a_flood_of_log_lines_is_cut_to_its_end() {
    let log: String = (0..300).map(|n| format!("{n}\n")).collect();
    let short = shorten(&log);
    assert!(short.starts_with("(100 log lines are not shown)\n100\n") && short.ends_with("299\n"));
}
