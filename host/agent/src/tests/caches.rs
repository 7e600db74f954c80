//! When the caches are cleaned up, and what stays.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use marram_core::{
    cache::Goal,
    ports::{BoxFuture, CacheError, CodeCache, ComponentCache, KeptCode, KeptComponent, KeptComponents, KeptPart},
    time::UtcMillis,
};

use super::worlds::{Guest, Log, World, manifest};
use crate::{Caches, Collector, PruneRequest};

/// A month after the parts of the tests.
const NOW: UtcMillis = UtcMillis(30 * DAY);
const DAY: u64 = 86_400_000;

/// Components of 10 bytes, each with 20 bytes of code, and what is removed.
#[derive(Default)]
struct Shelf {
    components: Mutex<Vec<KeptComponent>>,
    parts: Mutex<Vec<KeptPart>>,
    removed: Log,
    broken: AtomicBool,
}

impl Shelf {
    /// With these components, the first of them used longest ago.
    fn with(names: &[&str]) -> Arc<Self> {
        let component = |(number, name): (u64, &&str)| KeptComponent {
            digest: (*name).to_owned(),
            images: vec![(*name).to_owned()],
            named: Vec::new(),
            bytes: 10,
            last_use: UtcMillis(number),
            held: false,
        };
        Arc::new(Self { components: Mutex::new((0..).zip(names).map(component).collect()), ..Self::default() })
    }

    fn names(&self) -> Vec<String> {
        self.components.lock().unwrap().iter().map(|kept| kept.digest.clone()).collect()
    }

    fn caches(self: &Arc<Self>, max_bytes: u64) -> Caches {
        Caches { components: self.clone(), code: self.clone(), max_bytes }
    }
}

impl ComponentCache for Shelf {
    fn components(&self, images: Vec<String>) -> BoxFuture<'_, Result<KeptComponents, CacheError>> {
        if self.broken.load(SeqCst) {
            return Box::pin(async { Err(CacheError("a dead disk".into())) });
        }
        let mut components = self.components.lock().unwrap().clone();
        for kept in &mut components {
            kept.named = images.iter().filter(|image| kept.images.contains(image)).cloned().collect();
        }
        let (parts, now) = (self.parts.lock().unwrap().clone(), NOW);
        Box::pin(async move { Ok(KeptComponents { components, parts, other_bytes: 0, now }) })
    }

    fn remove_components(&self, digests: Vec<String>) -> BoxFuture<'_, Result<(), CacheError>> {
        self.components.lock().unwrap().retain(|kept| !digests.contains(&kept.digest));
        self.removed.push(digests.join(" "));
        Box::pin(async { Ok(()) })
    }

    fn remove_parts(&self, digests: Vec<String>) -> BoxFuture<'_, Result<(), CacheError>> {
        self.parts.lock().unwrap().retain(|part| !digests.contains(&part.digest));
        Box::pin(async { Ok(()) })
    }
}

impl CodeCache for Shelf {
    fn code(&self) -> BoxFuture<'_, Result<Vec<KeptCode>, CacheError>> {
        let code = |component: String| KeptCode {
            name: format!("{component}-code"),
            component,
            bytes: 20,
            usable: true,
            held: false,
        };
        let code = self.names().into_iter().map(code).collect();
        Box::pin(async { Ok(code) })
    }

    fn remove_code(&self, _: Vec<String>) -> BoxFuture<'_, Result<(), CacheError>> {
        Box::pin(async { Ok(()) })
    }
}

fn world(shelf: &Arc<Shelf>, max_bytes: u64) -> World {
    let mut world = World::default();
    world.caches = Some(shelf.caches(max_bytes));
    world.guest("a", Guest::default());
    world.guest("b", Guest::default());
    world
}

#[tokio::test]
async fn a_deployment_that_has_settled_leaves_no_more_than_the_cap() {
    let shelf = Shelf::with(&["old", "a", "young"]);
    // Room for the fetch of `a` removes the one in excess already; the cap for two is kept after it.
    let world = world(&shelf, 70);
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    shelf.removed.until("old to go", |lines| lines.contains(&"old".to_owned())).await;
    world.log.until("a to start", |lines| lines.contains(&"start a".to_owned())).await;
    shelf.removed.until("two looks: before the fetch, and when all is up", |lines| lines.len() >= 2).await;
    assert_eq!(shelf.names(), ["a", "young"]);
    assert_eq!(agent.cache().await.unwrap().total_bytes, 60);
}

#[tokio::test]
async fn room_for_a_download_is_made_but_never_of_what_is_deployed() {
    let shelf = Shelf::with(&["a", "b", "old", "young"]);
    // Exactly full: the 10 bytes to be fetched need one to go.
    let world = world(&shelf, 120);
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("b", r#"{"status":"stopped"}"#)], &[])).await.unwrap();
    let removed = shelf.removed.until("a look", |lines| !lines.is_empty()).await;
    assert_eq!(removed[0], "old", "`a` and `b` are older, but deployed; `b` does not even run");
}

#[tokio::test]
async fn without_a_deployment_nothing_goes_unless_somebody_asks() {
    let shelf = Shelf::with(&["a", "b"]);
    let agent = world(&shelf, 0).agent().await;
    assert_eq!(agent.cache().await.unwrap().components.len(), 2);
    let all = PruneRequest { goal: Some(Goal::InUse), dry_run: true };
    let told = agent.prune(all).await.unwrap();
    assert_eq!((told.removed.len(), told.freed_bytes, told.total_bytes, shelf.names().len()), (2, 60, 0, 2));
    let pruned = agent.prune(PruneRequest { dry_run: false, ..all }).await.unwrap();
    assert_eq!((pruned.removed, pruned.freed_bytes), (told.removed, 60));
    assert!(shelf.names().is_empty());
}

#[tokio::test]
async fn a_prune_keeps_what_modules_use_and_says_which() {
    let shelf = Shelf::with(&["a", "b"]);
    let world = world(&shelf, 1000);
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    let pruned = agent.prune(PruneRequest { goal: Some(Goal::InUse), dry_run: false }).await.unwrap();
    let modules: Vec<_> = pruned.in_use[0].modules.iter().map(ToString::to_string).collect();
    assert_eq!((pruned.in_use.len(), modules), (1, vec!["a".to_owned()]));
    assert_eq!((pruned.removed.len(), shelf.names()), (1, vec!["a".to_owned()]));
}

#[tokio::test]
async fn caches_that_cannot_be_read_stop_nothing() {
    let shelf = Shelf::with(&["a"]);
    shelf.broken.store(true, SeqCst);
    let world = world(&shelf, 0);
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    world.log.until("a to start", |lines| lines.contains(&"start a".to_owned())).await;
    assert!(agent.cache().await.unwrap_err().to_string().contains("a dead disk"));
}

#[tokio::test]
async fn without_a_host_what_the_stored_deployment_names_stays() {
    let shelf = Shelf::with(&["a", "b"]);
    let world = world(&shelf, 0);
    world.agent().await.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    let collector = Collector::of_stored(shelf.caches(0), &*world.disk, |_| Ok(())).unwrap();
    collector.prune(PruneRequest { goal: None, dry_run: false }, &[]).await.unwrap();
    assert_eq!(shelf.names(), ["a"]);

    world.disk.documents.lock().unwrap().insert("deployment".into(), b"{}".to_vec());
    assert!(Collector::of_stored(shelf.caches(0), &*world.disk, |_| Ok(())).is_err(), "nobody knows what it needs");
}

#[tokio::test]
async fn unfinished_downloads_count_against_the_cap_and_go_by_their_age() {
    let shelf = Shelf::with(&["a"]);
    let part = |days: u64| KeptPart {
        digest: format!("part of {days} days"),
        bytes: 100,
        last_use: UtcMillis(NOW.0 - days * DAY),
        held: false,
    };
    *shelf.parts.lock().unwrap() = vec![part(0), part(3), part(8)];
    let agent = world(&shelf, 150).agent().await;
    let status = agent.cache().await.unwrap();
    assert_eq!((status.total_bytes, status.partial_bytes, status.other_bytes), (230, 200, 100));
    let told = agent.prune(PruneRequest { goal: None, dry_run: true }).await.unwrap();
    let done = agent.prune(PruneRequest { goal: None, dry_run: false }).await.unwrap();
    assert_eq!((done.freed_bytes, done.total_bytes), (told.freed_bytes, told.total_bytes), "as it was told");
    assert_eq!((done.freed_bytes, done.total_bytes), (230, 100), "`a` is older than the part of three days");
    assert_eq!(*shelf.parts.lock().unwrap(), [part(0)]);
    let status = agent.cache().await.unwrap();
    assert_eq!((status.partial_bytes, status.other_bytes), (100, 0), "what the list says goes is gone");
}
