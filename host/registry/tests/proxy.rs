//! A forward proxy between the device and a registry with a private certificate authority.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use marram_registry::{Mirror, Proxy};
use marram_tests::registry::{DockerRegistry, Options, PASSWORD, USER};
use support::{Device, assert_says, component, credential, fault, fetch};

/// Request line and `Proxy-Authorization` of each request.
type Log = Mutex<Vec<(String, Option<String>)>>;

/// An HTTP proxy that knows `CONNECT` alone, and one address whatever it is asked for: the names of the tests need no
/// name server.
struct ForwardProxy {
    address: String,
    seen: Arc<Log>,
}

impl ForwardProxy {
    /// `password`: `Basic …`, without which nobody gets through.
    fn start(target: String, password: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Log::default());
        let log = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (target, log) = (target.clone(), log.clone());
                // One that breaks off is the client's right.
                thread::spawn(move || connect(stream, &target, password, &log));
            }
        });
        Self { address, seen }
    }

    fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }
}

fn connect(mut client: TcpStream, target: &str, password: Option<&str>, log: &Log) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut first, mut shown) = (String::new(), None);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("proxy-authorization")
        {
            shown = Some(value.trim().to_owned());
        }
    }
    log.lock().unwrap().push((first.trim().to_owned(), shown.clone()));
    if password.is_some() && shown.as_deref() != password {
        return client.write_all(b"HTTP/1.1 407 X\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n");
    }
    if !first.starts_with("CONNECT ") {
        return client.write_all(b"HTTP/1.1 405 X\r\nContent-Length: 0\r\n\r\n");
    }
    let server = TcpStream::connect(target)?;
    client.write_all(b"HTTP/1.1 200 X\r\n\r\n")?;
    let (mut up, mut down) = (server.try_clone()?, server);
    let back = thread::spawn(move || {
        let _ = std::io::copy(&mut down, &mut client);
        let _ = client.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut reader, &mut up);
    let _ = up.shutdown(Shutdown::Write);
    let _ = back.join();
    Ok(())
}

/// A closed registry with a certificate for these names, and a device that trusts it.
fn secure_registry(host: Option<&str>, names: &[&str]) -> (DockerRegistry, Device) {
    let mut device = Device::new();
    let [certificate, key] = ["ca.pem", "key.pem"].map(|name| device.folder.path().join(name));
    let made =
        rcgen::generate_simple_self_signed(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    device.settings.extra_roots = vec![fs::read(&certificate).unwrap()];
    let options = Options { tls: Some((certificate, key)), host: host.map(str::to_owned), password: true };
    (DockerRegistry::start_with(options), device)
}

#[tokio::test]
async fn pushes_and_pulls_go_through_the_proxy_with_the_private_authority() {
    let (upstream, mut device) = secure_registry(None, &["registry.test"]);
    let proxy = ForwardProxy::start(upstream.address(), None);
    device.settings.proxy = Some(Proxy::new(&format!("http://{}", proxy.address), []).unwrap());
    device.settings.credentials = vec![credential("registry.test", USER, PASSWORD)];
    let file = device.write("x.wasm", &component("a"));
    device.boot().push(&file, "registry.test/x:1", &[], None).await.unwrap();
    let pushed = proxy.lines().len();
    let artifact = fetch(&device.boot(), "registry.test/x:1").await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), component("a"));
    let lines = proxy.lines();
    assert!(pushed > 0 && lines.len() > pushed, "both went through it");
    assert!(lines.iter().all(|line| line == "CONNECT registry.test:443 HTTP/1.1"), "{lines:?}");
}

#[tokio::test]
async fn a_mirror_is_reached_through_the_proxy_too() {
    let (upstream, mut device) = secure_registry(None, &["mirror.test"]);
    let proxy = ForwardProxy::start(upstream.address(), None);
    device.settings.proxy = Some(Proxy::new(&proxy.address, []).unwrap());
    device.settings.credentials = vec![credential("mirror.test", USER, PASSWORD)];
    let file = device.write("x.wasm", &component("a"));
    device.boot().push(&file, "mirror.test/copies/x:1", &[], None).await.unwrap();
    device.settings.mirrors = vec![Mirror::new("origin.test", "mirror.test/copies").unwrap()];
    let artifact = fetch(&device.boot(), "origin.test/x:1").await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), component("a"));
    assert!(proxy.lines().iter().all(|line| line.starts_with("CONNECT mirror.test:443")), "the origin was not asked");
}

#[tokio::test]
async fn exceptions_and_plain_registries_are_asked_directly() {
    let (upstream, mut device) = secure_registry(Some("0.0.0.0"), &["0.0.0.0"]);
    let proxy = ForwardProxy::start("127.0.0.1:9".to_owned(), None);
    let plain = DockerRegistry::start();
    let through = |except: &[&str]| Proxy::new(&proxy.address, except.iter().map(|e| (*e).to_owned())).unwrap();
    device.settings.credentials = vec![credential(&upstream.address(), USER, PASSWORD)];
    let file = device.write("x.wasm", &component("a"));
    device.settings.proxy = Some(through(&["other.test", "0.0.0.0/8"]));
    for image in [upstream.image("x:1"), plain.image("x:1")] {
        device.boot().push(&file, &image, &[], None).await.unwrap();
        fetch(&device.boot(), &image).await.unwrap();
    }
    assert_eq!(proxy.lines(), Vec::<String>::new());

    device.settings.proxy = Some(through(&["other.test"]));
    let err = fault(&device.boot(), &upstream.image("y:1")).await;
    assert_says(&err, &["0.0.0.0", &proxy.address]);
    assert!(err.transient && !proxy.lines().is_empty());
}

#[tokio::test]
async fn a_proxy_that_asks_who_we_are_is_told_what_its_url_says() {
    let (upstream, mut device) = secure_registry(None, &["registry.test"]);
    let proxy = ForwardProxy::start(upstream.address(), Some("Basic cHJveHk6d29yZA=="));
    device.settings.credentials = vec![credential("registry.test", USER, PASSWORD)];
    let file = device.write("x.wasm", &component("a"));
    device.settings.proxy = Some(Proxy::new(&proxy.address, []).unwrap());
    let err = fault(&device.boot(), "registry.test/x:1").await;
    assert_says(&err, &["the proxy on the way to registry.test", "registries.proxy"]);
    assert!(!err.transient);
    device.settings.proxy = Some(Proxy::new(&format!("http://proxy:word@{}", proxy.address), []).unwrap());
    device.boot().push(&file, "registry.test/x:1", &[], None).await.unwrap();
    fetch(&device.boot(), "registry.test/x:1").await.unwrap();
    // What is for the registry is not for the proxy, and the other way round.
    let seen = proxy.seen.lock().unwrap();
    assert!(seen.iter().skip(1).all(|(_, shown)| shown.as_deref() == Some("Basic cHJveHk6d29yZA==")), "{seen:?}");
}
