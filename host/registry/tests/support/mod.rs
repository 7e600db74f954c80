//! What the integration tests share: components written as text, requests, and a small HTTP server that misbehaves.

// Each test file uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use marram_core::{
    deployment::{PullPolicy, RegistryCredential},
    ports::{Artifact, FetchError, FetchRequest, Images},
};
use marram_registry::{Digest, Registry, Settings, Timeouts};
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
            timeouts: Timeouts { connect: Duration::from_secs(10), idle: Duration::from_secs(10) },
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

/// What a hand-written server sends after it has read a request; it closes the connection then.
pub enum Reply {
    /// Status, further header lines, body; with its length.
    Send(u16, Vec<String>, Vec<u8>),
    /// These bytes, as they are.
    Raw(Vec<u8>),
    /// These bytes, and then nothing: the connection stays open until the client goes.
    Stall(Vec<u8>),
    /// Nothing: the connection stays open until the client goes.
    Silence,
}

impl Reply {
    pub fn ok(body: &[u8]) -> Self {
        Self::Send(200, Vec::new(), body.to_vec())
    }

    pub fn status(status: u16) -> Self {
        Self::Send(status, Vec::new(), Vec::new())
    }
}

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// With its query.
    pub path: String,
    pub authorization: Option<String>,
}

/// An HTTP server on a free port that does what a closure says. Its threads end with the process.
pub struct Server {
    pub address: String,
    pub requests: Arc<AtomicUsize>,
    pub seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (requests, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let answer = Arc::new(answer);
        let (counter, log) = (requests.clone(), seen.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, counter, log) = (answer.clone(), counter.clone(), log.clone());
                thread::spawn(move || serve(stream, &*answer, &counter, &log));
            }
        });
        Self { address, requests, seen }
    }

    /// Requests whose path contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| seen.path.contains(part)).count()
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(&Seen) -> Reply, counter: &AtomicUsize, log: &Mutex<Vec<Seen>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let Some(seen) = read_request(&mut reader) else { return };
    counter.fetch_add(1, Ordering::SeqCst);
    log.lock().unwrap().push(seen.clone());
    let mut stream = stream;
    // The client may be gone before all is written; that is its right.
    let _ = match answer(&seen) {
        Reply::Send(status, headers, body) => {
            let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
            let head =
                format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body))
        }
        Reply::Raw(bytes) => stream.write_all(&bytes),
        Reply::Stall(bytes) => stream.write_all(&bytes).and_then(|()| reader.read_line(&mut String::new()).map(|_| ())),
        Reply::Silence => reader.read_line(&mut String::new()).map(|_| ()),
    };
}

fn read_request(reader: &mut impl BufRead) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut authorization = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? <= 2 {
            return Some(Seen { method, path, authorization });
        }
        if let Some((name, value)) = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        {
            debug_assert!(!name.is_empty());
            authorization = Some(value.trim().to_owned());
        }
    }
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
