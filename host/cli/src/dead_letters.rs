//! `marram deadletters`: what was given up, one by one.

use std::time::{Duration, SystemTime};

use marram_agent::{DeadLetter, DeadLetters, DeadMessage};
use marram_core::time::UtcMillis;
use serde_json::{Value, json};

use crate::{
    args::{self, Ask, Format, Letters},
    ask::{answer, read},
    client::Call,
    config,
    failure::{Failure, count},
    output::{self, Table, bytes, plain},
};

pub(crate) fn dead_letters(args: args::DeadLetters) -> Result<(), Failure> {
    match args {
        args::DeadLetters::List(ask) => {
            let letters = all(&ask)?;
            output::data(&match ask.format {
                Format::Json => format!("{}\n", json!({ "letters": letters })),
                Format::Text => list_text(&letters),
            })
        }
        args::DeadLetters::Show { id, ask } => {
            answer(&ask, Call::get(format!("/v1/dead-letters/{id}")), |message| message_text(&message))
        }
        args::DeadLetters::Replay(letters) => replay(&letters),
        args::DeadLetters::Purge(letters) => purge(&letters),
    }
}

/// The host tells some at once.
fn all(ask: &Ask) -> Result<Vec<DeadLetter>, Failure> {
    let data = config::data_folder(&ask.place, None)?;
    let mut letters: Vec<DeadLetter> = Vec::new();
    loop {
        let after = letters.last().map_or_else(String::new, |letter| format!("?after={}", letter.id));
        let more: DeadLetters = read(&Call::get(format!("/v1/dead-letters{after}")).send(&data)?)?;
        if more.letters.is_empty() {
            return Ok(letters);
        }
        letters.extend(more.letters);
    }
}

/// One after the other; the first that cannot be sent ends it, and says which that was.
fn replay(args: &Letters) -> Result<(), Failure> {
    let ids = if args.all { all(&args.ask)?.iter().map(|letter| letter.id).collect() } else { args.ids.clone() };
    let data = config::data_folder(&args.ask.place, None)?;
    for (done, id) in ids.iter().enumerate() {
        let sent = Call::post(format!("/v1/dead-letters/{id}/replay")).send(&data);
        sent.map_err(|failure| {
            failure.hint(format!("{done} of {} were sent again before dead letter {id}", ids.len()))
        })?;
    }
    tell(args, "replayed", ids.len() as u64, "sent again")
}

fn purge(args: &Letters) -> Result<(), Failure> {
    let data = config::data_folder(&args.ask.place, None)?;
    let calls = match args.all {
        true => vec![Call::post("/v1/dead-letters/purge")],
        false => args.ids.iter().map(|id| Call::post(format!("/v1/dead-letters/{id}/purge"))).collect(),
    };
    let mut purged = 0;
    for call in calls {
        purged += read::<Value>(&call.send(&data)?)?["purged"].as_u64().unwrap_or_default();
    }
    tell(args, "purged", purged, "forgotten")
}

fn tell(args: &Letters, key: &str, number: u64, word: &str) -> Result<(), Failure> {
    output::data(&match args.ask.format {
        Format::Json => format!("{}\n", json!({ key: number })),
        Format::Text => format!("{} {word}\n", count(usize::try_from(number).unwrap_or(usize::MAX), "dead letter")),
    })
}

fn list_text(letters: &[DeadLetter]) -> String {
    let mut table = Table::new(&["ID", "GIVEN UP", "ENDPOINT", "ATTEMPTS", "BYTES", "SOURCE", "REASON"], &[0, 3, 4]);
    for letter in letters {
        table.row([
            letter.id.to_string(),
            time(letter.dead),
            letter.endpoint.clone(),
            letter.attempts.to_string(),
            bytes(letter.bytes as u64),
            format!("{} #{}", letter.source, letter.sequence),
            letter.reason.clone(),
        ]);
    }
    table.text()
}

fn message_text(message: &DeadMessage) -> String {
    let DeadMessage { letter, properties, system_properties, body_text, body_hex } = message;
    let mut text = format!(
        "endpoint  {}\nreason    {}\nattempts  {}\ngiven up  {}\nsource    {} #{}\naccepted  {}\n",
        plain(&letter.endpoint),
        plain(&letter.reason),
        letter.attempts,
        time(letter.dead),
        plain(&letter.source),
        letter.sequence,
        time(letter.enqueued),
    );
    for (name, value) in system_properties.iter().chain(properties) {
        text += &format!("{}: {}\n", plain(name), plain(value.as_str().unwrap_or_default()));
    }
    // Its lines stay lines.
    let body = body_text.as_deref().map(|body| body.lines().map(plain).collect::<Vec<_>>().join("\n"));
    let body = body.unwrap_or_else(|| format!("{} (hex)", body_hex.as_deref().unwrap_or_default()));
    text + "\n" + &body + "\n"
}

fn time(time: UtcMillis) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(time.0)).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        DeadLetter {
            id: 7,
            endpoint: "filter/in".into(),
            reason: "rejected: no \u{1b}[31mjson".into(),
            attempts: 2,
            dead: UtcMillis(1_767_225_600_000),
            source: "/messages/modules/a/outputs/o".into(),
            sequence: 9,
            enqueued: UtcMillis(1_767_225_599_000),
            bytes: 2048,
        }
    }

    #[test]
    fn a_list_names_each_letter_and_why_it_is_one() {
        let expected = "\
ID  GIVEN UP              ENDPOINT   ATTEMPTS    BYTES  SOURCE                            REASON
 7  2026-01-01T00:00:00Z  filter/in         2  2.0 KiB  /messages/modules/a/outputs/o #9  rejected: no �[31mjson
";
        assert_eq!(list_text(&[letter()]), expected);
    }

    #[test]
    fn a_letter_is_shown_with_its_properties_and_its_body() {
        let mut message = DeadMessage {
            letter: letter(),
            properties: [("kind".to_owned(), json!("t"))].into_iter().collect(),
            system_properties: [("contentType".to_owned(), json!("text/plain"))].into_iter().collect(),
            body_text: Some("one\ntwo\u{7}".into()),
            body_hex: None,
        };
        let text = message_text(&message);
        assert!(
            text.ends_with("accepted  2025-12-31T23:59:59Z\ncontentType: text/plain\nkind: t\n\none\ntwo�\n"),
            "{text}"
        );
        (message.body_text, message.body_hex) = (None, Some("00ff".into()));
        assert!(message_text(&message).ends_with("\n00ff (hex)\n"));
    }
}
