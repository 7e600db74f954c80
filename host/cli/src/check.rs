//! `marram check`: reads a manifest and tells all that is wrong with it. Asks no registry and no host.

use marram_core::manifest::{self, Finding, Reading};
use serde_json::json;

use crate::{
    args::{Check, Format},
    failure::{Failure, count, finding_json, finding_lines},
    input, output,
};

pub(crate) fn check(args: Check) -> Result<(), Failure> {
    let text = input::text(&args.file)?;
    let name = if args.file.as_os_str() == "-" { "standard input".into() } else { args.file.display().to_string() };
    let reading = manifest::read(&text, &manifest::Context { check_image: &check_image })
        .map_err(|faults| Failure::manifest(&name, faults))?;
    match args.format {
        Format::Json => output::data(&format!("{}\n", as_json(&reading))),
        Format::Text => {
            findings("warning: ", &reading.warnings);
            findings("note: ", &reading.notes);
            let deployment = &reading.deployment;
            let (modules, routes) =
                (count(deployment.modules.len(), "module"), count(deployment.routes.len(), "route"));
            output::data(&format!("{name}: good, {modules}, {routes}\n"))
        }
    }
}

/// Checks an image reference while a manifest is read.
pub(crate) fn check_image(text: &str) -> Result<(), String> {
    marram_registry::Image::parse(text).map(drop).map_err(|error| error.to_string())
}

fn findings(lead: &str, findings: &[Finding]) {
    findings.iter().for_each(|finding| output::talk(&finding_lines(lead, finding)));
}

fn as_json(reading: &Reading) -> serde_json::Value {
    let list = |findings: &[Finding]| findings.iter().map(finding_json).collect::<Vec<_>>();
    json!({
        "modules": reading.deployment.modules.keys().collect::<Vec<_>>(),
        "routes": reading.deployment.routes.iter().map(|route| &route.name).collect::<Vec<_>>(),
        "warnings": list(&reading.warnings),
        "notes": list(&reading.notes),
    })
}
