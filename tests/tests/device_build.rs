//! The build for devices: it has no compiler, runs code that the full build made ahead, and says what it lacks.

#![allow(clippy::unwrap_used)] // tests

use std::{fs, path::Path, process::Command};

use marram_tests::{
    device::Device,
    manifest::{Manifest, Module},
    program::{Answer, command, command_of, device_marram, guest, push},
    registry::DockerRegistry,
};
use serde_json::json;

/// A handler that sends readings of this machine, and an ordinary program.
fn deployment(registry: &DockerRegistry) -> Manifest {
    Manifest::new()
        .module("telemetry", Module::new(&registry.image("telemetry:1")).reads_proc())
        .twin("telemetry", json!({ "intervalMs": 50 }))
        .upstream("telemetry")
        .module("plain", Module::new(&registry.image("plain:1")).policy("never").args(&["plain", "--lines", "1"]))
}

fn push_both(registry: &DockerRegistry) {
    let _ = push("device_telemetry", &registry.image("telemetry:1"));
    let _ = push("plain_program", &registry.image("plain:1"));
}

/// A device with the device build, which looks for code in `folder`.
fn device(folder: &Path) -> Device {
    let device = Device::with_binary(&device_marram());
    device.configure(&format!("[engine]\nprecompiled = [{:?}]\n", folder.display().to_string()));
    device
}

/// `marram compile` of the full build.
fn compile(folder: &Path, subjects: &[&str]) -> Command {
    let mut compile = command();
    compile.arg("compile").args(subjects).arg("--output").arg(folder);
    compile
}

#[test]
fn it_runs_what_the_full_build_compiled_and_starts_again_offline() {
    let (mut registry, folder) = (DockerRegistry::start(), tempfile::tempdir().unwrap());
    push_both(&registry);
    let images = [registry.image("telemetry:1"), registry.image("plain:1")];
    let made = compile(folder.path(), &[&images[0], &images[1]]).args(["--format", "json"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");

    let device = device(folder.path());
    let host = device.start(&deployment(&registry));
    let mut journal = device.journal();
    journal.wait_for_more(3);
    host.wait_for_module("plain", "to have ended well", |now| now["exitCode"] == 0);
    host.stop();
    let names = |folder: &Path| -> Vec<_> {
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        let mut code: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "cwasm")).collect();
        code.sort();
        code.iter().map(|path| fs::read(path).unwrap()).collect()
    };
    let compiled = names(&device.data().join("compiled"));
    assert_eq!(compiled, names(folder.path()), "nothing was compiled on the device: these are copies");

    registry.stop();
    let host = device.start_stored(&[]);
    journal.wait_for_more(3);
    host.wait_for_status("telemetry", "running");
    host.stop();
}

#[test]
fn code_that_is_overwritten_in_place_harms_neither_the_host_nor_the_module_and_the_next_start_takes_it() {
    let (registry, folder) = (DockerRegistry::start(), tempfile::tempdir().unwrap());
    let image = registry.image("telemetry:1");
    let _ = push("device_telemetry", &image);
    let _ = Answer::of(&mut compile(folder.path(), &[&image])).ok();
    let files = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let code = files.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "cwasm")).unwrap();
    let whole = fs::read(&code).unwrap();

    let device = device(folder.path());
    let manifest = Manifest::new()
        .module("telemetry", Module::new(&image).reads_proc())
        .twin("telemetry", json!({ "intervalMs": 50 }))
        .upstream("telemetry");
    let host = device.start(&manifest);
    let mut journal = device.journal();
    journal.wait_for_more(3);
    for content in [&b""[..], &vec![0xff; whole.len()]] {
        fs::write(&code, content).unwrap();
        journal.wait_for_more(3);
    }
    let now = host.wait_for_status("telemetry", "running");
    assert_eq!(now["restartCount"], 0, "{now}");
    host.stop();

    // The copy is damaged: what runs again is what the owner put there last.
    fs::write(&code, &whole).unwrap();
    let copies = fs::read_dir(device.data().join("compiled")).unwrap().map(|file| file.unwrap().path());
    for copy in copies.filter(|path| path.extension().is_some_and(|ending| ending == "cwasm")) {
        fs::write(copy, "junk").unwrap();
    }
    let host = device.start_stored(&[]);
    journal.wait_for_more(3);
    host.stop();
}

#[test]
fn without_code_it_refuses_with_the_command_that_makes_it_and_runs_once_that_was_done() {
    let (registry, folder) = (DockerRegistry::start(), tempfile::tempdir().unwrap());
    let image = registry.image("telemetry:1");
    let pushed = push("device_telemetry", &image);
    let device = device(folder.path());
    let host = device.start(&Manifest::new().module("telemetry", Module::new(&image).reads_proc()));
    let refused = host.wait_for_status("telemetry", "backoff");
    let reason = refused["description"].as_str().unwrap();
    assert!(refused["exitCode"].is_null() && reason.contains(&pushed.component), "{refused}");
    let line = reason.split('`').find(|part| part.starts_with("marram compile ")).expect(reason);
    assert!(line.contains(&format!("{image}@{}", pushed.manifest)), "{reason}");

    // As a person would type it, but for the name of the folder.
    let words =
        line.split(' ').skip(1).map(|word| if word == "FOLDER" { folder.path().to_str().unwrap() } else { word });
    let _ = Answer::of(command().args(words)).ok();
    let _ = device.marram(&["restart", "telemetry"]).ok();
    host.wait_for_status("telemetry", "running");
}

#[test]
fn it_names_the_commands_that_it_lacks() {
    let commands = |binary: &Path| -> Vec<String> {
        let mut all = Vec::new();
        for group in [&[][..], &["module"]] {
            let help = Answer::of(command_of(binary).args(group).arg("--help")).ok().out;
            let lines =
                help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
            // Names are indented by two, the words about them by more.
            let names = lines.filter(|line| !line.starts_with("   ")).filter_map(|line| line.split_whitespace().next());
            all.extend(names.map(|name| [group, &[name]].concat().join(" ")));
        }
        all
    };
    let (full, device) = (marram_tests::program::marram(), device_marram());
    let has = commands(&device);
    let lacks: Vec<_> = commands(&full).into_iter().filter(|name| !has.contains(name)).collect();
    for expected in ["compile", "completions", "module push"] {
        assert!(lacks.iter().any(|name| name == expected), "{expected}: {lacks:?}");
    }
    for name in lacks {
        let answer = Answer::of(command_of(&device).args(name.split(' ')));
        assert_eq!(answer.code, Some(2), "{name}: {answer:?}");
        let word = name.split(' ').next_back().unwrap();
        assert!(answer.err.starts_with(&format!("error: this build of marram has no `{word}`")), "{answer:?}");
        assert!(answer.err.contains("hint: use the full build"), "{answer:?}");
    }
}

#[test]
fn it_says_what_it_is() {
    let features = |binary: &Path| {
        let version = Answer::of(command_of(binary).args(["version", "--format", "json"])).ok().json();
        version["features"].clone()
    };
    assert_eq!(features(&device_marram()), json!(["device"]));
    assert!(features(&marram_tests::program::marram()).as_array().unwrap().contains(&json!("compiler")));
}

#[test]
fn a_component_file_is_compiled_and_what_is_no_component_is_told_with_the_others_done() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.wasm");
    fs::write(&bad, "not wasm").unwrap();
    let good = guest("plain_program");
    let out = folder.path().join("out");
    let subjects = [bad.to_str().unwrap(), good.to_str().unwrap(), "./"];
    let answer = Answer::of(&mut compile(&out, &subjects));
    assert_eq!(answer.code, Some(1), "{answer:?}");
    let not_wasm =
        "bad.wasm: not a WebAssembly component: it does not begin as WebAssembly does; name the `.wasm` file";
    for part in ["2 of 3 components not compiled", not_wasm, "./: cannot read ./: it is not a regular file"] {
        assert!(answer.err.contains(part), "`{part}` is missing in {answer:?}");
    }
    assert_eq!(answer.err.lines().count(), 3, "a line each: {answer:?}");
    assert!(answer.out.contains(".cwasm ("), "{answer:?}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2, "code and record of the good one");
}

#[test]
fn code_for_other_machines_comes_with_the_feature_cross() {
    let folder = tempfile::tempdir().unwrap();
    let features = Answer::of(command().args(["version", "--format", "json"])).ok().json()["features"].clone();
    let file = guest("plain_program");
    let mut compile = compile(folder.path(), &[file.to_str().unwrap()]);
    let answer = Answer::of(compile.args(["--target", "aarch64-linux", "--target", "riscv64-linux"]));
    if features.as_array().unwrap().contains(&json!("cross")) {
        let lines: Vec<_> = answer.ok().out.lines().map(str::to_owned).collect();
        assert!(lines[0].starts_with("aarch64-linux ") && lines[1].starts_with("riscv64-linux "), "{lines:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    } else {
        assert_eq!(answer.code, Some(2), "{answer:?}");
        assert!(answer.err.contains("without the feature `cross`"), "{answer:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
