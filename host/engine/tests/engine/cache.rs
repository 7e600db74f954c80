//! Compiled code is shared, survives a restart, and is never executed when damaged or when others could have written it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use marram_core::ports::{CodeCache as _, Engine as _, Exit};
use marram_engine::{CompileLimits, EngineError, HelperCommand, Profile, Settings, WasmEngine};

use crate::{
    guests::program,
    support::{Bench, Recorder, binary, settings, spec},
};

const GOOD: &str = "(func $run (result i32) (i32.const 0))";

fn compiled(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm")).collect()
}

#[tokio::test]
async fn modules_with_one_component_share_its_code() {
    let bench = Bench::new();
    let bytes = binary(&program(GOOD));
    let (one, two) = tokio::join!(bench.load(&bytes), bench.load(&bytes));
    assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()), "loaded at once: compiled once");
    assert_eq!(compiled(&bench.cache()).len(), 1);
}

#[tokio::test]
async fn a_second_engine_loads_what_the_first_compiled() {
    let bench = Bench::new();
    let artifact = bench.artifact(&binary(&program(GOOD)));
    bench.engine.load(&artifact, "oci:guest").await.unwrap();
    let nobody = HelperCommand::Process { program: "/no/such/compiler".into(), args: Vec::new() };
    let again = WasmEngine::new(Settings { helper: nobody, ..settings(&bench.folder, Profile::Wide) }).unwrap();
    again.load(&artifact, "oci:guest").await.unwrap();
}

#[tokio::test]
async fn two_components_are_compiled_at_once_and_what_is_compiled_waits_for_none() {
    let bench = Bench::new();
    let known = bench.artifact(&binary(&program(GOOD)));
    bench.engine.load(&known, "oci:guest").await.map(drop).unwrap();
    // Each compiler waits until two have started, notes how many there are, and ends when it is told to.
    let script = r#"cd "$0"; mkdir r$$; echo >> started; while [ "$(wc -l < started)" -lt 2 ]; do sleep 0.02; done
        ls -d r* | wc -l >> counts; while [ ! -e go ]; do sleep 0.02; done; rmdir r$$; exit 1"#;
    let args = vec!["-c".into(), script.into(), bench.folder.path().into()];
    let helper = HelperCommand::Process { program: "/bin/sh".into(), args };
    let engine = WasmEngine::new(Settings { helper, ..settings(&bench.folder, Profile::Wide) }).unwrap();
    let engine = Arc::new(engine);
    let loads: Vec<_> = (1..=5)
        .map(|code| {
            let unknown = bench.artifact(&binary(&program(&format!(
                "(func $run (result i32) (i32.const 0) (drop (i32.const {code})))"
            ))));
            let engine = engine.clone();
            tokio::spawn(async move { engine.load(&unknown, "oci:guest").await.map(drop) })
        })
        .collect();
    let counts = bench.folder.path().join("counts");
    while fs::read_to_string(&counts).unwrap_or_default().lines().count() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine.load(&known, "oci:guest").await.unwrap();
    fs::write(bench.folder.path().join("go"), "").unwrap();
    for load in loads {
        assert!(load.await.unwrap().unwrap_err().to_string().contains("the compiler failed"));
    }
    let counts = fs::read_to_string(&counts).unwrap();
    assert_eq!(counts.lines().count(), 5);
    assert!(counts.lines().all(|count| count.trim() <= "2"), "{counts}");
}

#[tokio::test]
async fn a_damaged_entry_is_compiled_again() {
    let bench = Bench::new();
    let artifact = bench.artifact(&binary(&program(GOOD)));
    bench.engine.load(&artifact, "oci:guest").await.map(drop).unwrap();
    let entry = compiled(&bench.cache()).remove(0);
    let whole = fs::read(&entry).unwrap();
    for damage in [whole[..whole.len() / 2].to_vec(), vec![0; whole.len()], Vec::new()] {
        fs::write(&entry, damage).unwrap();
        let engine = WasmEngine::new(settings(&bench.folder, Profile::Wide)).unwrap();
        let component = engine.load(&artifact, "oci:guest").await.unwrap();
        let mut instance = component.instantiate(&spec(|_| ()), Recorder::new()).await.unwrap();
        assert_eq!(instance.run().await.code, Exit::DONE);
        assert_eq!(fs::metadata(&entry).unwrap().len(), whole.len() as u64);
    }
}

#[tokio::test]
async fn a_crash_between_code_and_digest_leaves_no_entry() {
    let bench = Bench::new();
    let artifact = bench.artifact(&binary(&program(GOOD)));
    bench.engine.load(&artifact, "oci:guest").await.map(drop).unwrap();
    let entry = compiled(&bench.cache()).remove(0);
    fs::remove_file(entry.with_extension("sha256")).unwrap();
    bench.engine.load(&artifact, "oci:guest").await.map(drop).unwrap();
    assert!(entry.with_extension("sha256").exists());
}

#[tokio::test]
async fn a_folder_that_others_may_enter_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("compiled");
    fs::create_dir(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o750)).unwrap();
    let error = WasmEngine::new(settings(&folder, Profile::Wide)).err().unwrap();
    let EngineError::Cache(_, cause) = error else { panic!("{error}") };
    assert!(cause.to_string().contains("mode 750") && cause.to_string().contains("chmod 700"), "{cause}");
}

#[tokio::test]
async fn the_folder_is_made_for_its_owner_alone() {
    let bench = Bench::new();
    assert_eq!(fs::metadata(bench.cache()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn each_profile_has_entries_of_its_own() {
    let bench = Bench::new();
    let artifact = bench.artifact(&binary(&program(GOOD)));
    let narrow = WasmEngine::new(settings(&bench.folder, Profile::Narrow)).unwrap();
    bench.engine.load(&artifact, "oci:guest").await.map(drop).unwrap();
    narrow.load(&artifact, "oci:guest").await.map(drop).unwrap();
    assert_eq!(compiled(&bench.cache()).len(), 2);
}

/// Loads with a shell script as the compiler and returns why that failed.
async fn failure_of(script: &str, limits: CompileLimits) -> String {
    let folder = tempfile::tempdir().unwrap();
    let helper = HelperCommand::Process { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] };
    let bench = Bench {
        engine: WasmEngine::new(Settings { helper, limits, ..settings(&folder, Profile::Wide) }).unwrap(),
        folder,
    };
    let error = bench.load(&binary(&program(GOOD))).await.err().unwrap().0;
    assert_eq!(fs::read_dir(bench.cache()).unwrap().count(), 0, "nothing is left behind");
    error
}

#[tokio::test]
async fn a_compiler_that_fails_says_why() {
    let error =
        failure_of("echo partial > \"$1\"; echo 'no such register' >&2; exit 3", CompileLimits::default()).await;
    assert!(error.contains("no such register") && error.contains("exit status: 3"), "{error}");
}

#[tokio::test]
async fn a_compiler_that_never_ends_is_killed() {
    let limits = CompileLimits { wall: Duration::from_millis(200), ..CompileLimits::default() };
    let error = failure_of("exec sleep 1000", limits).await;
    assert!(error.contains("compiling took more than 200ms"), "{error}");
}

#[tokio::test]
async fn a_compiler_that_eats_cpu_time_is_killed() {
    let limits = CompileLimits { cpu: Duration::from_secs(1), ..CompileLimits::default() };
    let error = failure_of("while :; do :; done", limits).await;
    assert!(error.contains("more than 1s of CPU time"), "{error}");
}

/// Not a test: what a test below starts this binary for. The three last arguments are those of the helper.
#[test]
fn helper_entry() {
    let args: Vec<_> = std::env::args().collect();
    let [.., input, output, profile] = &args[..] else { return };
    let Ok(profile) = profile.parse() else { return };
    if let Err(error) = marram_engine::compile_helper(Path::new(input), Path::new(output), profile, None) {
        panic!("{error}");
    }
}

fn this_binary() -> HelperCommand {
    // The test runner takes the helper's arguments for names of further tests, of which there are none.
    let args = ["--exact", "--nocapture", "cache::helper_entry"].map(Into::into).to_vec();
    HelperCommand::Process { program: std::env::current_exe().unwrap(), args }
}

#[tokio::test]
async fn a_child_process_compiles_within_the_default_limits() {
    let folder = tempfile::tempdir().unwrap();
    let engine = WasmEngine::new(Settings { helper: this_binary(), ..settings(&folder, Profile::Narrow) }).unwrap();
    let bench = Bench { engine, folder };
    let component = bench.load(&binary(&program(GOOD))).await.unwrap();
    let mut instance = component.instantiate(&spec(|_| ()), Recorder::new()).await.unwrap();
    assert_eq!(instance.run().await.code, Exit::DONE);
}

#[tokio::test]
async fn a_child_process_reports_what_does_not_compile() {
    let folder = tempfile::tempdir().unwrap();
    let engine = WasmEngine::new(Settings { helper: this_binary(), ..settings(&folder, Profile::Wide) }).unwrap();
    let bench = Bench { engine, folder };
    // Passes our reader, which looks at names, but not the validator.
    let mut bytes = wat::parse_str(program("(func $run (result i32) (i32.const 77))")).unwrap();
    let constant = bytes.windows(3).position(|code| code == [0x41, 0xcd, 0x00]).unwrap();
    bytes[constant] = 0x42; // i64.const
    let error = bench.load(&bytes).await.err().unwrap().0;
    assert!(error.contains("does not compile") && error.contains("type mismatch"), "{error}");
}

#[tokio::test]
async fn a_child_process_without_enough_memory_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let limits = CompileLimits { address_space: 1 << 20, ..CompileLimits::default() };
    let settings = Settings { helper: this_binary(), limits, ..settings(&folder, Profile::Wide) };
    let bench = Bench { engine: WasmEngine::new(settings).unwrap(), folder };
    // What it has already when it is limited must not be enough.
    let many: String =
        (0..3000).map(|n| format!("(func (result i32) (i32.add (i32.const {n}) (i32.const 1)))")).collect();
    let error = bench.load(&binary(&program(&format!("{GOOD} {many}")))).await.err().unwrap().0;
    assert!(error.contains("the compiler failed"), "{error}");
}

#[tokio::test]
async fn what_a_crash_left_half_written_is_removed_at_the_next_start() {
    let bench = Bench::new();
    let left = bench.cache().join("1234-0.tmp");
    fs::write(&left, "half").unwrap();
    WasmEngine::new(settings(&bench.folder, Profile::Wide)).unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn a_compiler_cannot_fill_the_disk() {
    let script = "exec dd if=/dev/zero of=\"$1\" bs=1048576 count=200";
    let error = failure_of(script, CompileLimits::default()).await;
    assert!(error.contains("compiling took more than 64") && error.contains("of machine code"), "{error}");
}

#[tokio::test]
async fn code_is_listed_and_removed_unless_it_is_loaded() {
    let bench = Bench::new();
    let artifact = bench.artifact(&binary(&program(GOOD)));
    let loaded = bench.engine.load(&artifact, "oci:guest").await.unwrap();
    // Of another version of wasmtime, and a file of somebody else.
    let old = format!("{}-0123456789abcdef", artifact.component_digest.trim_start_matches("sha256:"));
    fs::write(bench.cache().join(format!("{old}.cwasm")), [0; 100]).unwrap();
    fs::write(bench.cache().join("notes.txt"), "mine").unwrap();

    let code = async || bench.engine.code().await.unwrap();
    let listed = code().await;
    let own = listed.iter().find(|code| code.usable).unwrap().clone();
    let bytes: u64 = fs::read_dir(bench.cache()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert_eq!((own.component.as_str(), own.held, own.bytes), (artifact.component_digest.as_str(), true, bytes - 104));
    assert_eq!((listed.len(), listed.iter().filter(|code| code.name == old && code.bytes == 100).count()), (2, 1));

    let remove = async |names: &[&str]| {
        bench.engine.remove_code(names.iter().map(|&name| name.to_owned()).collect()).await.unwrap();
    };
    remove(&[&own.name, &old, "notes", "../x"]).await;
    assert_eq!(code().await, std::slice::from_ref(&own), "it runs");
    drop(loaded);
    remove(&[&own.name]).await;
    assert_eq!(code().await, []);
    assert!(bench.cache().join("notes.txt").exists());
    bench.engine.load(&artifact, "oci:guest").await.map(drop).unwrap();
    assert_eq!(code().await.len(), 1, "compiled again");
}
