//! Twins: what operators and the cloud change of them, and what must hold then.

use std::time::Duration;

use marram_agent::{ModuleError, TwinError};
use marram_core::ports::UpstreamEvent;
use serde_json::Value;

use super::{Host, QUIET};
use crate::{cloud::Heard, op::Op};

/// A desired property that was set here.
#[derive(Debug, Clone)]
pub(super) struct Answered {
    value: u64,
    /// What the cloud had written last.
    cloud_version: Value,
}

impl Host {
    pub(super) fn set_twin(&mut self, module: &str, value: u64) {
        self.note(format!("> twin {module} {value}"));
        match self.block(async |agent| agent.set_twin(module, &format!("{{\"k\":{value}}}")).await) {
            Ok(_) => {
                let cloud_version = self.cloud_version(module);
                self.twins.insert(module.into(), Answered { value, cloud_version });
            }
            Err(ModuleError::Twin(TwinError::Store(_))) => {
                let fails = self.world.lock().disk.fault.is_some();
                self.check(fails, "a twin is only refused by a disk that fails");
            }
            Err(_) => self.note("refused"),
        }
    }

    pub(super) fn show_twin(&self, module: &str) {
        let Ok(twin) = self.block(async |agent| agent.twin(module).await) else { return self.note("unknown") };
        let (version, origin) = (twin.desired_version, twin.desired_origin);
        self.note(format!("= twin {module} {version} of {origin}: {}", twin.desired));
    }

    pub(super) fn connect(&mut self, connected: bool) {
        let mut inner = self.world.lock();
        inner.note(if connected { "> connect" } else { "> disconnect" });
        inner.cloud.keeps |= connected;
        inner.cloud.connected = connected;
        drop(inner);
        if connected {
            self.block(async |agent| agent.upstream_event(UpstreamEvent::Connected).await);
        }
    }

    pub(super) fn cloud_changes(&mut self, module: &str, value: Option<u64>, heard: Heard) {
        let mut inner = self.world.lock();
        if !inner.cloud.keeps {
            return;
        }
        let words = value.map_or("none".into(), |value| value.to_string());
        inner.note(format!("> cloud {module} {words} {heard:?}"));
        let event = inner.cloud.changes(module, value);
        let times = match heard {
            _ if !inner.cloud.connected => 0,
            Heard::Once => 1,
            Heard::Twice => 2,
            Heard::Never => {
                inner.seen.note("a change of the cloud that is lost on its way");
                0
            }
        };
        drop(inner);
        for _ in 0..times {
            self.block(async |agent| agent.upstream_event(event.clone()).await);
        }
    }

    /// Which of the cloud's versions a module's twin has, as its document says.
    pub(super) fn cloud_version(&self, module: &str) -> Value {
        let inner = self.world.lock();
        let document = inner.disk.in_force(&format!("twin-{module}")).unwrap_or_default();
        let mut twin: Value = serde_json::from_slice(document).unwrap_or_default();
        twin["cloud_version"].take()
    }

    /// And what was reported. A change in the cloud undoes what was changed here.
    pub(super) fn invariant_twins_hold_what_was_answered(&mut self) {
        for module in ["a", "b", "c"] {
            // It is kept for a module that is not deployed, and not shown.
            let Ok(twin) = self.block(async |agent| agent.twin(module).await) else { continue };
            let mut inner = self.world.lock();
            inner.reports.invariant_reports_are_kept(module, &twin.reported, twin.reported_version);
            inner.cloud.invariant_what_the_cloud_wrote_is_in_force(module, &twin.desired_origin, &twin.desired);
            drop(inner);
            let Some(Answered { value, cloud_version }) = self.twins.get(module).cloned() else { continue };
            let is_undone = twin.desired["k"].is_null() && self.cloud_version(module) != cloud_version;
            self.check(twin.desired["k"] == value || is_undone, "twins hold what was answered");
            if is_undone {
                self.world.lock().seen.note("a local change that the cloud undoes");
                self.twins.remove(module);
            }
        }
    }

    /// When upstream can be reached and nothing has happened for a while.
    pub(super) fn invariant_cloud_and_device_agree(&mut self) {
        if !self.world.lock().cloud.keeps {
            return;
        }
        for module in ["a", "b", "c"] {
            let Ok(twin) = self.block(async |agent| agent.twin(module).await) else { continue };
            let inner = self.world.lock();
            let (mut desired, reported) = (inner.cloud.desired(module), inner.cloud.reported(module));
            drop(inner);
            if let Some(Answered { value, .. }) = self.twins.get(module) {
                desired.insert("k".into(), (*value).into());
            } else {
                // Of what was set here before the disk lost a twin nothing is known.
                twin.local_changes.get("k").map(|value| desired.insert("k".into(), value.clone()));
            }
            for (name, here, there) in [
                ("the desired properties are the cloud's", &twin.desired, Value::from(desired)),
                ("the cloud has what is reported", &twin.reported, Value::from(reported)),
            ] {
                self.check(*here == there, &format!("{name}: {module} has {here}, the cloud {there}"));
            }
        }
    }

    /// With nothing that fails each change reaches the module that runs, and its answer is kept.
    pub(super) fn all_are_told_once_more(&mut self) {
        for (number, module) in (1_000..).zip(["a", "b", "c"]) {
            self.happens(Duration::ZERO, &Op::Twin(module.into(), number));
        }
        self.happens(QUIET, &Op::Pass);
        let in_charge = self.world.lock().watch.in_charge();
        for module in in_charge.into_keys() {
            let Ok(twin) = self.block(async |agent| agent.twin(&module).await) else { continue };
            let reports = &mut self.world.lock().reports;
            reports.invariant_the_last_answer_is_kept(&module, &twin.reported, twin.desired_version);
        }
    }
}
