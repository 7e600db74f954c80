//! What the host says in its log: warnings and errors, for invariants that ask whether something was told.

use std::{
    fmt::Write,
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};

/// Since they were asked for last. One simulation runs at a time.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
static LISTENS: Once = Once::new();

fn said() -> MutexGuard<'static, Vec<String>> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on all that is said is heard.
pub(crate) fn listen() {
    LISTENS.call_once(|| {
        // An error: somebody else listens, and the invariants will say that nothing was heard.
        let _ = tracing::subscriber::set_global_default(Ears);
    });
    said().clear();
}

/// What was said since this was called last.
pub(crate) fn take() -> Vec<String> {
    std::mem::take(&mut said())
}

/// Keeps warnings and errors.
struct Ears;

impl Subscriber for Ears {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        said().push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// All fields of an event.
#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}
