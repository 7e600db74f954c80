//! What a service manager is told (`sd_notify(3)`): that the host is up, what it does, that it lives, that it stops.
//! Without one, i.e. without `NOTIFY_SOCKET`, nothing is told. Ends nothing itself.
//!
//! Alive means: the supervisor answered, which takes its loop, the locks of the router's queues, and a thread of the
//! runtime that has time for both. A host that hangs in any of them is silent, and the manager replaces it.

use std::{future::Future, sync::Arc, time::Duration};

use marram_agent::{Agent, ModuleError, Status};
use sd_notify::NotifyState;

/// Time between two words about the state where no watchdog asks for more.
const INTERVAL: Duration = Duration::from_secs(10);
/// What a stop takes beside the grace time: killed instances, the rest for upstream, threads that hang.
const BESIDE_GRACE: Duration = Duration::from_secs(20);
/// Modules that are named in the state.
const NAMED: usize = 3;

/// The deployment is in force, and the control socket is open.
pub(super) fn up(agent: Arc<Agent>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tell(&[NotifyState::Ready]);
    let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    tokio::spawn(async move { Watch::new(watchdog).keep(&agent).await });
}

/// The host begins to stop, and will be done by then.
pub(super) fn stopping(grace: Duration) {
    let most = u32::try_from((grace + BESIDE_GRACE).as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(most), NotifyState::Status("stopping its modules")]);
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::debug!(%error, "the service manager does not hear");
    }
}

/// How often to look, and how long to wait for an answer.
struct Watch {
    is_dog: bool,
    interval: Duration,
    patience: Duration,
}

impl Watch {
    /// With the time after which a silent host is replaced, if there is one: an answer that comes late by a quarter of it
    /// is in time still.
    fn new(watchdog: Option<Duration>) -> Self {
        let interval = watchdog.map_or(INTERVAL, |limit| limit / 2);
        let patience = watchdog.map_or(INTERVAL, |limit| limit / 4);
        Self { is_dog: watchdog.is_some(), interval, patience }
    }

    /// For ever.
    async fn keep(&self, agent: &Agent) {
        let mut told = String::new();
        loop {
            if let Some(line) = answer(agent.status(), self.patience).await {
                if self.is_dog {
                    tell(&[NotifyState::Watchdog]);
                }
                if line != told {
                    tell(&[NotifyState::Status(&line)]);
                    told = line;
                }
            } else {
                tracing::error!(seconds = self.patience.as_secs_f32(), "the supervisor does not answer");
            }
            tokio::time::sleep(self.interval).await;
        }
    }
}

/// The state in a line; none: no answer in time. An orderly end is a state too.
async fn answer(status: impl Future<Output = Result<Status, ModuleError>>, patience: Duration) -> Option<String> {
    match tokio::time::timeout(patience, status).await {
        Ok(Ok(status)) => Some(line(&status)),
        Ok(Err(_)) => Some("stopping".into()),
        Err(_) => None,
    }
}

fn line(status: &Status) -> String {
    if status.deployment_version == 0 {
        return "no deployment yet".into();
    }
    let wanted: Vec<_> = status.modules.iter().filter(|module| module.status != "stopped").collect();
    let mut others = wanted.iter().filter(|module| module.status != "running");
    let running = wanted.len() - others.clone().count();
    let mut line = format!("deployment {}: {running} of {} modules run", status.deployment_version, wanted.len());
    let named: Vec<_> =
        others.by_ref().take(NAMED).map(|module| format!("{} {}", module.name, module.status)).collect();
    if !named.is_empty() {
        line.push_str("; ");
        line.push_str(&named.join(", "));
    }
    match others.count() {
        0 => line,
        more => format!("{line} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: u64, modules: &[(&str, &str)]) -> Status {
        let module = |(name, status): &(&str, &str)| {
            serde_json::json!({
                "name": name, "status": status, "description": "", "desiredStatus": "running", "image": "a",
                "digest": null, "exitCode": null, "restartCount": 0, "lastStartMs": null, "lastExitMs": null,
                "memoryBytes": 0, "memoryLimit": 0,
            })
        };
        let modules: Vec<_> = modules.iter().map(module).collect();
        serde_json::from_value(serde_json::json!({
            "version": "0", "deviceId": "d", "deploymentVersion": version, "uptimeMs": 0, "modules": modules,
            "queues": [], "noRoute": 0,
        }))
        .unwrap()
    }

    #[test]
    fn the_state_names_what_does_not_run() {
        assert_eq!(line(&status(0, &[])), "no deployment yet");
        assert_eq!(line(&status(2, &[("a", "running"), ("b", "stopped")])), "deployment 2: 1 of 1 modules run");
        let five =
            status(3, &[("a", "backoff"), ("b", "failed"), ("c", "running"), ("d", "failed"), ("e", "starting")]);
        assert_eq!(line(&five), "deployment 3: 1 of 5 modules run; a backoff, b failed, d failed and 1 more");
    }

    #[tokio::test]
    async fn a_supervisor_that_hangs_is_not_alive() {
        let hangs = std::future::pending();
        assert_eq!(answer(hangs, Duration::from_millis(1)).await, None);
        let lives = async { Ok(status(0, &[])) };
        assert!(answer(lives, Duration::from_secs(60)).await.is_some());
        let ends = async { Err(ModuleError::Stopping) };
        assert!(answer(ends, Duration::from_secs(60)).await.is_some(), "an orderly stop is not cut off");
    }

    #[test]
    fn an_answer_is_told_within_the_watchdogs_time() {
        let watch = Watch::new(Some(Duration::from_secs(60)));
        assert!(watch.is_dog && watch.interval + watch.patience < Duration::from_secs(60));
        assert!(!Watch::new(None).is_dog);
    }
}
