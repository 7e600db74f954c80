//! Artifacts that other tools made or copied run as those of `marram module push` do: `skopeo`, `wkg` and its library, and
//! generic layer types and indexes as oras and Docker write them.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{collections::BTreeMap, fs, path::Path};

use marram_tests::{
    device::Device,
    manifest::{Manifest, Module},
    program::{Answer, Layout, command, guest, push},
    registry::DockerRegistry,
    skopeo, wkg,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONTAINER: &str = "application/vnd.oci.image.config.v1+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Runs the program `plain_program` from each of these images to its end; returns the digest of each.
#[track_caller]
fn run_all(images: &[String]) -> Vec<String> {
    let device = Device::new();
    let name = |number: usize| format!("m{number}");
    let add =
        |manifest: Manifest, (number, image): (usize, &String)| manifest.module(&name(number), Module::new(image));
    let host = device.start(&images.iter().enumerate().fold(Manifest::new(), add));
    let ended = |number| host.wait_for_module(&name(number), "to have run", |now| now["exitCode"] == 0);
    (0..images.len()).map(|number| ended(number)["digest"].as_str().unwrap().to_owned()).collect()
}

fn inspect(image: &str) -> Value {
    Answer::of(command().args(["module", "inspect", image, "--format", "json"])).ok().json()
}

#[test]
fn what_skopeo_copied_into_a_layout_runs() {
    let (registry, folder) = (DockerRegistry::start(), tempfile::tempdir().unwrap());
    let image = registry.image("program:1");
    let pushed = push("plain_program", &image);
    let layout = format!("oci:{}:copied", folder.path().join("new").display());
    skopeo::copy(&format!("docker://{image}"), &layout);
    assert_eq!(run_all(&[layout]), [pushed.manifest]);
}

#[test]
fn what_skopeo_copied_out_of_our_layout_into_a_registry_runs() {
    let (registry, layout) = (DockerRegistry::start(), Layout::with(&["plain_program"]));
    let image = registry.image("copied/program:1");
    skopeo::copy(&layout.image("plain_program"), &format!("docker://{image}"));
    let digest = inspect(&layout.image("plain_program"))["manifestDigest"].clone();
    assert_eq!(run_all(&[image]), [digest.as_str().unwrap()]);
}

#[test]
fn a_layout_may_be_filled_by_skopeo_and_by_us_in_turn() {
    let (registry, layout) = (DockerRegistry::start(), Layout::with(&["plain_program"]));
    let image = registry.image("program:1");
    push("plain_program", &image);
    skopeo::copy(&format!("docker://{image}"), &layout.image("skopeo"));
    push("plain_program", &layout.image("after"));
    let images = ["plain_program", "skopeo", "after"].map(|tag| layout.image(tag));
    assert_eq!(run_all(&images).len(), 3);
}

#[test]
fn what_the_library_of_wkg_pushed_runs() {
    use oci_client_of_wkg::{
        Client, Reference,
        client::{ClientConfig, ClientProtocol},
        secrets::RegistryAuth,
    };
    let registry = DockerRegistry::start();
    let image = registry.image("wkg/program:0.1.0");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() };
        let client = oci_wasm::WasmClient::new(Client::new(config));
        // As `wkg oci push` does.
        let bytes = fs::read(guest("plain_program")).unwrap();
        let (config, mut layer) = oci_wasm::WasmConfig::from_raw_component(bytes, None).unwrap();
        let title = ("org.opencontainers.image.title".to_owned(), "plain_program.wasm".to_owned());
        layer.annotations = Some(BTreeMap::from([title]));
        let annotations = BTreeMap::from([("org.opencontainers.image.version".to_owned(), "0.1.0".to_owned())]);
        let reference: Reference = image.parse().unwrap();
        client.push(&reference, &RegistryAuth::Anonymous, layer, config, Some(annotations)).await.unwrap();
    });
    run_all(std::slice::from_ref(&image));
    let artifact = inspect(&image)["artifact"].clone();
    assert_eq!(artifact["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    assert_eq!(artifact["documents"][0]["annotations"]["org.opencontainers.image.version"], "0.1.0", "{artifact}");
}

#[test]
#[ignore = "compiles `wkg`, which takes minutes: `cargo xtask soak wkg`"]
fn what_wkg_pushed_runs_and_what_we_pushed_wkg_pulls() {
    let (registry, folder) = (DockerRegistry::start(), tempfile::tempdir().unwrap());
    let (theirs, ours) = (registry.image("wkg/theirs:0.1.0"), registry.image("wkg/ours:0.1.0"));
    wkg::push(&guest("plain_program"), &theirs, &["org.opencontainers.image.version=0.1.0"]);
    push("plain_program", &ours);
    let pulled = folder.path().join("pulled.wasm");
    wkg::pull(&ours, &pulled);
    assert!(fs::read(&pulled).unwrap() == fs::read(guest("plain_program")).unwrap(), "wkg pulled something else");
    assert_eq!(run_all(&[theirs.clone(), ours]).len(), 2);
    let artifact = inspect(&theirs)["artifact"].clone();
    assert_eq!(artifact["documents"][0]["annotations"]["org.opencontainers.image.version"], "0.1.0", "{artifact}");
}

#[test]
fn generic_layers_and_indexes_run() {
    let layout = Layout::with(&["plain_program"]);
    let folder = layout.path();
    let component = fs::read(guest("plain_program")).unwrap();
    let blob = |bytes: &[u8], media_type: &str| put_blob(&folder, bytes, media_type);
    let artifact = |config: Value, layers: &[Value]| {
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers }).to_string()
    };
    let empty = || blob(b"{}", "application/vnd.oci.empty.v1+json");

    let tar = blob(&component, "application/vnd.oci.image.layer.v1.tar");
    tag(&folder, "generic", blob(artifact(empty(), &[tar]).as_bytes(), MANIFEST));
    let spin = blob(&component, "application/vnd.wasm.content.layer.v1+wasm");
    let asset = blob(b"an asset", "application/vnd.wasm.content.layer.v1+data");
    let wasm = blob(br#"{"architecture":"wasm","os":"wasi"}"#, CONTAINER);
    tag(&folder, "beside-data", blob(artifact(wasm, &[asset.clone(), spin]).as_bytes(), MANIFEST));
    let plain = blob(&component, "application/octet-stream");
    let found = blob(artifact(empty(), &[asset.clone(), plain]).as_bytes(), MANIFEST);
    tag(&folder, "by-its-bytes", found.clone());

    let mut attestation = blob(artifact(empty(), &[asset]).as_bytes(), MANIFEST);
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let index = |entries: &[Value]| {
        let text = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string();
        blob(text.as_bytes(), INDEX)
    };
    let inner = index(&[found, attestation.clone()]);
    tag(&folder, "index", inner.clone());
    tag(&folder, "nested", index(&[attestation, inner]));

    let images = ["generic", "beside-data", "by-its-bytes", "index", "nested"].map(|tag| layout.image(tag));
    let digests = run_all(&images);
    assert_eq!(digests[2..], [&digests[2], &digests[2], &digests[2]].map(Clone::clone), "indexes lead to it");
}

#[test]
fn signatures_are_told_and_called_not_verified() {
    let (registry, layout) = (DockerRegistry::start(), Layout::with(&["plain_program"]));
    let folder = layout.path();
    let told = inspect(&layout.image("plain_program"));
    assert_eq!(told["artifact"]["signatures"], json!([]));
    let digest = told["manifestDigest"].as_str().unwrap().to_owned();
    let hex = digest.trim_start_matches("sha256:").to_owned();
    let blob = |bytes: &[u8], media_type: &str| put_blob(&folder, bytes, media_type);
    let attach = |layer: Value, extra: Value| {
        let config = blob(b"{}", "application/vnd.oci.empty.v1+json");
        let mut manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        manifest.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        blob(manifest.to_string().as_bytes(), MANIFEST)
    };
    // As cosign 2 does it: a payload under a tag of its own, here for another image.
    let payload = json!({ "critical": { "image": { "docker-manifest-digest": "sha256:0000" } } }).to_string();
    let mut layer = blob(payload.as_bytes(), "application/vnd.dev.cosign.simplesigning.v1+json");
    layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": "MEUC" });
    tag(&folder, &format!("sha256-{hex}.sig"), attach(layer, json!({})));
    // As cosign 3 does it: a bundle that refers to the manifest.
    let bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": { "publicKey": { "hint": "plant" } },
        "messageSignature": { "messageDigest": { "algorithm": "SHA2_256", "digest": base64(&hex) }, "signature": "MEUC" },
    });
    let layer = blob(bundle.to_string().as_bytes(), "application/vnd.dev.sigstore.bundle.v0.3+json");
    let subject = json!({ "mediaType": MANIFEST, "digest": digest, "size": told["artifact"]["documents"][0]["size"] });
    let referrer = attach(layer, json!({ "subject": subject }));
    add(&folder, referrer.clone());

    let check = |image: &str, found: &str| {
        let signatures = inspect(image)["artifact"]["signatures"].clone();
        let of = |kind: &str| signatures.as_array().unwrap().iter().find(|one| one["kind"] == kind).unwrap().clone();
        let (bundle, old) = (of("sigstore-bundle"), of("cosign"));
        assert_eq!(
            (&bundle["signs"], &bundle["key"], &bundle["found"]),
            (&json!(digest), &json!("the key plant"), &json!(found))
        );
        assert_eq!((&old["signs"], &old["subject"]), (&json!("sha256:0000"), &json!(digest)));
        let text = Answer::of(command().args(["module", "inspect", image])).ok().out;
        assert!(text.contains("sigstore-bundle, not verified, by the key plant"), "{text}");
        assert!(text.contains("but for sha256:0000, which is something else"), "{text}");
    };
    check(&layout.image("plain_program"), "referrers");

    // In a registry without a list of referrers the list has a tag.
    let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [referrer] }).to_string();
    tag(&folder, &format!("sha256-{hex}"), blob(list.as_bytes(), INDEX));
    for name in ["plain_program", &format!("sha256-{hex}"), &format!("sha256-{hex}.sig")] {
        skopeo::copy(&layout.image(name), &format!("docker://{}", registry.image(&format!("program:{name}"))));
    }
    check(&registry.image("program:plain_program"), &format!("sha256-{hex}"));
}

#[test]
fn the_types_of_a_component_are_told_as_wit() {
    let file = guest("threshold_filter");
    let wit = Answer::of(command().args(["module", "inspect", "--wit"]).arg(file)).ok().out;
    for line in ["export marram:edge/input-handler@0.1.0;", "package marram:edge@0.1.0 {", "interface messaging {"] {
        assert!(wit.contains(line), "`{line}` is missing:\n{wit}");
    }
}

/// Base64 of a digest's bytes.
fn base64(hex: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: String = hex.chars().map(|digit| format!("{:04b}", digit.to_digit(16).unwrap())).collect();
    let sextet = |piece: &[u8]| {
        let text = format!("{:0<6}", std::str::from_utf8(piece).unwrap());
        char::from(ALPHABET[usize::from_str_radix(&text, 2).unwrap()])
    };
    bits.as_bytes().chunks(6).map(sextet).collect()
}

/// Gives an entry a tag in the layout's index.
fn tag(layout: &Path, name: &str, mut entry: Value) {
    entry["annotations"] = json!({ REF_NAME: name });
    add(layout, entry);
}

fn add(layout: &Path, entry: Value) {
    let path = layout.join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    index["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(path, index.to_string()).unwrap();
}

/// Stores a blob; returns its descriptor.
fn put_blob(layout: &Path, bytes: &[u8], media_type: &str) -> Value {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(layout.join("blobs/sha256").join(&hex), bytes).unwrap();
    json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() })
}
