//! Laws, attacked by chance: a tiny supervisor carries out the plans, with instances and preparations that fail as chance
//! will have it, and a deployment that changes under its hands.

use proptest::prelude::*;

use super::{explained::check_words, told::check_report, *};

/// How long the model's work takes, in ms; much less than a back-off.
const WORK: u64 = 700;

/// Carries out plans. Work that was issued comes back [`WORK`] later.
struct Model {
    desired: Deployment,
    observed: Observed,
    now: Uptime,
    pending: Vec<(Uptime, ModuleName, Work)>,
    exits: Vec<(Uptime, ModuleName, i32)>,
    /// When checks tell what.
    checks: Vec<(Uptime, ModuleName, Health)>,
    /// When each start was issued.
    starts: Vec<Uptime>,
    /// Versions that were in place when a deployment wanted the module stopped or removed, and that none has wanted since.
    over: BTreeMap<ModuleName, String>,
    /// Modules that have run since they were wanted running, and with how much memory.
    had: BTreeMap<ModuleName, u64>,
    /// What any deployment has needed, or the ceiling has allowed, in this life of the host.
    allowed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Work {
    Prepare,
    Start,
    Stop,
    End,
    StartUpdate,
    StopUpdate,
}

/// What becomes of work.
enum Fate {
    Healthy,
    /// Every instance crashes after 50 ms.
    Crashing,
    /// Healthy, but versions with odd numbers cannot be prepared.
    MissingOdd,
    /// Chance from a list, cycled.
    Dice(Vec<u8>, usize),
}

impl Fate {
    fn roll(&mut self) -> Option<u8> {
        let Self::Dice(dice, at) = self else { return None };
        *at += 1;
        Some(dice[*at % dice.len()])
    }

    fn prepare_fails(&mut self, spec: &ModuleSpec) -> bool {
        match self {
            Self::MissingOdd => spec.version.parse::<u32>().is_ok_and(|version| version % 2 == 1),
            _ => self.start_fails(),
        }
    }

    fn start_fails(&mut self) -> bool {
        self.roll().is_some_and(|roll| roll % 3 == 0)
    }

    /// After how many ms an instance exits with which code; none = it stays up.
    fn life(&mut self) -> Option<(u64, i32)> {
        match self.roll().map(u64::from) {
            Some(roll) => (roll % 4 != 0).then_some((1 + roll * roll * 20, i32::from(roll % 3 == 0))),
            None => matches!(self, Self::Crashing).then_some((50, 134)),
        }
    }
}

impl Fate {
    /// After how many ms a check tells what.
    fn checks(&mut self) -> Option<(u64, Health)> {
        let roll = u64::from(self.roll()?);
        let health = if roll % 2 == 0 { Health::Unhealthy } else { Health::Healthy { since: Uptime(roll) } };
        (roll % 5 != 0).then_some((1 + roll * roll * 10, health))
    }
}

impl Model {
    fn new(desired: Deployment) -> Self {
        Self {
            desired,
            observed: Observed::default(),
            now: Uptime::default(),
            pending: Vec::new(),
            exits: Vec::new(),
            checks: Vec::new(),
            starts: Vec::new(),
            over: BTreeMap::new(),
            had: BTreeMap::new(),
            allowed: 0,
        }
    }

    /// The host begins anew: nothing runs.
    fn restart(&mut self) {
        let max_memory = self.observed.max_memory;
        let anew = Self::new(std::mem::take(&mut self.desired));
        *self = Self { now: self.now, observed: Observed { max_memory, ..Observed::default() }, ..anew };
    }

    fn want(&mut self, desired: Deployment) {
        let runs =
            |name: &ModuleName| desired.modules.get(name).filter(|spec| spec.desired_status == DesiredStatus::Running);
        let unwanted = self.observed.modules.iter().filter(|(name, _)| runs(name).is_none());
        self.over.extend(unwanted.map(|(name, module)| (name.clone(), module.spec.version.clone())));
        self.over.retain(|name, version| runs(name).is_none_or(|wanted| wanted.version != *version));
        self.had.retain(|name, _| runs(name).is_some());
        self.desired = desired;
    }

    /// What may be taken, if there is a ceiling: that, or what the deployment needs.
    fn most(&self) -> Option<u64> {
        self.observed.max_memory.map(|most| most.max(memory_of(&self.desired)))
    }

    /// Lets time pass until `end`, from one happening to the next.
    fn run(&mut self, end: Uptime, fate: &mut Fate) {
        self.settle();
        while let Some(next) = self.next_happening().filter(|at| *at <= end) {
            self.now = next;
            for (_, name, work) in extract(&mut self.pending, |(at, ..)| *at <= next) {
                self.complete(&name, work, fate);
            }
            for (_, name, code) in extract(&mut self.exits, |(at, ..)| *at <= next) {
                let running = matches!(self.observed.modules[&name].state, ModuleState::Running { .. });
                if running {
                    self.observed.happened(&name, Event::Exited(code), next);
                    self.forget_what_is_over(&name);
                }
            }
            for (_, name, health) in extract(&mut self.checks, |(at, ..)| *at <= next) {
                let module = self.observed.modules.get(&name);
                if module.is_some_and(|module| matches!(module.state, ModuleState::Running { .. })) {
                    self.observed.happened(&name, Event::Checked(health), next);
                }
            }
            self.settle();
        }
        self.now = end;
    }

    /// Plans for as long as the plans ask for it, checking the laws of each.
    fn settle(&mut self) {
        for _ in 0..20 {
            let plan = plan(&self.desired, &self.observed, self.now);
            check_laws(&plan, self);
            check_words(&plan, &self.desired, &self.observed, self.now);
            plan.steps.iter().for_each(|step| self.issue(step));
            if plan.wake_at.is_none_or(|at| at > self.now) {
                self.check_preparations();
                self.check_unhealthy();
                self.check_memory();
                self.check_nothing_that_ran_is_kept_down();
                check_report(&self.desired, &self.observed, self.now);
                return;
            }
        }
        panic!("plans never come to rest: {:?}", self.observed);
    }

    /// The instances never have more than the ceiling, or what was accepted under a higher one.
    fn check_memory(&mut self) {
        let Some(most) = self.most() else {
            self.allowed = u64::MAX;
            return;
        };
        self.allowed = self.allowed.max(most);
        let sum: u64 = self.observed.modules.values().map(instances_of).sum();
        assert!(sum <= self.allowed, "{sum} bytes: {:?}", self.observed);
        assert_eq!(sum, self.observed.memory_in_use());
    }

    /// What has run is down only for its back-off, or to make way for an update that is on its way.
    fn check_nothing_that_ran_is_kept_down(&self) {
        for name in self.had.keys() {
            let (module, wanted) = (&self.observed.modules[name], &self.desired.modules[name]);
            let is_beside = module.next.as_ref().is_some_and(|next| instance_of_update(next) > 0);
            let is_due = match module.state {
                ModuleState::Stopped | ModuleState::Prepared => true,
                ModuleState::Exited { code, at, .. } => {
                    restarts(wanted, code, module.failures) && at.after(backoff(module.failures)) <= self.now
                }
                _ => false,
            };
            assert!(is_beside || !is_due, "{name} is kept down: {:?}", self.observed);
        }
    }

    /// Nothing is fetched that nobody wants.
    fn check_preparations(&self) {
        for (_, name, _) in self.pending.iter().filter(|(.., work)| *work == Work::Prepare) {
            let wanted = self.desired.modules.get(name).filter(|spec| spec.desired_status == DesiredStatus::Running);
            assert_eq!(wanted.map(|spec| &spec.image), Some(&self.being_prepared(name).image));
        }
    }

    /// What is unhealthy does not run on if it would come back, unless its update is about to take over.
    fn check_unhealthy(&self) {
        for (name, module) in self.observed.modules.iter().filter(|(_, module)| module.is_unhealthy()) {
            let ModuleState::Running { since } = module.state else { continue };
            let failures = after_exit(module.failures, self.now.since(since));
            let comes_back = |wanted: &ModuleSpec| {
                module.spec.restart_policy.min(wanted.restart_policy) >= RestartPolicy::OnUnhealthy
                    && restarts(wanted, Exit::UNHEALTHY, failures)
            };
            let next = self.next_of(name).is_some_and(NextState::has_instance);
            let wanted = self.desired.modules.get(name);
            assert!(next || !wanted.is_some_and(comes_back), "unhealthy, and left as it is: {module:?}");
        }
    }

    fn issue(&mut self, step: &Step) {
        if let Step::Prepare(_) | Step::Cancel(_) | Step::Remove(_) = step {
            self.pending.retain(|(_, name, work)| (name, *work) != (subject(step), Work::Prepare));
        }
        let work = match step {
            Step::Prepare(_) => Some(Work::Prepare),
            Step::Start(_) => Some(Work::Start),
            Step::Stop(_) => Some(Work::Stop),
            Step::End(_) => Some(Work::End),
            Step::StartUpdate(_) => Some(Work::StartUpdate),
            Step::StopUpdate(_) => Some(Work::StopUpdate),
            Step::Cancel(_) | Step::Remove(_) | Step::Promote(_) | Step::Adopt(_) => None,
        };
        if let Some(work) = work {
            self.pending.push((self.now.after(Duration::from_millis(WORK)), subject(step).clone(), work));
        }
        if work == Some(Work::Start) {
            self.starts.push(self.now);
        }
        self.observed.issued(step);
        let name = subject(step);
        match (step, self.observed.modules.get(name)) {
            // It is another one now.
            (Step::Prepare(_), Some(module)) if module.state == ModuleState::Preparing => drop(self.had.remove(name)),
            (Step::Promote(_), Some(module)) if module.state.has_instance() || self.had.contains_key(name) => {
                self.had.insert(name.clone(), module.spec.sandbox.memory_bytes);
            }
            _ => {}
        }
    }

    /// The limits of all instances, and of those that have run and come back.
    fn taken(&self) -> u64 {
        let of = |(name, module): (&ModuleName, &ObservedModule)| {
            let is_kept = self.had.contains_key(name) && !module.state.has_instance();
            instances_of(module) + if is_kept { module.spec.sandbox.memory_bytes } else { 0 }
        };
        self.observed.modules.iter().map(of).sum()
    }

    fn next_of(&self, name: &ModuleName) -> Option<&NextState> {
        self.observed.modules.get(name)?.next.as_ref().map(|next| &next.state)
    }

    fn is_preparing(&self, name: &ModuleName) -> bool {
        self.pending.iter().any(|(_, other, work)| (other, *work) == (name, Work::Prepare))
    }

    fn being_prepared(&self, name: &ModuleName) -> &ModuleSpec {
        let module = &self.observed.modules[name];
        module.next.as_ref().map_or(&module.spec, |next| &next.spec)
    }

    fn next_happening(&self) -> Option<Uptime> {
        let wake = plan(&self.desired, &self.observed, self.now).wake_at;
        let pending = self.pending.iter().map(|(at, ..)| *at);
        let checks = self.checks.iter().map(|(at, ..)| *at);
        pending.chain(self.exits.iter().map(|(at, ..)| *at)).chain(checks).chain(wake).min()
    }

    fn complete(&mut self, name: &ModuleName, work: Work, fate: &mut Fate) {
        let event = match work {
            Work::Prepare if fate.prepare_fails(self.being_prepared(name)) => Event::PrepareFailed,
            Work::Prepare => Event::Prepared,
            Work::Start if fate.start_fails() => Event::Exited(126),
            Work::Start => {
                let exit =
                    fate.life().map(|(ms, code)| (self.now.after(Duration::from_millis(ms)), name.clone(), code));
                self.exits.extend(exit);
                self.checks.extend(
                    fate.checks().map(|(ms, health)| (self.now.after(Duration::from_millis(ms)), name.clone(), health)),
                );
                // Otherwise it was let go meanwhile.
                let spec = &self.observed.modules[name].spec;
                if spec.desired_status == DesiredStatus::Running {
                    self.had.insert(name.clone(), spec.sandbox.memory_bytes);
                }
                Event::Started
            }
            Work::Stop => {
                self.exits.retain(|(_, other, _)| other != name);
                // An instance that ended by itself before it could be stopped.
                if !self.observed.modules[name].state.has_instance() {
                    return;
                }
                Event::Stopped
            }
            Work::End => {
                self.exits.retain(|(_, other, _)| other != name);
                Event::Exited(Exit::UNHEALTHY)
            }
            // Asked to end meanwhile: that work is under way too, and tells.
            Work::StartUpdate if self.next_of(name) != Some(&NextState::Starting) => return,
            Work::StartUpdate if fate.start_fails() => Event::UpdateExited,
            Work::StartUpdate => Event::UpdateStarted,
            Work::StopUpdate => Event::UpdateExited,
        };
        self.observed.happened(name, event, self.now);
        self.forget_what_is_over(name);
    }

    /// What is done or given up does not come back by itself: it has no place then.
    fn forget_what_is_over(&mut self, name: &ModuleName) {
        let Some(module) = self.observed.modules.get(name) else { return };
        if let ModuleState::Exited { code, .. } = module.state
            && !restarts(&module.spec, code, module.failures)
        {
            self.had.remove(name);
        }
    }
}

fn extract<T>(from: &mut Vec<T>, take: impl FnMut(&T) -> bool) -> Vec<T> {
    let (taken, kept) = std::mem::take(from).into_iter().partition(take);
    *from = kept;
    taken
}

pub(super) fn subject(step: &Step) -> &ModuleName {
    match step {
        Step::Prepare(spec) | Step::Adopt(spec) => &spec.name,
        Step::Start(name) | Step::Stop(name) | Step::End(name) | Step::Remove(name) | Step::Promote(name) => name,
        Step::StartUpdate(name) | Step::StopUpdate(name) | Step::Cancel(name) => name,
    }
}

fn check_laws(plan: &Plan, model: &Model) {
    let mut seen = std::collections::BTreeSet::new();
    for step in &plan.steps {
        let name = subject(step);
        assert!(seen.insert(name), "two steps for {name}: {plan:?}");
        match step {
            Step::Start(name) => {
                check_start(name, model);
                let bytes = model.observed.modules[name].spec.sandbox.memory_bytes;
                check_room(model.had.get(name).is_some_and(|had| bytes <= *had), plan, model);
            }
            Step::Stop(name) => check_stop(name, plan, model),
            Step::End(name) => check_end(name, model),
            Step::Remove(name) => {
                assert!(!model.observed.modules[name].state.has_instance());
                let next = model.next_of(name);
                assert!(
                    next.is_none_or(|next| !next.has_instance() && !next.is_under_way()),
                    "{next:?} is left behind"
                );
            }
            Step::StartUpdate(name) => {
                check_room(false, plan, model);
                assert_eq!(model.next_of(name), Some(&NextState::Ready));
                assert!(matches!(model.observed.modules[name].state, ModuleState::Running { .. }));
                assert_eq!(
                    model.desired.modules[name].desired_status,
                    DesiredStatus::Running,
                    "starts an update of it"
                );
                let next = model.observed.modules[name].next.as_ref().unwrap();
                assert!(!needs_new_instance(&next.spec, &model.desired.modules[name]), "starts an outdated update");
            }
            Step::StopUpdate(name) => assert!(model.next_of(name).unwrap().has_instance()),
            Step::Prepare(spec) => {
                assert_eq!(spec.desired_status, DesiredStatus::Running, "fetches what is desired stopped");
                let busy = model.is_preparing(name) && model.being_prepared(name).image == spec.image;
                assert!(!busy, "prepares {name} anew");
            }
            Step::Promote(name) => {
                assert!(!model.observed.modules[name].state.has_instance());
                assert_eq!(model.desired.modules[name].desired_status, DesiredStatus::Running, "promotes {name}");
                let next = model.observed.modules[name].next.as_ref().unwrap();
                assert!(!needs_new_instance(&next.spec, &model.desired.modules[name]), "promotes an outdated update");
            }
            Step::Cancel(name) => assert!(model.is_preparing(name)),
            Step::Adopt(_) => {}
        }
    }
    assert!(plan.wake_at.is_none_or(|at| at >= model.now), "a wake-up in the past: {plan:?}");
}

/// What is wanted runs on until its update is up, unless that has no room beside it, and then one at a time.
fn check_stop(name: &ModuleName, plan: &Plan, model: &Model) {
    let module = &model.observed.modules[name];
    assert!(matches!(module.state, ModuleState::Running { .. }));
    let wanted = model.desired.modules.get(name).is_some_and(|spec| spec.desired_status == DesiredStatus::Running);
    if !wanted || matches!(model.next_of(name), Some(NextState::Up { .. })) {
        return;
    }
    let (Some(most), Some(NextVersion { state: NextState::Ready, spec, .. })) = (model.most(), &module.next) else {
        panic!("stops {name} before its update is up");
    };
    let taken = model.taken() + started_by(plan, model) + kept_by(plan, model) + spec.sandbox.memory_bytes;
    assert!(taken > most, "stops {name}, which has room beside it: {plan:?} {:?}", model.observed);
    let makes_way = |step: &&Step| {
        let ready = model.next_of(subject(step)) == Some(&NextState::Ready);
        matches!(step, Step::Stop(name) if ready && model.desired.modules.contains_key(name))
    };
    let others = plan.steps.iter().filter(makes_way).count();
    assert_eq!(others, 1, "not one at a time: {plan:?}");
    for (other, module) in model.observed.modules.iter().filter(|(other, _)| model.had.contains_key(*other)) {
        let beside = module.next.as_ref().is_some_and(|next| next.state.has_instance());
        let down = matches!(module.state, ModuleState::Stopping | ModuleState::Stopped | ModuleState::Prepared);
        assert!(beside || !down, "stops {name} while {other} is down for its update");
    }
}

/// The limits of a module's instances.
fn instances_of(module: &ObservedModule) -> u64 {
    let own = if module.state.has_instance() { module.spec.sandbox.memory_bytes } else { 0 };
    own + module.next.as_ref().map_or(0, instance_of_update)
}

fn instance_of_update(next: &NextVersion) -> u64 {
    let is_there = next.state.has_instance() || next.state == NextState::Stopping;
    if is_there { next.spec.sandbox.memory_bytes } else { 0 }
}

/// Only what is unhealthy, and is started again after that, is ended for it.
fn check_end(name: &ModuleName, model: &Model) {
    let (module, wanted) = (&model.observed.modules[name], &model.desired.modules[name]);
    assert!(module.is_unhealthy() && wanted.desired_status == DesiredStatus::Running, "ends {module:?}");
    let policy = module.spec.restart_policy.min(wanted.restart_policy);
    assert!(policy >= RestartPolicy::OnUnhealthy, "ends {name} in spite of its policy");
    let ModuleState::Running { since } = module.state else { panic!("ends {module:?}") };
    let failures = after_exit(module.failures, model.now.since(since));
    assert!(!is_given_up(wanted, Exit::UNHEALTHY, failures), "ends {name} for good");
    assert!(!model.next_of(name).is_some_and(NextState::has_instance), "its update would have ended it");
}

/// What is new has room; what ran before with as much needs none.
fn check_room(ran_before: bool, plan: &Plan, model: &Model) {
    let sum = model.observed.memory_in_use() + started_by(plan, model);
    assert!(ran_before || model.most().is_none_or(|most| sum <= most), "{sum} bytes: {plan:?} {:?}", model.observed);
}

/// What a plan keeps for updates beyond what their old versions had.
fn kept_by(plan: &Plan, model: &Model) -> u64 {
    let more = |step: &Step| {
        let Step::Promote(name) = step else { return None };
        let had = model.had.get(name)?;
        let next = model.observed.modules[name].next.as_ref().filter(|next| next.state == NextState::Ready)?;
        next.spec.sandbox.memory_bytes.checked_sub(*had)
    };
    plan.steps.iter().filter_map(more).sum()
}

/// The limits of what a plan starts.
fn started_by(plan: &Plan, model: &Model) -> u64 {
    let spec = |step: &Step| match step {
        Step::Start(name) => Some(model.observed.modules[name].spec.sandbox.memory_bytes),
        Step::StartUpdate(name) => {
            model.observed.modules[name].next.as_ref().map(|next| next.spec.sandbox.memory_bytes)
        }
        _ => None,
    };
    plan.steps.iter().filter_map(spec).sum()
}

fn check_start(name: &ModuleName, model: &Model) {
    let wanted = &model.desired.modules[name];
    assert_eq!(wanted.desired_status, DesiredStatus::Running);
    let module = &model.observed.modules[name];
    assert_ne!(model.over.get(name), Some(&module.spec.version), "starts a version that was let go");
    match module.state {
        // Its old version has made way for it.
        ModuleState::Prepared if model.had.contains_key(name) => {}
        ModuleState::Prepared => {
            assert!(!needs_new_instance(&module.spec, wanted), "starts an outdated version");
            let is_on_its_way = |lower: &&ModuleSpec| {
                let on_its_way = |m: &ObservedModule| {
                    m.failures == 0
                        && matches!(m.state, ModuleState::Preparing | ModuleState::Prepared | ModuleState::Starting)
                };
                lower.startup_order < wanted.startup_order
                    && lower.desired_status == DesiredStatus::Running
                    && model.observed.modules.get(&lower.name).is_none_or(on_its_way)
            };
            let lower = model.desired.modules.values().find(is_on_its_way);
            assert!(lower.is_none(), "{name} does not wait for {lower:?}");
        }
        ModuleState::Stopped => {}
        ModuleState::Exited { at, code, .. } => {
            assert!(model.now >= at.after(backoff(module.failures)), "starts before the back-off is over");
            assert_ne!(wanted.restart_policy, RestartPolicy::Never);
            assert!(code != 0 || wanted.restart_policy == RestartPolicy::Always);
            assert!(!is_given_up(wanted, code, module.failures), "starts {name} once more than it may");
        }
        ref other => panic!("starts {name} which is {other:?}"),
    }
}

/// After a long time of health every module is as it is desired.
fn check_final(model: &Model) {
    for name in model.observed.modules.keys() {
        assert!(model.desired.modules.contains_key(name), "{name} was not forgotten");
    }
    for wanted in model.desired.modules.values() {
        let module = model.observed.modules.get(&wanted.name);
        let runs = module.is_some_and(|module| matches!(module.state, ModuleState::Running { .. }));
        if wanted.desired_status == DesiredStatus::Stopped {
            assert!(!runs, "{module:?}");
            continue;
        }
        let module = module.unwrap();
        let next = module.next.as_ref().map(|next| &next.state);
        assert!(next.is_none_or(|next| !next.has_instance() && !next.is_under_way()), "{module:?}");
        assert!(!needs_new_instance(&module.spec, wanted), "{module:?}");
        // Only its own policy keeps it down, after an exit under this very spec.
        let done = match module.state {
            ModuleState::Exited { code, .. } => !restarts(wanted, code, module.failures),
            _ => false,
        };
        assert!(runs || done, "{module:?} of {:?}", model.observed);
    }
}

pub(super) fn any_spec(name: &'static str) -> impl Strategy<Value = ModuleSpec> {
    let policies = [RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::OnUnhealthy, RestartPolicy::Always];
    let limit = prop::option::weighted(0.2, 0..4u32);
    let checked = prop::bool::weighted(0.5);
    (0..3u32, 0..3u32, prop::bool::weighted(0.8), prop::sample::select(policies.to_vec()), limit, checked).prop_map(
        move |(order, version, runs, policy, limit, checked)| {
            with(name, |spec| {
                spec.health = checked.then(check);
                spec.max_restarts = limit;
                spec.startup_order = order;
                spec.version = version.to_string();
                spec.image = format!("registry.test/{name}:{}", version / 2); // two versions share one
                spec.sandbox.memory_bytes = u64::from(1 + version * 2 % 3) << 20; // the next is larger, then smaller
                spec.restart_policy = policy;
                spec.desired_status = if runs { DesiredStatus::Running } else { DesiredStatus::Stopped };
            })
        },
    )
}

pub(super) fn any_deployment() -> impl Strategy<Value = Deployment> {
    let maybe = |name| prop::option::weighted(0.8, any_spec(name));
    (maybe("a"), maybe("b"), maybe("c")).prop_map(|(a, b, c)| deployment([a, b, c].into_iter().flatten()))
}

/// A deployment, and what else changes with it.
#[derive(Debug, Clone)]
struct Chapter {
    desired: Deployment,
    /// For how many ms it is in force.
    pause: u64,
    /// The owner's ceiling from then on.
    max_memory: Option<u64>,
    /// The host begins anew.
    restart: bool,
}

fn any_ceiling() -> impl Strategy<Value = Option<u64>> {
    // As large as any deployment, as small as none.
    prop::option::weighted(0.8, (0..10u64).prop_map(|mib| mib << 20))
}

fn any_history() -> impl Strategy<Value = Vec<Chapter>> {
    // Often so short that work is under way when the deployment changes.
    let pause = prop_oneof![0..3_000u64, 0..900_000u64];
    let chapter = (any_deployment(), pause, any_ceiling(), prop::bool::weighted(0.1));
    let chapter =
        chapter.prop_map(|(desired, pause, max_memory, restart)| Chapter { desired, pause, max_memory, restart });
    prop::collection::vec(chapter, 1..8)
}

/// The limits of what is to run.
fn memory_of(deployment: &Deployment) -> u64 {
    let runs = deployment.modules.values().filter(|spec| spec.desired_status == DesiredStatus::Running);
    runs.map(|spec| spec.sandbox.memory_bytes).sum()
}

fn run_history(model: &mut Model, history: Vec<Chapter>, dice: Vec<u8>) {
    let mut fate = Fate::Dice(dice, 0);
    for Chapter { desired, pause, max_memory, restart } in history {
        if restart {
            model.restart();
        }
        model.observed.max_memory = max_memory;
        model.want(desired);
        model.run(model.now.after(Duration::from_millis(pause)), &mut fate);
    }
}

proptest! {
    #[test]
    fn plans_keep_the_laws_and_healthy_modules_end_as_they_are_desired(
        history in any_history(),
        dice in prop::collection::vec(any::<u8>(), 1..40),
        last in any_deployment(),
        lowered in any_ceiling(),
    ) {
        let mut model = Model::new(Deployment::default());
        run_history(&mut model, history, dice);
        model.observed.max_memory = lowered;
        model.want(last);
        model.exits.clear();
        model.checks.clear();
        model.run(model.now.after(MAX_BACKOFF * 4), &mut Fate::Healthy);
        check_final(&model);
    }

    #[test]
    fn starts_of_a_crashing_module_get_rarer_up_to_the_longest_back_off_but_never_end(hours in 1..5u64) {
        let mut model = Model::new(deployment([spec("a")]));
        model.run(secs(hours * 3600), &mut Fate::Crashing);
        let gaps: Vec<Duration> = model.starts.windows(2).map(|pair| pair[1].since(pair[0])).collect();
        prop_assert!(gaps.is_sorted(), "{:?}", gaps);
        prop_assert!(gaps[0] >= FIRST_BACKOFF);
        let longest = MAX_BACKOFF + Duration::from_millis(WORK + 50);
        prop_assert_eq!(gaps.last(), Some(&longest));
        prop_assert!(secs(hours * 3600).since(*model.starts.last().unwrap()) <= longest);
    }

    #[test]
    fn what_works_is_never_replaced_by_what_cannot_be_had(
        wishes in prop::collection::vec((0..4u32, 0..3_000u64), 1..12),
        crashes in any::<bool>(),
    ) {
        let wanted = |version: u32| deployment([with("a", |spec| spec.version = version.to_string())]);
        let mut model = Model::new(wanted(0));
        model.run(secs(10), &mut Fate::Healthy);
        if crashes {
            model.exits.push((secs(10), name("a"), 1));
        }
        for (version, pause) in wishes {
            model.want(wanted(version));
            model.run(model.now.after(Duration::from_millis(pause)), &mut Fate::MissingOdd);
        }
        model.run(model.now.after(MAX_BACKOFF), &mut Fate::MissingOdd);
        let module = &model.observed.modules["a"];
        prop_assert!(matches!(module.state, ModuleState::Running { .. }), "{:?}", module);
    }

    #[test]
    fn the_back_off_never_falls_with_more_failures(failures in any::<u32>()) {
        let (now, then) = (backoff(failures), backoff(failures.saturating_add(1)));
        prop_assert!(FIRST_BACKOFF <= now && now <= then && then <= MAX_BACKOFF);
    }

    #[test]
    fn the_same_picture_gives_the_same_plan(history in any_history(), dice in prop::collection::vec(any::<u8>(), 1..9)) {
        let mut model = Model::new(Deployment::default());
        run_history(&mut model, history, dice);
        prop_assert_eq!(
            plan(&model.desired, &model.observed.clone(), model.now),
            plan(&model.desired.clone(), &model.observed, model.now)
        );
    }
}
