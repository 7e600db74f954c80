//! Deployment manifests, and reports of a runtime, which are read by the same means.

use marram_core::{
    deployment::Deployment,
    manifest::{Context, Finding, locate, read, read_runtime},
    planner::{explain, uptime},
    route::{Route, Table, module_source},
    time::UtcMillis,
};

/// Words of manifests.
pub(crate) const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\"\":",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "4294967296",
    "18446744073709551616",
    "\\",
    "\"\\ud800\"",
    "\u{feff}",
    "\"modulesContent\":{",
    "\"$edgeAgent\"",
    "\"$edgeHub\"",
    "\"properties.desired\"",
    "\"modules\"",
    "\"routes\"",
    "\"route\":\"FROM /* INTO $upstream\"",
    "\"settings\"",
    "\"sandbox\"",
    "\"marram\"",
    "\"createOptions\"",
    "\"env\"",
    "\"value\"",
    "\"priority\":9",
    "\"timeToLiveSecs\":-1",
    "\"schemaVersion\":\"1.1\"",
    "\"memory\"",
    "\"health\":{\"method\":\"a\",\"interval\":\"5s\"}",
    "\"modules\":{\"a\":{\"runtimeStatus\":\"failed\"}}",
    "\"lastExitTimeUtc\":\"2026-01-31T12:00:00Z\"",
    "\"1 MiB\"",
];

/// Whatever the bytes are: no panic, always the same answer, each finding one line with a place in the text, and what is
/// accepted makes sense in itself.
pub(crate) fn attack(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let check_image = |image: &str| if image.contains(' ') { Err("an image has no blanks".to_owned()) } else { Ok(()) };
    let context = Context::new(&check_image);
    let reading = read(text, &context);
    assert_eq!(reading, read(text, &context), "{text:?}");
    match reading {
        Ok(reading) => {
            check(text, &reading.warnings);
            check(text, &reading.notes);
            let deployment = reading.deployment;
            for (name, module) in &deployment.modules {
                assert_eq!(*name, module.name, "{text:?}");
            }
            let table = Table::new(&deployment);
            for (place, spec) in deployment.routes.iter().enumerate() {
                let printed = spec.route.to_string();
                let again = Route::parse(&printed).unwrap_or_else(|error| panic!("{text:?} -> {printed:?}: {error}"));
                assert_eq!(again.sink, spec.route.sink, "{text:?}");
                // Stars at its end are none of a source.
                let source = spec.route.source.to_string();
                let source = source.trim().trim_end_matches('*');
                assert!(table.routes(source).contains(&place), "{text:?}");
            }
            assert!(table.candidates(&deployment, &module_source("m", "o")).sinks.len() <= deployment.routes.len());
        }
        Err(faults) => {
            assert!(!faults.0.is_empty(), "{text:?}");
            check(text, &faults.0);
        }
    }
    attack_runtime(text);
}

/// What is read can be planned for, whatever stands in it.
fn attack_runtime(text: &str) {
    match read_runtime(text) {
        Ok(runtime) => {
            let (desired, now) = (Deployment::default(), UtcMillis(1));
            let plan = explain(&desired, &runtime.observed(&desired, now), uptime(now), now);
            assert_eq!(plan.steps.len(), runtime.modules.len(), "{text:?}");
        }
        Err(faults) => check(text, &faults.0),
    }
}

fn check(text: &str, findings: &[Finding]) {
    for finding in findings {
        let lines = [Some(&finding.at), Some(&finding.message), finding.hint.as_ref()];
        assert!(!finding.message.is_empty(), "{text:?}: {finding:?}");
        assert!(lines.iter().flatten().all(|line| !line.contains('\n')), "{text:?}: {finding:?}");
    }
    for place in locate(text, findings).into_iter().flatten() {
        let line = text.split('\n').nth(place.line - 1).unwrap_or_else(|| panic!("{text:?}: {place:?}"));
        assert!((1..=line.chars().count() + 1).contains(&place.column), "{text:?}: {place:?}");
    }
}
