//! The owner's ceiling on memory while versions take over from each other.

use super::{facts::Scene, *};

fn of(name: &str, version: &str, memory: u64, order: u32) -> ModuleSpec {
    with(name, |spec| {
        spec.version = version.into();
        spec.sandbox.memory_bytes = memory;
        spec.startup_order = order;
    })
}

fn running(most: u64, specs: impl IntoIterator<Item = ModuleSpec> + Clone) -> Scene {
    let mut scene = Scene::running(specs);
    scene.observed.max_memory = Some(most);
    scene
}

/// What is said of a module.
fn said(scene: &Scene, module: &str) -> String {
    let plan = explain(&scene.desired, &scene.observed, scene.now, crate::time::UtcMillis(scene.now.0));
    plan.steps.into_iter().find(|step| step.module == name(module)).map(|step| step.reason).unwrap_or_default()
}

#[test]
fn an_update_that_does_not_fit_beside_its_old_version_takes_its_place() {
    let mut scene = running(24, [of("a", "1", 16, 1)]);
    scene.want([of("a", "2", 16, 1)]);
    assert_eq!(scene.step(), ["prepare a 2"]);
    scene.event("a", Event::Prepared);
    let why = said(&scene, "a");
    assert!(why.contains("does not fit beside it under `modules.max-memory-bytes`"), "{why}");
    assert_eq!(scene.step(), ["stop a"]);
    scene.event("a", Event::Stopped);
    assert_eq!(scene.step(), ["promote a"]);
    assert_eq!(scene.step(), ["start a"]);
}

#[test]
fn updates_that_do_not_all_fit_at_once_come_one_after_another() {
    let specs = |version: &str| [of("a", version, 8, 1), of("b", version, 8, 1)];
    let mut scene = running(24, specs("1"));
    scene.want(specs("2"));
    scene.step();
    scene.event("a", Event::Prepared);
    scene.event("b", Event::Prepared);
    assert_eq!(scene.step(), ["start-update a"]);
    let why = said(&scene, "b");
    assert!(why.starts_with("its update needs 8 bytes, which do not fit beside what there is"), "{why}");
    scene.event("a", Event::UpdateStarted);
    assert_eq!(scene.step(), ["stop a"]);
    scene.event("a", Event::Stopped);
    assert_eq!(scene.step(), ["promote a", "start-update b"]);
}

#[test]
fn a_new_module_waits_until_what_leaves_has_ended() {
    let mut scene = running(16, [of("old", "1", 16, 1)]);
    scene.want([of("new", "1", 16, 1)]);
    assert_eq!(scene.step(), ["stop old", "prepare new 1"]);
    scene.event("new", Event::Prepared);
    assert_eq!(scene.step(), ["adopt old"], "it is not to come back, and that is all");
    assert!(said(&scene, "new").starts_with("it needs 16 bytes"), "{}", said(&scene, "new"));
    scene.event("old", Event::Stopped);
    assert_eq!(scene.step(), ["remove old", "start new"]);
}

#[test]
fn what_waits_for_room_does_not_hold_up_the_higher_one_that_has_to_make_it() {
    let mut scene = running(24, [of("b", "1", 16, 2)]);
    scene.want([of("a", "1", 16, 1), of("b", "2", 8, 2)]);
    assert_eq!(scene.step(), ["prepare a 1", "prepare b 2"]);
    scene.event("a", Event::Prepared);
    scene.event("b", Event::Prepared);
    assert_eq!(scene.step(), ["start-update b"]);
    scene.event("b", Event::UpdateStarted);
    assert_eq!(scene.step(), ["stop b"]);
    scene.event("b", Event::Stopped);
    assert_eq!(scene.step(), ["start a", "promote b"]);
}

#[test]
fn a_deployment_that_was_accepted_under_a_higher_ceiling_has_what_it_needs() {
    let mut scene = Scene::new([of("a", "1", 8, 1), of("b", "1", 8, 1)]);
    scene.observed.max_memory = Some(9);
    scene.step();
    scene.event("a", Event::Prepared);
    scene.event("b", Event::Prepared);
    assert_eq!(scene.step(), ["start a", "start b"]);
}

#[test]
fn updates_to_smaller_versions_take_their_place_one_at_a_time_under_a_ceiling_that_was_lowered() {
    let specs = |version: &str, memory| [of("a", version, memory, 1), of("b", version, memory, 1)];
    let mut scene = running(10, specs("1", 8));
    scene.want(specs("2", 5));
    scene.step();
    scene.event("a", Event::Prepared);
    scene.event("b", Event::Prepared);
    assert_eq!(scene.step(), ["stop a"]);
    scene.event("a", Event::Stopped);
    assert_eq!(scene.step(), ["promote a"]);
    assert_eq!(scene.step(), ["start a"]);
    assert!(scene.step().is_empty(), "one at a time");
    scene.event("a", Event::Started);
    assert_eq!(scene.step(), ["stop b"]);
}

#[test]
fn the_place_of_an_old_version_is_kept_for_its_update() {
    let mut scene = running(32, [of("a", "1", 16, 1), of("b", "1", 16, 1)]);
    scene.want([of("a", "2", 16, 1), of("b", "2", 8, 1), of("c", "1", 8, 1)]);
    assert_eq!(scene.step(), ["prepare a 2", "prepare b 2", "prepare c 1"]);
    scene.event("a", Event::Prepared);
    scene.event("c", Event::Prepared);
    assert_eq!(scene.step(), ["stop a"], "b is still fetched");
    scene.event("a", Event::Stopped);
    assert_eq!(scene.step(), ["promote a"]);
    assert_eq!(scene.step(), ["start a"]);
}

#[test]
fn the_place_of_a_module_that_crashed_is_kept_for_it() {
    let mut scene = running(32, [of("a", "1", 16, 1), of("b", "1", 16, 1)]);
    scene.want([of("a", "1", 16, 1), of("b", "2", 8, 1), of("c", "1", 8, 1)]);
    scene.step();
    scene.event("c", Event::Prepared);
    scene.event("a", Event::Exited(1));
    scene.check_due(10, "start a");
}

#[test]
fn what_is_done_or_given_up_keeps_no_place() {
    let job = ModuleSpec { restart_policy: RestartPolicy::Never, ..of("job", "1", 16, 1) };
    let mut scene = running(32, [job.clone(), of("a", "1", 16, 1)]);
    scene.event("job", Event::Exited(0));
    scene.want([job.clone(), of("a", "2", 16, 1)]);
    scene.step();
    scene.event("a", Event::Prepared);
    assert_eq!(scene.step(), ["start-update a"], "beside its old version");

    let mut scene = running(32, [job.clone(), of("a", "1", 16, 1)]);
    scene.event("job", Event::Exited(1));
    scene.want([ModuleSpec { desired_status: DesiredStatus::Running, ..job }, of("a", "2", 16, 1)]);
    scene.step();
    scene.event("a", Event::Prepared);
    assert_eq!(scene.step(), ["start-update a"]);
}

#[test]
fn the_place_of_an_old_version_is_kept_where_its_update_is_up_and_not_wanted_any_more() {
    let mut scene = running(32, [of("b", "1", 16, 1)]);
    let new = of("c", "1", 16, 1);
    scene.want([of("b", "2", 16, 1), new.clone()]);
    scene.step();
    scene.event("b", Event::Prepared);
    assert_eq!(scene.step(), ["start-update b"]);
    scene.event("c", Event::Prepared);
    scene.event("b", Event::UpdateStarted);
    assert_eq!(scene.step(), ["stop b"]);
    // Both before the next plan.
    scene.event("b", Event::Stopped);
    scene.want([of("b", "1", 16, 1), new]);
    assert_eq!(scene.step(), ["stop-update b"], "b comes back, and c waits");
    scene.event("b", Event::UpdateExited);
    assert_eq!(scene.step(), ["start b", "start c"]);
}

#[test]
fn an_old_version_that_crashed_comes_back_while_its_larger_update_has_no_room() {
    let mut scene = running(24, [of("a", "1", 8, 1), of("b", "1", 16, 1)]);
    scene.want([of("a", "2", 16, 1), of("b", "2", 8, 1)]);
    scene.step();
    scene.event("a", Event::Prepared);
    scene.event("a", Event::Exited(1));
    scene.check_due(10, "start a");
    assert_eq!(scene.observed.modules["a"].spec.version, "1", "b is still fetched");
    scene.event("a", Event::Started);
    scene.event("b", Event::Prepared);
    assert_eq!(scene.step(), ["stop b"]);
}

#[test]
fn an_update_waits_for_room_beside_its_old_version_if_another_one_is_about_to_make_it() {
    let mut scene = running(24, [of("a", "1", 16, 1), of("b", "1", 8, 1)]);
    scene.want([of("a", "2", 8, 1), of("b", "2", 8, 1)]);
    scene.step();
    scene.event("a", Event::Prepared);
    scene.event("b", Event::Prepared);
    assert_eq!(scene.step(), ["stop a"]);
    scene.event("a", Event::Stopped);
    assert_eq!(scene.step(), ["promote a"]);
    assert_eq!(scene.step(), ["start a", "start-update b"]);
}

#[test]
fn what_waits_for_room_holds_up_the_first_starts_of_higher_ones() {
    let mut scene = running(24, [of("b", "1", 16, 2)]);
    scene.want([of("a", "1", 12, 1), of("b", "2", 8, 2), of("z", "1", 4, 3)]);
    scene.step();
    scene.event("a", Event::Prepared);
    scene.event("z", Event::Prepared);
    assert!(scene.step().is_empty(), "b is still fetched, and the room of its update is not taken by z");
    assert_eq!(said(&scene, "z"), "`a` has to start first (startup order 1)");
    scene.event("b", Event::Prepared);
    assert_eq!(scene.step(), ["start-update b"]);
    scene.event("b", Event::UpdateStarted);
    assert_eq!(scene.step(), ["stop b"]);
    scene.event("b", Event::Stopped);
    assert_eq!(scene.step(), ["start a", "promote b"]);
    assert!(scene.step().is_empty());
    scene.event("a", Event::Started);
    assert_eq!(scene.step(), ["start z"]);
}

#[test]
fn what_waits_behind_one_that_waits_for_room_holds_up_no_update_either() {
    let mut scene = running(3, [of("c", "1", 3, 2)]);
    scene.want([of("a", "1", 1, 0), of("b", "1", 1, 1), of("c", "2", 1, 2)]);
    scene.step();
    scene.event("a", Event::Prepared);
    scene.event("b", Event::Prepared);
    scene.event("c", Event::Prepared);
    assert_eq!(scene.step(), ["stop c"]);
}
