//! `marram traps`: why instances of a module were ended, and what they were doing.

use marram_agent::ModuleTraps;
use marram_core::traps::{During, HandledCall, HandledMessage, HeldMessages, Trap};

use crate::{
    args::Traps,
    ask::answer,
    client::{Call, segment},
    failure::Failure,
    output::{self, bytes, plain},
};

pub(crate) fn traps(args: &Traps) -> Result<(), Failure> {
    let call = Call::get(format!("/v1/modules/{}/traps", segment(&args.module)));
    answer(&args.ask, call, |traps: ModuleTraps| {
        if traps.traps.is_empty() {
            output::talk(&format!("no trap of {} is known\n", plain(&args.module)));
        }
        traps.traps.iter().map(text).collect::<Vec<_>>().join("\n")
    })
}

fn text(trap: &Trap) -> String {
    let mut text = format!("{} exit {}: {}\n", trap.at, trap.exit_code, plain(&trap.reason));
    if let Some(during) = &trap.during {
        text += &format!("  during {}\n", plain(&doing(during)));
    }
    let digest = trap.digest.as_ref().map(|digest| format!(", {digest}")).unwrap_or_default();
    text += &format!("  image {}{digest}, deployment {}\n", plain(&trap.image), trap.deployment);
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
