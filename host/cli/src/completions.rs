//! `marram completions`: a script for a shell, made from the command line itself. Installs nothing.

use clap::Command;
use clap_complete::{generate, shells};

use crate::{
    args::{Completions, Shell},
    failure::Failure,
    help, output,
};

pub(crate) fn completions(args: &Completions) -> Result<(), Failure> {
    let (mut command, mut script) = (visible(&help::command()), Vec::new());
    match args.shell {
        Shell::Bash => generate(shells::Bash, &mut command, "marram", &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, "marram", &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, "marram", &mut script),
    }
    output::data(&String::from_utf8_lossy(&script))
}

/// The command line without what its help hides: the generators would offer that too.
fn visible(whole: &Command) -> Command {
    let commands = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let args = whole.get_arguments().cloned();
    Command::new("marram").version(env!("CARGO_PKG_VERSION")).args(args).subcommands(commands)
}
