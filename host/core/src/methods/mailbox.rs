//! The calls that wait for one module, in the order in which they came, and when each has waited long enough.
//!
//! A call is *connected* while the module runs; its response time-out counts from then. While the module does not run, the call
//! waits for it until its connect time-out, which counts from when it came. A call that has not begun when the module ends waits
//! for the next instance in the same way.

use std::collections::{BTreeMap, VecDeque};

use super::MethodRequest;
use crate::time::Uptime;

/// Calls that may wait for a module at once: 4 MiB of the largest ones. Whoever finds so many before it would hardly have its
/// turn in time.
pub const MAX_WAITING: usize = 32;

/// What the module can do with calls now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Target {
    /// It does not run.
    #[default]
    Absent,
    /// It runs, and handles no methods.
    Deaf,
    /// It runs, and handles them.
    Listening,
}

/// The calls of one module; `T` is what the agent needs to answer one.
#[derive(Debug)]
pub struct Mailbox<T> {
    target: Target,
    /// The host is ending: no instance will follow.
    closing: bool,
    waiting: VecDeque<Waiting<T>>,
    /// Those that were taken, until their callers say that they have heard of it: when each is due.
    begun: BTreeMap<u64, Uptime>,
    last_ticket: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    ticket: u64,
    request: MethodRequest,
    reply: T,
    came: Uptime,
    connected: Option<Uptime>,
}

/// Why a call does not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The module does not run, and the caller does not wait for it.
    NotRunning,
    /// It does not run, and the host is ending.
    Closing,
    /// It runs, and handles no methods.
    Deaf,
    /// [`MAX_WAITING`] calls wait.
    Full,
}

/// What a caller is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Wait until then, or until the target changes, and ask again.
    Wait(Uptime),
    /// Give up: the module did not run in time.
    NotRunning,
    /// Give up: it did not answer in time.
    Timeout,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self {
            target: Target::Absent,
            closing: false,
            waiting: VecDeque::new(),
            begun: BTreeMap::new(),
            last_ticket: 0,
        }
    }
}

impl<T> Mailbox<T> {
    /// A call comes. Returns the ticket by which its caller asks for it.
    ///
    /// # Errors
    /// It does not wait, and `reply` is dropped.
    pub fn offer(&mut self, request: MethodRequest, reply: T, now: Uptime) -> Result<u64, Refused> {
        match self.target {
            Target::Deaf => return Err(Refused::Deaf),
            Target::Absent if self.closing => return Err(Refused::Closing),
            Target::Absent if request.connect().is_zero() => return Err(Refused::NotRunning),
            Target::Absent | Target::Listening => {}
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err(Refused::Full);
        }
        self.last_ticket += 1;
        let connected = (self.target == Target::Listening).then_some(now);
        self.waiting.push_back(Waiting { ticket: self.last_ticket, request, reply, came: now, connected });
        Ok(self.last_ticket)
    }

    /// The module has started, ended or changed. Returns the calls that it will not take, with what to tell their callers.
    pub fn turn(&mut self, target: Target, now: Uptime) -> Vec<(T, Refused)> {
        self.target = target;
        for waiting in &mut self.waiting {
            waiting.connected = match target {
                Target::Listening => waiting.connected.or(Some(now)),
                Target::Absent | Target::Deaf => None,
            };
        }
        let closing = self.closing;
        let refused = |waiting: &Waiting<T>| match target {
            Target::Deaf => Some(Refused::Deaf),
            Target::Absent if closing => Some(Refused::Closing),
            Target::Absent if waiting.due() <= now => Some(Refused::NotRunning),
            Target::Absent | Target::Listening => None,
        };
        let mut gone = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            match refused(&waiting) {
                Some(why) => gone.push((waiting.reply, why)),
                None => self.waiting.push_back(waiting),
            }
        }
        gone
    }

    /// The host is ending: who is not running now will not run again. Returns as [`Mailbox::turn`].
    pub fn close(&mut self, now: Uptime) -> Vec<(T, Refused)> {
        self.closing = true;
        self.turn(self.target, now)
    }

    /// The module is not deployed any more. Returns all that wait.
    pub fn clear(&mut self) -> Vec<T> {
        self.waiting.drain(..).map(|waiting| waiting.reply).collect()
    }

    /// The call whose turn it is. One that nobody waits for any more is never begun.
    pub fn take(&mut self, now: Uptime) -> Option<(MethodRequest, T)> {
        if self.target != Target::Listening {
            return None;
        }
        let turn = self.waiting.iter().position(|waiting| waiting.due() > now)?;
        let waiting = self.waiting.remove(turn)?;
        self.begun.insert(waiting.ticket, waiting.due());
        Some((waiting.request, waiting.reply))
    }

    /// Whether [`Mailbox::take`] would give a call.
    #[must_use]
    pub fn has_turn(&self, now: Uptime) -> bool {
        self.target == Target::Listening && self.waiting.iter().any(|waiting| waiting.due() > now)
    }

    /// Calls that wait for their turn, those among them that nobody waits for any more included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What the caller of this call is to do now, as long as it has heard nothing.
    #[must_use]
    pub fn verdict(&self, ticket: u64, now: Uptime) -> Verdict {
        if let Some(due) = self.begun.get(&ticket) {
            return if *due <= now { Verdict::Timeout } else { Verdict::Wait(*due) };
        }
        match self.waiting.iter().find(|waiting| waiting.ticket == ticket) {
            Some(waiting) if waiting.due() > now => Verdict::Wait(waiting.due()),
            Some(waiting) if waiting.connected.is_some() => Verdict::Timeout,
            Some(_) | None => Verdict::NotRunning,
        }
    }

    /// The caller has gone, or has heard: its call is not begun any more.
    pub fn forget(&mut self, ticket: u64) {
        self.waiting.retain(|waiting| waiting.ticket != ticket);
        self.begun.remove(&ticket);
    }
}

impl<T> Waiting<T> {
    fn due(&self) -> Uptime {
        match self.connected {
            Some(connected) => connected.after(self.request.response()),
            None => self.came.after(self.request.connect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{super::Timeouts, *};

    fn call(response: u64, connect: u64) -> MethodRequest {
        let seconds = |n| Some(Duration::from_secs(n));
        let timeouts = Timeouts { response: seconds(response), connect: seconds(connect) };
        MethodRequest::new("m", "", timeouts).unwrap()
    }

    fn at(seconds: u64) -> Uptime {
        Uptime(seconds * 1000)
    }

    #[test]
    fn the_response_time_counts_from_when_the_module_runs() {
        let mut mail = Mailbox::default();
        let ticket = mail.offer(call(5, 10), "a", at(0)).unwrap();
        assert_eq!(mail.verdict(ticket, at(1)), Verdict::Wait(at(10)));
        assert_eq!(mail.take(at(1)), None, "nobody is there");
        assert_eq!(mail.turn(Target::Listening, at(9)), []);
        assert_eq!(mail.verdict(ticket, at(10)), Verdict::Wait(at(14)));
        assert_eq!(mail.take(at(13)).unwrap().1, "a");
        assert_eq!(mail.verdict(ticket, at(13)), Verdict::Wait(at(14)));
        assert_eq!(mail.verdict(ticket, at(14)), Verdict::Timeout);
    }

    #[test]
    fn a_call_that_has_not_begun_waits_for_the_next_instance_as_long_as_its_connect_time_says() {
        let mut mail = Mailbox::default();
        mail.turn(Target::Listening, at(0));
        mail.offer(call(30, 0), "at once", at(1)).unwrap();
        let patient = mail.offer(call(30, 20), "patient", at(1)).unwrap();
        assert_eq!(mail.turn(Target::Absent, at(2)), [("at once", Refused::NotRunning)]);
        assert_eq!(mail.verdict(patient, at(2)), Verdict::Wait(at(21)));
        mail.turn(Target::Listening, at(15));
        assert_eq!(mail.verdict(patient, at(30)), Verdict::Wait(at(45)));
        mail.turn(Target::Absent, at(16));
        assert_eq!(mail.verdict(patient, at(21)), Verdict::NotRunning);
    }

    #[test]
    fn a_module_that_handles_none_refuses_those_that_wait_and_those_that_come() {
        let mut mail = Mailbox::default();
        mail.offer(call(30, 20), "a", at(0)).unwrap();
        assert_eq!(mail.turn(Target::Deaf, at(1)), [("a", Refused::Deaf)]);
        assert_eq!(mail.offer(call(30, 20), "b", at(1)), Err(Refused::Deaf));
    }

    #[test]
    fn at_the_end_of_the_host_nobody_is_waited_for() {
        let mut mail = Mailbox::default();
        mail.turn(Target::Listening, at(0));
        mail.offer(call(30, 20), "a", at(0)).unwrap();
        assert_eq!(mail.close(at(1)), [], "it runs still");
        assert_eq!(mail.turn(Target::Absent, at(2)), [("a", Refused::Closing)]);
        assert_eq!(mail.offer(call(30, 20), "b", at(2)), Err(Refused::Closing));
    }

    #[test]
    fn the_bound_is_an_answer() {
        let mut mail = Mailbox::default();
        mail.turn(Target::Listening, at(0));
        for _ in 0..MAX_WAITING {
            mail.offer(call(30, 0), (), at(0)).unwrap();
        }
        assert_eq!(mail.offer(call(30, 0), (), at(0)), Err(Refused::Full));
        mail.take(at(0));
        assert!(mail.offer(call(30, 0), (), at(0)).is_ok());
    }

    #[derive(Debug, Clone)]
    enum Op {
        Offer { response: u64, connect: u64 },
        Turn(Target),
        Take,
        Forget(usize),
        Pass(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let target = prop_oneof![
            3 => Just(Target::Listening),
            2 => Just(Target::Absent),
            1 => Just(Target::Deaf),
        ];
        prop_oneof![
            4 => (5..20_u64, 0..15_u64).prop_map(|(response, connect)| Op::Offer { response, connect }),
            2 => target.prop_map(Op::Turn),
            3 => Just(Op::Take),
            1 => (0..40_usize).prop_map(Op::Forget),
            3 => (0..8_u64).prop_map(Op::Pass),
        ]
    }

    /// What is known of a call from outside.
    struct Known {
        ticket: u64,
        came: u64,
        response: u64,
        connect: u64,
        connected: Option<u64>,
        /// Taken, refused or forgotten.
        gone: bool,
    }

    proptest! {
        #[test]
        fn each_call_is_begun_once_in_order_in_time_and_only_by_a_module_that_listens(ops in prop::collection::vec(op(), 0..120)) {
            let mut mail = Mailbox::default();
            let (mut now, mut target, mut calls) = (0, Target::Absent, Vec::<Known>::new());
            let mut last_begun = None;
            for op in ops {
                match op {
                    Op::Pass(seconds) => now += seconds,
                    Op::Offer { response, connect } => {
                        let number = calls.len();
                        let waiting = mail.len();
                        match mail.offer(call(response, connect), number, at(now)) {
                            Ok(ticket) => {
                                prop_assert!(target != Target::Deaf && (target == Target::Listening || connect > 0));
                                let connected = (target == Target::Listening).then_some(now);
                                calls.push(Known { ticket, came: now, response, connect, connected, gone: false });
                            }
                            Err(Refused::Deaf) => prop_assert_eq!(target, Target::Deaf),
                            Err(Refused::NotRunning) => prop_assert!(target == Target::Absent && connect == 0),
                            Err(Refused::Closing) => prop_assert!(false, "the host goes on"),
                            Err(Refused::Full) => prop_assert_eq!(waiting, MAX_WAITING),
                        }
                    }
                    Op::Turn(to) => {
                        target = to;
                        for known in calls.iter_mut().filter(|known| !known.gone) {
                            known.connected = (to == Target::Listening).then(|| known.connected.unwrap_or(now));
                        }
                        for (number, why) in mail.turn(to, at(now)) {
                            prop_assert!(!calls[number].gone && to != Target::Listening);
                            prop_assert_eq!(why == Refused::Deaf, to == Target::Deaf);
                            calls[number].gone = true;
                        }
                        let over = calls.iter().any(|known| !known.gone && to == Target::Absent && known.came + known.connect <= now);
                        prop_assert!(!over, "one that has waited long enough is told at once");
                        prop_assert!(to != Target::Deaf || mail.is_empty());
                    }
                    Op::Take => {
                        let in_time = |known: &Known| known.connected.is_some_and(|since| since + known.response > now);
                        let first = calls.iter().position(|known| !known.gone && in_time(known));
                        prop_assert_eq!(mail.has_turn(at(now)), first.is_some());
                        let taken = mail.take(at(now)).map(|(_, number)| number);
                        prop_assert_eq!(taken, first);
                        if let Some(number) = taken {
                            prop_assert!(target == Target::Listening);
                            prop_assert!(last_begun < Some(number) || calls[number].connect > 0);
                            last_begun = Some(number);
                            let known = &mut calls[number];
                            known.gone = true;
                            let due = at(known.connected.unwrap() + known.response);
                            prop_assert_eq!(mail.verdict(known.ticket, at(now)), Verdict::Wait(due));
                        }
                    }
                    Op::Forget(number) => {
                        if let Some(known) = calls.get_mut(number) {
                            mail.forget(known.ticket);
                            known.gone = true;
                        }
                    }
                }
                for known in calls.iter().filter(|known| !known.gone) {
                    let due = known.connected.map_or(known.came + known.connect, |since| since + known.response);
                    let expected = match (due > now, known.connected) {
                        (true, _) => Verdict::Wait(at(due)),
                        (false, Some(_)) => Verdict::Timeout,
                        (false, None) => Verdict::NotRunning,
                    };
                    prop_assert_eq!(mail.verdict(known.ticket, at(now)), expected);
                }
                prop_assert_eq!(mail.len(), calls.iter().filter(|known| !known.gone).count());
                prop_assert!(mail.len() <= MAX_WAITING);
            }
        }
    }
}
