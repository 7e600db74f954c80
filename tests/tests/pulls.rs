//! How images come over the network: cut off by a kill, as the user of a Docker login, through a proxy, watched at a
//! terminal.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use marram_tests::{
    device::Device,
    manifest::{Manifest, Module},
    program::{Answer, Layout, command, guest, marram, push_as},
    registry::{DockerRegistry, PASSWORD, USER},
    server::{Reply, Seen, Server},
    wait::wait_for,
};
use serde_json::{Value, json};

/// An image that a hand-written server offers as `test:1`: what `module push` made of a guest.
struct Offer {
    blobs: HashMap<String, Vec<u8>>,
    manifest: Vec<u8>,
    component: Vec<u8>,
}

impl Offer {
    fn of(name: &str) -> Self {
        let layout = Layout::with(&[name]);
        let index: Value = serde_json::from_slice(&fs::read(layout.path().join("index.json")).unwrap()).unwrap();
        let folder = layout.path().join("blobs/sha256");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let named =
            |path: PathBuf| (format!("sha256:{}", path.file_name().unwrap().display()), fs::read(path).unwrap());
        let blobs: HashMap<_, _> = files.map(named).collect();
        let manifest = blobs[index["manifests"][0]["digest"].as_str().unwrap()].clone();
        Self { blobs, manifest, component: fs::read(guest(name)).unwrap() }
    }

    /// `layer` answers for the component.
    fn reply(&self, seen: &Seen, layer: impl Fn(&[u8]) -> Reply) -> Reply {
        let name = seen.path.rsplit('/').next().unwrap();
        match self.blobs.get(name) {
            _ if name == "1" => Reply::ok(&self.manifest),
            Some(blob) if *blob == self.component => layer(blob),
            Some(blob) => Reply::ok(blob),
            None => Reply::status(if seen.path == "/v2/" { 200 } else { 404 }),
        }
    }
}

#[test]
fn a_pull_that_a_kill_of_the_host_cut_off_is_shown_and_goes_on_where_it_was() {
    let (offer, device) = (Offer::of("device_telemetry"), Device::new());
    // All but a little of it, and then silence.
    let most = offer.component.len() - 1000;
    assert!(most > 64 << 10, "at least one piece reaches the disk");
    let server = Server::start(move |seen| {
        offer.reply(seen, |layer| match seen.offset() {
            None => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", layer.len());
                Reply::Stall([head.as_bytes(), &layer[..most]].concat())
            }
            Some(offset) => Reply::rest(layer, offset),
        })
    });
    let image = format!("{}/test:1", server.address);
    let manifest = Manifest::new().module("telemetry", Module::new(&image).reads_proc()).upstream("telemetry");

    let host = device.start(&manifest);
    let shown = host.wait_for_module("telemetry", "to be pulled", |now| {
        now["description"].as_str().is_some_and(|text| text.starts_with("pulling "))
    });
    let text = shown["description"].as_str().unwrap();
    assert!(text.contains(" of ") && text.ends_with("iB"), "{text}");
    let partial = wait_for("a part on the disk", || part(&device));
    host.kill();
    let kept = fs::metadata(&partial).unwrap().len();

    let host = device.start_stored(&[]);
    host.wait_for_status("telemetry", "running");
    let offsets: Vec<_> = server.seen.lock().unwrap().iter().filter_map(Seen::offset).collect();
    assert_eq!(offsets, [usize::try_from(kept).unwrap()]);
    assert!(!partial.exists());
    let _ = device.journal().wait_for_more(1);
}

/// A file of the cache with a part of a blob.
fn part(device: &Device) -> Option<PathBuf> {
    let parts =
        device.files().into_iter().filter(|file| file.parent().is_some_and(|folder| folder.ends_with("partial")));
    parts.into_iter().find(|file| fs::metadata(file).is_ok_and(|meta| meta.len() > 0))
}

/// A Docker configuration with a login for the registry, in a folder of its own.
fn docker_login(folder: &Path, registry: &DockerRegistry) {
    let file = folder.join("config.json");
    let document = json!({"auths": {registry.address(): {"username": USER, "password": PASSWORD}}});
    fs::write(&file, document.to_string()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_docker_login_is_the_authors_by_custom_and_the_hosts_by_the_owners_word() {
    let (registry, device, folder) =
        (DockerRegistry::start_with_password(), Device::new(), tempfile::tempdir().unwrap());
    docker_login(folder.path(), &registry);
    let image = registry.image("telemetry:1");
    let mut push = command();
    push.args(["module", "push"]).arg(guest("device_telemetry")).arg(&image).env("DOCKER_CONFIG", folder.path());
    let _ = Answer::of(&mut push).ok();
    // Another user on the command line counts more.
    push_as("plain_program", &registry.image("program:1"), Some((USER, PASSWORD)));
    let mut wrong = command();
    wrong.args(["module", "pull", &image]).arg(folder.path().join("x.wasm")).env("DOCKER_CONFIG", folder.path());
    wrong.args(["--username", USER, "--password-stdin"]).stdin(fs::File::open(wrong_password(folder.path())).unwrap());
    assert!(Answer::of(&mut wrong).err.contains(&format!("to the user `{USER}`")));

    let manifest = Manifest::new().module("telemetry", Module::new(&image).reads_proc()).upstream("telemetry");
    let host = device.start(&manifest);
    host.wait_for_module("telemetry", "to be refused", |now| {
        now["description"].as_str().is_some_and(|text| text.contains("without credentials"))
    });
    host.stop();
    let config = folder.path().join("marram.toml");
    fs::write(&config, "[registries]\ndocker-config = \"config.json\"\n").unwrap();
    let host = device.start_stored(&["--config", config.to_str().unwrap()]);
    host.wait_for_status("telemetry", "running");
    let _ = device.journal().wait_for_more(1);
    assert!(!host.log().contains(PASSWORD), "the log tells a password");
}

/// A file with a password that is not the right one.
fn wrong_password(folder: &Path) -> PathBuf {
    let file = folder.join("word");
    fs::write(&file, "wrong\n").unwrap();
    file
}

#[test]
fn the_proxy_of_the_environment_is_used_unless_the_owner_names_another() {
    let folder = tempfile::tempdir().unwrap();
    let [environment, owners] = [(); 2].map(|()| Server::start(|_| Reply::status(403)));
    let pull = |config: Option<&Path>| {
        let mut pull = command();
        pull.args(["module", "pull", "registry.test/x:1"]).arg(folder.path().join("x.wasm"));
        pull.env("HTTPS_PROXY", format!("http://{}", environment.address));
        if let Some(config) = config {
            pull.arg("--config").arg(config);
        }
        Answer::of(&mut pull)
    };
    let answer = pull(None);
    assert!(answer.code != Some(0) && answer.err.contains(&environment.address), "{}", answer.err);
    assert!(environment.count("registry.test:443") > 0);

    let asked = environment.requests.load(std::sync::atomic::Ordering::SeqCst);
    let config = folder.path().join("marram.toml");
    fs::write(&config, format!("[registries]\nproxy = \"http://{}\"\n", owners.address)).unwrap();
    assert!(pull(Some(&config)).err.contains(&owners.address));
    assert!(owners.count("registry.test:443") > 0);
    assert_eq!(environment.requests.load(std::sync::atomic::Ordering::SeqCst), asked);
}

#[test]
fn a_person_at_a_terminal_sees_how_far_a_pull_is_and_nobody_else_does() {
    let (offer, folder) = (Offer::of("device_telemetry"), tempfile::tempdir().unwrap());
    let screen = folder.path().join("screen");
    let shown = screen.clone();
    let half = offer.component.len() / 2;
    let server = Server::start(move |seen| {
        offer.reply(seen, |layer| match seen.offset() {
            None => Reply::cut(layer, half),
            Some(offset) => {
                if seen.path.contains("/watched/") {
                    wait_for("the half to be shown", || {
                        fs::read_to_string(&shown).ok()?.contains("pulling ").then_some(())
                    });
                }
                Reply::rest(layer, offset)
            }
        })
    });
    let file = folder.path().join("x.wasm");
    let pull = format!("{} module pull {}/watched/test:1 {}", marram().display(), server.address, file.display());
    let mut terminal = Command::new("script");
    terminal.args(["-q", "-f", "-e", "-c", &pull]).arg(&screen);
    terminal
        .env("MARRAM_CONFIG", "/dev/null")
        .env("DOCKER_CONFIG", "/nonexistent")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    assert!(terminal.status().unwrap().success());
    let text = fs::read_to_string(&screen).unwrap();
    assert!(text.contains("KiB") && text.contains("@sha256:"), "{text}");
    assert!(file.exists());

    let mut quiet = command();
    quiet.args(["module", "pull", &format!("{}/quiet/test:1", server.address)]).arg(folder.path().join("y.wasm"));
    assert_eq!(Answer::of(&mut quiet).ok().err, "");
}
