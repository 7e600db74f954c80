//! `marram compile`: code for devices that have no compiler, from component files or from images. One folder, two files a
//! component; copying them to the device is the owner's business.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use marram_core::manifest::Finding;
use marram_engine::{CompileLimits, Precompile, PrecompileError, Precompiled, Target, precompile};
use marram_registry::DEFAULT_MAX_COMPONENT_BYTES;
use serde_json::{Value, json};

use crate::{
    access::{self, Fetched},
    args::{Compile, Format},
    failure::{Code, Failure, chain, count},
    input, output,
    run::compiler,
};

pub(crate) fn compile(args: Compile) -> Result<(), Failure> {
    if args.access.username.is_some() && args.subjects.len() > 1 {
        let message = "--username: one reference at a time; the password is for one registry";
        return Err(Failure::new(Code::Usage, message));
    }
    let orders = orders(&args)?;
    let (mut done, mut faults) = (Vec::new(), Vec::new());
    for subject in &args.subjects {
        match one(&args, subject, &orders) {
            Ok(made) => done.extend(made),
            Err(failure) => faults.push(fault(subject, failure)),
        }
    }
    output::data(&match args.format {
        Format::Text => done.iter().map(Done::to_text).collect(),
        Format::Json if faults.is_empty() => format!("{}\n", Value::from_iter(done.iter().map(Done::to_json))),
        Format::Json => String::new(), // the error is the one document
    })?;
    match faults.len() {
        0 => Ok(()),
        number => {
            let message = format!("{} of {} not compiled", number, count(args.subjects.len(), "component"));
            Err(Failure { faults, ..Failure::new(Code::Failed, message) })
        }
    }
}

/// One for each target, with this binary as the compiler.
fn orders(args: &Compile) -> Result<Vec<Precompile>, Failure> {
    let here = || {
        Target::here().ok_or_else(|| Failure::new(Code::Usage, "for this machine no code can be made; name a --target"))
    };
    let mut targets = if args.target.is_empty() { vec![here()?] } else { args.target.clone() };
    targets.dedup();
    if let Some(other) = targets.iter().find(|target| !cfg!(feature = "cross") && Some(**target) != Target::here()) {
        let message =
            format!("this build of marram makes no code for {other}: it was made without the feature `cross`");
        return Err(Failure::new(Code::Usage, message).hint("`marram version` lists what it has"));
    }
    let helper = compiler()?;
    let limits = CompileLimits::default();
    let order = |target| Precompile {
        output: args.output.clone(),
        target,
        profile: args.profile,
        helper: helper.clone(),
        limits,
    };
    Ok(targets.into_iter().map(order).collect())
}

/// Code of one component, and where the component came from.
struct Done {
    subject: String,
    target: Target,
    made: Precompiled,
}

fn one(args: &Compile, subject: &str, orders: &[Precompile]) -> Result<Vec<Done>, Failure> {
    let fetched = match input::is_component_file(subject) {
        true if args.access.username.is_some() => return Err(access::not_in_a_registry(subject)),
        true => None,
        false => Some(access::fetch(&args.access, subject, &std::env::temp_dir())?),
    };
    let file = |fetched: &Fetched| fetched.artifact.path.clone();
    let file: PathBuf = fetched.as_ref().map_or_else(|| Path::new(subject).to_owned(), file);
    check(&file).map_err(|error| Failure::new(Code::Failed, format!("cannot read {}: {error}", file.display())))?;
    let mut done = Vec::new();
    for order in orders {
        let made = access::wait(async {
            precompile(order, &file).await.map_err(|error| match error {
                // The copy of an image has a name that nobody knows.
                PrecompileError::Refused(why) => Failure::new(Code::Failed, why.to_string()),
                error => Failure::new(Code::Failed, chain(&error)),
            })
        })?;
        done.push(Done { subject: subject.to_owned(), target: order.target, made });
    }
    Ok(done)
}

/// A file, and no larger than what a host would fetch: a pipe would be waited for, and the rest fills the memory.
fn check(file: &Path) -> io::Result<()> {
    let metadata = fs::metadata(file)?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > DEFAULT_MAX_COMPONENT_BYTES {
        return Err(io::Error::other(format!("it is larger than {DEFAULT_MAX_COMPONENT_BYTES} bytes")));
    }
    Ok(())
}

fn fault(subject: &str, failure: Failure) -> Finding {
    Finding { at: subject.to_owned(), message: failure.message, hint: failure.hint }
}

impl Done {
    fn to_text(&self) -> String {
        let size = output::bytes(self.made.size);
        let there = if self.made.was_there { ", was there" } else { "" };
        let line = format!("{} {} ({size}{there})", self.target, self.made.path.display());
        format!("{}\n", output::plain(&line))
    }

    fn to_json(&self) -> Value {
        json!({
            "subject": self.subject,
            "componentDigest": self.made.component,
            "target": self.target.as_str(),
            "file": self.made.path.to_string_lossy(),
            "codeDigest": self.made.code,
            "size": self.made.size,
            "wasThere": self.made.was_there,
        })
    }
}
