//! What the cache keeps, in what order it goes, and what a crash in the middle of it leaves.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs::{self, File},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use marram_core::ports::{BoxFuture, ComponentCache, FetchRequest, Images, KeptComponent, Room};
use marram_registry::Registry;
use support::{Device, Offer, Reply, Server, component, fetch, large_component, request};

const HOUR: Duration = Duration::from_secs(3600);

/// Pushes a component under a tag of a layout of the device; returns the image.
async fn push(device: &Device, tag: &str, content: &str) -> String {
    let image = format!("oci:{}:{tag}", device.folder.path().join("layout").display());
    let file = device.write("pushed.wasm", &component(content));
    device.boot().push(&file, &image, &[], Some("2026-01-02T03:04:05Z")).await.unwrap();
    image
}

async fn kept(registry: &Registry, images: &[&String]) -> Vec<KeptComponent> {
    let images = images.iter().map(|image| (*image).clone()).collect();
    registry.components(images).await.unwrap().components
}

async fn remove(registry: &Registry, digests: &[&str]) {
    registry.remove_components(digests.iter().map(|&digest| digest.to_owned()).collect()).await.unwrap();
}

fn names(device: &Device, folder: &str) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> =
        device.cache_files().into_iter().filter(|path| path.starts_with(device.settings.cache.join(folder))).collect();
    names.sort();
    names
}

fn set_last_use(device: &Device, digest: &str, time: SystemTime) {
    File::options().write(true).open(device.cached(digest)).unwrap().set_modified(time).unwrap();
}

fn last_use(device: &Device, digest: &str) -> SystemTime {
    fs::metadata(device.cached(digest)).unwrap().modified().unwrap()
}

/// Waits until the end of a lease has been written down, which happens on another thread.
async fn wait_for(what: &str, done: impl Fn() -> bool) {
    let deadline = SystemTime::now() + Duration::from_secs(20);
    while !done() {
        assert!(SystemTime::now() < deadline, "not seen in time: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_component_is_listed_with_its_images_and_all_its_bytes() {
    let device = Device::new();
    let (one, two) = (push(&device, "1", "same").await, push(&device, "2", "same").await);
    let other = push(&device, "3", "other").await;
    let registry = device.boot();
    for image in [&one, &two, &other] {
        fetch(&registry, image).await.unwrap();
    }
    let found = kept(&registry, &[&two]).await;
    assert_eq!(found.len(), 2);
    let same = found.iter().find(|kept| kept.images.len() == 2).unwrap();
    assert_eq!((&same.images, &same.named), (&vec![one, two.clone()], &vec![two]));
    let listed: u64 = found.iter().map(|kept| kept.bytes).sum();
    let on_disk: u64 = names(&device, "blobs").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(listed, on_disk);
    assert_eq!(registry.components(Vec::new()).await.unwrap().other_bytes, 0);
}

#[tokio::test]
async fn a_removed_component_takes_its_images_along_and_nothing_of_others() {
    let device = Device::new();
    let (one, two, other) =
        (push(&device, "1", "same").await, push(&device, "2", "same").await, push(&device, "3", "other").await);
    let registry = device.boot();
    let gone = fetch(&registry, &one).await.unwrap().component_digest;
    fetch(&registry, &two).await.unwrap();
    let stays = fetch(&registry, &other).await.unwrap().component_digest;
    remove(&registry, &[&gone]).await;
    assert!(!device.cached(&gone).exists());
    assert_eq!((names(&device, "refs").len(), names(&device, "blobs").len()), (1, 3), "manifest, config, component");
    // Without its source.
    fs::rename(device.folder.path().join("layout"), device.folder.path().join("away")).unwrap();
    assert_eq!(fetch(&registry, &other).await.unwrap().component_digest, stays);
    assert!(fetch(&registry, &one).await.unwrap_err().message.contains("no copy on this device"));
}

#[tokio::test]
async fn what_an_artifact_holds_stays_until_it_is_dropped() {
    let device = Device::new();
    let image = push(&device, "1", "held").await;
    let registry = device.boot();
    let artifact = fetch(&registry, &image).await.unwrap();
    let (copy, digest) = (artifact.clone(), artifact.component_digest.clone());
    drop(artifact);
    assert!(kept(&registry, &[]).await[0].held);
    remove(&registry, &[&digest]).await;
    assert!(device.cached(&digest).exists() && names(&device, "refs").len() == 1);
    drop(copy);
    assert!(!kept(&registry, &[]).await[0].held);
    remove(&registry, &[&digest]).await;
    assert_eq!(device.cache_files(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn an_instance_of_a_tag_that_moved_on_keeps_its_component() {
    let device = Device::new();
    let image = push(&device, "1", "old").await;
    let registry = device.boot();
    let old = fetch(&registry, &image).await.unwrap();
    push(&device, "1", "new").await;
    let new = fetch(&registry, &image).await.unwrap();
    assert_ne!(old.component_digest, new.component_digest);
    remove(&registry, &[]).await;
    let listed = kept(&registry, &[&image]).await;
    let of = |digest: &str| listed.iter().find(|kept| kept.digest == digest).unwrap();
    assert!(of(&old.component_digest).held && of(&old.component_digest).images.is_empty());
    assert_eq!(of(&new.component_digest).named, [image]);
    let digest = old.component_digest.clone();
    drop(old);
    remove(&registry, &[]).await;
    assert!(!device.cached(&digest).exists(), "nothing leads to it any more");
    assert!(new.path.exists());
}

#[tokio::test]
async fn a_record_of_what_is_not_there_is_removed_and_never_trusted() {
    let device = Device::new();
    let images = [push(&device, "1", "a").await, push(&device, "2", "b").await, push(&device, "3", "c").await];
    let registry = device.boot();
    let mut digests = Vec::new();
    for image in &images {
        let artifact = fetch(&registry, image).await.unwrap();
        digests.push((artifact.component_digest, artifact.manifest_digest));
    }
    // As after a loss of power on a file system that reorders: a record whose component, and one whose manifest is gone.
    fs::remove_file(device.cached(&digests[0].0)).unwrap();
    fs::remove_file(device.cached(&digests[1].1)).unwrap();
    fs::write(names(&device, "refs")[0].with_file_name("bad.json"), "{").unwrap();
    let registry = device.boot();
    assert_eq!(kept(&registry, &[]).await.len(), 1);
    assert!(registry.components(Vec::new()).await.unwrap().other_bytes > 0);
    remove(&registry, &[]).await;
    assert_eq!((names(&device, "refs").len(), names(&device, "blobs").len()), (1, 3));
    for (image, (digest, _)) in images.iter().zip(&digests) {
        assert_eq!(fetch(&registry, image).await.unwrap().component_digest, *digest);
    }
}

#[tokio::test]
async fn a_sweep_that_was_killed_is_finished_by_the_next() {
    let device = Device::new();
    let (gone, stays) = (push(&device, "1", "gone").await, push(&device, "2", "stays").await);
    let registry = device.boot();
    let digest = fetch(&registry, &gone).await.unwrap().component_digest;
    fetch(&registry, &stays).await.unwrap();
    // Killed after it had removed the record and one of the blobs.
    let is_of = |path: &PathBuf| fs::read_to_string(path).unwrap().contains(":1\"");
    let record = names(&device, "refs").into_iter().find(is_of).unwrap();
    fs::remove_file(record).unwrap();
    fs::remove_file(device.cached(&digest)).unwrap();
    let registry = device.boot();
    assert_eq!(kept(&registry, &[]).await.len(), 1);
    remove(&registry, &[]).await;
    assert_eq!(names(&device, "blobs").len(), 3);
}

#[tokio::test]
async fn a_use_is_written_down_once_a_day() {
    let device = Device::new();
    let image = push(&device, "1", "a").await;
    let registry = device.boot();
    let digest = fetch(&registry, &image).await.unwrap().component_digest;
    let recent = SystemTime::now() - 20 * HOUR;
    let old = SystemTime::now() - 30 * HOUR;
    let start = async || registry.fetch(FetchRequest { prefer_cached: true, ..request(&image) }).await.unwrap();

    set_last_use(&device, &digest, recent);
    drop(start().await);
    assert_eq!(last_use(&device, &digest), recent);

    set_last_use(&device, &digest, old);
    let running = start().await;
    assert!(last_use(&device, &digest) > recent, "its start counts");

    set_last_use(&device, &digest, old);
    drop(running);
    wait_for("the end of the use", || last_use(&device, &digest) > recent).await;

    let ahead = SystemTime::now() + 1000 * HOUR;
    set_last_use(&device, &digest, ahead);
    drop(start().await);
    assert_eq!(last_use(&device, &digest), ahead, "a clock that was set back takes nothing back");
}

/// What has arrived of a component, and when the last of it came.
fn plant_part(device: &Device, name: &str, bytes: &[u8], age: Duration) -> PathBuf {
    let path = device.settings.cache.join("partial").join(name);
    fs::write(&path, bytes).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    path
}

#[tokio::test]
async fn parts_are_listed_and_removed_and_what_is_none_goes_with_the_next_removal() {
    let device = Device::new();
    let registry = device.boot();
    registry.components(Vec::new()).await.unwrap();
    let (name, other) = ("0".repeat(64), "1".repeat(64));
    let path = plant_part(&device, &name, b"12345", 2 * HOUR);
    let stays = plant_part(&device, &other, b"", HOUR);
    let strange = plant_part(&device, "strange", b"123", HOUR);
    let listed = registry.components(Vec::new()).await.unwrap();
    let part = listed.parts.iter().find(|part| part.digest.ends_with(&name)).unwrap();
    assert_eq!((part.digest.clone(), part.bytes, part.held), (format!("sha256:{name}"), 5, false));
    assert_eq!((listed.now.0 - part.last_use.0) / 60_000, 120);
    assert_eq!((listed.parts.len(), listed.other_bytes), (2, 3));

    registry.remove_parts(vec![format!("sha256:{name}"), "sha256:../strange".into()]).await.unwrap();
    assert_eq!((path.exists(), stays.exists(), strange.exists()), (false, true, true));
    remove(&registry, &[]).await;
    assert_eq!((stays.exists(), strange.exists()), (true, false));
    assert_eq!(registry.components(Vec::new()).await.unwrap().other_bytes, 0);
}

/// Notes what it is asked for.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<u64>>);

impl Room for Asked {
    fn make(&self, bytes: u64) -> BoxFuture<'_, ()> {
        self.0.lock().unwrap().push(bytes);
        Box::pin(async {})
    }
}

#[tokio::test]
async fn room_is_asked_for_before_a_download_and_not_for_what_is_here() {
    let device = Device::new();
    let image = push(&device, "1", "a").await;
    let (registry, asked) = (device.boot(), Arc::new(Asked::default()));
    for _ in 0..2 {
        registry.fetch(FetchRequest { room: Some(asked.clone()), ..request(&image) }).await.unwrap();
    }
    assert_eq!(*asked.0.lock().unwrap(), [component("a").len() as u64]);
}

#[tokio::test]
async fn room_is_asked_for_the_rest_alone_of_what_has_arrived_in_part() {
    let device = Device::new();
    let (offer, asked) = (Offer::new(&large_component(100_000)), Arc::new(Asked::default()));
    let served = offer.clone();
    let server = Server::start(move |seen| match (served.is_layer(seen), seen.offset()) {
        (true, None) => Reply::cut(&served.layer, 70_000),
        (true, Some(offset)) => Reply::rest(&served.layer, offset),
        _ => served.reply(seen),
    });
    let image = format!("{}/test:1", server.address);
    let mut hasty = device.settings.clone();
    hasty.retry.tries = 1;
    fetch(&Registry::new(hasty).unwrap(), &image).await.unwrap_err();
    device.boot().fetch(FetchRequest { room: Some(asked.clone()), ..request(&image) }).await.unwrap();
    assert_eq!(*asked.0.lock().unwrap(), [offer.layer.len() as u64 - 70_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_being_downloaded_is_held() {
    let device = Device::new();
    let offer = Offer::new(&large_component(100_000));
    let digest = marram_registry::Digest::of(&offer.layer).to_string();
    let served = offer.clone();
    let server = Server::start(move |seen| match served.is_layer(seen) {
        true => Reply::Stall(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", served.layer.len()).into_bytes()),
        false => served.reply(seen),
    });
    let (registry, image) = (Arc::new(device.boot()), format!("{}/test:1", server.address));
    let downloading = registry.clone();
    let download = tokio::spawn(async move { fetch(&downloading, &image).await });
    wait_for("the download", || server.count(&digest) > 0).await;
    registry.remove_parts(vec![digest.clone()]).await.unwrap();
    assert!(device.partial(&digest).exists());
    let listed = registry.components(Vec::new()).await.unwrap().parts;
    assert!(matches!(&listed[..], [part] if part.held && part.digest == digest), "{listed:?}");
    download.abort();
}
