//! The folder of core dumps: when one is written, and how it gets its place. Which ones stay is decided elsewhere
//! (`marram_core::traps`).
//!
//! A dump holds all that its module had in memory, secrets too: the folder is its owner's alone.

use std::{
    collections::HashMap,
    fs, io,
    io::{BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use marram_core::{
    name::ModuleName,
    ports::{CoreDumps, Exit},
    traps::CoreDump,
};
use wasmtime::{Store, WasmCoreDump};

use crate::{
    cache::{Temporary, check_private, remove_leftovers},
    core_dump::{About, EncodeError, Encoded},
    limits,
};

/// From one dump of a module and image to the next. A broken module is restarted every five minutes at the longest back-off:
/// a dump of each trap would wear the device's flash out and tell nothing new.
pub const MIN_INTERVAL: Duration = Duration::from_secs(3600);

/// Memory is written in steps of this size at the least.
const BUFFER: usize = 64 << 10;

/// The folder. One for each data folder.
pub struct DumpFolder {
    folder: PathBuf,
    /// Files of earlier runs.
    found: Mutex<Vec<String>>,
    number: AtomicU64,
    /// When the last dump of a module and image was begun.
    last: Mutex<HashMap<(ModuleName, String), Instant>>,
}

/// What the owner says of dumps: wanted, in this folder, each of so many bytes at the most.
#[derive(Clone)]
pub struct Dumps {
    /// Where.
    pub folder: Arc<DumpFolder>,
    /// Of each; the rest of the memories is left out.
    pub max_bytes: u64,
}

/// Writes the dump of one instance.
pub(crate) struct Dumper {
    pub(crate) dumps: Dumps,
    pub(crate) module: ModuleName,
    pub(crate) image: String,
}

#[derive(Debug, thiserror::Error)]
enum DumpError {
    #[error("it would take {}, more than half of the {} that the disk has free", limits::bytes(*needed), limits::bytes(*free))]
    NoRoom { needed: u64, free: u64 },
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl From<io::Error> for DumpError {
    fn from(error: io::Error) -> Self {
        Self::Encode(error.into())
    }
}

impl DumpFolder {
    /// Makes the folder if it is absent, with mode 0700, and removes what a killed host left half written.
    ///
    /// # Errors
    /// The disk's; or others may enter the folder.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        check_private(&fs::symlink_metadata(folder)?)?;
        remove_leftovers(folder)?;
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
        let found = names.collect::<io::Result<Vec<_>>>()?.into_iter().filter(|name| is_dump(name)).collect();
        let (number, last) = (AtomicU64::new(0), Mutex::default());
        Ok(Self { folder: folder.to_owned(), found: Mutex::new(found), number, last })
    }

    /// Whether it is time for one of this module and image; counts as begun if so.
    fn is_due(&self, module: &ModuleName, image: &str, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, begun| now.saturating_duration_since(*begun) < MIN_INTERVAL);
        let key = (module.clone(), image.to_owned());
        if last.contains_key(&key) {
            return false;
        }
        last.insert(key, now);
        true
    }

    fn write<T>(&self, dump: &Encoded<'_, T>) -> Result<CoreDump, DumpError> {
        let (bytes, free) = (dump.bytes(), self.free()?);
        if bytes > free / 2 {
            return Err(DumpError::NoRoom { needed: bytes, free });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let name = format!("{now}-{}", self.number.fetch_add(1, Ordering::Relaxed));
        let beside = Temporary(self.folder.join(format!("{name}.tmp")));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside.0)?;
        let mut file = BufWriter::with_capacity(BUFFER, file);
        dump.write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        let name = format!("{name}.core");
        fs::rename(&beside.0, self.folder.join(&name))?;
        fs::File::open(&self.folder)?.sync_all()?;
        Ok(CoreDump { file: name, bytes, left_out_bytes: dump.left_out() })
    }

    fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

impl CoreDumps for DumpFolder {
    fn path(&self, file: &str) -> Option<PathBuf> {
        let path = self.folder.join(file);
        (is_dump(file) && path.is_file()).then_some(path)
    }

    fn remove(&self, file: &str) {
        if !is_dump(file) {
            return;
        }
        if let Err(error) = fs::remove_file(self.folder.join(file))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(file, %error, "a core dump cannot be removed");
        }
    }

    fn keep_only(&self, files: &[&str]) {
        let found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        found.iter().filter(|file| !files.contains(&file.as_str())).for_each(|file| self.remove(file));
    }
}

/// A name as above: nothing of another kind is touched, and nothing outside of the folder.
fn is_dump(file: &str) -> bool {
    file.strip_suffix(".core")
        .is_some_and(|stem| !stem.is_empty() && stem.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
}

impl Dumper {
    /// Writes the dump, if it is time for one; says in the log why there is none. Blocks on the disk.
    pub(crate) fn write<T>(&self, dump: &WasmCoreDump, store: &mut Store<T>, exit: &Exit) -> Option<CoreDump> {
        let (module, image) = (&self.module, self.image.as_str());
        if !self.dumps.folder.is_due(module, image, Instant::now()) {
            tracing::info!(%module, "no core dump: the last one of this module and image is younger than {MIN_INTERVAL:?}");
            return None;
        }
        let about = About { module: module.as_str(), image, exit_code: exit.code, reason: &exit.reason };
        let written = Encoded::new(dump, store, &about, self.dumps.max_bytes)
            .map_err(DumpError::from)
            .and_then(|encoded| self.dumps.folder.write(&encoded));
        match written {
            Ok(dump) => {
                tracing::info!(%module, file = dump.file, bytes = dump.bytes, left_out = dump.left_out_bytes, "wrote a core dump");
                Some(dump)
            }
            Err(error) => {
                tracing::warn!(%module, error = &error as &dyn std::error::Error, "no core dump");
                None
            }
        }
    }
}
