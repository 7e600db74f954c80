//! `cargo xtask package`: a Debian package of the host, from the built binary and `packaging/`.
//!
//! `dpkg-deb` packs a staged tree; `cargo-deb` would do so too, for minutes of compiling and a second place for what
//! `packaging/` says. The same sources and compiler give the same package, bit for bit.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    Result,
    shell::{cargo, command, make_folder, output, remove_folder, root, run_quietly, say, target, write},
    test::PROFILE,
};

/// The programs that this needs, and the Debian package that has them.
const NEEDS: &str = "dpkg-deb, dpkg-shlibdeps, strip, gzip (Debian: apt-get install dpkg-dev)";

/// Where things go, with their modes. Everything else is made below.
const FILES: [(&str, &str, u32); 8] = [
    ("packaging/marram.service", "usr/lib/systemd/system/marram.service", 0o644),
    ("packaging/sysusers.conf", "usr/lib/sysusers.d/marram.conf", 0o644),
    ("packaging/marram.toml", "etc/marram/marram.toml", 0o644),
    ("packaging/debian/copyright", "usr/share/doc/marram/copyright", 0o644),
    ("README.md", "usr/share/doc/marram/README.md", 0o644),
    ("packaging/debian/postinst", "DEBIAN/postinst", 0o755),
    ("packaging/debian/prerm", "DEBIAN/prerm", 0o755),
    ("packaging/debian/postrm", "DEBIAN/postrm", 0o755),
];

/// Shells and where their completions lie.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/marram"),
    ("zsh", "usr/share/zsh/vendor-completions/_marram"),
    ("fish", "usr/share/fish/vendor_completions.d/marram.fish"),
];

/// Builds the host and packs it, or packs a binary; returns the package's path.
pub(crate) fn package(profile: Option<&str>, binary: Option<&str>) -> Result<PathBuf> {
    let profile = match (profile, binary) {
        (Some(_), Some(_)) => return Err("--binary names a binary that is built already, without --profile".into()),
        (None, Some(binary)) => return pack(Path::new(binary), &[]),
        (profile, None) => profile.unwrap_or("release"),
    };
    say(format!("building marram (profile {profile})"));
    // What a device reports of its host.
    let commit = output(command("git").args(["rev-parse", "HEAD"])).unwrap_or_default();
    run_quietly(cargo().env("MARRAM_COMMIT", commit.trim()).args([
        "build",
        "--quiet",
        "--package",
        "marram-cli",
        "--bin",
        "marram",
        "--profile",
        profile,
    ]))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    pack(&target().join(folder).join("marram"), &[])
}

/// Packs the tests' binary, which is large: quickly.
pub(crate) fn package_for_tests() -> Result<PathBuf> {
    pack(&target().join(PROFILE).join("marram"), &["-Zgzip", "-z1"])
}

/// Packs a built binary; `compression` as `dpkg-deb` takes it.
fn pack(binary: &Path, compression: &[&str]) -> Result<PathBuf> {
    let stage = target().join("package/stage");
    remove_folder(&stage)?;
    make_folder(&stage)?;
    say("package: staging");
    stage_binary(binary, &stage)?;
    for (from, to, mode) in FILES {
        place(&stage, to, &read(&root().join(from))?, mode)?;
    }
    stage_docs(&stage)?;
    stage_words_of(binary, &stage)?;
    let architecture = output(command("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let control = control(&architecture, &depends(&stage)?, installed_kib(&stage)?);
    place(&stage, "DEBIAN/control", control.as_bytes(), 0o644)?;
    place(&stage, "DEBIAN/conffiles", b"/etc/marram/marram.toml\n", 0o644)?;
    place(&stage, "DEBIAN/md5sums", sums(&stage)?.as_bytes(), 0o644)?;
    let deb = target().join("package").join(format!("marram_{}_{architecture}.deb", version()));
    let mut build = command("dpkg-deb");
    build.env("SOURCE_DATE_EPOCH", source_date()?).args(compression).args(["--root-owner-group", "--build"]);
    build.arg(&stage).arg(&deb);
    run_quietly(&mut build).map_err(hint)?;
    say(format!("package: {}", deb.display()));
    Ok(deb)
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn hint(why: String) -> String {
    format!("{why}\nhint: a package needs {NEEDS}")
}

/// Without symbols, which the release profile leaves out by itself.
fn stage_binary(binary: &Path, stage: &Path) -> Result<()> {
    let to = stage.join("usr/bin/marram");
    make_folder(&stage.join("usr/bin"))?;
    run_quietly(command("strip").arg("-o").arg(&to).arg(binary)).map_err(hint)?;
    set_mode(&to, 0o755)
}

fn stage_docs(stage: &Path) -> Result<()> {
    let doc = "usr/share/doc/marram";
    let entries = fs::read_dir(root().join("docs")).map_err(|err| format!("cannot list docs: {err}"))?;
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "md")) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        place(stage, &format!("{doc}/{name}"), &read(&path)?, 0o644)?;
    }
    place_compressed(stage, &format!("{doc}/NEWS"), &read(&root().join("CHANGELOG.md"))?)?;
    place_compressed(stage, &format!("{doc}/changelog"), changelog()?.as_bytes())?;
    place_compressed(stage, &format!("{doc}/third-party.txt"), third_party()?.as_bytes())
}

/// Completions and manual pages, which the binary writes itself.
fn stage_words_of(binary: &Path, stage: &Path) -> Result<()> {
    for (shell, to) in COMPLETIONS {
        place(stage, to, output(command(binary).args(["completions", shell]))?.as_bytes(), 0o644)?;
    }
    let made = target().join("package/man");
    remove_folder(&made)?;
    run_quietly(command(binary).args(["man", "--output"]).arg(&made))?;
    for page in files(&made)? {
        let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
        place_compressed(stage, &format!("usr/share/man/man1/{name}"), &read(&page)?)?;
    }
    Ok(())
}

/// The libraries that the binary is linked with, as Debian's own tool tells, and what the maintainer scripts call.
fn depends(stage: &Path) -> Result<String> {
    // The tool wants a source package around it.
    let around = target().join("package/shlibdeps");
    write(&around.join("debian/control"), "Source: marram\n\nPackage: marram\nArchitecture: any\n")?;
    let mut shlibdeps = Command::new("dpkg-shlibdeps");
    shlibdeps.current_dir(&around).arg("-O").arg(stage.join("usr/bin/marram"));
    let told = output(&mut shlibdeps).map_err(hint)?;
    let libraries = told.lines().find_map(|line| line.strip_prefix("shlibs:Depends="));
    let libraries = libraries.ok_or_else(|| format!("dpkg-shlibdeps told no libraries: {told}"))?;
    Ok(format!("{libraries}, init-system-helpers (>= 1.54~), systemd | systemd-standalone-sysusers"))
}

fn control(architecture: &str, depends: &str, installed_kib: u64) -> String {
    format!(
        "Package: marram\nVersion: {}\nArchitecture: {architecture}\nSection: net\nPriority: optional\n\
         Maintainer: {}\nInstalled-Size: {installed_kib}\nDepends: {depends}\n\
         Recommends: ca-certificates\nDescription: module host for edge devices\n \
         Marram runs WebAssembly components the way Azure IoT Edge runs containers:\n \
         from a deployment manifest, with restart policies, twins, routes between\n \
         modules, and store and forward. One binary, no container engine.\n",
        version(),
        maintainer()
    )
}

/// Who answers for a package is who publishes it, and says so where Debian's tools look.
fn maintainer() -> String {
    let named = |name, otherwise: &str| std::env::var(name).unwrap_or_else(|_| otherwise.to_owned());
    format!("{} <{}>", named("DEBFULLNAME", "The Marram authors"), named("DEBEMAIL", "marram@localhost"))
}

/// As Debian's policy counts: each file by whole KiB.
fn installed_kib(stage: &Path) -> Result<u64> {
    Ok(files(stage)?.iter().map(|file| fs::metadata(file).map_or(1, |meta| meta.len().div_ceil(1024).max(1))).sum())
}

fn sums(stage: &Path) -> Result<String> {
    let mut text = String::new();
    for file in files(stage)? {
        let name = file.strip_prefix(stage).unwrap_or(&file).display().to_string();
        if !name.starts_with("DEBIAN/") && !name.starts_with("etc/") {
            let sum = output(command("md5sum").arg(&file))?;
            text.push_str(&format!("{}  {name}\n", sum.split_whitespace().next().unwrap_or_default()));
        }
    }
    Ok(text)
}

/// All files below, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).map_err(|err| format!("cannot list {}: {err}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// In Debian's form, which tools read; what changed is told in NEWS.
fn changelog() -> Result<String> {
    let date = output(command("date").args(["-u", "-R", "-d"]).arg(format!("@{}", source_date()?)))?;
    Ok(format!(
        "marram ({}) unstable; urgency=medium\n\n  * See NEWS.gz.\n\n -- {}  {}\n",
        version(),
        maintainer(),
        date.trim()
    ))
}

/// The time of the last commit; the environment's own comes first, as is the custom.
fn source_date() -> Result<String> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(time) => Ok(time),
        Err(_) => output(command("git").args(["log", "-1", "--format=%ct"])).map(|time| time.trim().to_owned()),
    }
}

/// The licences of the crates in the binary: theirs ask that their words go along.
fn third_party() -> Result<String> {
    let tree =
        ["tree", "--locked", "--package", "marram-cli", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let tree = output(cargo().args(tree))?;
    let used: BTreeSet<&str> = tree.lines().map(|line| line.split(" (").next().unwrap_or(line)).collect();
    let metadata = output(cargo().args(["metadata", "--locked", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).map_err(|err| format!("cargo metadata: {err}"))?;
    let mut texts = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let name = format!("{} v{}", text("name"), text("version"));
        if used.contains(name.as_str()) && !package["source"].is_null() {
            let licences = licences(Path::new(text("manifest_path")).parent().unwrap_or(Path::new("/")))?;
            texts.insert(format!("==== {name} ({}) {}\n\n{licences}\n", text("license"), text("repository")));
        }
    }
    Ok(texts.into_iter().collect())
}

/// The texts in a crate's folder; none where it names its licence only.
fn licences(folder: &Path) -> Result<String> {
    let is_licence = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        ["LICEN", "COPYING", "COPYRIGHT", "NOTICE"].iter().any(|start| name.starts_with(start)) && path.is_file()
    };
    let entries = fs::read_dir(folder).map_err(|err| format!("cannot list {}: {err}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_licence).collect();
    paths.sort();
    paths.iter().map(|path| Ok(String::from_utf8_lossy(&read(path)?).into_owned())).collect()
}

fn place_compressed(stage: &Path, to: &str, bytes: &[u8]) -> Result<()> {
    place(stage, to, bytes, 0o644)?;
    // No name and no time inside.
    run_quietly(command("gzip").args(["-9", "-n", "-f"]).arg(stage.join(to))).map_err(hint)
}

fn place(stage: &Path, to: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let path = stage.join(to);
    make_folder(path.parent().unwrap_or(stage))?;
    fs::write(&path, bytes).map_err(|err| format!("cannot write {}: {err}", path.display()))?;
    set_mode(&path, mode)?;
    // Whatever the umask of whoever builds.
    path.ancestors()
        .skip(1)
        .take_while(|folder| folder.starts_with(stage))
        .try_for_each(|folder| set_mode(folder, 0o755))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|err| format!("cannot set the mode of {}: {err}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|err| format!("cannot read {}: {err}", path.display()))
}
