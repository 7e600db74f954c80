//! The view as pictures, without a terminal.

use serde_json::json;

use super::*;

fn module(n: usize, status: &str) -> serde_json::Value {
    json!({
        "name": format!("module-{n}"), "status": status, "description": "running for a long while ".repeat(5),
        "desiredStatus": "running", "image": "i", "digest": null, "exitCode": null, "restartCount": n,
        "lastStartMs": null, "lastExitMs": null, "memoryBytes": 1_400_000, "memoryLimit": 67_108_864,
    })
}

fn queue(n: usize) -> serde_json::Value {
    json!({
        "endpoint": format!("module-{n}/in"), "length": 1, "bytes": 2, "accepted": 3, "delivered": 4,
        "dropped": { "full": 5, "expired": 6 },
    })
}

fn status(modules: usize, queues: usize) -> Status {
    let modules: Vec<_> = (0..modules).map(|n| module(n, "running")).collect();
    let queues: Vec<_> = (0..queues).map(queue).collect();
    serde_json::from_value(json!({
        "version": "1.2.3", "deviceId": "pump", "deploymentVersion": 7, "uptimeMs": 3_661_000,
        "modules": modules, "queues": queues, "noRoute": 0,
    }))
    .unwrap()
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[test]
fn a_view_is_never_wider_than_the_terminal_and_leaves_room_for_the_log() {
    for (modules, queues) in [(0, 0), (2, 3), (50, 0), (0, 50), (50, 50)] {
        for (columns, rows) in [(80, 24), (20, 12), (200, 60)] {
            let lines = frame(&status(modules, queues), columns, rows);
            assert!(lines.len() <= rows - ROWS_FOR_LOG, "{modules} {queues} in {columns}x{rows}: {}", lines.len());
            assert!(lines.iter().all(|line| line.text.chars().count() < columns));
        }
    }
}

#[test]
fn a_terminal_of_a_few_rows_still_gets_a_view() {
    assert!(!frame(&status(50, 50), 5, 2).is_empty());
}

#[test]
fn the_view_shows_host_modules_and_queues() {
    let lines = frame(&status(1, 1), 80, 24);
    let texts = texts(&lines);
    assert_eq!(texts[1], "marram 1.2.3 on pump, deployment 7, up 1h 1m 1s");
    assert!(texts[3].starts_with("module-0  running  1.3 MiB         0  running for a long while"), "{}", texts[3]);
    assert!(texts[5].starts_with("module-0/in        1    2 B          4       11"), "{}", texts[5]);
}

#[test]
fn what_does_not_fit_is_counted() {
    let lines = frame(&status(50, 0), 80, 24);
    let shown = lines.iter().filter(|line| line.text.starts_with("module-")).count();
    assert!(texts(&lines).contains(&format!("and {} more; `marram list` shows all", 50 - shown).as_str()));
}

#[test]
fn the_next_picture_takes_the_place_of_the_last_and_the_log_stays_above() {
    let lines = [head("a".into()), plain_line("b".into())];
    let view = View { colour: false };
    assert_eq!(view.picture(0, "", &lines), "a\nb\n");
    assert_eq!(view.picture(2, "log\n", &lines), "\r\x1b[2A\x1b[Jlog\na\nb\n");
    assert_eq!(View { colour: true }.picture(0, "", &lines[..1]), "\x1b[1ma\x1b[0m\n");
}

#[test]
fn a_flood_of_log_lines_is_cut_to_its_end() {
    let log: String = (0..300).map(|n| format!("{n}\n")).collect();
    let short = shorten(&log);
    assert!(short.starts_with("(100 log lines are not shown)\n100\n") && short.ends_with("299\n"));
}
