//! What the integration tests share: components written as text, devices, requests, and what a hand-written server offers.

// Each test file uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use marram_core::{
    deployment::{PullPolicy, RegistryCredential},
    ports::{Artifact, FetchError, FetchRequest, Images},
    retry::Policy,
};
use marram_registry::{Digest, Registry, Settings, Timeouts};
pub use marram_tests::server::{Reply, Seen, Server};
use serde_json::json;
use tempfile::TempDir;

/// A small real component; `name` makes its bytes, and so its digest, differ.
pub fn component(name: &str) -> Vec<u8> {
    let text = format!(
        r#"(component (import "wasi:cli/environment@0.2.6" (instance)) (instance $i)
            (export "wasi:cli/run@0.2.6" (instance $i)) (@custom "name of the test" "{name}"))"#
    );
    wat::parse_str(text).unwrap()
}

/// A component of more than `bytes` bytes that do not compress.
pub fn large_component(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut text = String::new();
    while text.len() < bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push(char::from(b'a' + (state >> 24) as u8 % 26));
    }
    wat::parse_str(format!(r#"(component (@custom "filler" "{text}"))"#)).unwrap()
}

/// A device: its folder and its settings.
pub struct Device {
    pub folder: TempDir,
    pub settings: Settings,
}

impl Device {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            timeouts: Timeouts { idle: Duration::from_secs(10), ..Timeouts::default() },
            // As often as on a device, without its waits.
            retry: Policy { first: Duration::from_millis(1), ..Policy::default() },
            ..Settings::new(folder.path().join("cache"))
        };
        Self { folder, settings }
    }

    /// A host process that starts now.
    pub fn boot(&self) -> Registry {
        Registry::new(self.settings.clone()).unwrap()
    }

    /// A component file to push.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The cache's file of a blob.
    pub fn cached(&self, digest: &str) -> PathBuf {
        self.settings.cache.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// The cache's file of what has arrived of a blob.
    pub fn partial(&self, digest: &str) -> PathBuf {
        self.settings.cache.join("partial").join(digest.trim_start_matches("sha256:"))
    }

    /// The names of all files in the cache.
    pub fn cache_files(&self) -> Vec<PathBuf> {
        files_below(&self.settings.cache)
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

pub fn request(image: &str) -> FetchRequest {
    FetchRequest {
        image: image.to_owned(),
        policy: PullPolicy::OnCreate,
        prefer_cached: false,
        credentials: Vec::new(),
        progress: Arc::default(),
        room: None,
    }
}

pub async fn fetch(registry: &Registry, image: &str) -> Result<Artifact, FetchError> {
    registry.fetch(request(image)).await
}

/// The fault of a fetch that must fail.
pub async fn fault(registry: &Registry, image: &str) -> FetchError {
    fetch(registry, image).await.unwrap_err()
}

pub fn credential(address: &str, username: &str, password: &str) -> RegistryCredential {
    RegistryCredential { address: address.to_owned(), username: username.to_owned(), password: password.to_owned() }
}

/// Asserts that a message says all of this.
#[track_caller]
pub fn assert_says(err: &FetchError, words: &[&str]) {
    for word in words {
        assert!(err.message.contains(word), "`{word}` is missing in: {}", err.message);
    }
    assert!(!err.message.contains('\n'), "one line: {}", err.message);
}

/// One blob and the descriptor that names it.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

/// A manifest with these blobs.
pub fn manifest(config: serde_json::Value, layers: &[serde_json::Value]) -> Vec<u8> {
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}).to_string().into_bytes()
}

/// An artifact that a hand-written server offers as `test:1`.
#[derive(Clone)]
pub struct Offer {
    pub config: Vec<u8>,
    pub layer: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl Offer {
    pub fn new(layer: &[u8]) -> Self {
        let config = br#"{"architecture":"wasm","os":"wasip2"}"#.to_vec();
        let config_descriptor = descriptor("application/vnd.wasm.config.v0+json", &config);
        let manifest = manifest(config_descriptor, &[descriptor("application/wasm", layer)]);
        Self { config, layer: layer.to_vec(), manifest }
    }

    /// Answers as a registry would.
    pub fn reply(&self, seen: &Seen) -> Reply {
        let name = seen.path.rsplit('/').next().unwrap_or_default();
        match name {
            "1" => Reply::ok(&self.manifest),
            _ if name == Digest::of(&self.config).to_string() => Reply::ok(&self.config),
            _ if name == Digest::of(&self.layer).to_string() => Reply::ok(&self.layer),
            _ => Reply::status(404),
        }
    }

    /// True when the component itself is asked for.
    pub fn is_layer(&self, seen: &Seen) -> bool {
        seen.path.ends_with(&Digest::of(&self.layer).to_string())
    }
}
