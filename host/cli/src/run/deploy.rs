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
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    failure::{Code, Failure},
    input::read_regular,
};

/// A file that has not changed for so long is complete: editors and copies write in pieces.
const QUIET: Duration = Duration::from_millis(150);
/// A file that changes all the time is read after so many pieces nevertheless: 3 s.
const MAX_PIECES: usize = 20;
/// How often the file is looked at without a notice: some file systems (NFS, FUSE) give none.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// First wait before a file that could not be stored is tried again; doubled up to [`LAST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// A disk that was full is found to have room again within a minute, and its log has a line a minute.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Follows one deployment file.
pub(super) struct Deployer {
    path: PathBuf,
    stamp: Option<Stamp>,
    /// None: what was read last is still to be applied.
    seen: Option<Seen>,
    retry: Option<Retry>,
    notices: mpsc::Receiver<()>,
    /// None: this file system or this kernel gives no notices.
    _watcher: Option<RecommendedWatcher>,
}

/// What the file held when it was read last.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Text(String),
    Trouble(String),
}

/// Another try after something that may pass by itself.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    wait: Duration,
}

/// What a change of a file changes, without reading it.
type Stamp = (SystemTime, u64);

impl Deployer {
    /// Reads the file. It need not be there, nor be good.
    ///
    /// # Errors
    /// Its path has no meaning.
    pub(super) async fn open(path: &Path) -> Result<Self, Failure> {
        let path = std::path::absolute(path)
            .map_err(|error| Failure::new(Code::Failed, format!("cannot read {}: {error}", path.display())))?;
        let (notice, notices) = mpsc::channel(1);
        let followed = path.clone();
        let (_watcher, seen) = blocking(move || {
            // Before the first reading, so that no change falls between.
            let watcher = watcher(&followed, notice).inspect_err(no_notices).ok();
            (watcher, read(&followed))
        })
        .await?;
        Ok(Self { path, stamp: None, seen: Some(seen), retry: None, notices, _watcher })
    }

    /// The manifest to begin with.
    pub(super) fn text(&self) -> Option<String> {
        match &self.seen {
            Some(Seen::Text(text)) => Some(text.clone()),
            Some(Seen::Trouble(_)) | None => None,
        }
    }

    /// Tells what became of the first reading.
    ///
    /// # Errors
    /// The file is bad or cannot be read, and no stored deployment is in force in its place.
    pub(super) async fn began(&mut self, agent: &Agent) -> Result<(), Failure> {
        let failure = match (agent.initial(), &self.seen) {
            (Some(Ok(applied)), _) => {
                report(Ok(applied));
                return Ok(());
            }
            (Some(Err(error)), _) => {
                let failure = self.refusal(error);
                self.try_again_after(error);
                failure
            }
            (None, Some(Seen::Trouble(why))) => self.trouble(why),
            (None, _) => return Ok(()),
        };
        let stored = agent.status().await.map_or(0, |status| status.deployment_version);
        if stored == 0 {
            return Err(failure);
        }
        report(Err(&failure));
        if !matches!(agent.initial(), Some(Err(ApplyError::Twin { .. }))) {
            tracing::warn!(version = stored, "the stored deployment goes on");
        }
        Ok(())
    }

    /// Applies each new version of the file, for ever.
    pub(super) async fn watch(mut self, agent: Arc<Agent>) {
        loop {
            let retry = self.retry.map(|retry| retry.at);
            tokio::select! {
                Some(()) = self.notices.recv() => settle(&mut self.notices).await,
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
                () = sleep(LOOK_INTERVAL) => if !self.has_new_stamp().await { continue },
            }
            match self.look(&agent).await {
                Some(Ok(applied)) => report(Ok(&applied)),
                Some(Err(failure)) => report(Err(&failure)),
                None => {}
            }
        }
    }

    async fn has_new_stamp(&mut self) -> bool {
        let path = self.path.clone();
        let stamp = blocking(move || std::fs::metadata(&path).ok().map(|meta| stamp(&meta))).await.ok().flatten();
        let new = stamp != self.stamp;
        self.stamp = stamp;
        // A permission that comes back changes no stamp.
        new || matches!(self.seen, Some(Seen::Trouble(_)))
    }

    /// Reads the file and applies it if it is not what was seen last.
    async fn look(&mut self, agent: &Arc<Agent>) -> Option<Result<Applied, Failure>> {
        let path = self.path.clone();
        let seen = match blocking(move || read(&path)).await {
            Ok(seen) => seen,
            Err(failure) => return Some(Err(failure)),
        };
        if self.seen.as_ref() == Some(&seen) {
            return None;
        }
        self.seen = Some(seen.clone());
        match seen {
            Seen::Text(text) => match agent.apply_file(&text).await {
                Ok(applied) => {
                    self.retry = None;
                    Some(Ok(applied))
                }
                Err(error) => {
                    let failure = self.refusal(&error);
                    self.try_again_after(&error);
                    Some(Err(failure))
                }
            },
            Seen::Trouble(why) => {
                self.retry = None;
                Some(Err(self.trouble(&why)))
            }
        }
    }

    /// What was wrong with the document stays wrong; what was wrong with the disk may pass. What of an accepted one could not be stored the
    /// agent tries again, as long as that one is in force.
    fn try_again_after(&mut self, error: &ApplyError) {
        let may_pass = matches!(error, ApplyError::Store(_));
        let wait = self.retry.map_or(FIRST_RETRY, |last| (last.wait * 2).min(LAST_RETRY));
        self.retry = may_pass.then(|| Retry { at: Instant::now() + wait, wait });
        if may_pass {
            self.seen = None;
        }
    }

    fn refusal(&self, error: &ApplyError) -> Failure {
        match error {
            ApplyError::Bad(faults) => Failure::manifest(&self.path.display().to_string(), faults.clone()),
            error @ ApplyError::Twin { .. } => Failure::new(Code::InForce, error.to_string()),
            error => Failure::failed(error),
        }
    }

    fn trouble(&self, why: &str) -> Failure {
        Failure::new(Code::Failed, format!("cannot read the deployment {}: {why}", self.path.display()))
    }
}

/// Work that may wait for a disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::new(Code::Failed, format!("internal error while reading the deployment: {error}")))
}

fn no_notices(error: &notify::Error) {
    let seconds = LOOK_INTERVAL.as_secs();
    tracing::warn!(%error, seconds, "no notices of file changes here; looking at the deployment regularly");
}

fn report(result: Result<&Applied, &Failure>) {
    match result {
        Ok(applied) => {
            tracing::info!(version = applied.version, changed = applied.changed, "deployment file read");
            applied.warnings.iter().for_each(|warning| tracing::warn!("deployment: {warning}"));
        }
        Err(failure) => {
            // A twin that could not be stored is no refusal, and its message says so.
            let unchanged = if failure.is_in_force() { "" } else { "; the deployment in force is unchanged" };
            tracing::error!("{}{unchanged}", failure.message);
            for fault in &failure.faults {
                tracing::error!(hint = fault.hint, "fault: {fault}");
            }
        }
    }
}

fn read(path: &Path) -> Seen {
    let bytes = read_regular(path, MAX_MANIFEST_BYTES as u64).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => error.to_string(),
    });
    match bytes.map(String::from_utf8) {
        Ok(Ok(text)) => Seen::Text(text),
        Ok(Err(_)) => Seen::Trouble("it is not UTF-8".into()),
        Err(why) => Seen::Trouble(why),
    }
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

#[cfg(test)]
mod tests {
    use marram_agent::TwinError;
    use marram_core::{name::ModuleName, ports::DocumentError};

    use super::*;

    #[test]
    fn a_file_is_applied_again_only_if_it_was_not_accepted_for_the_disks_sake() {
        let text = || Some(Seen::Text("{}".into()));
        let (_notice, notices) = mpsc::channel(1);
        let mut deployer =
            Deployer { path: "f".into(), stamp: None, seen: text(), retry: None, notices, _watcher: None };
        let full = || DocumentError::Failed("no space left".into());
        // It is in force. Once it was rolled back for that, another try would only be rolled back as well.
        deployer.try_again_after(&ApplyError::Twin {
            module: ModuleName::new("m").expect("a name"),
            source: TwinError::Store(full()),
        });
        assert_eq!((&deployer.seen, deployer.retry.is_some()), (&text(), false));
        deployer.try_again_after(&ApplyError::Store(full()));
        assert_eq!((&deployer.seen, deployer.retry.is_some()), (&None, true));
    }
}
