//! `marram traps`: why instances of a module were ended, and what they were doing.

use std::path::Path;

use marram_agent::ModuleTraps;
use marram_core::traps::{CoreDump, During, HandledCall, HandledMessage, HeldMessages, Trap};

use serde_json::json;

use crate::{
    access::Scratch,
    args::{Format, Traps},
    ask::{answer, read},
    client::{Call, segment},
    config,
    failure::{Code, Failure},
    output::{self, bytes, plain},
    pull::{place, refuse_what_is_there},
};

pub(crate) fn traps(args: &Traps) -> Result<(), Failure> {
    let call = Call::get(format!("/v1/modules/{}/traps", segment(&args.module)));
    if let Some(file) = &args.dump {
        return dump(args, call, file);
    }
    answer(&args.ask, call, |traps: ModuleTraps| {
        if traps.traps.is_empty() {
            output::talk(&format!("no trap of {} is known\n", plain(&args.module)));
        }
        traps.traps.iter().map(text).collect::<Vec<_>>().join("\n")
    })
}

/// The owner's alone, as it is in the host's folder.
const DUMP_MODE: u32 = 0o600;

/// The host tells where the dump lies, and who may ask it may read it: the file need not pass through the host's memory.
fn dump(args: &Traps, call: Call, file: &Path) -> Result<(), Failure> {
    refuse_what_is_there(file, args.force)?;
    let answer: ModuleTraps = read(&call.send(&config::data_folder(&args.ask.place, None)?)?)?;
    let Some(CoreDump { file: kept, .. }) = answer.traps.iter().find_map(|trap| trap.core_dump.as_ref()) else {
        let none = format!("no core dump of {} is kept", plain(&args.module));
        return Err(Failure::new(Code::Failed, none)
            .hint("`modules.core-dump-max-bytes` in marram.toml asks for one of the next trap"));
    };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let size = place(Path::new(kept), &Scratch::new(folder)?, file, args.force, DUMP_MODE)?;
    output::data(&match args.ask.format {
        Format::Text => format!("{}, {}\n", file.display(), bytes(size)),
        Format::Json => format!("{}\n", json!({ "file": file.to_string_lossy(), "bytes": size })),
    })
}

fn text(trap: &Trap) -> String {
    let mut text = format!("{} exit {}: {}\n", trap.at, trap.exit_code, plain(&trap.reason));
    if let Some(during) = &trap.during {
        text += &format!("  during {}\n", plain(&doing(during)));
    }
    let digest = trap.digest.as_ref().map(|digest| format!(", {digest}")).unwrap_or_default();
    text += &format!("  image {}{digest}, deployment {}\n", plain(&trap.image), trap.deployment);
    if let Some(dump) = &trap.core_dump {
        let left_out = match dump.left_out_bytes {
            0 => String::new(),
            more => format!(", without {} of memory beyond the bound", bytes(more)),
        };
        text += &format!("  core dump {}, {}{left_out}\n", plain(&dump.file), bytes(dump.bytes));
    }
    for frame in &trap.backtrace {
        text += &format!("    {}\n", plain(frame));
    }
    match &trap.during {
        Some(During::Message(HandledMessage { body: Some(body), .. })) => text += &format!("  body {}\n", plain(body)),
        Some(During::Method(HandledCall { payload: Some(payload), .. })) => {
            text += &format!("  payload {}\n", plain(payload));
        }
        Some(During::Messages(held)) => text.extend(held.messages.iter().map(one_of_several)),
        _ => {}
    }
    text
}

fn one_of_several(message: &HandledMessage) -> String {
    let body = message.body.as_ref().map(|body| format!("    body {}\n", plain(body))).unwrap_or_default();
    format!("  held {}\n{body}", plain(&described(message)))
}

fn doing(during: &During) -> String {
    match during {
        During::Start => "its start-handler".into(),
        During::Twin { version } => format!("desired properties, version {version}"),
        During::Timer { name } => format!("timer `{name}`"),
        During::Method(call) => format!("method `{}`, {}", call.name, bytes(call.bytes as u64)),
        During::Message(message) => format!("message {}", described(message)),
        During::Messages(HeldMessages { held, messages }) if *held > messages.len() => {
            format!("its own work, with {held} messages unsettled; the last {} of them:", messages.len())
        }
        During::Messages(HeldMessages { held: 1, .. }) => "its own work, with 1 message unsettled:".into(),
        During::Messages(HeldMessages { held, .. }) => format!("its own work, with {held} messages unsettled:"),
    }
}

fn described(message: &HandledMessage) -> String {
    let HandledMessage { source, sequence, input, attempt, .. } = message;
    format!("{source} #{sequence} on input `{input}`, attempt {attempt}, {}", bytes(message.bytes as u64))
}
