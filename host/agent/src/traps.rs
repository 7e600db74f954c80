//! Keeps what is known of instances that a trap, a limit or a deadline ended, over restarts of the host.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use marram_core::{
    allowance::Allowance,
    ports::{CoreDumps, DocumentError, Documents},
    traps::{CoreDump, Trap, Traps},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, task::JoinSet, time::Instant};

use crate::twins::blocking;

/// The name of the document.
const TRAPS: &str = "traps";

const FORMAT: u32 = 1;

/// Time that a write costs, on average. Each writes all that is kept, 128 KiB at the most: once a minute that is 180 MiB a day, a hundredth of what
/// would wear a cheap eMMC out in four years, however many modules trap in a loop.
const BETWEEN_WRITES: Duration = Duration::from_secs(60);
/// Writes at once, before that holds: those that come first tell most, and should be on the disk if the host ends by the same cause.
const BURST: u32 = 10;

/// Traps of one module. `GET /v1/modules/{module}/traps` of the control API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleTraps {
    /// The newest first.
    pub traps: Vec<Trap>,
}

/// Of any version.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct StoredTraps {
    format: u32,
    #[serde(flatten)]
    traps: Traps,
}

pub(crate) struct TrapKeeper {
    documents: Arc<dyn Documents>,
    /// None: there is no folder of core dumps.
    core_dumps: Option<Arc<dyn CoreDumps>>,
    /// Bodies of messages and payloads of calls are kept, too.
    bodies: bool,
    kept: Mutex<Kept>,
    writes: std::sync::Mutex<Writes>,
    /// What waits for the disk.
    tasks: std::sync::Mutex<JoinSet<()>>,
}

/// What is known of the traps.
#[derive(Default)]
struct Kept {
    traps: Traps,
    /// Those of the document are among them; before, it is not written.
    is_read: bool,
    /// Some of them are in memory alone.
    is_unstored: bool,
    /// Files of core dumps whose traps are not kept any more.
    gone: Vec<String>,
}

/// The traps that were kept cannot be read now, or not by this version. They stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrapsError {
    /// The disk, which may pass.
    #[error("the traps that were kept cannot be read: {0}")]
    Read(#[from] DocumentError),
    /// A newer version wrote them.
    #[error(
        "the traps that were kept are of a newer version of Marram (format {0}); move the file of document `{TRAPS}` away to begin anew"
    )]
    Newer(u32),
}

/// When what is kept may be written.
#[derive(Debug)]
struct Writes {
    allowance: Allowance,
    /// A write is to come, with all that is kept by then.
    is_due: bool,
}

impl Writes {
    /// One more trap wants to be written. Answers when; none: a write is to come anyway.
    fn ask(&mut self, now: Instant) -> Option<Instant> {
        if std::mem::replace(&mut self.is_due, true) {
            return None;
        }
        let at = self.allowance.next(now.into_std());
        self.allowance.take(1, now.into_std());
        Some(at.into())
    }
}

impl TrapKeeper {
    pub(crate) fn new(documents: Arc<dyn Documents>, core_dumps: Option<Arc<dyn CoreDumps>>, bodies: bool) -> Self {
        let writes = Writes { allowance: Allowance::new(BETWEEN_WRITES, BURST), is_due: false };
        let (kept, tasks) = (Mutex::default(), std::sync::Mutex::default());
        Self { documents, core_dumps, bodies, kept, writes: writes.into(), tasks }
    }

    /// Keeps one more, in a task of its own: it waits for the disk.
    pub(crate) fn keep_soon(self: &Arc<Self>, trap: Trap) {
        let keeper = self.clone();
        self.spawn(async move { keeper.keep(trap).await });
    }

    /// Removes a core dump whose trap is not kept, in a task of its own.
    pub(crate) fn forget_soon(self: &Arc<Self>, dump: CoreDump) {
        let keeper = self.clone();
        self.spawn(async move { keeper.remove(vec![dump.file]).await });
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }

    /// Keeps one more. What cannot be stored is kept in memory, and stored with the next. So is what comes too often, within a minute.
    async fn keep(self: &Arc<Self>, mut trap: Trap) {
        if let Some(during) = trap.during.as_mut().filter(|_| !self.bodies) {
            during.forget_bodies();
        }
        let has_dump = trap.core_dump.is_some();
        let mut kept = self.kept.lock().await;
        let gone = kept.traps.keep(trap);
        kept.gone.extend(gone);
        kept.is_unstored = true;
        let now = Instant::now();
        // One with a core dump is rare, and without it in the document nothing leads to the dump after a crash.
        let turn = if has_dump { Some(now) } else { self.writes().ask(now) };
        match turn {
            Some(at) if at > now => drop(tokio::spawn(store_at(at, Arc::downgrade(self)))),
            Some(_) => self.store_now(&mut kept).await,
            None => {}
        }
        // Last: a file to which nothing leads is found and removed, a trap whose file is gone was for nothing.
        self.remove(std::mem::take(&mut kept.gone)).await;
    }

    /// Waits for what is on its way, and stores what waits for its turn: before the host ends.
    pub(crate) async fn close(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
        self.flush().await;
    }

    /// Stores what waits for its turn.
    async fn flush(&self) {
        let mut kept = self.kept.lock().await;
        if kept.is_unstored {
            self.store_now(&mut kept).await;
            self.remove(std::mem::take(&mut kept.gone)).await;
        }
    }

    async fn store_now(&self, kept: &mut Kept) {
        self.writes().is_due = false;
        if let Err(error) = self.read(kept).await {
            tracing::warn!(%error, "the traps since then are kept in memory");
            return;
        }
        match self.store(&kept.traps).await {
            Ok(()) => kept.is_unstored = false,
            Err(error) => tracing::warn!(%error, "the traps cannot be stored"),
        }
    }

    fn writes(&self) -> std::sync::MutexGuard<'_, Writes> {
        self.writes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Those of a module, the newest first.
    pub(crate) async fn of(&self, module: &str) -> Result<ModuleTraps, TrapsError> {
        let of_module = {
            let mut kept = self.kept.lock().await;
            self.read(&mut kept).await?;
            kept.traps.of(module).cloned().collect()
        };
        Ok(ModuleTraps { traps: self.with_paths(of_module).await })
    }

    /// Core dumps with their paths; those that somebody removed are not told of.
    async fn with_paths(&self, mut traps: Vec<Trap>) -> Vec<Trap> {
        for trap in &mut traps {
            let Some(dump) = trap.core_dump.take() else { continue };
            let (core_dumps, file) = (self.core_dumps.clone(), dump.file.clone());
            let path = blocking(move || Ok(core_dumps.and_then(|core_dumps| core_dumps.path(&file)))).await;
            let shown = |path: PathBuf| CoreDump { file: path.display().to_string(), ..dump };
            trap.core_dump = path.ok().flatten().map(shown);
        }
        traps
    }

    async fn remove(&self, files: Vec<String>) {
        if let Some(core_dumps) = self.core_dumps.clone().filter(|_| !files.is_empty()) {
            let removed = blocking(move || {
                files.iter().for_each(|file| core_dumps.remove(file));
                Ok(())
            });
            told(removed.await);
        }
    }

    async fn keep_core_dumps(&self, kept: Vec<String>) {
        if let Some(core_dumps) = self.core_dumps.clone() {
            let removed = blocking(move || {
                core_dumps.keep_only(&kept.iter().map(String::as_str).collect::<Vec<_>>());
                Ok(())
            });
            told(removed.await);
        }
    }

    /// Reads the document, if that was not done yet, and puts what has come since after it. What cannot be read now is not begun anew: the
    /// next write would take its place.
    async fn read(&self, kept: &mut Kept) -> Result<(), TrapsError> {
        if kept.is_read {
            return Ok(());
        }
        let mut older = self.stored().await?;
        let with_dumps = older.core_dumps().chain(kept.traps.core_dumps()).map(str::to_owned).collect();
        kept.gone.extend(older.follow(std::mem::take(&mut kept.traps)));
        (kept.traps, kept.is_read) = (older, true);
        self.keep_core_dumps(with_dumps).await;
        Ok(())
    }

    async fn stored(&self) -> Result<Traps, TrapsError> {
        let documents = self.documents.clone();
        let document = match blocking(move || documents.read(TRAPS)).await {
            Ok(None) => return Ok(Traps::default()),
            Ok(Some(document)) => document,
            Err(DocumentError::Damaged(reason)) => return Ok(begun_anew(&reason)),
            Err(error) => return Err(error.into()),
        };
        if let Some(reason) = document.recovered {
            tracing::warn!(reason, "the traps that were kept were damaged; going on with those before");
        }
        let format = serde_json::from_slice(&document.bytes).map(|Format { format }| format);
        match (format, serde_json::from_slice::<StoredTraps>(&document.bytes)) {
            (Ok(newer), _) if newer > FORMAT => Err(TrapsError::Newer(newer)),
            (_, Ok(stored)) => Ok(stored.traps),
            (_, Err(error)) => Ok(begun_anew(&error.to_string())),
        }
    }

    async fn store(&self, traps: &Traps) -> Result<(), DocumentError> {
        let bytes = serde_json::to_vec(&StoredTraps { format: FORMAT, traps: traps.clone() });
        let bytes = bytes.map_err(|error| DocumentError::Failed(error.to_string()))?;
        let documents = self.documents.clone();
        blocking(move || documents.write(TRAPS, &bytes)).await
    }
}

fn begun_anew(reason: &str) -> Traps {
    tracing::error!(reason, "the traps that were kept are damaged; they begin anew");
    Traps::default()
}

fn told(removed: Result<(), DocumentError>) {
    if let Err(error) = removed {
        tracing::warn!(%error, "core dumps cannot be removed");
    }
}

async fn store_at(at: Instant, keeper: Weak<TrapKeeper>) {
    tokio::time::sleep_until(at).await;
    if let Some(keeper) = keeper.upgrade() {
        keeper.flush().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use marram_core::{name::ModuleName, ports::StoredDocument, time::UtcMillis};

    use super::*;

    /// The last document, and how many there were.
    #[derive(Default)]
    struct Disk {
        writes: AtomicU32,
        last: std::sync::Mutex<Vec<u8>>,
        /// Why it cannot be read.
        fault: std::sync::Mutex<Option<DocumentError>>,
    }

    impl Documents for Disk {
        fn read(&self, _: &str) -> Result<Option<StoredDocument>, DocumentError> {
            if let Some(fault) = self.fault.lock().unwrap().clone() {
                return Err(fault);
            }
            let bytes = self.last.lock().unwrap().clone();
            Ok((!bytes.is_empty()).then_some(StoredDocument { bytes, recovered: None }))
        }

        fn write(&self, _: &str, bytes: &[u8]) -> Result<(), DocumentError> {
            self.writes.fetch_add(1, SeqCst);
            *self.last.lock().unwrap() = bytes.into();
            Ok(())
        }

        fn names(&self, _: &str) -> Result<Vec<String>, DocumentError> {
            Ok(Vec::new())
        }

        fn remove(&self, _: &str) -> Result<(), DocumentError> {
            Ok(())
        }
    }

    fn trap(at: u64) -> Trap {
        Trap {
            module: ModuleName::new("m").unwrap(),
            at: UtcMillis(at),
            exit_code: 134,
            reason: String::new(),
            backtrace: Vec::new(),
            during: None,
            deployment: 1,
            image: "i".into(),
            digest: None,
            core_dump: None,
        }
    }

    async fn newest_on(disk: &Arc<Disk>) -> u64 {
        let next_life = TrapKeeper::new(disk.clone(), None, false);
        next_life.of("m").await.unwrap().traps[0].at.0
    }

    #[tokio::test(start_paused = true)]
    async fn modules_that_trap_without_end_write_once_a_minute_and_all_that_is_kept_is_stored_then() {
        let disk = Arc::new(Disk::default());
        let keeper = Arc::new(TrapKeeper::new(disk.clone(), None, false));
        for number in 0..u64::from(BURST) {
            keeper.keep(trap(number)).await;
            assert_eq!(newest_on(&disk).await, number, "the first ones at once");
        }
        for number in 1_000..1_600 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            keeper.keep(trap(number)).await;
        }
        let writes = disk.writes.load(SeqCst);
        assert!((BURST + 9..=BURST + 11).contains(&writes), "ten minutes, a trap each second: {writes} writes");
        keeper.flush().await;
        assert_eq!(newest_on(&disk).await, 1_599, "at a stop");
        let writes = disk.writes.load(SeqCst);
        keeper.flush().await;
        assert_eq!(disk.writes.load(SeqCst), writes, "nothing waits any more");

        keeper.keep(trap(2_000)).await;
        assert_eq!(newest_on(&disk).await, 1_599);
        tokio::time::sleep(BETWEEN_WRITES + Duration::from_secs(1)).await;
        assert_eq!(newest_on(&disk).await, 2_000, "nothing more came, and it is stored nevertheless");
    }
    fn keeper(disk: &Arc<Disk>) -> Arc<TrapKeeper> {
        Arc::new(TrapKeeper::new(disk.clone(), None, false))
    }

    async fn times(keeper: &TrapKeeper) -> Vec<u64> {
        keeper.of("m").await.unwrap().traps.iter().map(|trap| trap.at.0).collect()
    }

    #[tokio::test]
    async fn traps_that_cannot_be_read_for_a_while_are_not_overwritten() {
        let disk = Arc::new(Disk::default());
        keeper(&disk).keep(trap(1)).await;

        let fault = DocumentError::Failed("too many open files".into());
        *disk.fault.lock().unwrap() = Some(fault.clone());
        let next_life = keeper(&disk);
        assert_eq!(next_life.of("m").await, Err(TrapsError::Read(fault)), "not that there are none");
        next_life.keep(trap(2)).await;
        next_life.flush().await;
        *disk.fault.lock().unwrap() = None;
        assert_eq!(newest_on(&disk).await, 1);

        next_life.flush().await; // at a stop
        assert_eq!(times(&keeper(&disk)).await, [2, 1]);
        next_life.keep(trap(3)).await;
        assert_eq!((times(&next_life).await, times(&keeper(&disk)).await), (vec![3, 2, 1], vec![3, 2, 1]));
    }

    #[tokio::test]
    async fn traps_of_a_newer_version_are_left_to_it_and_damaged_ones_begin_anew() {
        let disk = Arc::new(Disk::default());
        let newer = br#"{"format":2,"traps":"of another form"}"#.to_vec();
        disk.last.lock().unwrap().clone_from(&newer);
        let older = keeper(&disk);
        older.keep(trap(1)).await;
        assert_eq!(older.of("m").await, Err(TrapsError::Newer(2)));
        assert_eq!(*disk.last.lock().unwrap(), newer);

        for damage in [None, Some(DocumentError::Damaged("no generation can be used".into()))] {
            *disk.last.lock().unwrap() = br#"{"format":1,"traps":7}"#.to_vec();
            *disk.fault.lock().unwrap() = damage;
            let keeper = keeper(&disk);
            keeper.keep(trap(5)).await;
            assert_eq!(times(&keeper).await, [5]);
            *disk.fault.lock().unwrap() = None;
            assert_eq!(newest_on(&disk).await, 5);
        }
    }

    #[tokio::test]
    async fn what_is_on_its_way_to_the_disk_at_a_stop_comes_there() {
        let disk = Arc::new(Disk::default());
        let keeper = keeper(&disk);
        keeper.keep_soon(trap(1));
        keeper.close().await;
        assert_eq!(newest_on(&disk).await, 1);
    }
}
