//! OCI image-layout folders.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::Path};

use marram_core::{
    deployment::PullPolicy,
    ports::{FetchRequest, Images},
};
use marram_registry::Digest;
use serde_json::Value;
use support::{Device, assert_says, component, fault, fetch, request};

async fn push(device: &Device, image: &str, content: &str) -> (String, String) {
    let file = device.write("pushed.wasm", &component(content));
    let pushed = device.boot().push(&file, image, &[], Some("2026-01-02T03:04:05Z")).await.unwrap();
    (pushed.manifest_digest, pushed.component_digest)
}

fn blob(folder: &Path, digest: &str) -> std::path::PathBuf {
    folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

fn index(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn what_is_pushed_into_a_layout_is_fetched_from_it() {
    let device = Device::new();
    let folder = device.folder.path().join("new/layout");
    let image = format!("oci:{}:1.0", folder.display());
    let (manifest, digest) = push(&device, &image, "a").await;
    let artifact = fetch(&device.boot(), &image).await.unwrap();
    assert_eq!((artifact.manifest_digest, artifact.component_digest.clone()), (manifest.clone(), digest.clone()));
    assert_eq!(fs::read(&artifact.path).unwrap(), component("a"));
    assert_eq!(artifact.path, device.cached(&digest), "a copy: the folder may change");

    assert_eq!(fs::read_to_string(folder.join("oci-layout")).unwrap(), r#"{"imageLayoutVersion":"1.0.0"}"#);
    let by_digest = format!("oci:{}@{manifest}", folder.display());
    assert_eq!(fetch(&device.boot(), &by_digest).await.unwrap().component_digest, digest);
}

#[tokio::test]
async fn a_push_keeps_other_tags_and_replaces_its_own() {
    let device = Device::new();
    let folder = device.folder.path().join("layout");
    let image = |tag: &str| format!("oci:{}:{tag}", folder.display());
    let (one, _) = push(&device, &image("1"), "one").await;
    push(&device, &image("2"), "two").await;
    let (three, _) = push(&device, &image("2"), "three").await;
    push(&device, &image("2"), "three").await;
    let digests = async |tag| fetch(&device.boot(), &image(tag)).await.unwrap().manifest_digest;
    assert_eq!((digests("1").await, digests("2").await), (one, three));
    assert_eq!(index(&folder)["manifests"].as_array().unwrap().len(), 2);
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), 3, "nothing temporary stays: {files:?}");
}

#[tokio::test]
async fn what_a_killed_push_left_is_gone_after_the_next() {
    let device = Device::new();
    let folder = device.folder.path().join("layout");
    let image = format!("oci:{}:1", folder.display());
    push(&device, &image, "a").await;
    // A killed push left half a file, under the one name that a file in the making has.
    fs::write(folder.join(".push.tmp"), b"half").unwrap();
    push(&device, &image, "b").await;
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files.len(), 3, "nothing temporary stays: {files:?}");
}

#[tokio::test]
async fn pushes_into_one_layout_at_the_same_time_all_stand() {
    let device = Device::new();
    let folder = device.folder.path().join("layout");
    let file = device.write("x.wasm", &component("a"));
    let (a, b) = (device.boot(), device.boot());
    let image = |n: usize| format!("oci:{}:{n}", folder.display());
    for n in 0..8 {
        let (one, two) = (image(2 * n), image(2 * n + 1));
        let (one, two) = tokio::join!(a.push(&file, &one, &[], None), b.push(&file, &two, &[], None));
        one.unwrap();
        two.unwrap();
    }
    assert_eq!(index(&folder)["manifests"].as_array().unwrap().len(), 16);
}

#[tokio::test]
async fn the_tag_may_be_left_out_when_there_is_one_image() {
    let device = Device::new();
    let folder = device.folder.path().join("layout");
    let image = format!("oci:{}", folder.display());
    let (manifest, _) = push(&device, &format!("{image}:1"), "a").await;
    assert_eq!(fetch(&device.boot(), &image).await.unwrap().manifest_digest, manifest);
    push(&device, &format!("{image}:2"), "b").await;
    assert_says(&fault(&device.boot(), &image).await, &["several images", "it has 1, 2"]);
    assert_says(&fault(&device.boot(), &format!("{image}:3")).await, &["no tag `3`", "it has 1, 2"]);
}

#[tokio::test]
async fn a_damaged_blob_of_a_layout_is_refused() {
    let device = Device::new();
    let folder = device.folder.path().join("layout");
    let image = format!("oci:{}:1", folder.display());
    let (manifest, digest) = push(&device, &image, "a").await;
    let intact = fs::read(blob(&folder, &digest)).unwrap();
    let mut changed = intact.clone();
    *changed.last_mut().unwrap() ^= 1;
    let longer = [&intact[..], b"x"].concat();
    for (bytes, says) in [(changed, "digest mismatch"), (longer, "size mismatch")] {
        fs::write(blob(&folder, &digest), bytes).unwrap();
        let err = fault(&device.boot(), &image).await;
        assert_says(&err, &[&image, says]);
        assert!(!err.transient);
    }
    fs::remove_file(blob(&folder, &digest)).unwrap();
    assert_says(&fault(&device.boot(), &image).await, &["lacks the blob", &digest]);
    fs::write(blob(&folder, &manifest), b"{}").unwrap();
    assert_says(&fault(&device.boot(), &image).await, &["digest mismatch"]);
    assert_eq!(device.cache_files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_layout_that_is_gone_is_out_of_reach_and_a_copy_stands_in() {
    let device = Device::new();
    let folder = device.folder.path().join("stick");
    let image = format!("oci:{}:1", folder.display());
    push(&device, &image, "a").await;
    fetch(&device.boot(), &image).await.unwrap();
    fs::remove_dir_all(&folder).unwrap();
    assert!(fetch(&device.boot(), &image).await.unwrap().stale);
    let err = fault(&Device::new().boot(), &image).await;
    assert_says(&err, &["does not exist"]);
    fs::create_dir(&folder).unwrap();
    assert_says(&fault(&device.boot(), &image).await, &["not an OCI image layout"]);
}

#[tokio::test]
async fn the_pull_policy_never_still_reads_a_folder_of_the_device() {
    let device = Device::new();
    let image = format!("oci:{}:1", device.folder.path().join("layout").display());
    push(&device, &image, "a").await;
    device.boot().fetch(FetchRequest { policy: PullPolicy::Never, ..request(&image) }).await.unwrap();
}

#[tokio::test]
async fn a_layout_cannot_name_a_file_outside_itself() {
    let device = Device::new();
    let folder = device.folder.path().join("layout");
    let image = format!("oci:{}:1", folder.display());
    push(&device, &image, "a").await;
    for bad in ["sha256:../../../../etc/passwd", "sha512:00", "/etc/passwd"] {
        let mut index = index(&folder);
        index["manifests"][0]["digest"] = bad.into();
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        assert_says(&fault(&device.boot(), &image).await, &["bad entry"]);
    }
}

#[tokio::test]
async fn a_damaged_index_is_not_overwritten_by_a_push() {
    let device = Device::new();
    let folder = device.folder.path().join("layout");
    let image = format!("oci:{}:1", folder.display());
    push(&device, &image, "a").await;
    fs::write(folder.join("index.json"), b"{").unwrap();
    let file = device.write("x.wasm", &component("b"));
    let err = device.boot().push(&file, &image, &[], None).await.unwrap_err();
    assert!(err.message.contains("index.json"), "{err}");
    assert_eq!(fs::read(folder.join("index.json")).unwrap(), b"{");
    assert!(!blob(&folder, &Digest::of(b"nothing").to_string()).exists());
}
