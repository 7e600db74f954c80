//! Laws of plans for reports of a runtime, attacked by chance: for any report, and for a runtime that carries the plans out
//! while its clock is set.

use proptest::prelude::*;

use super::{laws::any_deployment, *};
use crate::time::UtcMillis;

/// A few minutes after 2026-01-31T12:00:00Z, in ms; times of reports lie around it.
const NOON: u64 = 1_769_860_800_000;

fn any_time() -> impl Strategy<Value = UtcMillis> {
    // Around a back-off, around ten minutes, and anywhere.
    let near = prop_oneof![0..320_000u64, 590_000..620_000u64, 0..4_000_000u64];
    near.prop_map(|offset| UtcMillis(NOON - 2_000_000 + offset))
}

fn any_module() -> impl Strategy<Value = RuntimeModule> {
    use RuntimeStatus::{Backoff, Dead, Failed, Running, Stopped, Unhealthy, Unknown};
    let status = prop::sample::select(vec![Unknown, Backoff, Running, Unhealthy, Stopped, Failed, Dead]);
    let code = prop::option::of(prop::sample::select(vec![0, 1, 134, 137, 143, -1]));
    let digest = prop_oneof![
        3 => Just(None),
        1 => Just(Some(String::from("sha256:other"))),
        2 => super::laws::any_spec("a").prop_map(|spec| Some(spec.settings_digest())),
    ];
    let maybe = || prop::option::of(any_time());
    let times = (maybe(), maybe(), prop::option::weighted(0.2, any_time()));
    (status, code, 0..25u32, times, digest).prop_map(|(status, exit_code, restart_count, times, settings_digest)| {
        let (last_start, last_exit, last_pull_failure) = times;
        RuntimeModule { status, exit_code, restart_count, last_start, last_exit, last_pull_failure, settings_digest }
    })
}

fn any_runtime() -> impl Strategy<Value = Runtime> {
    let names = prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(name);
    prop::collection::btree_map(names, any_module(), 0..5).prop_map(|modules| Runtime { modules })
}

fn explained(desired: &Deployment, runtime: &Runtime, now: UtcMillis) -> Explained {
    explain(desired, &runtime.observed(desired, now), uptime(now), now)
}

/// IoT Edge's formula: 10 s × 2^restarts, 300 s at the most.
fn cool_off(module: &RuntimeModule) -> u64 {
    let ran = match (module.last_start, module.last_exit) {
        (Some(start), Some(exit)) => exit.0.saturating_sub(start.0),
        _ => 0,
    };
    let restarts = if ran >= 600_000 && module.status != RuntimeStatus::Unhealthy { 0 } else { module.restart_count };
    10_000 * 2_u64.pow(restarts.min(10)).min(30)
}

fn check_step(step: &ExplainedStep, desired: &Deployment, runtime: &Runtime, now: UtcMillis) {
    let module = runtime.modules.get(&step.module);
    let spec = desired.modules.get(&step.module);
    let runs = spec.is_some_and(|spec| spec.desired_status == DesiredStatus::Running);
    let is = |status: &[RuntimeStatus]| module.is_some_and(|module| status.contains(&module.status));
    match step.action {
        Action::Pull | Action::Start | Action::Update | Action::GiveUp => assert!(runs, "{step:?}"),
        Action::Restart => {
            let module = module.unwrap();
            let counts_from = match module.status {
                RuntimeStatus::Unhealthy => module.last_start.max(module.last_exit),
                _ => module.last_exit,
            };
            assert!(runs && spec.unwrap().restart_policy != RestartPolicy::Never, "{step:?}");
            assert!(counts_from.unwrap().0 + cool_off(module) <= now.0, "the back-off is skipped: {step:?}");
        }
        Action::Stop => {
            assert!(spec.is_some() && !runs && is(&[RuntimeStatus::Running, RuntimeStatus::Unhealthy]), "{step:?}");
        }
        Action::Remove => assert!(spec.is_none() && module.is_some(), "{step:?}"),
        Action::Wait => assert!(runs, "{step:?}"),
    }
    assert!(step.not_before.is_none_or(|at| at > now), "{step:?}");
    assert!(step.not_before.is_none_or(|at| at.0 <= now.0 + 300_000), "longer than the longest back-off: {step:?}");
}

/// A runtime that does at once what the plans say.
struct Driver {
    runtime: Runtime,
    /// Time that really passes.
    time: u64,
    /// What its clock shows more than that.
    clock: i64,
    /// When each module that is down ended, in real time.
    ended: BTreeMap<ModuleName, u64>,
}

impl Driver {
    /// One that has noted when its modules ended. Where that is missing, each plan waits anew.
    fn new(mut runtime: Runtime) -> Self {
        for module in runtime.modules.values_mut() {
            let has_not_run =
                module.last_start.is_none() && matches!(module.status, RuntimeStatus::Stopped | RuntimeStatus::Unknown);
            if module.status != RuntimeStatus::Running && !has_not_run {
                module.last_exit = module.last_exit.or(Some(UtcMillis(NOON)));
            }
        }
        Self { runtime, time: NOON, clock: 0, ended: BTreeMap::new() }
    }

    fn now(&self) -> UtcMillis {
        UtcMillis(self.time.saturating_add_signed(self.clock))
    }

    fn carry_out(&mut self, step: &ExplainedStep, desired: &Deployment) {
        let now = self.now();
        let running = |spec: &ModuleSpec, restart_count, last_exit| RuntimeModule {
            status: RuntimeStatus::Running,
            exit_code: None,
            restart_count,
            last_start: Some(now),
            last_exit,
            last_pull_failure: None,
            settings_digest: Some(spec.settings_digest()),
        };
        let module = self.runtime.modules.get(&step.module).cloned();
        match step.action {
            Action::Pull => {
                let down = RuntimeModule {
                    status: RuntimeStatus::Stopped,
                    last_start: None,
                    ..running(&desired.modules[&step.module], 0, None)
                };
                self.runtime.modules.insert(step.module.clone(), down);
            }
            Action::Start | Action::Update => {
                let up = running(&desired.modules[&step.module], 0, None);
                self.runtime.modules.insert(step.module.clone(), up);
            }
            Action::Restart => {
                let module = module.unwrap();
                if let Some(ended) = self.ended.remove(&step.module) {
                    assert!(
                        self.time - ended >= cool_off(&module),
                        "{} was down for {}",
                        step.module,
                        self.time - ended
                    );
                }
                let up = running(&desired.modules[&step.module], module.restart_count + 1, module.last_exit);
                self.runtime.modules.insert(step.module.clone(), up);
            }
            Action::Stop => {
                let mut module = module.unwrap();
                (module.status, module.exit_code) = (RuntimeStatus::Stopped, Some(143));
                self.runtime.modules.insert(step.module.clone(), module);
            }
            Action::Remove => drop(self.runtime.modules.remove(&step.module)),
            Action::Wait | Action::GiveUp => {}
        }
    }

    fn crash(&mut self, name: &str) {
        let (now, time) = (self.now(), self.time);
        if let Some(module) = self.runtime.modules.get_mut(name)
            && module.status == RuntimeStatus::Running
        {
            (module.status, module.exit_code, module.last_exit) = (RuntimeStatus::Failed, Some(1), Some(now));
            self.ended.insert(super::name(name), time);
        }
    }

    fn round(&mut self, desired: &Deployment) -> Explained {
        let plan = explained(desired, &self.runtime, self.now());
        plan.steps.iter().for_each(|step| self.carry_out(step, desired));
        plan
    }
}

proptest! {
    #[test]
    fn a_plan_for_any_report_keeps_the_laws(desired in any_deployment(), runtime in any_runtime(), now in any_time()) {
        let plan = explained(&desired, &runtime, now);
        let mut seen = std::collections::BTreeSet::new();
        for step in &plan.steps {
            prop_assert!(seen.insert(&step.module), "two steps for one module: {:?}", plan);
            check_step(step, &desired, &runtime, now);
        }
        for gone in runtime.modules.keys().filter(|name| !desired.modules.contains_key(*name)) {
            let removed = plan.steps.iter().any(|step| step.module == *gone && step.action == Action::Remove);
            prop_assert!(removed, "{} stays: {:?}", gone, plan);
        }
        prop_assert_eq!(plan.wake, plan.steps.iter().filter_map(|step| step.not_before).min());
        prop_assert_eq!(explained(&desired, &runtime, now), plan, "the same question, another answer");
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_due(
        desired in any_deployment(),
        runtime in any_runtime(),
        now in any_time(),
        back in prop_oneof![0..400_000u64, 0..NOON],
    ) {
        let waits = |plan: &Explained| -> Vec<ModuleName> {
            plan.steps.iter().filter(|step| step.not_before.is_some()).map(|step| step.module.clone()).collect()
        };
        let then = explained(&desired, &runtime, UtcMillis(now.0 - back.min(now.0)));
        for name in waits(&explained(&desired, &runtime, now)) {
            prop_assert!(waits(&then).contains(&name), "{} is due earlier on an earlier clock: {:?}", name, then);
        }
    }

    #[test]
    fn a_runtime_that_follows_the_plans_comes_to_what_is_desired_and_waits_out_each_back_off(
        desired in any_deployment(),
        runtime in any_runtime(),
        happenings in prop::collection::vec((0..30_000u64, prop::option::of("[abc]"), prop::option::of(0..500_000i64)), 0..12),
    ) {
        let mut driver = Driver::new(runtime);
        for (pause, crashes, set_back) in happenings {
            driver.round(&desired);
            driver.time += pause;
            crashes.iter().for_each(|name| driver.crash(name));
            driver.clock -= set_back.unwrap_or(0);
        }
        // Each turn something is done, or time passes until something is due: ten seconds at the least, until the clock is
        // where it was before it was set back.
        let mut quiet = false;
        for _ in 0..1000 {
            let plan = driver.round(&desired);
            let acts = plan.steps.iter().any(|step| !matches!(step.action, Action::Wait | Action::GiveUp));
            match plan.wake {
                _ if acts => {}
                Some(wake) => driver.time += wake.0 - driver.now().0,
                None => { quiet = true; break }
            }
        }
        prop_assert!(quiet, "the plans never come to rest: {:?}", driver.runtime);
        for name in driver.runtime.modules.keys() {
            prop_assert!(desired.modules.contains_key(name));
        }
        for spec in desired.modules.values() {
            let module = driver.runtime.modules.get(&spec.name);
            let status = module.map(|module| module.status);
            if spec.desired_status == DesiredStatus::Stopped {
                prop_assert_ne!(status, Some(RuntimeStatus::Running));
                continue;
            }
            let module = module.unwrap();
            let code = module.exit_code.unwrap_or(0);
            // Only its policy or its limit keeps it down.
            let done = !wants_restart(spec.restart_policy, code) || is_given_up(spec, code, module.restart_count + 1);
            let runs = match module.status {
                RuntimeStatus::Unhealthy => spec.restart_policy < RestartPolicy::OnUnhealthy || done,
                status => status == RuntimeStatus::Running,
            };
            prop_assert!(runs || done, "{:?} {:?}", spec, module);
        }
    }
}
