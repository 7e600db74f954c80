//! Wrong command lines, told like every other error: what, where, what to try. Clap reads the line; its findings are put
//! into our form here.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::{
    absent, colour,
    failure::{Code, Failure},
    output,
};

/// What is wrong with the command line; none: it asks for the help or the version.
pub(crate) fn failure(error: &clap::Error) -> Option<Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            None
        }
        _ => {
            Some(absent::explain(error).unwrap_or_else(|| Failure::new(Code::Usage, message(error)).hint(hint(error))))
        }
    }
}

/// Shows the help or the version where clap means it to go. Nobody to read it is no error.
pub(crate) fn show(error: &clap::Error) {
    let text = error.render();
    let coloured = if error.use_stderr() { colour::err() } else { colour::out() };
    let text = if coloured { text.ansi().to_string() } else { text.to_string() };
    match error.use_stderr() {
        true => output::talk(&text),
        false => {
            let _ = output::data(&text);
        }
    }
}

/// Whether a script reads the answer: the line could not be read, but this can be seen in it.
pub(crate) fn wants_json(words: &[OsString]) -> bool {
    words.iter().any(|word| word == "--format=json")
        || words.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}

fn message(error: &clap::Error) -> String {
    let argument = words(error, ContextKind::InvalidArg).join("`, `");
    let value = words(error, ContextKind::InvalidValue).join(" ");
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            format!("there is no command `{}`", words(error, ContextKind::InvalidSubcommand).join(" "))
        }
        ErrorKind::UnknownArgument if argument.starts_with('-') => format!("there is no option `{argument}` here"),
        ErrorKind::UnknownArgument => format!("`{argument}` is one argument too many"),
        ErrorKind::MissingRequiredArgument if argument.contains("`, `") => format!("`{argument}` are missing"),
        ErrorKind::MissingRequiredArgument => format!("`{argument}` is missing"),
        ErrorKind::InvalidValue if value.is_empty() => format!("`{argument}` needs a value"),
        ErrorKind::InvalidValue => format!("`{value}` is no value of `{argument}`{}", listed(error)),
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map_or_else(String::new, |why| format!(": {why}"));
            format!("`{value}` is no value of `{argument}`{why}")
        }
        ErrorKind::ArgumentConflict => {
            let other = words(error, ContextKind::PriorArg).join("`, `");
            if other == argument || other.is_empty() {
                format!("`{argument}` stands twice")
            } else {
                format!("`{argument}` cannot stand beside `{other}`")
            }
        }
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8".into(),
        _ => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).replace('\'', "`")
        }
    }
}

/// ` (text, json)`.
fn listed(error: &clap::Error) -> String {
    match words(error, ContextKind::ValidValue) {
        none if none.is_empty() => String::new(),
        values => format!(" ({})", values.join(", ")),
    }
}

/// What was probably meant; else how the command is written.
fn hint(error: &clap::Error) -> String {
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    // The nearest one is the last.
    if let Some(near) = kinds.into_iter().find_map(|kind| words(error, kind).pop()) {
        return format!("did you mean `{near}`?");
    }
    if error.kind() == ErrorKind::InvalidSubcommand {
        return "`--help` lists the commands".into();
    }
    usage(&words(error, ContextKind::Usage).join(" ")).unwrap_or_else(|| "`--help` lists the options".into())
}

/// The usage of the command that `told` is about. Clap's own words would hold what this line has, and what the environment
/// has, in place of what may be written.
fn usage(told: &str) -> Option<String> {
    let names = told.strip_prefix("Usage: marram")?.split_whitespace();
    let mut command = crate::help::command();
    command.build();
    let mut inner = &mut command;
    for name in names.take_while(|word| !word.starts_with(['-', '<', '['])) {
        inner = inner.find_subcommand_mut(name)?;
    }
    let usage = inner.render_usage().to_string();
    Some(format!("usage: {}", usage.strip_prefix("Usage: ")?.split_whitespace().collect::<Vec<_>>().join(" ")))
}

fn words(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(word)) => vec![word.clone()],
        Some(ContextValue::Strings(words)) => words.clone(),
        Some(ContextValue::StyledStr(text)) => vec![text.to_string()],
        Some(ContextValue::StyledStrs(texts)) => texts.iter().map(ToString::to_string).collect(),
        Some(ContextValue::Number(number)) => vec![number.to_string()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> String {
        let error = crate::help::command().try_get_matches_from(line.split(' ')).unwrap_err();
        failure(&error).unwrap().to_text()
    }

    #[test]
    fn wrong_command_lines_are_told_like_other_errors() {
        let table = [
            ("marram xylophone", "error: there is no command `xylophone`\nhint: `--help` lists the commands\n"),
            ("marram lst", "error: there is no command `lst`\nhint: did you mean `list`?\n"),
            ("marram twin gett m", "error: there is no command `gett`\nhint: did you mean `get`?\n"),
            (
                "marram list --fromat json",
                "error: there is no option `--fromat` here\nhint: did you mean `--format`?\n",
            ),
            (
                "marram list --format xml",
                "error: `xml` is no value of `--format <FORMAT>` (text, json)\nhint: `--help` lists the options\n",
            ),
            (
                "marram compile",
                "error: `--output <FOLDER>`, `<FILE|REFERENCE>...` are missing\n\
                 hint: usage: marram compile [OPTIONS] --output <FOLDER> <FILE|REFERENCE>...\n",
            ),
            ("marram check", "error: `<FILE>` is missing\nhint: usage: marram check [OPTIONS] <FILE>\n"),
            ("marram list a", "error: `a` is one argument too many\nhint: usage: marram list [OPTIONS]\n"),
            (
                "marram twin set m",
                "error: `<PATCH>` is missing\nhint: usage: marram twin set [OPTIONS] <MODULE> <PATCH>\n",
            ),
            (
                "marram run --plain --plain",
                "error: `--plain` stands twice\nhint: usage: marram run [OPTIONS] [DEPLOYMENT]\n",
            ),
        ];
        for (line, expected) in table {
            assert_eq!(told(line), expected, "{line}");
        }
        let tail = told("marram logs m --tail x");
        assert!(tail.starts_with("error: `x` is no value of `--tail <N>`: invalid digit"), "{tail}");
        let grace = told("marram run --grace 9999");
        assert!(
            grace.starts_with("error: `9999` is no value of `--grace <SECONDS>`: 9999 is not in 0..=3600"),
            "{grace}"
        );
    }

    #[test]
    fn help_and_version_are_no_failures() {
        for line in ["marram --help", "marram twin -h", "marram --version", "marram"] {
            let error = crate::help::command().try_get_matches_from(line.split(' ')).unwrap_err();
            assert_eq!(failure(&error), None, "{line}");
        }
    }

    #[test]
    fn a_script_is_recognised_by_what_it_asks_for() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(&words("marram lst --format json")) && wants_json(&words("marram lst --format=json")));
        assert!(!wants_json(&words("marram run --log-format json")));
    }
}
