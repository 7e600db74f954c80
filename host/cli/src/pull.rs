//! `marram module pull`: an artifact of a registry or an image-layout folder becomes a component file. The file is there
//! whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use serde_json::json;

use crate::{
    access::{self, Scratch},
    args::{Format, Pull},
    failure::{Code, Failure},
    output,
};

pub(crate) fn pull(args: Pull) -> Result<(), Failure> {
    let file = args.file.as_path();
    refuse_what_is_there(file, args.force)?; // before minutes of transfer
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Beside the file: the last step is a rename, which cannot cross file systems.
    let fetched = access::fetch(&args.access, &args.reference, folder)?;
    let size = place(&fetched.artifact.path, &fetched.folder, file, args.force, CUSTOMARY)?;
    output::data(&match args.format {
        Format::Text => format!("{}\n", fetched.reference),
        Format::Json => {
            let document = json!({
                "reference": fetched.reference,
                "manifestDigest": fetched.artifact.manifest_digest,
                "componentDigest": fetched.artifact.component_digest,
                "size": size,
                "file": file.to_string_lossy(),
            });
            format!("{document}\n")
        }
    })
}

/// A file that is there is replaced by `--force` alone.
pub(crate) fn refuse_what_is_there(file: &Path, force: bool) -> Result<(), Failure> {
    match fs::symlink_metadata(file) {
        Ok(there) if there.is_dir() => {
            Err(Failure::new(Code::Failed, format!("cannot write {}: it is a folder", file.display()))
                .hint("name the file"))
        }
        Ok(_) if !force => Err(exists(file)),
        _ => Ok(()),
    }
}

fn exists(file: &Path) -> Failure {
    Failure::new(Code::Failed, format!("{} exists already", file.display())).hint("`--force` replaces it")
}

/// The mode of new files, from which the umask takes.
pub(crate) const CUSTOMARY: u32 = 0o666;

/// Copies a component, or another file, to its place, by a folder on the same file system; returns its bytes. A crash leaves what was
/// there, or all of the new.
pub(crate) fn place(from: &Path, scratch: &Scratch, file: &Path, force: bool, mode: u32) -> Result<u64, Failure> {
    let cannot = |error: io::Error| Failure::new(Code::Failed, format!("cannot write {}: {error}", file.display()));
    let new = scratch.path().join("new");
    let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).map_err(cannot)?;
    let size = io::copy(&mut File::open(from).map_err(cannot)?, &mut out).map_err(cannot)?;
    out.sync_all().map_err(cannot)?;
    if !force {
        match renameat_with(CWD, &new, CWD, file, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(size),
            Err(Errno::EXIST) => return Err(exists(file)),
            // Not every file system can; then a file of the last moment is replaced.
            Err(Errno::INVAL | Errno::NOSYS) => refuse_what_is_there(file, force)?,
            Err(error) => return Err(cannot(error.into())),
        }
    }
    fs::rename(&new, file).map_err(cannot)?;
    Ok(size)
}
