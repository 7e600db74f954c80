//! The end of the host: sources first, then what waits, then the rest, then upstream. Bounded by the grace time.

use std::time::Duration;

use marram_core::{
    name::ModuleName,
    planner::{self, ModuleState, shutdown_order},
    route::Sink,
};
use tokio::time::Instant;

use super::{Event, Supervisor};

/// How often the queues are looked at while they drain.
const LOOK: Duration = Duration::from_millis(10);
/// Part of the grace time for draining; the rest is for calls that run on and for upstream.
const DRAIN_SHARE: u32 = 2;
/// How long killed instances may take to be gone.
const AFTER_KILL: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Stops every module in order. Nothing is planned any more; events are still heard.
    pub(super) async fn shut_down(&mut self, grace: Duration) {
        let started = Instant::now();
        for record in self.records.values() {
            if let Some(running) = &record.running {
                running.stop.quiesce();
            }
        }
        self.drain(started + grace / DRAIN_SHARE).await;
        for group in shutdown_order(&self.observed) {
            self.stop_group(&group, started + grace).await;
        }
        self.report_left();
        self.worlds.upstream_closing.send_replace(true);
    }

    /// Waits until no running module has anything to handle.
    async fn drain(&mut self, until: Instant) {
        let mut accepted = self.accepted();
        while Instant::now() < until {
            let quiet = self.is_quiet();
            let before = std::mem::replace(&mut accepted, self.accepted());
            // A message may move on between two looks; the count tells.
            if quiet && before == accepted {
                return;
            }
            tokio::select! {
                event = self.events.recv() => self.hear(event),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn accepted(&self) -> u64 {
        self.worlds.router.endpoints().iter().map(|endpoint| endpoint.stats().accepted).sum()
    }

    fn is_quiet(&self) -> bool {
        let now = self.worlds.clock.uptime();
        let mut endpoints = self.worlds.router.endpoints();
        endpoints.retain(|endpoint| match &endpoint.sink {
            Sink::Upstream => false,
            Sink::Input { module, .. } => self.records.get(&**module).is_some_and(|record| record.running.is_some()),
        });
        endpoints.iter().all(|endpoint| endpoint.is_quiet(now))
    }

    async fn stop_group(&mut self, group: &[ModuleName], until: Instant) {
        for name in group {
            if let Some(module) = self.observed.modules.get_mut(name) {
                module.state = ModuleState::Stopping;
            }
            if let Some(running) = self.records.get(name).and_then(|record| record.running.as_ref()) {
                running.stop.stop();
            }
        }
        self.wait_for_end(group, until).await;
        for name in group {
            if let Some(running) = self.records.get(name).and_then(|record| record.running.as_ref()) {
                tracing::warn!(module = %name, "did not stop in time");
                running.stop.kill();
            }
        }
        self.wait_for_end(group, Instant::now() + AFTER_KILL).await;
    }

    async fn wait_for_end(&mut self, group: &[ModuleName], until: Instant) {
        while group.iter().any(|name| self.records.get(name).is_some_and(|record| record.running.is_some())) {
            match tokio::time::timeout_at(until, self.events.recv()).await {
                Ok(event) => self.hear(event),
                Err(_) => return,
            }
        }
    }

    /// Events while ending: instances end, questions are answered, nothing new begins.
    fn hear(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Ended { name, run, exit }) => {
                let Some(record) = self.records.get_mut(&name).filter(|record| record.is_run(run)) else { return };
                tracing::info!(module = %name, code = exit.code, reason = exit.reason, "ended");
                let code = exit.code;
                record.ended(exit, self.worlds.clock.utc());
                self.observed.happened(&name, planner::Event::Exited(code), self.worlds.clock.uptime());
            }
            Some(Event::Restart { reply, .. }) => {
                let _ = reply.send(Err("the host is stopping".into()));
            }
            Some(event @ (Event::Status { .. } | Event::Logs { .. })) => self.on(event),
            // A second request to stop is answered by the first one's end.
            Some(_) | None => {}
        }
    }

    fn report_left(&self) {
        for endpoint in self.worlds.router.endpoints() {
            let stats = endpoint.stats();
            if stats.len > 0 && endpoint.sink != Sink::Upstream {
                tracing::warn!(endpoint = %endpoint.sink, messages = stats.len, "messages in memory were not handled before the stop");
            }
        }
    }
}
