//! `marram queues`: what waits where, how old it is, and what became of the rest.

use marram_agent::{QueueStatus, Status};

use crate::{
    args::Ask,
    ask::answer,
    client::Call,
    failure::Failure,
    output::{Table, age, bytes},
};

pub(crate) fn queues(ask: &Ask) -> Result<(), Failure> {
    answer(ask, Call::get("/v1/status"), |status: Status| text(&status))
}

fn text(status: &Status) -> String {
    let head = ["QUEUE", "WAITING", "BYTES", "MOST", "OLDEST", "ACCEPTED", "DELIVERED", "RETRIED", "DROPPED"];
    let mut table = Table::new(&head, &[1, 2, 3, 4, 5, 6, 7]);
    for queue in &status.queues {
        table.row([
            queue.endpoint.clone(),
            queue.length.to_string(),
            bytes(queue.bytes as u64),
            bytes(queue.max_bytes as u64),
            queue.oldest_ms.map_or_else(|| "-".into(), age),
            queue.accepted.to_string(),
            queue.delivered.to_string(),
            queue.retried.to_string(),
            dropped(queue),
        ]);
    }
    let mut text = table.text();
    let log = &status.message_log;
    text +=
        &format!("message log: {} of {}, {} dead letters", bytes(log.bytes), bytes(log.max_bytes), log.dead_letters);
    if log.damaged > 0 {
        text += &format!(", damaged in {} places, at most {} messages lost", log.damaged, log.lost);
    }
    if let Some(error) = &log.error {
        text += &format!("; takes nothing: {}", crate::output::plain(error));
    }
    text + "\n"
}

fn dropped(queue: &QueueStatus) -> String {
    let reasons: Vec<String> = queue.dropped.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    if reasons.is_empty() { "0".into() } else { reasons.join(", ") }
}

#[cfg(test)]
mod tests {
    use marram_agent::MessageLogStatus;

    use super::*;

    #[test]
    fn a_queue_says_what_waits_and_why_messages_were_given_up() {
        let queue = QueueStatus {
            endpoint: "filter/in".into(),
            length: 3,
            bytes: 2048,
            max_bytes: 32 << 20,
            oldest_ms: Some(90_000),
            accepted: 10,
            delivered: 4,
            retried: 7,
            dropped: [("max_attempts".into(), 1), ("rejected".into(), 2)].into(),
        };
        let message_log = MessageLogStatus {
            bytes: 8 << 20,
            max_bytes: 256 << 20,
            damaged: 1,
            lost: 2,
            dead_letters: 3,
            error: Some("the disk is full".into()),
        };
        let status = Status {
            version: "1".into(),
            device_id: "d".into(),
            deployment_version: 1,
            uptime_ms: 1,
            modules: Vec::new(),
            queues: vec![queue],
            no_route: 0,
            endpoint_removed: 0,
            upstream_error: None,
            message_log,
        };
        let expected = "\
QUEUE      WAITING    BYTES      MOST  OLDEST  ACCEPTED  DELIVERED  RETRIED  DROPPED
filter/in        3  2.0 KiB  32.0 MiB    90 s        10          4        7  1 max_attempts, 2 rejected
message log: 8.0 MiB of 256.0 MiB, 3 dead letters, damaged in 1 places, at most 2 messages lost; takes nothing: the disk is full
";
        assert_eq!(text(&status), expected);
    }
}
