//! When twins and upstream are brought together: what is reported at most each 5 s for a module, and the whole document after a
//! gap or a new connection. Asks nobody: `agent::twins::sync` carries the steps out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{name::ModuleName, queue::retry_delay, time::Uptime};

/// Shortest time between two reports of one module to upstream; what is reported meanwhile goes as one patch. IoT Edge's number.
pub const BETWEEN_REPORTS: Duration = Duration::from_secs(5);

/// What is due between upstream and which twin.
#[derive(Debug, Default)]
pub struct TwinSync {
    progress: BTreeMap<ModuleName, Progress>,
    /// Whose twins were asked for since upstream was reached; none: it never was.
    asked: Option<BTreeSet<ModuleName>>,
}

#[derive(Debug, Default)]
struct Progress {
    document: Wish,
    report: Wish,
}

#[derive(Debug, Clone, Copy, Default)]
struct Wish {
    wanted: bool,
    not_before: Uptime,
    failures: u32,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncStep {
    /// Ask upstream for the whole twin.
    Fetch(ModuleName),
    /// Tell upstream what was reported.
    Report(ModuleName),
}

impl TwinSync {
    /// Upstream can be reached (again): changes may have been missed, and what it has of the reported properties is not known.
    pub fn connected(&mut self, modules: impl IntoIterator<Item = ModuleName>) {
        self.asked = Some(BTreeSet::new());
        self.deployed(modules);
    }

    /// These modules are deployed now: of those that are new nothing is known, once upstream has been reached.
    pub fn deployed(&mut self, modules: impl IntoIterator<Item = ModuleName>) {
        let Some(asked) = &mut self.asked else { return };
        let now: BTreeSet<ModuleName> = modules.into_iter().collect();
        let before = std::mem::replace(asked, now.clone());
        for module in now.into_iter().filter(|module| !before.contains(module)) {
            let progress = self.progress.entry(module).or_default();
            for wish in [&mut progress.document, &mut progress.report] {
                (wish.wanted, wish.failures) = (true, 0);
            }
            // It may have waited long for the connection; a report may still be too soon after the last.
            progress.document.not_before = Uptime::default();
        }
    }

    /// A patch of this module is missing.
    pub fn gap(&mut self, module: ModuleName) {
        self.progress.entry(module).or_default().document.wanted = true;
    }

    /// This module has reported something.
    pub fn reported(&mut self, module: ModuleName) {
        self.progress.entry(module).or_default().report.wanted = true;
    }

    /// What is to be done now. The document first: with it comes what upstream has of the reported properties.
    #[must_use]
    pub fn next(&self, now: Uptime) -> Option<SyncStep> {
        let is_due = |wish: Wish| wish.wanted && wish.not_before <= now;
        self.progress.iter().find_map(|(module, progress)| {
            if is_due(progress.document) {
                Some(SyncStep::Fetch(module.clone()))
            } else if is_due(progress.report) && !progress.document.wanted {
                Some(SyncStep::Report(module.clone()))
            } else {
                None
            }
        })
    }

    /// When there is something to do; none: not before something happens.
    #[must_use]
    pub fn next_due(&self) -> Option<Uptime> {
        let due = self.progress.values().filter_map(|Progress { document, report }| {
            let wish = if document.wanted { document } else { report };
            wish.wanted.then_some(wish.not_before)
        });
        due.min()
    }

    /// Modules whose reports wait, whether or not they are due: for the last tries before an end.
    pub fn unreported(&self) -> impl Iterator<Item = &ModuleName> {
        self.progress.iter().filter(|(_, progress)| progress.report.wanted).map(|(module, _)| module)
    }

    /// It was done.
    pub fn done(&mut self, step: &SyncStep, now: Uptime) {
        let wish = self.wish(step);
        (wish.wanted, wish.failures) = (false, 0);
        if let SyncStep::Report(_) = step {
            wish.not_before = now.after(BETWEEN_REPORTS);
        }
    }

    /// It failed, and is tried again after a back-off, for ever; `jitter` in 0..1 spreads the tries. A report may have arrived all the
    /// same, and what it said be gone here by the next one, which would not take it back: so upstream is asked first what it has.
    pub fn failed(&mut self, step: &SyncStep, now: Uptime, jitter: f64) {
        let wish = self.wish(step);
        wish.failures = wish.failures.saturating_add(1);
        let not_before = now.after(retry_delay(wish.failures, jitter));
        wish.not_before = not_before;
        if let SyncStep::Report(module) = step {
            let document = &mut self.progress.entry(module.clone()).or_default().document;
            document.wanted = true;
            document.not_before = document.not_before.max(not_before);
        }
    }

    fn wish(&mut self, step: &SyncStep) -> &mut Wish {
        match step {
            SyncStep::Fetch(module) => &mut self.progress.entry(module.clone()).or_default().document,
            SyncStep::Report(module) => &mut self.progress.entry(module.clone()).or_default().report,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn m(name: &str) -> ModuleName {
        ModuleName::new(name).unwrap()
    }

    #[test]
    fn a_report_goes_at_once_and_the_next_five_seconds_later() {
        let mut sync = TwinSync::default();
        sync.reported(m("a"));
        let report = SyncStep::Report(m("a"));
        assert_eq!(sync.next(Uptime(10)), Some(report.clone()));
        sync.done(&report, Uptime(10));
        sync.reported(m("a"));
        sync.reported(m("b"));
        assert_eq!(sync.next(Uptime(11)), Some(SyncStep::Report(m("b"))), "each module has its own time");
        sync.done(&SyncStep::Report(m("b")), Uptime(11));
        assert_eq!((sync.next(Uptime(5_009)), sync.next_due()), (None, Some(Uptime(5_010))));
        assert_eq!(sync.next(Uptime(5_010)), Some(report));
    }

    #[test]
    fn a_module_that_is_deployed_after_the_connection_is_asked_for_once() {
        let mut sync = TwinSync::default();
        sync.deployed([m("a")]);
        assert_eq!(sync.next(Uptime(0)), None, "there is nobody to ask");
        sync.connected([]);
        assert_eq!(sync.next(Uptime(0)), None);
        sync.deployed([m("a")]);
        let fetch = SyncStep::Fetch(m("a"));
        assert_eq!(sync.next(Uptime(0)), Some(fetch.clone()));
        sync.done(&fetch, Uptime(0));
        sync.done(&SyncStep::Report(m("a")), Uptime(0));
        sync.deployed([m("a"), m("b")]);
        assert_eq!(sync.next(Uptime(1)), Some(SyncStep::Fetch(m("b"))), "a is known");
        sync.deployed([m("b")]);
        sync.deployed([m("a"), m("b")]);
        assert_eq!(sync.next(Uptime(1)), Some(fetch), "it was away, and may be another");
    }

    #[test]
    fn a_connection_asks_for_the_document_before_it_reports() {
        let mut sync = TwinSync::default();
        sync.connected([m("a")]);
        let fetch = SyncStep::Fetch(m("a"));
        assert_eq!(sync.next(Uptime(0)), Some(fetch.clone()));
        sync.failed(&fetch, Uptime(0), 0.5);
        assert_eq!(sync.next(Uptime(0)), None, "no report either: what upstream has is not known");
        let due = sync.next_due().unwrap();
        assert!(due > Uptime(0));
        assert_eq!(sync.next(due), Some(fetch.clone()));
        sync.failed(&fetch, due, 0.5);
        sync.connected([m("a")]);
        assert_eq!(sync.next(due), Some(fetch.clone()), "a new connection is a new chance");
        sync.done(&fetch, due);
        assert_eq!(sync.next(due), Some(SyncStep::Report(m("a"))));
    }

    #[test]
    fn after_a_report_that_failed_upstream_is_asked_what_it_has() {
        let mut sync = TwinSync::default();
        sync.reported(m("a"));
        let (report, fetch) = (SyncStep::Report(m("a")), SyncStep::Fetch(m("a")));
        assert_eq!(sync.next(Uptime(0)), Some(report.clone()));
        sync.failed(&report, Uptime(0), 0.5);
        assert_eq!(sync.next(Uptime(0)), None);
        let due = sync.next_due().unwrap();
        assert_eq!(sync.next(due), Some(fetch.clone()), "it may have arrived, and its receipt not");
        sync.done(&fetch, due);
        assert_eq!(sync.next(due), Some(report));
    }

    proptest! {
        #[test]
        fn no_two_reports_of_a_module_are_closer_than_five_seconds_and_none_is_forgotten(
            events in prop::collection::vec((0_u64..4_000, 0_usize..3, any::<bool>()), 1..60)
        ) {
            let mut sync = TwinSync::default();
            let (mut now, mut last) = (Uptime(0), [None::<Uptime>; 3]);
            for (passed, which, fails) in events {
                now = Uptime(now.0 + passed);
                let name = m(["a", "b", "c"][which]);
                sync.reported(name.clone());
                while let Some(step) = sync.next(now) {
                    let SyncStep::Report(module) = &step else {
                        sync.done(&step, now);
                        continue;
                    };
                    let slot = &mut last[usize::from(module.as_str().as_bytes()[0] - b'a')];
                    prop_assert!(slot.is_none_or(|last| now.since(last) >= BETWEEN_REPORTS));
                    if fails {
                        sync.failed(&step, now, 0.5);
                    } else {
                        *slot = Some(now);
                        sync.done(&step, now);
                    }
                }
                prop_assert!(sync.next_due().is_none_or(|due| due > now));
            }
            let late = Uptime(now.0 + 3_600_000);
            while let Some(step) = sync.next(late) {
                sync.done(&step, late);
            }
            prop_assert_eq!(sync.unreported().count(), 0);
        }
    }
}
