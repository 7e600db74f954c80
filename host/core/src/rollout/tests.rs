use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    deployment::{HealthCheck, PullPolicy, RestartPolicy, Sandbox},
    planner::{Event, NextVersion, Observed},
    time::UtcMillis,
};

const OPTIONS: RolloutOptions = RolloutOptions {
    rollback: true,
    probation: Duration::from_secs(60),
    health_timeout: Some(Duration::from_secs(300)),
    wait_for_network: true,
};

fn name(text: &str) -> ModuleName {
    ModuleName::new(text).unwrap()
}

fn seconds(seconds: u64) -> Uptime {
    Uptime(seconds * 1000)
}

/// What is thought of a module that stands so at these seconds.
fn course(options: RolloutOptions, standings: &[(u64, Standing)]) -> Vec<Look> {
    let mut trial = Trial::new(options, BTreeSet::new());
    let (module, up) = (name("m"), |since: Uptime| Standing::Up { since });
    let at = |at: u64, standing: Standing| match standing {
        Standing::Up { since: Uptime(0) } => (seconds(at), up(seconds(at))),
        other => (seconds(at), other),
    };
    standings
        .iter()
        .map(|(now, standing)| at(*now, *standing))
        .map(|(now, it)| trial.look([(&module, it)], now))
        .collect()
}

/// Up since the look.
const UP: Standing = Standing::Up { since: Uptime(0) };

const OPEN: Look = Look { verdict: Verdict::Open, wake_at: None };
const GOOD: Look = Look { verdict: Verdict::Good, wake_at: None };

fn wakes(at: u64) -> Look {
    Look { verdict: Verdict::Open, wake_at: Some(seconds(at)) }
}

fn bad(module: &str, fault: Fault) -> Look {
    Look { verdict: Verdict::Bad { module: name(module), fault }, wake_at: None }
}

#[test]
fn a_module_that_survives_its_probation_is_healthy() {
    let up = Standing::Up { since: seconds(5) };
    let verdicts = course(OPTIONS, &[(0, Standing::Waits), (1, Standing::Starts), (5, up), (64, up), (65, up)]);
    assert_eq!(verdicts, [OPEN, wakes(301), wakes(65), wakes(65), GOOD]);
}

#[test]
fn one_that_fails_begins_its_probation_anew_and_one_that_goes_on_failing_is_late() {
    let failing = Standing::Failing;
    let verdicts = course(OPTIONS, &[(0, UP), (59, failing), (69, UP), (70, UP), (128, UP), (129, UP)]);
    assert_eq!(verdicts.last(), Some(&GOOD));
    assert!(verdicts[..5].iter().all(|look| look.verdict == Verdict::Open), "{verdicts:?}");
    let crashes =
        [(0, UP), (20, failing), (30, UP), (50, failing), (90, UP), (110, failing), (299, failing), (300, failing)];
    let verdicts = course(OPTIONS, &crashes);
    assert_eq!(verdicts[6], wakes(300));
    assert_eq!(verdicts[7], bad("m", Fault::Late));
}

#[test]
fn what_cannot_become_healthy_is_bad_at_once_and_what_is_done_is_healthy() {
    let verdicts = course(OPTIONS, &[(0, Standing::Starts), (1, Standing::Failed)]);
    assert_eq!(verdicts[1], bad("m", Fault::Lasting));
    assert_eq!(course(OPTIONS, &[(0, Standing::Done)]), [GOOD]);
}

#[test]
fn a_device_without_network_waits_and_is_not_late_unless_the_deployment_says_so() {
    let waits =
        [(0, Standing::Waits), (10, Standing::Unreachable), (9_000, Standing::Unreachable), (9_001, UP), (9_061, UP)];
    assert_eq!(course(OPTIONS, &waits)[1..3], [OPEN, OPEN]);
    assert_eq!(course(OPTIONS, &waits)[4], GOOD);
    let counts = course(RolloutOptions { wait_for_network: false, ..OPTIONS }, &waits);
    assert_eq!(counts[1..3], [wakes(300), bad("m", Fault::Absent)], "and even then it is not the deployment's fault");
}

#[test]
fn what_would_run_after_a_rollback_is_not_waited_for_without_end_while_it_is_absent() {
    let (module, absent) = (name("m"), Standing::Absent);
    let mut first = Trial::new(OPTIONS, BTreeSet::new());
    assert_eq!(
        [0, 9_000].map(|at| first.look([(&module, absent)], seconds(at))),
        [OPEN, OPEN],
        "nothing to go back to"
    );
    let trial = || Trial::new(OPTIONS, BTreeSet::new()).or_else_run(BTreeSet::from([module.clone()]));
    let mut away = trial();
    assert_eq!(away.look([(&module, absent)], seconds(0)), wakes(300));
    assert_eq!(away.look([(&module, absent)], seconds(300)), bad("m", Fault::Absent));
    let mut here = trial();
    let _ = here.look([(&module, absent)], seconds(0));
    assert_eq!(
        here.look([(&module, Standing::Starts)], seconds(299)),
        wakes(599),
        "its own time begins when it is here"
    );
}

#[test]
fn a_download_after_tries_that_failed_is_waited_for_and_those_tries_are_not_forgotten_by_it() {
    let module = name("m");
    let mut trial = Trial::new(OPTIONS, BTreeSet::new()).or_else_run(BTreeSet::from([module.clone()]));
    let mut look = |it: Standing, at: u64| trial.look([(&module, it)], seconds(at));
    assert_eq!(look(Standing::Waits, 0), OPEN);
    assert_eq!(look(Standing::Absent, 10), wakes(310));
    assert_eq!(look(Standing::Waits, 20), OPEN, "it comes");
    assert_eq!(look(Standing::Waits, 1_000), OPEN);
    assert_eq!(look(Standing::Absent, 1_000), wakes(1_290), "it broke off");
    assert_eq!(look(Standing::Absent, 1_290), bad("m", Fault::Absent));
}

#[test]
fn time_that_one_module_waits_for_another_counts_for_the_other() {
    let mut trial = Trial::new(OPTIONS, BTreeSet::new());
    let (a, b) = (name("a"), name("b"));
    for at in [0, 100, 299] {
        let verdict = trial.look([(&a, Standing::Failing), (&b, Standing::Waits)], seconds(at));
        assert_eq!(verdict, wakes(300));
    }
    assert_eq!(trial.look([(&a, Standing::Failing), (&b, Standing::Waits)], seconds(300)), bad("a", Fault::Late));
    let up = Standing::Up { since: seconds(300) };
    let look = trial.look([(&a, up), (&b, Standing::Done)], seconds(301));
    assert_eq!(look, Look { wake_at: Some(seconds(360)), ..bad("a", Fault::Late) }, "it is late until it is healthy");
    assert_eq!(trial.look([(&a, up), (&b, Standing::Done)], seconds(360)), GOOD);
}

#[test]
fn a_module_that_failed_before_and_was_not_changed_is_not_held_against_a_deployment() {
    let (old, new) = (name("old"), name("new"));
    let mut trial = Trial::new(OPTIONS, BTreeSet::from([old.clone()]));
    let up = Standing::Up { since: seconds(0) };
    assert_eq!(trial.look([(&old, Standing::Failing), (&new, up)], seconds(0)), wakes(60));
    assert_eq!(trial.look([(&old, Standing::Failed), (&new, up)], seconds(60)), GOOD);
}

#[test]
fn a_deployment_is_not_good_before_all_of_it_is_stored_and_then_its_modules_time_begins() {
    let (module, up) = (name("m"), Standing::Up { since: seconds(0) });
    let mut trial = Trial::new(OPTIONS, BTreeSet::new()).lacking(Some(module.clone()));
    let look = |trial: &mut Trial, it: Standing, at: u64| trial.look([(&module, it)], seconds(at));
    assert_eq!(look(&mut trial, Standing::Starts, 0), wakes(300));
    assert_eq!(look(&mut trial, Standing::Starts, 290), wakes(300));
    let mut late = trial.clone();
    trial.is_stored(seconds(291));
    // It has been up for longer than its probation, but with an older twin; and it has its whole time to become healthy.
    assert_eq!(look(&mut trial, up, 291), wakes(351));
    assert_eq!(look(&mut trial, Standing::Starts, 350).verdict, Verdict::Open);
    assert_eq!(look(&mut trial, up, 351), GOOD);
    // All modules are healthy, and even so.
    assert_eq!(look(&mut late, up, 299), wakes(300));
    assert_eq!(look(&mut late, up, 300), bad("m", Fault::Unstored));
    assert!(Fault::Unstored.is_excused(), "the disk is at fault");
    late.is_stored(seconds(400));
    assert_eq!(look(&mut late, up, 400), wakes(460), "one that stays in force may become good");
    assert_eq!(look(&mut late, up, 460), GOOD);
}

#[test]
fn a_module_that_failed_for_good_with_an_older_twin_is_the_disks_fault() {
    let module = name("m");
    let mut trial = Trial::new(OPTIONS, BTreeSet::new()).lacking(Some(module.clone()));
    let look = |trial: &mut Trial, at: u64| trial.look([(&module, Standing::Failed)], seconds(at));
    assert_eq!(look(&mut trial, 1).verdict, Verdict::Open);
    let mut stored = trial.clone();
    stored.is_stored(seconds(2));
    assert_eq!(look(&mut stored, 2), bad("m", Fault::Lasting), "it is not tried again");
    assert_eq!(look(&mut trial, 301), bad("m", Fault::Unstored));
}

#[test]
fn a_suspended_device_stores_nothing_and_is_not_late_by_it() {
    let mut trial = Trial::new(OPTIONS, BTreeSet::new()).lacking(Some(name("m")));
    assert_eq!(trial.look([], seconds(0)), wakes(300));
    trial.suspended(Duration::from_secs(1_000));
    assert_eq!(trial.look([], seconds(1_299)), wakes(1_300));
    assert_eq!(trial.look([], seconds(1_300)), bad("m", Fault::Unstored));
}

#[test]
fn a_module_that_was_up_before_has_its_probation_with_each_deployment() {
    let up = Standing::Up { since: seconds(1) };
    assert_eq!(course(OPTIONS, &[(1_000, up), (1_059, up), (1_060, up)]), [wakes(1_060), wakes(1_060), GOOD]);
}

/// Each is up again ten seconds after it has failed, and fails every two minutes: one of them amid the life of the other.
fn out_of_phase(at: u64) -> [Standing; 2] {
    [0, 60].map(|ahead| match (at + ahead) % 120 {
        0..10 => Standing::Failing,
        own => Standing::Up { since: seconds((at + 10).saturating_sub(own)) },
    })
}

#[test]
fn modules_that_are_healthy_only_in_turn_are_given_up_after_four_time_outs() {
    let (a, b) = (name("a"), name("b"));
    let mut trial = Trial::new(OPTIONS, BTreeSet::new());
    let mut look = |at: u64| {
        let [first, second] = out_of_phase(at);
        trial.look([(&a, first), (&b, second)], seconds(at))
    };
    for at in (0..1_200).step_by(5) {
        let look = look(at);
        assert_eq!(look.verdict, Verdict::Open, "at {at} s");
        assert!(look.wake_at.is_some_and(|wake| wake <= seconds(1_200)), "{look:?}");
    }
    assert!(matches!(look(1_200).verdict, Verdict::Bad { fault: Fault::InTurn, .. }));
}

#[test]
fn time_in_which_one_waits_is_no_time_in_which_the_others_are_healthy_in_turn() {
    let (a, b, c) = (name("a"), name("b"), name("c"));
    let mut trial = Trial::new(OPTIONS, BTreeSet::new());
    for at in (0..20_000).step_by(5) {
        let [first, second] = out_of_phase(at);
        let look = trial.look([(&a, first), (&b, second), (&c, Standing::Unreachable)], seconds(at));
        assert_eq!(look.verdict, Verdict::Open, "at {at} s");
    }
}

#[test]
fn while_the_device_is_suspended_nothing_proves_itself_and_nothing_is_late() {
    let (module, up) = (name("m"), Standing::Up { since: seconds(0) });
    let mut proving = Trial::new(OPTIONS, BTreeSet::new());
    assert_eq!(proving.look([(&module, up)], seconds(0)), wakes(60));
    proving.suspended(Duration::from_secs(3_600));
    assert_eq!(proving.look([(&module, up)], seconds(3_610)), wakes(3_660));
    assert_eq!(proving.look([(&module, up)], seconds(3_660)), GOOD);

    let mut failing = Trial::new(OPTIONS, BTreeSet::new());
    assert_eq!(failing.look([(&module, Standing::Failing)], seconds(0)), wakes(300));
    failing.suspended(Duration::from_secs(3_600));
    assert_eq!(failing.look([(&module, Standing::Failing)], seconds(3_700)), wakes(3_900), "100 s of it are its own");

    let mut unseen = Trial::new(OPTIONS, BTreeSet::new());
    let _ = unseen.look([(&module, Standing::Starts)], seconds(100));
    unseen.suspended(Duration::from_secs(3_600));
    let came_up_before = Standing::Up { since: seconds(101) };
    assert_eq!(unseen.look([(&module, came_up_before)], seconds(3_702)), wakes(3_760));
}

#[test]
fn no_module_proves_itself_while_the_device_is_suspended_whether_on_trial_or_not() {
    let mut observed = Observed::default();
    let running = ObservedModule::new(spec("a"), ModuleState::Running { since: seconds(10) });
    observed.modules.insert(name("m"), ObservedModule { failures: 3, ..running });
    observed.suspended(Duration::from_secs(3_600), seconds(3_615));
    let up = standing(&spec("a"), observed.modules.get(&name("m")), false);
    assert_eq!(up, Standing::Up { since: seconds(3_610) });
    assert_eq!(up.fitness(true, OPTIONS.probation, seconds(3_620)), Fitness::Unwell);
    observed.happened(&name("m"), Event::Exited(1), seconds(3_630));
    let ModuleState::Exited { ran, .. } = observed.modules[&name("m")].state else { panic!("{observed:?}") };
    assert_eq!((observed.modules[&name("m")].failures, ran), (4, Duration::from_secs(20)));
}

// ---- how a module stands ----

fn spec(image: &str) -> ModuleSpec {
    ModuleSpec {
        name: name("m"),
        version: String::new(),
        image: image.into(),
        desired_status: DesiredStatus::Running,
        restart_policy: RestartPolicy::OnUnhealthy,
        max_restarts: None,
        health: None,
        pull_policy: PullPolicy::OnCreate,
        startup_order: 0,
        env: BTreeMap::new(),
        sandbox: Sandbox::default(),
    }
}

fn stands(wanted: &ModuleSpec, state: ModuleState) -> Standing {
    standing(wanted, Some(&ObservedModule { failures: 1, ..ObservedModule::new(spec("a"), state) }), false)
}

fn exited(code: i32) -> ModuleState {
    ModuleState::Exited { code, at: Uptime(7), ran: Duration::ZERO }
}

#[test]
fn how_an_exit_counts_is_a_matter_of_its_code_and_of_what_follows() {
    let with = |restart_policy| ModuleSpec { restart_policy, ..spec("a") };
    let (policy, up) = (spec("a"), Standing::Up { since: Uptime(7) });
    assert_eq!(stands(&policy, ModuleState::Stopped), Standing::Waits, "for a lower startup order");
    assert_eq!(stands(&policy, exited(0)), Standing::Done);
    assert_eq!(stands(&policy, exited(1)), Standing::Failing);
    assert_eq!(stands(&with(RestartPolicy::Never), exited(0)), Standing::Done);
    assert_eq!(stands(&with(RestartPolicy::Never), exited(1)), Standing::Failed);
    assert_eq!(stands(&with(RestartPolicy::Always), exited(0)), up, "a job that is run again and again");
    assert_eq!(stands(&with(RestartPolicy::Always), exited(1)), Standing::Failing);
    let given_up = ModuleSpec { max_restarts: Some(0), ..with(RestartPolicy::Always) };
    assert_eq!([0, 1].map(|code| stands(&given_up, exited(code))), [Standing::Failed; 2]);
    let stopped = ModuleSpec { desired_status: DesiredStatus::Stopped, ..spec("a") };
    assert_eq!(stands(&stopped, exited(1)), Standing::Done);
    assert_eq!(standing(&stopped, None, false), Standing::Done);
}

/// A module that waits for the room which the old version of another one holds, whose update does not come up.
fn waits_for_room(of_update: NextState) -> (Deployment, Observed) {
    let of = |module: &str, version: &str, memory_bytes, startup_order| ModuleSpec {
        name: name(module),
        version: version.into(),
        startup_order,
        sandbox: Sandbox { memory_bytes, ..Sandbox::default() },
        ..spec("a")
    };
    let (old, update) = (of("old", "1", 16, 0), of("old", "2", 8, 0));
    let (new, last) = (of("new", "1", 16, 0), of("last", "1", 0, 1));
    let ready = |spec: &ModuleSpec| ObservedModule::new(spec.clone(), ModuleState::Prepared);
    let next = NextVersion { spec: update.clone(), state: of_update, failures: 1 };
    let runs = ObservedModule::new(old, ModuleState::Running { since: seconds(0) });
    let modules = [ObservedModule { next: Some(next), ..runs }, ready(&new), ready(&last)];
    let modules = modules.into_iter().map(|module| (module.spec.name.clone(), module)).collect();
    let desired = [update, new, last].into_iter().map(|spec| (spec.name.clone(), spec)).collect();
    (Deployment { modules: desired, ..Deployment::default() }, Observed { modules, max_memory: Some(24) })
}

#[test]
fn a_wait_for_room_counts_unless_what_may_make_it_is_on_its_way_or_out_of_reach() {
    let stands = |of_update, unreachable| {
        let (desired, observed) = waits_for_room(of_update);
        let standings = standings(&desired, &observed, |module| unreachable && *module == name("old"), seconds(1));
        ["new", "old", "last"].map(|module| standings[&name(module)])
    };
    let failed = NextState::Failed { at: seconds(0) };
    assert_eq!(stands(failed.clone(), false), [Standing::Starts, Standing::Failing, Standing::Waits]);
    assert_eq!(stands(failed, true), [Standing::Waits, Standing::Unreachable, Standing::Waits]);
    assert_eq!(stands(NextState::Preparing, false), [Standing::Waits; 3]);
    assert_eq!(stands(NextState::Starting, false), [Standing::Waits, Standing::Starts, Standing::Waits]);
}

#[test]
fn a_deployment_is_not_on_trial_for_ever_because_a_module_that_failed_before_holds_the_room_of_a_new_one() {
    let mut trial = Trial::new(OPTIONS, BTreeSet::from([name("old")]));
    let (desired, observed) = waits_for_room(NextState::Failed { at: seconds(0) });
    let mut look = |at| trial.look(standings(&desired, &observed, |_| false, seconds(at)), seconds(at));
    assert_eq!(look(0), wakes(300));
    assert_eq!(look(300), bad("new", Fault::Late));
}

#[test]
fn a_module_is_unwell_from_its_failure_until_it_has_been_up_for_the_probation() {
    let fitness = |standing: Standing, failed, now| standing.fitness(failed, OPTIONS.probation, seconds(now));
    let up = Standing::Up { since: seconds(100) };
    assert_eq!(fitness(up, true, 159), Fitness::Unwell);
    assert_eq!([true, false].map(|failed| fitness(up, failed, 160)), [Fitness::Well; 2]);
    assert_eq!(fitness(up, false, 159), Fitness::Unknown);
    assert_eq!([Standing::Failing, Standing::Failed].map(|it| fitness(it, false, 0)), [Fitness::Unwell; 2]);
    assert_eq!([Standing::Starts, Standing::Waits].map(|it| fitness(it, true, 0)), [Fitness::Unwell; 2]);
    assert_eq!([Standing::Absent, Standing::Unreachable].map(|it| fitness(it, true, 0)), [Fitness::Unknown; 2]);
    assert_eq!(fitness(Standing::Done, true, 0), Fitness::Well);
}

#[test]
fn failures_of_the_old_version_do_not_count_for_the_update_that_is_wanted() {
    let next = Some(NextVersion { spec: spec("b"), state: NextState::Preparing, failures: 2 });
    let module = ObservedModule { failures: 1, next, ..ObservedModule::new(spec("a"), ModuleState::Starting) };
    assert_eq!(["a", "b", "c"].map(|image| failures(&spec(image), &module)), [1, 2, 0]);
}

#[test]
fn the_old_version_of_an_update_says_nothing_of_the_new_one() {
    let running = ModuleState::Running { since: Uptime(1) };
    let updating = |state, unreachable| {
        let next = Some(NextVersion { spec: spec("b"), state, failures: 1 });
        let module = ObservedModule { next, ..ObservedModule::new(spec("a"), running.clone()) };
        standing(&spec("b"), Some(&module), unreachable)
    };
    assert_eq!(stands(&spec("a"), running.clone()), Standing::Up { since: Uptime(1) });
    assert_eq!(stands(&spec("b"), running.clone()), Standing::Waits);
    assert_eq!(updating(NextState::Preparing, false), Standing::Waits);
    assert_eq!(updating(NextState::Up { since: Uptime(2) }, false), Standing::Starts);
    let failed = NextState::Failed { at: Uptime(2) };
    assert_eq!(updating(failed.clone(), false), Standing::Failing);
    assert_eq!(updating(failed, true), Standing::Unreachable);
    let alone = ObservedModule { failures: 1, ..ObservedModule::new(spec("b"), ModuleState::Preparing) };
    assert_eq!([true, false].map(|away| standing(&spec("b"), Some(&alone), away)), [Standing::Waits; 2]);
    let alone = ObservedModule { state: ModuleState::PrepareFailed { at: Uptime(2) }, ..alone };
    assert_eq!(
        [true, false].map(|away| standing(&spec("b"), Some(&alone), away)),
        [Standing::Absent, Standing::Failing]
    );
}

#[test]
fn a_module_with_a_health_check_is_up_from_the_first_that_passes_and_only_while_the_last_did() {
    let (interval, timeout) = (Duration::from_secs(30), Duration::from_secs(5));
    let check = HealthCheck { method: "alive".into(), interval, timeout, failures: 3 };
    let checked = ModuleSpec { health: Some(check), ..spec("a") };
    let stands = |wanted: &ModuleSpec, health, state| {
        standing(wanted, Some(&ObservedModule { health, ..ObservedModule::new(checked.clone(), state) }), false)
    };
    let running = || ModuleState::Running { since: seconds(10) };
    assert_eq!(stands(&checked, Health::Unknown, running()), Standing::Starts);
    let healthy = |since| Health::Healthy { since: seconds(since) };
    assert_eq!(stands(&checked, healthy(30), running()), Standing::Up { since: seconds(30) });
    assert_eq!(stands(&checked, healthy(5), running()), Standing::Up { since: seconds(10) });
    assert_eq!(stands(&checked, Health::Unhealthy, running()), Standing::Failing);
    assert_eq!(stands(&checked, Health::Unhealthy, ModuleState::Ending { since: seconds(10) }), Standing::Failing);
    assert_eq!(stands(&spec("a"), Health::Unknown, running()), Standing::Up { since: seconds(10) }, "nobody asks");
}

// ---- laws ----

fn any_standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        Just(Standing::Done),
        Just(Standing::Waits),
        Just(Standing::Unreachable),
        Just(Standing::Absent),
        Just(Standing::Starts),
        Just(UP),
        Just(Standing::Failing),
    ]
}

proptest! {
    /// Whatever came before: once modules stand as they stand, and none waits, it is known in time.
    #[test]
    fn a_deployment_that_comes_to_rest_is_decided(
        before in prop::collection::vec((0_u64..200, any_standing(), any_standing()), 0..20),
        fails in any::<bool>(),
    ) {
        let (a, b) = (name("a"), name("b"));
        let mut trial = Trial::new(OPTIONS, BTreeSet::new());
        let mut now = 0;
        let at = |standing, now: u64| if standing == UP { Standing::Up { since: seconds(now) } } else { standing };
        for (pause, first, second) in before {
            now += pause;
            let _ = trial.look([(&a, at(first, now)), (&b, at(second, now))], seconds(now));
        }
        let last = if fails { Standing::Failing } else { Standing::Up { since: seconds(now) } };
        let standings = [(&a, last), (&b, Standing::Done)];
        let deadline = now + 300;
        loop {
            let look = trial.look(standings, seconds(now));
            match (look.verdict, look.wake_at) {
                (Verdict::Good, _) => break prop_assert!(!fails),
                (Verdict::Bad { .. }, None) => break prop_assert!(fails),
                // Late before it was up: it may stay in force, and become good.
                (Verdict::Open | Verdict::Bad { .. }, Some(Uptime(next))) => {
                    prop_assert!(next > now * 1000 && next <= deadline * 1000, "{next} after {now}");
                    now = next / 1000;
                }
                (Verdict::Open, None) => break prop_assert!(false, "nothing waits, so time decides"),
            }
        }
    }
}

/// One step of a device's life.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Somebody applies this manifest.
    Apply(u8),
    /// The one in force turns out so.
    Decide(bool),
    /// An operator wants the last good one.
    ByHand,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![(0_u8..6).prop_map(Step::Apply), any::<bool>().prop_map(Step::Decide), Just(Step::ByHand)]
}

/// What the agent does with a history, and what it has in force.
#[derive(Default)]
struct Device {
    history: History,
    version: u64,
}

impl Device {
    fn accept(&mut self, way: Way, digest: String) {
        self.version += 1;
        let at = UtcMillis(self.version);
        let (failing_before, unstored_before) = (BTreeSet::new(), BTreeSet::new());
        let version = self.version;
        self.history.accept(Accepted { version, at, way, digest, bytes: 100, failing_before, unstored_before });
    }

    fn in_force(&self) -> &Entry {
        self.history.entry(self.version).unwrap()
    }

    /// The version that has taken its place.
    fn decide(&mut self, good: bool) -> Option<u64> {
        let at = UtcMillis(self.version);
        if good {
            self.history.decide(self.version, Outcome::Good, None, at);
            return None;
        }
        let instead = self.history.instead_of(self.version, &OPTIONS).next().cloned();
        let Some(instead) = instead else {
            self.history.decide(self.version, Outcome::Bad, Some("why".into()), at);
            return None;
        };
        let (of, to) = (self.version, instead.accepted.version);
        self.accept(Way::Rollback { of, to, because: "why".into(), again: false }, instead.accepted.digest);
        Some(to)
    }
}

proptest! {
    #[test]
    fn a_rollback_leads_to_a_good_one_and_never_to_and_fro(steps in prop::collection::vec(any_step(), 1..120)) {
        let mut device = Device::default();
        device.accept(Way::Apply, "first".into());
        let mut by_itself = false;
        for step in steps {
            let (before, known) = (device.in_force().clone(), device.history.clone());
            match step {
                Step::Apply(manifest) => {
                    let digest = format!("m{manifest}");
                    if before.accepted.digest != digest && device.history.rolled_back(&digest).is_none() {
                        device.accept(Way::Apply, digest);
                        by_itself = false;
                    }
                }
                Step::Decide(good) => if let Some(to) = device.decide(good) {
                    prop_assert!(!by_itself, "a rollback is not rolled back");
                    by_itself = true;
                    let [old, now] = [before.accepted.version, device.version].map(|v| device.history.entry(v).unwrap().clone());
                    prop_assert_eq!(old.outcome, Outcome::RolledBack);
                    prop_assert_ne!(&old.accepted.digest, &now.accepted.digest);
                    prop_assert!(device.history.rolled_back(&old.accepted.digest).is_some(), "it is not tried again");
                    prop_assert!(known.rolled_back(&now.accepted.digest).is_none(), "it had not been rolled back");
                    prop_assert_eq!(device.history.entry(to).map_or(Outcome::Good, |entry| entry.outcome), Outcome::Good);
                },
                Step::ByHand => {
                    let to = device.history.good_before(device.version).next().map(|entry| entry.accepted.clone());
                    if let Some(to) = to {
                        device.accept(Way::ByHand { of: Some(device.version), to: to.version }, to.digest);
                        by_itself = false;
                    }
                }
            }
            let entries = device.history.entries();
            prop_assert!(entries.len() <= MAX_ENTRIES);
            prop_assert!(entries.windows(2).all(|two| two[0].accepted.version < two[1].accepted.version));
            let undecided = entries.iter().filter(|entry| entry.outcome == Outcome::OnTrial).count();
            prop_assert!(undecided <= 1 && (undecided == 0 || device.in_force().outcome == Outcome::OnTrial));
            let bytes = serde_json::to_vec(&device.history).unwrap();
            prop_assert_eq!(serde_json::from_slice::<History>(&bytes).unwrap(), device.history.clone());
        }
    }
}

#[test]
fn the_last_good_one_is_remembered_however_many_bad_ones_follow_and_manifests_are_bounded_in_bytes() {
    let mut device = Device::default();
    device.accept(Way::Apply, "good".into());
    device.decide(true);
    for number in 0..3 * MAX_ENTRIES {
        device.accept(Way::Apply, format!("bad {number}"));
    }
    assert_eq!(device.history.entries().len(), MAX_ENTRIES);
    assert_eq!(device.history.good_before(device.version).next().unwrap().accepted.version, 1);
    device.version += 1;
    device.history.accept(Accepted {
        version: device.version,
        at: UtcMillis(1),
        way: Way::File,
        digest: "large".into(),
        bytes: MAX_TEXT_BYTES,
        failing_before: BTreeSet::new(),
        unstored_before: BTreeSet::new(),
    });
    let versions: Vec<u64> = device.history.entries().iter().map(|entry| entry.accepted.version).collect();
    assert_eq!(versions, [1, device.version], "only what is needed is kept of too much");
}

#[test]
fn an_operator_who_tries_a_bad_one_again_keeps_the_good_one_to_go_back_to() {
    let mut device = Device::default();
    device.accept(Way::Apply, "good".into());
    device.decide(true);
    device.accept(Way::Apply, "bad".into());
    assert_eq!(device.decide(false), Some(1));
    device.decide(true);
    device.accept(Way::ByHand { of: Some(3), to: 2 }, "bad".into());
    assert_eq!(device.history.entry(3).unwrap().outcome, Outcome::Good);
    assert_eq!(device.decide(false), Some(3));
    device.decide(true);
    device.accept(Way::Apply, "better".into());
    device.decide(true);
    device.accept(Way::ByHand { of: Some(6), to: 5 }, "good".into());
    assert_eq!(device.history.entry(6).unwrap().outcome, Outcome::RolledBack, "he had rather the earlier good one");
}

#[test]
fn a_host_that_dies_on_a_deployment_again_and_again_is_counted_and_one_that_stops_in_order_is_not() {
    let mut device = Device::default();
    device.accept(Way::Apply, "x".into());
    for begins in [true, true, false, true, true, true, true] {
        assert_eq!(device.history.begins(1, begins), None);
    }
    assert_eq!(device.in_force().ends, 5);
    assert!(device.history.begins(1, true).unwrap().contains("started 5 times"), "the sixth is too much");
    assert!(device.history.has_lived(1));
    assert_eq!(device.in_force().ends, 0, "it has lived for a while: that is not what ended it");
    assert_eq!((device.history.has_lived(1), device.history.begins(1, true)), (false, None));
    device.decide(true);
    assert_eq!(device.in_force().ends, 0);
}

#[test]
fn what_a_device_has_counts_as_good_when_nothing_is_known_of_it_any_more() {
    let mut device = Device::default();
    device.accept(Way::Rollback { of: 2, to: 1, because: "why".into(), again: false }, "good".into());
    let (known, stored) = (device.history.clone(), device.in_force().accepted.clone());
    device.history = History::default();
    device.history.resume(stored.clone(), true);
    assert_eq!(device.in_force().outcome, Outcome::Good);
    device.accept(Way::File, "bad".into());
    assert_eq!(device.decide(false), Some(1));
    device.history = known;
    device.version = 1;
    device.history.resume(stored, true);
    assert_eq!(device.in_force().outcome, Outcome::OnTrial, "it is known that this one is on trial");
    let first = Accepted { way: Way::Apply, ..device.in_force().accepted.clone() };
    device.history = History::default();
    device.history.resume(first.clone(), false);
    assert_eq!(device.in_force().outcome, Outcome::OnTrial, "the host ended before it wrote its first history");
    device.history = History::default();
    device.history.resume(Accepted { way: Way::Unknown, ..first }, false);
    assert_eq!(device.in_force().outcome, Outcome::Good, "it came before anybody kept a history");
}

#[test]
fn a_manifest_that_is_laid_out_anew_has_the_same_digest_and_a_changed_text_has_another() {
    let digest = manifest_digest(r#"{"a": [1, 2], "b c": "x \" y"}"#);
    assert_eq!(digest, manifest_digest("\u{feff}{\n\t\"a\":[1,2],\r\n\"b c\":\"x \\\" y\"\n}\n"));
    assert!(digest.starts_with("sha256:") && digest.len() == 71);
    for other in [r#"{"a":[1,2],"b c":"x \"y"}"#, r#"{"a":[1,2],"bc":"x \" y"}"#, r#"{"a":[12],"b c":"x \" y"}"#] {
        assert_ne!(digest, manifest_digest(other), "{other}");
    }
}
