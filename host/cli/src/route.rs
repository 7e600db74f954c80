//! `marram route`: shows what routes do, without a host. Reads files and lines; the language is `marram_core::route`'s.

use std::{
    io::{self, BufRead, Read, Write},
    path::Path,
};

use marram_core::{
    deployment::{Deployment, RouteSpec},
    manifest,
    route::{self, BodyPlan, Explanation, Origin, Sample, Table, Truth, module_output},
};
use serde_json::{Value, json};

use crate::{
    args::{Explain, Format},
    check::check_image,
    config,
    failure::{Code, Failure},
    input,
    output::{self, plain},
};

/// Longest line of `route eval`: a condition and a message of the largest size, written in JSON escapes.
const MAX_LINE_BYTES: u64 = 2 << 20;

/// Answers JSON lines of standard input, one line each.
pub(crate) fn eval() -> Result<(), Failure> {
    let mut lines = io::BufReader::with_capacity(64 << 10, io::stdin().lock());
    let mut out = io::BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let (mut line, mut number) = (Vec::new(), 0u64);
    loop {
        line.clear();
        number += 1;
        let cannot =
            |error| Failure::new(Code::Failed, format!("cannot read line {number} of standard input: {error}"));
        if lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(cannot)? == 0 {
            return written(out.flush()).map(drop);
        }
        if line.len() as u64 == MAX_LINE_BYTES && line.last() != Some(&b'\n') {
            return Err(cannot(io::Error::other(format!("it is longer than {MAX_LINE_BYTES} bytes"))));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let answer = match std::str::from_utf8(&line) {
            Ok(line) => route::answer(line),
            Err(_) => json!({ "error": { "column": 1, "message": "the line is not UTF-8" } }),
        };
        let mut result = writeln!(out, "{answer}");
        // Whoever asks line by line waits for the answer.
        if lines.buffer().is_empty() {
            result = result.and_then(|()| out.flush());
        }
        if !written(result)? {
            return Ok(());
        }
    }
}

/// False: nobody reads on.
fn written(result: io::Result<()>) -> Result<bool, Failure> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(Code::Failed, format!("cannot write the answer: {error}"))),
    }
}

/// Tells which routes of a manifest take a message, and why the others do not.
pub(crate) fn explain(args: &Explain) -> Result<(), Failure> {
    let name = args.deployment.display().to_string();
    let text = input::text(&args.deployment)?;
    let reading = manifest::read(&text, &manifest::Context::new(&check_image))
        .map_err(|faults| Failure::manifest(&name, faults))?;
    let origin = origin(&args.source);
    let sample = args.message.as_deref().map(sample).transpose()?.map(|sample| sample.sent_by(&origin));
    let answer = Answer::new(&reading.deployment, &args.source, sample.as_ref());
    match args.format {
        Format::Json => output::data(&format!("{}\n", answer.to_json())),
        Format::Text => output::data(&answer.to_text()),
    }
}

/// Who sends messages from this source, as the host of this machine sees it.
fn origin(source: &str) -> Origin {
    let Some((module, output)) = module_output(source) else { return Origin::default() };
    // Settings that cannot be read say nothing of routes: then the device is not known.
    let device = config::load(None).and_then(|config| config.device_id()).ok();
    Origin { device: device.map(Into::into), module: Some(module.into()), output: Some(output.into()) }
}

fn sample(path: &Path) -> Result<Sample, Failure> {
    Sample::parse(&input::text(path)?)
        .map_err(|why| Failure::new(Code::Failed, format!("{}: {why}", path.display())).hint(
            "it is written as {\"properties\": {}, \"systemProperties\": {}, \"body\": any JSON}; docs/routes.md has more",
        ))
}

/// What becomes of a message from a source.
struct Answer<'d> {
    routes: Vec<Told<'d>>,
    has_message: bool,
}

/// What a route does with it.
struct Told<'d> {
    spec: &'d RouteSpec,
    matches: bool,
    explanation: Option<Explanation>,
    /// The route that decides in its place: it leads to the same sink and is more urgent, or stands before it.
    instead: Option<&'d str>,
}

impl<'d> Answer<'d> {
    fn new(deployment: &'d Deployment, source: &str, sample: Option<&Sample>) -> Self {
        let found = Table::new(deployment).routes(source);
        let specs = deployment.routes.iter().enumerate();
        let mut routes: Vec<Told<'d>> = specs
            .map(|(place, spec)| {
                let matches = found.contains(&place);
                let explanation = sample.filter(|_| matches).and_then(|sample| explanation(spec, sample));
                Told { spec, matches, explanation, instead: None }
            })
            .collect();
        let mut takers: Vec<usize> = (0..routes.len()).filter(|place| routes[*place].takes(sample.is_some())).collect();
        takers.sort_by_key(|place| routes[*place].spec.priority);
        for (order, place) in takers.iter().enumerate() {
            let sink = &routes[*place].spec.route.sink;
            let first = takers[..order].iter().find(|first| routes[**first].spec.route.sink == *sink);
            routes[*place].instead = first.map(|first| routes[*first].spec.name.as_str());
        }
        Self { routes, has_message: sample.is_some() }
    }

    fn to_json(&self) -> Value {
        let routes = self.routes.iter().map(|told| {
            let steps =
                told.explanation.iter().flat_map(|explanation| &explanation.steps).map(
                    |step| json!({ "depth": step.depth, "text": step.text, "value": step.value, "why": step.why }),
                );
            json!({
                "name": told.spec.name,
                "sink": told.spec.route.sink.to_string(),
                "condition": told.spec.route.condition.as_ref().map(route::Condition::text),
                "sourceMatches": told.matches,
                "result": told.explanation.as_ref().map(|explanation| explanation.truth.to_string()),
                "delivers": self.delivers(told),
                "insteadDelivers": told.instead,
                "steps": steps.collect::<Vec<_>>(),
            })
        });
        json!({ "routes": routes.collect::<Vec<_>>() })
    }

    /// Null where it depends on the message and there is none.
    fn delivers(&self, told: &Told<'_>) -> Option<bool> {
        match &told.spec.route.condition {
            Some(_) if told.matches && !self.has_message => None,
            _ => Some(told.takes(true) && told.instead.is_none()),
        }
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for told in &self.routes {
            text.push_str(&format!("{}: {}\n", told.spec.name, self.verdict(told)));
            text.push_str(&format!("  {}\n", told.spec.route));
            for step in told.explanation.iter().flat_map(|explanation| &explanation.steps) {
                let why = step.why.as_deref().map(|why| format!("  -- {why}")).unwrap_or_default();
                let indent = "  ".repeat(step.depth + 2);
                text.push_str(&format!("{indent}{} -> {}{why}\n", one_line(&step.text), one_line(&step.value)));
            }
        }
        if self.has_message && !self.routes.iter().any(|told| self.delivers(told) == Some(true)) {
            text.push_str("no route takes this message: it is accepted, dropped and counted\n");
        } else if !self.routes.iter().any(|told| told.matches) {
            text.push_str("no route has a source that matches: its messages are accepted, dropped and counted\n");
        }
        text.lines().map(|line| format!("{}\n", plain(line))).collect()
    }

    fn verdict(&self, told: &Told<'_>) -> String {
        if !told.matches {
            return "no: the source does not match".into();
        }
        match (&told.spec.route.condition, &told.explanation) {
            (Some(_), None) => "depends on the message: give one with --message".into(),
            (_, Some(explanation)) if explanation.truth != Truth::True => {
                format!("no: the condition is {}", explanation.truth)
            }
            _ => match told.instead {
                Some(name) => format!("yes, but `{name}` leads to the same sink and decides"),
                None => "yes".into(),
            },
        }
    }
}

impl Told<'_> {
    fn takes(&self, has_message: bool) -> bool {
        let true_or_none = match (&self.spec.route.condition, &self.explanation) {
            (None, _) => true,
            (Some(_), Some(explanation)) => explanation.truth == Truth::True,
            (Some(_), None) => false,
        };
        self.matches && true_or_none && (has_message || self.spec.route.condition.is_none())
    }
}

fn explanation(spec: &RouteSpec, sample: &Sample) -> Option<Explanation> {
    let condition = spec.route.condition.as_ref()?;
    let (plan, slots) = BodyPlan::sole(condition);
    Some(condition.explain(&sample.facts(&plan, &slots)))
}

/// Conditions and texts may hold line ends.
fn one_line(text: &str) -> String {
    const SHOWN: usize = 100;
    let flat = text.replace(['\n', '\r'], " ");
    match flat.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &flat[..end]),
        None => flat,
    }
}
