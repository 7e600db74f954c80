//! The deployment that `marram run FILE` names: given to the agent at start and whenever the file changes. A bad or missing
//! file changes nothing; it is told, with all its faults.

use std::{
    ffi::OsString,
    fs::Metadata,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use marram_agent::{Agent, Applied, ApplyError};
use marram_core::manifest::MAX_MANIFEST_BYTES;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::sleep};

use crate::{
    failure::{Code, Failure},
    input::read_bounded,
};

/// A file that has not changed for so long is complete: editors and copies write in pieces.
const QUIET: Duration = Duration::from_millis(150);
/// A file that changes all the time is read after so many pieces nevertheless: 3 s.
const MAX_PIECES: usize = 20;
/// How often the file is looked at without a notice: some file systems (NFS, FUSE) give none.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Follows one deployment file.
pub(super) struct Deployer {
    agent: Arc<Agent>,
    path: PathBuf,
    stamp: Option<Stamp>,
    seen: Option<Seen>,
    notices: mpsc::Receiver<()>,
    /// None: this file system or this kernel gives no notices.
    _watcher: Option<RecommendedWatcher>,
}

/// What the file held when it was read last.
#[derive(PartialEq, Eq)]
enum Seen {
    Text(String),
    Trouble(String),
}

/// What a change of a file changes, without reading it.
type Stamp = (SystemTime, u64);

impl Deployer {
    /// Puts the file in force.
    ///
    /// # Errors
    /// It is bad or cannot be read, and no stored deployment is in force in its place.
    pub(super) async fn begin(agent: Arc<Agent>, path: &Path) -> Result<Self, Failure> {
        let path = std::path::absolute(path)
            .map_err(|error| Failure::new(Code::Failed, format!("cannot read {}: {error}", path.display())))?;
        // Before the first reading, so that no change falls between.
        let (notice, notices) = mpsc::channel(1);
        let _watcher = watcher(&path, notice).inspect_err(no_notices).ok();
        let mut deployer = Self { agent, path, stamp: None, seen: None, notices, _watcher };
        match deployer.look().await {
            Some(Err(failure)) => {
                let stored = deployer.agent.status().await.map_or(0, |status| status.deployment_version);
                if stored == 0 {
                    return Err(failure);
                }
                report(Err(failure));
                tracing::warn!(version = stored, "the stored deployment goes on");
            }
            Some(done) => report(done),
            None => {}
        }
        Ok(deployer)
    }

    /// Applies each new version of the file, for ever.
    pub(super) async fn watch(mut self) {
        loop {
            tokio::select! {
                Some(()) = self.notices.recv() => settle(&mut self.notices).await,
                () = sleep(LOOK_INTERVAL) => if !self.has_new_stamp() { continue },
            }
            if let Some(result) = self.look().await {
                report(result);
            }
        }
    }

    fn has_new_stamp(&mut self) -> bool {
        let stamp = std::fs::metadata(&self.path).ok().map(|meta| stamp(&meta));
        let new = stamp != self.stamp;
        self.stamp = stamp;
        new
    }

    /// Reads the file and applies it if it is not what was seen last.
    async fn look(&mut self) -> Option<Result<Applied, Failure>> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await.unwrap_or_else(|_| Err("cannot read".into()));
        let seen = match read {
            Ok(text) => Seen::Text(text),
            Err(why) => Seen::Trouble(why),
        };
        if self.seen.as_ref() == Some(&seen) {
            return None;
        }
        let result = match &seen {
            Seen::Text(text) => self.agent.apply(text).await.map_err(|error| self.refusal(error)),
            Seen::Trouble(why) => {
                let message = format!("cannot read the deployment {}: {why}", self.path.display());
                Err(Failure::new(Code::Failed, message))
            }
        };
        self.seen = Some(seen);
        Some(result)
    }

    fn refusal(&self, error: ApplyError) -> Failure {
        match error {
            ApplyError::Bad(faults) => Failure::manifest(&self.path.display().to_string(), faults),
            error => Failure::failed(&error),
        }
    }
}

fn no_notices(error: &notify::Error) {
    let seconds = LOOK_INTERVAL.as_secs();
    tracing::warn!(%error, seconds, "no notices of file changes here; looking at the deployment regularly");
}

fn report(result: Result<Applied, Failure>) {
    match result {
        Ok(applied) => {
            tracing::info!(version = applied.version, changed = applied.changed, "deployment file read");
            applied.warnings.iter().for_each(|warning| tracing::warn!("deployment: {warning}"));
        }
        Err(failure) => {
            tracing::error!("{}; the deployment in force is unchanged", failure.message);
            for fault in &failure.faults {
                tracing::error!(hint = fault.hint, "fault: {fault}");
            }
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = read_bounded(path, MAX_MANIFEST_BYTES as u64).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "the file is gone".to_owned(),
        _ => error.to_string(),
    })?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".into())
}

fn stamp(meta: &Metadata) -> Stamp {
    (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len())
}

/// Watches the folder, not the file: editors put a new file in the place of the old one.
fn watcher(path: &Path, notice: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let name = path.file_name().map(OsString::from);
    // A link's target may change without a word about the link.
    let any = path.is_symlink();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let concerns = event.map_or(true, |event| {
            // Our own reading is an access too.
            !matches!(event.kind, EventKind::Access(_))
                && (any || event.need_rescan() || event.paths.iter().any(|path| path.file_name() == name.as_deref()))
        });
        if concerns {
            let _ = notice.try_send(()); // full: a notice waits already
        }
    })?;
    watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Waits until the file is quiet.
async fn settle(notices: &mut mpsc::Receiver<()>) {
    for _ in 0..MAX_PIECES {
        sleep(QUIET).await;
        if notices.try_recv().is_err() {
            return;
        }
    }
}
