//! Keeps the caches of components and of machine code within the owner's cap. `core::cache` decides, the worlds list and
//! remove; what the deployment in force names stays, whether it runs or not.

use std::sync::Arc;

use marram_core::{
    cache::{Goal, Inventory, Item, plan},
    deployment::Deployment,
    name::ModuleName,
    ports::{BoxFuture, CacheError, CodeCache, ComponentCache, Documents, Room},
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::agent::{ReadError, read_stored};

/// The caches, and how large they may become.
#[derive(Clone)]
pub struct Caches {
    /// The components.
    pub components: Arc<dyn ComponentCache>,
    /// Their machine code.
    pub code: Arc<dyn CodeCache>,
    /// Cap on both together, in bytes. What is in use may exceed it.
    pub max_bytes: u64,
}

/// What is kept. `GET /v1/cache` of the control API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheStatus {
    /// The owner's cap.
    pub max_bytes: u64,
    /// Bytes of all components, their code and the unfinished downloads.
    pub total_bytes: u64,
    /// Of these, the bytes of unfinished downloads.
    pub partial_bytes: u64,
    /// Bytes beside them that the next prune removes: code of other engines, what no image leads to, and downloads with which
    /// nobody went on for a week.
    pub other_bytes: u64,
    /// The components.
    pub components: Vec<Item>,
}

/// What to remove. `POST /v1/cache/prune` of the control API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PruneRequest {
    /// What is to be reached; none = the owner's cap.
    #[serde(default)]
    pub goal: Option<Goal>,
    /// Only tell.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// The components that are gone, or would be.
    pub removed: Vec<Item>,
    /// Those that the goal would have gone, and that stay because they are in use.
    pub in_use: Vec<Item>,
    /// Bytes that this gave, or would give, what is no component included.
    pub freed_bytes: u64,
    /// Bytes of the components, their code and the unfinished downloads that stay.
    pub total_bytes: u64,
    /// Nothing was removed: it was asked what would be.
    pub dry_run: bool,
}

/// Lists and removes what is kept; one at a time.
pub struct Collector {
    caches: Caches,
    /// What is to stay. Empty: no deployment is in force, so nothing is removed unless somebody asks for it.
    wanted: Mutex<Vec<Arc<Deployment>>>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Collector")
    }
}

impl Collector {
    pub(crate) fn new(caches: Caches) -> Self {
        Self { caches, wanted: Mutex::default() }
    }

    /// For a data folder on which no host runs: what the stored deployment names stays, and what would take its place.
    ///
    /// # Errors
    /// There is a stored deployment, but it cannot be read: nobody knows then what it needs.
    pub fn of_stored(
        caches: Caches,
        documents: &dyn Documents,
        check_image: fn(&str) -> Result<(), String>,
    ) -> Result<Self, ReadError> {
        let deployments = read_stored(documents, check_image)?;
        Ok(Self { caches, wanted: Mutex::new(deployments.into_iter().map(Arc::new).collect()) })
    }

    /// From now on the images of these deployments stay.
    pub(crate) async fn want(&self, deployments: Vec<Arc<Deployment>>) {
        *self.wanted.lock().await = deployments;
    }

    /// What is kept. `running`: modules with the components that they run or are about to.
    ///
    /// # Errors
    /// A cache cannot be read.
    pub async fn status(&self, running: &[(ModuleName, String)]) -> Result<CacheStatus, CacheError> {
        let wanted = self.wanted.lock().await;
        let inventory = self.inventory(&wanted, running).await?;
        Ok(CacheStatus {
            max_bytes: self.caches.max_bytes,
            total_bytes: inventory.bytes(),
            partial_bytes: inventory.part_bytes(),
            other_bytes: inventory.waste_bytes,
            components: inventory.items,
        })
    }

    /// Removes what the request wants gone and nobody needs, and what is of no use to anybody.
    ///
    /// # Errors
    /// A cache cannot be read or changed; some may have been removed.
    pub async fn prune(&self, request: PruneRequest, running: &[(ModuleName, String)]) -> Result<Pruned, CacheError> {
        // Held to the end: no other deployment comes in force meanwhile.
        let wanted = self.wanted.lock().await;
        self.carry_out(&wanted, request, running).await
    }

    /// What the host does by itself: the cap is kept, with room for `room` bytes more.
    pub(crate) async fn collect(&self, room: u64) {
        let wanted = self.wanted.lock().await;
        if wanted.is_empty() {
            return;
        }
        let most = self.caches.max_bytes.saturating_sub(room);
        let request = PruneRequest { goal: Some(Goal::MaxBytes(most)), dry_run: false };
        match self.carry_out(&wanted, request, &[]).await {
            Ok(pruned) => tell(&pruned, most),
            Err(error) => tracing::warn!(%error, "the caches cannot be cleaned up"),
        }
    }

    async fn carry_out(
        &self,
        wanted: &[Arc<Deployment>],
        request: PruneRequest,
        running: &[(ModuleName, String)],
    ) -> Result<Pruned, CacheError> {
        let before = self.inventory(wanted, running).await?;
        let plan = plan(&before, request.goal.unwrap_or(Goal::MaxBytes(self.caches.max_bytes)));
        let items = |digests: &[String]| {
            let find = |digest: &String| before.items.iter().find(|item| item.component == *digest).cloned();
            digests.iter().filter_map(find).collect::<Vec<_>>()
        };
        let (removed, in_use) = (items(&plan.remove), items(&plan.in_use));
        if request.dry_run {
            let parts = before.parts.iter().filter(|part| plan.remove_parts.contains(&part.digest));
            let gone = removed.iter().map(Item::bytes).chain(parts.map(|part| part.bytes)).sum::<u64>();
            let (freed_bytes, total_bytes) = (gone + before.waste_bytes, before.bytes().saturating_sub(gone));
            return Ok(Pruned { removed, in_use, freed_bytes, total_bytes, dry_run: true });
        }
        // Components first: code without one is waste, which the next look finds.
        self.caches.components.remove_components(plan.remove).await?;
        self.caches.components.remove_parts(plan.remove_parts).await?;
        let after = self.inventory(wanted, running).await?;
        self.caches.code.remove_code(after.waste).await?;
        let after = self.inventory(wanted, running).await?;
        // What began to be used in the meantime has stayed.
        let (stayed, removed): (Vec<Item>, Vec<Item>) =
            removed.into_iter().partition(|item| after.items.iter().any(|left| left.component == item.component));
        let all = |inventory: &Inventory| inventory.bytes() + inventory.waste_bytes;
        let freed_bytes = all(&before).saturating_sub(all(&after));
        let in_use = in_use.into_iter().chain(stayed).collect();
        Ok(Pruned { removed, in_use, freed_bytes, total_bytes: after.bytes(), dry_run: false })
    }

    /// Both caches together.
    async fn inventory(
        &self,
        wanted: &[Arc<Deployment>],
        running: &[(ModuleName, String)],
    ) -> Result<Inventory, CacheError> {
        let specs = || wanted.iter().flat_map(|deployment| deployment.modules.values());
        let kept = self.caches.components.components(specs().map(|spec| spec.image.clone()).collect()).await?;
        let mut modules = running.to_vec();
        for component in &kept.components {
            let named = specs().filter(|spec| component.named.contains(&spec.image));
            modules.extend(named.map(|spec| (spec.name.clone(), component.digest.clone())));
        }
        Ok(Inventory::new(kept, self.caches.code.code().await?, &modules))
    }
}

impl Room for Collector {
    fn make(&self, bytes: u64) -> BoxFuture<'_, ()> {
        Box::pin(self.collect(bytes))
    }
}

fn tell(pruned: &Pruned, most: u64) {
    for item in &pruned.removed {
        let (component, images) = (&item.component, item.images.join(", "));
        tracing::info!(component, images, bytes = item.bytes(), "removed from the cache");
    }
    if pruned.total_bytes > most {
        let total = pruned.total_bytes;
        tracing::warn!(total, most, "what is in use takes more than `cache.max-bytes`, with room for what is fetched");
    }
}
