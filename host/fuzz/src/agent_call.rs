//! Payloads of calls of `$edgeAgent`, and the lines of logs that one of them chooses from.

use marram_core::{
    edge_agent::AgentCall,
    methods::{MethodRequest, Timeouts},
    module_logs::{ContentType, Line},
    name::ModuleName,
    ports::LogStream,
    time::UtcMillis,
};

pub(crate) const WORDS: &[&str] = &[
    r#""filter":{"#,
    r#""regex":""#,
    r#""since":"#,
    r#""until":""#,
    r#""tail":"#,
    r#""loglevel":"#,
    r#""contentType":"json""#,
    r#""encoding":"gzip""#,
    "2 days 3 hours",
    "2026-01-31T12:00:00Z",
    "2019-02-14 16:15:35.243 -08:00 ",
    "<3> ",
    "(?i)",
    "[^a-z]{1,9}",
    "|",
    "\\\\d+",
];

/// Lines that are tried; a log has some thousand.
const LINES: usize = 50;

/// The first line of the data is the payload, the others are lines of a log. Whatever they are: no panic; what is chosen is chosen
/// from the lines, in their order; what is written as JSON is JSON.
pub(crate) fn attack(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (payload, lines) = text.split_once('\n').unwrap_or((text, ""));
    for name in ["GetModuleLogs", "RestartModule", "GetTaskStatus"] {
        let Ok(request) = MethodRequest::new(name, payload, Timeouts::default()) else { return };
        match AgentCall::read(&request) {
            Ok(AgentCall::GetModuleLogs(request)) => {
                let lines = || {
                    let numbered = (0..).zip(lines.lines().take(LINES));
                    numbered.map(|(n, line)| Line::read(UtcMillis(n * 60_000), LogStream::Out, line))
                };
                let modules = ["temp", "pump"].map(|name| ModuleName::new(name).unwrap());
                for (module, filter) in request.choose(modules.into_iter()) {
                    let chosen = filter.select(lines(), UtcMillis(3_600_000));
                    assert!(chosen.is_sorted_by(|a, b| a.time < b.time));
                    assert!(chosen.iter().all(|line| lines().any(|other| other == *line)));
                    let written = request.write("device", &module, &chosen);
                    let count = match request.content_type {
                        ContentType::Json => serde_json::from_str::<Vec<serde_json::Value>>(&written).unwrap().len(),
                        ContentType::Text => written.lines().count(),
                    };
                    assert_eq!(count, chosen.len(), "{written}");
                }
            }
            Ok(_) => {}
            Err(why) => assert!(!why.is_empty()),
        }
    }
}
