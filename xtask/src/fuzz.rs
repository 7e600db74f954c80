//! `cargo xtask fuzz`: the attacks of `host/fuzz` under libFuzzer, on machines that have a nightly toolchain and cargo-fuzz.
//! The same attacks run on stable in `cargo xtask test`, and for longer in `cargo xtask soak fuzz`.

use std::fs;

use crate::{
    Result,
    shell::{command, make_folder, output, root, run, say, target},
};

/// Attacks a target until something is found, or for so many seconds. What libFuzzer learns is kept under `target/fuzz`.
pub(crate) fn fuzz(name: &str, seconds: Option<&str>) -> Result<()> {
    let crate_folder = root().join("host/fuzz");
    let seeds = crate_folder.join("corpus");
    let names = names_in(&seeds)?;
    if !names.iter().any(|known| known == name) {
        return Err(format!("there is no target `{name}`; there are {}", names.join(", ")));
    }
    if let Some(seconds) = seconds.filter(|seconds| seconds.parse::<u32>().is_err()) {
        return Err(format!("`--seconds` is a number, not `{seconds}`"));
    }
    // Not the cargo that started us: that one is of a toolchain.
    output(command("cargo").args(["+nightly", "fuzz", "--version"])).map_err(|_| {
        "libFuzzer needs a nightly toolchain and cargo-fuzz: `rustup toolchain install nightly && cargo install cargo-fuzz`; \
         `cargo xtask soak fuzz` attacks the same without them"
            .to_owned()
    })?;
    let folder = target().join("fuzz").join(name);
    let (learnt, found) = (folder.join("corpus"), folder.join("found"));
    make_folder(&learnt)?;
    make_folder(&found)?;
    say(format!("fuzz: what is found is in {}; keep it in host/fuzz/corpus/{name}", found.display()));
    let mut fuzz = command("cargo");
    fuzz.args(["+nightly", "fuzz", "run", "--fuzz-dir"]).arg(crate_folder.join("libfuzzer"));
    fuzz.arg("--target-dir").arg(target().join("fuzz")).arg(name).arg(learnt).arg(seeds.join(name));
    fuzz.arg("--").arg(format!("-artifact_prefix={}/", found.display())).arg("-timeout=10");
    fuzz.args(seconds.map(|seconds| format!("-max_total_time={seconds}")));
    // The toolchain that started us is named in the environment, and is not this one.
    run(fuzz.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC"))
}

fn names_in(folder: &std::path::Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(|err| format!("cannot read {}: {err}", folder.display()))?;
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}
