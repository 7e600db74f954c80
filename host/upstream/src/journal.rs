//! [`Journal`]: the writer in its thread, behind the [`Upstream`] trait. Decides nothing about files.

use std::{
    fs::{DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use marram_core::ports::{BoxFuture, Outgoing, Upstream, UpstreamError};
use tokio::sync::oneshot;

use crate::{
    disk::{Disk, RealDisk},
    writer::Writer,
};

/// Requests that wait for the thread. One publisher has one in flight; more than one are left by dropped futures, and
/// eight of those say that the disk hangs: then publishing fails at once instead of piling messages up.
const MAX_WAITING: usize = 8;

/// Deepest is the check of a JSON body, 100 levels; twice what that takes in an unoptimised build.
const STACK_BYTES: usize = 512 * 1024;

/// Where the journal is written, how much of it is kept, and when it is synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder of the files; made (owner-only) when there is none.
    pub folder: PathBuf,
    /// A file that would grow beyond this many bytes ends, and the next one begins. A single line larger than this gets a
    /// file of its own.
    pub max_file_bytes: u64,
    /// Most files; the oldest is deleted, and its messages counted in the log, before one more begins. At least 1.
    pub max_files: usize,
    /// When lines become safe against loss of power.
    pub sync: SyncPolicy,
}

impl Settings {
    /// The defaults: 8 files of 8 MiB (a reader or an upload takes one at a time; all of them fit the smallest device),
    /// synced after 1 MiB or 5 s.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            max_file_bytes: 8 * 1024 * 1024,
            max_files: 8,
            sync: SyncPolicy::Window { bytes: 1024 * 1024, interval: Duration::from_secs(5) },
        }
    }
}

/// When lines become safe against loss of power. Against a killed process they are safe as soon as `publish` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Once this much is unsynced, or for this long; whichever comes first. Each sync costs flash about 17 KiB of the file
    /// system's own writing, whatever the lines weigh.
    Window {
        /// Unsynced bytes.
        bytes: u64,
        /// Age of the oldest unsynced line.
        interval: Duration,
    },
    /// Before `publish` returns. Wears flash with each batch.
    EachBatch,
    /// When a file ends, at `flush`, and when the journal is dropped; else when the kernel likes (30 s is usual).
    OnFlush,
}

/// Why a journal could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another journal of this one, writes there.
    #[error("the journal in {} is in use by another process; stop it, or set another folder", .0.display())]
    InUse(PathBuf),
    /// The folder or its last file cannot be made, read, cut or locked.
    #[error("cannot open the journal in {}; it must be writable by this user", .folder.display())]
    Io {
        /// The journal's folder.
        folder: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
}

/// The embedded default upstream: one line of JSON a message, in files `journal-00000001.jsonl` and so on.
///
/// ```json
/// {"time":"2023-11-14T22:13:20.123Z","source":"/messages/modules/a/outputs/b","sequence":7,"properties":{"unit":"C"},
///  "systemProperties":{"contentType":"application/json"},"body":{"t":21.50}}
/// ```
/// (on one line). `time` is when the host accepted the message. `attempt` stands there when it is above 1,
/// `systemProperties` when one is set (`contentType`, `contentEncoding`, `messageId`, `correlationId`). The body is `body`,
/// as the sender wrote it less white space, when the message declares `application/json` in UTF-8 (or no encoding) and is
/// JSON that ordinary parsers take (at most 100 deep, no lone surrogates, numbers within a double); else `bodyText` when it
/// is UTF-8; else `bodyBase64`.
///
/// **Promises.** A message that `publish` took survives a kill of the process at once, and a loss of power as
/// [`SyncPolicy`] says; a reader finds whole lines only, apart from the growing end; order is kept; restarts go on in the
/// last file. A future that is dropped tears and loses nothing: its batch is written or not, before any later one, so
/// that messages which are offered again may stand there twice (at least once). A full disk makes `publish` fail, and
/// nothing else; it goes on when space returns.
///
/// Writing happens in a thread of its own: a slow card keeps no other task waiting. Dropping the journal waits until all
/// that was handed over is written and synced. Files may be read and copied at any time, and deleted, but for the last
/// one: what is written to it afterwards would be lost.
#[derive(Debug)]
pub struct Journal {
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

enum Request {
    Publish(Vec<Outgoing>, oneshot::Sender<Result<usize, UpstreamError>>),
    Flush(oneshot::Sender<Result<(), UpstreamError>>),
}

impl Journal {
    /// Opens the folder, cuts off what a crash left of a last line (and says so in the log), and starts the thread.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`]: the folder is in use or cannot be used.
    pub fn open(settings: Settings) -> Result<Self, OpenError> {
        let disk = Box::new(RealDisk { folder: settings.folder.clone() });
        Self::open_on(settings, disk)
    }

    pub(crate) fn open_on(settings: Settings, disk: Box<dyn Disk>) -> Result<Self, OpenError> {
        let folder = settings.folder.clone();
        let io = |source| OpenError::Io { folder: folder.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(io)?;
        let lock = lock(&folder)?;
        let writer = Writer::open(settings, disk).map_err(io)?;
        let (requests, received) = sync_channel(MAX_WAITING);
        let thread = thread::Builder::new()
            .name("marram-journal".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                run(writer, &received);
                drop(lock);
            })
            .map_err(io)?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    fn ask(&self, request: Request) -> Result<(), UpstreamError> {
        match self.requests.as_ref().map(|requests| requests.try_send(request)) {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err(UpstreamError("the journal's disk does not keep up".into())),
            Some(Err(TrySendError::Disconnected(_))) | None => Err(stopped()),
        }
    }
}

impl Upstream for Journal {
    fn publish<'a>(&'a self, batch: &'a [Outgoing]) -> BoxFuture<'a, Result<usize, UpstreamError>> {
        Box::pin(async move {
            if batch.is_empty() {
                return Ok(0);
            }
            let (reply, answer) = oneshot::channel();
            self.ask(Request::Publish(batch.to_vec(), reply))?; // two counts a message, no copy
            answer.await.map_err(|_| stopped())?
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), UpstreamError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.ask(Request::Flush(reply))?;
            answer.await.map_err(|_| stopped())?
        })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.requests = None; // the thread ends when it has done what waits
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the journal's thread had panicked");
        }
    }
}

fn stopped() -> UpstreamError {
    UpstreamError("the journal's thread has ended; restart the host".into())
}

fn lock(folder: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io { folder: folder.to_owned(), source };
    let file = File::open(folder).map_err(io)?; // the folder itself: no file that a reader would wonder about
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

/// The thread. An asker who has gone away is no reason to stop.
fn run(mut writer: Writer, requests: &Receiver<Request>) {
    loop {
        match next(requests, writer.sync_due()) {
            Ok(Request::Publish(batch, reply)) => {
                let _ = reply.send(writer.append(&batch, Instant::now()));
            }
            Ok(Request::Flush(reply)) => {
                let _ = reply.send(writer.flush());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        // Also under a steady stream of requests, in which no wait ever ends.
        if writer.sync_due().is_some_and(|due| due <= Instant::now()) {
            writer.sync_in_background();
        }
    }
    writer.sync_in_background();
}

fn next(requests: &Receiver<Request>, due: Option<Instant>) -> Result<Request, RecvTimeoutError> {
    match due {
        None => requests.recv().map_err(RecvTimeoutError::from),
        Some(due) => requests.recv_timeout(due.saturating_duration_since(Instant::now())),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        task::{Context, Waker},
    };

    use bytes::Bytes;
    use marram_core::{
        message::{Accepted, Message},
        time::UtcMillis,
    };

    use super::*;
    use crate::disk::LogFile;

    /// Tells of each sync; writes only while `gate` has passes.
    struct WatchedDisk {
        syncs: mpsc::Sender<()>,
        gate: Option<mpsc::Receiver<()>>,
    }

    struct WatchedFile {
        syncs: mpsc::Sender<()>,
        gate: Option<mpsc::Receiver<()>>,
    }

    impl Disk for WatchedDisk {
        fn open(&mut self, _: &Path) -> io::Result<Box<dyn LogFile>> {
            Ok(Box::new(WatchedFile { syncs: self.syncs.clone(), gate: self.gate.take() }))
        }

        fn remove(&mut self, _: &Path) -> io::Result<()> {
            Ok(())
        }

        fn sync_folder(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl LogFile for WatchedFile {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(gate) = &self.gate {
                let _ = gate.recv(); // a closed gate lets everything through
            }
            Ok(bytes.len())
        }

        fn truncate(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            let _ = self.syncs.send(());
            Ok(())
        }
    }

    fn batch() -> [Outgoing; 1] {
        let message = Arc::new(Message::new(Bytes::from_static(b"x")));
        let accepted = Accepted { message, source: "s".into(), sequence: 1, enqueued: UtcMillis(0) };
        [Outgoing { accepted, attempt: 1 }]
    }

    fn publish_now(journal: &Journal) -> Result<usize, UpstreamError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(journal.publish(&batch()))
    }

    #[test]
    fn the_thread_syncs_by_itself_when_the_interval_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let (syncs, synced) = mpsc::channel();
        let sync = SyncPolicy::Window { bytes: u64::MAX, interval: Duration::from_millis(1) };
        let settings = Settings { sync, ..Settings::new(folder.path()) };
        let journal = Journal::open_on(settings, Box::new(WatchedDisk { syncs, gate: None })).unwrap();
        for _ in 0..3 {
            publish_now(&journal).unwrap();
            synced.recv_timeout(Duration::from_secs(60)).unwrap();
        }
    }

    #[test]
    fn dropping_the_journal_syncs_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let (syncs, synced) = mpsc::channel();
        let settings = Settings { sync: SyncPolicy::OnFlush, ..Settings::new(folder.path()) };
        let journal = Journal::open_on(settings, Box::new(WatchedDisk { syncs, gate: None })).unwrap();
        publish_now(&journal).unwrap();
        assert!(synced.try_recv().is_err());
        drop(journal);
        assert!(synced.try_recv().is_ok());
    }

    #[test]
    fn a_disk_that_hangs_makes_publishing_fail_instead_of_piling_up() {
        let folder = tempfile::tempdir().unwrap();
        let (syncs, _synced) = mpsc::channel();
        let (open_gate, gate) = mpsc::channel();
        let disk = WatchedDisk { syncs, gate: Some(gate) };
        let journal = Journal::open_on(Settings::new(folder.path()), Box::new(disk)).unwrap();
        let batch = batch();
        let mut context = Context::from_waker(Waker::noop());
        // One is in the thread's hands, so there are between 8 and 9 places.
        let refused = (0..MAX_WAITING + 2).any(|_| journal.publish(&batch).as_mut().poll(&mut context).is_ready());
        drop(open_gate); // before the journal, which waits for its thread
        assert!(refused);
    }
}
