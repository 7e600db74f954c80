use std::time::Duration;

use proptest::prelude::*;

use super::*;

const INTERVAL: u64 = 30_000;
const TIMEOUT: u64 = 5_000;

fn check(failures: u32) -> HealthCheck {
    let (interval, timeout) = (Duration::from_millis(INTERVAL), Duration::from_millis(TIMEOUT));
    HealthCheck { method: "alive".into(), interval, timeout, failures }
}

fn status(status: i32) -> Result<MethodResponse, InvokeError> {
    Ok(MethodResponse { status, payload: "null".into() })
}

fn at(seconds: u64) -> Uptime {
    Uptime(seconds * 1000)
}

/// Calls as often as it is due, and answers at once.
fn answers(checks: &mut Checks, times: usize, status_of: i32) -> Uptime {
    for _ in 0..times {
        let now = checks.wake_at();
        let Some(Action::Call(call)) = checks.poll(now) else { panic!("{checks:?}") };
        checks.answered(call, &status(status_of), now);
    }
    checks.wake_at()
}

#[test]
fn the_first_call_is_made_at_once_and_the_next_one_an_interval_after_its_end() {
    let mut checks = Checks::new(check(3), at(7));
    assert_eq!(checks.poll(at(7)), Some(Action::Call(1)));
    assert_eq!(checks.poll(at(8)), None);
    assert_eq!(checks.health(), Health::Unknown);
    checks.answered(1, &status(204), at(9));
    assert_eq!((checks.health(), checks.wake_at()), (Health::Healthy { since: at(9) }, at(39)));
    assert_eq!((checks.poll(at(38)), checks.poll(at(39))), (None, Some(Action::Call(2))));
    checks.answered(2, &status(200), at(39));
    assert_eq!(checks.health(), Health::Healthy { since: at(9) });
}

#[test]
fn so_many_failures_in_a_row_make_it_unhealthy_and_one_success_makes_it_healthy() {
    let mut checks = Checks::new(check(3), at(0));
    answers(&mut checks, 1, 200);
    answers(&mut checks, 2, 503);
    assert_eq!((checks.health(), checks.failures()), (Health::Unknown, 2), "its last check did not pass");
    let due = answers(&mut checks, 1, 200);
    assert_eq!(checks.health(), Health::Healthy { since: Uptime(due.0 - INTERVAL) });
    answers(&mut checks, 3, 500);
    assert_eq!(checks.health(), Health::Unhealthy);
    let trouble = "its health check failed 3 times in a row: its method `alive` answered with status 500";
    assert_eq!(checks.trouble().unwrap(), trouble);
    answers(&mut checks, 1, 299);
    assert!(matches!(checks.health(), Health::Healthy { .. }) && checks.trouble().is_none());
}

#[test]
fn a_slow_answer_is_one_failure_however_late_it_comes() {
    let mut checks = Checks::new(check(2), at(0));
    assert_eq!(checks.poll(at(0)), Some(Action::Call(1)));
    assert_eq!((checks.wake_at(), checks.poll(at(5))), (at(5), Some(Action::GiveUp(1))));
    assert_eq!((checks.failures(), checks.wake_at()), (1, at(35)));
    checks.answered(1, &status(500), at(6));
    assert_eq!((checks.failures(), checks.wake_at()), (1, at(35)), "it was counted already");
    checks.answered(1, &status(200), at(7));
    assert_eq!(checks.failures(), 1, "and says nothing any more");
    assert_eq!(checks.trouble().unwrap(), "its health check failed: its method `alive` did not answer within 5 s");
}

#[test]
fn a_call_has_its_time_out_also_where_the_device_is_suspended_amid_it() {
    let mut checks = Checks::new(check(1), at(0));
    assert_eq!(checks.poll(at(0)), Some(Action::Call(1)));
    checks.suspended(Duration::from_secs(3_600), at(3_601));
    assert_eq!((checks.poll(at(3_601)), checks.wake_at()), (None, at(3_605)));
    checks.answered(1, &status(200), at(3_602));
    assert_eq!(checks.health(), Health::Healthy { since: at(3_602) });
    checks.suspended(Duration::from_secs(60), at(3_700));
    assert_eq!((checks.health(), checks.wake_at()), (Health::Healthy { since: at(3_662) }, at(3_632)), "it is due");
}

#[test]
fn a_module_whose_last_check_failed_is_asked_again_soon_and_that_costs_it_none_of_its_failures() {
    let rarely = HealthCheck { interval: Duration::from_secs(600), ..check(3) };
    let mut checks = Checks::new(rarely, at(0));
    assert_eq!(answers(&mut checks, 1, 503), at(30));
    let mut well = checks.clone();
    assert_eq!(answers(&mut well, 1, 200), at(630), "it is known to be well half a minute later");
    assert_eq!(well.health(), Health::Healthy { since: at(30) });
    assert_eq!((answers(&mut checks, 19, 503), checks.failures()), (at(600), 1));
    assert_eq!((answers(&mut checks, 1, 503), checks.failures()), (at(630), 2));
    assert_eq!((answers(&mut checks, 19, 503), checks.health()), (at(1_200), Health::Unknown));
    assert_eq!((answers(&mut checks, 1, 503), checks.health()), (at(1_230), Health::Unhealthy));
    assert_eq!((answers(&mut checks, 1, 200), checks.health()), (at(1_830), Health::Healthy { since: at(1_230) }));
}

#[test]
fn another_deployment_is_checked_at_once_and_what_passed_before_says_nothing_of_it() {
    let mut checks = Checks::new(check(2), at(0));
    answers(&mut checks, 1, 200);
    checks.anew(at(10));
    assert_eq!((checks.health(), checks.poll(at(10))), (Health::Unknown, Some(Action::Call(2))));
    checks.anew(at(11));
    assert_eq!(checks.poll(at(11)), None, "one is being made");
    checks.answered(2, &status(500), at(12));
    answers(&mut checks, 1, 500);
    checks.anew(at(50));
    assert_eq!(checks.health(), Health::Unhealthy, "a deployment makes nobody well");
}

#[test]
fn only_a_status_of_success_says_that_it_is_well() {
    let told = |answer| judge("alive", &answer).unwrap_err();
    assert!([200, 204, 299].map(|code| judge("alive", &status(code)).is_ok()).iter().all(|well| *well));
    for code in [0, 199, 300, 404, 501, -3] {
        assert_eq!(told(status(code)), format!("its method `alive` answered with status {code}"));
    }
    let answer = |payload: &str| told(Ok(MethodResponse { status: 503, payload: payload.into() }));
    assert_eq!(answer(r#"{"disk":"full"}"#), r#"its method `alive` answered with status 503: {"disk":"full"}"#);
    let long = answer(&format!("\"{}\"", "ä".repeat(4000)));
    assert_eq!((long.chars().filter(|c| *c == 'ä').count(), long.chars().last()), (MAX_TOLD - 1, Some('…')));
    let busy = told(Err(InvokeError::Busy("m".into())));
    assert!(busy.starts_with("its method `alive` could not be called: 32 calls wait for module `m`"), "{busy}");
}

#[test]
fn the_end_of_an_unhealthy_instance_is_a_failure_of_its_own() {
    let trouble = || Some("why".to_owned());
    for code in [Exit::STOPPED, Exit::DONE] {
        assert_eq!(end(Exit::new(code, "stopped"), trouble()), Exit::new(Exit::UNHEALTHY, "unhealthy: why"));
    }
    let trap = Exit::new(Exit::TRAP, "unreachable");
    assert_eq!(end(trap.clone(), trouble()), trap);
}

/// What happens to the checks of an instance.
#[derive(Debug, Clone, Copy)]
enum Happens {
    /// So many milliseconds pass.
    Passes(u64),
    /// The call that is being made is answered.
    Answered(i32),
    /// One that was made so many calls before is.
    Late(u64),
    Anew,
}

fn happens() -> impl Strategy<Value = Happens> {
    // Suspended time counts: a jump of a week is a matter of course.
    let passes = prop_oneof![4 => 0..2 * INTERVAL, 2 => 0..TIMEOUT, 1 => 0..604_800_000_u64];
    prop_oneof![
        5 => passes.prop_map(Happens::Passes),
        4 => prop::sample::select(vec![200, 200, 503]).prop_map(Happens::Answered),
        1 => (1..4_u64).prop_map(Happens::Late),
        1 => Just(Happens::Anew),
    ]
}

proptest! {
    /// A model that counts by itself: never two calls at once, never two within an interval unless they are wanted anew, a success
    /// resets, each call counts once, and unhealthy is what failed so often in a row and nothing else.
    #[test]
    fn checks_keep_their_laws(failures in 1..5_u32, events in prop::collection::vec(happens(), 1..80)) {
        let mut checks = Checks::new(check(failures), Uptime(0));
        let (mut now, mut open, mut in_a_row, mut unhealthy) = (Uptime(0), None, 0_u32, false);
        let (mut ended, mut anew) = (None::<Uptime>, false);
        for event in events {
            let calls = checks.calls;
            let mut outcome = None;
            match event {
                Happens::Passes(millis) => now = now.after(Duration::from_millis(millis)),
                Happens::Answered(code) => if let Some((call, _)) = open.take() {
                    checks.answered(call, &status(code), now);
                    outcome = Some(code == 200);
                },
                Happens::Late(before) => checks.answered(calls.saturating_sub(before), &status(200), now),
                Happens::Anew => {
                    checks.anew(now);
                    anew |= open.is_none();
                }
            }
            // As often as there is something to do: after any time at most a call that ends and one that begins.
            for _ in 0..2 {
                match checks.poll(now) {
                    Some(Action::Call(call)) => {
                        prop_assert!(open.is_none(), "two calls at once");
                        prop_assert!(anew || ended.is_none_or(|ended| now.since(ended).as_millis() >= u128::from(INTERVAL)));
                        (open, anew) = (Some((call, now)), false);
                    }
                    Some(Action::GiveUp(call)) => {
                        let (made, at) = open.take().unwrap();
                        prop_assert!(made == call && now.since(at).as_millis() >= u128::from(TIMEOUT));
                        outcome = Some(false);
                    }
                    None => {}
                }
            }
            prop_assert_eq!(checks.poll(now), None, "a burst");
            prop_assert!(checks.wake_at() > now);
            prop_assert!(checks.calls <= calls + 1);
            if let Some(passed) = outcome {
                in_a_row = if passed { 0 } else { in_a_row + 1 };
                unhealthy = !passed && (unhealthy || in_a_row >= failures);
                ended = Some(now);
            }
            prop_assert_eq!(checks.failures(), in_a_row);
            prop_assert_eq!(checks.health() == Health::Unhealthy, unhealthy);
            if let Health::Healthy { since } = checks.health() {
                prop_assert!(in_a_row == 0 && since <= now && ended.is_some());
            }
        }
    }
}
