//! `marram check`: reads a deployment manifest, or `marram.toml`, and tells all that is wrong with it and where. Asks no
//! registry and no host.

mod advice;

use std::{collections::BTreeMap, path::Path};

use marram_core::{
    deployment::ModuleSpec,
    manifest::{self, Finding, Reading, locate},
};
use serde_json::{Value, json};

use crate::{
    args::{Check, Format},
    config,
    failure::{Code, Failure, count, finding_json, finding_lines},
    input, output,
};

pub(crate) fn check(args: Check) -> Result<(), Failure> {
    if args.file.extension().is_some_and(|extension| extension == "toml") {
        return check_settings(&args);
    }
    let text = input::text(&args.file)?;
    let name = if args.file.as_os_str() == "-" { "standard input".into() } else { args.file.display().to_string() };
    let max_memory = config::load(args.config.as_deref())?.modules.max_memory_bytes;
    let reading = manifest::read(&text, &manifest::Context { max_memory, ..manifest::Context::new(&check_image) })
        .map_err(|faults| Failure::manifest(&name, faults).located(&text))?;
    let wrapped = serde_json::from_str::<Value>(&text).is_ok_and(|document| document.get("content").is_some());
    let advice = advice::advise(&reading.deployment, advice::memory(), wrapped);
    let warnings: Vec<Finding> = reading.warnings.iter().cloned().chain(advice.warnings).collect();
    let notes: Vec<Finding> = reading.notes.iter().cloned().chain(advice.notes).collect();
    let found = Found { text: &text, warnings, notes };
    found.end(
        &args,
        &name,
        Code::BadManifest,
        || as_json(&reading),
        || {
            let deployment = &reading.deployment;
            let (modules, routes) =
                (count(deployment.modules.len(), "module"), count(deployment.routes.len(), "route"));
            format!("{modules}, {routes}")
        },
    )
}

/// The settings, with all files that they name.
fn check_settings(args: &Check) -> Result<(), Failure> {
    let config = config::load(Some(&args.file))?;
    config.registry(Path::new("cache"))?;
    let found = Found { text: "", warnings: config.warnings.clone(), notes: Vec::new() };
    let name = args.file.display().to_string();
    found.end(args, &name, Code::BadConfig, || json!({}), || "settings".into())
}

/// Checks an image reference while a manifest is read.
pub(crate) fn check_image(text: &str) -> Result<(), String> {
    marram_registry::Image::parse(text).map(drop).map_err(|error| error.to_string())
}

/// What a document that may be accepted gives to think about.
struct Found<'t> {
    text: &'t str,
    warnings: Vec<Finding>,
    notes: Vec<Finding>,
}

impl Found<'_> {
    /// Tells it, and the verdict.
    fn end(
        self,
        args: &Check,
        name: &str,
        code: Code,
        json: impl FnOnce() -> Value,
        summary: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if args.strict && !self.warnings.is_empty() {
            let (warnings, verdict) = match self.warnings.len() {
                1 => (count(1, "warning"), "takes it for a fault"),
                many => (count(many, "warning"), "takes them for faults"),
            };
            let message = format!("{name} has {warnings}, and --strict {verdict}");
            return Err(Failure { faults: self.warnings, ..Failure::new(code, message) }.located(self.text));
        }
        match args.format {
            Format::Json => {
                let mut document = json();
                document["warnings"] = self.list(&self.warnings);
                document["notes"] = self.list(&self.notes);
                output::data(&format!("{document}\n"))
            }
            Format::Text => {
                self.tell("warning: ", &self.warnings);
                self.tell("note: ", &self.notes);
                output::data(&format!("{name}: good, {}\n", summary()))
            }
        }
    }

    fn tell(&self, lead: &str, findings: &[Finding]) {
        for (finding, place) in findings.iter().zip(locate(self.text, findings)) {
            output::talk(&finding_lines(lead, finding, place));
        }
    }

    fn list(&self, findings: &[Finding]) -> Value {
        let places = locate(self.text, findings);
        findings.iter().zip(places).map(|(finding, place)| finding_json(finding, place)).collect()
    }
}

fn as_json(reading: &Reading) -> Value {
    let digest = |spec: &ModuleSpec| (spec.name.to_string(), spec.settings_digest());
    let digests: BTreeMap<String, String> = reading.deployment.modules.values().map(digest).collect();
    json!({
        "modules": reading.deployment.modules.keys().collect::<Vec<_>>(),
        "routes": reading.deployment.routes.iter().map(|route| &route.name).collect::<Vec<_>>(),
        "settingsDigests": digests,
    })
}
