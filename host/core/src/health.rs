//! Health checks of modules: when the next call is due, what an answer means, and when a module counts as unhealthy. Calls nobody:
//! the agent does, one call at a time.

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::{
    deployment::HealthCheck,
    methods::{InvokeError, MethodResponse},
    ports::Exit,
    time::Uptime,
};

/// While the last check has not passed, the next call comes so soon, if the interval is longer: news of a module that has become well must
/// not wait for the next of its intervals, in which its deployment may be judged. Such a call that fails changes nothing.
const SOON: Duration = Duration::from_secs(30);

/// Most characters of an answer's payload that are told.
const MAX_TOLD: usize = 200;

/// How a module is, as far as its checks tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Nothing is known: it has no check, none has passed yet, or the last one failed.
    #[default]
    Unknown,
    /// The last check passed.
    Healthy {
        /// When the first one did since nothing was known.
        since: Uptime,
    },
    /// So many checks failed in a row as its deployment takes for unhealthy, and none has passed since.
    Unhealthy,
}

/// The checks of one instance that is in charge.
#[derive(Debug, Clone, PartialEq)]
pub struct Checks {
    check: HealthCheck,
    turn: Turn,
    calls: u64,
    health: Health,
    /// In a row, each an interval after the one before.
    failures: u32,
    /// A call that is made before is one too many to count as a failure.
    counts_from: Uptime,
    /// Why the last one failed.
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Turn {
    /// The next call is made then.
    Due(Uptime),
    /// This call is being made. It has failed if it is not answered by then.
    Called { call: u64, until: Uptime, counts: bool },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make this call.
    Call(u64),
    /// Give this call up: it took too long.
    GiveUp(u64),
}

impl Checks {
    /// The first call is due at once.
    #[must_use]
    pub fn new(check: HealthCheck, now: Uptime) -> Self {
        Self {
            check,
            turn: Turn::Due(now),
            calls: 0,
            health: Health::Unknown,
            failures: 0,
            counts_from: now,
            reason: None,
        }
    }

    /// What they go by.
    #[must_use]
    pub fn check(&self) -> &HealthCheck {
        &self.check
    }

    /// What is to be done now. However late it is, a call that is due is made once, and one that took too long has failed once.
    pub fn poll(&mut self, now: Uptime) -> Option<Action> {
        match self.turn {
            Turn::Due(at) if at <= now => {
                self.calls += 1;
                let (until, counts) = (now.after(self.check.timeout), now >= self.counts_from);
                self.turn = Turn::Called { call: self.calls, until, counts };
                Some(Action::Call(self.calls))
            }
            Turn::Called { call, until, counts } if until <= now => {
                let HealthCheck { method, timeout, .. } = &self.check;
                let late = format!("its method `{method}` did not answer within {} s", timeout.as_secs_f64());
                self.ended(Err(late), counts, now);
                Some(Action::GiveUp(call))
            }
            Turn::Due(_) | Turn::Called { .. } => None,
        }
    }

    /// A call was answered, or could not be made. One that was given up before changes nothing any more.
    pub fn answered(&mut self, call: u64, answer: &Result<MethodResponse, InvokeError>, now: Uptime) {
        if let Turn::Called { call: current, counts, .. } = self.turn
            && current == call
        {
            let outcome = judge(&self.check.method, answer);
            self.ended(outcome, counts, now);
        }
    }

    /// The device was suspended for so long before `now`. A call that is being made has its time-out nevertheless; one that is due is made.
    pub fn suspended(&mut self, by: Duration, now: Uptime) {
        if let Turn::Called { until, .. } = &mut self.turn {
            *until = until.after(by);
        }
        if let Health::Healthy { since } = &mut self.health {
            *since = since.after(by).min(now);
        }
    }

    /// What was known does not count any more: the next call is made at once, unless one is being made.
    pub fn anew(&mut self, now: Uptime) {
        if self.health != Health::Unhealthy {
            self.health = Health::Unknown;
        }
        if matches!(self.turn, Turn::Due(_)) {
            self.turn = Turn::Due(now);
            self.counts_from = self.counts_from.min(now);
        }
    }

    /// When to ask again, if nothing happens before.
    #[must_use]
    pub fn wake_at(&self) -> Uptime {
        match self.turn {
            Turn::Due(at) | Turn::Called { until: at, .. } => at,
        }
    }

    /// How the module is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Checks that have failed in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Why the last one failed; none: it passed, or there was none.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// What is wrong, for people; none: the last check passed, or there was none.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let reason = self.reason.as_ref()?;
        Some(match self.failures {
            1 => format!("its health check failed: {reason}"),
            failures => format!("its health check failed {failures} times in a row: {reason}"),
        })
    }

    fn ended(&mut self, outcome: Result<(), String>, counts: bool, now: Uptime) {
        if counts {
            self.counts_from = now.after(self.check.interval);
        }
        match outcome {
            Ok(()) => {
                (self.failures, self.reason) = (0, None);
                self.counts_from = now.after(self.check.interval);
                if !matches!(self.health, Health::Healthy { .. }) {
                    self.health = Health::Healthy { since: now };
                }
            }
            Err(reason) => {
                self.failures = self.failures.saturating_add(u32::from(counts));
                self.reason = Some(reason);
                self.health = match self.health {
                    Health::Unhealthy => Health::Unhealthy,
                    _ if self.failures >= self.check.failures => Health::Unhealthy,
                    Health::Unknown | Health::Healthy { .. } => Health::Unknown,
                };
            }
        }
        self.turn = Turn::Due(match self.health {
            // Never two calls closer together than that.
            Health::Unknown | Health::Unhealthy if now.after(2 * SOON) <= self.counts_from => now.after(SOON),
            _ => self.counts_from,
        });
    }
}

/// Whether an answer says that the module is well; if not, why.
fn judge(method: &str, answer: &Result<MethodResponse, InvokeError>) -> Result<(), String> {
    match answer {
        Ok(MethodResponse { status: 200..=299, .. }) => Ok(()),
        Ok(MethodResponse { status, payload }) => {
            let told: String = payload.chars().take(MAX_TOLD).collect();
            let more = if told.len() < payload.len() { "…" } else { "" };
            let payload = if payload == "null" { String::new() } else { format!(": {told}{more}") };
            Err(format!("its method `{method}` answered with status {status}{payload}"))
        }
        Err(error) => Err(format!("its method `{method}` could not be called: {error}")),
    }
}

/// The end of an instance that was ended because it was unhealthy. What trapped on the way keeps its own word.
#[must_use]
pub fn end(exit: Exit, trouble: Option<String>) -> Exit {
    match exit.code {
        Exit::DONE | Exit::STOPPED => {
            let why = trouble.map(|trouble| format!("unhealthy: {trouble}"));
            Exit::new(Exit::UNHEALTHY, why.unwrap_or_else(|| "unhealthy".into()))
        }
        _ => exit,
    }
}
