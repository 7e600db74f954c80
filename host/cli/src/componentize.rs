//! `marram module componentize`, and what `module push` does with a core module: a child process of this binary makes a
//! component of it, under limits, since a module is anybody's. The adapting itself is `marram_componentize`'s.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use marram_componentize::{Adapter, ComponentizeError as E, is_core_module};
use marram_core::manifest::Finding;
use marram_engine::survey;
use serde_json::{Value, json};

use crate::{
    access::{self, Scratch},
    args::{AdapterChoice, Componentize, ComponentizeHelper, Format},
    failure::{Code, Failure},
    input, output, pull,
    run::own_binary,
};

/// A component that a core module became, in a folder that goes away with this.
pub(crate) struct Adapted {
    /// The file, named as the module's.
    pub(crate) file: PathBuf,
    /// `command` or `reactor`.
    pub(crate) adapter: String,
    scratch: Scratch,
}

pub(crate) fn componentize(args: Componentize) -> Result<(), Failure> {
    pull::refuse_what_is_there(&args.output, args.force)?;
    let folder = args.output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let adapted = adapt(&args.input, args.adapter, Scratch::new(folder)?)?;
    tell_if_refused(&adapted.file)?;
    let size = pull::place(&adapted.file, &adapted.scratch, &args.output, args.force, pull::CUSTOMARY)?;
    output::data(&match args.format {
        Format::Text => format!("{}: {}\n", args.output.display(), words(&adapted.adapter)),
        Format::Json => {
            let file = args.output.to_string_lossy();
            format!("{}\n", json!({ "file": file, "adapter": adapted.adapter, "size": size }))
        }
    })
}

/// The component for a file that is to be pushed, if it is a core module; says so.
pub(crate) fn adapt_for_push(file: &Path) -> Result<Option<Adapted>, Failure> {
    // What cannot be read is told by the push itself.
    if !input::head_of_regular::<8>(file).is_ok_and(|head| is_core_module(&head)) {
        return Ok(None);
    }
    let adapted = adapt(file, AdapterChoice::Auto, Scratch::new(&std::env::temp_dir())?)?;
    output::talk(&format!("{} is a core module; pushing it as {}\n", file.display(), words(&adapted.adapter)));
    tell_if_refused(&adapted.file)?;
    Ok(Some(adapted))
}

fn words(adapter: &str) -> String {
    format!("a component by the {adapter} adapter of WASI preview 1")
}

/// Runs the child to its end, or until Ctrl-C.
fn adapt(file: &Path, adapter: AdapterChoice, scratch: Scratch) -> Result<Adapted, Failure> {
    let cannot =
        |why: String| Failure::new(Code::Failed, format!("cannot make a component of {}: {why}", file.display()));
    // In a folder of its own: its name may be any.
    let folder = scratch.path().join("adapted");
    std::fs::create_dir(&folder).map_err(|error| cannot(error.to_string()))?;
    let component = folder.join(file.file_name().unwrap_or(OsStr::new("component.wasm")));
    let mut child = tokio::process::Command::new(own_binary()?);
    child.arg("componentize-helper").arg(file).arg(&component).arg(adapter.as_str());
    child.env_clear().stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let done = access::wait(async { child.output().await.map_err(|error| cannot(error.to_string())) })?;
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
    match (done.status.success(), answer["adapter"].as_str()) {
        (true, Some(adapter)) => Ok(Adapted { file: component, adapter: adapter.to_owned(), scratch }),
        _ if answer["error"].is_object() => {
            let told = Failure::from_json(&answer["error"], "");
            Err(Failure { message: cannot(told.message).message, ..told })
        }
        _ => Err(cannot(format!("the encoder ended with {}", done.status)).hint(
            "it may use more than a minute of processor time or 2 GiB of memory; is the module what it should be?",
        )),
    }
}

/// What an engine would say when it loads the component: better now, and here.
fn tell_if_refused(component: &Path) -> Result<(), Failure> {
    let bytes = input::read_regular(component, marram_registry::DEFAULT_MAX_COMPONENT_BYTES)
        .map_err(|error| Failure::new(Code::Failed, format!("cannot read the component: {error}")))?;
    if let Err(refusal) = survey(&bytes).and_then(|surface| surface.check()) {
        output::talk(&format!("warning: a host will refuse this component: {}\n", output::plain(&refusal.to_string())));
    }
    Ok(())
}

/// The body of the child process.
pub(crate) fn helper(args: &ComponentizeHelper) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(Code::Failed, why);
    limits::set().map_err(|error| failed(format!("cannot set its limits: {error}")))?;
    let module = input::read_regular(&args.input, marram_registry::DEFAULT_MAX_COMPONENT_BYTES)
        .map_err(|error| failed(error.to_string()))?;
    let adapter = match args.adapter {
        AdapterChoice::Auto => None,
        AdapterChoice::Command => Some(Adapter::Command),
        AdapterChoice::Reactor => Some(Adapter::Reactor),
    };
    let component = marram_componentize::componentize(&module, adapter).map_err(|error| refusal(&error))?;
    std::fs::write(&args.output, &component.bytes).map_err(|error| failed(format!("cannot write it: {error}")))?;
    output::data(&format!("{}\n", json!({ "adapter": component.adapter.as_str() })))
}

fn refusal(error: &E) -> Failure {
    let hint = match error {
        E::Component => "`marram module push` takes it as it is",
        E::Invalid(_) => "is the file whole, and of WebAssembly?",
        E::Encode(_) => "do the bindings fit the WIT files, and the linker the bindings?",
        E::Unsuitable(obstacles) => {
            let faults = obstacles.iter().map(|obstacle| Finding {
                at: String::new(),
                message: obstacle.what.clone(),
                hint: Some(obstacle.hint.to_owned()),
            });
            let failure = Failure::new(Code::Failed, "it does not fit WASI 0.2");
            return Failure { faults: faults.collect(), ..failure };
        }
    };
    Failure::new(Code::Failed, error.to_string()).hint(hint)
}

/// What the child may use; set by itself, before it reads a byte of the module.
mod limits {
    use rustix::process::{Resource, Rlimit, setrlimit};

    /// Processor time in seconds: the largest guest seen (18 MB, Python) takes about a second.
    const CPU: u64 = 60;
    /// The encoder holds a module some five times; with its bookkeeping, 128 MiB fit.
    const ADDRESS_SPACE: u64 = 2 << 30;
    /// A component is the module, an adapter, and some types.
    const OUTPUT: u64 = 256 << 20;

    pub(super) fn set() -> std::io::Result<()> {
        for (resource, most) in
            [(Resource::Cpu, CPU), (Resource::As, ADDRESS_SPACE), (Resource::Fsize, OUTPUT), (Resource::Core, 0)]
        {
            setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
        Ok(())
    }
}
