//! `marram module inspect` and `pull` with files and image-layout folders; the `marram-tests` package asks a registry.

#![allow(clippy::unwrap_used)] // tests

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

const HANDLER: &str = r#"(component
    (import "wasi:io/poll@0.2.6" (instance))
    (import "marram:edge/twin@0.1.0" (instance))
    (import "wasi:http/types@0.2.6" (instance))
    (instance $i)
    (export "marram:edge/input-handler@0.1.0" (instance $i)))"#;

/// A component, and a layout that holds it under the tag `a`.
struct Place {
    folder: TempDir,
    pushed: Value,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.wasm"), wat::parse_str(HANDLER).unwrap()).unwrap();
        let mut place = Self { folder, pushed: Value::Null };
        place.pushed = place.json(&["push", "a.wasm", "oci:layout:a"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn module(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_marram"));
        command.arg("module").args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        // Whoever runs the tests has settings and temporary files of their own.
        command.env("MARRAM_CONFIG", "/dev/null").env("TMPDIR", self.folder.path());
        command.output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.module(&[arguments, &["--format", "json"]].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// All names here, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn inspect_tells_of_a_file_and_of_an_image_the_same() {
    let place = Place::new();
    let file = place.json(&["inspect", "a.wasm"]);
    assert_eq!(file["kind"], "handler");
    assert_eq!(file["size"], fs::metadata(place.path("a.wasm")).unwrap().len());
    assert_eq!(file["componentDigest"], place.pushed["componentDigest"]);
    assert_eq!(file["exports"], json!(["marram:edge/input-handler@0.1.0"]));
    let imports = json!([
        { "name": "marram:edge/twin@0.1.0", "met": true },
        { "name": "wasi:http/types@0.2.6", "met": false },
        { "name": "wasi:io/poll@0.2.6", "met": true },
    ]);
    assert_eq!(file["imports"], imports);
    assert!(file["refusal"].as_str().unwrap().contains("wasi:http/types@0.2.6"), "{file}");
    assert_eq!((&file["reference"], &file["manifestDigest"]), (&Value::Null, &Value::Null));

    let mut image = place.json(&["inspect", "oci:layout:a"]);
    assert_eq!(image["manifestDigest"], place.pushed["manifestDigest"]);
    assert_eq!(image["reference"], place.pushed["reference"]);
    assert_eq!(image["artifact"]["layers"][0]["digest"], place.pushed["componentDigest"]);
    for of_images in ["manifestDigest", "reference", "artifact"] {
        image[of_images] = Value::Null;
    }
    assert_eq!(image, file);
    assert_eq!(place.names(), ["a.wasm", "layout"], "nothing is left behind");
}

#[test]
fn inspect_knows_a_core_module_and_refuses_what_is_no_webassembly() {
    let place = Place::new();
    fs::write(place.path("core.wasm"), wat::parse_str("(module)").unwrap()).unwrap();
    let core = place.json(&["inspect", "core.wasm"]);
    assert_eq!(core["kind"], "core-module");
    assert!(core["refusal"].as_str().unwrap().contains("wasm32-wasip2"), "{core}");
    fs::write(place.path("text.wasm"), "hello").unwrap();
    for (name, why) in [("text.wasm", "not a WebAssembly component"), ("none.wasm", "cannot read none.wasm")] {
        let output = place.module(&["inspect", name]);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(why), "{errors}");
    }
}

#[test]
fn a_user_for_what_is_in_no_registry_is_a_usage_error() {
    let place = Place::new();
    for subject in ["a.wasm", "oci:layout:a"] {
        let output = place.module(&["inspect", subject, "--username", "u", "--password-stdin"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    assert_eq!(place.names(), ["a.wasm", "layout"]);
}

#[test]
fn pull_writes_what_was_pushed_and_prints_what_pins_it() {
    let place = Place::new();
    let output = place.module(&["pull", "oci:layout:a", "b.wasm"]);
    assert!(output.status.success(), "{output:?}");
    let reference = String::from_utf8(output.stdout).unwrap();
    assert_eq!(reference.trim_end(), place.pushed["reference"].as_str().unwrap());
    assert_eq!(fs::read(place.path("b.wasm")).unwrap(), fs::read(place.path("a.wasm")).unwrap());

    let again = place.json(&["pull", reference.trim_end(), "c.wasm"]);
    let expected = json!({
        "reference": place.pushed["reference"],
        "manifestDigest": place.pushed["manifestDigest"],
        "componentDigest": place.pushed["componentDigest"],
        "size": place.pushed["size"],
        "file": "c.wasm",
    });
    assert_eq!(again, expected);
    assert_eq!(mode(&place.path("b.wasm")), mode(&place.path("a.wasm")), "as any new file");
    assert_eq!(place.names(), ["a.wasm", "b.wasm", "c.wasm", "layout"], "nothing is left behind");
}

#[test]
fn pull_replaces_a_file_only_by_force_and_a_folder_never() {
    let place = Place::new();
    fs::write(place.path("b.wasm"), "mine").unwrap();
    let refused = place.module(&["pull", "oci:layout:a", "b.wasm"]);
    let errors = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors.contains("b.wasm exists already") && errors.contains("--force"), "{errors}");
    assert_eq!(fs::read_to_string(place.path("b.wasm")).unwrap(), "mine");
    assert!(place.module(&["pull", "oci:layout:a", "b.wasm", "--force"]).status.success());
    assert_eq!(fs::read(place.path("b.wasm")).unwrap(), fs::read(place.path("a.wasm")).unwrap());
    assert_eq!(place.module(&["pull", "oci:layout:a", "layout", "--force"]).status.code(), Some(1));
}

#[test]
fn a_damaged_image_is_not_pulled_and_leaves_the_file_as_it_was() {
    let place = Place::new();
    let hex = place.pushed["componentDigest"].as_str().unwrap().trim_start_matches("sha256:");
    let blob = place.path("layout/blobs/sha256").join(hex);
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, bytes).unwrap();
    fs::write(place.path("b.wasm"), "mine").unwrap();
    let output = place.module(&["pull", "oci:layout:a", "b.wasm", "--force"]);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("digest mismatch"), "{errors}");
    assert_eq!(fs::read_to_string(place.path("b.wasm")).unwrap(), "mine");
    assert_eq!(place.names(), ["a.wasm", "b.wasm", "layout"], "nothing is left behind");
}

fn mode(file: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).unwrap().permissions().mode()
}
