//! The commands that ask the running host: apply, list, logs, restart, twin.

use std::{
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use marram_agent::{Applied, LogLine, Status, TwinView};
use marram_core::ports::LogStream;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    args::{Apply, Ask, Format, Logs, Restart, Twin},
    client::{Call, segment},
    config,
    failure::{Code, Failure},
    input,
    output::{self, Table, plain},
};

pub(crate) fn apply(args: Apply) -> Result<(), Failure> {
    let text = input::text(&args.file)?;
    answer(&args.ask, Call::put("/v1/deployment", text), |applied: Applied| {
        for warning in &applied.warnings {
            output::talk(&format!("warning: {}\n", plain(warning)));
        }
        match applied.changed {
            true => format!("deployment {} is in force\n", applied.version),
            false => format!("deployment {} is in force already\n", applied.version),
        }
    })
}

pub(crate) fn list(args: Ask) -> Result<(), Failure> {
    answer(&args, Call::get("/v1/status"), |status: Status| {
        if status.modules.is_empty() {
            output::talk("no modules are deployed; `marram apply FILE` deploys some\n");
        }
        let mut table = Table::new(&["NAME", "STATUS", "RESTARTS", "MEMORY", "DESCRIPTION", "IMAGE"], &[2, 3]);
        for module in status.modules {
            table.row([
                module.name.to_string(),
                module.status,
                module.restart_count.to_string(),
                output::bytes(module.memory_bytes),
                module.description,
                module.image,
            ]);
        }
        lines(&table.lines())
    })
}

pub(crate) fn logs(args: Logs) -> Result<(), Failure> {
    let tail = args.tail.map(|tail| format!("?tail={tail}")).unwrap_or_default();
    let call = Call::get(format!("/v1/modules/{}/logs{tail}", segment(&args.module)));
    answer(&args.ask, call, |lines: Vec<LogLine>| lines.iter().map(log_line).collect())
}

pub(crate) fn restart(args: Restart) -> Result<(), Failure> {
    let call = Call::post(format!("/v1/modules/{}/restart", segment(&args.module)));
    answer(&args.ask, call, |_: Value| format!("{} is being restarted\n", args.module))
}

pub(crate) fn twin(args: Twin) -> Result<(), Failure> {
    match args {
        Twin::Get { module, ask } => {
            answer(&ask, Call::get(format!("/v1/modules/{}/twin", segment(&module))), |twin| twin_text(&twin))
        }
        Twin::Set { module, patch, ask } => {
            let patch = if patch == "-" { input::text(Path::new("-"))? } else { patch };
            let call = Call::patch(format!("/v1/modules/{}/twin/desired", segment(&module)), patch);
            answer(&ask, call, |answer: Value| format!("desired version {}\n", answer["version"]))
        }
    }
}

/// Sends the call and writes the answer: as it came, or as `text` puts it for people.
fn answer<T: DeserializeOwned>(ask: &Ask, call: Call, text: impl FnOnce(T) -> String) -> Result<(), Failure> {
    let data = config::data_folder(&ask.place, None)?;
    let bytes = call.send(&data)?;
    match ask.format {
        Format::Json => output::data(&format!("{}\n", String::from_utf8_lossy(&bytes))),
        Format::Text => output::data(&text(read(&bytes)?)),
    }
}

fn read<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::new(Code::Failed, format!("cannot read the host's answer: {error}"))
            .hint("the host may be of another version; `marram version` shows this one's, --format json the answer")
    })
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn log_line(line: &LogLine) -> String {
    let stream = match line.stream {
        LogStream::Out => "out",
        LogStream::Err => "err",
    };
    // The host's clock may say anything; RFC 3339 ends with the year 9999.
    let time = UNIX_EPOCH + Duration::from_millis(line.time.0.min(253_402_300_799_999));
    format!("{} {stream} {}\n", humantime::format_rfc3339_millis(time), plain(&line.text))
}

fn twin_text(twin: &TwinView) -> String {
    // Pretty JSON escapes control characters by itself.
    let section = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    format!(
        "desired, version {}, written by {}\n{}\nreported, version {}\n{}\n",
        twin.desired_version,
        plain(&twin.desired_origin),
        section(&twin.desired),
        twin.reported_version,
        section(&twin.reported),
    )
}

#[cfg(test)]
mod tests {
    use marram_core::time::UtcMillis;

    use super::*;

    #[test]
    fn a_log_line_tells_when_and_where_and_cannot_fake_a_screen() {
        let line = LogLine { time: UtcMillis(1_700_000_000_123), stream: LogStream::Err, text: "a\u{1b}[2Jb".into() };
        assert_eq!(log_line(&line), "2023-11-14T22:13:20.123Z err a\u{fffd}[2Jb\n");
        let odd = LogLine { time: UtcMillis(u64::MAX), ..line };
        assert!(log_line(&odd).starts_with("9999-12-31"));
    }
}
