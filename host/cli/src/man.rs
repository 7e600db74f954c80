//! `marram man`: manual pages, made from the command line itself and from what `help` adds to it. Installs nothing.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, italic, roman},
};

use crate::{
    args,
    failure::{Code, Failure, count},
    help::{self, EXIT_CODES},
    output,
};

/// What lies where; `docs/configuration.md` says more.
const FILES: [(&str, &str); 3] = [
    ("/etc/marram/marram.toml, ~/.config/marram/marram.toml", "settings of the device; the user's own comes first"),
    ("/var/lib/marram", "data folder of root: deployment, twins, caches, journal, control socket"),
    ("~/.local/state/marram", "data folder of other users"),
];

const ENVIRONMENT: [(&str, &str); 8] = [
    ("MARRAM_CONFIG", "as --config"),
    ("MARRAM_DATA", "as --data"),
    ("MARRAM_LOG", "filter of the log lines of marram run, e.g. info,marram_registry=debug,module=off"),
    (
        "HTTPS_PROXY, ALL_PROXY, NO_PROXY",
        "the proxy for HTTPS registries, unless marram.toml names one, and its exceptions",
    ),
    (
        "DOCKER_CONFIG",
        "folder of Docker's config.json, whose logins module push, pull and inspect use [default: ~/.docker]",
    ),
    ("NO_COLOR", "no colours, whatever its value, unless empty"),
    ("CLICOLOR_FORCE", "colours also where there is no terminal, unless empty or 0"),
    ("TMPDIR", "where module inspect keeps what it fetches meanwhile"),
];

/// A page: the name of its file, and its text.
type Page = (String, Vec<u8>);

pub(crate) fn man(args: &args::Man) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(Code::Failed, format!("cannot write the manual pages: {error}"));
    let pages = pages().map_err(failed)?;
    match &args.output {
        Some(folder) => {
            write(&pages, folder).map_err(|error| {
                let folder = folder.display();
                Failure::new(Code::Failed, format!("cannot write the manual pages into {folder}: {error}"))
            })?;
            output::talk(&format!("{} written\n", count(pages.len(), "page")));
            Ok(())
        }
        None => output::data(&pages.first().map(|(_, page)| String::from_utf8_lossy(page)).unwrap_or_default()),
    }
}

fn write(pages: &[Page], folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    pages.iter().try_for_each(|(name, page)| fs::write(folder.join(name), page))
}

/// All pages, marram.1 first.
fn pages() -> io::Result<Vec<Page>> {
    // `help` is no command of its own worth a page.
    let mut command = help::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, "", &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &Command, path: &str, pages: &mut Vec<Page>) -> io::Result<()> {
    pages.push(page(command, path)?);
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        add_pages(inner, format!("{path} {}", inner.get_name()).trim_start(), pages)?;
    }
    Ok(())
}

fn page(command: &Command, path: &str) -> io::Result<Page> {
    // Without a date: the same version writes the same page.
    let source = format!("marram {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(source).manual("Marram");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let more = help::more(path);
    more.map_or("", |more| more.text).lines().try_for_each(|text| paragraph(&mut page, text))?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().any(|inner| !inner.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    if let Some(more) = more {
        examples(&mut roff, more.examples);
    }
    exit_status(&mut roff, path);
    if path.is_empty() {
        terms(&mut roff, "FILES", &FILES);
        terms(&mut roff, "ENVIRONMENT", &ENVIRONMENT);
    }
    see_also(&mut roff, path);
    roff.to_writer(&mut page)?;
    Ok((man.get_filename(), ascii(&String::from_utf8_lossy(&page))))
}

/// The page for every roff and every locale: what is not ASCII by its number.
fn ascii(page: &str) -> Vec<u8> {
    let escape = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\[u{:04X}]", u32::from(c)) };
    page.chars().map(escape).collect::<String>().into_bytes()
}

fn paragraph(page: &mut dyn Write, text: &str) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("PP", []);
    roff.text([roman(text)]);
    roff.to_writer(page)
}

fn examples(roff: &mut Roff, examples: &[(&str, &str)]) {
    roff.control("SH", ["EXAMPLES"]);
    for (line, what) in examples {
        roff.control("TP", []);
        roff.text([bold(*line)]);
        roff.text([roman(*what)]);
    }
}

fn exit_status(roff: &mut Roff, path: &str) {
    if path.is_empty() {
        return terms(roff, "EXIT STATUS", &EXIT_CODES);
    }
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([roman("0 when it is done; "), bold("marram"), roman("(1) lists the others.")]);
}

fn terms(roff: &mut Roff, heading: &str, terms: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    for (term, meaning) in terms {
        roff.control("TP", []);
        roff.text([italic(*term)]);
        roff.text([roman(*meaning)]);
    }
}

/// The page above. The main page lists the others already.
fn see_also(roff: &mut Roff, path: &str) {
    if path.is_empty() {
        return;
    }
    let above = path.rsplit_once(' ').map_or_else(String::new, |(above, _)| format!("-{}", above.replace(' ', "-")));
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold(format!("marram{above}")), roman("(1)")]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(name: &str) -> String {
        let (_, page) = pages().unwrap().into_iter().find(|(file, _)| file == name).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn each_command_has_a_page_and_hidden_ones_have_none() {
        let names: Vec<String> = pages().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names[0], "marram.1");
        for name in ["marram-run.1", "marram-twin.1", "marram-twin-set.1", "marram-module-push.1", "marram-man.1"] {
            assert!(names.iter().any(|there| there == name), "{name} is not in {names:?}");
        }
        assert!(names.iter().all(|name| !name.contains("helper") && !name.contains("help.1")), "{names:?}");
    }

    #[test]
    fn a_page_has_what_a_reader_of_manuals_looks_for() {
        let sections = |name: &str| -> Vec<String> {
            page_of(name)
                .lines()
                .filter_map(|line| line.strip_prefix(".SH "))
                .map(|name| name.replace('"', ""))
                .collect()
        };
        let common = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "EXIT STATUS", "SEE ALSO"];
        assert_eq!(sections("marram-twin-set.1"), common);
        let main = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SUBCOMMANDS", "EXIT STATUS", "FILES", "ENVIRONMENT"];
        assert_eq!(sections("marram.1"), main);
        assert!(
            page_of("marram-twin-set.1").ends_with("\\fBmarram\\-twin\\fR(1)\n"),
            "{}",
            page_of("marram-twin-set.1")
        );
        assert!(page_of("marram-run.1").ends_with("\\fBmarram\\fR(1)\n"), "{}", page_of("marram-run.1"));
    }
}
