//! Debian's `skopeo`, which copies images between registries and layouts: what went through it was written by other people.

use std::{
    path::Path,
    process::{Command, Stdio},
};

const PROGRAM: &str = "skopeo";

/// Copies an image between `docker://HOST:PORT/NAME:TAG` and `oci:FOLDER:TAG`, with its digests as they are. Registries are
/// asked in plain HTTP.
///
/// # Panics
/// `skopeo` is not installed, or does not copy.
#[track_caller]
pub fn copy(from: &str, to: &str) {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin").join(PROGRAM);
    let mut command = Command::new(if installed.exists() { installed } else { PROGRAM.into() });
    // No policy file, no credentials of this machine's user; all entries of an index.
    command.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--all"]);
    command.args(["--src-tls-verify=false", "--dest-tls-verify=false", "--src-no-creds", "--dest-no-creds", from, to]);
    command.env("REGISTRY_AUTH_FILE", "/dev/null").stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|err| {
        panic!("cannot start `{PROGRAM}` ({err}); run `cargo xtask setup`, which installs what the tests need")
    });
    assert!(output.status.success(), "skopeo copy {from} {to}: {}", String::from_utf8_lossy(&output.stderr));
}
