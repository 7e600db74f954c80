//! Logins of Docker's configuration file and of the programs that it names.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use marram_core::ports::{FetchRequest, Images};
use marram_tests::registry::{DockerRegistry, PASSWORD, USER};
use serde_json::{Value, json};
use support::{Device, Offer, Reply, Server, assert_says, component, credential, fault, fetch, request};

/// `device:correct-horse`.
const AUTH: &str = "ZGV2aWNlOmNvcnJlY3QtaG9yc2U=";
/// `device:wrong-word`.
const WRONG: &str = "ZGV2aWNlOndyb25nLXdvcmQ=";

fn docker_config(device: &mut Device, document: &Value) -> PathBuf {
    let path = device.write("config.json", document.to_string().as_bytes());
    device.settings.docker_config = Some(path.clone());
    path
}

/// A closed registry with `x:1`.
async fn closed() -> DockerRegistry {
    let (upstream, author) = (DockerRegistry::start_with_password(), Device::new());
    let own = [credential(&upstream.address(), USER, PASSWORD)];
    let file = author.write("x.wasm", &component("a"));
    author.boot().push(&file, &upstream.image("x:1"), &own, None).await.unwrap();
    upstream
}

#[tokio::test]
async fn a_docker_login_opens_a_closed_registry_for_pulls_and_pushes() {
    let (upstream, mut device) = (closed().await, Device::new());
    docker_config(&mut device, &json!({"auths": {upstream.address(): {"auth": AUTH}}}));
    fetch(&device.boot(), &upstream.image("x:1")).await.unwrap();
    let file = device.write("y.wasm", &component("b"));
    device.boot().push(&file, &upstream.image("y:1"), &[], None).await.unwrap();
}

#[tokio::test]
async fn the_owners_credentials_come_first_then_dockers_then_the_deployments() {
    let upstream = closed().await;
    let image = upstream.image("x:1");
    let own = |word: &str| vec![credential(&upstream.address(), USER, word)];
    let with = |word: &str| FetchRequest { credentials: own(word), ..request(&image) };
    let docker = |auth: &str| json!({"auths": {upstream.address(): {"auth": auth}}});

    let mut device = Device::new();
    let file = docker_config(&mut device, &docker(WRONG));
    let err = device.boot().fetch(with(PASSWORD)).await.unwrap_err();
    assert_says(&err, &["to the user `device`", &file.display().to_string()]);
    assert!(!err.message.contains("wrong-word"), "{err}");
    device.settings.credentials = own(PASSWORD);
    device.boot().fetch(with("wrong-word")).await.unwrap();

    // The file is read anew: a login of this minute counts.
    let mut device = Device::new();
    docker_config(&mut device, &docker(WRONG));
    let registry = device.boot();
    registry.fetch(request(&image)).await.unwrap_err();
    docker_config(&mut device, &docker(AUTH));
    registry.fetch(with("wrong-word")).await.unwrap();

    let mut device = Device::new();
    docker_config(&mut device, &json!({"auths": {"other.example": {"auth": WRONG}}}));
    device.boot().fetch(with(PASSWORD)).await.unwrap();
}

#[tokio::test]
async fn a_login_is_looked_for_only_when_a_registry_asks_for_one() {
    let (upstream, mut device) = (DockerRegistry::start(), Device::new());
    let file = device.write("x.wasm", &component("a"));
    device.settings.docker_config = Some("/nonexistent/config.json".into());
    device.boot().push(&file, &upstream.image("x:1"), &[], None).await.unwrap();
    let err = fault(&device.boot(), &closed().await.image("x:1")).await;
    assert_says(&err, &["cannot read /nonexistent/config.json"]);
    assert!(!err.transient);
}

#[tokio::test]
async fn an_identity_token_is_given_to_the_token_server_alone() {
    let (offer, mut device) = (Offer::new(&component("a")), Device::new());
    let tokens = Server::start(|seen| match (seen.method.as_str(), seen.body.contains("refresh_token=id%2Ftoken&")) {
        ("POST", true) => Reply::ok(br#"{"access_token":"let-me-in"}"#),
        _ => Reply::status(401),
    });
    let challenge = format!(r#"WWW-Authenticate: Bearer realm="http://{}/token",service="test""#, tokens.address);
    let served = offer.clone();
    let server = Server::start(move |seen| match seen.authorization.as_deref() {
        Some("Bearer let-me-in") => served.reply(seen),
        _ => Reply::Send(401, vec![challenge.clone()], Vec::new()),
    });
    let token = json!({"auth": "Og==", "identitytoken": "id/token"});
    docker_config(&mut device, &json!({"auths": {server.address.clone(): token}}));
    fetch(&device.boot(), &format!("{}/test:1", server.address)).await.unwrap();
    let asked = tokens.seen.lock().unwrap()[0].clone();
    assert_eq!((asked.path.as_str(), asked.authorization), ("/token", None));
    for part in ["grant_type=refresh_token", "scope=repository%3Atest%3Apull", "service=test"] {
        assert!(asked.body.contains(part), "{}", asked.body);
    }
    assert!(server.seen.lock().unwrap().iter().all(|seen| !format!("{seen:?}").contains("id/token")));

    let upstream = closed().await;
    let token = json!({"identitytoken": "id/token"});
    docker_config(&mut device, &json!({"auths": {upstream.address(): token}}));
    let err = fault(&device.boot(), &upstream.image("x:1")).await;
    assert_says(&err, &["identity token", "log in with a password"]);
    assert!(!err.message.contains("id/token"));
}

#[tokio::test]
async fn a_helper_on_the_path_is_asked_as_the_file_says() {
    const NAME: &str = "a_helper_on_the_path_is_asked_as_the_file_says";
    const MARK: &str = "MARRAM_TEST_HELPERS";
    let Some(folder) = std::env::var_os(MARK).map(PathBuf::from) else {
        // The path is the process's: it is started again with another.
        let folder = tempfile::tempdir().unwrap();
        let helper = folder.path().join("docker-credential-test");
        let script = format!(
            "#!/bin/sh\nread server\necho \"$1 $server\" >> '{}/log'\n\
             echo '{{\"ServerURL\":\"x\",\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'\n",
            folder.path().display()
        );
        fs::write(&helper, script).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o700)).unwrap();
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let mut again = Command::new(std::env::current_exe().unwrap());
        let output = again.args(["--exact", NAME]).env("PATH", path).env(MARK, folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    };
    let (upstream, mut device) = (closed().await, Device::new());
    docker_config(&mut device, &json!({"credHelpers": {upstream.address(): "test"}}));
    fetch(&device.boot(), &upstream.image("x:1")).await.unwrap();
    docker_config(&mut device, &json!({"credsStore": "test"}));
    fetch(&device.boot(), &upstream.image("x:1")).await.unwrap();
    let asked = format!("get {}\n", upstream.address());
    assert_eq!(fs::read_to_string(folder.join("log")).unwrap(), asked.repeat(2), "once a fetch");

    docker_config(&mut device, &json!({"credsStore": "that-nobody-installed"}));
    let err = fault(&device.boot(), &upstream.image("x:1")).await;
    assert_says(&err, &["`docker-credential-that-nobody-installed`", "no such program on PATH"]);
    assert!(!err.transient);
}
