//! `marram plan`: what the planner would do, and why. Does nothing; asks the running host unless it is told what a runtime
//! observes.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use marram_core::{
    manifest::{self, read_runtime},
    planner::{Explained, explain, uptime},
    time::UtcMillis,
};

use crate::{
    args::{Format, Plan},
    ask::answer,
    check::check_image,
    client::Call,
    failure::{Code, Failure},
    input,
    output::{self, Table},
};

pub(crate) fn plan(args: &Plan) -> Result<(), Failure> {
    let stdin = Path::new("-");
    if args.deployment == stdin && args.observed.as_deref() == Some(stdin) {
        let message = "`--deployment -` and `--observed -` both read standard input";
        return Err(Failure::new(Code::Usage, message).hint("name a file for one of the two"));
    }
    let text = input::text(&args.deployment)?;
    match &args.observed {
        Some(observed) => of_report(args, &text, observed),
        None => of_host(args, text),
    }
}

fn of_report(args: &Plan, text: &str, observed: &Path) -> Result<(), Failure> {
    let report = input::text(observed)?;
    let desired = manifest::read(text, &manifest::Context::new(&check_image))
        .map_err(|faults| Failure::manifest(&name(&args.deployment), faults).located(text));
    let runtime = read_runtime(&report).map_err(|faults| Failure::manifest(&name(observed), faults).located(&report));
    let (desired, runtime) = match (desired, runtime) {
        (Ok(desired), Ok(runtime)) => (desired.deployment, runtime),
        (Err(desired), Err(runtime)) => return Err(desired.with(runtime)),
        (Err(failure), _) | (_, Err(failure)) => return Err(failure),
    };
    let now = args.now.unwrap_or_else(clock);
    let explained = explain(&desired, &runtime.observed(&desired, now), uptime(now), now);
    match args.ask.format {
        Format::Json => {
            let json = serde_json::to_string(&explained).map_err(|error| Failure::failed(&error))?;
            output::data(&format!("{json}\n"))
        }
        Format::Text => output::data(&in_text(&explained)),
    }
}

fn of_host(args: &Plan, text: String) -> Result<(), Failure> {
    let query = args.now.map(|now| format!("?now={}", now.0)).unwrap_or_default();
    let answered = answer(&args.ask, Call::post_with(format!("/v1/plan{query}"), text.clone()), |plan| in_text(&plan));
    // The host knows the paths of faults; the text is here.
    answered.map_err(|failure| failure.located(&text))
}

fn name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".into() } else { path.display().to_string() }
}

fn clock() -> UtcMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UtcMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn in_text(plan: &Explained) -> String {
    if plan.steps.is_empty() {
        return "nothing to do\n".into();
    }
    let mut table = Table::new(&["ACTION", "MODULE", "NOT BEFORE", "REASON"], &[]);
    for step in &plan.steps {
        let not_before = step.not_before.map_or_else(|| "-".into(), |at| at.to_string());
        table.row([step.action.as_str().into(), step.module.to_string(), not_before, step.reason.clone()]);
    }
    table.text()
}
