//! The world around a simulated host, shared by its made-up parts: what they hold outlives the hosts; what they see is written into a
//! trace and checked at once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use marram_core::methods::{InvokeError, MethodRequest, MethodResponse, Timeouts};

use crate::{
    beats::Beats,
    calls::Calls,
    cloud::Cloud,
    disk::Disk,
    fate::{Fate, Fates},
    invariants::{Watch, memory_of},
    reports::Reports,
    rollouts::{self, Rollouts},
    seen::Seen,
    time::now,
};

/// The worlds, shared by the lives of a host.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<Inner>>);

pub(crate) struct Inner {
    pub(crate) fates: Fates,
    /// From now on nothing fails.
    pub(crate) calm: bool,
    /// No registry can be reached.
    pub(crate) away: bool,
    /// The owner's ceiling on memory, in MiB, at the next start of the host.
    pub(crate) ceiling: Option<u64>,
    /// The host was killed: what is left of it neither writes nor counts.
    pub(crate) dead: bool,
    pub(crate) disk: Disk,
    pub(crate) seen: Seen,
    pub(crate) rollouts: Rollouts,
    attempts: BTreeMap<(String, String), u64>,
    pub(crate) instances: u64,
    trace: Vec<(u64, String, String)>,
    pub(crate) watch: Watch,
    pub(crate) calls: Calls,
    pub(crate) beats: Beats,
    pub(crate) cloud: Cloud,
    pub(crate) reports: Reports,
    /// Guests report nothing more.
    pub(crate) quiet: bool,
}

impl World {
    pub(crate) fn new(fates: Fates) -> Self {
        let seed = fates.seed();
        Self(Arc::new(Mutex::new(Inner {
            fates,
            calm: false,
            away: false,
            ceiling: None,
            dead: false,
            disk: Disk::new(seed),
            seen: Seen::default(),
            rollouts: Rollouts::default(),
            attempts: BTreeMap::new(),
            instances: 0,
            trace: Vec::new(),
            watch: Watch::default(),
            calls: Calls::default(),
            beats: Beats::default(),
            cloud: Cloud::new(seed),
            reports: Reports::default(),
            quiet: false,
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub(crate) fn begins(&mut self, module: &str, instance: u64, number: u64) {
        if !self.dead {
            self.note_of(module, format!("begin {number} {module}"));
            self.calls.begins(module, instance, number);
        }
    }

    /// Whether guests may trap amid a change of their desired properties.
    pub(crate) fn may_trap(&self) -> bool {
        self.fates.are_by_chance() && !self.calm
    }

    /// Whether the image that the deployment in force wants for a module has a durable timer.
    pub(crate) fn has_beats(&self, module: &str) -> bool {
        let wanted = self.watch.deployments.last().and_then(|deployment| deployment.get(module));
        wanted.is_some_and(|wanted| self.fates.of(&wanted.image, module, 0).beats.is_some())
    }

    /// A line of the trace: what happens from outside.
    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.note_of("", line);
    }

    /// A line of the trace, of a module or an image.
    pub(crate) fn note_of(&mut self, subject: &str, line: impl Into<String>) {
        if !self.dead {
            self.trace.push((now(), subject.into(), line.into()));
        }
    }

    /// A caller hears.
    pub(crate) fn answered(&mut self, number: u64, module: &str, answer: &Result<MethodResponse, InvokeError>) {
        if !self.dead {
            let word = self.calls.ended(number, answer);
            self.note_of(module, format!("call {number} {module}: {word}"));
        }
    }

    /// The trace, a line each. What happens in the same millisecond stands by module: tasks may run in any order.
    pub(crate) fn trace(&self) -> String {
        let mut lines = self.trace.clone();
        lines.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        lines.iter().map(|(at, _, line)| format!("{:>9}.{:03} {line}\n", at / 1000, at % 1000)).collect()
    }

    /// A deployment is stored: from now on it counts, and the one before no longer once the host has been told.
    pub(crate) fn is_stored(&mut self, document: &[u8]) {
        let told = self.rollouts.stored(document);
        if let Some(line) = told.line {
            self.note(line);
        }
        self.watch.deployments.push(told.deployment);
        self.watch.is_in_force();
        self.watch.forget_failures();
        self.watch.broken.extend(told.broken.into_iter().map(|name| format!("{name}, at {} ms", now())));
    }

    /// The owner's ceiling counts from now on.
    pub(crate) fn begins_under_the_ceiling(&mut self) {
        let (ceiling, needed) = (self.ceiling, self.watch.deployments.last().map_or(0, memory_of));
        self.watch.begins_under(ceiling);
        if ceiling.is_some_and(|most| needed > most) {
            self.seen.note("a start under a ceiling that was lowered below what is in force");
        }
    }

    /// A host begins: what is in force may be older than what was.
    pub(crate) fn begins_with_what_is_stored(&mut self, at: u64, damages: Option<&str>) {
        let forgot = self.disk.take_behind("history") || damages == Some("history");
        let lost = damages == Some("deployment");
        let history = self.disk.in_force("history");
        // One that is damaged is had back from the history, if that knows of it.
        let accepted = self.disk.damaged("deployment").filter(|document| rollouts::knows(history, document));
        let document = accepted.or_else(|| self.disk.in_force("deployment"));
        let lost = lost && accepted.is_none();
        let deployment = self.rollouts.begins(document, history, at, (forgot, lost));
        self.watch.deployments.push(deployment);
        self.watch.is_in_force();
        self.watch.forget_failures();
    }

    pub(crate) fn fate(&mut self, image: &str, module: &str) -> Fate {
        let attempt = self.attempts.entry((image.into(), module.into())).or_default();
        *attempt += 1;
        let fate = self.fates.of(image, module, *attempt);
        if self.calm {
            return Fate {
                missing: false,
                unreachable: false,
                altered: false,
                refused: false,
                start_exit: None,
                life: None,
                sick: None,
                ..fate
            };
        }
        fate
    }
}

/// A call that says its number.
pub(crate) fn request(number: u64, connect: u64, response: u64) -> MethodRequest {
    let millis = |millis| Some(Duration::from_millis(millis));
    let timeouts = Timeouts { response: millis(response), connect: millis(connect) };
    MethodRequest::new("m", &number.to_string(), timeouts).unwrap_or_else(|bad| panic!("{bad}"))
}
