//! The WASI 0.2 world of one instance: its environment, arguments, folders and output. No input, no network.

use marram_core::{
    deployment::{ModuleSpec, Mount},
    ports::Exit,
};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder};

use crate::{EXIT_CANNOT_START, log::LogPipe};

/// Random bytes in one call. Keys and nonces need dozens; the buffer is the host's.
const MAX_RANDOM_BYTES: u64 = 64 << 10;

/// What `spec` grants.
///
/// # Errors
/// A folder that cannot be opened, as an [`Exit`]: the module may run once the folder is there.
pub(crate) fn context(spec: &ModuleSpec, stdout: &LogPipe, stderr: &LogPipe) -> Result<WasiCtx, Exit> {
    let mut builder = WasiCtxBuilder::new();
    builder.stdout(stdout.clone()).stderr(stderr.clone()).max_random_size(MAX_RANDOM_BYTES);
    // Even a socket that may connect nowhere holds a descriptor of the host.
    builder.allow_tcp(false).allow_udp(false);
    builder.arg(spec.name.as_str()).args(&spec.sandbox.args);
    for (name, value) in &spec.env {
        builder.env(name, value);
    }
    for mount in &spec.sandbox.mounts {
        let perms = if mount.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
        builder.preopened_dir(&mount.host, &mount.guest, perms).map_err(|error| cannot_open(mount, &error))?;
    }
    Ok(builder.build())
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
