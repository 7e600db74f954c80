//! The programs under test: where the built `marram` and the guests are, and how a command of it is run to its end.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// The built `marram`: `MARRAM_BIN`, else the one in the target folder of this test.
///
/// # Panics
/// It is not there; the message says what builds it.
#[must_use]
pub fn marram() -> PathBuf {
    let path = env::var_os("MARRAM_BIN").map_or_else(beside_this_test, PathBuf::from);
    existing(path, "MARRAM_BIN")
}

/// The built `marram` for devices, which has no compiler: `MARRAM_DEVICE_BIN`.
///
/// # Panics
/// It is not there; the message says what builds it.
#[must_use]
pub fn device_marram() -> PathBuf {
    let path = env::var_os("MARRAM_DEVICE_BIN").map_or_else(|| PathBuf::from("the device build"), PathBuf::from);
    existing(path, "MARRAM_DEVICE_BIN")
}

/// A guest's component by its file name without `.wasm`: in `MARRAM_GUESTS`, else where `cargo xtask guests` puts it.
///
/// # Panics
/// It is not there; the message says what builds it.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-examples/target/wasm32-wasip2/release");
    let folder = env::var_os("MARRAM_GUESTS").map_or_else(built, PathBuf::from);
    existing(folder.join(name).with_extension("wasm"), "MARRAM_GUESTS")
}

/// A guest's core module of WASI preview 1 by its file name without `.wasm`: in `MARRAM_PREVIEW1`, else where
/// `cargo xtask test` puts it.
///
/// # Panics
/// It is not there; the message says what builds it.
#[must_use]
pub fn core_module(name: &str) -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-examples/target/wasm32-wasip1/release");
    let folder = env::var_os("MARRAM_PREVIEW1").map_or_else(built, PathBuf::from);
    existing(folder.join(name).with_extension("wasm"), "MARRAM_PREVIEW1")
}

fn existing(path: PathBuf, variable: &str) -> PathBuf {
    assert!(
        path.is_file(),
        "there is no {}; run `cargo xtask test`, which builds what the tests need, or set {variable}",
        path.display()
    );
    path
}

/// `target/PROFILE/marram`, seen from `target/PROFILE/deps/TEST`.
fn beside_this_test() -> PathBuf {
    let test = env::current_exe().expect("own path");
    test.ancestors().nth(2).expect("a target folder").join("marram")
}

/// A `marram` command that sees nothing of the settings of the machine's user: not his configuration, not his logins, not
/// his proxy.
#[must_use]
pub fn command() -> Command {
    command_of(&marram())
}

/// [`command`] with another binary.
#[must_use]
pub fn command_of(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.env("MARRAM_CONFIG", "/dev/null").env_remove("MARRAM_DATA").env_remove("MARRAM_LOG").stdin(Stdio::null());
    command.env("DOCKER_CONFIG", "/nonexistent");
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command
}

/// How a command ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit code; none: ended by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// Runs a command to its end.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().expect("the command starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("answers are UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// The answer of a command that succeeded.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// It is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|err| panic!("not JSON ({err}): {self:?}"))
    }
}

/// What a push answered.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// `sha256:…` of the manifest.
    pub manifest: String,
    /// `sha256:…` of the component.
    pub component: String,
}

/// `marram module push`: a guest by name to a reference.
///
/// # Panics
/// It fails.
#[track_caller]
pub fn push(guest_name: &str, reference: &str) -> Pushed {
    push_as(guest_name, reference, None)
}

/// [`push`] of another version of a guest: what it does is the same, its digest is not.
///
/// # Panics
/// It fails.
#[track_caller]
pub fn push_version(guest_name: &str, version: &str, reference: &str) -> Pushed {
    let mut component = std::fs::read(guest(guest_name)).expect("read the guest");
    // A custom section at the end, which means nothing to anybody: id 0, size, name, content.
    let content = [&[7], b"version".as_slice(), version.as_bytes()].concat();
    component.extend([0, u8::try_from(content.len()).ok().filter(|size| *size < 128).expect("a short version")]);
    component.extend(content);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("version.wasm");
    std::fs::write(&file, component).expect("write the version");
    let mut push = command();
    pushed(&Answer::of(push.args(["module", "push"]).arg(&file).args([reference, "--format", "json"])).ok())
}

/// [`push`] as a user: name and password.
///
/// # Panics
/// It fails.
#[track_caller]
pub fn push_as(guest_name: &str, reference: &str, user: Option<(&str, &str)>) -> Pushed {
    let mut push = command();
    push.args(["module", "push"]).arg(guest(guest_name)).args([reference, "--format", "json"]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    if let Some((name, password)) = user {
        let file = folder.path().join("password");
        std::fs::write(&file, password).expect("write the password");
        push.args(["--username", name, "--password-stdin"]);
        push.stdin(std::fs::File::open(&file).expect("the password's file"));
    }
    pushed(&Answer::of(&mut push).ok())
}

#[track_caller]
fn pushed(answer: &Answer) -> Pushed {
    let answer = answer.json();
    let digest = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned();
    Pushed { manifest: digest("manifestDigest"), component: digest("componentDigest") }
}

/// An OCI image-layout folder with guests in it: the cheapest source of images.
pub struct Layout {
    folder: TempDir,
}

impl Layout {
    /// A layout with these guests, each under its own name as tag.
    #[must_use]
    pub fn with(guests: &[&str]) -> Self {
        let layout = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        for guest in guests {
            let _ = push(guest, &layout.image(guest));
        }
        layout
    }

    /// The reference of a guest in it.
    #[must_use]
    pub fn image(&self, tag: &str) -> String {
        format!("oci:{}:{tag}", self.path().display())
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("layout")
    }
}
