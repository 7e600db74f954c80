//! A guest toolchain for machines whose rustup cannot download: Debian's compiler, unpacked into `target/tools`, under
//! the machine's own cargo and linker.
//!
//! Debian has no standard library for this target, so it is built once, here. Its C library is Debian's `wasi-libc`,
//! which is older than the target: it speaks WASI's preview 1, which the linker adapts, and lacks the functions for
//! sockets and threads that the standard library names; `debian/stubs.rs` answers those with "not supported".
//! Takes about three minutes once and half a gigabyte. Nothing is installed into the system.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Result,
    guests::{TARGET, TARGETS},
    shell::{cargo, command, make_folder, output, remove_folder, run, run_quietly, say, tools, write},
};

/// The compiler, the sources of its standard library, and the C library.
const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "wasi-libc"];

/// A program beside its own libraries. Made relative to the script, so that the folder can be moved.
const WRAPPER: &str = r#"#!/bin/sh
here=$(dirname "$(dirname "$(readlink -f "$0")")")
libs=$(echo "$here"/usr/lib/*-linux-gnu*)
LD_LIBRARY_PATH="$libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$here/usr/bin/PROGRAM" "$@"
"#;

/// Longest run of apt-get, in seconds: the compiler's packages take that long at 250 KiB/s.
const APT_LIMIT: &str = "600";

const STUBS: &str = include_str!("../debian/stubs.rs");

/// The compiler to name in `RUSTC`; makes everything ready on the first call.
pub(crate) fn toolchain() -> Result<PathBuf> {
    let folder = tools().join("debian-rust");
    let rustc = script(&folder, "rustc");
    let ready = folder.join(".ready-for-both-targets");
    if ready.is_file() {
        return Ok(rustc);
    }
    say("setup: fallback toolchain 1/4: downloading Debian's compiler (130 MiB)");
    remove_folder(&folder)?;
    download(&PACKAGES, &folder)?;
    wrapper(&folder, "rustc")?;
    say("setup: fallback toolchain 2/4: linkers and C library");
    borrow_linkers(&folder)?;
    place_libc(&folder)?;
    say("setup: fallback toolchain 3/4: building the standard libraries (two or three minutes)");
    build_std(&folder, &rustc)?;
    say("setup: fallback toolchain 4/4: stubs");
    add_stubs(&folder, &rustc)?;
    for leftover in ["std", "std-target", "usr/src", "usr/lib/rustlib/src", "usr/share"] {
        remove_folder(&folder.join(leftover))?;
    }
    write(&ready, "")?;
    Ok(rustc)
}

/// Writes the script that runs an unpacked program with the libraries that were unpacked beside it; returns its path.
pub(crate) fn wrapper(folder: &Path, program: &str) -> Result<PathBuf> {
    let script = script(folder, program);
    write(&script, &WRAPPER.replace("PROGRAM", program))?;
    run_quietly(command("chmod").arg("755").arg(&script))?;
    Ok(script)
}

fn script(folder: &Path, program: &str) -> PathBuf {
    folder.join("bin").join(program)
}

/// Downloads Debian packages with those they need and the machine lacks, and unpacks them into `folder`.
pub(crate) fn download(packages: &[&str], folder: &Path) -> Result<()> {
    let debs = folder.join("debs");
    make_folder(&debs.join("partial"))?;
    let first = fetch(packages, &debs);
    if first.is_err() {
        // The lists may be missing or old. Without the right to renew them the first error is the one to show.
        say("setup: apt-get update");
        if run_quietly(apt_get().args(["update", "-qq"])).is_err() {
            return first;
        }
        fetch(packages, &debs)?;
    }
    let entries = fs::read_dir(&debs).map_err(|err| format!("cannot list {}: {err}", debs.display()))?;
    for deb in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "deb")) {
        run_quietly(command("dpkg-deb").arg("-x").arg(&deb).arg(folder))?;
    }
    remove_folder(&debs)
}

/// No lock and a cache of our own: another apt may run, and the packages are not installed. `--reinstall` brings also
/// those that the system has.
fn fetch(packages: &[&str], debs: &Path) -> Result<()> {
    run_quietly(
        apt_get()
            .args(["install", "-y", "-qq", "--no-install-recommends", "--download-only", "--reinstall"])
            .args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "-o"])
            .arg(format!("Dir::Cache::archives={}", debs.display()))
            .args(packages),
    )
}

/// apt-get, which ends: a mirror that does not answer, or answers a byte a minute, becomes an error.
fn apt_get() -> Command {
    let mut apt = command("timeout");
    apt.args(["--kill-after=10", APT_LIMIT, "apt-get", "-o", "Acquire::Retries=2"]);
    apt.args(["-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30"]);
    apt
}

/// `wasm-component-ld` and its `lld` come with every toolchain of rustup's; Debian's compiler looks for them at home.
fn borrow_linkers(folder: &Path) -> Result<()> {
    let host = host()?;
    let sysroot = output(command("rustc").args(["--print", "sysroot"]))?;
    let own = Path::new(sysroot.trim()).join("lib/rustlib").join(&host).join("bin");
    let there = folder.join("usr/lib/rustlib").join(&host).join("bin");
    make_folder(&there)?;
    for name in ["wasm-component-ld", "rust-lld", "gcc-ld"] {
        let from = own.join(name);
        if !from.exists() {
            return Err(format!("{} is missing; a toolchain of rustup's has it", from.display()));
        }
        let to = there.join(name);
        let _ = fs::remove_file(&to);
        symlink(&from, &to).map_err(|err| format!("cannot link {}: {err}", to.display()))?;
    }
    Ok(())
}

fn host() -> Result<String> {
    let version = output(command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "`rustc -vV` names no host".into())
}

/// One C library serves both targets.
fn place_libc(folder: &Path) -> Result<()> {
    for target in TARGETS {
        let there = self_contained(folder, target);
        make_folder(&there)?;
        for name in ["libc.a", "crt1-command.o", "crt1-reactor.o"] {
            let from = folder.join("usr/lib/wasm32-wasi").join(name);
            fs::copy(&from, there.join(name)).map_err(|err| format!("cannot copy {}: {err}", from.display()))?;
        }
    }
    Ok(())
}

fn self_contained(folder: &Path, target: &str) -> PathBuf {
    folder.join("usr/lib/rustlib").join(target).join("lib/self-contained")
}

/// Builds the standard library from Debian's sources, its dependencies from the crate registry: the copies that Debian
/// ships lack a prebuilt object of `wit-bindgen`. `RUSTC_BOOTSTRAP` allows that step alone its unstable flag.
fn build_std(folder: &Path, rustc: &Path) -> Result<()> {
    let dummy = folder.join("std");
    write(&dummy.join("src/lib.rs"), "")?;
    write(
        &dummy.join("Cargo.toml"),
        "[package]\nname = \"std-dummy\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n[profile.release]\ndebug = 0\n",
    )?;
    let built = folder.join("std-target");
    let targets = TARGETS.iter().flat_map(|target| ["--target", target]);
    run(cargo()
        .current_dir(&dummy)
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_TARGET_DIR", &built)
        .env("RUSTC", rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        // Guests are built with LTO, which needs the library's bitcode.
        .env("RUSTFLAGS", "-Cembed-bitcode=yes")
        .args(["build", "--quiet", "--release", "-Zbuild-std=std,panic_abort,panic_unwind"])
        .args(targets))?;
    TARGETS.iter().try_for_each(|target| place_std(folder, &built, target))
}

fn place_std(folder: &Path, built: &Path, target: &str) -> Result<()> {
    let from = built.join(target).join("release/deps");
    let to = folder.join("usr/lib/rustlib").join(target).join("lib");
    let entries = fs::read_dir(&from).map_err(|err| format!("cannot list {}: {err}", from.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        if name.ends_with(".rlib") && !name.starts_with("libstd_dummy") {
            fs::copy(&path, to.join(&name)).map_err(|err| format!("cannot copy {name}: {err}"))?;
        }
    }
    Ok(())
}

fn add_stubs(folder: &Path, rustc: &Path) -> Result<()> {
    let source = folder.join("std/stubs.rs");
    let object = folder.join("std/stubs.o");
    write(&source, STUBS)?;
    run_quietly(
        command(rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["--edition", "2024", "--target", TARGET, "--crate-type", "lib", "--emit", "obj"])
            .args(["-Copt-level=2", "-Cpanic=abort", "-Ccodegen-units=1", "-o"])
            .arg(&object)
            .arg(&source),
    )?;
    let ar = env::var_os("AR").unwrap_or_else(|| "ar".into());
    for target in TARGETS {
        run_quietly(command(&ar).arg("r").arg(self_contained(folder, target).join("libc.a")).arg(&object))?;
    }
    Ok(())
}
