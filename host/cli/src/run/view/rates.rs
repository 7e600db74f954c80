//! Messages a second, from two readings of the host's counters. Guesses nothing: without an earlier reading there is none.

use std::collections::HashMap;

use marram_agent::Status;

/// Counters at one time.
#[derive(Debug, Default)]
struct Reading {
    uptime_ms: u64,
    /// Received and sent, by module.
    modules: HashMap<String, (u64, u64)>,
    /// Accepted and delivered, by endpoint.
    queues: HashMap<String, (u64, u64)>,
}

/// Keeps the last reading.
#[derive(Debug, Default)]
pub(super) struct Rates {
    last: Option<Reading>,
}

/// A second's messages, in and out.
type Pair = (Option<f64>, Option<f64>);

/// What two readings say.
#[derive(Debug, Default)]
pub(super) struct Measured {
    modules: HashMap<String, Pair>,
    queues: HashMap<String, Pair>,
}

impl Rates {
    /// The rates since the last call.
    pub(super) fn update(&mut self, status: &Status) -> Measured {
        let modules = status.modules.iter().map(|it| (it.name.to_string(), (it.received, it.sent))).collect();
        let queues = status.queues.iter().map(|it| (it.endpoint.clone(), (it.accepted, it.delivered))).collect();
        let now = Reading { uptime_ms: status.uptime_ms, modules, queues };
        let measured = self.last.as_ref().map(|last| Measured::between(last, &now)).unwrap_or_default();
        self.last = Some(now);
        measured
    }
}

impl Measured {
    fn between(last: &Reading, now: &Reading) -> Self {
        let ms = now.uptime_ms.saturating_sub(last.uptime_ms);
        let all = |now: &HashMap<String, (u64, u64)>, last: &HashMap<String, (u64, u64)>| {
            let pair = |(name, now): (&String, &(u64, u64))| {
                let last = last.get(name)?;
                Some((name.clone(), (rate(last.0, now.0, ms), rate(last.1, now.1, ms))))
            };
            now.iter().filter_map(pair).collect()
        };
        Self { modules: all(&now.modules, &last.modules), queues: all(&now.queues, &last.queues) }
    }

    /// Received and sent.
    pub(super) fn module(&self, name: &str) -> Pair {
        self.modules.get(name).copied().unwrap_or_default()
    }

    /// Accepted and delivered.
    pub(super) fn queue(&self, endpoint: &str) -> Pair {
        self.queues.get(endpoint).copied().unwrap_or_default()
    }
}

/// None: no time has passed, or the counter began anew with its module or queue.
fn rate(last: u64, now: u64, ms: u64) -> Option<f64> {
    let more = now.checked_sub(last)?;
    (ms > 0).then(|| more as f64 * 1000.0 / ms as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_two_readings_of_a_counter_say() {
        assert_eq!(rate(10, 40, 2_000), Some(15.0));
        assert_eq!(rate(10, 10, 1_000), Some(0.0));
        assert_eq!((rate(10, 3, 1_000), rate(0, 3, 0)), (None, None));
    }
}
