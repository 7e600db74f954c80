//! The commands that ask the running host: apply, list, restart, twin.

use std::path::Path;

use bytes::Bytes;
use marram_agent::{Applied, QueueStatus, Status, TwinView};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    args::{Apply, Ask, Format, Restart, Twin},
    client::{Call, segment},
    colour::{self, Paint},
    config,
    failure::{Code, Failure},
    input,
    output::{self, Table, plain},
    twin_watch,
};

pub(crate) fn apply(args: Apply) -> Result<(), Failure> {
    let text = input::text(&args.file)?;
    let applied = answer(&args.ask, Call::put("/v1/deployment", text.clone()), |applied: Applied| {
        warn(&applied);
        match applied.changed {
            true => format!("deployment {} is in force\n", applied.version),
            false => format!("deployment {} is in force already\n", applied.version),
        }
    });
    // The host knows the paths of faults; the text is here.
    applied.map_err(|failure| failure.located(&text))
}

/// Warnings of what was put in force.
pub(crate) fn warn(applied: &Applied) {
    for warning in &applied.warnings {
        output::talk(&format!("warning: {}\n", plain(warning)));
    }
}

pub(crate) fn list(args: Ask) -> Result<(), Failure> {
    answer(&args, Call::get("/v1/status"), |status: Status| {
        if status.modules.is_empty() {
            output::talk("no modules are deployed; `marram apply FILE` deploys some\n");
        }
        let paints: Vec<Option<Paint>> = status.modules.iter().map(|module| output::trouble(&module.status)).collect();
        let mut table =
            Table::new(&["NAME", "STATUS", "RESTARTS", "MEMORY", "WAITING", "DESCRIPTION", "IMAGE"], &[2, 3, 4]);
        for module in status.modules {
            table.row([
                module.name.to_string(),
                module.status,
                module.restart_count.to_string(),
                output::bytes(module.memory_bytes),
                waiting(&status.queues, module.name.as_str()).to_string(),
                module.description,
                module.image,
            ]);
        }
        let paints = std::iter::once(Some(Paint::Head)).chain(paints);
        table.lines().iter().zip(paints).map(|(line, paint)| painted(line, paint) + "\n").collect()
    })
}

/// Messages that wait for a module, over all its inputs.
fn waiting(queues: &[QueueStatus], module: &str) -> usize {
    let of_module = |queue: &&QueueStatus| queue.endpoint.split_once('/').is_some_and(|(name, _)| name == module);
    queues.iter().filter(of_module).map(|queue| queue.length).sum()
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
        Twin::Watch { module, ask } => twin_watch::watch(&module, &ask),
    }
}

/// Sends the call and writes the answer: as it came, or as `text` puts it for people.
pub(crate) fn answer<T: DeserializeOwned>(
    ask: &Ask,
    call: Call,
    text: impl FnOnce(T) -> String,
) -> Result<(), Failure> {
    let data = config::data_folder(&ask.place, None)?;
    let bytes = call.send(&data)?;
    match ask.format {
        Format::Json => output::data(&format!("{}\n", String::from_utf8_lossy(&bytes))),
        Format::Text => output::data(&text(read(&bytes)?)),
    }
}

/// The host's answer to a call.
pub(crate) fn read<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::new(Code::Failed, format!("cannot read the host's answer: {error}"))
            .hint("the host may be of another version; `marram version` shows this one's, --format json the answer")
    })
}

fn painted(line: &str, paint: Option<Paint>) -> String {
    paint.map_or_else(|| line.to_owned(), |paint| colour::paint(line, paint, colour::out()).into_owned())
}

fn twin_text(twin: &TwinView) -> String {
    // Pretty JSON escapes control characters by itself.
    let section = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
    let changed = |name: &str| match twin.properties[name]["$metadata"]["$lastUpdated"].as_str() {
        Some(time) => format!(", last changed {}", plain(time)),
        None => String::new(),
    };
    let local = match &twin.local_changes {
        Value::Object(changes) if !changes.is_empty() => {
            format!("changed here since\n{}\n", section(&twin.local_changes))
        }
        _ => String::new(),
    };
    format!(
        "desired, version {}, written by {}{}\n{}\n{local}reported, version {}{}\n{}\n",
        twin.desired_version,
        plain(&twin.desired_origin),
        changed("desired"),
        section(&twin.desired),
        twin.reported_version,
        changed("reported"),
        section(&twin.reported),
    )
}
