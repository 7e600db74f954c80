//! Whether words are coloured: `--color`, then `NO_COLOR`, `CLICOLOR_FORCE` and `CLICOLOR`, then whether a terminal shows
//! them (the customs of no-color.org and bixense.com/clicolors, as the library reads them). JSON never is.

use std::{borrow::Cow, ffi::OsString, io};

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;

/// What a text is, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// It failed.
    Error,
    /// It may fail, or does again and again.
    Warning,
    /// What to try.
    Hint,
    /// Heads of tables.
    Head,
    /// Of less interest than the rest of its line.
    Dim,
}

impl Paint {
    /// Parameters of SGR (ECMA-48). The eight colours that follow the terminal's own theme.
    fn code(self) -> &'static str {
        match self {
            Self::Error => "1;31",
            Self::Warning => "33",
            Self::Hint => "36",
            Self::Head => "1",
            Self::Dim => "2",
        }
    }
}

/// The labels that words to people begin with.
const LABELS: [(&str, Paint); 4] =
    [("error:", Paint::Error), ("warning:", Paint::Warning), ("note:", Paint::Head), ("hint:", Paint::Hint)];

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum When {
    /// On a terminal, unless NO_COLOR is set; elsewhere if CLICOLOR_FORCE is
    #[default]
    Auto,
    Always,
    Never,
}

/// Reads `--color` out of the words of the command line: what clap says of wrong ones is coloured too. Clap checks the value.
pub(crate) fn choose(words: &[OsString]) {
    let mut words = words.iter().filter_map(|word| word.to_str()).take_while(|word| *word != "--");
    let mut value = None;
    while let Some(word) = words.next() {
        match word.strip_prefix("--color") {
            Some("") => value = words.next(),
            Some(rest) => value = rest.strip_prefix('=').or(value),
            None => {}
        }
    }
    match value {
        Some("always") => ColorChoice::AlwaysAnsi.write_global(),
        Some("never") => ColorChoice::Never.write_global(),
        _ => {}
    }
}

/// Whether answers are coloured.
pub(crate) fn out() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// Whether talk is coloured.
pub(crate) fn err() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// The text in its colour, if there are colours.
pub(crate) fn paint(text: &str, paint: Paint, on: bool) -> Cow<'_, str> {
    if on { format!("\x1b[{}m{text}\x1b[0m", paint.code()).into() } else { text.into() }
}

/// The labels at the beginnings of lines in their colours.
pub(crate) fn labels(text: &str, on: bool) -> Cow<'_, str> {
    if !on {
        return text.into();
    }
    text.split_inclusive('\n').map(label).collect::<String>().into()
}

fn label(line: &str) -> String {
    let rest = line.trim_start_matches(' ');
    let indent = &line[..line.len() - rest.len()];
    match LABELS.iter().find_map(|(word, paint)| Some((*word, *paint, rest.strip_prefix(word)?))) {
        Some((word, kind, rest)) => format!("{indent}{}{rest}", paint(word, kind, true)),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_coloured_and_nothing_else() {
        let text = "error: no error: here\n  a.b: bad\n    hint: try\n";
        let painted = "\x1b[1;31merror:\x1b[0m no error: here\n  a.b: bad\n    \x1b[36mhint:\x1b[0m try\n";
        assert_eq!(labels(text, true), painted);
        assert_eq!(labels(text, false), text);
    }
}
