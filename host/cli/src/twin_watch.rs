//! `marram twin watch`: a module's twin as it is, and then each change of it, until the host or the reader ends.

use std::{
    fmt::Write as _,
    path::Path,
    time::{Duration, SystemTime},
};

use marram_agent::TwinView;
use marram_core::twin::diff;
use serde_json::{Map, Value, json};

use crate::{
    args::{Ask, Format},
    ask::read,
    client::{Call, segment},
    config,
    failure::{Failure, count},
    output::{self, plain},
};

/// How long the host holds an answer back while nothing changes, in seconds. A module that has left the deployment, and a
/// reader that has gone away, are noticed after it.
const WAIT: u64 = 10;

/// What has become of one half of the twin.
#[derive(Debug, Clone, PartialEq)]
struct Change<'t> {
    /// `desired` or `reported`.
    section: &'static str,
    version: u64,
    /// Who wrote it; of desired properties only.
    origin: Option<&'t str>,
    /// The merge patch since the last one; none: it is the first.
    patch: Option<Map<String, Value>>,
    /// All of it.
    properties: &'t Value,
    /// Changes before this one that it holds, too, and that were not shown apart.
    coalesced: u64,
}

/// Ends without an error with the host, or with the reader of the output.
pub(crate) fn watch(module: &str, ask: &Ask) -> Result<(), Failure> {
    let data = config::data_folder(&ask.place, None)?;
    let mut known: Option<TwinView> = None;
    loop {
        let twin = match next(module, &data, known.as_ref()) {
            Ok(twin) => twin,
            // Nobody was there to watch.
            Err(failure) if known.is_none() || !failure.is_end_of_host() => return Err(failure),
            Err(failure) => {
                output::talk(&format!("end of the watch: {}\n", plain(&failure.message)));
                return Ok(());
            }
        };
        let lines: String = changes(known.as_ref(), &twin).iter().map(|change| change.line(ask.format)).collect();
        if !output::data_to_reader(&lines)? {
            return Ok(());
        }
        known = Some(twin);
    }
}

/// The twin, once it is another one than is known, or after a while.
fn next(module: &str, data: &Path, known: Option<&TwinView>) -> Result<TwinView, Failure> {
    let mut path = format!("/v1/modules/{}/twin", segment(module));
    if let Some(known) = known {
        let (desired, reported) = (known.desired_version, known.reported_version);
        let _ = write!(path, "?desired={desired}&reported={reported}&wait={WAIT}");
    }
    read(&Call::get(path).send(data)?)
}

/// What has changed since `known`, or the twin as it is.
fn changes<'t>(known: Option<&TwinView>, twin: &'t TwinView) -> Vec<Change<'t>> {
    let desired = known.map(|known| (known.desired_version, &known.desired));
    let reported = known.map(|known| (known.reported_version, &known.reported));
    [
        change("desired", desired, twin.desired_version, &twin.desired, Some(&twin.desired_origin)),
        change("reported", reported, twin.reported_version, &twin.reported, None),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn change<'t>(
    section: &'static str,
    known: Option<(u64, &Value)>,
    version: u64,
    properties: &'t Value,
    origin: Option<&'t str>,
) -> Option<Change<'t>> {
    let (patch, coalesced) = match known {
        None => (None, 0),
        Some((known, _)) if known == version => return None,
        // A lower version: the twin began anew, and nothing is known of what was between.
        Some((known, old)) => {
            (Some(diff(&map(old), &map(properties))), version.saturating_sub(known).saturating_sub(1))
        }
    };
    Some(Change { section, version, origin, patch, properties, coalesced })
}

fn map(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

impl Change<'_> {
    fn line(&self, format: Format) -> String {
        let now = SystemTime::now();
        match format {
            Format::Text => format!("{} {}\n", humantime::format_rfc3339_millis(now), self.text()),
            Format::Json => format!("{}\n", self.json(now)),
        }
    }

    /// JSON text escapes control characters by itself.
    fn text(&self) -> String {
        let mut text = format!("{} {}", self.section, self.version);
        if let Some(origin) = self.origin {
            let _ = write!(text, ", {}", plain(origin));
        }
        let _ = match &self.patch {
            None => write!(text, ": {}", self.properties),
            Some(patch) => write!(text, ", changed: {}", json!(patch)),
        };
        if self.coalesced > 0 {
            let _ = write!(
                text,
                " (with {})",
                count(self.coalesced as usize, "change").replace("change", "earlier change")
            );
        }
        text
    }

    fn json(&self, now: SystemTime) -> Value {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut line = json!({
            "timeMs": u64::try_from(since.as_millis()).unwrap_or(u64::MAX), "section": self.section,
            "version": self.version, "properties": self.properties, "patch": self.patch, "coalesced": self.coalesced,
        });
        if let Some(origin) = self.origin {
            line["origin"] = origin.into();
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn twin(desired: (u64, Value), reported: (u64, Value)) -> TwinView {
        TwinView {
            desired: desired.1,
            desired_version: desired.0,
            desired_origin: "local".into(),
            reported: reported.1,
            local_changes: Value::Null,
            reported_version: reported.0,
            properties: Value::Null,
        }
    }

    fn texts(known: Option<&TwinView>, twin: &TwinView) -> Vec<String> {
        changes(known, twin).iter().map(Change::text).collect()
    }

    #[test]
    fn a_watch_begins_with_what_is_and_goes_on_with_what_changes() {
        let first = twin((4, json!({ "a": 1, "b": 2 })), (7, json!({ "seen": 1 })));
        assert_eq!(texts(None, &first), [r#"desired 4, local: {"a":1,"b":2}"#, r#"reported 7: {"seen":1}"#]);
        assert_eq!(texts(Some(&first), &first), Vec::<String>::new());
        let second = twin((5, json!({ "a": 1 })), (7, json!({ "seen": 1 })));
        assert_eq!(texts(Some(&first), &second), [r#"desired 5, local, changed: {"b":null}"#]);
    }

    #[test]
    fn what_was_coalesced_is_counted() {
        let first = twin((1, json!({})), (1, json!({})));
        let second = twin((1, json!({})), (4, json!({ "seen": 9 })));
        assert_eq!(texts(Some(&first), &second), [r#"reported 4, changed: {"seen":9} (with 2 earlier changes)"#]);
        let back = changes(Some(&second), &first);
        assert_eq!((back[0].version, back[0].coalesced), (1, 0), "a twin that began anew");
    }

    #[test]
    fn scripts_get_the_patch_and_the_whole() {
        let first = twin((1, json!({})), (1, json!({})));
        let second = twin((2, json!({ "a": 1 })), (1, json!({})));
        let line = changes(Some(&first), &second)[0].json(SystemTime::UNIX_EPOCH + Duration::from_millis(5));
        let expected = json!({
            "timeMs": 5, "section": "desired", "version": 2, "origin": "local", "coalesced": 0,
            "patch": { "a": 1 }, "properties": { "a": 1 },
        });
        assert_eq!(line, expected);
        assert_eq!(changes(None, &first)[1].json(SystemTime::UNIX_EPOCH)["patch"], Value::Null);
    }
}
