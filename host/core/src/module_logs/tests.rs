use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::ports::LogStream;

fn read(payload: Value) -> LogRequest {
    LogRequest::read(&payload).unwrap()
}

fn lines<'l>(texts: &[(u64, &'l str)]) -> Vec<Line<'l>> {
    texts.iter().map(|(seconds, text)| Line::read(UtcMillis(seconds * 1000), LogStream::Out, text)).collect()
}

/// The texts that a filter leaves of lines at these seconds; now is 1,000,000.
fn left<'l>(filter: Value, texts: &[(u64, &'l str)]) -> Vec<&'l str> {
    let request = read(json!({ "items": [{ "id": "all", "filter": filter }] }));
    let module = request.choose(std::iter::once(ModuleName::new("m").unwrap()));
    module[0].1.select(lines(texts).into_iter(), UtcMillis(1_000_000_000)).iter().map(|line| line.full).collect()
}

#[test]
fn a_line_says_its_level_and_its_time_or_has_those_of_its_printing() {
    for (full, level, time, text) in [
        ("<3> 2019-02-14 16:15:35.243 -08:00 [ERR] x", 3, "2019-02-15T00:15:35.243Z", "[ERR] x"),
        ("2019-02-14 16:15:35.243 +00:00   y", 6, "2019-02-14T16:15:35.243Z", "y"),
        ("<7>z", 7, "1970-01-01T00:00:05Z", "z"),
        ("<12> z", 6, "1970-01-01T00:00:05Z", "<12> z"),
        ("2019-02-14 16:15:35.243 x", 6, "1970-01-01T00:00:05Z", "2019-02-14 16:15:35.243 x"),
        ("", 6, "1970-01-01T00:00:05Z", ""),
    ] {
        let line = lines(&[(5, full)])[0];
        assert_eq!((line.level, &*line.timestamp(), line.text), (level, time, text), "{full}");
    }
}

#[test]
fn each_filter_lets_pass_what_it_says_and_tail_counts_what_the_others_leave() {
    let texts = [(999_000, "<4> a1"), (999_400, "b"), (999_600, "<4> a2"), (1_000_000, "a3")];
    let all: Vec<_> = texts.iter().map(|(_, text)| *text).collect();
    for (filter, expected) in [
        (json!({}), &all[..]),
        (json!({ "tail": 2 }), &all[2..]),
        (json!({ "tail": 0 }), &[]),
        (json!({ "tail": "2", "includeTimestamp": true }), &all[2..]),
        (json!({ "loglevel": "4" }), &["<4> a1", "<4> a2"]),
        (json!({ "since": "10m" }), &all[1..]),
        (json!({ "since": 999_600 }), &all[2..]),
        (json!({ "since": "999600", "tail": 1 }), &all[3..]),
        (json!({ "since": "1970-01-12T13:40:00Z" }), &all[2..]),
        (json!({ "until": "400 s" }), &all[..2]),
        (json!({ "since": "16 minutes 40 seconds", "until": "5m" }), &all[..3]),
        (json!({ "loglevel": 4 }), &["<4> a1", "<4> a2"]),
        (json!({ "regex": "^a\\d$" }), &["<4> a1", "<4> a2", "a3"]),
        (json!({ "regex": "^a", "loglevel": 4, "tail": 1 }), &["<4> a2"]),
        (json!({ "regex": null, "since": null, "tail": null }), &all[..]),
    ] {
        assert_eq!(left(filter.clone(), &texts), expected, "{filter}");
    }
}

#[test]
fn the_first_item_that_names_a_module_has_its_filter_whatever_the_case() {
    let request =
        read(json!({ "items": [{ "id": "^TEMP", "filter": { "tail": 1 } }, { "id": "p", "filter": { "tail": 2 } }] }));
    let names = ["temp", "pump", "camera"].map(|name| ModuleName::new(name).unwrap());
    let chosen: Vec<_> =
        request.choose(names.into_iter()).into_iter().map(|(name, filter)| (name.to_string(), filter.tail)).collect();
    assert_eq!(chosen, [("temp".into(), Some(1)), ("pump".into(), Some(2))]);
}

#[test]
fn lines_are_written_as_they_are_or_as_objects() {
    let lines = lines(&[(5, "<3> x"), (6, "y")]);
    let module = ModuleName::new("m").unwrap();
    let text = read(json!({ "items": [{ "id": "all" }] }));
    assert_eq!((text.encoding, text.write("d", &module, &lines)), (Encoding::None, "<3> x\ny\n".into()));
    let objects = read(json!({ "items": [{ "id": "all" }], "encoding": "gzip", "contentType": "json" }));
    assert_eq!(objects.encoding, Encoding::Gzip);
    let written: Value = serde_json::from_str(&objects.write("d", &module, &lines)).unwrap();
    let expected = json!({
        "iothub": "", "device": "d", "id": "m", "stream": "stdout", "loglevel": 3, "text": "x",
        "timestamp": "1970-01-01T00:00:05Z",
    });
    assert_eq!((&written[0], written.as_array().unwrap().len()), (&expected, 2));
}

#[test]
fn a_single_item_needs_no_list_and_words_are_known_in_any_case() {
    let request = read(json!({ "items": { "id": "temp" }, "encoding": "GZip", "contentType": "JSON" }));
    assert_eq!((request.encoding, request.content_type), (Encoding::Gzip, ContentType::Json));
    let names = ["temp", "pump"].map(|name| ModuleName::new(name).unwrap());
    let chosen = request.choose(names.into_iter());
    assert_eq!(chosen.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["temp"]);
    let least = read(json!({ "items": { "id": "temp" }, "encoding": null }));
    assert_eq!((least.encoding, least.content_type), (Encoding::None, ContentType::Text));
}

#[test]
fn what_is_wrong_with_a_request_is_told_with_its_place() {
    for (payload, why) in [
        (json!(null), "expected"),
        (json!({}), "missing field `items`"),
        (json!({ "items": [] }), "items: 1 to 64"),
        (json!({ "items": [{ "id": " " }] }), "items[0].id"),
        (json!({ "items": [{ "id": "a" }, { "id": "(" }] }), "items[1].id: `(` is no pattern"),
        (json!({ "items": [{ "id": "a", "filter": { "regex": "(a{999}){999}" } }] }), "items[0].filter.regex"),
        (
            json!({ "items": [{ "id": "()".repeat(100) }] }),
            "items[0].id: a pattern has at most 16 groups, this one has 100",
        ),
        (
            json!({ "items": [{ "id": "a", "filter": { "regex": "()".repeat(17) } }] }),
            "items[0].filter.regex: a pattern has",
        ),
        (
            json!({ "items": [{ "id": "a", "filter": { "since": "yesterday" } }] }),
            "items[0].filter.since: expected a duration",
        ),
        (json!({ "items": [{ "id": "a", "filter": { "loglevel": 8 } }] }), "items[0].filter.loglevel"),
        (json!({ "items": [{ "id": "a", "filter": { "tail": -1 } }] }), "items[0].filter.tail: a whole number"),
        (json!({ "items": [{ "id": "a", "filter": { "tail": "two" } }] }), "not `two`"),
        (json!({ "items": [{ "id": "a" }, { "filter": {} }] }), "items[1]: missing field `id`"),
        (json!({ "items": 7 }), "items[0]: invalid type"),
        (json!({ "items": [{ "id": "a" }], "encoding": "zip" }), "encoding: `none` or `gzip` is expected, not `zip`"),
        (json!({ "items": [{ "id": "a" }], "contentType": "xml" }), "contentType: `text` or `json`"),
    ] {
        let told = LogRequest::read(&payload).unwrap_err();
        assert!(told.contains(why), "{payload}: {told}");
    }
}

#[test]
fn a_pattern_may_have_sixteen_groups() {
    read(json!({ "items": [{ "id": "a", "filter": { "regex": "()".repeat(16) } }] }));
}

#[test]
fn durations_are_read_as_people_write_them() {
    for (text, seconds) in [
        ("90m", 5400),
        ("1 day", 86_400),
        ("2 days 3 hours 2 minutes", 183_720),
        ("1d2h", 93_600),
        ("2 weeks", 1_209_600),
    ] {
        assert_eq!(Moment::read(&json!(text)), Some(Moment::Ago(std::time::Duration::from_secs(seconds))), "{text}");
    }
    for bad in ["", "m", "3", "1 fortnight", "-1d", "1d 2", "99999999999999999999d", "1.5h"] {
        assert!(!matches!(Moment::read(&json!(bad)), Some(Moment::Ago(_))), "{bad}");
    }
}

proptest! {
    #[test]
    fn what_is_left_keeps_its_order_and_every_filter(
        texts in prop::collection::vec((0..2000_u64, "(<[0-9]>)?[ ab]{0,6}"), 0..30),
        tail in prop::option::of(0..20_usize), since in prop::option::of(0..2000_u64), until in prop::option::of(0..2000_u64),
        level in prop::option::of(0..8_u8), pattern in prop::option::of("[ab]{1,2}"),
    ) {
        let texts: Vec<(u64, &str)> = texts.iter().map(|(time, text)| (*time, &**text)).collect();
        let filter = json!({ "tail": tail, "since": since, "until": until, "loglevel": level, "regex": pattern });
        // Another way to say the same.
        let wanted: Vec<&str> = texts.iter().filter(|(time, text)| {
            let line = Line::read(UtcMillis(0), LogStream::Out, text);
            since.is_none_or(|since| *time >= since) && until.is_none_or(|until| *time < until)
                && level.is_none_or(|level| line.level == level)
                && pattern.as_ref().is_none_or(|pattern| line.text.contains(pattern))
        }).map(|(_, text)| *text).collect();
        let last = tail.unwrap_or(usize::MAX).min(wanted.len());
        prop_assert_eq!(left(filter, &texts), &wanted[wanted.len() - last..]);
    }

    #[test]
    fn no_line_makes_the_reader_stumble(text in "\\PC{0,40}", head in prop_oneof![Just(""), Just("<"), Just("<6>"), Just("<é> "), Just("2019-02-14 16:15:35.243 -08:00")]) {
        let full = format!("{head}{text}");
        let line = Line::read(UtcMillis(0), LogStream::Err, &full);
        prop_assert!(full.ends_with(line.text) && (line.level <= 9));
    }
}
