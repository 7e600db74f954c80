//! Pull and push against a stock registry.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use marram_core::{
    deployment::PullPolicy,
    ports::{FetchRequest, Images},
};
use marram_registry::{Digest, Registry};
use marram_tests::registry::{DockerRegistry, Options, PASSWORD, USER};
use serde_json::{Value, json};
use support::{
    Device, assert_says, component, credential, descriptor, fault, fetch, large_component, manifest, request,
};

/// Pushes a small component and returns its digests: manifest, component.
async fn push(device: &Device, image: &str, content: &str) -> (String, String) {
    let file = device.write("pushed.wasm", &component(content));
    let pushed = device.boot().push(&file, image, &[], Some("2026-01-02T03:04:05Z")).await.unwrap();
    (pushed.manifest_digest, pushed.component_digest)
}

/// Pushes blobs and a manifest as they are, as another tool would.
async fn push_raw(
    upstream: &DockerRegistry,
    name: &str,
    tag: &str,
    blobs: &[&[u8]],
    manifest: &[u8],
    media_type: &str,
) {
    let client = reqwest::Client::new();
    let base = format!("http://{}/v2/{name}", upstream.address());
    for blob in blobs {
        let begun = client.post(format!("{base}/blobs/uploads/")).send().await.unwrap();
        let mut url = reqwest::Url::parse(begun.headers()["location"].to_str().unwrap()).unwrap();
        url.query_pairs_mut().append_pair("digest", &Digest::of(blob).to_string());
        client.put(url).body(blob.to_vec()).send().await.unwrap().error_for_status().unwrap();
    }
    let request = client.put(format!("{base}/manifests/{tag}")).header("content-type", media_type);
    let answer = request.body(manifest.to_vec()).send().await.unwrap();
    let status = answer.status();
    assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONTAINER: &str = "application/vnd.oci.image.config.v1+json";

#[tokio::test]
async fn what_is_pushed_is_pulled_by_tag_and_by_digest() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let (manifest, digest) = push(&device, &upstream.image("edge/temp:1.0"), "a").await;

    let by_tag = fetch(&device.boot(), &upstream.image("edge/temp:1.0")).await.unwrap();
    assert_eq!((&by_tag.manifest_digest, &by_tag.component_digest), (&manifest, &digest));
    assert_eq!(fs::read(&by_tag.path).unwrap(), component("a"));
    assert!(!by_tag.stale);

    let fresh = Device::new();
    let by_digest = fetch(&fresh.boot(), &upstream.image(&format!("edge/temp@{manifest}"))).await.unwrap();
    assert_eq!(by_digest.manifest_digest, manifest);
    assert_eq!(fs::read(&by_digest.path).unwrap(), component("a"));
}

#[tokio::test]
async fn a_push_is_the_cncf_layout_and_repeats_bit_for_bit() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let (first, layer) = push(&device, &upstream.image("x:1"), "a").await;
    let (again, _) = push(&device, &upstream.image("x:2"), "a").await;
    assert_eq!(first, again);

    let manifest: Value = serde_json::from_slice(&fs::read(upstream.blob_file(&first)).unwrap()).unwrap();
    assert_eq!(manifest.get("artifactType"), None);
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    assert_eq!(manifest["layers"][0]["annotations"]["org.opencontainers.image.title"], "pushed.wasm");

    let config = fs::read(upstream.blob_file(manifest["config"]["digest"].as_str().unwrap())).unwrap();
    let expected = json!({
        "created": "2026-01-02T03:04:05Z", "architecture": "wasm", "os": "wasip2", "layerDigests": [layer],
        "component": {"imports": ["wasi:cli/environment@0.2.6"], "exports": ["wasi:cli/run@0.2.6"]},
    });
    assert_eq!(serde_json::from_slice::<Value>(&config).unwrap(), expected);
}

#[tokio::test]
async fn a_push_refuses_what_is_no_component() {
    let (upstream, mut device) = (DockerRegistry::start(), Device::new());
    let image = upstream.image("x:1");
    let core = device.write("core.wasm", &wat::parse_str("(module)").unwrap());
    let text = device.write("text.wasm", b"hello, world");
    let refused = async |registry: &Registry, file| registry.push(file, &image, &[], None).await.unwrap_err().message;
    assert!(refused(&device.boot(), &core).await.contains("wasm32-wasip2"));
    assert!(refused(&device.boot(), &text).await.contains("not a WebAssembly component"));
    let large = device.write("large.wasm", &large_component(5000));
    device.settings.max_component_bytes = 4000;
    assert!(refused(&device.boot(), &large).await.contains("larger than 4000 bytes"));
    let pinned = format!("{image}@{}", Digest::of(b""));
    assert!(device.boot().push(&core, &pinned, &[], None).await.unwrap_err().message.contains("not a digest"));
    assert!(!upstream.blob_file(&Digest::of(b"hello, world").to_string()).exists());
}

#[tokio::test]
async fn credentials_are_needed_and_must_be_right() {
    let (upstream, mut device) = (DockerRegistry::start_with_password(), Device::new());
    let (image, file) = (upstream.image("x:1"), device.write("x.wasm", &component("a")));
    let with = |password: &str| vec![credential(&upstream.address(), USER, password)];
    let registry = device.boot();

    let refused = registry.push(&file, &image, &with("wrong"), None).await.unwrap_err();
    assert!(refused.message.contains("registryCredentials") && !refused.message.contains("wrong"), "{refused}");
    registry.push(&file, &image, &with(PASSWORD), None).await.unwrap();

    let missing = fault(&registry, &image).await;
    assert_says(&missing, &[&image, "without credentials", &upstream.address(), "registryCredentials"]);
    let wrong = registry.fetch(FetchRequest { credentials: with("wrong"), ..request(&image) }).await.unwrap_err();
    assert_says(&wrong, &[&image, "user `device`", "registryCredentials"]);
    assert!(!missing.transient && !wrong.transient);
    let other = vec![credential("other.example", USER, PASSWORD)];
    assert!(registry.fetch(FetchRequest { credentials: other, ..request(&image) }).await.is_err());

    registry.fetch(FetchRequest { credentials: with(PASSWORD), ..request(&image) }).await.unwrap();
    // A copy does not paper over a refusal.
    assert!(registry.fetch(FetchRequest { credentials: with("wrong"), ..request(&image) }).await.is_err());
    // The owner's credentials come before the manifest's.
    device.settings.credentials = with(PASSWORD);
    device.boot().fetch(FetchRequest { credentials: with("wrong"), ..request(&image) }).await.unwrap();
}

#[tokio::test]
async fn a_tampered_component_is_refused_and_not_kept() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let (_, digest) = push(&device, &upstream.image("x:1"), "a").await;
    let file = upstream.blob_file(&digest);
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, &bytes).unwrap();

    let err = fault(&device.boot(), &upstream.image("x:1")).await;
    assert_says(&err, &["digest mismatch", &digest, &Digest::of(&bytes).to_string()]);
    assert!(!err.transient);
    assert_eq!(device.cache_files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_tampered_manifest_is_refused_and_an_older_copy_does_not_stand_in() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let (digest, _) = push(&device, &upstream.image("x:1"), "a").await;
    fetch(&device.boot(), &upstream.image("x:1")).await.unwrap();
    let file = upstream.blob_file(&digest);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("pushed.wasm", "PUSHED.wasm")).unwrap();

    let fresh = Device::new();
    let pinned = fault(&fresh.boot(), &upstream.image(&format!("x@{digest}"))).await;
    assert_says(&pinned, &["digest mismatch"]);
    assert_eq!(fresh.cache_files(), Vec::<std::path::PathBuf>::new());
    let tagged = fault(&device.boot(), &upstream.image("x:1")).await;
    assert_says(&tagged, &["digest mismatch"]);
    assert!(!pinned.transient && !tagged.transient);
}

#[tokio::test]
async fn an_unknown_tag_or_repository_is_said() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    push(&device, &upstream.image("x:1"), "a").await;
    for name in ["x:2", "y:1"] {
        let image = upstream.image(name);
        let err = fault(&device.boot(), &image).await;
        assert_says(&err, &[&image, "does not have", "404", "check the name"]);
        assert!(!err.transient);
    }
}

#[tokio::test]
async fn a_stopped_registry_is_out_of_reach_and_a_copy_stands_in() {
    let (mut upstream, device) = (DockerRegistry::start(), Device::new());
    let image = upstream.image("x:1");
    push(&device, &image, "a").await;
    let first = fetch(&device.boot(), &image).await.unwrap();
    upstream.stop();

    let again = fetch(&device.boot(), &image).await.unwrap();
    assert!(again.stale);
    assert_eq!(again.path, first.path);
    let unknown = fault(&device.boot(), &upstream.image("y:1")).await;
    assert_says(&unknown, &["out of reach", "no copy on this device"]);
    assert!(unknown.transient);
    // Nothing to ask: the copy is as good as it gets.
    let preferred = device.boot().fetch(FetchRequest { prefer_cached: true, ..request(&image) }).await.unwrap();
    assert!(!preferred.stale);
    let pinned = upstream.image(&format!("x@{}", first.manifest_digest));
    assert!(!fetch(&device.boot(), &pinned).await.unwrap().stale);

    upstream.restart();
    assert!(!fetch(&device.boot(), &image).await.unwrap().stale);
}

#[tokio::test]
async fn a_moved_tag_is_followed_unless_the_copy_is_preferred() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let (registry, image) = (device.boot(), upstream.image("x:1"));
    let (old, _) = push(&device, &image, "old").await;
    fetch(&registry, &image).await.unwrap();
    let (new, _) = push(&device, &image, "new").await;
    let preferred = registry.fetch(FetchRequest { prefer_cached: true, ..request(&image) }).await.unwrap();
    assert_eq!(preferred.manifest_digest, old);
    assert_eq!(fetch(&registry, &image).await.unwrap().manifest_digest, new);
    assert!(preferred.path.exists(), "a module may still run it");
}

#[tokio::test]
async fn the_pull_policy_never_means_the_copy_or_nothing() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let image = upstream.image("x:1");
    push(&device, &image, "a").await;
    let never = || FetchRequest { policy: PullPolicy::Never, ..request(&image) };
    let err = device.boot().fetch(never()).await.unwrap_err();
    assert_says(&err, &[&image, "imagePullPolicy", "never"]);
    assert!(!err.transient);
    let artifact = fetch(&device.boot(), &image).await.unwrap();
    device.boot().fetch(never()).await.unwrap();
    fs::write(&artifact.path, b"damaged").unwrap();
    assert!(device.boot().fetch(never()).await.is_err());
}

#[tokio::test]
async fn a_damaged_copy_is_fetched_again() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let image = upstream.image("x:1");
    push(&device, &image, "a").await;
    let artifact = fetch(&device.boot(), &image).await.unwrap();
    fs::write(&artifact.path, b"damaged").unwrap();
    let again = device.boot().fetch(FetchRequest { prefer_cached: true, ..request(&image) }).await.unwrap();
    assert_eq!(fs::read(again.path).unwrap(), component("a"));
    fs::write(device.cached(&artifact.manifest_digest), b"damaged").unwrap();
    let again = device.boot().fetch(FetchRequest { prefer_cached: true, ..request(&image) }).await.unwrap();
    assert_eq!(again.manifest_digest, artifact.manifest_digest);
}

#[tokio::test]
async fn a_component_that_is_too_large_is_refused_before_it_is_asked_for() {
    let (upstream, mut device) = (DockerRegistry::start(), Device::new());
    let (image, file) = (upstream.image("x:1"), device.write("x.wasm", &large_component(300_000)));
    let pushed = device.boot().push(&file, &image, &[], None).await.unwrap();
    assert_eq!(fs::read(fetch(&device.boot(), &image).await.unwrap().path).unwrap(), fs::read(&file).unwrap());

    // Were it asked for, the answer would be another: the registry has lost it.
    fs::remove_file(upstream.blob_file(&pushed.component_digest)).unwrap();
    device.settings.max_component_bytes = pushed.size - 1;
    device.settings.cache = device.folder.path().join("another cache");
    let err = fault(&device.boot(), &image).await;
    assert_says(&err, &[&pushed.size.to_string(), "max-component-bytes"]);
    device.settings.max_component_bytes = pushed.size;
    assert_says(&fault(&device.boot(), &image).await, &["does not have"]);
}

#[tokio::test]
async fn a_container_image_is_called_one() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let (layer, config) =
        (b"\x1f\x8b not really a tar", br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"}}"#);
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let described = json!({
        "schemaVersion": 2, "mediaType": docker,
        "config": descriptor("application/vnd.docker.container.image.v1+json", config),
        "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)],
    });
    push_raw(&upstream, "web", "1", &[layer, config], described.to_string().as_bytes(), docker).await;
    let image = upstream.image("web:1");
    let err = fault(&device.boot(), &image).await;
    assert_says(&err, &[&image, "container image (linux/amd64)", "wasm32-wasip2"]);
    assert!(!err.transient);
}

#[tokio::test]
async fn artifacts_of_other_tools_are_taken() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let wasm = component("other");
    for (tag, config_type, config, layer_type) in [
        ("generic", CONTAINER, &b"{}"[..], "application/vnd.oci.image.layer.v1.tar"),
        ("spin", CONTAINER, br#"{"architecture":"wasm","os":"Wasip1"}"#, "application/vnd.wasm.content.layer.v1+wasm"),
        ("wasm-to-oci", "application/vnd.wasm.config.v1+json", b"{}", "application/vnd.wasm.content.layer.v1+wasm"),
        ("oras", "application/vnd.oci.empty.v1+json", b"{}", "application/octet-stream"),
    ] {
        let described = manifest(descriptor(config_type, config), &[descriptor(layer_type, &wasm)]);
        push_raw(&upstream, "other", tag, &[&wasm, config], &described, MANIFEST).await;
        let artifact = fetch(&device.boot(), &upstream.image(&format!("other:{tag}"))).await.unwrap();
        assert_eq!(artifact.manifest_digest, Digest::of(&described).to_string());
        assert_eq!(fs::read(artifact.path).unwrap(), wasm);
    }
}

#[tokio::test]
async fn of_several_layers_the_component_is_found_and_none_is_guessed() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let (wasm, other, readme, config) = (component("one"), component("two"), &b"read me"[..], b"{}");
    let layer = "application/octet-stream";
    let texts = [descriptor(layer, readme), descriptor(layer, &wasm), descriptor(layer, config)];
    let blobs: [&[u8]; 4] = [&wasm, &other, readme, config];
    let push = async |tag: &str, layers: &[serde_json::Value]| {
        let described = manifest(descriptor("application/vnd.oci.empty.v1+json", config), layers);
        push_raw(&upstream, "several", tag, &blobs, &described, MANIFEST).await;
        upstream.image(&format!("several:{tag}"))
    };
    let image = push("found", &texts).await;
    assert_eq!(fs::read(fetch(&device.boot(), &image).await.unwrap().path).unwrap(), wasm);
    let again = FetchRequest { policy: PullPolicy::Never, ..request(&image) };
    assert_eq!(fs::read(device.boot().fetch(again).await.unwrap().path).unwrap(), wasm, "the copy is found too");

    let two = [texts[1].clone(), descriptor(layer, &other)];
    let err = fault(&device.boot(), &push("two", &two).await).await;
    assert_says(&err, &["2 layers", "several of these are"]);
    let err = fault(&device.boot(), &push("none", &[texts[0].clone(), texts[2].clone()]).await).await;
    assert_says(&err, &["2 layers", "none of these is"]);
}

#[tokio::test]
async fn a_layer_that_is_no_component_is_named() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let config = b"{}";
    let wrong: [(&str, &[u8], &str); 4] = [
        ("core", b"\0asm\x01\0\0\0", "core WebAssembly module"),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0", "compressed"),
        ("text", b"hello, world", "not a WebAssembly component"),
        ("short", b"\0asm", "not a WebAssembly component"),
    ];
    for (tag, layer, says) in wrong {
        let described = manifest(descriptor("x/y", config), &[descriptor("application/wasm", layer)]);
        push_raw(&upstream, "wrong", tag, &[layer, config], &described, MANIFEST).await;
        assert_says(&fault(&device.boot(), &upstream.image(&format!("wrong:{tag}"))).await, &[says]);
    }
    assert_eq!(device.cache_files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn an_index_leads_to_its_entry_for_wasm() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let (wasm, config) = (component("a"), b"{}");
    let described = manifest(descriptor("x/y", config), &[descriptor("application/wasm", &wasm)]);
    push_raw(&upstream, "x", "single", &[&wasm, config], &described, MANIFEST).await;
    let other = manifest(descriptor("x/z", config), &[descriptor("application/wasm", &wasm)]);
    push_raw(&upstream, "x", "other", &[&wasm, config], &other, MANIFEST).await;
    let mut entries = [descriptor(MANIFEST, &other), descriptor(MANIFEST, &described)];
    entries[0]["platform"] = json!({"os": "linux", "architecture": "amd64"});
    entries[1]["platform"] = json!({"os": "wasip2", "architecture": "wasm"});
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).to_string();
    push_raw(&upstream, "x", "index", &[], index.as_bytes(), media_type).await;

    let artifact = fetch(&device.boot(), &upstream.image("x:index")).await.unwrap();
    assert_eq!(artifact.manifest_digest, Digest::of(&described).to_string());
    let pinned = upstream.image(&format!("x@{}", Digest::of(index.as_bytes())));
    assert_eq!(fetch(&device.boot(), &pinned).await.unwrap(), artifact);
}

#[tokio::test]
async fn an_index_of_indexes_is_followed_beside_what_buildx_attests() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let (wasm, config) = (component("a"), b"{}");
    let media_type = "application/vnd.oci.image.index.v1+json";
    let described = manifest(descriptor("x/y", config), &[descriptor("application/wasm", &wasm)]);
    push_raw(&upstream, "x", "single", &[&wasm, config], &described, MANIFEST).await;
    let statement = br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#;
    let attestation = manifest(descriptor(CONTAINER, config), &[descriptor("application/vnd.in-toto+json", statement)]);
    push_raw(&upstream, "x", "attestation", &[statement, config], &attestation, MANIFEST).await;
    let mut attested = descriptor(MANIFEST, &attestation);
    attested["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attested["annotations"] = json!({
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": Digest::of(&described),
    });
    let mut entry = descriptor(MANIFEST, &described);
    let mut depth = 0;
    let mut push_index = async |entry: serde_json::Value| {
        let entries = [attested.clone(), entry];
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).to_string();
        depth += 1;
        push_raw(&upstream, "x", &format!("depth-{depth}"), &[], index.as_bytes(), media_type).await;
        (descriptor(media_type, index.as_bytes()), upstream.image(&format!("x:depth-{depth}")))
    };
    for depth in 1..=5 {
        let (index, image) = push_index(entry).await;
        entry = index;
        let fetched = fetch(&device.boot(), &image).await;
        if depth == 5 {
            assert_says(&fetched.unwrap_err(), &["index of indexes", "more than 4 deep"]);
            continue;
        }
        assert_eq!(fetched.unwrap().manifest_digest, Digest::of(&described).to_string(), "{depth}");
        let again = FetchRequest { policy: PullPolicy::Never, ..request(&image) };
        device.boot().fetch(again).await.unwrap();
    }
}

#[tokio::test]
async fn https_is_spoken_to_a_registry_with_an_authority_that_the_owner_trusts() {
    // 0.0.0.0 is this machine, but no loopback address: plain HTTP is not allowed there by itself.
    let keys = tempfile::tempdir().unwrap();
    let (certificate, key) = (keys.path().join("cert.pem"), keys.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["0.0.0.0".to_owned()]).unwrap();
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let options = Options { tls: Some((certificate.clone(), key)), host: Some("0.0.0.0".into()), password: true };
    let (upstream, mut device) = (DockerRegistry::start_with(options), Device::new());
    let image = upstream.image("x:1");
    device.settings.credentials = vec![credential(&upstream.address(), USER, PASSWORD)];

    let stranger = fault(&device.boot(), &image).await;
    assert_says(&stranger, &["certificate", "authority"]);
    device.settings.extra_roots = vec![fs::read(&certificate).unwrap()];
    push(&device, &image, "a").await;
    fetch(&device.boot(), &image).await.unwrap();
}

#[tokio::test]
async fn plain_http_beyond_loopback_needs_the_owners_word() {
    let options = Options { host: Some("0.0.0.0".into()), ..Options::default() };
    let (upstream, mut device) = (DockerRegistry::start_with(options), Device::new());
    let image = upstream.image("x:1");
    let err = fault(&device.boot(), &image).await;
    assert_says(&err, &["does not speak TLS", "registries.plain-http", &upstream.address()]);
    device.settings.plain_http = vec![upstream.address()];
    push(&device, &image, "a").await;
    fetch(&device.boot(), &image).await.unwrap();
}

#[tokio::test]
async fn an_image_without_a_registry_needs_a_default() {
    let (upstream, mut device) = (DockerRegistry::start(), Device::new());
    assert_says(
        &fault(&device.boot(), "edge/temp:1").await,
        &["edge/temp:1", "names no registry", "registries.default"],
    );
    push(&device, &upstream.image("edge/temp:1"), "a").await;
    device.settings.default_registry = Some(upstream.address());
    fetch(&device.boot(), "edge/temp:1").await.unwrap();
    assert!(!fault(&device.boot(), "Not An Image").await.transient);
}
