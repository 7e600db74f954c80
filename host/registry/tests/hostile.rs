//! Registries that lie, stall, break off or ask for more than they should, written by hand.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::HashMap,
    fs,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    sync::{Arc, Mutex},
    time::Duration,
};

use marram_core::ports::{FetchRequest, Images};
use support::{Device, Offer, Reply, Server, assert_says, component, credential, fault, fetch, request};

fn image(server: &Server) -> String {
    format!("{}/test:1", server.address)
}

/// Serves an offer, with another answer for the component.
fn with_layer(offer: &Offer, layer: impl Fn(&[u8]) -> Reply + Send + Sync + 'static) -> Server {
    let offer = offer.clone();
    Server::start(move |seen| if offer.is_layer(seen) { layer(&offer.layer) } else { offer.reply(seen) })
}

fn head(length: Option<usize>) -> Vec<u8> {
    let length = length.map_or_else(String::new, |bytes| format!("Content-Length: {bytes}\r\n"));
    format!("HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n").into_bytes()
}

fn no_files() -> Vec<std::path::PathBuf> {
    Vec::new()
}

#[tokio::test]
async fn a_registry_that_sends_more_than_announced_is_cut_off() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let endless = with_layer(&offer, |layer| Reply::Raw([head(None), layer.to_vec(), vec![0; 64 << 20]].concat()));
    let err = fault(&device.boot(), &image(&endless)).await;
    assert_says(&err, &["size mismatch", "more than"]);
    assert!(!err.transient);
    let announced = with_layer(&offer, |layer| Reply::ok(&[layer, b"more"].concat()));
    assert_says(&fault(&device.boot(), &image(&announced)).await, &["size mismatch"]);
    assert_eq!(device.cache_files(), no_files());
}

#[tokio::test]
async fn a_transfer_that_breaks_off_may_be_tried_again() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let cut = |layer: &[u8]| layer[..layer.len() - 1].to_vec();
    let announced = with_layer(&offer, move |layer| Reply::Raw([head(Some(layer.len())), cut(layer)].concat()));
    let silent = with_layer(&offer, move |layer| Reply::Raw([head(None), cut(layer)].concat()));
    for server in [announced, silent] {
        let err = fault(&device.boot(), &image(&server)).await;
        assert!(err.transient, "{err}");
    }
    let part = device.partial(&marram_registry::Digest::of(&offer.layer).to_string());
    assert_eq!(device.cache_files(), [part], "what has arrived, and nothing else");
}

#[tokio::test]
async fn a_registry_that_stalls_is_given_up() {
    let (offer, mut device) = (Offer::new(&component("a")), Device::new());
    device.settings.timeouts.idle = Duration::from_millis(200);
    let at_once = Server::start(|_| Reply::Silence);
    let later = with_layer(&offer, |_| Reply::Silence);
    for server in [at_once, later] {
        let err = fault(&device.boot(), &image(&server)).await;
        assert_says(&err, &["0.2 s"]);
        assert!(err.transient);
    }
}

#[tokio::test]
async fn a_registry_in_trouble_is_out_of_reach_and_a_copy_stands_in() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let trouble = Arc::new(AtomicBool::new(false));
    let (switch, served) = (trouble.clone(), offer.clone());
    let server = Server::start(move |seen| match switch.load(Ordering::SeqCst) {
        true => Reply::Send(503, Vec::new(), br#"{"errors":[{"code":"UNAVAILABLE","message":"disk\nfull"}]}"#.to_vec()),
        false => served.reply(seen),
    });
    fetch(&device.boot(), &image(&server)).await.unwrap();
    trouble.store(true, Ordering::SeqCst);
    assert!(fetch(&device.boot(), &image(&server)).await.unwrap().stale);
    let err = fault(&Device::new().boot(), &image(&server)).await;
    assert_says(&err, &["503", "disk full"]);
    assert!(err.transient);
}

#[tokio::test]
async fn an_endless_manifest_is_not_read() {
    let mut device = Device::new();
    device.settings.max_manifest_bytes = 10_000;
    let server = Server::start(|_| Reply::Raw([head(None), vec![b' '; 1 << 20]].concat()));
    assert_says(&fault(&device.boot(), &image(&server)).await, &["manifest", "larger than 10000 bytes"]);
    let error_page = Server::start(|_| Reply::Raw([b"HTTP/1.1 500 X\r\n\r\n".to_vec(), vec![b' '; 64 << 20]].concat()));
    assert_says(&fault(&device.boot(), &image(&error_page)).await, &["500"]);
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_header_says_is_refused() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let header = format!("Docker-Content-Digest: {}", marram_registry::Digest::of(b"another"));
    let server = Server::start(move |_| Reply::Send(200, vec![header.clone()], offer.manifest.clone()));
    let err = fault(&device.boot(), &image(&server)).await;
    assert_says(&err, &["digest mismatch"]);
    assert!(!err.transient);
}

#[tokio::test]
async fn a_pinned_manifest_with_other_bytes_is_refused() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let pinned = marram_registry::Digest::of(b"what was meant");
    let server = Server::start(move |_| Reply::ok(&offer.manifest));
    let err = fault(&device.boot(), &format!("{}/test@{pinned}", server.address)).await;
    assert_says(&err, &["digest mismatch", &pinned.to_string()]);
    assert!(!err.transient);
    assert_eq!(device.cache_files(), no_files());
}

#[tokio::test]
async fn a_pin_to_an_index_is_checked_again_in_the_cache() {
    let device = Device::new();
    let (meant, planted) = (Offer::new(&component("meant")), Offer::new(&component("planted")));
    let index_of = |offer: &Offer| {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let entry = support::descriptor(media_type, &offer.manifest);
        serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string().into_bytes()
    };
    let (index, other) = (index_of(&meant), index_of(&planted));
    let digest = |bytes: &[u8]| marram_registry::Digest::of(bytes).to_string();
    let served = [meant.clone(), planted.clone()];
    let documents = [index.clone(), other.clone(), meant.manifest.clone(), planted.manifest.clone()];
    let away = Arc::new(AtomicBool::new(false));
    let switch = away.clone();
    let server = Server::start(move |seen| {
        if switch.load(Ordering::SeqCst) {
            return Reply::status(503);
        }
        let document = documents.iter().find(|bytes| seen.path.ends_with(&digest(bytes)));
        let blob = || served.iter().map(|offer| offer.reply(seen)).find(|reply| !matches!(reply, Reply::Send(404, ..)));
        document.map(|bytes| Reply::ok(bytes)).or_else(blob).unwrap_or(Reply::status(404))
    });
    let pin = |bytes: &[u8]| format!("{}/test@{}", server.address, digest(bytes));
    let artifact = fetch(&device.boot(), &pin(&index)).await.unwrap();
    fetch(&device.boot(), &pin(&other)).await.unwrap();
    away.store(true, Ordering::SeqCst);

    assert_eq!(fetch(&device.boot(), &pin(&index)).await.unwrap(), artifact, "no network is needed");
    // A record that claims something else about the pin is not believed.
    let refs = device.settings.cache.join("refs");
    for record in fs::read_dir(&refs).unwrap().map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&record).unwrap();
        let [from, to] = [digest(&index), digest(&other)];
        if text.contains(&format!("@{from}")) {
            fs::write(&record, text.replace(&format!("\"{from}\""), &format!("\"{to}\""))).unwrap();
        }
    }
    assert_eq!(fetch(&device.boot(), &pin(&index)).await.unwrap(), artifact);
    // Nor is an index that was changed.
    fs::write(device.cached(&digest(&index)), &other).unwrap();
    assert_says(&fault(&device.boot(), &pin(&index)).await, &["503", "no copy on this device"]);
}

#[tokio::test]
async fn a_config_that_is_not_what_the_manifest_says_is_refused() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let changed = String::from_utf8(offer.config.clone()).unwrap().replace("wasip2", "wasip1").into_bytes();
    let served = offer.clone();
    let server = Server::start(move |seen| {
        match seen.path.ends_with(&marram_registry::Digest::of(&served.config).to_string()) {
            true => Reply::ok(&changed),
            false => served.reply(seen),
        }
    });
    assert_says(&fault(&device.boot(), &image(&server)).await, &["digest mismatch", "config"]);
    assert_eq!(device.cache_files(), no_files());
}

#[tokio::test]
async fn fetches_of_one_component_at_the_same_time_download_it_once() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let served = offer.clone();
    let server = Server::start(move |seen| served.reply(seen));
    let (registry, image) = (device.boot(), image(&server));
    let (a, b, c) = tokio::join!(fetch(&registry, &image), fetch(&registry, &image), fetch(&registry, &image));
    assert_eq!(a.clone().unwrap(), b.unwrap());
    assert_eq!(a.unwrap(), c.unwrap());
    assert_eq!(server.count(&marram_registry::Digest::of(&offer.layer).to_string()), 1);
}

#[tokio::test]
async fn a_token_is_asked_for_where_the_registry_says_and_used() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let served = offer.clone();
    let tokens = Server::start(|seen| {
        let known = seen.authorization.as_deref() == Some("Basic ZGV2aWNlOnNlY3JldA==");
        if known { Reply::ok(br#"{"token":"let-me-in"}"#) } else { Reply::status(401) }
    });
    let challenge =
        format!(r#"WWW-Authenticate: Bearer realm="http://{}/token?a=b",service="test registry""#, tokens.address);
    let server = Server::start(move |seen| match seen.authorization.as_deref() {
        Some("Bearer let-me-in") => served.reply(seen),
        _ => Reply::Send(401, vec![challenge.clone()], Vec::new()),
    });
    let with = |password: &str| FetchRequest {
        credentials: vec![credential(&server.address, "device", password)],
        ..request(&image(&server))
    };
    device.boot().fetch(with("secret")).await.unwrap();
    assert_eq!(
        tokens.count("a=b&scope=repository%3Atest%3Apull&service=test+registry"),
        1,
        "one token for all requests"
    );
    let err = device.boot().fetch(with("wrong")).await.unwrap_err();
    assert_says(&err, &["a token", "user `device`", "registryCredentials"]);
    assert!(!err.transient);
}

/// A registry that sends everybody to this token server.
fn guarded(tokens: &Server, offer: &Offer) -> Server {
    let challenge = format!(r#"WWW-Authenticate: Bearer realm="http://{}/token""#, tokens.address);
    let offer = offer.clone();
    Server::start(move |seen| match seen.authorization.as_deref() {
        Some("Bearer let-me-in") => offer.reply(seen),
        _ => Reply::Send(401, vec![challenge.clone()], Vec::new()),
    })
}

#[tokio::test]
async fn a_token_server_in_trouble_is_out_of_reach_and_a_copy_stands_in() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let trouble = Arc::new(AtomicBool::new(false));
    let switch = trouble.clone();
    let tokens = Server::start(move |_| match switch.load(Ordering::SeqCst) {
        true => Reply::Send(503, Vec::new(), b"<html>\nout of order</html>".to_vec()),
        false => Reply::ok(br#"{"access_token":"let-me-in"}"#),
    });
    let server = guarded(&tokens, &offer);
    fetch(&device.boot(), &image(&server)).await.unwrap();
    trouble.store(true, Ordering::SeqCst);
    assert!(fetch(&device.boot(), &image(&server)).await.unwrap().stale);
    let err = fault(&Device::new().boot(), &image(&server)).await;
    assert_says(&err, &["a token", "503"]);
    assert!(err.transient);
}

#[tokio::test]
async fn an_answer_that_is_no_token_is_a_fault_and_no_panic() {
    let offer = Offer::new(&component("a"));
    for (answer, says) in [
        (&b"[]"[..], "sent no token"),
        (br#"{"token":"two\nlines"}"#, "sent no token"),
        // Looks like a JWT and is none; it is the registry that must take it.
        (br#"{"token":"a.!.c"}"#, "without credentials"),
    ] {
        let tokens = Server::start(move |_| Reply::ok(answer));
        let err = fault(&Device::new().boot(), &image(&guarded(&tokens, &offer))).await;
        assert_says(&err, &[says]);
        assert!(!err.transient);
    }
    let endless = Server::start(|_| Reply::Raw([head(None), vec![b' '; 8 << 20]].concat()));
    let err = fault(&Device::new().boot(), &image(&guarded(&endless, &offer))).await;
    assert_says(&err, &["the token", "larger than 1048576 bytes"]);
}

/// Sends us to one token server first and to another ever after; takes each token so many times.
fn fickle(first: &Server, second: &Server, offer: &Offer, uses: usize) -> Server {
    let challenge = |tokens: &Server| format!(r#"WWW-Authenticate: Bearer realm="http://{}/token""#, tokens.address);
    let (challenges, offer) = ([challenge(first), challenge(second)], offer.clone());
    let (asked, used) = (AtomicUsize::new(0), Mutex::new(HashMap::<String, usize>::new()));
    Server::start(move |seen| {
        if let Some(token) = seen.authorization.as_deref().filter(|shown| shown.starts_with("Bearer ")) {
            let mut used = used.lock().unwrap();
            let count = used.entry(token.to_owned()).or_default();
            *count += 1;
            if *count <= uses {
                return offer.reply(seen);
            }
        }
        let turn = asked.fetch_add(1, Ordering::SeqCst).min(1);
        Reply::Send(401, vec![challenges[turn].clone()], Vec::new())
    })
}

/// Gives a new token each time.
fn mint() -> Server {
    let turns = AtomicUsize::new(0);
    Server::start(move |_| {
        let turn = turns.fetch_add(1, Ordering::SeqCst);
        Reply::ok(format!(r#"{{"token":"token-{turn}"}}"#).as_bytes())
    })
}

#[tokio::test]
async fn only_the_token_server_that_was_checked_is_told_the_password() {
    let offer = Offer::new(&component("a"));
    // Manifest, config and component: the first token lasts for all, for the manifest, for the manifest and the config.
    for (uses, tokens) in [(3, 1), (1, 3), (2, 2)] {
        let (device, honest, thief) = (Device::new(), mint(), mint());
        let server = fickle(&honest, &thief, &offer, uses);
        let credentials = vec![credential(&server.address, "device", "secret")];
        device.boot().fetch(FetchRequest { credentials, ..request(&image(&server)) }).await.unwrap();
        assert_eq!(honest.count("/token"), tokens, "{uses}");
        assert_eq!(thief.seen.lock().unwrap().len(), 0, "{uses}");
        assert_eq!(server.seen.lock().unwrap().iter().filter(|seen| seen.path == "/v2/").count(), 1);
    }
}

#[tokio::test]
async fn a_token_that_lets_nobody_in_is_not_renewed() {
    let (offer, device, tokens, thief) = (Offer::new(&component("a")), Device::new(), mint(), mint());
    let err = fault(&device.boot(), &image(&fickle(&tokens, &thief, &offer, 0))).await;
    assert_says(&err, &["does not give the manifest"]);
    assert_eq!((tokens.count("/token"), thief.count("/token")), (1, 0));
}

#[tokio::test]
async fn a_registry_that_asked_for_the_password_itself_cannot_send_it_elsewhere_later() {
    let (offer, device, thief) = (Offer::new(&component("a")), Device::new(), mint());
    let greedy = format!(r#"WWW-Authenticate: Bearer realm="http://{}/token""#, thief.address);
    let (served, asked) = (offer.clone(), AtomicUsize::new(0));
    let server = Server::start(move |seen| match seen.authorization.as_deref() {
        Some("Basic ZGV2aWNlOnNlY3JldA==") => served.reply(seen),
        _ if asked.fetch_add(1, Ordering::SeqCst) == 0 => {
            Reply::Send(401, vec!["WWW-Authenticate: Basic realm=x".into()], Vec::new())
        }
        _ => Reply::Send(401, vec![greedy.clone()], Vec::new()),
    });
    let credentials = vec![credential(&server.address, "device", "secret")];
    device.boot().fetch(FetchRequest { credentials, ..request(&image(&server)) }).await.unwrap();
    assert_eq!(thief.seen.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn an_answer_that_never_ends_is_given_up() {
    let (offer, mut device) = (Offer::new(&component("a")), Device::new());
    device.settings.timeouts.idle = Duration::from_millis(200);
    let begun = |status| format!("HTTP/1.1 {status} X\r\n\r\nand so on").into_bytes();
    let tokens = Server::start(move |_| Reply::Stall(begun(200)));
    let error_page = with_layer(&offer, move |_| Reply::Stall(begun(500)));
    let err = fault(&device.boot(), &image(&guarded(&tokens, &offer))).await;
    assert_says(&err, &["0.2 s"]);
    assert!(err.transient);
    // Their status says enough.
    let err = fault(&device.boot(), &image(&error_page)).await;
    assert_says(&err, &["500"]);
    assert!(err.transient);
    let refused = Server::start(move |_| Reply::Stall(begun(401)));
    let err = fault(&device.boot(), &image(&guarded(&refused, &offer))).await;
    assert_says(&err, &["a token", "401"]);
    assert!(!err.transient);
}

#[tokio::test]
async fn an_upload_to_nowhere_is_refused() {
    let device = Device::new();
    let file = device.write("x.wasm", &component("a"));
    for headers in [vec!["Location: no url".to_owned()], Vec::new()] {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "POST" => Reply::Send(202, headers.clone(), Vec::new()),
            _ => Reply::status(404),
        });
        let err = device.boot().push(&file, &image(&server), &[], None).await.unwrap_err();
        assert!(err.message.contains(&server.address) && !err.transient, "{err}");
    }
}

#[tokio::test]
async fn a_registry_that_stores_another_manifest_is_refused() {
    let device = Device::new();
    let file = device.write("x.wasm", &component("a"));
    let another = marram_registry::Digest::of(b"another");
    let server = Server::start(move |seen| match (seen.method.as_str(), seen.path.contains("/manifests/")) {
        ("HEAD", _) => Reply::status(200),
        ("PUT", true) => Reply::Send(201, vec![format!("Location: /v2/test/manifests/{another}")], Vec::new()),
        _ => Reply::status(404),
    });
    let err = device.boot().push(&file, &image(&server), &[], None).await.unwrap_err();
    assert!(err.message.contains("stored the manifest as") && err.message.contains(&another.to_string()), "{err}");
}

#[tokio::test]
async fn a_password_is_not_told_to_strangers() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let stored = offer.clone();
    // An object store, reached by a redirect, that would like to know more.
    let store = Server::start(move |seen| match &seen.authorization {
        None => Reply::ok(&stored.layer),
        Some(_) => Reply::status(400),
    });
    let (served, target) = (offer.clone(), format!("Location: http://{}/blob", store.address));
    let server = Server::start(move |seen| match (&seen.authorization, served.is_layer(seen)) {
        (None, _) => Reply::Send(401, vec!["WWW-Authenticate: Basic realm=x".into()], Vec::new()),
        (Some(_), true) => Reply::Send(307, vec![target.clone()], Vec::new()),
        (Some(_), false) => served.reply(seen),
    });
    let credentials = vec![credential(&server.address, "device", "secret")];
    let registry = device.boot();
    let artifact = registry.fetch(FetchRequest { credentials, ..request(&image(&server)) });
    assert_eq!(fs::read(artifact.await.unwrap().path).unwrap(), offer.layer);

    // A token server without TLS, on a host where plain HTTP is not allowed.
    let challenge = "WWW-Authenticate: Bearer realm=\"http://tokens.example/token\"".to_owned();
    let greedy = Server::start(move |_| Reply::Send(401, vec![challenge.clone()], Vec::new()));
    let credentials = vec![credential(&greedy.address, "device", "secret")];
    let err = device.boot().fetch(FetchRequest { credentials, ..request(&image(&greedy)) }).await.unwrap_err();
    assert_says(&err, &["token server without TLS", "tokens.example", "registries.plain-http"]);
}

#[tokio::test]
async fn redirects_come_to_an_end() {
    let server = Server::start(|seen| Reply::Send(307, vec![format!("Location: {}x", seen.path)], Vec::new()));
    let err = fault(&Device::new().boot(), &image(&server)).await;
    assert_says(&err, &["too many redirects"]);
    assert!(server.requests.load(Ordering::SeqCst) <= 7);
}

#[tokio::test]
async fn a_system_without_certificate_authorities_is_named_as_the_fault() {
    const NAME: &str = "a_system_without_certificate_authorities_is_named_as_the_fault";
    // The variables are the process's: it is started again with others.
    if std::env::var("SSL_CERT_FILE").as_deref() != Ok("/dev/null") {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", NAME]).env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", "/dev/null");
        let output = again.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let offer = Offer::new(&component("a"));
    let server = Server::start(move |seen| offer.reply(seen));
    let err = fault(&Device::new().boot(), &image(&server)).await;
    assert_says(&err, &["certificate authorities", "ca-certificates", "SSL_CERT_FILE"]);
    assert!(!err.transient);
}
