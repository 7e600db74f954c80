//! Mirrors: asked first, believed in nothing, and never in the way.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, time::Duration};

use marram_core::ports::{FetchRequest, Images};
use marram_registry::Mirror;
use marram_tests::registry::{DockerRegistry, PASSWORD, USER};
use support::{Device, Offer, Reply, Server, component, credential, fetch, large_component, request};

/// A device with these mirrors of a registry, in this order.
fn device_with(origin: &str, mirrors: &[&str]) -> Device {
    let mut device = Device::new();
    device.settings.mirrors = mirrors.iter().map(|at| Mirror::new(origin, at).unwrap()).collect();
    device
}

/// Puts a component under `x:1`; returns the digests of manifest and component.
async fn push(registry: &DockerRegistry, name: &str, bytes: &[u8]) -> (String, String) {
    let author = Device::new();
    let file = author.write("x.wasm", bytes);
    let own = [credential(&registry.address(), USER, PASSWORD)];
    let pushed = author.boot().push(&file, &registry.image(name), &own, Some("2026-01-02T03:04:05Z")).await.unwrap();
    (pushed.manifest_digest, pushed.component_digest)
}

#[tokio::test]
async fn a_mirror_stands_in_for_its_registry_under_the_registrys_name() {
    let (mut origin, mut mirror) = (DockerRegistry::start(), DockerRegistry::start());
    push(&mirror, "copies/x:1", &component("a")).await;
    let device = device_with(&origin.address(), &[&format!("{}/copies", mirror.address())]);
    let image = origin.image("x:1");
    let artifact = fetch(&device.boot(), &image).await.unwrap();
    assert!(!artifact.stale);
    origin.stop();
    mirror.stop();
    // Recorded under its own name, not the mirror's.
    let kept = device.boot().fetch(FetchRequest { prefer_cached: true, ..request(&image) }).await.unwrap();
    assert_eq!(kept, artifact);
    assert!(fetch(&device.boot(), &image).await.unwrap().stale);
}

#[tokio::test]
async fn a_mirror_that_is_down_lacks_the_image_or_has_it_damaged_is_passed_over() {
    let (origin, empty, damaged) = (DockerRegistry::start(), DockerRegistry::start(), DockerRegistry::start());
    let mut down = DockerRegistry::start();
    down.stop();
    let (manifest, digest) = push(&origin, "x:1", &component("a")).await;
    push(&damaged, "x:1", &component("a")).await;
    let stored = damaged.blob_file(&digest);
    let mut bytes = fs::read(&stored).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&stored, bytes).unwrap();
    let teapot = Server::start(|_| Reply::status(418));
    let mirrors = [down.address(), empty.address(), damaged.address(), teapot.address.clone()];
    let device = device_with(&origin.address(), &mirrors.each_ref().map(String::as_str));
    let artifact = fetch(&device.boot(), &origin.image("x:1")).await.unwrap();
    assert_eq!((artifact.manifest_digest, artifact.stale), (manifest, false));
    assert_eq!(fs::read(artifact.path).unwrap(), component("a"));
    assert!(teapot.requests.load(std::sync::atomic::Ordering::SeqCst) > 0, "all of them were asked");
}

#[tokio::test]
async fn a_mirror_cannot_change_what_a_digest_names() {
    let origin = DockerRegistry::start();
    let (manifest, _) = push(&origin, "x:1", &component("meant")).await;
    let planted = Offer::new(&component("planted"));
    let liar = Server::start(move |seen| match seen.path.contains("/manifests/") {
        true => Reply::ok(&planted.manifest),
        false => planted.reply(seen),
    });
    let device = device_with(&origin.address(), &[&liar.address]);
    let artifact = fetch(&device.boot(), &origin.image(&format!("x@{manifest}"))).await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), component("meant"));
    assert!(liar.count("/manifests/") > 0);
}

#[tokio::test]
async fn a_mirror_is_told_its_own_password_and_no_other() {
    let origin = DockerRegistry::start_with_password();
    push(&origin, "x:1", &component("a")).await;
    let offer = Offer::new(&component("a"));
    let mirror = Server::start(move |seen| match seen.authorization.as_deref() {
        Some("Basic bWlycm9yOm93bg==") => offer.reply(seen),
        _ => Reply::Send(401, vec!["WWW-Authenticate: Basic realm=x".into()], Vec::new()),
    });
    let mut device = device_with(&origin.address(), &[&mirror.address]);
    device.settings.credentials = vec![credential(&origin.address(), USER, PASSWORD)];
    let image = origin.image("x:1");
    fetch(&device.boot(), &image).await.unwrap();
    assert!(mirror.requests.load(std::sync::atomic::Ordering::SeqCst) > 0);
    assert!(mirror.seen.lock().unwrap().iter().all(|seen| seen.authorization.is_none()));

    let mut device = device_with("registry.invalid", &[&mirror.address]);
    device.settings.credentials = vec![credential(&mirror.address, "mirror", "own")];
    fetch(&device.boot(), "registry.invalid/test:1").await.unwrap();
}

#[tokio::test]
async fn the_registry_gives_the_rest_of_what_a_mirror_began() {
    let (origin, bytes) = (DockerRegistry::start(), large_component(300_000));
    let (_, digest) = push(&origin, "test:1", &bytes).await;
    // Of no use: it must come from the mirror.
    fs::write(origin.blob_file(&digest), [&vec![0; 200_000], &bytes[200_000..]].concat()).unwrap();
    let offer = Offer::new(&bytes);
    let mirror = Server::start(move |seen| match offer.is_layer(seen) {
        true => Reply::cut(&offer.layer, 200_000),
        false => offer.reply(seen),
    });
    let device = device_with(&origin.address(), &[&mirror.address]);
    let artifact = fetch(&device.boot(), &origin.image("test:1")).await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), bytes);
}

#[tokio::test]
async fn a_mirror_that_drips_is_passed_over() {
    let (origin, bytes) = (DockerRegistry::start(), large_component(300_000));
    push(&origin, "test:1", &bytes).await;
    let offer = Offer::new(&bytes);
    let mirror = Server::start(move |seen| match offer.is_layer(seen) {
        true => Reply::drip(&offer.layer, 10, Duration::from_millis(50)),
        false => offer.reply(seen),
    });
    let mut device = device_with(&origin.address(), &[&mirror.address]);
    device.settings.timeouts.slowest.window = Duration::from_secs(1);
    let artifact = fetch(&device.boot(), &origin.image("test:1")).await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), bytes);
}

#[tokio::test]
async fn a_mirror_that_began_with_other_bytes_does_not_spoil_the_download() {
    let (origin, bytes) = (DockerRegistry::start(), large_component(300_000));
    push(&origin, "test:1", &bytes).await;
    let mut offer = Offer::new(&bytes);
    let right = offer.clone();
    offer.layer[100_000] ^= 1;
    let mirror = Server::start(move |seen| match right.is_layer(seen) {
        true => Reply::cut(&offer.layer, 200_000),
        false => right.reply(seen),
    });
    let device = device_with(&origin.address(), &[&mirror.address]);
    let artifact = fetch(&device.boot(), &origin.image("test:1")).await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), bytes);
}

#[tokio::test]
async fn what_a_fetch_takes_from_a_mirror_is_described_from_there() {
    let (mut origin, mirror, empty) = (DockerRegistry::start(), DockerRegistry::start(), DockerRegistry::start());
    let (manifest, component) = push(&mirror, "copies/x:1", &component("a")).await;
    let device = device_with(&origin.address(), &[&empty.address(), &format!("{}/copies", mirror.address())]);
    let image = origin.image("x:1");
    origin.stop();
    let described = device.boot().describe(&image, &[]).await.unwrap();
    assert_eq!((&described.documents[0].digest, &described.layers[0].digest), (&manifest, &component));
    assert_eq!(fetch(&device.boot(), &image).await.unwrap().manifest_digest, manifest);
}

#[tokio::test]
async fn a_mirror_cannot_change_what_a_described_digest_names_nor_learn_a_password() {
    let origin = DockerRegistry::start_with_password();
    let (manifest, _) = push(&origin, "x:1", &component("meant")).await;
    let planted = Offer::new(&component("planted"));
    let liar = Server::start(move |seen| match seen.path.contains("/manifests/") {
        true => Reply::ok(&planted.manifest),
        false => planted.reply(seen),
    });
    let mut device = device_with(&origin.address(), &[&liar.address]);
    device.settings.credentials = vec![credential(&origin.address(), USER, PASSWORD)];
    let described = device.boot().describe(&origin.image(&format!("x@{manifest}")), &[]).await.unwrap();
    assert_eq!(described.documents[0].digest, manifest);
    assert!(liar.count("/manifests/") > 0, "it was asked");
    assert!(liar.seen.lock().unwrap().iter().all(|seen| seen.authorization.is_none()));
}

#[tokio::test]
async fn a_push_never_goes_to_a_mirror() {
    let (origin, mirror) = (DockerRegistry::start(), Server::start(|_| Reply::status(500)));
    let device = device_with(&origin.address(), &[&mirror.address]);
    let file = device.write("x.wasm", &component("a"));
    device.boot().push(&file, &origin.image("x:1"), &[], None).await.unwrap();
    assert_eq!(mirror.requests.load(std::sync::atomic::Ordering::SeqCst), 0);
}
