//! Made-up guests: programs, and modules with handlers, that live as their fate says.

use std::{sync::Arc, time::Duration};

use marram_core::{
    deployment::ModuleSpec,
    ports::{
        BoxFuture, Component, Exit, Exports, Inbox, Instance, ModuleHost, TwinAck, TwinAnswer, TwinDocument, WatchError,
    },
    twin::merge_patch,
};
use serde_json::{Map, Value};

use crate::{
    fate::{Dice, Fate},
    op::HEALTH,
    reports::Answer,
    time::{now, pass},
    world::{World, request},
};

/// The name of each module's durable timer.
const BEAT: &str = "beat";

/// A component: a program, or one that handles methods.
pub(crate) struct Made {
    world: World,
    image: String,
    handles: bool,
    /// It has a durable timer.
    beats: bool,
}

impl Made {
    pub(crate) fn new(world: World, image: String, fate: &Fate) -> Self {
        Self { world, image, handles: fate.answers.is_some(), beats: fate.beats.is_some() }
    }
}

impl Component for Made {
    fn exports(&self) -> Exports {
        // A handler hears of its twin when it takes charge.
        let (handles, beats) = (self.handles, self.beats);
        Exports { run: !handles, method: handles, twin: handles, start: beats, timer: beats, ..Exports::default() }
    }

    fn imports_inbox(&self) -> bool {
        false
    }

    fn imports_durable_timers(&self) -> bool {
        self.beats
    }

    fn instantiate(
        &self,
        spec: &ModuleSpec,
        host: Arc<dyn ModuleHost>,
    ) -> BoxFuture<'_, Result<Box<dyn Instance>, Exit>> {
        let (module, memory) = (spec.name.to_string(), spec.sandbox.memory_bytes >> 20);
        Box::pin(async move {
            let fate = {
                let mut inner = self.world.lock();
                inner.note_of(&module, format!("start {module} {}", self.image));
                inner.watch.starts(&module, &self.image);
                inner.watch.takes(&module, memory);
                if inner.watch.takes_a_place(&module, &self.image) {
                    inner.seen.note("an update that takes the place of its old version");
                }
                inner.fate(&self.image, &module)
            };
            let memory = Memory(self.world.clone(), memory);
            pass(Duration::from_millis(fate.start)).await;
            let mut inner = self.world.lock();
            if let Some(code) = fate.start_exit {
                inner.note_of(&module, format!("start of {module} {} failed", self.image));
                inner.watch.start_failed(&module, &self.image);
                inner.seen.note("an instance that does not start");
                return Err(Exit::new(code, "its start failed"));
            }
            inner.instances += 1;
            let number = inner.instances;
            inner.watch.is_up(&module, &self.image, number);
            let (world, image) = (self.world.clone(), self.image.clone());
            let Fate { life, answers, beats, sick, patience, .. } = fate;
            let (answers, charge, since) = (answers.unwrap_or_default(), None, now());
            let told = Told::default();
            Ok(Box::new(Running {
                world,
                module,
                image,
                number,
                life,
                answers,
                beats,
                sick,
                patience,
                host,
                charge,
                since,
                told,
                _memory: memory,
            }) as Box<dyn Instance>)
        })
    }
}

/// An instance of it.
struct Running {
    world: World,
    module: String,
    image: String,
    number: u64,
    life: Option<(u64, i32)>,
    /// Milliseconds that a method takes.
    answers: u64,
    /// The period of its durable timer.
    beats: Option<u64>,
    /// Milliseconds after which it says that it is not well.
    sick: Option<u64>,
    /// After so many milliseconds without a change a program reports.
    patience: u64,
    host: Arc<dyn ModuleHost>,
    /// Of one that handles methods, once it has it.
    charge: Option<Charge>,
    since: u64,
    told: Told,
    _memory: Memory,
}

/// What an instance takes, in MiB, from the moment when it is begun.
struct Memory(World, u64);

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.lock().watch.gives_back(self.1);
    }
}

/// What it was told of its desired properties.
#[derive(Default)]
struct Told {
    version: u64,
    desired: Map<String, Value>,
}

impl Told {
    /// Whether this change follows, and leads to what is in force if nothing newer is.
    fn merge(&mut self, patch: &str, version: u64, now: &TwinDocument) -> bool {
        let Ok(patch) = serde_json::from_str(patch) else { return false };
        merge_patch(&mut self.desired, &patch);
        let in_order = version > self.version;
        self.version = version;
        in_order && (now.version != version || serde_json::from_str(&now.json).ok().as_ref() == Some(&self.desired))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.charge = None;
        self.world.lock().calls.is_gone(self.number);
        self.world.lock().watch.is_gone(&self.module, self.number);
    }
}

impl Instance for Running {
    fn run(&mut self) -> BoxFuture<'_, Exit> {
        Box::pin(async {
            let charge = Charge::take(self);
            let (world, life) = (self.world.clone(), self.life);
            let end = async {
                let Some((life, code)) = life else { return std::future::pending().await };
                pass(Duration::from_millis(life)).await;
                // A life that was long before all became calm may end after it.
                if world.lock().calm { std::future::pending().await } else { code }
            };
            let code = tokio::select! {
                biased;
                code = end => code,
                () = self.work() => std::future::pending().await,
            };
            charge.end(code);
            Exit::new(code, "it ended")
        })
    }

    fn start(&mut self) -> BoxFuture<'_, Result<Result<(), String>, Exit>> {
        Box::pin(async {
            let Some(period) = self.beats else { return Ok(Ok(())) };
            let set = self.host.set_durable_timer(BEAT.into(), Duration::from_millis(period), true).await;
            if set.is_ok() {
                self.world.lock().beats.set(&self.module, period);
            }
            Ok(Ok(()))
        })
    }

    fn handle_batch<'a>(&'a mut self, _: &'a mut dyn Inbox) -> BoxFuture<'a, Result<(), Exit>> {
        Box::pin(async { Ok(()) })
    }

    fn fire(&mut self, _: &str, missed: u64) -> BoxFuture<'_, Result<(), Exit>> {
        Box::pin(async move {
            let last = {
                let mut inner = self.world.lock();
                inner.note_of(&self.module, format!("beat {}, {missed} missed", self.module));
                inner.beats.begins(&self.module, missed)
            };
            pass(Duration::from_millis(self.answers)).await;
            self.report().await;
            self.world.lock().beats.ends(&self.module, last);
            Ok(())
        })
    }

    fn desired_changed(&mut self, patch: &str, version: u64) -> BoxFuture<'_, Result<TwinAnswer, Exit>> {
        if self.charge.is_none() {
            self.charge = Some(Charge::take(self));
        }
        self.is_told(patch, version);
        Box::pin(async move {
            let mut dice = self.dice(version);
            let by_chance = self.world.lock().fates.are_by_chance();
            if by_chance {
                // Some time, so that what else comes at the start is there when it is over.
                pass(Duration::from_millis(1 + dice.below(3) * dice.below(300))).await;
            }
            let traps = dice.below(12) == 0 && self.world.lock().may_trap();
            if let Some(charge) = self.charge.take_if(|_| traps) {
                self.world.lock().seen.note("a trap amid a change of desired properties");
                charge.end(Exit::TRAP);
                return Err(Exit::new(Exit::TRAP, "it trapped"));
            }
            let answer = self.answer(version, &mut dice);
            Ok(match answer {
                Some((ack, true)) => Err(ack),
                Some((ack, false)) => Ok(Some(ack)),
                None => Ok(None),
            })
        })
    }

    /// Every third call is passed on to another module first.
    fn invoke(&mut self, name: &str, payload: &str) -> BoxFuture<'_, Result<(i32, String), Exit>> {
        if name == HEALTH {
            return Box::pin(self.tell_health());
        }
        let number: u64 = payload.parse().unwrap_or_else(|_| panic!("{payload}"));
        Box::pin(async move {
            let world = self.world.clone();
            world.lock().begins(&self.module, self.number, number);
            pass(Duration::from_millis(self.answers)).await;
            if number.is_multiple_of(3) {
                let next = ["a", "b", "c"][usize::try_from(number / 3).unwrap_or(0) % 3];
                let passed = world.lock().calls.made(Some(self.number), next, 1_000, 5_000);
                let answer = self.host.invoke(next.into(), request(passed, 1_000, 5_000)).await;
                world.lock().answered(passed, next, &answer);
            }
            if number.is_multiple_of(2) {
                self.report().await;
            }
            let by_chance = world.lock().fates.are_by_chance();
            let status = if by_chance { 200 + i32::try_from(number % 5).unwrap_or(0) } else { 200 };
            world.lock().calls.returns(self.number);
            match self.life {
                Some((life, code)) if code != 0 && now() >= self.since + life && !world.lock().calm => {
                    if let Some(charge) = self.charge.take() {
                        charge.end(code);
                    }
                    Err(Exit::new(code, "it ended"))
                }
                _ => {
                    world.lock().calls.answers(number, status);
                    Ok((status, String::new()))
                }
            }
        })
    }

    fn memory_bytes(&self) -> u64 {
        4096
    }
}

impl Running {
    /// As a program does: it hears of changes, and reports when there are none for a while.
    async fn work(&mut self) {
        loop {
            match self.host.next_change(Duration::from_millis(self.patience)).await {
                Ok(Some(change)) => {
                    self.is_told(&change.merge_patch_json, change.version);
                    let mut dice = self.dice(change.version);
                    if let Some((ack, _)) = self.answer(change.version, &mut dice) {
                        let _ = self.host.acknowledge(change.version, ack).await;
                    }
                }
                Ok(None) => self.report().await,
                Err(WatchError::Stopping) => return,
            }
        }
    }

    fn is_told(&mut self, patch: &str, version: u64) {
        let follows = self.told.merge(patch, version, &self.host.desired());
        let mut inner = self.world.lock();
        inner.watch.invariant_changes_of_a_twin_come_once_and_in_order(&self.module, follows);
        inner.seen.note("a change of desired properties that is told");
    }

    fn dice(&self, version: u64) -> Dice {
        // Not by its number: those of modules that start at the same time come in any order.
        let Self { module, image, since, .. } = self;
        Dice::new(self.world.lock().fates.seed(), &format!("{module} {image} of {since} hears of {version}"))
    }

    /// Its answer to a change, and whether it refuses it.
    fn answer(&self, version: u64, dice: &mut Dice) -> Option<(TwinAck, bool)> {
        let mut inner = self.world.lock();
        let draw = if inner.fates.are_by_chance() { dice.below(5) } else { 0 };
        let code = match draw {
            0 => None,
            1 => Some(409),
            _ => Some(200),
        };
        let answer =
            code.map(|code| Answer { code, words: format!("instance {} of {} to {version}", self.number, self.image) });
        inner.reports.answers(&self.module, version, answer.as_ref());
        let Answer { code, words: description } = answer?;
        inner.seen.note(if code == 200 { "a change that is accepted" } else { "a change that is refused" });
        Some((TwinAck { code, description }, code != 200))
    }

    async fn report(&self) {
        let (number, patch) = {
            let mut inner = self.world.lock();
            let enough = inner.calm && inner.reports.are_recent(&self.module);
            if inner.quiet || enough || !inner.fates.are_by_chance() {
                return;
            }
            inner.reports.make(&self.module)
        };
        let result = self.host.report(patch).await;
        let mut inner = self.world.lock();
        if inner.dead {
            return;
        }
        match result {
            Ok(version) => inner.reports.stored(&self.module, number, version),
            Err(_) => inner.seen.note("a report that is refused"),
        }
    }

    async fn tell_health(&mut self) -> Result<(i32, String), Exit> {
        self.world.lock().watch.is_asked(&self.module, self.number);
        pass(Duration::from_millis(self.answers)).await;
        let mut inner = self.world.lock();
        let sick = !inner.calm && self.sick.is_some_and(|sick| now() >= self.since + sick);
        if sick {
            inner.note_of(&self.module, format!("sick {} {}", self.module, self.image));
        }
        Ok((if sick { 503 } else { 200 }, String::new()))
    }
}

/// That an instance does the module's work. Given up without a word when the host ends it.
struct Charge {
    world: World,
    module: String,
    image: String,
    number: u64,
    has_ended: bool,
}

impl Charge {
    fn take(running: &Running) -> Self {
        let Running { world, module, image, number, .. } = running;
        let mut inner = world.lock();
        inner.note_of(module, format!("run {module} {image}"));
        inner.watch.runs(module, *number);
        drop(inner);
        Self { world: world.clone(), module: module.clone(), image: image.clone(), number: *number, has_ended: false }
    }

    fn end(mut self, code: i32) {
        self.has_ended = true;
        let mut inner = self.world.lock();
        inner.note_of(&self.module, format!("exit {} {} {code}", self.module, self.image));
        inner.watch.exited(&self.module, &self.image, self.number);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut inner = self.world.lock();
            inner.note_of(&self.module, format!("end {} {}", self.module, self.image));
            inner.watch.was_ended(&self.module, &self.image, self.number);
        }
    }
}
