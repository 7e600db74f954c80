//! `GetModuleLogs` of `$edgeAgent`: reads the logs of the wanted modules. Patterns and gzip take their time over what may be megabytes, so
//! it is done beside the tasks, one call at a time, and only as long as somebody waits for it.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use marram_core::{
    methods::MAX_PAYLOAD_BYTES,
    module_logs::{Encoding, Filter, Line, LogRequest},
    name::ModuleName,
    time::UtcMillis,
};
use serde_json::{Value, json};

use super::{Agent, ModuleError};
use crate::{logs::LogBuffer, supervisor::Event};

impl Agent {
    /// The payload of the answer; none: it would be too long.
    pub(super) async fn module_logs(&self, request: LogRequest) -> Result<Option<String>, ModuleError> {
        let turn = self.log_turn.clone().acquire_owned().await.map_err(|_| ModuleError::Stopping)?;
        let mut logs = BTreeMap::new();
        for module in self.status().await?.modules {
            let log = self.ask(|reply| Event::Logs { name: module.name.clone(), reply }).await?;
            logs.insert(module.name, log);
        }
        let given_up = Arc::new(AtomicBool::new(false));
        let _waits = Waits(given_up.clone());
        let (device, now) = (self.device_id.clone(), self.now());
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn; // until it has ended, whoever waits
            within(MAX_PAYLOAD_BYTES, Reading { request, logs, device, now, given_up }.entries())
        });
        work.await.map_err(|error| ModuleError::Refused(format!("the logs could not be read: {error}")))
    }
}

/// As long as it lives, somebody waits for the answer.
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

struct Reading {
    request: LogRequest,
    /// Of all modules; none: it has never been prepared and has printed nothing.
    logs: BTreeMap<ModuleName, Option<Arc<LogBuffer>>>,
    device: Box<str>,
    now: UtcMillis,
    /// Nobody waits any more.
    given_up: Arc<AtomicBool>,
}

impl Reading {
    /// What is answered for each wanted module, read when it is asked for.
    fn entries(&self) -> impl Iterator<Item = Value> {
        let modules = self.logs.keys().cloned().take_while(|_| self.is_wanted());
        let chosen = self.request.choose(modules).into_iter();
        chosen.take_while(|_| self.is_wanted()).map(|(name, filter)| self.entry(&name, &filter))
    }

    fn entry(&self, name: &ModuleName, filter: &Filter) -> Value {
        let lines = self.logs.get(name).and_then(Option::as_ref).map(|log| log.kept()).unwrap_or_default();
        let wanted = lines.iter().take_while(|_| self.is_wanted());
        let lines = wanted.map(|line| Line::read(line.time, line.stream, &line.text));
        let text = self.request.write(&self.device, name, &filter.select(lines, self.now));
        match self.request.encoding {
            Encoding::None => json!({ "id": name, "payloadBytes": null, "payload": text }),
            Encoding::Gzip => json!({ "id": name, "payloadBytes": gzip(&text), "payload": null }),
        }
    }

    fn is_wanted(&self) -> bool {
        !self.given_up.load(Relaxed)
    }
}

/// The entries as a JSON array of at most so many bytes; none, and no further entry is asked for, once there are more.
fn within(most: usize, entries: impl Iterator<Item = Value>) -> Option<String> {
    let mut array = String::from("[");
    for entry in entries {
        if array.len() > 1 {
            array.push(',');
        }
        array.push_str(&entry.to_string());
        if array.len() >= most {
            return None;
        }
    }
    array.push(']');
    Some(array)
}

/// Base64 of gzip.
fn gzip(text: &str) -> String {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Into memory: it does not fail.
    let bytes = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).unwrap_or_default();
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use marram_core::ports::LogStream;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn beyond_the_bound_no_further_entry_is_read() {
        let array = |most| {
            let mut read = 0;
            let entries = (0..4).inspect(|_| read += 1).map(|n| json!(format!("{n}")));
            (within(most, entries), read)
        };
        let whole = r#"["0","1","2","3"]"#;
        assert_eq!(array(whole.len()), (Some(whole.into()), 4));
        assert_eq!(array(whole.len() - 1), (None, 4));
        assert_eq!(array(5), (None, 2));
        assert_eq!(within(2, std::iter::empty()).as_deref(), Some("[]"));
    }

    #[test]
    fn what_nobody_waits_for_is_not_read() {
        let clock = Clock::start_with(crate::clocks);
        let log = |name: &ModuleName| {
            let log = LogBuffer::new(name.clone(), clock);
            log.push(LogStream::Out, "line");
            (name.clone(), Some(Arc::new(log)))
        };
        let names = ["a", "b"].map(|name| ModuleName::new(name).unwrap());
        let given_up = Arc::new(AtomicBool::new(false));
        let reading = Reading {
            request: LogRequest::read(&json!({ "items": [{ "id": "all" }] })).unwrap(),
            logs: names.iter().map(log).collect(),
            device: "device".into(),
            now: UtcMillis(0),
            given_up: given_up.clone(),
        };
        let payload = |entry: Option<Value>| entry.map(|entry| entry["payload"].clone());
        let mut entries = reading.entries();
        assert_eq!(payload(entries.next()), Some(json!("line\n")));
        drop(Waits(given_up));
        assert_eq!(payload(entries.next()), None, "no further module");
        assert_eq!(reading.entry(&names[0], &Filter::default())["payload"], json!(""), "no further line");
        assert_eq!(reading.entries().count(), 0, "no module is chosen");
    }
}
