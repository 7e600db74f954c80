//! Makes the calls of health checks that [`marram_core::health`] decides on, and tells the planner what comes of them.

use std::sync::Arc;

use marram_core::{
    deployment::HealthCheck,
    health::{self, Action, Checks, Health},
    methods::{InvokeError, MAX_TIMEOUT, MethodRequest, MethodResponse, Timeouts},
    name::ModuleName,
    planner::ModuleState,
    ports::Exit,
    time::Uptime,
};
use tokio::{sync::mpsc, task::AbortHandle};

use super::{Event, Supervisor};
use crate::methods::Methods;

/// The checks of an instance that is in charge.
pub(super) struct Watch {
    /// The instance's.
    run: u64,
    pub(super) checks: Checks,
    /// The call that is being made.
    call: Option<Call>,
}

/// Given up when it is dropped: if it has not begun, it never does.
struct Call(AbortHandle);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watch {
    fn new(run: u64, check: HealthCheck, now: Uptime) -> Self {
        Self { run, checks: Checks::new(check, now), call: None }
    }
}

impl Supervisor {
    /// Makes the calls that are due. Says whether a module is not as it was, and when to look again if nothing happens before.
    pub(super) fn check_health(&mut self) -> (bool, Option<Uptime>) {
        let Self { worlds, observed, records, sender, .. } = self;
        let now = worlds.clock.uptime();
        let (mut news, mut wake_at) = (false, None);
        for (name, module) in &mut observed.modules {
            let Some(record) = records.get_mut(name) else { continue };
            let running = match module.state {
                ModuleState::Running { .. } => record.running.as_ref().map(|running| running.run),
                ModuleState::Ending { .. } => continue, // what was wrong is told with its end
                _ => None,
            };
            let Some((check, run)) = module.spec.health.as_ref().zip(running) else {
                record.watch = None;
                continue;
            };
            record.watch.take_if(|watch| watch.run != run || watch.checks.check() != check);
            let watch = record.watch.get_or_insert_with(|| Watch::new(run, check.clone(), now));
            while let Some(action) = watch.checks.poll(now) {
                watch.call = match action {
                    Action::Call(call) => {
                        Some(begin(worlds.methods.clone(), sender.clone(), name.clone(), check, (run, call)))
                    }
                    Action::GiveUp(_) => None,
                };
            }
            let health = watch.checks.health();
            if module.health != health {
                news = true;
                tell(name, module.health, watch);
                module.health = health;
            }
            if health == Health::Unhealthy {
                record.tally.running.end(now)
            } else {
                record.tally.running.begin(now)
            }
            wake_at = [wake_at, Some(watch.checks.wake_at())].into_iter().flatten().min();
        }
        (news, wake_at)
    }

    pub(super) fn on_checked(
        &mut self,
        name: &ModuleName,
        (run, call): (u64, u64),
        answer: &Result<MethodResponse, InvokeError>,
    ) {
        let now = self.worlds.clock.uptime();
        let watch = self.records.get_mut(name).and_then(|record| record.watch.as_mut());
        // Of an instance that is gone, or that ends: it says nothing any more.
        let running = self.observed.modules.get(name).is_some_and(|it| matches!(it.state, ModuleState::Running { .. }));
        if let Some(watch) = watch.filter(|watch| watch.run == run && running) {
            watch.checks.answered(call, answer, now);
        }
    }

    /// What was known says nothing of another deployment.
    pub(super) fn check_anew(&mut self) {
        let now = self.worlds.clock.uptime();
        self.records.values_mut().filter_map(|record| record.watch.as_mut()).for_each(|watch| watch.checks.anew(now));
    }

    /// How an instance has ended: if the host ended it for its health, that is why.
    pub(super) fn why_it_ended(&mut self, name: &ModuleName, run: u64, exit: Exit) -> Exit {
        let ending =
            self.observed.modules.get(name).is_some_and(|module| matches!(module.state, ModuleState::Ending { .. }));
        match self.records.get_mut(name).filter(|record| ending && record.is_run(run)) {
            Some(record) => health::end(exit, record.watch.take().and_then(|watch| watch.checks.trouble())),
            None => exit,
        }
    }
}

fn begin(
    methods: Arc<Methods>,
    sender: mpsc::Sender<Event>,
    name: ModuleName,
    check: &HealthCheck,
    (run, call): (u64, u64),
) -> Call {
    // Its own time-out is shorter, or the same.
    let timeouts = Timeouts { response: Some(MAX_TIMEOUT), connect: None };
    let request = MethodRequest::new(&check.method, "", timeouts);
    let task = tokio::spawn(async move {
        let answer = match request {
            Ok(request) => methods.check(&name, request).await,
            Err(bad) => Err(bad.into()),
        };
        let _ = sender.send(Event::Checked { name, run, call, answer }).await;
    });
    Call(task.abort_handle())
}

fn tell(name: &ModuleName, before: Health, watch: &Watch) {
    match (watch.checks.health(), watch.checks.trouble()) {
        (Health::Unhealthy, reason) => tracing::error!(module = %name, reason, "unhealthy"),
        (Health::Unknown, Some(reason)) => tracing::warn!(module = %name, reason, "its health is not known"),
        (Health::Healthy { .. }, _) if before == Health::Unhealthy => tracing::info!(module = %name, "healthy again"),
        (Health::Healthy { .. } | Health::Unknown, _) => tracing::debug!(module = %name, "its health was checked"),
    }
}
