//! `marram module inspect`: what a component is, asks for and offers, and whether this host could run it. Compiles
//! nothing: that the types fit too is seen when a host loads it. Verifies no signature: it tells which are attached.

use std::{collections::BTreeSet, path::Path};

use marram_engine::{ComponentKind, Refusal, Surface, survey};
use marram_registry::{DEFAULT_MAX_COMPONENT_BYTES, Description, Digest, Kind, Part, Registry, Signature};
use serde_json::{Value, json};

use crate::{
    access::{self, Fetched},
    args::{Format, Inspect},
    failure::{Code, Failure},
    input,
    output::{self, plain},
};

pub(crate) fn inspect(args: Inspect) -> Result<(), Failure> {
    let (bytes, origin) = if input::is_component_file(&args.subject) {
        if args.access.username.is_some() {
            return Err(access::not_in_a_registry(&args.subject));
        }
        (read(Path::new(&args.subject), &args.subject)?, None)
    } else {
        let describe = async |registry: &Registry| registry.describe(&args.subject, &[]).await;
        let (fetched, description) = access::fetch_and(&args.access, &args.subject, &std::env::temp_dir(), describe)?;
        let bytes = read(&fetched.artifact.path, &args.subject)?;
        (bytes, Some(origin(fetched, description, &args.subject)?))
    };
    let failed = |why: String| Failure::new(Code::Failed, format!("{}: {why}", args.subject));
    let mut report = Report::of(&bytes).map_err(failed)?;
    report.origin = origin;
    if args.wit {
        report.wit = Some(
            wit(&bytes)
                .map_err(|failure| Failure { message: format!("{}: {}", args.subject, failure.message), ..failure })?,
        );
    }
    output::data(&match (args.format, &report.wit) {
        (Format::Text, Some(wit)) => text_of(wit),
        (Format::Text, None) => report.to_text(),
        (Format::Json, _) => format!("{}\n", report.to_json()),
    })
}

/// A tag may move between two questions: what is told belongs together, or nothing is told.
fn origin(fetched: Fetched, description: Description, subject: &str) -> Result<Origin, Failure> {
    let manifest = fetched.artifact.manifest_digest;
    if description.documents.last().is_none_or(|document| document.digest != manifest) {
        let message = format!("{subject}: it was changed at its source while it was read");
        return Err(Failure::new(Code::Failed, message).hint("run the command again"));
    }
    Ok(Origin { reference: fetched.reference, manifest, description })
}

/// WIT holds names and comments of strangers; its line ends are its own.
fn text_of(wit: &str) -> String {
    wit.lines().map(|line| format!("{}\n", plain(line))).collect()
}

#[cfg(feature = "author")]
fn wit(bytes: &[u8]) -> Result<String, Failure> {
    crate::wit::text(bytes).map_err(|why| Failure::new(Code::Failed, why))
}

#[cfg(not(feature = "author"))]
fn wit(_: &[u8]) -> Result<String, Failure> {
    Err(Failure::new(Code::Usage, "this build of marram has no `--wit`: it was made without the feature `author`")
        .hint("use the full build of marram on another machine; `marram version` lists what this one has"))
}

fn read(path: &Path, name: &str) -> Result<Vec<u8>, Failure> {
    input::read_regular(path, DEFAULT_MAX_COMPONENT_BYTES)
        .map_err(|error| Failure::new(Code::Failed, format!("cannot read {name}: {error}")))
}

/// Where a component came from.
struct Origin {
    reference: String,
    manifest: String,
    description: Description,
}

/// What is told of a binary.
struct Report {
    kind: &'static str,
    size: usize,
    digest: Digest,
    /// Sorted, each with whether the host offers it.
    imports: Vec<(String, bool)>,
    /// Sorted.
    exports: Vec<String>,
    /// Why the host would not even compile it.
    refusal: Option<Refusal>,
    origin: Option<Origin>,
    /// If it was asked for.
    wit: Option<String>,
}

impl Report {
    fn of(bytes: &[u8]) -> Result<Self, String> {
        let found = marram_registry::inspect(bytes)?;
        Ok(Self {
            kind: kind(found.kind, &found.exports),
            size: bytes.len(),
            digest: Digest::of(bytes),
            imports: found.imports.into_iter().map(|name| (name.clone(), is_offered(name))).collect(),
            exports: found.exports,
            refusal: survey(bytes).and_then(|surface| surface.check()).err(),
            origin: None,
            wit: None,
        })
    }

    fn to_json(&self) -> Value {
        let imports: Vec<_> = self.imports.iter().map(|(name, met)| json!({ "name": name, "met": met })).collect();
        let mut report = json!({
            "kind": self.kind,
            "size": self.size,
            "componentDigest": self.digest.to_string(),
            "manifestDigest": self.origin.as_ref().map(|origin| &origin.manifest),
            "reference": self.origin.as_ref().map(|origin| &origin.reference),
            "exports": self.exports,
            "imports": imports,
            "refusal": self.refusal.as_ref().map(ToString::to_string),
            "artifact": self.origin.as_ref().map(|origin| &origin.description),
        });
        if let Some(wit) = &self.wit {
            report["wit"] = wit.as_str().into();
        }
        report
    }

    fn to_text(&self) -> String {
        let mut lines = Lines::default();
        if let Some(origin) = &self.origin {
            lines.add("reference", [origin.reference.clone()]);
            origin.add_to(&mut lines);
        }
        lines.add("component", [self.digest.to_string()]);
        lines.add("size", [format!("{} ({} bytes)", output::bytes(self.size as u64), self.size)]);
        lines.add("kind", [self.kind.to_owned()]);
        lines.add("refused", [self.refusal.as_ref().map_or_else(|| "no".into(), ToString::to_string)]);
        lines.add("exports", self.exports.iter().cloned());
        let width = self.imports.iter().map(|(name, _)| plain(name).chars().count()).max().unwrap_or(0);
        lines.add(
            "imports",
            self.imports.iter().map(|(name, met)| match met {
                true => name.clone(),
                false => format!("{name:<width$}  not offered by this host"),
            }),
        );
        lines.0
    }
}

impl Origin {
    fn add_to(&self, lines: &mut Lines) {
        let Description { documents, config, layers, signatures } = &self.description;
        let part = |part: &Part| format!("{}  {} bytes  {}", part.digest, part.size, part.media_type);
        if let Some((manifest, indexes)) = documents.split_last() {
            if !indexes.is_empty() {
                lines.add("index", indexes.iter().map(part));
            }
            lines.add("manifest", [part(manifest)]);
        }
        lines.add("config", [part(config)]);
        lines.add("layers", layers.iter().map(part));
        let annotated = documents.iter().chain(layers).flat_map(|part| &part.annotations);
        lines.add("annotations", annotated.map(|(name, value)| format!("{name}={value}")));
        lines.add("signatures", signatures.iter().map(signature));
    }
}

/// One line that claims no more than is known.
fn signature(signature: &Signature) -> String {
    let by = signature.key.as_ref().map_or_else(|| "a key that it does not name".to_owned(), Clone::clone);
    let about = match &signature.signs {
        Some(digest) if *digest == signature.subject => String::new(),
        Some(digest) => format!(", but for {digest}, which is something else"),
        None => ", for what cannot be read".to_owned(),
    };
    let statement = signature.statement.as_ref().map_or_else(String::new, |kind| format!(", {kind}"));
    format!("{}, not verified, by {by}{about}{statement}  {}", signature.kind.as_str(), signature.digest)
}

/// Names on the left, their values in one column.
#[derive(Default)]
struct Lines(String);

impl Lines {
    /// One line for each value, the name before the first.
    fn add(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        let mut values = values.into_iter().peekable();
        let none = values.peek().is_none().then(|| "none".to_owned());
        for (number, value) in values.chain(none).enumerate() {
            let name = if number == 0 { name } else { "" };
            self.0.push_str(&format!("{name:<11}  {}\n", plain(&value)));
        }
    }
}

/// As its exports show it, also of one that is refused for other reasons.
fn kind(kind: Kind, exports: &[String]) -> &'static str {
    let surface = Surface { exports: exports.iter().cloned().collect(), ..Surface::default() };
    match (kind, surface.check()) {
        (Kind::CoreModule, _) => "core-module",
        (Kind::Component, Ok(ComponentKind::Handler)) => "handler",
        (Kind::Component, Ok(ComponentKind::Program)) => "program",
        (Kind::Component, Err(_)) => "other",
    }
}

/// Whether the engine would refuse a component for this import.
fn is_offered(import: String) -> bool {
    let surface = Surface { imports: BTreeSet::from([import]), ..Surface::default() };
    !matches!(surface.check(), Err(Refusal::UnknownImports(_) | Refusal::Http(_) | Refusal::Async(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> Report {
        Report::of(&wat::parse_str(text).unwrap()).unwrap()
    }

    #[test]
    fn kinds_are_told_by_the_exports() {
        let component = |exports: &str| report(&format!("(component (instance $i) {exports})"));
        let handler = r#"(export "marram:edge/input-handler@0.1.0" (instance $i))"#;
        let program = r#"(export "wasi:cli/run@0.2.6" (instance $i))"#;
        assert_eq!(component(handler).kind, "handler");
        assert_eq!(component(program).kind, "program");
        assert!(component(program).refusal.is_none());
        for odd in ["", r#"(export "wasi:cli/run@0.3.0" (instance $i))"#, &format!("{handler}{program}")] {
            let report = component(odd);
            assert_eq!(report.kind, "other", "{odd}");
            assert!(report.refusal.is_some(), "{odd}");
        }
        let core = report(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#);
        assert_eq!((core.kind, &core.imports[0]), ("core-module", &("wasi_snapshot_preview1".to_owned(), false)));
        assert!(matches!(core.refusal, Some(Refusal::CoreModule)));
    }

    #[test]
    fn each_import_is_told_with_whether_the_host_offers_it() {
        let report = report(
            r#"(component
                (import "wasi:http/types@0.2.6" (instance)) (import "wasi:cli/stdin@0.3.0" (instance))
                (import "wasi:cli/stdin@0.2.6" (instance)) (import "marram:edge/twin@0.1.0" (instance))
                (import "own:thing/api" (instance)) (instance $i)
                (export "marram:edge/input-handler@0.1.0" (instance $i)))"#,
        );
        let imports: Vec<_> = report.imports.iter().map(|(name, met)| (name.as_str(), *met)).collect();
        let expected = [
            ("marram:edge/twin@0.1.0", true),
            ("own:thing/api", false),
            ("wasi:cli/stdin@0.2.6", true),
            ("wasi:cli/stdin@0.3.0", false),
            ("wasi:http/types@0.2.6", false),
        ];
        assert_eq!(imports, expected);
        assert_eq!(report.kind, "handler", "what it is does not hang on what it asks for");
    }

    #[test]
    fn text_stands_in_two_columns() {
        let text = report(r#"(component (import "a:b/c" (instance)) (import "a:b/long-name" (instance)))"#).to_text();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[2].starts_with("kind         other"), "{text}");
        assert_eq!(lines[4], "exports      none");
        assert_eq!(lines[5], "imports      a:b/c          not offered by this host");
        assert_eq!(lines[6], "             a:b/long-name  not offered by this host");
    }
}
