//! What people and programs are told of modules and queues.

use marram_core::{
    deployment::{Deployment, ModuleSpec},
    name::ModuleName,
    planner::{Explained, explain},
    time::{Uptime, UtcMillis},
};

use super::{
    Supervisor,
    record::{self, Record},
};
use crate::{
    agent::RUN_BITS,
    endpoint::Endpoint,
    metrics::Numbers,
    status::{MessageLogStatus, ModuleStatus, QueueStatus, Status},
    storage::Facts,
};

impl Supervisor {
    /// What would be done for this deployment. Nothing is.
    pub(super) fn explain(&self, desired: &Deployment, at: Option<UtcMillis>) -> Explained {
        let (now, utc) = (self.worlds.clock.uptime(), self.worlds.clock.utc());
        let at = at.unwrap_or(utc);
        // An earlier time than this host's start is its start.
        let then = Uptime(now.0.saturating_add(at.0.saturating_sub(utc.0)).saturating_sub(utc.0.saturating_sub(at.0)));
        if desired.registry_credentials == self.desired.registry_credentials {
            return explain(desired, &self.observed, then, at);
        }
        let mut observed = self.observed.clone();
        observed.forget_refusals();
        explain(desired, &observed, then, at)
    }

    fn sent_by(&self, name: &ModuleName) -> u64 {
        self.worlds.router.sources().sent_by(name.as_str())
    }

    pub(super) fn status(&self) -> Status {
        let (now, utc) = (self.worlds.clock.uptime(), self.worlds.clock.utc());
        let module = |(name, spec): (&ModuleName, &ModuleSpec)| -> ModuleStatus {
            let record = self.records.get(name);
            let mut status =
                record::module_status(spec, self.observed.modules.get(name), record, self.sent_by(name), now);
            if record.is_some_and(Record::is_dead_end) && !self.worlds.router.inputs_of(name.as_str()).is_empty() {
                status.description.push_str("; routes lead to it, but it takes no messages");
            }
            status
        };
        let mut modules: Vec<ModuleStatus> = self.desired.modules.iter().map(module).collect();
        for (name, observed) in &self.observed.modules {
            if !self.desired.modules.contains_key(name) {
                let (record, sent) = (self.records.get(name), self.sent_by(name));
                modules.push(record::module_status(&observed.spec, Some(observed), record, sent, now));
            }
        }
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            device_id: self.worlds.device_id.clone(),
            deployment_version: self.version,
            uptime_ms: now.0,
            modules,
            queues: self.worlds.router.endpoints().iter().map(|endpoint| queue_status(endpoint, utc)).collect(),
            no_route: self.worlds.router.sources().no_route(),
            endpoint_removed: self.worlds.router.endpoint_removed(),
            upstream_error: self.worlds.router.upstream_error(),
            message_log: message_log_status(self.worlds.router.storage().facts()),
        }
    }

    /// All that is counted.
    pub(super) fn numbers(&self) -> Numbers {
        let now = self.worlds.clock.uptime();
        let module = |(name, record): (&ModuleName, &Record)| {
            let spec = self.desired.modules.get(name);
            let spec = spec.or_else(|| self.observed.modules.get(name).map(|module| &module.spec));
            let version = spec.map(|spec| spec.version.clone()).unwrap_or_default();
            (name.clone(), (version, record.tally.numbers(now)))
        };
        let modules = self.records.iter().map(module).collect();
        Numbers { status: self.status(), modules, instance: self.worlds.first_sequence >> RUN_BITS }
    }
}

fn message_log_status(facts: Facts) -> MessageLogStatus {
    let Facts { room, damaged, lost, dead_letters, error } = facts;
    MessageLogStatus { bytes: room.disk_bytes, max_bytes: room.max_bytes, damaged, lost, dead_letters, error }
}

fn queue_status(endpoint: &Endpoint, now: UtcMillis) -> QueueStatus {
    let stats = endpoint.stats();
    QueueStatus {
        endpoint: endpoint.sink.queue_name(),
        length: stats.len,
        bytes: stats.bytes,
        max_bytes: stats.max_bytes,
        // The clock may have been set back since.
        oldest_ms: stats.oldest.map(|oldest| now.0.saturating_sub(oldest.0)),
        accepted: stats.accepted,
        delivered: stats.handled.total(),
        retried: stats.retried,
        dropped: stats.given_up.totals().into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
    }
}
