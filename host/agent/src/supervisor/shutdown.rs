//! The end of the host: sources before what they feed, each with what waits for it, then upstream. Bounded by the grace
//! time.

use std::{collections::BTreeSet, time::Duration};

use marram_core::{
    deployment::DesiredStatus,
    name::ModuleName,
    planner::{self, ModuleState, NextState, Step, needs_new_instance},
    ports::Exit,
    route::Sink,
    shutdown::stop_order,
};
use tokio::time::Instant;

use super::{Event, Supervisor, outcomes::tell_end, record::Record};

/// How soon the queues are looked at again while they drain: most are empty at once, and a chain of a thousand modules has
/// a thousand such waits. Doubled up to [`LAST_LOOK`].
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(10);
/// Equal shares of the time that is left, at most so many: of more, each would be too short for a busy device, and hardly
/// one is used up.
const MAX_SHARES: usize = 4;
/// How long killed instances may take to be gone, all together beyond the grace time.
const AFTER_KILL: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Stops every module: first those that no other running module feeds, after what waits for them is handled and their
    /// last call has ended; then those that only the first ones fed, and so on. So nothing is accepted for a module that has
    /// ended before. An update that is up takes over from its old instance first. Nothing is planned any more; events are
    /// still heard.
    pub(super) async fn shut_down(&mut self, grace: Duration) {
        let until = Instant::now() + grace;
        let end = until + AFTER_KILL;
        self.worlds.methods.close();
        self.end_or_finish_updates();
        for record in self.records.values() {
            record.instances().for_each(|instance| instance.stop.quiesce());
        }
        let groups = stop_order(&self.desired, &self.running(), |name| self.startup_order(name));
        for (group, rest) in groups.iter().zip((0..groups.len()).rev()) {
            // Some may have ended by themselves meanwhile.
            let group: Vec<ModuleName> = group.iter().filter(|name| self.runs(name)).cloned().collect();
            if group.is_empty() {
                continue;
            }
            // Whoever comes later keeps a share of the time, in case this one needs all of its own.
            let shares = u32::try_from((rest + 1).min(MAX_SHARES)).unwrap_or(1);
            let share = until.saturating_duration_since(Instant::now()) / shares;
            let turn_ends = Instant::now() + share;
            self.drain(&group, Instant::now() + share / 4 * 3).await;
            self.stop_group(&group, turn_ends, end).await;
        }
        self.report_left();
        self.worlds.upstream_closing.send_replace(true);
    }

    /// An update that is up takes over as planned: its old instance takes nothing any more, and somebody must handle what
    /// waits. Any other was never in charge and has nothing to finish.
    fn end_or_finish_updates(&mut self) {
        let updating = self.records.iter().filter(|(_, record)| record.update.is_some());
        let names: Vec<ModuleName> = updating.map(|(name, _)| name.clone()).collect();
        for name in names {
            if !self.is_to_take_over(&name) {
                self.end_update(&name);
            } else if !self.runs(&name) {
                self.take_over(&name); // both have just happened: no plan has followed yet
            } else if let Some(module) = self.observed.modules.get_mut(&name)
                && module.state != ModuleState::Stopping
            {
                module.state = ModuleState::Stopping; // as above
                self.stop(&name);
            }
        }
    }

    /// Whether an update is up, and wanted still.
    fn is_to_take_over(&self, name: &ModuleName) -> bool {
        let next = self.observed.modules.get(name).and_then(|module| module.next.as_ref());
        let wanted = self.desired.modules.get(name);
        next.zip(wanted).is_some_and(|(next, wanted)| {
            matches!(next.state, NextState::Up { .. })
                && wanted.desired_status == DesiredStatus::Running
                && !needs_new_instance(&next.spec, wanted)
        })
    }

    fn take_over(&mut self, name: &ModuleName) {
        self.observed.issued(&Step::Promote(name.clone()));
        self.promote(name);
    }

    fn end_update(&mut self, name: &ModuleName) {
        if let Some(update) = self.records.get_mut(name).and_then(|record| record.update.take()) {
            update.running.stop.kill();
        }
    }

    fn running(&self) -> BTreeSet<ModuleName> {
        let running = self.records.iter().filter(|(_, record)| record.running.is_some());
        running.map(|(name, _)| name.clone()).collect()
    }

    fn runs(&self, name: &ModuleName) -> bool {
        self.records.get(name).is_some_and(|record| record.running.is_some())
    }

    fn startup_order(&self, name: &ModuleName) -> u32 {
        self.observed.modules.get(name).map_or(u32::MAX, |module| module.spec.startup_order)
    }

    /// Waits until the inputs of these modules have nothing left. What is in back-off is tried at once: there may be no
    /// later.
    async fn drain(&mut self, group: &[ModuleName], until: Instant) {
        for endpoint in group.iter().flat_map(|name| self.worlds.router.inputs_of(name.as_str())) {
            endpoint.retry_now();
        }
        let mut look = FIRST_LOOK;
        while Instant::now() < until && !self.is_drained(group, until) {
            tokio::select! {
                biased;
                event = self.events.recv() => self.hear(event),
                () = tokio::time::sleep(look) => look = (look * 2).min(LAST_LOOK),
            }
        }
    }

    fn is_drained(&self, group: &[ModuleName], until: Instant) -> bool {
        let now = self.worlds.clock.uptime();
        let end = now.after(until.saturating_duration_since(Instant::now()));
        // Queues of a module that takes no messages would never be empty.
        let running = group.iter().filter(|name| self.records.get(*name).is_some_and(Record::takes_messages));
        let mut inputs = running.flat_map(|name| self.worlds.router.inputs_of(name.as_str()));
        inputs.all(|endpoint| endpoint.is_drained(now, end))
    }

    async fn stop_group(&mut self, group: &[ModuleName], until: Instant, end: Instant) {
        for name in group {
            self.end_update(name); // too late to take over
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
        self.wait_for_end(group, end.min(Instant::now() + AFTER_KILL)).await;
        // Whatever hangs on is gone with the process; it must not hold up the others.
        for name in group {
            if let Some(record) = self.records.get_mut(name) {
                record.running = None;
            }
        }
    }

    async fn wait_for_end(&mut self, group: &[ModuleName], until: Instant) {
        // The clock is looked at beside the events: many questions must not put off the end.
        while Instant::now() < until && group.iter().any(|name| self.runs(name)) {
            match tokio::time::timeout_at(until, self.events.recv()).await {
                Ok(event) => self.hear(event),
                Err(_) => return,
            }
        }
    }

    /// Events while ending: instances end, questions are answered, nothing new begins.
    fn hear(&mut self, event: Option<Event>) {
        match event {
            Some(Event::Ended { name, run, exit }) => self.hear_end(&name, run, exit),
            Some(Event::Restart { reply, .. }) => {
                let _ = reply.send(Err("the host is stopping".into()));
            }
            Some(
                event
                @ (Event::Status { .. } | Event::Standings { .. } | Event::IsDeployed { .. } | Event::Logs { .. }),
            ) => self.on(event),
            // A second request to stop is answered by the first one's end.
            Some(_) | None => {}
        }
    }

    fn hear_end(&mut self, name: &ModuleName, run: u64, exit: Exit) {
        let (now, utc) = (self.worlds.clock.uptime(), self.worlds.clock.utc());
        self.keep_trap(name, run, &exit, utc);
        let Some(record) = self.records.get_mut(name) else { return };
        if record.is_update(run) {
            tracing::error!(module = %name, code = exit.code, reason = exit.reason, backtrace = ?exit.backtrace, "its update ended before it took over");
            record.update_ended(&exit);
            self.observed.happened(name, planner::Event::UpdateExited, now);
        } else if record.is_run(run) {
            tell_end(name, &exit);
            let code = exit.code;
            record.ended(exit, now, utc);
            self.observed.happened(name, planner::Event::Exited(code), now);
            if self.records.get(name).is_some_and(|record| record.update.is_some()) {
                self.take_over(name);
            }
        }
    }

    fn report_left(&self) {
        for endpoint in self.worlds.router.endpoints() {
            let stats = endpoint.stats();
            if stats.len > 0 && endpoint.sink != Sink::Upstream {
                let kept = stats.len.saturating_sub(stats.unstored);
                tracing::warn!(
                    endpoint = %endpoint.sink,
                    lost = stats.unstored,
                    kept,
                    "messages were not handled before the stop; those in memory alone are lost"
                );
            }
        }
    }
}
