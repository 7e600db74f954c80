//! `marram traps`: why instances of a module were ended, and what they were doing.

use marram_agent::ModuleTraps;
use marram_core::traps::{During, Trap};

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
    if let Some(During::Message(message)) = &trap.during
        && let Some(body) = &message.body
    {
        text += &format!("  body {}\n", plain(body));
    }
    text
}

fn doing(during: &During) -> String {
    match during {
        During::Start => "its start-handler".into(),
        During::Twin { version } => format!("desired properties, version {version}"),
        During::Timer { name } => format!("timer `{name}`"),
        During::Method { name } => format!("method `{name}`"),
        During::Message(message) => format!(
            "message {} #{} on input `{}`, attempt {}, {}",
            message.source,
            message.sequence,
            message.input,
            message.attempt,
            bytes(message.bytes as u64)
        ),
    }
}
