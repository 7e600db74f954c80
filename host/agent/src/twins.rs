//! The twins of all modules: read without waiting, changed one at a time, stored before a change is answered.
//!
//! What a change means is `core::twin`'s.

mod notices;
mod numbers;
mod sync;
mod told;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{
    name::ModuleName,
    ports::{DocumentError, Documents, ReportError, TwinAck, TwinDocument},
    time::UtcMillis,
    twin::{CloudPatch, CloudTwin, Merged, ReadError, Twin, TwinFaults, read_patch},
};
use serde_json::{Map, Value};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

pub(crate) use self::{
    notices::Notices,
    numbers::TwinNumbers,
    sync::{EVENTS, SyncTask, Unsent},
    told::{Told, Watch},
};
use crate::{clock::Clock, doorbell::Doorbell};

/// All twins by module name.
pub(crate) struct Twins {
    documents: Arc<dyn Documents>,
    clock: Clock,
    /// None: changes are told to nobody.
    notices: Option<Arc<Notices>>,
    cells: Mutex<BTreeMap<ModuleName, Arc<TwinCell>>>,
    unsent: Arc<Unsent>,
    deployed: Mutex<Vec<ModuleName>>,
}

/// One module's twin.
pub(crate) struct TwinCell {
    module: ModuleName,
    document_name: String,
    clock: Clock,
    notices: Option<Arc<Notices>>,
    unsent: Arc<Unsent>,
    documents: Arc<dyn Documents>,
    current: Mutex<Arc<Twin>>,
    /// What was noted in it since it was stored: nothing that a kill may not take.
    unstored: AtomicBool,
    /// So that a running module sees a change without taking the lock.
    desired_version: AtomicU64,
    /// One writer at a time, from the change to the disk.
    writer: Arc<tokio::sync::Mutex<()>>,
    bell: Mutex<Option<Arc<Doorbell>>>,
    /// Wakes those who watch it from outside.
    changed: watch::Sender<()>,
    /// One report at a time, each not too soon after the one before: when that was.
    reports: tokio::sync::Mutex<Option<Instant>>,
    counts: numbers::Counts,
}

/// Which twin is news to somebody; every one by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TwinQuery {
    /// The version of the desired properties that is known already; none = not compared.
    pub desired: Option<u64>,
    /// The version of the reported properties that is known already; none = not compared.
    pub reported: Option<u64>,
    /// How long to wait until there is news. Zero: not at all.
    pub wait: Duration,
}

impl TwinQuery {
    /// Whether a twin differs from what is known. Without a word about what is known, every twin is news.
    fn is_news(&self, twin: &Twin) -> bool {
        let other = |known: Option<u64>, now| known.is_some_and(|known| known != now);
        (self.desired.is_none() && self.reported.is_none())
            || other(self.desired, twin.desired_version())
            || other(self.reported, twin.reported_version())
    }
}

/// Shortest time between two reports of a module. Each is written and synced to flash; ten a second is much for a property
/// that people read, and a module in an endless loop gets no more.
const BETWEEN_REPORTS: Duration = Duration::from_millis(100);

/// Why a twin could not be changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TwinError {
    /// Not a JSON object.
    #[error("a patch must be a JSON object: {0}")]
    NotAnObject(String),
    /// Breaks a limit of twins.
    #[error("{0}")]
    Limit(#[from] TwinFaults),
    /// Could not be stored; nothing has changed.
    #[error("cannot store the twin: {0}")]
    Store(#[from] DocumentError),
}

impl From<TwinError> for ReportError {
    fn from(error: TwinError) -> Self {
        match error {
            TwinError::Store(error) => Self::Other(error.to_string()),
            error => Self::Invalid(error.to_string()),
        }
    }
}

impl Twins {
    pub(crate) fn new(documents: Arc<dyn Documents>, clock: Clock, notices: Option<Notices>) -> Self {
        Self {
            documents,
            clock,
            notices: notices.map(Arc::new),
            cells: Mutex::default(),
            unsent: Arc::default(),
            deployed: Mutex::default(),
        }
    }

    /// The twin of a module, read from disk the first time; a missing one begins empty.
    ///
    /// # Errors
    /// It cannot be read. Nothing is remembered: the next call tries again.
    pub(crate) async fn cell(&self, module: &ModuleName) -> Result<Arc<TwinCell>, DocumentError> {
        if let Some(cell) = self.cells.lock().unwrap_or_else(PoisonError::into_inner).get(module) {
            return Ok(cell.clone());
        }
        let document_name = format!("twin-{module}");
        let (documents, name) = (self.documents.clone(), document_name.clone());
        let stored = blocking(move || documents.read(&name)).await?;
        let mut twin = Twin::new();
        let mut is_recovered = false;
        if let Some(stored) = stored {
            // Never begun anew by itself: it may be readable later, or by the version that wrote it.
            twin = Twin::from_bytes(&stored.bytes).map_err(|error| {
                DocumentError::Failed(format!(
                    "document `{document_name}` is not a twin that this version can read ({error}); move its file away \
                     to begin with an empty twin"
                ))
            })?;
            if let Some(reason) = stored.recovered {
                tracing::warn!(%module, reason, "the twin was damaged; going on with its previous generation");
                twin.follow_on_lost();
                is_recovered = true;
            }
        }
        let cell = Arc::new(TwinCell {
            module: module.clone(),
            document_name,
            clock: self.clock,
            notices: self.notices.clone(),
            unsent: self.unsent.clone(),
            documents: self.documents.clone(),
            desired_version: AtomicU64::new(twin.desired_version()),
            current: Mutex::new(Arc::new(twin)),
            unstored: AtomicBool::new(false),
            writer: Arc::default(),
            bell: Mutex::default(),
            changed: watch::Sender::default(),
            reports: tokio::sync::Mutex::default(),
            counts: numbers::Counts::default(),
        });
        // Two that came at once: the first one in stays.
        let cell = {
            let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
            cells.entry(module.clone()).or_insert(cell).clone()
        };
        if is_recovered {
            cell.unstored.store(true, SeqCst);
            // At once: the next damage must find these versions, not those before.
            if let Err(error) = cell.flush().await {
                tracing::warn!(%module, %error, "the twin that was damaged could not be stored");
            }
        }
        Ok(cell)
    }

    /// Whether the twin of a module has this section of a deployment; without one, whether it can be read.
    pub(crate) async fn has_section(&self, module: &ModuleName, section: Option<&Map<String, Value>>) -> bool {
        let cell = self.cell(module).await;
        cell.is_ok_and(|cell| section.is_none_or(|section| cell.twin().manifest_section() == Some(section)))
    }

    /// Those of the deployment in force.
    pub(crate) fn deployed(&self) -> Vec<ModuleName> {
        self.deployed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn unsent(&self) -> &Arc<Unsent> {
        &self.unsent
    }

    /// Their deployment is in force.
    pub(crate) fn deploy(&self, modules: Vec<ModuleName>) {
        self.deployed.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&modules);
        self.unsent.deploy(modules);
    }

    /// Tells of what the last run of the host did not come to tell of. It may wait for room.
    pub(crate) async fn tell_of(&self, modules: &[ModuleName]) {
        for module in modules {
            match self.cell(module).await {
                Ok(cell) => {
                    if cell.twin().unreported().is_some() {
                        self.unsent.add(module);
                    }
                    let _one_report = cell.reports.lock().await;
                    cell.tell().await;
                }
                Err(error) => tracing::warn!(%module, %error, "the twin cannot be read"),
            }
        }
    }

    /// Stores what is noted alone: at a clean stop, so that the next start repeats nothing.
    pub(crate) async fn flush(&self) {
        let cells: Vec<_> = self.cells.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for cell in cells {
            if let Err(error) = cell.flush().await {
                tracing::warn!(module = %cell.module, %error, "the twin could not be stored; the next start tells some of its changes again");
            }
        }
    }
}

impl TwinCell {
    pub(crate) fn twin(&self) -> Arc<Twin> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The twin once it is news, or as it is when the wait is over. What changes meanwhile is coalesced: the versions tell.
    pub(crate) async fn news(&self, query: &TwinQuery) -> Arc<Twin> {
        let deadline = Instant::now() + query.wait;
        let mut changed = self.changed.subscribe();
        loop {
            let twin = self.twin();
            // What changed since the subscription counts as a change: nothing is missed.
            if query.is_news(&twin)
                || query.wait.is_zero()
                || tokio::time::timeout_at(deadline, changed.changed()).await.is_err()
            {
                return twin;
            }
        }
    }

    pub(crate) fn desired(&self) -> TwinDocument {
        let twin = self.twin();
        TwinDocument { json: text(twin.desired()), version: twin.desired_version() }
    }

    pub(crate) fn reported(&self) -> TwinDocument {
        let twin = self.twin();
        TwinDocument { json: text(twin.reported()), version: twin.reported_version() }
    }

    pub(crate) fn desired_version(&self) -> u64 {
        self.desired_version.load(SeqCst)
    }

    /// Rings this bell at each change of the desired properties.
    pub(crate) fn ring_at_change(&self, bell: Arc<Doorbell>) {
        *self.bell.lock().unwrap_or_else(PoisonError::into_inner) = Some(bell);
    }

    /// Merges a patch from the guest; stored, and told of, when it returns. A guest that reports without end waits for its turn.
    pub(crate) async fn report(self: &Arc<Self>, merge_patch_json: String) -> Result<u64, ReportError> {
        let cell = self.clone();
        // A task: an instance that ends meanwhile must not leave what is stored untold.
        let reporting = tokio::spawn(async move {
            let mut turn = cell.report_turn().await;
            let result = cell.report_json(&merge_patch_json).await;
            *turn = Some(Instant::now());
            result
        });
        match reporting.await {
            Ok(result) => result,
            Err(error) => Err(ReportError::Other(format!("the report failed: {error}"))),
        }
    }

    /// Waits until it may report again.
    async fn report_turn(&self) -> tokio::sync::MutexGuard<'_, Option<Instant>> {
        let last = self.reports.lock().await;
        if let Some(last) = *last {
            tokio::time::sleep_until(last + BETWEEN_REPORTS).await;
        }
        last
    }

    async fn report_json(self: &Arc<Self>, merge_patch_json: &str) -> Result<u64, ReportError> {
        let patch = parse_object(merge_patch_json).map_err(|error| ReportError::Invalid(error.to_string()))?;
        Ok(self.change_reported(move |twin, now| twin.report(&patch, now).map(|_| patch)).await?)
    }

    /// A handler's answer to a change of its desired properties: one a change, at once, since its messages wait for it.
    pub(crate) async fn answer(self: &Arc<Self>, ack: &TwinAck, version: u64) -> Result<u64, TwinError> {
        self.keep_ack(ack, version, false).await
    }

    /// A program's answer, of which there may be any number: waits for its turn as a report does.
    pub(crate) async fn acknowledge(self: &Arc<Self>, ack: &TwinAck, version: u64) -> Result<u64, TwinError> {
        self.keep_ack(ack, version, true).await
    }

    async fn keep_ack(self: &Arc<Self>, ack: &TwinAck, version: u64, in_turn: bool) -> Result<u64, TwinError> {
        let (cell, ack) = (self.clone(), ack.clone());
        // A task: as above.
        let reporting = tokio::spawn(async move {
            let mut turn = if in_turn { cell.report_turn().await } else { cell.reports.lock().await };
            let result = cell.change_reported(move |twin, now| twin.answer(&ack, version, now)).await;
            if in_turn {
                *turn = Some(Instant::now());
            }
            result
        });
        reporting.await.unwrap_or_else(|error| Err(DocumentError::Failed(format!("the report failed: {error}")).into()))
    }

    /// One at a time. `merge` returns the patch.
    async fn change_reported(
        self: &Arc<Self>,
        merge: impl FnOnce(&mut Twin, UtcMillis) -> Result<Map<String, Value>, TwinFaults>,
    ) -> Result<u64, TwinError> {
        self.tell().await; // what is not told yet is not to be overtaken
        let is_told = self.notices.as_ref().is_some_and(|notices| notices.are_wanted());
        let begun = self.clock.uptime();
        let version = self
            .change(move |twin, now| {
                let before = twin.reported_version();
                let patch = merge(twin, now)?;
                let version = twin.reported_version();
                if is_told && version != before {
                    twin.keep_notice(patch, now);
                }
                Ok(version)
            })
            .await?;
        self.counts.note_stored(self.clock.uptime().since(begun));
        self.tell().await;
        Ok(version)
    }

    /// Sends the message of the last change, if that was not done yet.
    async fn tell(&self) {
        let twin = self.twin();
        let (Some(notices), Some(notice)) = (&self.notices, twin.notice()) else { return };
        if notices.send(&self.module, notice).await {
            self.note(|twin| twin.told(notice.version)).await;
        }
    }

    /// Changes it without storing it: what it costs to repeat is less than a write to flash. The next write has it.
    async fn note(&self, change: impl FnOnce(&mut Twin)) {
        let _one_writer = self.writer.lock().await;
        let mut new = Twin::clone(&self.twin());
        change(&mut new);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        self.unstored.store(true, SeqCst);
    }

    /// Stores what was noted.
    async fn flush(self: &Arc<Self>) -> Result<(), DocumentError> {
        let turn = self.writer.clone().lock_owned().await;
        if self.unstored.load(SeqCst) {
            self.write(self.twin(), turn).await?;
        }
        Ok(())
    }

    /// Merges a patch into the desired properties (`twin set`) and returns their version.
    pub(crate) async fn set_desired(self: &Arc<Self>, merge_patch_json: &str) -> Result<u64, TwinError> {
        let patch = parse_object(merge_patch_json)?;
        self.change(move |twin, now| {
            twin.set_desired(&patch, now)?;
            Ok(twin.desired_version())
        })
        .await
    }

    /// Applies the section of a deployment, if it has one; a rollback to `back_to` first takes back what the sections since then did.
    /// `good`: the last version before it that was good; 0 = none.
    pub(crate) async fn apply_section(
        self: &Arc<Self>,
        section: Option<Map<String, Value>>,
        deployment_version: u64,
        back_to: Option<u64>,
        good: u64,
    ) -> Result<(), TwinError> {
        self.change(move |twin, now| {
            if let Some(to) = back_to {
                twin.restore_replaced(to, deployment_version, now);
            }
            if section.is_some() && section.as_ref() != twin.manifest_section() {
                twin.forget_replaced(good);
            }
            twin.apply_manifest_section(section.as_ref(), deployment_version, now);
            Ok(())
        })
        .await
    }

    /// Merges a change that was made in the cloud.
    pub(crate) async fn merge_cloud_patch(self: &Arc<Self>, change: CloudPatch) -> Result<Merged, TwinError> {
        self.change(move |twin, now| {
            let local = twin.local_changes();
            let merged = twin.merge_cloud_patch(&change, now)?;
            self.tell_lost(merged == Merged::InForce, &local);
            Ok(merged)
        })
        .await
    }

    /// Takes the cloud's whole twin.
    pub(crate) async fn take_cloud_twin(self: &Arc<Self>, cloud: CloudTwin) -> Result<(), TwinError> {
        self.change(move |twin, now| {
            let local = twin.local_changes();
            let taken = twin.take_cloud_twin(&cloud, now)?;
            self.tell_lost(taken, &local);
            Ok(())
        })
        .await
    }

    fn tell_lost(&self, taken: bool, local: &Map<String, Value>) {
        if taken && !local.is_empty() {
            let (module, changes) = (&self.module, text(local));
            tracing::warn!(%module, changes, "the cloud has changed the desired properties; what was changed here is undone");
        }
    }

    /// Changes a copy, stores it, then puts it in force: a change that cannot be stored has not happened.
    async fn change<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Twin, UtcMillis) -> Result<T, TwinError>,
    ) -> Result<T, TwinError> {
        let turn = self.writer.clone().lock_owned().await;
        let old = self.twin();
        let mut new = Twin::clone(&old);
        let result = change(&mut new, self.clock.utc())?;
        if new != *old {
            self.write(Arc::new(new), turn).await?;
        }
        Ok(result)
    }

    /// Stores a twin and puts it in force. In a task that has the turn: a caller who goes away amid it must not leave what is stored and what
    /// is in force different, nor let the next write overtake this one.
    async fn write(
        self: &Arc<Self>,
        new: Arc<Twin>,
        turn: tokio::sync::OwnedMutexGuard<()>,
    ) -> Result<(), DocumentError> {
        let cell = self.clone();
        let writing = tokio::spawn(async move {
            let _turn = turn;
            let (documents, name, bytes) = (cell.documents.clone(), cell.document_name.clone(), new.to_bytes());
            blocking(move || documents.write(&name, &bytes)).await?;
            cell.unstored.store(false, SeqCst);
            cell.put_in_force(new);
            Ok(())
        });
        writing.await.unwrap_or_else(|error| Err(DocumentError::Failed(format!("the write failed: {error}"))))
    }

    fn put_in_force(&self, new: Arc<Twin>) {
        let (desired_version, reported_version) = (new.desired_version(), new.reported_version());
        let old = std::mem::replace(&mut *self.current.lock().unwrap_or_else(PoisonError::into_inner), new);
        self.changed.send_replace(());
        if reported_version != old.reported_version() {
            self.unsent.add(&self.module);
        }
        if desired_version != old.desired_version() {
            self.desired_version.store(desired_version, SeqCst);
            if let Some(bell) = &*self.bell.lock().unwrap_or_else(PoisonError::into_inner) {
                bell.ring();
            }
        }
    }
}

fn parse_object(json: &str) -> Result<Map<String, Value>, TwinError> {
    read_patch(json).map_err(|error| match error {
        ReadError::NotAnObject(why) => TwinError::NotAnObject(why),
        ReadError::Limit(faults) => TwinError::Limit(faults),
    })
}

fn text(map: &Map<String, Value>) -> String {
    serde_json::to_string(map).unwrap_or_else(|_| "{}".into())
}

/// Disk work under way at once. The documents come one after another anyway: without this bound, the twins of a thousand
/// modules that start would take some hundred threads that wait for each other.
static DISK: Semaphore = Semaphore::const_new(4);

/// Runs disk work on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DocumentError> + Send + 'static,
) -> Result<T, DocumentError> {
    let permit = DISK.acquire().await; // nobody closes it
    let work = move || {
        let _permit = permit; // for as long as the work takes, whoever waits for it
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(DocumentError::Failed(format!("the disk task failed: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use marram_core::ports::StoredDocument;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// A disk that forgets.
    pub(super) struct NoDisk;

    impl Documents for NoDisk {
        fn read(&self, _: &str) -> Result<Option<StoredDocument>, DocumentError> {
            Ok(None)
        }

        fn write(&self, _: &str, _: &[u8]) -> Result<(), DocumentError> {
            Ok(())
        }

        fn names(&self, _: &str) -> Result<Vec<String>, DocumentError> {
            Ok(Vec::new())
        }

        fn remove(&self, _: &str) -> Result<(), DocumentError> {
            Ok(())
        }
    }

    async fn cell() -> Arc<TwinCell> {
        Twins::new(Arc::new(NoDisk), Clock::start(), None).cell(&ModuleName::new("m").unwrap()).await.unwrap()
    }

    fn versions(twin: &Arc<Twin>) -> (u64, u64) {
        (twin.desired_version(), twin.reported_version())
    }

    #[tokio::test]
    async fn what_is_not_known_is_told_at_once_and_several_changes_as_one() {
        let cell = cell().await;
        let known = |desired, reported| TwinQuery { desired, reported, wait: LONG };
        assert_eq!(versions(&cell.news(&known(None, None)).await), (1, 1));
        cell.set_desired(r#"{"a":1}"#).await.unwrap();
        cell.set_desired(r#"{"a":2}"#).await.unwrap();
        assert_eq!(versions(&cell.news(&known(Some(1), Some(1))).await), (3, 1));
        assert_eq!(versions(&cell.news(&known(None, Some(9))).await), (3, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn reports_and_answers_come_at_most_ten_times_a_second() {
        let cell = cell().await;
        let start = Instant::now();
        for n in 0..10 {
            let ack = TwinAck { code: 200, description: n.to_string() };
            cell.acknowledge(&ack, 1).await.unwrap();
            cell.report(format!(r#"{{"n":{n}}}"#)).await.unwrap();
        }
        assert_eq!(versions(&cell.twin()).1, 21, "each of them is kept");
        assert!(start.elapsed() >= BETWEEN_REPORTS * 19, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_the_next_change_or_with_its_time() {
        let cell = cell().await;
        let query = TwinQuery { desired: Some(1), reported: Some(1), wait: LONG };
        let start = Instant::now();
        assert_eq!(versions(&cell.news(&query).await), (1, 1));
        assert_eq!(start.elapsed(), LONG);

        let watched = cell.clone();
        let answer = tokio::spawn(async move { versions(&watched.news(&query).await) });
        // One that changes nothing wakes nobody for good.
        cell.report("{}".into()).await.unwrap();
        cell.report(r#"{"seen":1}"#.into()).await.unwrap();
        assert_eq!(answer.await.unwrap(), (1, 2));
    }
}
