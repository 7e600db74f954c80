//! A simulated host over its lives: the real agent in a paused runtime, and what happens to it.

mod rest;
mod twins;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use marram_agent::{Agent, ApplyError, Config, ModuleStatus};
use marram_core::{
    ports::{DirectMethods, UpstreamEvent},
    rollout::{Entry, Outcome},
};
use marram_store::log;
use tokio::runtime::Runtime;

use self::twins::Answered;
use crate::{
    cloud::Heard,
    fate::Fates,
    invariants::{Deployment, memory_of},
    op::{Op, manifest},
    said,
    seen::Seen,
    time::{self, TIME, clocks, now, pass},
    world::{World, request},
};

/// How long modules may take to stop.
const GRACE: Duration = Duration::from_secs(10);
/// A host that was asked to stop is started again so long after that. The stop itself takes less, and not always the same: the
/// thread of the message log knows nothing of a paused clock.
const STOP: u64 = 40_000;
/// After so long without any failure all is as it is desired: several of the longest back-offs, fetches and starts.
const LONG: Duration = Duration::from_secs(3600);

/// So often, and so long after one another, it is looked for what waits for room.
const LOOKS: u32 = 12;
const LOOK: Duration = Duration::from_secs(2);

/// Long enough for all that is reported to go upstream, and for each call to end.
const QUIET: Duration = Duration::from_secs(120);

/// A host, and the world around it.
pub(crate) struct Host {
    world: World,
    life: Option<Life>,
    /// The desired property `k` of each module.
    twins: BTreeMap<String, Answered>,
    broken: Vec<String>,
    /// What was read from its previous generation at the last look, and was not said yet.
    unsaid: Vec<String>,
    /// The ceiling on memory, in MiB, under which the present life began.
    ceiling: Option<u64>,
}

/// What has come of a simulation.
pub(crate) struct Story {
    /// A line for each thing that happened.
    pub(crate) trace: String,
    /// The names of the invariants that did not hold.
    pub(crate) broken: Vec<String>,
    pub(crate) seen: Seen,
}

/// From a start to an end.
struct Life {
    runtime: Runtime,
    agent: Arc<Agent>,
    /// Of the message log, which is the real one and stays empty.
    _folder: tempfile::TempDir,
}

impl Host {
    /// A host on an empty disk.
    pub(crate) fn new(fates: Fates, ceiling: Option<u64>) -> Self {
        time::reset();
        said::listen();
        let world = World::new(fates);
        world.lock().ceiling = ceiling;
        let mut host =
            Self { world, life: None, twins: BTreeMap::new(), broken: Vec::new(), unsaid: Vec::new(), ceiling: None };
        host.world.lock().watch.deployments.push(Deployment::new());
        host.boot(0);
        host
    }

    /// Something happens, after so much time. Then all must hold.
    pub(crate) fn happens(&mut self, pause: Duration, op: &Op) {
        let mut left = pause;
        // Waits for room are short.
        for _ in 0..LOOKS {
            let short = left.min(LOOK);
            self.pass(short);
            left -= short;
            self.count_what_lacks_room();
        }
        self.pass(left);
        match op {
            Op::Pass => {}
            Op::Apply(deployment) => self.apply(deployment),
            Op::ApplyBad => self.apply_bad(),
            Op::Restart(module) => self.restart(module),
            Op::Call(module, connect, response) => self.call(module, *connect, *response),
            Op::Twin(module, value) => self.set_twin(module, *value),
            Op::Disk(fault) => {
                let mut inner = self.world.lock();
                inner.disk.fault = *fault;
                let word = fault.map_or("room".into(), |fault| format!("{fault:?}").to_lowercase());
                inner.note(format!("> {word}"));
            }
            Op::Away(away) => {
                let mut inner = self.world.lock();
                inner.away = *away;
                inner.note(if *away { "> away" } else { "> near" });
            }
            Op::Connect(connected) => self.connect(*connected),
            Op::Cloud(module, value, heard) => self.cloud_changes(module, *value, *heard),
            Op::Kill(damages) => self.end(false, damages.as_deref()),
            Op::Stop => self.end(true, None),
            Op::Clock(by) => {
                time::set_wall_clock(*by);
                self.note(format!("> clock {by} ms"));
            }
            Op::Suspend(millis) => {
                self.note(format!("> suspend {millis} ms"));
                self.count_suspension();
                time::suspend(Duration::from_millis(*millis));
            }
            Op::Ceiling(ceiling) => {
                let mut inner = self.world.lock();
                inner.ceiling = *ceiling;
                inner.note(ceiling.map_or("> ceiling none".into(), |mib| format!("> ceiling {mib}")));
            }
            Op::Calm => {
                let mut inner = self.world.lock();
                (inner.calm, inner.away, inner.disk.fault) = (true, false, None);
                inner.note("> calm");
                // A new connection would mend what was forgotten.
                let is_away = inner.cloud.keeps && !inner.cloud.connected;
                drop(inner);
                if is_away {
                    self.connect(true);
                }
                // Nobody knows of a change that is lost before the next one comes.
                for module in ["a", "b", "c"] {
                    self.cloud_changes(module, Some(7), Heard::Once);
                }
            }
            Op::ShowTwin(module) => self.show_twin(module),
            Op::Status => self.show(),
            Op::Rollback => self.roll_back(),
            Op::History => self.show_history(),
        }
        self.only_the_newest_counts();
        self.invariant_the_stored_deployment_is_in_force();
        self.invariant_twins_hold_what_was_answered();
        self.invariant_what_was_recovered_is_said();
    }

    /// Lets all come to rest without failures, and checks what it has come to.
    pub(crate) fn comes_to_rest(&mut self) {
        self.happens(Duration::ZERO, &Op::Calm);
        self.happens(LONG, &Op::Pass);
        self.invariant_all_is_as_it_is_desired();
        self.world.lock().quiet = true;
        self.happens(QUIET, &Op::Pass);
        self.world.lock().calls.all_have_ended();
        self.invariant_cloud_and_device_agree();
        self.all_are_told_once_more();
        self.invariant_timers_fire_while_their_module_runs();
        self.invariant_the_deployment_is_decided();
    }

    /// What has come of it.
    pub(crate) fn finish(mut self) -> Story {
        let trace = self.world.lock().trace();
        self.die();
        let inner = self.world.lock();
        let inner = &*inner;
        let broken = [
            &self.broken,
            &inner.watch.broken,
            &inner.calls.broken,
            &inner.beats.broken,
            &inner.cloud.broken,
            &inner.reports.broken,
        ];
        Story { trace, broken: broken.into_iter().flatten().cloned().collect(), seen: inner.seen.clone() }
    }

    /// The host has been told by now.
    fn only_the_newest_counts(&self) {
        let watch = &mut self.world.lock().watch;
        watch.deployments.drain(..watch.deployments.len() - 1);
        watch.is_in_force();
    }

    fn count_suspension(&self) {
        let deployments = self.block(async |agent| agent.deployments().await);
        let on_trial =
            |entry: &Entry| entry.accepted.version == deployments.in_force && entry.outcome == Outcome::OnTrial;
        let mut inner = self.world.lock();
        inner.seen.note("a suspension");
        if deployments.deployments.iter().any(on_trial) {
            inner.seen.note("a suspension amid a trial");
        }
    }

    /// As the plan says.
    fn count_what_lacks_room(&self) {
        let deployment = self.world.lock().watch.deployments.last().cloned().unwrap_or_default();
        if self.ceiling.is_none() {
            return;
        }
        let plan = self.block(async |agent| agent.plan(&manifest(&deployment), None).await);
        let steps = plan.map(|plan| plan.steps).unwrap_or_default();
        for _ in steps.iter().filter(|step| step.reason.contains("do not fit beside what there is")) {
            self.world.lock().seen.note("a module that waits for room");
        }
    }

    fn note(&self, line: impl Into<String>) {
        self.world.lock().note(line);
    }

    fn boot(&mut self, at: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .max_blocking_threads(1)
            .build()
            .unwrap_or_else(|error| panic!("no runtime: {error}"));
        // In memory, where there is such a folder: nothing is to be seen on the disk, and each life opens a log.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.unwrap_or_else(|error| panic!("no folder: {error}"));
        let ceiling = {
            let mut inner = self.world.lock();
            inner.begins_under_the_ceiling();
            inner.ceiling
        };
        self.ceiling = ceiling;
        let world = Arc::new(self.world.clone());
        let agent = runtime.block_on(async {
            time::begin(at);
            let (log, recovery) = log::Log::open(folder.path(), log::Options::within(16 << 20), &clocks())
                .unwrap_or_else(|error| panic!("no message log: {error}"));
            let config = Config {
                device_id: "sim".into(),
                engine: world.clone(),
                images: world.clone(),
                upstream: world.clone(),
                upstream_twins: world.clone(),
                documents: world.clone(),
                log: Box::new(log),
                damage: recovery.damage,
                clocks,
                sync_after: None,
                states: world.clone(),
                check_image: |_| Ok(()),
                max_memory: ceiling.map(|mib| mib << 20),
                core_dumps: None,
                trap_bodies: false,
                caches: None,
                initial: None,
            };
            Agent::start_simulated(config, TIME).await.unwrap_or_else(|error| panic!("no agent: {error}"))
        });
        self.life = Some(Life { runtime, agent, _folder: folder });
        let mut inner = self.world.lock();
        inner.cloud.begins();
        let connected = inner.cloud.connected;
        drop(inner);
        if connected {
            self.block(async |agent| agent.upstream_event(UpstreamEvent::Connected).await);
        }
    }

    /// Runs this in the present life.
    fn block<T>(&self, work: impl AsyncFnOnce(&Arc<Agent>) -> T) -> T {
        let life = self.life.as_ref().unwrap_or_else(|| panic!("there is no host"));
        life.runtime.block_on(work(&life.agent))
    }

    fn pass(&self, pause: Duration) {
        self.block(async |_| {
            pass(pause).await;
            now()
        });
    }

    /// The next life begins at once: on a device, the service manager sees to that.
    fn end(&mut self, in_order: bool, damages: Option<&str>) {
        self.note(match (in_order, damages) {
            (true, _) => "> stop".into(),
            (false, None) => "> kill".into(),
            (false, Some(document)) => format!("> kill damages {document}"),
        });
        self.world.lock().watch.ending = true;
        let asked = now();
        if in_order {
            self.block(async |agent| agent.shut_down(GRACE).await);
        }
        let ended = self.die();
        let at = if in_order { asked + STOP } else { ended };
        assert!(at >= ended, "a stop took {} ms", ended - asked);
        if !in_order {
            self.cut_off(damages);
            self.unsaid.clear(); // nobody is there any more to say it
        }
        let mut inner = self.world.lock();
        inner.watch.ending = false;
        inner.watch.restarts.clear();
        inner.begins_with_what_is_stored(at, damages);
        drop(inner);
        self.boot(at);
    }

    /// What a kill does to the disk.
    fn cut_off(&mut self, damages: Option<&str>) {
        let mut inner = self.world.lock();
        for name in inner.disk.is_cut_off() {
            inner.seen.note("a document that was refused and is there after a kill");
            inner.note(format!("kept {name}"));
            self.twins.retain(|module, _| name != format!("twin-{module}"));
        }
        let Some(name) = damages else { return };
        if inner.disk.damage(name) {
            inner.seen.note("a damaged document");
            inner.note(format!("damaged {name}"));
            self.twins.retain(|module, _| name != format!("twin-{module}"));
            if let Some(module) = name.strip_prefix("twin-") {
                inner.reports.forget(module);
            }
        }
    }

    /// As by a kill: from now on nothing of it is heard. Its remains end in order, or the thread of its message log never would.
    fn die(&mut self) -> u64 {
        let at = self.block(async |_| now());
        let mut inner = self.world.lock();
        inner.watch.ending = true;
        inner.dead = true;
        inner.calls.forget();
        inner.beats.forget();
        drop(inner);
        self.block(async |agent| agent.shut_down(Duration::ZERO).await);
        self.life = None;
        self.world.lock().dead = false;
        at
    }

    fn apply(&mut self, deployment: &Deployment) {
        let names: Vec<String> = deployment.iter().map(|(name, wanted)| format!("{name}={}", wanted.image)).collect();
        self.note(format!("> apply {}", names.join(" ")));
        self.world.lock().rollouts.applies(deployment);
        let result = self.block(async |agent| agent.apply(&manifest(deployment)).await);
        let mut inner = self.world.lock();
        if let Err(error) = result {
            let (fails, bad) = (inner.disk.fault.is_some(), inner.rollouts.may_be_bad(deployment));
            inner.note(format!("refused: {error}"));
            drop(inner);
            let expected = match error {
                ApplyError::Store(_) => fails,
                ApplyError::Refused(_) => bad,
                ApplyError::Bad(_) => self.ceiling.is_some_and(|most| memory_of(deployment) > most),
                _ => false,
            };
            if matches!(error, ApplyError::Bad(_)) {
                self.world.lock().seen.note("a manifest above the ceiling");
            }
            self.check(
                expected,
                "a good deployment is only refused by a disk that fails, a ceiling, or because it was rolled back",
            );
        }
    }

    fn roll_back(&mut self) {
        self.note("> rollback");
        match self.block(async |agent| agent.roll_back(None, None).await) {
            Ok(_) => {}
            Err(error @ ApplyError::Refused(_)) => self.note(format!("refused: {error}")),
            Err(error @ ApplyError::Bad(_)) if self.ceiling.is_some() => {
                self.note(format!("above the ceiling: {error}"))
            }
            Err(error) => {
                let fails = self.world.lock().disk.fault.is_some() && matches!(error, ApplyError::Store(_));
                self.check(fails, "a rollback is only refused for want of a good one, or by a disk that fails");
            }
        }
    }

    fn show_history(&self) {
        let deployments = self.block(async |agent| agent.deployments().await);
        for entry in &deployments.deployments {
            let reason = entry.reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default();
            self.note(format!("= deployment {}: {:?}{reason}", entry.accepted.version, entry.outcome));
        }
    }

    fn apply_bad(&mut self) {
        self.note("> apply bad");
        let result = self.block(async |agent| agent.apply("{}").await);
        self.check(matches!(result, Err(ApplyError::Bad(_))), "a bad deployment is refused");
    }

    fn restart(&mut self, module: &str) {
        self.note(format!("> restart {module}"));
        self.world.lock().watch.restarted(module);
        if self.block(async |agent| agent.restart(module).await).is_err() {
            self.world.lock().watch.restarts.retain(|other| other != module);
        }
    }

    /// In a task of its own: other things happen while it waits.
    fn call(&mut self, module: &str, connect: u64, response: u64) {
        let number = self.world.lock().calls.made(None, module, connect, response);
        self.note(format!("> call {number} {module}"));
        let (world, module) = (self.world.clone(), module.to_owned());
        self.block(async |agent| {
            let agent = agent.clone();
            tokio::spawn(async move {
                let answer = agent.invoke(&module, request(number, connect, response)).await;
                world.lock().answered(number, &module, &answer);
            });
        });
    }

    fn modules(&self) -> Vec<ModuleStatus> {
        self.block(async |agent| agent.status().await.map(|status| status.modules).unwrap_or_default())
    }

    fn show(&self) {
        for module in self.modules() {
            self.note(format!("= {} {}: {}", module.name, module.status, module.description));
        }
    }

    fn check(&mut self, holds: bool, name: &str) {
        if !holds {
            let at = self.block(async |_| now());
            self.broken.push(format!("{name}, at {at} ms"));
        }
    }
}
