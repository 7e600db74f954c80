//! Calls of methods in a simulation: which are under way, and what must hold of each whatever happens to the modules.

use std::collections::{BTreeMap, BTreeSet};

use marram_core::methods::{InvokeError, MethodResponse};

use crate::time::{awake, now};

/// Timers are as fine as this, in milliseconds.
const TICK: u64 = 2;

/// What is known of the calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    last: u64,
    under_way: BTreeMap<u64, Call>,
    /// The methods that run, by instance.
    running: BTreeMap<u64, u64>,
    /// What handlers have answered.
    answers: BTreeMap<u64, i32>,
    /// Calls whose callers are gone.
    given_up: BTreeSet<u64>,
    pub(crate) broken: Vec<String>,
}

#[derive(Debug)]
struct Call {
    target: String,
    /// The instance that calls; none = the operator.
    caller: Option<u64>,
    /// When it has waited long enough, whatever happens.
    until: u64,
    begun: u32,
}

impl Calls {
    /// A call is made, with these time-outs. Returns its number.
    pub(crate) fn made(&mut self, caller: Option<u64>, target: &str, connect: u64, response: u64) -> u64 {
        self.last += 1;
        let call = Call { target: target.into(), caller, until: awake() + connect + response + TICK, begun: 0 };
        self.under_way.insert(self.last, call);
        self.last
    }

    /// An instance of `module` begins a call.
    pub(crate) fn begins(&mut self, module: &str, instance: u64, number: u64) {
        let amid = self.running.insert(instance, number);
        self.check(amid.is_none(), "a method is not begun amid another", module);
        let Some(call) = self.under_way.get_mut(&number) else {
            return self.check(false, "a call that nobody waits for is not begun", module);
        };
        call.begun += 1;
        let (once, right) = (call.begun == 1, call.target == module);
        self.check(once, "a call is begun once at most", module);
        self.check(right, "a call is begun by its target", module);
    }

    /// It has returned.
    pub(crate) fn returns(&mut self, instance: u64) {
        self.running.remove(&instance);
    }

    /// The handler answers so.
    pub(crate) fn answers(&mut self, number: u64, status: i32) {
        self.answers.insert(number, status);
    }

    /// The instance is gone, and waits for nobody.
    pub(crate) fn is_gone(&mut self, instance: u64) {
        self.returns(instance);
        let gone = self.under_way.extract_if(.., |_, call| call.caller == Some(instance));
        self.given_up.extend(gone.map(|(number, _)| number));
    }

    /// The caller has its answer. Returns it in one word.
    pub(crate) fn ended(&mut self, number: u64, answer: &Result<MethodResponse, InvokeError>) -> String {
        let Some(Call { target, caller, until, begun }) = self.under_way.remove(&number) else {
            let by_none = self.given_up.contains(&number);
            self.check(by_none, "a call is answered once", &number.to_string());
            return String::new();
        };
        let word = match answer {
            Ok(answer) => answer.status,
            Err(error) => i32::from(error.status()),
        };
        let given = self.answers.remove(&number);
        let documented = [400, 403, 404, 500, 501, 503, 504].contains(&word) || given == Some(word);
        self.check(documented, "an answer is the handler's, or one of those that are documented", &target);
        self.check(awake() <= until, "a call ends with its time-outs", &target);
        match answer {
            Ok(answer) => {
                let by_handler = ![500, 501].contains(&answer.status);
                self.check(!by_handler || begun == 1, "an answer is the handler's", &target);
            }
            Err(error) => {
                // A module that is to end does not wait for what it has asked for.
                let gives_up = matches!(error, InvokeError::Stopping) && caller.is_some();
                let is_timeout = gives_up || matches!(error, InvokeError::Timeout { .. });
                self.check(is_timeout || begun == 0, "what has begun is answered or times out", &target);
            }
        }
        word.to_string()
    }

    /// Nothing happens any more.
    pub(crate) fn all_have_ended(&mut self) {
        let left = self.under_way.len();
        self.check(left == 0, "each call ends", &format!("{left} of them"));
    }

    /// The host is gone, and with it whoever called and was called.
    pub(crate) fn forget(&mut self) {
        let gone = std::mem::take(&mut self.under_way);
        self.given_up.extend(gone.into_keys());
        self.running.clear();
    }

    fn check(&mut self, holds: bool, name: &str, whose: &str) {
        if !holds {
            self.broken.push(format!("{name}: {whose} at {} ms", now()));
        }
    }
}
