//! Transfers that break off, are tried again, go on where they were, and run beside each other.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use marram_core::{
    ports::{FetchRequest, Images},
    retry::Policy,
};
use marram_registry::Digest;
use marram_tests::{registry::DockerRegistry, wait::wait_for};
use support::{Device, Offer, Reply, Seen, Server, assert_says, component, fault, fetch, large_component, request};

fn image(server: &Server) -> String {
    format!("{}/test:1", server.address)
}

/// Serves an offer; `layer` answers the nth request (from 0) for the component.
fn serve(offer: &Offer, layer: impl Fn(usize, &Seen, &[u8]) -> Reply + Send + Sync + 'static) -> Server {
    let (offer, asked) = (offer.clone(), AtomicUsize::new(0));
    Server::start(move |seen| match offer.is_layer(seen) {
        true => layer(asked.fetch_add(1, Ordering::SeqCst), seen, &offer.layer),
        false => offer.reply(seen),
    })
}

/// Where the requests for the component began; none = no part was asked for.
fn offsets(server: &Server, offer: &Offer) -> Vec<Option<usize>> {
    server.seen.lock().unwrap().iter().filter(|seen| offer.is_layer(seen)).map(Seen::offset).collect()
}

/// As registries do it.
fn whole_or_rest(seen: &Seen, layer: &[u8]) -> Reply {
    seen.offset().map_or_else(|| Reply::ok(layer), |offset| Reply::rest(layer, offset))
}

fn layer_digest(offer: &Offer) -> String {
    Digest::of(&offer.layer).to_string()
}

/// A device that gives up at the first fault, as one does whose host is killed then.
fn hasty() -> Device {
    let mut device = Device::new();
    device.settings.retry = Policy { tries: 1, ..Policy::default() };
    device
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let (offer, device) = (Offer::new(&large_component(300_000)), Device::new());
    let server = serve(&offer, |n, seen, layer| match n {
        0 => Reply::cut(layer, 100_000),
        1 => Reply::Raw(b"".to_vec()),
        _ => whole_or_rest(seen, layer),
    });
    let artifact = fetch(&device.boot(), &image(&server)).await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), offer.layer);
    assert_eq!(offsets(&server, &offer), [None, Some(100_000), Some(100_000)]);
    assert!(!device.partial(&layer_digest(&offer)).exists());
}

#[tokio::test]
async fn a_download_that_gets_somewhere_each_time_is_not_given_up() {
    let (offer, device) = (Offer::new(&large_component(1_000_000)), Device::new());
    // Ten parts, more than tries without progress.
    let server = serve(&offer, |_, seen, layer| {
        let offset = seen.offset().unwrap_or(0);
        let piece = &layer[offset..layer.len().min(offset + 100_000)];
        let head = match offset {
            0 => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", layer.len()),
            _ => format!(
                "HTTP/1.1 206 X\r\nContent-Range: bytes {offset}-{}/{}\r\nContent-Length: {}\r\n\r\n",
                layer.len() - 1,
                layer.len(),
                layer.len() - offset
            ),
        };
        Reply::Raw([head.as_bytes(), piece].concat())
    });
    fetch(&device.boot(), &image(&server)).await.unwrap();
    assert!(offsets(&server, &offer).len() >= 10);
}

#[tokio::test]
async fn a_download_goes_on_after_a_restart_of_the_host() {
    let (offer, device) = (Offer::new(&large_component(300_000)), hasty());
    let server = serve(&offer, |n, seen, layer| match n {
        0 => Reply::cut(layer, 200_000),
        _ => whole_or_rest(seen, layer),
    });
    let err = fault(&device.boot(), &image(&server)).await;
    assert!(err.transient, "{err}");
    assert_eq!(fs::metadata(device.partial(&layer_digest(&offer))).unwrap().len(), 200_000);
    let artifact = fetch(&device.boot(), &image(&server)).await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), offer.layer);
    assert_eq!(offsets(&server, &offer), [None, Some(200_000)]);
}

#[tokio::test]
async fn a_stock_registry_is_asked_for_the_rest_alone() {
    let (upstream, device, author) = (DockerRegistry::start(), Device::new(), Device::new());
    let bytes = large_component(300_000);
    let file = author.write("x.wasm", &bytes);
    let pushed = author.boot().push(&file, &upstream.image("x:1"), &[], None).await.unwrap();
    // A device that never got anything, and then half of it.
    fs::create_dir_all(part_folder(&device)).unwrap();
    make_private(&device);
    fs::write(device.partial(&pushed.component_digest), &bytes[..200_000]).unwrap();
    // What the registry has of the first half is of no use to anybody.
    let stored = upstream.blob_file(&pushed.component_digest);
    fs::write(&stored, [&vec![0; 200_000], &bytes[200_000..]].concat()).unwrap();
    let artifact = fetch(&device.boot(), &upstream.image("x:1")).await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), bytes);
}

fn make_private(device: &Device) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&device.settings.cache, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Breaks off at `cut`, boots again, and fetches from a server that answers so from then on.
async fn resumed(
    cut: usize,
    then: impl Fn(usize, &Seen, &[u8]) -> Reply + Send + Sync + 'static,
) -> Vec<Option<usize>> {
    let (offer, device) = (Offer::new(&large_component(300_000)), hasty());
    let server = serve(&offer, move |n, seen, layer| match n {
        0 => Reply::cut(layer, cut),
        n => then(n, seen, layer),
    });
    fault(&device.boot(), &image(&server)).await;
    let artifact = fetch(&device.boot(), &image(&server)).await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), offer.layer);
    offsets(&server, &offer)
}

#[tokio::test]
async fn a_server_that_ignores_the_range_starts_over() {
    let asked = resumed(200_000, |_, _, layer| Reply::ok(layer)).await;
    assert_eq!(asked, [None, Some(200_000)]);
}

#[tokio::test]
async fn a_part_that_was_not_asked_for_is_not_taken() {
    let wrong = |range: &'static str| {
        resumed(200_000, move |_, seen, layer| match seen.offset() {
            Some(offset) => Reply::Send(206, vec![format!("Content-Range: {range}")], layer[offset..].to_vec()),
            None => Reply::ok(layer),
        })
    };
    for range in ["bytes 100000-300020/300021", "bytes 200000-200001/9", "nonsense"] {
        assert_eq!(wrong(range).await, [None, Some(200_000), None], "{range}");
    }
    let asked = resumed(200_000, |_, seen, layer| match seen.offset() {
        Some(_) => Reply::status(416),
        None => Reply::ok(layer),
    });
    assert_eq!(asked.await, [None, Some(200_000), None]);
}

#[tokio::test]
async fn a_part_of_other_content_is_found_out_and_discarded() {
    let (offer, device) = (Offer::new(&large_component(300_000)), hasty());
    let server = serve(&offer, |n, seen, layer| match n {
        0 => Reply::cut(layer, 200_000),
        _ => whole_or_rest(seen, layer),
    });
    fault(&device.boot(), &image(&server)).await;
    let part = device.partial(&layer_digest(&offer));
    let mut bytes = fs::read(&part).unwrap();
    bytes[150_000] ^= 1; // flash forgets
    fs::write(&part, bytes).unwrap();
    let artifact = fetch(&device.boot(), &image(&server)).await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), offer.layer);
    assert_eq!(offsets(&server, &offer), [None, Some(200_000), None]);

    // Nor is one that is not even the beginning of a component, or longer than the whole.
    for planted in [vec![0; 100_000], [&offer.layer[..], b"more"].concat()] {
        let device = Device::new();
        fs::create_dir_all(part_folder(&device)).unwrap();
        make_private(&device);
        fs::write(device.partial(&layer_digest(&offer)), planted).unwrap();
        let artifact = fetch(&device.boot(), &image(&server)).await.unwrap();
        assert_eq!(fs::read(artifact.path).unwrap(), offer.layer);
        assert_eq!(offsets(&server, &offer).last(), Some(&None));
    }
}

fn part_folder(device: &Device) -> std::path::PathBuf {
    device.settings.cache.join("partial")
}

#[tokio::test]
async fn a_server_whose_parts_are_damaged_is_refused_and_nothing_is_kept() {
    let (offer, device) = (Offer::new(&large_component(300_000)), Device::new());
    let server = serve(&offer, |n, seen, layer| {
        let mut layer = layer.to_vec();
        layer[250_000] ^= 1;
        match n {
            0 => Reply::cut(&layer, 200_000),
            _ => whole_or_rest(seen, &layer),
        }
    });
    let err = fault(&device.boot(), &image(&server)).await;
    assert_says(&err, &["digest mismatch", "component"]);
    assert!(!err.transient);
    assert_eq!(offsets(&server, &offer), [None, Some(200_000), None]);
    assert_eq!(device.cache_files(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_registry_that_is_busy_is_asked_again() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let (served, asked) = (offer.clone(), AtomicUsize::new(0));
    // Every second request succeeds, whatever it is for.
    let server = Server::start(move |seen| match asked.fetch_add(1, Ordering::SeqCst) % 4 {
        0 => Reply::status(503),
        2 => Reply::Send(429, vec!["Retry-After: 0".into()], Vec::new()),
        _ => served.reply(seen),
    });
    fetch(&device.boot(), &image(&server)).await.unwrap();
    // The greeting, manifest, config and component.
    assert_eq!(server.requests.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn tries_come_to_an_end_and_a_long_pause_is_not_waited_for() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    let server = serve(&offer, |_, _, _| Reply::status(503));
    assert!(fault(&device.boot(), &image(&server)).await.transient);
    assert_eq!(offsets(&server, &offer).len(), 4);

    let server = serve(&offer, |_, _, _| Reply::Send(429, vec!["Retry-After: 3600".into()], Vec::new()));
    assert!(fault(&device.boot(), &image(&server)).await.transient);
    assert_eq!(offsets(&server, &offer).len(), 1);
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let (offer, device) = (Offer::new(&component("a")), Device::new());
    for status in [400, 401, 403, 404, 410] {
        let server = serve(&offer, move |_, _, _| Reply::status(status));
        assert!(!fault(&device.boot(), &image(&server)).await.transient);
        assert_eq!(offsets(&server, &offer).len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_push_to_a_busy_registry_is_tried_again() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let file = device.write("x.wasm", &component("a"));
    let asked = AtomicUsize::new(0);
    // Says no twice, then sends everybody to the real one.
    let target = upstream.address();
    let server = Server::start(move |seen| match (seen.method.as_str(), asked.fetch_add(1, Ordering::SeqCst)) {
        ("POST", 0..=4) => Reply::status(503),
        ("HEAD", _) => Reply::status(404),
        _ => Reply::Send(307, vec![format!("Location: http://{target}{}", seen.path)], Vec::new()),
    });
    device.boot().push(&file, &image(&server), &[], None).await.unwrap();
    assert!(server.count("/uploads/") >= 2);
    fetch(&device.boot(), &upstream.image("test:1")).await.unwrap();
}

/// A device that waits for a sender below 2 KiB/s for a second, not for half a minute.
fn impatient() -> Device {
    let mut device = Device::new();
    device.settings.timeouts.slowest.window = Duration::from_secs(1);
    device
}

/// A fifth of the time without a byte that would end it, and some hundredth of the rate.
const DROP_EVERY: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_registry_that_drips_loses_its_place_and_the_rest_is_asked_for_again() {
    let (offer, mut device) = (Offer::new(&large_component(300_000)), impatient());
    device.settings.concurrent_downloads = 1;
    let server = serve(&offer, |n, seen, layer| match n {
        0 => Reply::drip(layer, 100_000, DROP_EVERY),
        _ => whole_or_rest(seen, layer),
    });
    let artifact = fetch(&device.boot(), &image(&server)).await.unwrap();
    assert_eq!(fs::read(artifact.path).unwrap(), offer.layer);
    let asked = offsets(&server, &offer);
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].is_some_and(|offset| offset > 100_000), "what dripped is kept: {asked:?}");
}

#[tokio::test]
async fn a_registry_that_does_nothing_but_drip_is_given_up_and_named() {
    let (offer, device) = (Offer::new(&large_component(300_000)), impatient());
    let server = serve(&offer, |_, _, layer| Reply::drip(layer, 0, DROP_EVERY));
    let err = fault(&device.boot(), &image(&server)).await;
    assert!(err.transient, "{err}");
    assert_says(&err, &[&server.address, "sends too slowly (below 2048 bytes/s for 1 s)"]);
    assert_eq!(offsets(&server, &offer).len(), 4, "as often as any other fault");
}

/// Counts who is in, and lets nobody out before so many have been in together.
#[derive(Default)]
struct Room {
    state: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl Room {
    fn meet(&self, size: usize) {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        state.1 = state.1.max(state.0);
        self.changed.notify_all();
        let patience = Duration::from_secs(60);
        let (mut state, _) = self.changed.wait_timeout_while(state, patience, |state| state.1 < size).unwrap();
        state.0 -= 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_images_are_downloaded_at_the_same_time_up_to_the_owners_bound() {
    let mut device = Device::new();
    device.settings.concurrent_downloads = 2;
    let room = Arc::new(Room::default());
    let servers: Vec<Server> = (0..5)
        .map(|n| {
            let (offer, room) = (Offer::new(&component(&n.to_string())), room.clone());
            serve(&offer, move |_, _, layer| {
                room.meet(2);
                Reply::ok(layer)
            })
        })
        .collect();
    let registry = device.boot();
    let fetched = join_all(servers.iter().map(|server| async { fetch(&registry, &image(server)).await })).await;
    fetched.into_iter().for_each(|result| drop(result.unwrap()));
    assert_eq!(room.state.lock().unwrap().1, 2, "two together, and never three");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_device_does_not_wait_for_downloads_that_hang() {
    let mut device = Device::new();
    device.settings.concurrent_downloads = 1;
    let (layout, kept) =
        (format!("oci:{}:1", device.folder.path().join("layout").display()), Offer::new(&component("b")));
    let file = device.write("pushed.wasm", &component("a"));
    device.boot().push(&file, &layout, &[], None).await.unwrap();
    let registry = Arc::new(device.boot());
    let here = Server::start(move |seen| kept.reply(seen));
    fetch(&registry, &image(&here)).await.unwrap();

    // More than there are places of any kind.
    let offer = Offer::new(&large_component(1000));
    let layer = layer_digest(&offer);
    let hang = serve(&offer, |_, _, _| Reply::Stall(Vec::new()));
    let hanging: Vec<_> = (0..20)
        .map(|_| {
            let (registry, image) = (registry.clone(), image(&hang));
            tokio::spawn(async move { fetch(&registry, &image).await })
        })
        .collect();
    wait_for("all places to be taken", || (hang.count("/manifests/") == 8 && hang.count(&layer) == 1).then_some(()));
    let patience = Duration::from_secs(5);
    let copied = tokio::time::timeout(patience, fetch(&registry, &layout)).await.expect("a layout waits for nobody");
    assert_eq!(fs::read(copied.unwrap().path).unwrap(), component("a"));
    let again = FetchRequest { prefer_cached: true, ..request(&image(&here)) };
    tokio::time::timeout(patience, registry.fetch(again)).await.expect("nor does a copy").unwrap();
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_while_a_component_is_downloaded() {
    let (offer, device) = (Offer::new(&large_component(300_000)), Device::new());
    let seen_half = Arc::new(AtomicBool::new(false));
    let gate = seen_half.clone();
    let server = serve(&offer, move |n, seen, layer| {
        if n == 0 {
            return Reply::cut(layer, 150_000);
        }
        wait_for("the test to see the half", || gate.load(Ordering::SeqCst).then_some(()));
        whole_or_rest(seen, layer)
    });
    let request = request(&image(&server));
    let (registry, progress) = (device.boot(), request.progress.clone());
    let watch = tokio::task::spawn_blocking(move || {
        wait_for("the half", || (progress.to_string() == "146.5 of 293.0 KiB").then_some(()));
        seen_half.store(true, Ordering::SeqCst);
    });
    let progress = request.progress.clone();
    registry.fetch(FetchRequest { ..request }).await.unwrap();
    watch.await.unwrap();
    assert!(!progress.is_under_way());
}

#[tokio::test]
async fn progress_of_a_push_ends_with_all_bytes() {
    let (upstream, device) = (DockerRegistry::start(), Device::new());
    let file = device.write("x.wasm", &large_component(200_000));
    let progress = Arc::default();
    device.boot().push_watched(&file, &upstream.image("x:1"), &[], None, &progress).await.unwrap();
    assert_eq!(progress.to_string(), "195.3 of 195.3 KiB");
}
