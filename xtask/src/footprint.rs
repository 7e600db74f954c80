//! `cargo xtask footprint`: what the full build and the build for devices take of a machine, written into the table of
//! `docs/footprint.md`. The text around the table stays as people wrote it.

use std::{collections::BTreeSet, fs, path::PathBuf};

use serde_json::Value;

use crate::{
    Result, guests,
    shell::{cargo, command, make_folder, output, root, say, target, write},
    test::{DEVICE_FEATURES, PROFILE},
};

const PAGE: &str = "docs/footprint.md";
const BEGIN: &str = "<!-- `cargo xtask footprint` writes from here -->\n";
const END: &str = "<!-- to here -->\n";

/// A build that is measured.
struct Build {
    /// As the measuring program calls it.
    name: &'static str,
    /// In words, for the table.
    title: &'static str,
    features: &'static [&'static str],
}

const BUILDS: [Build; 2] = [
    Build { name: "full", title: "full", features: &[] },
    Build { name: "device", title: "device", features: &DEVICE_FEATURES },
];

/// Builds both in the release profile, measures, and writes the table.
pub(crate) fn footprint(choice: guests::Choice) -> Result<()> {
    let guests = guests::build(choice, &["hello-marram".to_owned()])?;
    let mut binaries = Vec::new();
    for build in &BUILDS {
        binaries.push(release(build)?);
    }
    say("footprint: measuring idle hosts");
    let mut measure = cargo();
    measure.args([
        "run",
        "--quiet",
        "--locked",
        "--profile",
        PROFILE,
        "--package",
        "marram-tests",
        "--bin",
        "footprint",
    ]);
    measure.env("MARRAM_BIN", &binaries[0]).env("MARRAM_DEVICE_BIN", &binaries[1]).env("MARRAM_GUESTS", guests);
    let figures: Vec<Value> = output(&mut measure)?
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|err| format!("a figure cannot be read: {err}: {line}")))
        .collect::<Result<_>>()?;
    let table = format!("{}\n{}\n{}", measured_on()?, sizes(&binaries)?, memory(&figures));
    print!("{table}");
    let page = root().join(PAGE);
    let text = fs::read_to_string(&page).map_err(|err| format!("cannot read {PAGE}: {err}"))?;
    write(&page, &replace(&text, &table)?)
}

/// The build for devices in the release profile; returns its path.
pub(crate) fn release_for_devices() -> Result<PathBuf> {
    release(&BUILDS[1])
}

/// A copy apart: the next build puts another binary under the same name.
fn release(build: &Build) -> Result<PathBuf> {
    say(format!("footprint: building marram, {} (release profile: minutes)", build.title));
    let args = ["build", "--quiet", "--locked", "--release", "--package", "marram-cli", "--bin", "marram"];
    crate::shell::run(cargo().args(args).args(build.features))?;
    let folder = target().join("footprint").join(build.name);
    make_folder(&folder)?;
    let path = folder.join("marram");
    fs::copy(target().join("release/marram"), &path).map_err(|err| format!("cannot copy marram: {err}"))?;
    Ok(path)
}

/// Date and kind of machine: figures of another one differ.
fn measured_on() -> Result<String> {
    let date = output(command("date").args(["-u", "+%Y-%m-%d"]))?;
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(std::env::consts::ARCH);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let rustc = output(command("rustc").arg("--version"))?;
    let rustc = rustc.split(' ').nth(1).unwrap_or_default().to_owned();
    Ok(format!(
        "Measured on {}: {}, {cores} cores, Linux {}, {}, rustc {rustc}.\n",
        date.trim(),
        model.trim_start_matches(['\t', ':', ' ']),
        read("/proc/sys/kernel/osrelease").trim(),
        std::env::consts::ARCH,
    ))
}

fn sizes(binaries: &[PathBuf]) -> Result<String> {
    let mut table = "| build | binary, stripped | crates |\n|---|---|---|\n".to_owned();
    for (build, binary) in BUILDS.iter().zip(binaries) {
        let size = fs::metadata(binary).map_err(|err| format!("cannot read {}: {err}", binary.display()))?.len();
        table += &format!("| {} | {} ({size} bytes) | {} |\n", build.title, mib(size), crates(build)?);
    }
    Ok(table)
}

/// Crates that go into the binary, our own among them; a crate in two versions counts twice.
fn crates(build: &Build) -> Result<usize> {
    let args =
        ["tree", "--locked", "--package", "marram-cli", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let tree = output(cargo().args(args).args(build.features))?;
    let words = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    Ok(tree.lines().filter(|line| !line.is_empty()).map(words).collect::<BTreeSet<_>>().len())
}

fn memory(figures: &[Value]) -> String {
    let head = "| build | modules | PSS | RSS | private | of it changed | shared | page tables | threads |";
    let mut table = format!("{head}\n|{}\n", "---|".repeat(9));
    for figure in figures {
        let number = |name: &str| figure[name].as_u64().unwrap_or_default();
        let title = BUILDS.iter().find(|build| figure["build"] == build.name).map_or("?", |build| build.title);
        let (rss, private) = (number("rss"), number("private"));
        table += &format!(
            "| {title} | {} | {} | {} | {} | {} | {} | {} KiB | {} |\n",
            number("modules"),
            mib(number("pss")),
            mib(rss),
            mib(private),
            mib(number("dirty")),
            mib(rss.saturating_sub(private)),
            number("pageTables") / 1024,
            number("threads"),
        );
    }
    table
}

fn mib(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The page with this table in the place of the old one.
fn replace(page: &str, table: &str) -> Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = parts.ok_or_else(|| format!("{PAGE} has lost the marks between which the table stands"))?;
    Ok(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_is_replaced() {
        let page = format!("before\n{BEGIN}old{END}after\n");
        let new = replace(&page, "| new |\n").expect("the marks are there");
        assert_eq!(new, format!("before\n{BEGIN}\n| new |\n\n{END}after\n"));
        assert_eq!(replace(&new, "| new |\n"), Ok(new.clone()), "again, nothing changes");
        assert!(replace("no marks", "").is_err());
    }

    #[test]
    fn what_is_not_private_is_shared() {
        let figure = serde_json::json!({
            "build": "device", "modules": 1, "rss": 3 << 20, "pss": 2 << 20, "private": 1 << 20, "dirty": 1 << 19,
            "pageTables": 65536, "threads": 5,
        });
        let row = "| device | 1 | 2.00 MiB | 3.00 MiB | 1.00 MiB | 0.50 MiB | 2.00 MiB | 64 KiB | 5 |";
        assert!(memory(&[figure]).lines().any(|line| line == row));
    }
}
