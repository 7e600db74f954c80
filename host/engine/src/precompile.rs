//! `marram compile`: code for this or other machines, made ahead of time into a folder that goes to devices. Signs
//! nothing: who may write the folder on the device decides what runs there.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    cache::{Temporary, absent_as_none, digest_of, hex},
    check::{Refusal, survey},
    compile::{CompileError, compile, write_new},
    precompiled::{Key, Record},
    settings::{CompileLimits, HelperCommand, Profile},
    target::Target,
};

/// For whom, where to, and who compiles.
#[derive(Debug, Clone)]
pub struct Precompile {
    /// Folder of the code; made if absent.
    pub output: PathBuf,
    /// The machines that it is for. Code is made for every processor of that kind, not for this machine's.
    pub target: Target,
    /// Layout of guest memory: that of the hosts that will run it.
    pub profile: Profile,
    /// Who compiles.
    pub helper: HelperCommand,
    /// Bounds of one compilation.
    pub limits: CompileLimits,
}

/// Code that lies in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precompiled {
    /// `sha256:…` of the component.
    pub component: String,
    /// `sha256:…` of the code.
    pub code: String,
    /// The code; its record lies beside it under the same name with the ending `.json`.
    pub path: PathBuf,
    /// Bytes of the code.
    pub size: u64,
    /// It lay there already and is whole.
    pub was_there: bool,
}

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
pub enum PrecompileError {
    /// The component's file.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// Somebody writes to it.
    #[error("{0} changed while it was compiled; try again")]
    Changed(PathBuf),
    /// No host would run it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The compiler.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The folder.
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] io::Error),
}

/// Compiles the component in the file `input` into the folder. Code that is there and whole stays as it is. Files are
/// readable by all and appear whole; the record comes last, and without it code does not count.
///
/// # Errors
/// See [`PrecompileError`]; the folder then holds what it held before.
pub async fn precompile(order: &Precompile, input: &Path) -> Result<Precompiled, PrecompileError> {
    let unreadable = |error| PrecompileError::Read(input.to_owned(), error);
    let digest = hex(&digest_of(input).map_err(unreadable)?);
    let surface = survey(&fs::read(input).map_err(unreadable)?)?;
    surface.check()?;
    let unwritable = |error| PrecompileError::Write(order.output.clone(), error);
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&order.output).map_err(unwritable)?;
    let key = Key { target: order.target.to_string(), profile: order.profile };
    let path = order.output.join(format!("{}.cwasm", key.stem(&digest)));
    if let Some(record) = whole(&path, &key, &digest).map_err(unwritable)? {
        return Ok(Precompiled::new(record, path, true));
    }
    let temporary = Temporary(order.output.join(format!(".{}-{}.tmp", std::process::id(), &digest[..16])));
    compile(&order.helper, order.limits, order.profile, Some(order.target), input, &temporary.0).await?;
    if hex(&digest_of(input).map_err(unreadable)?) != digest {
        return Err(PrecompileError::Changed(input.to_owned()));
    }
    let record = commit(&temporary.0, &path, &key, &digest, surface.instance_bytes).map_err(unwritable)?;
    Ok(Precompiled::new(record, path, false))
}

impl Precompiled {
    fn new(record: Record, path: PathBuf, was_there: bool) -> Self {
        Self { component: record.component, code: record.code, path, size: record.size, was_there }
    }
}

/// The record of code that is there and has its digest.
fn whole(path: &Path, key: &Key, component: &str) -> io::Result<Option<Record>> {
    let Some(text) = absent_as_none(fs::read(path.with_extension("json")))? else { return Ok(None) };
    let Some(digest) = absent_as_none(digest_of(path))? else { return Ok(None) };
    let record = serde_json::from_slice::<Record>(&text).ok();
    Ok(record.filter(|told| *told == key.record(component, digest, told.size, told.instance_bytes)))
}

fn commit(temporary: &Path, path: &Path, key: &Key, component: &str, cost: u64) -> io::Result<Record> {
    let record = key.record(component, digest_of(temporary)?, fs::metadata(temporary)?.len(), cost);
    let beside = Temporary(temporary.with_extension("json.tmp"));
    write_new(&beside.0, format!("{}\n", serde_json::to_string_pretty(&record)?).as_bytes())?;
    for file in [temporary, &beside.0] {
        fs::set_permissions(file, Permissions::from_mode(0o644))?;
    }
    fs::rename(temporary, path)?;
    fs::rename(&beside.0, path.with_extension("json"))?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(record)
}
