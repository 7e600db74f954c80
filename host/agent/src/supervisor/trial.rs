//! Watches whether the deployment in force is good, by what is observed of its modules. Tells it; what follows is not decided here.

use std::{collections::BTreeMap, time::Duration};

use marram_core::{
    name::ModuleName,
    planner::held_up,
    rollout::{Fault, Fitness, MAX_TIMEOUTS, Standing, Trial, Verdict, failures, standings},
    time::Uptime,
};

use super::Supervisor;

/// What became of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judged {
    /// Its version.
    pub(crate) version: u64,
    pub(crate) judgement: Judgement,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    Good,
    /// `again`: nothing is held against it.
    Bad {
        because: String,
        again: bool,
    },
}

/// A suspension that is shorter is lost in how the clocks are rounded, and costs nobody anything.
const SUSPENDED: Duration = Duration::from_secs(1);

/// A trial, and whether it was told that the deployment is bad.
pub(super) struct Watched {
    trial: Trial,
    told: bool,
}

impl Watched {
    pub(super) fn new(trial: Trial) -> Self {
        Self { trial, told: false }
    }

    /// What could not be stored with the deployment is.
    pub(super) fn is_stored(&mut self, now: Uptime) {
        self.trial.is_stored(now);
    }
}

impl Supervisor {
    /// Lets no time count in which the device was suspended. To be done before anything is made of an event.
    pub(super) fn heed_suspension(&mut self) {
        let suspended = self.worlds.clock.suspended();
        let by = suspended.saturating_sub(self.suspended);
        if by < SUSPENDED {
            return;
        }
        self.suspended = suspended;
        let now = self.worlds.clock.uptime();
        self.observed.suspended(by, now);
        for watch in self.records.values_mut().filter_map(|record| record.watch.as_mut()) {
            watch.checks.suspended(by, now);
        }
        if let Some(watched) = &mut self.trial {
            watched.trial.suspended(by);
        }
    }

    /// Looks at the modules; says when to look again if nothing happens before.
    pub(super) fn watch_trial(&mut self) -> Option<Uptime> {
        let mut watched = self.trial.take()?;
        let standings: Vec<(&ModuleName, Standing)> = self.standings().collect();
        let look = watched.trial.look(standings, self.worlds.clock.uptime());
        match look.verdict {
            Verdict::Open => {}
            Verdict::Good => {
                self.tell(Judgement::Good);
                return None;
            }
            Verdict::Bad { module, fault } => {
                if !watched.told {
                    watched.told = true;
                    self.tell(Judgement::Bad { because: self.why(&module, fault), again: fault.is_excused() });
                }
            }
        }
        self.trial = Some(watched);
        look.wake_at
    }

    /// What failed for good did so without its desired properties: it has its chance with them.
    pub(super) fn on_stored(&mut self, modules: &[ModuleName], all: bool) {
        let failed = |(name, standing): (&ModuleName, Standing)| {
            (standing == Standing::Failed && modules.contains(name)).then(|| name.clone())
        };
        let failed: Vec<ModuleName> = self.standings().filter_map(failed).collect();
        for name in failed {
            tracing::info!(module = %name, "its desired properties are stored now; it is started again");
            self.make_startable(&name);
        }
        if let Some(watched) = self.trial.as_mut().filter(|_| all) {
            watched.is_stored(self.worlds.clock.uptime());
        }
    }

    /// How all modules have fared under the deployment in force.
    pub(super) fn fitness(&self) -> BTreeMap<ModuleName, Fitness> {
        let (now, probation) = (self.worlds.clock.uptime(), self.desired.rollout.probation);
        let has_failed = |name: &ModuleName| {
            let (spec, module) = (self.desired.modules.get(name)?, self.observed.modules.get(name)?);
            Some(failures(spec, module) > 0 && self.records.get(name)?.has_failed())
        };
        self.standings()
            .map(|(name, it)| (name.clone(), it.fitness(has_failed(name) == Some(true), probation, now)))
            .collect()
    }

    pub(super) fn standings(&self) -> impl Iterator<Item = (&ModuleName, Standing)> {
        let unreachable = |name: &ModuleName| self.records.get(name).is_some_and(|record| record.unreachable);
        standings(&self.desired, &self.observed, unreachable, self.worlds.clock.uptime()).into_iter()
    }

    fn tell(&self, judgement: Judgement) {
        self.worlds.judgements.send_replace(Some(Judged { version: self.version, judgement }));
    }

    fn why(&self, module: &ModuleName, fault: Fault) -> String {
        let held_up = held_up(&self.desired, &self.observed, self.worlds.clock.uptime());
        let trouble = match held_up.by_room.contains(module) {
            true => Some("there is no room for it under `modules.max-memory-bytes`".into()),
            false => self.records.get(module).and_then(|record| record.trouble()),
        };
        let trouble = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
        let timeout = self.desired.rollout.timeout();
        match fault {
            Fault::Lasting => format!("module `{module}` failed, and is not started again{trouble}"),
            Fault::Late | Fault::Absent => {
                format!("module `{module}` was not healthy within {} s{trouble}", timeout.as_secs())
            }
            Fault::Unstored => {
                let why = self.unstored.as_ref().map(|unstored| unstored.why.as_str()).unwrap_or_default();
                format!("{why}, and not within {} s either", timeout.as_secs())
            }
            Fault::InTurn => {
                let seconds = timeout.saturating_mul(MAX_TIMEOUTS).as_secs();
                format!(
                    "the modules were never healthy at the same time within {seconds} s; now `{module}` is not{trouble}"
                )
            }
        }
    }
}
