//! Reads what a component asks for and offers, and refuses before compiling what could never run here, with the tool to
//! use instead. Compiles nothing, looks at no type: linking does.

use std::collections::BTreeSet;

use marram_core::ports::Exports;
use wasmparser::{CanonicalFunction, CanonicalOption, Encoding, Parser, Payload};

use crate::{cost::CostReader, limits::MAX_INSTANCES, link::adapters};

/// Imports and exports of a component, and whether it uses the async ABI.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surface {
    /// Names of the component's own imports, e.g. `wasi:cli/environment@0.2.3`.
    pub imports: BTreeSet<String>,
    /// Names of its exports, e.g. `marram:edge/input-handler@0.1.0`.
    pub exports: BTreeSet<String>,
    /// Lifts or lowers with the async ABI of WASI 0.3.
    pub uses_async: bool,
    /// Host memory of one instance in bytes, without linear memories and tables: globals, function references and the
    /// like of all core instances. An estimate from the component's sections.
    pub instance_bytes: u64,
    /// Core instances of one instance.
    pub core_instances: u64,
}

/// How the host runs a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComponentKind {
    /// Exports `wasi:cli/run`.
    Program,
    /// Exports handlers of `marram:edge`.
    Handler,
}

/// Why a component cannot run here, before it is compiled. One line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What its first bytes show, and what to try.
    #[error("not a WebAssembly component: {0}")]
    NotWasm(&'static str),
    /// The parser's words.
    #[error("not a WebAssembly component: {0}; it is damaged or cut off, or made by tools newer than this host")]
    Malformed(String),
    /// A module of WASI preview 1 or the like.
    #[error(
        "a core WebAssembly module, not a component; build it for WASI 0.2 (Rust: target wasm32-wasip2), or make a \
         component of it with `marram module componentize`"
    )]
    CoreModule,
    /// What shows it.
    #[error(
        "needs WASI 0.3 or the async ABI ({0}); rebuild it for WASI 0.2 (Rust: target wasm32-wasip2, no async exports)"
    )]
    Async(String),
    /// All names that the host does not have.
    #[error(
        "imports what this host does not have: {0}; it offers wasi:cli, clocks, filesystem, io, random and sockets @0.2, \
         marram:edge@0.1, and as adapters {adapters}",
        adapters = adapters().collect::<Vec<_>>().join(", ")
    )]
    UnknownImports(String),
    /// All names that the host does not have, `wasi:http` among them.
    #[error(
        "imports what this host does not have: {0}; it has no wasi:http, and toolchains can leave it out \
         (componentize-js: `-d http fetch-event`; others: a WIT world without it), since messages reach \
         modules through routes"
    )]
    Http(String),
    /// More than the host makes.
    #[error("has {0} core instances, at most {MAX_INSTANCES} are made; link its modules into fewer")]
    TooManyInstances(u64),
    /// What is instantiated cannot be told before it runs.
    #[error("instantiates core modules or components that it gets as arguments; link them statically")]
    Arguments,
    /// No export that the host would call.
    #[error(
        "exports nothing that the host could call; expected `wasi:cli/run@0.2` or one of marram:edge@0.1's \
         start-handler, input-handler, twin-handler, timer-handler, method-handler, or `wasi:messaging/incoming-handler@0.2.0-draft`"
    )]
    NoHandler,
    /// Two ways to receive, of which one would get nothing.
    #[error(
        "imports `marram:edge/inbox`, which is for programs, and exports handlers; take messages in `input-handler`, or \
         build it as a program (`wasi:cli/run`)"
    )]
    InboxInHandler,
    /// Which of the two would get the messages?
    #[error(
        "exports `marram:edge/input-handler` and `wasi:messaging/incoming-handler`; messages go to one of them: leave the \
         other out"
    )]
    TwoInputHandlers,
    /// Both kinds at once.
    #[error(
        "exports `wasi:cli/run` and handlers of marram:edge; a component is either a program or handlers: build it as a \
         library (reactor), or split it in two"
    )]
    Ambiguous,
}

/// Interfaces of WASI 0.2 that the engine links.
const WASI: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// Interfaces of `wit/` that a guest may import.
const MARRAM: &[&str] = &[
    "marram:edge/durable-timers",
    "marram:edge/inbox",
    "marram:edge/messaging",
    "marram:edge/method-types",
    "marram:edge/methods",
    "marram:edge/module-info",
    "marram:edge/state",
    "marram:edge/timers",
    "marram:edge/twin",
    "marram:edge/twin-watch",
    "marram:edge/types",
];

/// Reads a component's surface.
///
/// # Errors
/// [`Refusal::NotWasm`], [`Refusal::Malformed`], [`Refusal::CoreModule`] or [`Refusal::Arguments`].
pub fn survey(bytes: &[u8]) -> Result<Surface, Refusal> {
    first_bytes(bytes).map_or(Ok(()), |what| Err(Refusal::NotWasm(what)))?;
    let mut surface = Surface::default();
    let mut depth = 0_usize;
    let mut costs = CostReader::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(malformed)?;
        costs.read(&payload)?;
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } if depth == 0 => return Err(Refusal::CoreModule),
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    surface.imports.insert(import.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    surface.exports.insert(export.map_err(malformed)?.name.name.to_owned());
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    surface.uses_async |= is_async(&function.map_err(malformed)?);
                }
            }
            _ => {}
        }
    }
    let cost = costs.total();
    surface.instance_bytes = cost.bytes;
    surface.core_instances = cost.instances;
    Ok(surface)
}

/// What a file that does not begin as WebAssembly does may be.
fn first_bytes(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.trim_ascii_start();
    match bytes {
        [] => Some("it is empty; build it again"),
        _ if bytes.starts_with(&b"\0asm"[..bytes.len().min(4)]) => None,
        _ if text.starts_with(b"(") => {
            Some("it is WebAssembly as text; make a binary of it with `wasm-tools parse FILE.wat -o FILE.wasm`")
        }
        _ => Some("it does not begin as WebAssembly does; name the `.wasm` file that the compiler wrote"),
    }
}

/// The parser spreads some messages over many lines.
pub(crate) fn malformed(error: wasmparser::BinaryReaderError) -> Refusal {
    Refusal::Malformed(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
}

fn is_async(function: &CanonicalFunction) -> bool {
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
            options.contains(&CanonicalOption::Async)
        }
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => false,
        _ => true, // all others are built-ins of the async ABI and of threads
    }
}

impl Surface {
    /// Whether it can run here, and how.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self) -> Result<ComponentKind, Refusal> {
        if let Some(name) = self.imports.iter().chain(&self.exports).find(|name| is_wasi_03(name)) {
            return Err(Refusal::Async(format!("`{name}`")));
        }
        if self.uses_async {
            return Err(Refusal::Async("async lifting".into()));
        }
        let unknown: Vec<_> =
            self.imports.iter().filter(|name| !is_known(name)).map(|name| format!("`{name}`")).collect();
        if unknown.iter().any(|name| name.starts_with("`wasi:http/")) {
            return Err(Refusal::Http(unknown.join(", ")));
        }
        if !unknown.is_empty() {
            return Err(Refusal::UnknownImports(unknown.join(", ")));
        }
        if self.export(INPUT).is_some() && self.export(INCOMING).is_some() {
            return Err(Refusal::TwoInputHandlers);
        }
        if self.core_instances > MAX_INSTANCES as u64 {
            return Err(Refusal::TooManyInstances(self.core_instances));
        }
        match self.kind()? {
            ComponentKind::Handler if self.imports_inbox() => Err(Refusal::InboxInHandler),
            kind => Ok(kind),
        }
    }

    /// Whether it asks for messages by itself.
    pub(crate) fn imports_inbox(&self) -> bool {
        self.imports.iter().any(|name| is_version_of(name, INBOX, MARRAM_SERIES))
    }

    /// Whether it sets timers that outlive it.
    pub(crate) fn imports_durable_timers(&self) -> bool {
        self.imports.iter().any(|name| is_version_of(name, DURABLE_TIMERS, MARRAM_SERIES))
    }

    /// Program or handlers.
    ///
    /// # Errors
    /// Neither, or both: which of the two was meant cannot be guessed, and a handler whose `run` never runs, or a program
    /// whose handlers never do, would fail silently.
    pub(crate) fn kind(&self) -> Result<ComponentKind, Refusal> {
        let Exports { run, start, input, twin, timer, method } = self.handlers();
        match (run, start || input || twin || timer || method) {
            (true, false) => Ok(ComponentKind::Program),
            (false, true) => Ok(ComponentKind::Handler),
            (false, false) => Err(Refusal::NoHandler),
            (true, true) => Err(Refusal::Ambiguous),
        }
    }

    /// Which of the exports the host would call.
    pub(crate) fn handlers(&self) -> Exports {
        let has = |interface| self.export(interface).is_some();
        let input = has(INPUT) || has(INCOMING);
        Exports { run: has(RUN), start: has(START), input, twin: has(TWIN), timer: has(TIMER), method: has(METHOD) }
    }

    /// The full name of the export of an interface, e.g. with its patch version.
    pub(crate) fn export(&self, interface: Interface) -> Option<&str> {
        self.exports.iter().find(|name| is_version_of(name, interface.0, interface.1)).map(String::as_str)
    }
}

/// Name of an interface and the series of versions that the host knows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interface(&'static str, &'static str);

pub(crate) const RUN: Interface = Interface("wasi:cli/run", WASI_SERIES);
pub(crate) const START: Interface = Interface("marram:edge/start-handler", MARRAM_SERIES);
pub(crate) const INPUT: Interface = Interface("marram:edge/input-handler", MARRAM_SERIES);
pub(crate) const INCOMING: Interface = Interface("wasi:messaging/incoming-handler", WASI_MESSAGING_DRAFT);
pub(crate) const TWIN: Interface = Interface("marram:edge/twin-handler", MARRAM_SERIES);
pub(crate) const TIMER: Interface = Interface("marram:edge/timer-handler", MARRAM_SERIES);
pub(crate) const METHOD: Interface = Interface("marram:edge/method-handler", MARRAM_SERIES);

const INBOX: &str = "marram:edge/inbox";
const DURABLE_TIMERS: &str = "marram:edge/durable-timers";
const WASI_SERIES: &str = "0.2.";
const MARRAM_SERIES: &str = "0.1.";
const WASI_MESSAGING_DRAFT: &str = "0.2.0-draft";

fn is_known(import: &str) -> bool {
    WASI.iter().any(|name| is_version_of(import, name, WASI_SERIES))
        || MARRAM.iter().any(|name| is_version_of(import, name, MARRAM_SERIES))
        || adapters().any(|name| name == import)
}

/// `name@0.2.7` is a version of `name` in the series `0.2.`; pre-releases are not. A series that does not end in a dot is
/// one version.
fn is_version_of(full: &str, interface: &str, series: &str) -> bool {
    full.strip_prefix(interface)
        .and_then(|rest| rest.strip_prefix('@'))
        .and_then(|version| version.strip_prefix(series))
        .is_some_and(|patch| {
            patch.is_empty() != series.ends_with('.') && patch.bytes().all(|byte| byte.is_ascii_digit())
        })
}

fn is_wasi_03(name: &str) -> bool {
    name.starts_with("wasi:") && name.split_once('@').is_some_and(|(_, version)| version.starts_with("0.3."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_webassembly_is_told_in_one_line_with_what_to_try() {
        for (bytes, expected) in [
            (&b""[..], "it is empty; build it again"),
            (b"\x7fELF\x02", "it does not begin as WebAssembly does; name the `.wasm` file"),
            (b"not\nwasm", "it does not begin as WebAssembly does; name the `.wasm` file"),
            (b"\n (component)", "it is WebAssembly as text; make a binary of it with `wasm-tools parse"),
            (b"\0as", "it is damaged or cut off, or made by tools newer than this host"),
            (b"\0asm\x0d\0\x02\0", "it is damaged or cut off, or made by tools newer than this host"),
            (b"\0asm\x0d\0\x01\0zzz", "it is damaged or cut off, or made by tools newer than this host"),
        ] {
            let told = survey(bytes).unwrap_err().to_string();
            assert!(told.starts_with("not a WebAssembly component: ") && told.contains(expected), "{told}");
            assert!(!told.contains(char::is_control), "{told:?}");
        }
    }
}
