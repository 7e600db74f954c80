//! Where modules come from: registries, layouts, the cache; and what is refused.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    path::{Path, PathBuf},
};

use marram_tests::{
    device::Device,
    host::Host,
    manifest::{Manifest, Module},
    program::{Answer, Layout, command, guest, push, push_as},
    registry::{DockerRegistry, PASSWORD, USER},
};
use serde_json::{Value, json};

#[test]
fn an_image_named_by_its_digest_runs_as_that_digest() {
    let (registry, device) = (DockerRegistry::start(), Device::new());
    let first = push("device_telemetry", &registry.image("telemetry:1"));
    push("plain_program", &registry.image("telemetry:1")); // the tag moves on
    let image = registry.image(&format!("telemetry@{}", first.manifest));
    let host = device.start(&telemetry(&image));
    let module = host.wait_for_status("telemetry", "running");
    assert_eq!(module["digest"], first.manifest.as_str());
    let _ = device.journal().wait_for_more(1);
}

#[test]
fn a_layout_folder_needs_no_registry() {
    let (layout, device) = (Layout::with(&["device_telemetry", "plain_program"]), Device::new());
    let _host = device.start(&telemetry(&layout.image("device_telemetry")));
    let _ = device.journal().wait_for_more(1);
}

#[test]
fn modules_of_one_image_share_one_blob() {
    let (registry, device) = (DockerRegistry::start(), Device::new());
    let image = registry.image("telemetry:1");
    let pushed = push("device_telemetry", &image);
    let manifest = telemetry(&image).module("second", Module::new(&image).reads_proc()).upstream("second");
    let host = device.start(&manifest);
    host.wait_for_status("telemetry", "running");
    host.wait_for_status("second", "running");
    let mut journal = device.journal();
    for module in ["telemetry", "second"] {
        let source = format!("/messages/modules/{module}/outputs/readings");
        journal.wait_for(&source, |all| all.iter().any(|entry| entry["source"] == source.as_str()).then_some(()));
    }
    assert_eq!(blobs(&device, &pushed.component).len(), 1);
    let size = fs::metadata(guest("device_telemetry")).unwrap().len();
    let copies = device.files().iter().filter(|file| fs::metadata(file).unwrap().len() == size).count();
    assert_eq!(copies, 1, "no other copy of the component");
}

#[test]
fn credentials_of_the_manifest_open_a_closed_registry() {
    let (registry, device) = (DockerRegistry::start_with_password(), Device::new());
    let image = registry.image("telemetry:1");
    push_as("device_telemetry", &image, Some((USER, PASSWORD)));
    let manifest = telemetry(&image);

    let host = device.start(&manifest);
    let reason = refused(&host, "telemetry");
    assert!(reason.contains("without credentials") && reason.contains("registryCredentials"), "{reason}");

    let wrong = manifest.clone().credentials(&registry.address(), USER, "wrong");
    let _ = device.apply(&wrong.to_json()).ok();
    let _ = device.marram(&["restart", "telemetry"]).ok();
    let wrong = host.wait_for_module("telemetry", "to be refused as that user", |now| {
        now["description"].as_str().is_some_and(|text| text.contains(&format!("to the user `{USER}`")))
    });
    let reason = wrong["description"].as_str().unwrap();
    assert!(reason.contains("check the entry") && !reason.contains("wrong"), "{reason}");

    let right = manifest.credentials(&registry.address(), USER, PASSWORD);
    let _ = device.apply(&right.to_json()).ok();
    // Nobody restarts it: the back-off tries again.
    host.wait_for_status("telemetry", "running");
    let _ = device.journal().wait_for_more(1);
    assert!(!host.log().contains(PASSWORD), "the log tells a password");
}

#[test]
fn a_component_that_was_tampered_with_is_refused_and_not_kept() {
    let (registry, device) = (DockerRegistry::start(), Device::new());
    let good = push("device_telemetry", &registry.image("telemetry:1"));
    let bad = push("plain_program", &registry.image("program:1"));
    tamper(&registry.blob_file(&bad.component));
    let manifest =
        telemetry(&registry.image("telemetry:1")).module("program", Module::new(&registry.image("program:1")));

    let host = device.start(&manifest);
    let reason = refused(&host, "program");
    assert!(reason.contains(&bad.component), "the expected digest: {reason}");
    assert!(host.module("program")["lastStartMs"].is_null(), "it was never started");
    assert!(host.logs("program").is_empty(), "nothing of it ran");
    let _ = device.journal().wait_for_more(2);
    assert_eq!(blobs(&device, &good.component).len(), 1);
    assert_eq!(blobs(&device, &bad.component), Vec::<PathBuf>::new(), "not cached under the digest it claims");
    let tampered = fs::read(registry.blob_file(&bad.component)).unwrap();
    assert!(!device.files().iter().any(|file| fs::read(file).unwrap() == tampered), "not cached at all");
}

#[test]
fn a_manifest_that_was_tampered_with_is_refused() {
    let (registry, device) = (DockerRegistry::start(), Device::new());
    let pushed = push("plain_program", &registry.image("program:1"));
    let file = registry.blob_file(&pushed.manifest);
    let text = fs::read_to_string(&file).unwrap();
    // As long as before, and as good JSON.
    fs::write(&file, text.replacen("plain_program.wasm", "plain_pr0gram.wasm", 1)).unwrap();
    let image = registry.image(&format!("program@{}", pushed.manifest));
    let host = device.start(&Manifest::new().module("program", Module::new(&image)));
    let reason = refused(&host, "program");
    // Some versions of the registry check what they read from their disk, and then have nothing to give.
    assert!(reason.contains(&pushed.manifest), "{reason}");
    assert_eq!(blobs(&device, &pushed.manifest), Vec::<PathBuf>::new());
}

#[test]
fn what_the_registry_does_not_have_is_said_and_others_run() {
    let (registry, device) = (DockerRegistry::start(), Device::new());
    push("device_telemetry", &registry.image("telemetry:1"));
    let manifest = telemetry(&registry.image("telemetry:1"))
        .module("tagless", Module::new(&registry.image("telemetry:2")))
        .module("nowhere", Module::new(&registry.image("no/such/image:1")));
    let host = device.start(&manifest);
    for (module, image) in [("tagless", "telemetry:2"), ("nowhere", "no/such/image:1")] {
        let reason = refused(&host, module);
        assert!(reason.contains(&registry.image(image)), "names the image: {reason}");
        assert!(reason.contains("does not have") && reason.contains("check the name, or push it"), "{reason}");
    }
    let _ = device.journal().wait_for_more(2);
    // Pushed in the meantime, found at the next try.
    push("plain_program", &registry.image("no/such/image:1"));
    host.wait_for_module("nowhere", "to have run", |now| now["exitCode"] == 0);
}

#[test]
fn a_container_image_is_a_clear_fault() {
    let (layout, device) = (Layout::with(&["device_telemetry"]), Device::new());
    make_container_image(&layout.path(), "busybox");
    let manifest = telemetry(&layout.image("device_telemetry")).module("box", Module::new(&layout.image("busybox")));
    let host = device.start(&manifest);
    let reason = refused(&host, "box");
    assert!(reason.contains("container image (linux/amd64)"), "{reason}");
    assert!(
        reason.contains("busybox") && reason.contains("wasm32-wasip2"),
        "names the image, says what to do: {reason}"
    );
    let _ = device.journal().wait_for_more(1);
}

#[test]
fn a_warm_cache_starts_without_the_registry() {
    let (mut registry, device) = (DockerRegistry::start(), Device::new());
    let image = registry.image("telemetry:1");
    push("device_telemetry", &image);
    let manifest = telemetry(&image);
    let mut journal = device.journal();
    {
        let host = device.start(&manifest);
        let _ = journal.wait_for_more(1);
        host.stop();
    }
    registry.stop();

    // What is stored, without a file.
    let host = device.start_stored(&[]);
    let _ = journal.wait_for_more(1);
    host.stop();

    // The same file again.
    let host = device.start(&manifest);
    let _ = journal.wait_for_more(1);

    // A change that needs another instance of the same image.
    let before = host.module("telemetry");
    let changed = manifest.module("telemetry", Module::new(&image).reads_proc().env("ROOM", "cellar"));
    let _ = device.apply(&changed.to_json()).ok();
    host.wait_for_module("telemetry", "to be replaced", |now| {
        now["status"] == "running" && now["lastStartMs"] != before["lastStartMs"]
    });
    let _ = journal.wait_for_more(1);
    assert!(host.log().contains("out of reach"), "the log tells of the copy");
}

#[test]
fn what_was_pushed_can_be_inspected_and_pulled_back() {
    let (registry, folder) = (DockerRegistry::start_with_password(), tempfile::tempdir().unwrap());
    let image = registry.image("telemetry:1");
    let pushed = push_as("device_telemetry", &image, Some((USER, PASSWORD)));
    let password = folder.path().join("password");
    fs::write(&password, PASSWORD).unwrap();
    let user = || {
        let mut command = command();
        command.stdin(fs::File::open(&password).unwrap()).current_dir(folder.path()).arg("module");
        command
    };
    const AS_USER: [&str; 5] = ["--format", "json", "--username", USER, "--password-stdin"];

    let told = Answer::of(user().args(["inspect", &image]).args(AS_USER)).ok().json();
    assert_eq!((&told["kind"], &told["refusal"]), (&json!("handler"), &Value::Null), "{told}");
    assert_eq!(
        (&told["manifestDigest"], &told["componentDigest"]),
        (&json!(pushed.manifest), &json!(pushed.component))
    );
    assert!(told["imports"].as_array().unwrap().iter().all(|import| import["met"] == true), "{told}");

    let pulled = Answer::of(user().args(["pull", &image, "back.wasm"]).args(AS_USER)).ok().json();
    assert_eq!(pulled["reference"], format!("{image}@{}", pushed.manifest));
    assert_eq!(fs::read(folder.path().join("back.wasm")).unwrap(), fs::read(guest("device_telemetry")).unwrap());

    let stranger = Answer::of(command().args(["module", "pull", &image, "none.wasm"]).current_dir(folder.path()));
    assert_eq!(stranger.code, Some(1), "{stranger:?}");
    assert!(stranger.err.contains("without credentials"), "{stranger:?}");
    assert!(!folder.path().join("none.wasm").exists());
}

/// Telemetry at a high rate, sent upstream.
fn telemetry(image: &str) -> Manifest {
    Manifest::new()
        .module("telemetry", Module::new(image).reads_proc())
        .upstream("telemetry")
        .twin("telemetry", json!({ "intervalMs": 50 }))
}

/// Waits until a module's image was refused; returns the reason.
#[track_caller]
fn refused(host: &Host, module: &str) -> String {
    let now = host.wait_for_status(module, "backoff");
    assert!(now["exitCode"].is_null(), "it never ran: {now}");
    let reason = now["description"].as_str().unwrap();
    assert!(reason.contains("tried again in"), "{reason}");
    reason.to_owned()
}

/// Changes one byte, not the length.
fn tamper(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// The device's files under the name of this digest.
fn blobs(device: &Device, digest: &str) -> Vec<PathBuf> {
    let hex = digest.trim_start_matches("sha256:");
    let is_blob = |file: &PathBuf| file.ends_with(Path::new("sha256").join(hex));
    device.files().into_iter().filter(is_blob).collect()
}

/// Adds to a layout what `docker save` or `skopeo copy` would: a manifest of a container, with a config of Linux.
fn make_container_image(layout: &Path, tag: &str) {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64))] },
    });
    let config = put_blob(layout, config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let layer = put_blob(layout, b"\x1f\x8b not really", "application/vnd.oci.image.layer.v1.tar+gzip");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer] });
    let mut entry = put_blob(layout, manifest.to_string().as_bytes(), media_type);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
    let path = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(path, index.to_string()).unwrap();
}

/// Stores a blob; returns its descriptor.
fn put_blob(layout: &Path, bytes: &[u8], media_type: &str) -> Value {
    let file = layout.join("blobs/sha256/new");
    fs::write(&file, bytes).unwrap();
    let sum = std::process::Command::new("sha256sum").arg(&file).output().unwrap();
    let hex = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
    fs::rename(&file, layout.join("blobs/sha256").join(&hex)).unwrap();
    json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() })
}
