//! What a device reports is what it plans from: at any moment, the plan for its own report is its plan. Beside that, the
//! numbers that a report tells.

use super::{facts::Scene, *};
use crate::{
    manifest::read_runtime,
    reported::{Code, HostFacts, ModuleFacts, Tried, agent},
    time::UtcMillis,
};

/// What the wall clock shows when the device starts.
const START: u64 = 1_769_860_800_000;

fn utc(at: Uptime) -> UtcMillis {
    UtcMillis(START + at.0)
}

/// When the last instance started and ended.
fn times(state: &ModuleState) -> (Option<UtcMillis>, Option<UtcMillis>) {
    match *state {
        ModuleState::Running { since } => (Some(utc(since)), None),
        ModuleState::Exited { at, ran, .. } => {
            (Some(UtcMillis(utc(at).0 - u64::try_from(ran.as_millis()).unwrap())), Some(utc(at)))
        }
        ModuleState::Stopped | ModuleState::Stopping => (Some(utc(Uptime(0))), Some(utc(Uptime(1)))),
        _ => (None, None),
    }
}

/// The report of a device that observes this, as text.
fn report(desired: &Deployment, observed: &Observed, now: Uptime) -> String {
    let host = HostFacts { version: "1", commit: "", device_id: "d", architecture: "x86_64", started: utc(Uptime(0)) };
    let tried = Tried { version: 1, code: Code::Success, description: String::new() };
    let told: BTreeMap<_, _> = observed.modules.iter().map(|(name, module)| (name, module.told(now))).collect();
    let facts = desired.modules.values().map(|spec| {
        let name = &spec.name;
        let module = observed.modules.get(name);
        let (last_start, last_exit) = module.map(|module| times(&module.state)).unwrap_or_default();
        ModuleFacts {
            spec,
            written: None,
            status: module.map_or("stopped", |module| module.status(spec)),
            description: "",
            digest: None,
            exit_code: module.and_then(|module| match module.state {
                ModuleState::Exited { code, .. } => Some(code),
                // A program that ended well when it was asked to.
                ModuleState::Stopped => Some(0),
                _ => None,
            }),
            told: told.get(name),
            last_pull_failure: told.get(name).and_then(|told| told.last_pull_failure).map(utc),
            last_start,
            last_exit,
            last_restart: None,
        }
    });
    agent(&host, None, &tried, &facts.collect::<Vec<_>>()).to_string()
}

fn explained(
    desired: &Deployment,
    observed: &Observed,
    clocks: (Uptime, UtcMillis),
) -> Vec<(ModuleName, Action, Option<UtcMillis>)> {
    let steps = explain(desired, observed, clocks.0, clocks.1).steps;
    steps.into_iter().map(|step| (step.module, step.action, step.not_before)).collect()
}

/// The plan for the report is the plan. What is on its way is not compared, nor what is unhealthy and left as it is: a
/// report has no words for it.
pub(super) fn check_report(desired: &Deployment, observed: &Observed, now: Uptime) {
    let has_no_word = |module: &ObservedModule| module.next.is_some() || module.is_unhealthy();
    if !observed.is_settled() || observed.modules.values().any(has_no_word) {
        return;
    }
    let read = read_runtime(&report(desired, observed, now)).unwrap();
    let from_report = explained(desired, &read.observed(desired, utc(now)), (uptime(utc(now)), utc(now)));
    let own = explained(desired, observed, (now, utc(now)));
    assert_eq!(from_report, own, "{observed:?}, read as {read:?}");
}

fn restart_count(scene: &Scene) -> u32 {
    check_report(&scene.desired, &scene.observed, scene.now);
    scene.observed.modules["a"].told(scene.now).restart_count
}

#[test]
fn restarts_are_told_since_the_module_was_healthy_for_ten_minutes() {
    let mut scene = Scene::running([with("a", |spec| spec.max_restarts = Some(5))]);
    let crash_and_restart = |scene: &mut Scene, counts: (u32, u32)| {
        scene.event("a", Event::Exited(1));
        assert_eq!(restart_count(scene), counts.0);
        scene.now = scene.wake_at().unwrap();
        assert_eq!(scene.step(), ["start a"]);
        scene.event("a", Event::Started);
        assert_eq!(restart_count(scene), counts.1);
    };
    for restarts in 0..5 {
        crash_and_restart(&mut scene, (restarts, restarts + 1));
    }
    scene.now = scene.now.after(HEALTHY_AFTER - Duration::from_millis(1));
    assert_eq!(restart_count(&scene), 5);
    scene.now = scene.now.after(Duration::from_millis(1));
    assert_eq!(restart_count(&scene), 0);
    scene.now = scene.now.after(HEALTHY_AFTER * 288);
    crash_and_restart(&mut scene, (0, 1));
    crash_and_restart(&mut scene, (1, 2));
}

#[test]
fn a_module_whose_image_cannot_be_had_is_told_to_wait_for_that() {
    let mut scene = Scene::new([spec("a")]);
    for (failures, due) in [(1, 10), (2, 30), (3, 70)] {
        assert_eq!(scene.step(), ["prepare a"]);
        scene.event("a", Event::PrepareFailed);
        let read = read_runtime(&report(&scene.desired, &scene.observed, scene.now)).unwrap();
        let now = utc(scene.now);
        let plan = explain(&scene.desired, &read.observed(&scene.desired, now), uptime(now), now);
        let [step] = plan.steps.as_slice() else { panic!("{plan:?}") };
        assert_eq!((step.action, step.not_before), (Action::Wait, Some(utc(secs(due)))), "{plan:?}");
        assert_eq!(restart_count(&scene), failures - 1);
        scene.at(due);
    }
}

#[test]
fn what_was_stopped_is_told_so_whatever_its_exit_code_was() {
    let mut scene = Scene::running([spec("a")]);
    scene.want([with("a", |spec| spec.desired_status = DesiredStatus::Stopped)]);
    let _ = scene.step();
    scene.event("a", Event::Exited(0));
    let report = report(&scene.desired, &scene.observed, scene.now);
    let now = utc(scene.now);
    let wanted = deployment([spec("a")]);
    let plan = explain(&wanted, &read_runtime(&report).unwrap().observed(&wanted, now), uptime(now), now);
    assert_eq!(plan.steps.iter().map(|step| step.action).collect::<Vec<_>>(), [Action::Start], "{plan:?}");
}

#[test]
fn a_version_that_its_update_has_not_replaced_is_told_by_its_own_settings() {
    let mut scene = Scene::running([spec("a")]);
    let update = with("a", |spec| spec.version = "2".into());
    scene.want([update.clone()]);
    let _ = scene.step();
    scene.event("a", Event::PrepareFailed);
    let report: serde_json::Value = serde_json::from_str(&report(&scene.desired, &scene.observed, scene.now)).unwrap();
    let digest = &report["modules"]["a"]["settingsDigest"];
    assert_eq!((digest == &spec("a").settings_digest(), digest == &update.settings_digest()), (true, false));
}
