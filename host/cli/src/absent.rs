//! Commands that a build may lack, and what it says of them: a device has no `module push`, but it is not an unknown word.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::{Code, Failure};

/// A feature of this crate that brings commands.
struct Feature {
    name: &'static str,
    built_in: bool,
    /// Names as typed, the last word of each.
    commands: &'static [&'static str],
    /// Where to do it instead.
    instead: &'static str,
}

const AT_A_DESK: &str = "use the full build of marram on another machine; `marram version` lists what this one has";

/// Every command that stands under `#[cfg(feature)]` in `args.rs`.
const FEATURES: [Feature; 2] = [
    Feature {
        name: "author",
        built_in: cfg!(feature = "author"),
        commands: &["push", "init", "componentize", "completions", "man"],
        instead: AT_A_DESK,
    },
    Feature {
        name: "compiler",
        built_in: cfg!(feature = "compiler"),
        commands: &["compile", "compile-helper"],
        instead: AT_A_DESK,
    },
];

/// What to say instead of "unrecognized subcommand", if the command line names a command that this build lacks.
pub(crate) fn explain(error: &clap::Error) -> Option<Failure> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let feature = FEATURES.iter().find(|it| !it.built_in && it.commands.contains(&name.as_str()))?;
    let message = format!("this build of marram has no `{name}`: it was made without the feature `{}`", feature.name);
    Some(Failure::new(Code::Usage, message).hint(feature.instead))
}

/// The features of this build, as `marram version` lists them.
pub(crate) fn built_in() -> Vec<&'static str> {
    let all = [
        ("compiler", cfg!(feature = "compiler")),
        ("cross", cfg!(feature = "cross")),
        ("author", cfg!(feature = "author")),
        ("console", cfg!(feature = "console")),
        ("device", cfg!(feature = "device")),
    ];
    all.into_iter().filter(|(_, built_in)| *built_in).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::*;
    use crate::args::Cli;

    fn names(command: &Command) -> Vec<String> {
        let deeper = command.get_subcommands().flat_map(names);
        command.get_subcommands().map(|command| command.get_name().to_owned()).chain(deeper).collect()
    }

    #[test]
    fn a_command_is_there_with_its_feature_and_explained_without() {
        let there = names(&Cli::command());
        for feature in &FEATURES {
            for name in feature.commands {
                assert_eq!(there.iter().any(|there| there == name), feature.built_in, "{name}");
            }
        }
    }
}
