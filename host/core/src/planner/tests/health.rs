//! What becomes of a module whose health check fails.

use super::{
    facts::{Scene, stopped, version},
    *,
};

const NOTHING: [&str; 0] = [];

fn checked(restart_policy: RestartPolicy) -> ModuleSpec {
    with("a", |spec| (spec.restart_policy, spec.health) = (restart_policy, Some(check())))
}

/// Up since second 0, unhealthy at second 100.
fn unhealthy(spec: ModuleSpec) -> Scene {
    let mut scene = Scene::running([spec]);
    scene.at(100);
    scene.event("a", Event::Checked(Health::Unhealthy));
    scene
}

fn told(scene: &Scene) -> String {
    let explained = explain(&scene.desired, &scene.observed, scene.now, crate::time::UtcMillis(0));
    let line = |step: &ExplainedStep| format!("{}: {}", step.action.as_str(), step.reason);
    explained.steps.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn it_is_ended_and_started_again_after_its_back_off_as_after_a_crash() {
    for policy in [RestartPolicy::OnUnhealthy, RestartPolicy::Always] {
        let mut scene = unhealthy(checked(policy));
        assert_eq!(told(&scene), "restart: it is unhealthy; it is ended, and started again after its back-off");
        assert_eq!(scene.step(), ["end a"]);
        assert_eq!(told(&scene), "wait: it is unhealthy, and is being ended");
        assert_eq!(scene.step(), NOTHING);
        scene.at(110);
        scene.event("a", Event::Exited(Exit::UNHEALTHY));
        scene.check_due(120, "start a");
        scene.event("a", Event::Started);
        assert_eq!(scene.step(), NOTHING, "what was known of the instance before says nothing of this one");
        scene.event("a", Event::Checked(Health::Unhealthy));
        assert_eq!(scene.step(), ["end a"]);
        scene.event("a", Event::Exited(Exit::UNHEALTHY));
        scene.check_due(140, "start a");
    }
}

#[test]
fn it_is_left_running_where_its_policy_or_its_limit_would_not_start_it_again() {
    let limited = |most| ModuleSpec { max_restarts: Some(most), ..checked(RestartPolicy::Always) };
    for spec in [checked(RestartPolicy::Never), checked(RestartPolicy::OnFailure), limited(0)] {
        let mut scene = unhealthy(spec);
        scene.check_stays_down();
        scene.event("a", Event::Checked(Health::Healthy { since: secs(100) }));
        scene.check_stays_down();
    }
    assert_eq!(unhealthy(limited(1)).step(), ["end a"]);
}

#[test]
fn another_check_or_none_has_found_nothing_yet() {
    let mut scene = unhealthy(checked(RestartPolicy::Never));
    scene.want([with("a", |spec| spec.health = Some(HealthCheck { failures: 9, ..check() }))]);
    assert_eq!(scene.step(), ["adopt a"], "the instance is left alone");
    assert_eq!(scene.step(), NOTHING);
    let mut scene = unhealthy(checked(RestartPolicy::Never));
    scene.want([spec("a")]);
    assert_eq!(scene.step(), ["adopt a"]);
    assert_eq!(scene.step(), NOTHING);
}

#[test]
fn it_is_not_started_again_if_it_is_stopped_or_removed_meanwhile() {
    let mut scene = unhealthy(checked(RestartPolicy::Always));
    assert_eq!(scene.step(), ["end a"]);
    scene.want([stopped("a")]);
    assert_eq!(scene.step(), ["adopt a"]);
    scene.event("a", Event::Exited(Exit::UNHEALTHY));
    scene.check_stays_down();
    let mut scene = unhealthy(checked(RestartPolicy::Always));
    assert_eq!(scene.step(), ["end a"]);
    scene.want([]);
    scene.step();
    scene.event("a", Event::Exited(Exit::UNHEALTHY));
    assert_eq!(scene.step(), ["remove a"]);
}

#[test]
fn it_does_not_wait_for_an_update_that_is_a_long_way_off() {
    let new = || ModuleSpec { restart_policy: RestartPolicy::Always, ..version("a", "2") };
    let mut scene = unhealthy(checked(RestartPolicy::Always));
    scene.want([new()]);
    assert_eq!(scene.step(), ["prepare a 2"]);
    assert_eq!(scene.step(), ["end a"]);
    scene.event("a", Event::Exited(Exit::UNHEALTHY));
    scene.check_due(110, "start a");

    let mut scene = Scene::running([checked(RestartPolicy::Always)]);
    scene.want([new()]);
    scene.step();
    scene.event("a", Event::Prepared);
    scene.event("a", Event::Checked(Health::Unhealthy));
    assert_eq!(scene.step(), ["start-update a"], "one that is ready ends it anyway");
    assert_eq!(scene.step(), NOTHING);
}
