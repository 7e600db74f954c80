//! Facts about plans, and the laws that must hold for any history.

mod explained;
mod facts;
mod health;
mod laws;
mod limit;
mod room;
mod runtime;
mod runtime_laws;
mod told;

use std::collections::BTreeMap;

use super::*;
use crate::{
    deployment::{HealthCheck, PullPolicy, Sandbox},
    health::Health,
};

/// A running module with policy `on-unhealthy`, last in order.
fn spec(name: &str) -> ModuleSpec {
    ModuleSpec {
        name: ModuleName::new(name).unwrap(),
        version: String::new(),
        image: format!("registry.test/{name}:1"),
        desired_status: DesiredStatus::Running,
        restart_policy: RestartPolicy::OnUnhealthy,
        max_restarts: None,
        health: None,
        pull_policy: PullPolicy::OnCreate,
        startup_order: u32::MAX,
        env: BTreeMap::new(),
        sandbox: Sandbox::default(),
    }
}

/// The defaults.
fn check() -> HealthCheck {
    HealthCheck {
        method: "alive".into(),
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(30),
        failures: 3,
    }
}

fn with(name: &str, change: impl FnOnce(&mut ModuleSpec)) -> ModuleSpec {
    let mut spec = spec(name);
    change(&mut spec);
    spec
}

fn deployment(specs: impl IntoIterator<Item = ModuleSpec>) -> Deployment {
    let modules = specs.into_iter().map(|spec| (spec.name.clone(), spec)).collect();
    Deployment { modules, ..Deployment::default() }
}

fn name(text: &str) -> ModuleName {
    ModuleName::new(text).unwrap()
}

fn secs(seconds: u64) -> Uptime {
    Uptime(seconds * 1000)
}
