//! What the supervisor's own picture looks like in words.

use std::collections::BTreeSet;

use super::{
    facts::{Scene, order, stopped, version},
    *,
};
use crate::time::UtcMillis;

/// The clock on the wall when the host started.
const START: UtcMillis = UtcMillis(1_795_435_200_000);

/// `action module: reason`, with the seconds since the start until which it waits.
fn told(scene: &Scene) -> String {
    let utc = UtcMillis(START.0 + scene.now.0);
    let explained = explain(&scene.desired, &scene.observed, scene.now, utc);
    let line = |step: &ExplainedStep| {
        let until = step.not_before.map(|at| format!(" (until {} s)", (at.0 - START.0) / 1000)).unwrap_or_default();
        format!("{} {}: {}{until}", step.action.as_str(), step.module, step.reason)
    };
    explained.steps.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What is said is what is planned: no step is left out, none is made up, and a wait has the planner's time.
pub(super) fn check_words(plan: &Plan, desired: &Deployment, observed: &Observed, now: Uptime) {
    let explained = explain(desired, observed, now, UtcMillis(now.0));
    let acts = |step: &&ExplainedStep| !matches!(step.action, Action::Wait | Action::GiveUp);
    let said: Vec<&ModuleName> = explained.steps.iter().filter(acts).map(|step| &step.module).collect();
    let planned = plan.steps.iter().filter(|step| !matches!(step, Step::Adopt(_)));
    let planned: Vec<&ModuleName> = planned.map(super::laws::subject).collect();
    assert_eq!(said, planned, "{explained:?} {plan:?}");
    let modules: BTreeSet<&ModuleName> = explained.steps.iter().map(|step| &step.module).collect();
    assert_eq!(modules.len(), explained.steps.len(), "two steps for one module: {explained:?}");
    if plan.steps.is_empty() {
        assert_eq!(explained.wake.map(|wake| wake.0), plan.wake_at.map(|wake| wake.0), "{explained:?}");
    }
    for gone in observed.modules.keys().filter(|name| !desired.modules.contains_key(*name)) {
        assert!(modules.contains(gone), "nothing is said of {gone}, which is to go: {explained:?}");
    }
}

#[test]
fn a_module_on_its_way_tells_where_it_is() {
    let mut scene = Scene::new([spec("a")]);
    assert_eq!(told(&scene), "pull a: it is new in the deployment");
    scene.step();
    assert_eq!(told(&scene), "wait a: it is being fetched and compiled");
    scene.event("a", Event::PrepareFailed);
    assert_eq!(told(&scene), "wait a: it could not be prepared; its back-off is 10 s after 1 failure (until 10 s)");
    scene.at(10);
    assert_eq!(told(&scene), "pull a: it could not be prepared, and the back-off of 10 s is over");
    scene.step();
    scene.event("a", Event::Prepared);
    assert_eq!(told(&scene), "start a: it is ready and has not run yet");
    scene.step();
    assert_eq!(told(&scene), "wait a: it is being started");
    scene.event("a", Event::Started);
    assert_eq!(told(&scene), "");
    scene.event("a", Event::Exited(134));
    assert_eq!(told(&scene), "wait a: it ended with code 134; its back-off is 10 s after 1 failure (until 20 s)");
    scene.at(20);
    assert_eq!(told(&scene), "restart a: it ended with code 134, and the back-off of 10 s is over");
}

#[test]
fn an_update_tells_what_changes_and_each_of_its_steps() {
    let mut scene = Scene::running([spec("a")]);
    scene.want([with("a", |spec| {
        spec.image = "registry.test/a:2".into();
        spec.env.insert("KEY".into(), "secret".into());
    })]);
    assert_eq!(told(&scene), "update a: its image becomes `registry.test/a:2`; its `env` changes");
    scene.step();
    assert_eq!(told(&scene), "wait a: its update is on its way");
    scene.event("a", Event::PrepareFailed);
    assert_eq!(told(&scene), "wait a: its update has failed; its back-off is 10 s after 1 failure (until 10 s)");
    scene.at(10);
    assert_eq!(told(&scene), "update a: its update has failed, and the back-off of 10 s is over");
    scene.step();
    scene.event("a", Event::Prepared);
    assert_eq!(told(&scene), "update a: its update is ready and starts beside the version that runs");
    scene.step();
    scene.event("a", Event::UpdateStarted);
    assert_eq!(told(&scene), "update a: its update is up and takes over");
    scene.step();
    assert_eq!(told(&scene), "wait a: it is being stopped");
    scene.event("a", Event::Stopped);
    assert_eq!(told(&scene), "update a: its update is ready and takes the place of the old version");
    scene.step();
    assert_eq!(told(&scene), "");
}

#[test]
fn what_waits_for_another_module_names_it() {
    let mut scene = Scene::new([order("a", 1), order("b", 2)]);
    scene.step();
    scene.event("a", Event::Prepared);
    scene.event("b", Event::Prepared);
    assert_eq!(
        told(&scene),
        "start a: it is ready and has not run yet\nwait b: `a` has to start first (startup order 1)"
    );
}

#[test]
fn what_is_not_wanted_any_more_tells_so() {
    let mut scene = Scene::running([spec("a"), spec("b")]);
    scene.want([stopped("b")]);
    assert_eq!(
        told(&scene),
        "remove a: the deployment does not have it any more; its instance is stopped first\nstop b: it is desired `stopped`"
    );
    scene.step();
    assert_eq!(
        told(&scene),
        "wait a: the deployment does not have it any more; it is being stopped\nwait b: it is being stopped"
    );
    scene.event("a", Event::Stopped);
    scene.event("b", Event::Stopped);
    assert_eq!(told(&scene), "remove a: the deployment does not have it any more");
}

#[test]
fn a_change_of_policy_alone_is_no_step() {
    let mut scene = Scene::running([spec("a")]);
    scene.want([with("a", |spec| spec.restart_policy = RestartPolicy::Never)]);
    assert_eq!(told(&scene), "");
    assert_eq!(scene.step(), ["adopt a"]);
}

#[test]
fn what_is_given_up_tells_its_limit() {
    let mut scene = Scene::running([with("a", |spec| spec.max_restarts = Some(0))]);
    scene.event("a", Event::Exited(1));
    assert_eq!(
        told(&scene),
        "give-up a: it ended with code 1, and was restarted as often as `maxRestarts` allows (0); it stays down until its \
         settings change"
    );
}

#[test]
fn a_plan_in_json_has_times_as_rfc_3339_and_leaves_out_what_there_is_not() {
    let mut scene = Scene::running([version("a", "1"), spec("b")]);
    scene.event("a", Event::Exited(1));
    scene.want([version("a", "1"), stopped("b")]);
    let explained = explain(&scene.desired, &scene.observed, scene.now, START);
    let json = serde_json::json!({
        "steps": [
            { "action": "wait", "module": "a", "reason": "it ended with code 1; its back-off is 10 s after 1 failure",
              "notBefore": "2026-11-23T12:00:10Z" },
            { "action": "stop", "module": "b", "reason": "it is desired `stopped`" },
        ],
        "wake": "2026-11-23T12:00:10Z",
    });
    assert_eq!(serde_json::to_value(&explained).unwrap(), json);
    assert_eq!(serde_json::from_value::<Explained>(json).unwrap(), explained);
    let nothing = explain(&deployment([]), &Observed::default(), secs(0), START);
    assert_eq!(serde_json::to_string(&nothing).unwrap(), r#"{"steps":[],"wake":null}"#);
}
