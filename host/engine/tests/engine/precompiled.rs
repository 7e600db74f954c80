//! Code that was made ahead runs without a compiler, and is never executed when it is damaged, renamed, made for another
//! host, or when others could have written it.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use marram_core::ports::{Artifact, Engine as _, Exit};
use marram_engine::{
    CompileLimits, HelperCommand, Precompile, PrecompileError, Precompiled, Profile, Settings, Target, WasmEngine,
    precompile,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    guests::program,
    support::{Bench, Recorder, binary, settings, spec},
};

const GOOD: &str = "(func $run (result i32) (i32.const 0))";
const OTHER: &str = "(func $run (result i32) (i32.const 1))";

/// A folder of code, and a host that compiles nothing and looks there.
struct Shelf {
    bench: Bench,
    folder: TempDir,
}

impl Shelf {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let own = tempfile::tempdir().unwrap();
        let engine = WasmEngine::new(Settings {
            helper: HelperCommand::Nobody,
            precompiled: vec![folder.path().to_owned()],
            ..settings(&own, Profile::Wide)
        });
        Self { bench: Bench { engine: engine.unwrap(), folder: own }, folder }
    }

    fn order(&self, profile: Profile) -> Precompile {
        Precompile {
            output: self.folder.path().to_owned(),
            target: here(),
            profile,
            helper: HelperCommand::InProcess,
            limits: CompileLimits::default(),
        }
    }

    async fn put(&self, artifact: &Artifact, profile: Profile) -> Precompiled {
        precompile(&self.order(profile), &artifact.path).await.unwrap()
    }

    /// Loads and runs; the exit code, or why not.
    async fn run(&self, artifact: &Artifact) -> Result<i32, String> {
        let component = self.bench.engine.load(artifact, "r.example/guest:1").await.map_err(|error| error.0)?;
        let mut instance = component.instantiate(&spec(|_| ()), Recorder::new()).await.unwrap();
        Ok(instance.run().await.code)
    }

    /// The one copy in the cache.
    fn copy_path(&self) -> PathBuf {
        let entries = fs::read_dir(self.bench.cache()).unwrap().map(|entry| entry.unwrap().path());
        let code: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ending| ending != "sha256")).collect();
        assert_eq!(code.len(), 1, "{code:?}");
        code[0].clone()
    }

    fn copy(&self) -> Vec<u8> {
        fs::read(self.copy_path()).unwrap()
    }

    /// Names and contents of all files.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        files.sort();
        files
    }
}

fn here() -> Target {
    Target::here().expect("tests run where code can be made")
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn change_record(code: &Path, change: impl FnOnce(&mut Value)) {
    let path = code.with_extension("json");
    let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    fs::write(path, record.to_string()).unwrap();
}

#[tokio::test]
async fn code_made_ahead_runs_without_a_compiler() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let made = shelf.put(&artifact, Profile::Wide).await;
    assert_eq!((&made.component, made.was_there), (&artifact.component_digest, false));
    assert_eq!(made.size, fs::metadata(&made.path).unwrap().len());
    let before = shelf.files();
    assert_eq!(shelf.run(&artifact).await, Ok(Exit::DONE));
    assert_eq!(shelf.files(), before, "the folder is read only");
    assert_eq!(shelf.copy(), fs::read(&made.path).unwrap(), "nothing was compiled: it is a copy");
}

/// `cp` of other code over code that is there: the same file gets other content.
fn write_over(code: &Path, other: &Precompiled) {
    let inode = fs::metadata(code).unwrap().ino();
    fs::write(code, fs::read(&other.path).unwrap()).unwrap();
    assert_eq!(fs::metadata(code).unwrap().ino(), inode);
    change_record(code, |record| {
        record["code"] = other.code.clone().into();
        record["size"] = other.size.into();
    });
}

#[tokio::test]
async fn code_that_is_overwritten_while_it_runs_runs_on_and_the_next_start_takes_the_new() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let code = shelf.put(&artifact, Profile::Wide).await.path;
    let other = shelf.put(&shelf.bench.artifact(&binary(&program(OTHER))), Profile::Wide).await;
    let component = shelf.bench.engine.load(&artifact, "oci:guest").await.unwrap();
    let instance = async || component.instantiate(&spec(|_| ()), Recorder::new()).await.unwrap();
    let mut running = instance().await;
    // As far as a `cp` has come when it has made the file empty.
    fs::write(&code, "").unwrap();
    assert_eq!(running.run().await.code, Exit::DONE);
    write_over(&code, &other);
    assert_eq!(instance().await.run().await.code, Exit::DONE, "a new instance of what is loaded");
    drop((running, component));
    assert_eq!(shelf.run(&artifact).await, Ok(1), "the new code");
    assert_eq!(shelf.copy(), fs::read(&other.path).unwrap(), "in the place of the old");
}

#[tokio::test]
async fn code_is_copied_once_and_a_damaged_copy_is_copied_again() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let code = shelf.put(&artifact, Profile::Wide).await.path;
    let inode = || fs::metadata(shelf.copy_path()).unwrap().ino();
    assert_eq!(shelf.run(&artifact).await, Ok(Exit::DONE));
    let first = inode();
    assert_eq!(shelf.run(&artifact).await, Ok(Exit::DONE));
    assert_eq!(inode(), first);
    let mut damaged = shelf.copy();
    damaged[100] ^= 1;
    fs::write(shelf.copy_path(), damaged).unwrap();
    assert_eq!(shelf.run(&artifact).await, Ok(Exit::DONE));
    assert_eq!(shelf.copy(), fs::read(code).unwrap());
}

#[tokio::test]
async fn a_copy_stands_in_for_code_that_is_refused_or_gone() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let code = shelf.put(&artifact, Profile::Wide).await.path;
    assert_eq!(shelf.run(&artifact).await, Ok(Exit::DONE));
    fs::write(&code, "half of a copy").unwrap();
    assert_eq!(shelf.run(&artifact).await, Ok(Exit::DONE));
    fs::remove_file(&code).unwrap();
    fs::remove_file(code.with_extension("json")).unwrap();
    assert_eq!(shelf.run(&artifact).await, Ok(Exit::DONE));
}

#[tokio::test]
async fn without_code_the_error_names_component_key_folder_and_command() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    shelf.put(&artifact, Profile::Narrow).await; // is no help to a wide host
    let error = shelf.run(&artifact).await.unwrap_err();
    let command = format!(
        "`marram compile r.example/guest:1@{} --target {} --profile wide --output FOLDER`",
        artifact.manifest_digest,
        here()
    );
    let version = marram_engine::WASMTIME_VERSION;
    for part in [
        artifact.component_digest.as_str(),
        &command,
        &shelf.folder.path().display().to_string(),
        &format!("wasmtime {version}, {}, profile wide", here()),
    ] {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
    }
    assert_eq!(error.lines().count(), 1);
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_stays_where_it_is() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let code = shelf.put(&artifact, Profile::Wide).await.path;
    let (record, whole) = (code.with_extension("json"), fs::read(&code).unwrap());
    let told = fs::read(&record).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let half = &whole[..whole.len() / 2];
    let table: [(&Path, &[u8], &str); 6] = [
        (&code, &flipped, "damaged"),
        (&code, half, "bytes, its record says"),
        (&code, b"", "0 bytes"),
        (&record, &told[..told.len() / 2], "its record cannot be read"),
        (&record, b"", "its record cannot be read"),
        (&record, b"[]", "its record cannot be read"),
    ];
    for (file, content, expected) in table {
        fs::write(file, content).unwrap();
        let error = shelf.run(&artifact).await.unwrap_err();
        assert!(error.contains(expected) && error.contains(&code.display().to_string()), "{expected}: {error}");
        assert_eq!(fs::read(file).unwrap(), content, "the folder is read only");
        assert_eq!(fs::read_dir(shelf.bench.cache()).unwrap().count(), 0, "nothing was copied");
        fs::write(&code, &whole).unwrap();
        fs::write(&record, &told).unwrap();
    }
    assert_eq!(shelf.run(&artifact).await, Ok(Exit::DONE), "whole again, it runs");
}

#[tokio::test]
async fn half_an_entry_is_refused() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let code = shelf.put(&artifact, Profile::Wide).await.path;
    for (missing, expected) in [("json", "its record (.json) is missing"), ("cwasm", "the code (.cwasm) is missing")] {
        let (file, aside) = (code.with_extension(missing), code.with_extension("aside"));
        fs::rename(&file, &aside).unwrap();
        let error = shelf.run(&artifact).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
        fs::rename(&aside, &file).unwrap();
    }
}

#[tokio::test]
async fn code_under_the_name_of_another_is_refused() {
    let shelf = Shelf::new();
    let good = shelf.bench.artifact(&binary(&program(GOOD)));
    let other = shelf.bench.artifact(&binary(&program(OTHER)));
    let (code, wrong) = (shelf.put(&good, Profile::Wide).await.path, shelf.put(&other, Profile::Wide).await.path);
    for ending in ["cwasm", "json"] {
        fs::copy(wrong.with_extension(ending), code.with_extension(ending)).unwrap();
    }
    let error = shelf.run(&good).await.unwrap_err();
    assert!(error.contains("it was renamed"), "{error}");
}

#[tokio::test]
async fn code_for_another_engine_is_refused_even_when_its_record_lies() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let (wide, narrow) = (shelf.put(&artifact, Profile::Wide).await, shelf.put(&artifact, Profile::Narrow).await);
    fs::copy(&narrow.path, &wide.path).unwrap();
    change_record(&wide.path, |record| {
        record["code"] = narrow.code.into();
        record["size"] = narrow.size.into();
    });
    let error = shelf.run(&artifact).await.unwrap_err();
    assert!(error.contains("it is for another engine"), "{error}");
}

#[tokio::test]
async fn what_others_may_write_is_refused() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let code = shelf.put(&artifact, Profile::Wide).await.path;
    let (record, folder) = (code.with_extension("json"), shelf.folder.path());
    for (path, bad, good) in [(&*code, 0o664, 0o644), (&record, 0o646, 0o644), (folder, 0o775, 0o755)] {
        mode(path, bad);
        let error = shelf.run(&artifact).await.unwrap_err();
        let expected = format!("{}: others may write it (mode {bad:o}); try chmod go-w", path.display());
        assert!(error.contains(&expected), "{error}");
        mode(path, good);
    }
    assert_eq!(shelf.run(&artifact).await, Ok(Exit::DONE));
}

#[tokio::test]
async fn a_link_or_a_folder_in_the_place_of_code_is_refused() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let code = shelf.put(&artifact, Profile::Wide).await.path;
    let elsewhere = shelf.bench.folder.path().join("code");
    fs::rename(&code, &elsewhere).unwrap();
    symlink(&elsewhere, &code).unwrap();
    assert!(shelf.run(&artifact).await.unwrap_err().contains("it is a link"));
    fs::remove_file(&code).unwrap();
    fs::create_dir(&code).unwrap();
    assert!(shelf.run(&artifact).await.unwrap_err().contains("it is not a file"));
}

#[tokio::test]
async fn the_next_folder_is_asked_when_one_is_absent_or_bad() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let code = shelf.put(&artifact, Profile::Wide).await.path;
    let bad = tempfile::tempdir().unwrap();
    fs::write(bad.path().join(code.file_name().unwrap()), "junk").unwrap();
    let own = tempfile::tempdir().unwrap();
    let folders = [Path::new("/no/such/folder"), bad.path(), shelf.folder.path()].map(Path::to_owned).to_vec();
    let settings = Settings { helper: HelperCommand::Nobody, precompiled: folders, ..settings(&own, Profile::Wide) };
    WasmEngine::new(settings).unwrap().load(&artifact, "oci:guest").await.map(drop).unwrap();
}

#[tokio::test]
async fn a_host_with_a_compiler_compiles_what_is_refused() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let code = shelf.put(&artifact, Profile::Wide).await.path;
    fs::write(&code, "junk").unwrap();
    let own = tempfile::tempdir().unwrap();
    let precompiled = vec![shelf.folder.path().to_owned()];
    let engine = WasmEngine::new(Settings { precompiled, ..settings(&own, Profile::Wide) }).unwrap();
    engine.load(&artifact, "oci:guest").await.map(drop).unwrap();
    assert!(fs::read_dir(own.path().join("compiled")).unwrap().count() > 0);
}

#[tokio::test]
async fn compiling_again_leaves_whole_code_and_replaces_damaged() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let made = shelf.put(&artifact, Profile::Wide).await;
    assert_eq!(shelf.put(&artifact, Profile::Wide).await, Precompiled { was_there: true, ..made.clone() });
    fs::write(&made.path, "junk").unwrap();
    assert_eq!(shelf.put(&artifact, Profile::Wide).await, made);
    assert_eq!(shelf.files().len(), 2, "nothing is left behind");
    for (path, _) in shelf.files() {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o644);
    }
}

#[tokio::test]
async fn what_no_host_would_run_is_not_compiled() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary("(module)"));
    let error = precompile(&shelf.order(Profile::Wide), &artifact.path).await.unwrap_err();
    assert!(matches!(error, PrecompileError::Refused(_)), "{error}");
    assert_eq!(shelf.files().len(), 0);
}

#[cfg(feature = "cross")]
#[tokio::test]
async fn code_for_another_machine_is_that_machines_and_refused_here() {
    let shelf = Shelf::new();
    let artifact = shelf.bench.artifact(&binary(&program(GOOD)));
    let own = shelf.put(&artifact, Profile::Wide).await;
    // Machine numbers of ELF.
    for (target, machine) in [(Target::X86_64, 62_u16), (Target::Aarch64, 183), (Target::Riscv64, 243)] {
        let order = Precompile { target, ..shelf.order(Profile::Wide) };
        let made = precompile(&order, &artifact.path).await.unwrap();
        let bytes = fs::read(&made.path).unwrap();
        assert_eq!(u16::from_le_bytes([bytes[18], bytes[19]]), machine, "{target}");
        if target == here() {
            continue;
        }
        fs::copy(&made.path, &own.path).unwrap();
        change_record(&own.path, |record| {
            record["code"] = made.code.into();
            record["size"] = made.size.into();
        });
        let error = shelf.run(&artifact).await.unwrap_err();
        assert!(error.contains("it is for another engine"), "{target}: {error}");
    }
}
