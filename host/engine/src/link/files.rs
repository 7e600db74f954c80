//! Bounds of `wasi:filesystem`: how many files, streams and listings a guest may have open. Each open file is a descriptor
//! of the host, each stream keeps a buffer, each listing a whole folder: unbounded, one guest would take them from all.
//! The calls themselves are those of wasmtime-wasi. A guest that reaches a bound is told `insufficient-memory`, since
//! WASI 0.2 has no word for too many open files, and may close some.

use std::{fs::File, future::Future, sync::Arc};

use rustix::fs::{Mode, OFlags, openat};
use wasmtime::{
    Result, StoreContextMut,
    component::{Linker, Resource, ResourceTable},
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView as _},
    p2::{
        DynInputStream, DynOutputStream, FsResult, ReaddirIterator,
        bindings::filesystem::types::{DescriptorFlags, ErrorCode, HostDescriptor as _, OpenFlags, PathFlags},
    },
};

use crate::state::GuestState;

/// Open files and folders. Toolchains of guests keep few open; 100 modules with all of them stay within a hard limit of
/// 4096 and some thousand.
const MAX_DESCRIPTORS: usize = 64;
/// Streams of files. A stream keeps its file open after the descriptor is dropped, 64 KiB that were read ahead, and up to
/// 320 KiB that are being written: so modules with little memory get fewer.
const MAX_STREAMS: usize = 64;
/// Streams that even the smallest module may have.
const MIN_STREAMS: usize = 16;
/// Memory limit for each stream.
const LIMIT_BYTES_PER_STREAM: u64 = 256 << 10;
/// Folders that are being listed. Recursive walks keep one for each level.
const MAX_LISTINGS: usize = 8;
/// Names of one folder with [`ENTRY_BYTES`] each: about 6,000 entries. wasmtime-wasi reads all of them at once.
const MAX_LISTING_BYTES: usize = 512 << 10;
/// What an entry costs besides its name.
const ENTRY_BYTES: usize = 64;

/// The name under which wasmtime-wasi links the interface; a test fails if it changes.
const INTERFACE: &str = "wasi:filesystem/types@0.2.12";

type Cx<'a> = StoreContextMut<'a, GuestState>;
type This = Resource<Descriptor>;
type Answer<T> = Result<(std::result::Result<Resource<T>, ErrorCode>,)>;
type Reply<'a, T> = Box<dyn Future<Output = Answer<T>> + Send + 'a>;
type OpenParams = (This, PathFlags, String, OpenFlags, DescriptorFlags);

/// Puts the bounds before what is linked already.
pub(super) fn bound(linker: &mut Linker<GuestState>) -> Result<()> {
    linker.allow_shadowing(true);
    let mut files = linker.instance(INTERFACE)?;
    files.func_wrap_async("[method]descriptor.open-at", |cx: Cx<'_>, params: OpenParams| -> Reply<'_, Descriptor> {
        Box::new(open(cx, params))
    })?;
    files.func_wrap_async(
        "[method]descriptor.read-directory",
        |cx: Cx<'_>, (this,): (This,)| -> Reply<'_, ReaddirIterator> { Box::new(list(cx, this)) },
    )?;
    files.func_wrap("[method]descriptor.read-via-stream", |mut cx: Cx<'_>, (this, offset): (This, u64)| {
        stream::<DynInputStream>(&mut cx, |mut files| files.read_via_stream(this, offset))
    })?;
    files.func_wrap("[method]descriptor.write-via-stream", |mut cx: Cx<'_>, (this, offset): (This, u64)| {
        stream::<DynOutputStream>(&mut cx, |mut files| files.write_via_stream(this, offset))
    })?;
    files.func_wrap("[method]descriptor.append-via-stream", |mut cx: Cx<'_>, (this,): (This,)| {
        stream::<DynOutputStream>(&mut cx, |mut files| files.append_via_stream(this))
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

fn stream<T: 'static>(
    cx: &mut Cx<'_>,
    make: impl FnOnce(WasiFilesystemCtxView<'_>) -> FsResult<Resource<T>>,
) -> Answer<T> {
    let most = usize::try_from(cx.data().memory.limit() / LIMIT_BYTES_PER_STREAM).unwrap_or(usize::MAX);
    let files = cx.data_mut().filesystem();
    let open = count::<DynInputStream>(files.table) + count::<DynOutputStream>(files.table);
    if open >= most.clamp(MIN_STREAMS, MAX_STREAMS) {
        return Ok((Err(ErrorCode::InsufficientMemory),));
    }
    answer(make(files))
}

async fn open(mut cx: Cx<'_>, (this, path_flags, path, open_flags, flags): OpenParams) -> Answer<Descriptor> {
    let mut files = cx.data_mut().filesystem();
    if count::<Descriptor>(files.table) >= MAX_DESCRIPTORS {
        return Ok((Err(ErrorCode::InsufficientMemory),));
    }
    answer(files.open_at(this, path_flags, path, open_flags, flags).await)
}

async fn list(mut cx: Cx<'_>, this: This) -> Answer<ReaddirIterator> {
    let mut files = cx.data_mut().filesystem();
    if count::<ReaddirIterator>(files.table) >= MAX_LISTINGS {
        return Ok((Err(ErrorCode::InsufficientMemory),));
    }
    if let Descriptor::Dir(folder) = files.table.get(&this)? {
        let folder: Arc<File> = folder.dir.clone();
        let fits = tokio::task::spawn_blocking(move || listing_fits(&folder)).await;
        match fits {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok((Err(ErrorCode::InsufficientMemory),)),
            Ok(Err(error)) => return Ok((Err(std::io::Error::from(error).into()),)),
            Err(_panic) => return Ok((Err(ErrorCode::Io),)),
        }
    }
    answer(files.read_directory(this).await)
}

fn listing_fits(folder: &File) -> rustix::io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = openat(folder, ".", flags, Mode::empty())?; // the descriptor itself is one of paths only
    let mut bytes = 0;
    for entry in rustix::fs::Dir::new(readable)? {
        bytes += ENTRY_BYTES + entry?.file_name().to_bytes().len();
        if bytes > MAX_LISTING_BYTES {
            return Ok(false);
        }
    }
    Ok(true)
}

/// As the generated bindings do: an error code for the guest, or a trap.
fn answer<T: 'static>(result: FsResult<Resource<T>>) -> Answer<T> {
    match result {
        Ok(made) => Ok((Ok(made),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

fn count<T: 'static>(table: &mut ResourceTable) -> usize {
    table.iter_mut().filter(|resource| resource.is::<T>()).count()
}
