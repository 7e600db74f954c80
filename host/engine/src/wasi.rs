//! The WASI 0.2 world of one instance: its environment, arguments, folders and output. No input, no network.

use std::path::{Path, PathBuf};

use marram_core::{
    deployment::{ModuleSpec, Mount},
    ports::Exit,
};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};

use crate::{EXIT_CANNOT_START, log::LogPipe, settings::Settings};

/// Random bytes in one call. Keys and nonces need dozens; the buffer is the host's.
const MAX_RANDOM_BYTES: u64 = 64 << 10;

/// Folders that no manifest may grant: code that the host loads from them runs with the rights of the host, and what others
/// keep in them is none of a module's business.
#[derive(Debug, Default)]
pub(crate) struct Walls {
    /// Neither for reading nor for writing.
    private: Vec<PathBuf>,
    /// Not for writing.
    read_only: Vec<PathBuf>,
}

impl Walls {
    pub(crate) fn of(settings: &Settings) -> Self {
        let private = settings.private.iter().chain([&settings.cache]).cloned().collect();
        Self { private, read_only: settings.precompiled.clone() }
    }

    /// The folder of the host that a mount would open, if there is one. A mount that is not there opens none.
    fn behind(&self, mount: &Mount) -> Option<&Path> {
        let granted = mount.host.canonicalize().ok()?;
        let opens = |wall: &&PathBuf| {
            let wall = wall.canonicalize().unwrap_or_else(|_| wall.to_path_buf());
            wall.starts_with(&granted) || granted.starts_with(&wall)
        };
        let also = if mount.writable { self.read_only.as_slice() } else { &[] };
        self.private.iter().chain(also).find(opens).map(PathBuf::as_path)
    }
}

/// What `spec` grants.
///
/// # Errors
/// A folder that cannot be opened, as an [`Exit`]: the module may run once the folder is there.
pub(crate) fn context(spec: &ModuleSpec, walls: &Walls, stdout: &LogPipe, stderr: &LogPipe) -> Result<WasiCtx, Exit> {
    let mut builder = WasiCtxBuilder::new();
    builder.stdout(stdout.clone()).stderr(stderr.clone()).max_random_size(MAX_RANDOM_BYTES);
    // Even a socket that may connect nowhere holds a descriptor of the host.
    builder.allow_tcp(false).allow_udp(false);
    builder.arg(spec.name.as_str()).args(&spec.sandbox.args);
    for (name, value) in &spec.env {
        builder.env(name, value);
    }
    for mount in &spec.sandbox.mounts {
        if let Some(wall) = walls.behind(mount) {
            return Err(refused(mount, wall));
        }
        let perms = if mount.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        builder.preopened_dir(&mount.host, &mount.guest, perms).map_err(|error| cannot_open(mount, &error))?;
    }
    Ok(builder.build())
}

fn refused(mount: &Mount, wall: &Path) -> Exit {
    let reason = format!(
        "the folder {} for {} is not granted: it opens {}, which is the host's own (settings.sandbox.filesystem; name \
         another folder)",
        mount.host.display(),
        mount.guest,
        wall.display()
    );
    Exit::new(EXIT_CANNOT_START, reason)
}

fn cannot_open(mount: &Mount, error: &wasmtime::Error) -> Exit {
    let reason = format!(
        "cannot open the folder {} for {}: {} (settings.sandbox.filesystem; make the folder or remove the grant)",
        mount.host.display(),
        mount.guest,
        error.root_cause()
    );
    Exit::new(EXIT_CANNOT_START, reason)
}
