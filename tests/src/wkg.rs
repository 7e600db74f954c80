//! The Bytecode Alliance's `wkg`, which pushes components to registries: what it pushed was written by other people.

use std::{
    path::Path,
    process::{Command, Stdio},
};

const PROGRAM: &str = "wkg";

/// Pushes a component to `HOST:PORT/NAME:TAG` with these annotations, `NAME=TEXT`.
///
/// # Panics
/// `wkg` is not installed, or does not push.
#[track_caller]
pub fn push(component: &Path, image: &str, annotations: &[&str]) {
    let component = component.to_str().expect("the path is text");
    let annotations = annotations.iter().flat_map(|annotation| ["--annotation", annotation]);
    run(image, &["push", image, component].into_iter().chain(annotations).collect::<Vec<_>>());
}

/// Pulls the component of `HOST:PORT/NAME:TAG` into a file.
///
/// # Panics
/// `wkg` is not installed, or does not pull.
#[track_caller]
pub fn pull(image: &str, component: &Path) {
    run(image, &["pull", image, "--output", component.to_str().expect("the path is text")]);
}

/// `wkg oci`, which asks the image's registry in plain HTTP.
#[track_caller]
fn run(image: &str, args: &[&str]) {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin").join(PROGRAM);
    let mut command = Command::new(if installed.exists() { installed } else { PROGRAM.into() });
    // No settings and no credentials of this machine's user.
    let home = tempfile::tempdir().expect("make a folder");
    command.env("HOME", home.path()).env("XDG_CONFIG_HOME", home.path()).env("DOCKER_CONFIG", home.path());
    command.env("WKG_OCI_INSECURE", image.split('/').next().unwrap_or_default());
    let output = command
        .arg("oci")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|err| panic!("cannot start `{PROGRAM}` ({err}); `cargo xtask soak wkg` installs it"));
    assert!(output.status.success(), "wkg oci {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
}
