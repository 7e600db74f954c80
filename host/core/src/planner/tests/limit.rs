//! `maxRestarts`: how often a module is started again before it is given up.

use super::{facts::Scene, *};

fn at_most(restarts: u32) -> ModuleSpec {
    with("a", |spec| spec.max_restarts = Some(restarts))
}

/// Lets `a` crash as soon as it is up until nothing more is due; how often it was started again.
fn crash_for_ever(scene: &mut Scene, most: u32) -> u32 {
    for restarts in 0..=most {
        scene.event("a", Event::Exited(1));
        let Some(due) = scene.wake_at() else { return restarts };
        scene.now = due;
        assert_eq!(scene.step(), ["start a"]);
        scene.event("a", Event::Started);
    }
    most + 1
}

#[test]
fn without_a_limit_a_module_is_never_given_up() {
    let mut scene = Scene::running([spec("a")]);
    assert_eq!(crash_for_ever(&mut scene, 500), 501);
}

#[test]
fn with_a_limit_it_is_restarted_so_often_and_then_stays_down() {
    for limit in [0, 1, 20] {
        let mut scene = Scene::running([at_most(limit)]);
        assert_eq!(crash_for_ever(&mut scene, 500), limit);
        scene.check_stays_down();
    }
}

#[test]
fn ten_minutes_of_health_begin_the_count_of_the_limit_anew() {
    let mut scene = Scene::running([at_most(1)]);
    scene.event("a", Event::Exited(1));
    scene.check_due(10, "start a");
    scene.event("a", Event::Started);
    scene.at(611);
    scene.event("a", Event::Exited(1));
    scene.check_due(621, "start a");
}

#[test]
fn a_higher_limit_or_another_version_gives_it_another_chance() {
    let mut scene = Scene::running([at_most(0)]);
    scene.event("a", Event::Exited(1));
    scene.check_stays_down();
    let mut other = Scene { desired: deployment([]), observed: scene.observed.clone(), now: scene.now };
    scene.want([at_most(1)]);
    assert_eq!(scene.step(), ["adopt a"], "a limit alone takes no new instance");
    scene.check_due(10, "start a");
    other.want([with("a", |spec| (spec.max_restarts, spec.version) = (Some(0), "2".into()))]);
    assert_eq!(other.step(), ["prepare a 2"]);
}

#[test]
fn what_was_given_up_does_not_come_back_while_its_update_is_fetched() {
    let mut scene = Scene::running([at_most(0)]);
    scene.event("a", Event::Exited(1));
    scene.want([with("a", |spec| (spec.max_restarts, spec.version) = (Some(0), "2".into()))]);
    assert_eq!(scene.step(), ["prepare a 2"]);
    scene.at(1000);
    scene.check_stays_down();
    scene.event("a", Event::Prepared);
    assert_eq!(scene.step(), ["start a"]);
}

#[test]
fn an_exit_with_code_0_counts_where_the_policy_starts_it_again() {
    let mut scene = Scene::running([with("a", |spec| {
        (spec.max_restarts, spec.restart_policy) = (Some(1), RestartPolicy::Always);
    })]);
    scene.event("a", Event::Exited(0));
    scene.check_due(10, "start a");
    scene.event("a", Event::Started);
    scene.event("a", Event::Exited(0));
    scene.check_stays_down();
}
