//! `marram init`: a commented `marram.toml` and a first deployment in a folder. Never writes over anything, and writes all
//! of it or nothing.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    args::{Format, Init},
    failure::{Code, Failure},
    output,
};

/// What is written. JSON has no comments: the deployment is the one that the README explains, and `docs/manifest.md` has
/// all its keys.
const FILES: [(&str, &str); 2] = [
    ("marram.toml", include_str!("../templates/marram.toml")),
    ("deployment.json", include_str!("../../../guest-examples/hello-marram/deployment.json")),
];

pub(crate) fn init(args: Init) -> Result<(), Failure> {
    let folder = args.folder;
    refuse_what_is_there(&folder)?;
    let written = write(&folder)?;
    match args.format {
        Format::Json => {
            let files: Vec<_> = written.iter().map(|path| path.display().to_string()).collect();
            output::data(&format!("{}\n", json!({ "files": files })))
        }
        Format::Text => {
            let files: String = written.iter().map(|path| format!("{}\n", path.display())).collect();
            output::data(&files)?;
            output::talk(&next_steps(&folder));
            Ok(())
        }
    }
}

/// What is to be typed next, as it can be pasted.
fn next_steps(folder: &Path) -> String {
    let enter = if folder == Path::new(".") { String::new() } else { format!("  cd {}\n", quoted(folder)) };
    format!(
        "next: push your first module, check the deployment, run it\n{enter}  export MARRAM_CONFIG=\"$PWD/marram.toml\"\n  \
         marram module push MODULE.wasm oci:layout:hello\n  marram check deployment.json\n  marram run deployment.json\n"
    )
}

/// For a shell: in single quotes when it has to be.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) && !text.starts_with('-') { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn refuse_what_is_there(folder: &Path) -> Result<(), Failure> {
    let there: Vec<String> = FILES
        .iter()
        .map(|(name, _)| folder.join(name))
        .filter(|path| path.symlink_metadata().is_ok())
        .map(|path| path.display().to_string())
        .collect();
    if there.is_empty() {
        return Ok(());
    }
    let verb = if there.len() == 1 { "is" } else { "are" };
    let message = format!("{} {verb} there already; nothing was written", there.join(" and "));
    Err(Failure::new(Code::Failed, message).hint("name another folder: `marram init DIR`"))
}

fn write(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let cannot =
        |path: &Path, error: io::Error| Failure::new(Code::Failed, format!("cannot write {}: {error}", path.display()));
    fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    let mut written = Vec::new();
    for (name, text) in FILES {
        let path = folder.join(name);
        // Somebody may be quicker than we: what has come meanwhile is not written over either.
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let is_new = file.is_ok();
        if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
            let ours = written.iter().chain(is_new.then_some(&path));
            ours.for_each(|path: &PathBuf| drop(fs::remove_file(path)));
            return Err(cannot(&path, error));
        }
        written.push(path);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn template() -> &'static str {
        FILES[0].1
    }

    /// The template with all that can be uncommented uncommented.
    fn uncommented(leave_out: &str) -> String {
        let key = |line: &str| {
            let rest = line.strip_prefix("# ")?;
            let name = rest.split(" = ").next().filter(|name| !name.contains(' ') && rest.contains(" = "))?;
            (rest.starts_with("[[") || name != leave_out).then(|| rest.to_owned())
        };
        let section = |line: &str| line.strip_prefix("# ").filter(|rest| rest.starts_with('[')).map(str::to_owned);
        template()
            .lines()
            .map(|line| section(line).or_else(|| key(line)).unwrap_or_else(|| line.to_owned()) + "\n")
            .collect()
    }

    /// The keys of a file as the documentation writes them: `registries.credentials[].address`.
    fn keys(text: &str) -> Vec<String> {
        let mut section = String::new();
        let mut keys = Vec::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
                section = format!("{name}[].");
            } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = format!("{name}.");
            } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
                keys.push(format!("{section}{key}"));
            }
        }
        keys
    }

    #[test]
    fn every_key_of_the_documentation_stands_in_the_commented_file() {
        let documentation = include_str!("../../../docs/configuration.md");
        let table = documentation.split("## Keys").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
        let documented: Vec<&str> =
            table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        assert!(documented.len() > 10, "{documented:?}");
        assert_eq!(keys(&uncommented("")), documented, "templates/marram.toml, and its order");
    }

    #[test]
    fn what_is_written_is_good_and_stays_so_when_it_is_uncommented() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("marram.toml");
        for text in [template().to_owned(), uncommented("password"), uncommented("password-file")] {
            fs::write(&path, &text).unwrap();
            let config = config::load(Some(&path)).unwrap_or_else(|failure| panic!("{}\n{text}", failure.to_text()));
            assert_eq!(config.data, Some(folder.path().join("data")));
        }
    }

    #[test]
    fn a_path_can_be_pasted_into_a_shell() {
        assert_eq!(quoted(Path::new("/srv/my-device_1.x")), "/srv/my-device_1.x");
        assert_eq!(quoted(Path::new("it's $HOME")), r"'it'\''s $HOME'");
    }
}
