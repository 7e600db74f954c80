//! One small picture each.

use super::*;

/// A supervisor by hand: says what happened, sees what is planned.
pub(super) struct Scene {
    pub(super) desired: Deployment,
    pub(super) observed: Observed,
    pub(super) now: Uptime,
}

impl Scene {
    pub(super) fn new(specs: impl IntoIterator<Item = ModuleSpec>) -> Self {
        Self { desired: deployment(specs), observed: Observed::default(), now: secs(0) }
    }

    /// All of `specs` up and running since second 0.
    pub(super) fn running(specs: impl IntoIterator<Item = ModuleSpec> + Clone) -> Self {
        let mut scene = Self::new(specs.clone());
        for spec in specs {
            scene.observed.issued(&Step::Prepare(spec.clone()));
            scene.observed.happened(&spec.name, Event::Prepared, secs(0));
            scene.observed.happened(&spec.name, Event::Started, secs(0));
        }
        scene
    }

    pub(super) fn want(&mut self, specs: impl IntoIterator<Item = ModuleSpec>) {
        self.desired = deployment(specs);
    }

    pub(super) fn at(&mut self, seconds: u64) {
        self.now = secs(seconds);
    }

    pub(super) fn event(&mut self, module: &str, event: Event) {
        self.observed.happened(&name(module), event, self.now);
    }

    /// Plans, issues the steps and returns them in short form.
    pub(super) fn step(&mut self) -> Vec<String> {
        let plan = plan(&self.desired, &self.observed, self.now);
        plan.steps.iter().for_each(|step| self.observed.issued(step));
        plan.steps.iter().map(short).collect()
    }

    pub(super) fn wake_at(&self) -> Option<Uptime> {
        plan(&self.desired, &self.observed, self.now).wake_at
    }

    /// Nothing until this second, then `expected`.
    pub(super) fn check_due(&mut self, seconds: u64, expected: &str) {
        assert_eq!(self.wake_at(), Some(secs(seconds)));
        self.now = Uptime(seconds * 1000 - 1);
        assert_eq!(self.step(), NOTHING);
        self.at(seconds);
        assert_eq!(self.step(), [expected]);
    }

    pub(super) fn check_stays_down(&mut self) {
        assert_eq!(self.step(), NOTHING);
        assert_eq!(self.wake_at(), None);
    }
}

fn short(step: &Step) -> String {
    match step {
        Step::Prepare(spec) => format!("{step} {}", spec.version).trim_end().to_owned(),
        other => other.to_string(),
    }
}

const NOTHING: [&str; 0] = [];

pub(super) fn version(name: &str, version: &str) -> ModuleSpec {
    with(name, |spec| spec.version = version.into())
}

fn policy(restart_policy: RestartPolicy) -> ModuleSpec {
    with("a", |spec| spec.restart_policy = restart_policy)
}

pub(super) fn order(name: &str, startup_order: u32) -> ModuleSpec {
    with(name, |spec| spec.startup_order = startup_order)
}

pub(super) fn stopped(name: &str) -> ModuleSpec {
    with(name, |spec| spec.desired_status = DesiredStatus::Stopped)
}

#[test]
fn a_step_in_a_log_tells_no_secret_of_the_modules_environment() {
    let spec = with("a", |spec| drop(spec.env.insert("KEY".into(), "secret".into())));
    assert_eq!(Step::Prepare(spec.clone()).to_string(), "prepare a");
    assert_eq!(Step::Adopt(spec).to_string(), "adopt a");
}

#[test]
fn a_new_module_is_prepared_then_started_then_left_alone() {
    let mut scene = Scene::new([spec("a")]);
    assert_eq!(scene.step(), ["prepare a"]);
    assert_eq!(scene.step(), NOTHING);
    scene.event("a", Event::Prepared);
    assert_eq!(scene.step(), ["start a"]);
    assert_eq!(scene.step(), NOTHING);
    scene.event("a", Event::Started);
    scene.check_stays_down();
}

#[test]
fn what_cannot_be_prepared_is_tried_again_after_a_back_off() {
    let mut scene = Scene::new([spec("a")]);
    scene.step();
    scene.event("a", Event::PrepareFailed);
    scene.check_due(10, "prepare a");
    scene.event("a", Event::PrepareFailed);
    scene.check_due(30, "prepare a");
    scene.event("a", Event::Prepared);
    assert_eq!(scene.observed.modules["a"].failures, 0);
}

#[test]
fn the_back_off_doubles_from_10_to_300_seconds_and_zero_counts_as_one() {
    let seconds = [0, 1, 2, 3, 4, 5, 6, 7, 100, u32::MAX].map(|failures| backoff(failures).as_secs());
    assert_eq!(seconds, [10, 10, 20, 40, 80, 160, 300, 300, 300, 300]);
}

#[test]
fn ten_minutes_of_health_begin_the_count_anew() {
    assert_eq!(after_exit(4, HEALTHY_AFTER - Duration::from_millis(1)), 5);
    assert_eq!(after_exit(4, HEALTHY_AFTER), 1);
    assert_eq!(after_exit(u32::MAX, Duration::ZERO), u32::MAX);
}

#[test]
fn a_failure_restarts_after_the_back_off_unless_the_policy_is_never() {
    for restart_policy in [RestartPolicy::OnFailure, RestartPolicy::OnUnhealthy, RestartPolicy::Always] {
        let mut scene = Scene::running([policy(restart_policy)]);
        scene.at(5);
        scene.event("a", Event::Exited(134));
        scene.check_due(15, "start a");
    }
    let mut scene = Scene::running([policy(RestartPolicy::Never)]);
    scene.event("a", Event::Exited(134));
    scene.check_stays_down();
}

#[test]
fn exit_0_is_done_unless_the_policy_is_always() {
    for restart_policy in [RestartPolicy::Never, RestartPolicy::OnFailure, RestartPolicy::OnUnhealthy] {
        let mut scene = Scene::running([policy(restart_policy)]);
        scene.event("a", Event::Exited(0));
        scene.check_stays_down();
    }
    let mut scene = Scene::running([policy(RestartPolicy::Always)]);
    scene.event("a", Event::Exited(0));
    scene.check_due(10, "start a");
}

#[test]
fn an_exit_before_it_was_up_is_a_failure_too() {
    let mut scene = Scene::running([spec("a")]);
    scene.event("a", Event::Exited(1));
    scene.check_due(10, "start a");
    scene.event("a", Event::Exited(1));
    scene.check_due(30, "start a");
}

#[test]
fn a_higher_startup_order_waits_until_a_lower_one_is_up_for_the_first_time() {
    let mut scene = Scene::new([order("late", 2), order("early", 1)]);
    assert_eq!(scene.step(), ["prepare early", "prepare late"]);
    scene.event("late", Event::Prepared);
    assert_eq!(scene.step(), NOTHING);
    scene.event("early", Event::Prepared);
    assert_eq!(scene.step(), ["start early"]);
    assert_eq!(scene.step(), NOTHING, "it starts, it is not up");
    scene.event("early", Event::Started);
    assert_eq!(scene.step(), ["start late"]);
}

#[test]
fn a_module_that_fails_while_it_starts_holds_a_higher_order_up_no_longer() {
    let mut scene = Scene::new([order("late", 2), order("early", 1)]);
    scene.step();
    scene.event("late", Event::Prepared);
    scene.event("early", Event::Prepared);
    assert_eq!(scene.step(), ["start early"]);
    scene.event("early", Event::Exited(1));
    assert_eq!(scene.step(), ["start late"]);
}

#[test]
fn a_module_that_is_tried_again_after_a_failure_holds_nothing_up() {
    let mut scene = Scene::running([order("early", 1)]);
    scene.event("early", Event::Exited(1));
    scene.at(10);
    assert_eq!(scene.step(), ["start early"]);
    scene.want([order("late", 2), order("early", 1)]);
    scene.step();
    scene.event("late", Event::Prepared);
    assert_eq!(scene.step(), ["start late"]);
}

#[test]
fn a_stopped_module_that_is_wanted_again_is_waited_for() {
    let mut scene = Scene::running([order("early", 1)]);
    scene.event("early", Event::Stopped);
    scene.want([order("late", 2), order("early", 1)]);
    assert_eq!(scene.step(), ["start early", "prepare late"]);
    scene.event("late", Event::Prepared);
    assert_eq!(scene.step(), NOTHING);
    scene.event("early", Event::Started);
    assert_eq!(scene.step(), ["start late"]);
}

#[test]
fn a_failed_module_blocks_no_higher_order_not_even_while_it_is_tried_again() {
    let mut scene = Scene::new([order("late", 2), order("early", 1)]);
    scene.step();
    scene.event("late", Event::Prepared);
    scene.event("early", Event::PrepareFailed);
    assert_eq!(scene.step(), ["start late"]);

    let mut scene = Scene::new([order("late", 2), order("early", 1)]);
    scene.step();
    scene.event("early", Event::PrepareFailed);
    scene.at(10);
    assert_eq!(scene.step(), ["prepare early"]);
    scene.event("late", Event::Prepared);
    assert_eq!(scene.step(), ["start late"]);
}

#[test]
fn a_module_that_is_desired_stopped_blocks_no_higher_order() {
    let early = with("early", |spec| (spec.startup_order, spec.desired_status) = (1, DesiredStatus::Stopped));
    let mut scene = Scene::new([order("late", 2), early]);
    assert_eq!(scene.step(), ["prepare late"]);
    scene.event("late", Event::Prepared);
    assert_eq!(scene.step(), ["start late"]);
}

#[test]
fn restarts_do_not_wait_for_a_lower_order() {
    let mut scene = Scene::running([order("late", 2)]);
    scene.want([order("late", 2), order("early", 1)]);
    assert_eq!(scene.step(), ["prepare early"]);
    scene.event("late", Event::Exited(1));
    scene.at(10);
    assert_eq!(scene.step(), ["start late"]);
}

#[test]
fn an_update_does_not_take_over_before_a_new_module_of_lower_order_is_up() {
    let mut scene = Scene::running([order("late", 2)]);
    let late = with("late", |spec| (spec.startup_order, spec.version) = (2, "v2".into()));
    scene.want([late, order("early", 1)]);
    assert_eq!(scene.step(), ["prepare early", "prepare late v2"]);
    scene.event("late", Event::Prepared);
    assert_eq!(scene.step(), NOTHING, "the old version runs on");
    scene.event("early", Event::Prepared);
    assert_eq!(scene.step(), ["start early"]);
    scene.event("early", Event::Started);
    assert_eq!(scene.step(), ["start-update late"]);
    scene.event("late", Event::UpdateStarted);
    assert_eq!(scene.step(), ["stop late"]);
}

#[test]
fn a_module_desired_stopped_is_stopped_and_costs_no_fetch() {
    let mut scene = Scene::running([spec("a")]);
    scene.want([stopped("a"), stopped("b")]);
    assert_eq!(scene.step(), ["stop a"]);
    assert_eq!(scene.step(), ["adopt a"]);
    scene.event("a", Event::Stopped);
    scene.check_stays_down();
}

#[test]
fn a_starting_module_is_stopped_once_it_is_up() {
    let mut scene = Scene::new([spec("a")]);
    scene.step();
    scene.event("a", Event::Prepared);
    scene.step();
    scene.want([stopped("a")]);
    assert_eq!(scene.step(), ["adopt a"]);
    scene.event("a", Event::Started);
    assert_eq!(scene.step(), ["stop a"]);
    scene.event("a", Event::Exited(143));
    assert_eq!(scene.observed.modules["a"].state, ModuleState::Stopped);
    scene.want([spec("a")]);
    assert_eq!(scene.step(), ["start a"]);
}

#[test]
fn stopped_and_running_again_starts_even_what_was_done() {
    let mut scene = Scene::running([spec("a")]);
    scene.event("a", Event::Exited(0));
    assert_eq!(scene.step(), NOTHING);
    scene.want([stopped("a")]);
    assert_eq!(scene.step(), ["adopt a"]);
    scene.want([spec("a")]);
    assert_eq!(scene.step(), ["start a"]);
}

#[test]
fn a_change_of_policy_status_or_order_alone_leaves_the_instance_running() {
    let mut scene = Scene::running([spec("a")]);
    scene.want([with("a", |spec| (spec.startup_order, spec.restart_policy) = (7, RestartPolicy::Never))]);
    assert_eq!(scene.step(), ["adopt a"]);
    assert_eq!(scene.step(), NOTHING);
    scene.event("a", Event::Exited(1));
    scene.check_stays_down();
}

#[test]
fn every_other_field_needs_a_new_instance() {
    let old = spec("a");
    let changes: [fn(&mut ModuleSpec); 5] = [
        |spec| spec.version = "2".into(),
        |spec| spec.image.push('0'),
        |spec| spec.pull_policy = PullPolicy::Never,
        |spec| drop(spec.env.insert("A".into(), "1".into())),
        |spec| spec.sandbox.args.push("-v".into()),
    ];
    for change in changes {
        let new = with("a", change);
        assert!(needs_new_instance(&old, &new), "{new:?}");
    }
    assert!(!needs_new_instance(&old, &stopped("a")));
    assert!(!needs_new_instance(&old, &order("a", 1)));
    assert!(!needs_new_instance(&old, &policy(RestartPolicy::Always)));
}

#[test]
fn an_update_is_prepared_beside_the_old_version_and_starts_without_back_off() {
    let mut scene = Scene::running([spec("a")]);
    scene.event("a", Event::Exited(1));
    scene.at(10);
    scene.step();
    scene.event("a", Event::Started);
    scene.want([version("a", "v2")]);
    assert_eq!(scene.step(), ["prepare a v2"]);
    assert!(matches!(scene.observed.modules["a"].state, ModuleState::Running { .. }));
    assert_eq!(scene.step(), NOTHING);
    scene.event("a", Event::Prepared);
    assert_eq!(scene.step(), ["start-update a"]);
    assert_eq!(scene.step(), NOTHING, "the old version runs on");
    scene.at(12);
    scene.event("a", Event::UpdateStarted);
    assert_eq!(scene.step(), ["stop a"]);
    scene.event("a", Event::Stopped);
    assert_eq!(scene.wake_at(), Some(scene.now), "promoting brings no event: plan again at once");
    assert_eq!(scene.step(), ["promote a"]);
    assert_eq!(scene.step(), NOTHING);
    assert_eq!(scene.observed.modules["a"].state, ModuleState::Running { since: secs(12) });
    let module = &scene.observed.modules["a"];
    assert_eq!((module.spec.version.as_str(), module.failures, &module.next), ("v2", 0, &None));
}

#[test]
fn an_update_that_changes_while_it_is_prepared_is_waited_for_and_then_replaced() {
    let mut scene = Scene::running([spec("a")]);
    scene.want([version("a", "v2")]);
    scene.step();
    scene.want([version("a", "v3")]);
    assert_eq!(scene.step(), NOTHING);
    scene.event("a", Event::PrepareFailed);
    assert_eq!(scene.step(), ["prepare a v3"], "failures of v2 do not count against v3");
    scene.event("a", Event::Prepared);
    assert_eq!(scene.step(), ["start-update a"]);
    // And once more while it starts.
    scene.want([version("a", "v4")]);
    assert_eq!(scene.step(), ["stop-update a"]);
    scene.event("a", Event::UpdateExited);
    assert_eq!(scene.step(), ["prepare a v4"]);
}

#[test]
fn the_old_version_runs_on_while_the_start_of_its_update_fails_again_and_again() {
    let mut scene = Scene::running([spec("a")]);
    scene.want([version("a", "v2")]);
    scene.step();
    let mut due = 0;
    for wait in [10, 20, 40] {
        scene.event("a", Event::Prepared);
        assert_eq!(scene.step(), ["start-update a"]);
        scene.event("a", Event::UpdateExited);
        due += wait;
        scene.check_due(due, "prepare a v2");
        assert!(matches!(scene.observed.modules["a"].state, ModuleState::Running { .. }));
    }
}

#[test]
fn an_update_that_is_up_takes_over_when_the_old_version_ends_by_itself() {
    for (ends_first, then) in [(true, Event::UpdateStarted), (false, Event::Exited(1))] {
        let mut scene = Scene::running([spec("a")]);
        scene.want([version("a", "v2")]);
        scene.step();
        scene.event("a", Event::Prepared);
        scene.step();
        let first = if ends_first { Event::Exited(1) } else { Event::UpdateStarted };
        scene.event("a", first);
        if ends_first {
            assert_eq!(scene.step(), NOTHING);
        }
        scene.event("a", then);
        assert_eq!(scene.step(), ["promote a"]);
        assert_eq!(scene.step(), NOTHING);
    }
}

#[test]
fn the_old_version_comes_back_when_its_update_ends_between_the_two() {
    let mut scene = between_two_versions();
    scene.event("a", Event::UpdateExited);
    scene.event("a", Event::Stopped);
    assert_eq!(scene.step(), ["start a"]);
    assert_eq!(scene.observed.modules["a"].spec.version, "");
}

#[test]
fn an_update_that_nobody_wants_any_more_is_ended_first() {
    let wishes = [(vec![spec("a")], NOTHING.as_slice()), (vec![stopped("a")], &["stop a"]), (Vec::new(), &["stop a"])];
    for (wish, then) in wishes {
        let mut scene = Scene::running([spec("a")]);
        scene.want([version("a", "v2")]);
        scene.step();
        scene.event("a", Event::Prepared);
        scene.step();
        scene.event("a", Event::UpdateStarted);
        scene.want(wish);
        assert_eq!(scene.step(), ["stop-update a"]);
        assert_eq!(scene.step(), then);
        scene.event("a", Event::UpdateExited);
        assert_eq!(scene.observed.modules["a"].next, None);
    }
}

#[test]
fn an_update_that_is_taken_back_leaves_the_old_version_running() {
    let mut scene = Scene::running([spec("a")]);
    scene.want([version("a", "v2")]);
    scene.step();
    scene.want([spec("a")]);
    assert_eq!(scene.step(), ["cancel a"]);
    scene.check_stays_down();
}

#[test]
fn the_old_version_runs_on_while_a_failed_update_is_tried_again() {
    let mut scene = Scene::running([spec("a")]);
    scene.want([version("a", "v2")]);
    scene.step();
    scene.event("a", Event::PrepareFailed);
    scene.check_due(10, "prepare a v2");
    scene.event("a", Event::PrepareFailed);
    scene.check_due(30, "prepare a v2");
}

#[test]
fn the_old_version_is_restarted_while_its_update_is_not_ready() {
    for outcome in [None, Some(Event::PrepareFailed)] {
        let mut scene = Scene::running([spec("a")]);
        scene.want([version("a", "v2")]);
        scene.step();
        outcome.into_iter().for_each(|event| scene.event("a", event));
        scene.event("a", Event::Exited(134));
        scene.check_due(10, "start a");
        assert_eq!(scene.observed.modules["a"].spec.version, "");
    }
}

#[test]
fn an_operators_restart_brings_back_the_old_version_while_its_update_is_not_ready() {
    for outcome in [None, Some(Event::PrepareFailed)] {
        let mut scene = Scene::running([spec("a")]);
        scene.want([version("a", "v2")]);
        scene.step();
        outcome.into_iter().for_each(|event| scene.event("a", event));
        scene.event("a", Event::Stopped);
        assert_eq!(scene.step(), ["start a"]);
    }
}

/// The old version was stopped for `v2`, which is up.
fn between_two_versions() -> Scene {
    let mut scene = Scene::running([spec("a")]);
    scene.want([version("a", "v2")]);
    scene.step();
    scene.event("a", Event::Prepared);
    scene.step();
    scene.event("a", Event::UpdateStarted);
    assert_eq!(scene.step(), ["stop a"]);
    scene
}

#[test]
fn the_old_version_comes_back_when_its_update_changes_between_the_two() {
    let mut scene = between_two_versions();
    scene.want([version("a", "v3")]);
    assert_eq!(scene.step(), ["stop-update a"]);
    scene.event("a", Event::Stopped);
    assert_eq!(scene.step(), NOTHING);
    scene.event("a", Event::UpdateExited);
    assert_eq!(scene.step(), ["prepare a v3"]);
    assert_eq!(scene.step(), ["start a"]);
    scene.event("a", Event::PrepareFailed);
    scene.event("a", Event::Started);
    assert_eq!(scene.observed.modules["a"].spec.version, "");
}

#[test]
fn an_old_version_that_crashed_is_started_again_while_its_update_cannot_be_had() {
    let mut scene = Scene::running([spec("a")]);
    scene.event("a", Event::Exited(134));
    scene.want([version("a", "v2")]);
    assert_eq!(scene.step(), ["prepare a v2"]);
    scene.event("a", Event::PrepareFailed);
    scene.check_due(10, "start a");
}

#[test]
fn a_version_that_was_desired_stopped_or_removed_does_not_come_back_for_the_next_one() {
    let stopped_v3 = ModuleSpec { desired_status: DesiredStatus::Stopped, ..version("a", "v3") };
    for between in [vec![stopped_v3], Vec::new()] {
        let mut scene = between_two_versions();
        scene.want(between);
        assert_eq!(scene.step(), ["stop-update a"]);
        assert_eq!(scene.step(), ["adopt a"]);
        scene.want([version("a", "v4")]);
        scene.event("a", Event::Stopped);
        scene.event("a", Event::UpdateExited);
        assert_eq!(scene.step(), ["prepare a v4"]);
        assert_eq!(scene.observed.modules["a"].state, ModuleState::Preparing);
    }
}

#[test]
fn an_update_is_tried_again_although_the_old_version_never_comes_up() {
    let mut scene = Scene::running([spec("a")]);
    scene.want([version("a", "v2")]);
    scene.step();
    scene.event("a", Event::PrepareFailed);
    scene.event("a", Event::Exited(134));
    scene.at(10);
    assert_eq!(scene.wake_at(), Some(scene.now));
    assert_eq!(scene.step(), ["start a"]);
    assert_eq!(scene.step(), ["prepare a v2"]);
    scene.event("a", Event::Exited(134));
    scene.event("a", Event::Prepared);
    assert_eq!(scene.step(), ["promote a"]);
}

#[test]
fn an_old_version_that_is_done_does_not_come_back_for_its_update() {
    let mut scene = Scene::running([spec("a")]);
    scene.want([version("a", "v2")]);
    scene.step();
    scene.event("a", Event::Exited(0));
    assert_eq!(scene.step(), NOTHING);
    scene.event("a", Event::PrepareFailed);
    scene.check_due(10, "prepare a v2");
    assert_eq!(scene.observed.modules["a"].state, ModuleState::Preparing);
    scene.event("a", Event::Prepared);
    assert_eq!(scene.step(), ["start a"]);
}

#[test]
fn a_repaired_module_starts_at_once() {
    let mut scene = Scene::running([spec("a")]);
    scene.event("a", Event::Exited(1));
    scene.want([version("a", "fixed")]);
    assert_eq!(scene.step(), ["prepare a fixed"]);
    scene.event("a", Event::Prepared);
    assert_eq!(scene.step(), ["promote a"]);
    assert_eq!(scene.observed.modules["a"].failures, 0);
    assert_eq!(scene.step(), ["start a"]);

    let mut scene = Scene::new([spec("a")]);
    scene.step();
    scene.event("a", Event::PrepareFailed);
    scene.want([version("a", "fixed")]);
    assert_eq!(scene.step(), ["prepare a fixed"]);
}

#[test]
fn what_was_prepared_but_is_outdated_is_prepared_anew_not_started() {
    let mut scene = Scene::new([spec("a")]);
    scene.step();
    scene.want([version("a", "v2")]);
    assert_eq!(scene.step(), NOTHING);
    scene.event("a", Event::Prepared);
    assert_eq!(scene.step(), ["prepare a v2"]);
}

#[test]
fn a_removed_module_is_stopped_and_then_forgotten() {
    let mut scene = Scene::running([spec("a"), spec("b")]);
    scene.want([spec("b")]);
    assert_eq!(scene.step(), ["stop a"]);
    assert_eq!(scene.step(), ["adopt a"], "it is over with this version");
    assert_eq!(scene.step(), NOTHING);
    scene.event("a", Event::Stopped);
    assert_eq!(scene.step(), ["remove a"]);
    assert_eq!(scene.step(), NOTHING);
    assert_eq!(scene.observed.modules.len(), 1);
}

#[test]
fn a_module_removed_while_it_is_prepared_is_forgotten_at_once() {
    let mut scene = Scene::new([spec("a")]);
    scene.step();
    scene.want([]);
    assert_eq!(scene.step(), ["remove a"]);

    let mut scene = Scene::running([spec("a")]);
    scene.want([version("a", "v2")]);
    scene.step();
    scene.want([]);
    assert_eq!(scene.step(), ["cancel a"]);
    assert_eq!(scene.step(), ["stop a"]);
    scene.event("a", Event::Stopped);
    assert_eq!(scene.step(), ["remove a"]);
}

#[test]
fn what_is_desired_stopped_while_it_is_prepared_costs_nothing_any_more() {
    let mut scene = Scene::new([spec("a")]);
    scene.step();
    scene.want([stopped("a")]);
    assert_eq!(scene.step(), ["cancel a"]);
    scene.check_stays_down();
    scene.want([spec("a")]);
    assert_eq!(scene.step(), ["prepare a"], "without a back-off: it has not failed");
}

#[test]
fn another_image_is_fetched_at_once_in_place_of_the_one_that_is_being_fetched() {
    let image = |image: &str| with("a", |spec| (spec.image, spec.version) = (image.into(), image.into()));
    for mut scene in [Scene::running([image("x")]), Scene::new([image("y")])] {
        scene.want([image("y")]);
        assert_eq!(scene.step(), ["prepare a y"]);
        scene.want([image("z")]);
        assert_eq!(scene.step(), ["prepare a z"]);
        assert_eq!(scene.step(), NOTHING);
    }
}

#[test]
fn one_broken_module_does_not_hold_up_another() {
    let mut scene = Scene::running([spec("a"), spec("b")]);
    scene.event("a", Event::Exited(134));
    scene.at(3);
    scene.event("b", Event::Exited(134));
    assert_eq!(scene.wake_at(), Some(secs(10)));
    scene.at(10);
    assert_eq!(scene.step(), ["start a"]);
    assert_eq!(scene.wake_at(), Some(secs(13)));
}

#[test]
fn shutdown_goes_from_the_last_started_to_the_first_and_skips_what_is_down() {
    let mut scene = Scene::running([order("a", 1), order("b", 2), order("c", 2), order("d", 3)]);
    scene.event("d", Event::Exited(0));
    assert_eq!(shutdown_order(&scene.observed), [vec![name("b"), name("c")], vec![name("a")]]);
}
