//! What the device reports of a deployment on its way.

use std::{sync::Arc, time::Duration};

use marram_core::ports::Exports;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{
    lifetime::until,
    worlds::{Guest, World, manifest},
};
use crate::Agent;

async fn desired_status(agent: &Agent) -> Value {
    agent.reported().await.unwrap()["$edgeAgent"]["lastDesiredStatus"].clone()
}

#[tokio::test]
async fn a_deployment_that_is_being_carried_out_is_reported_in_progress_with_the_module_that_is_not_there_yet() {
    let world = World::default();
    let fetched = Arc::new(Semaphore::new(0));
    let idle = Guest { exports: Exports::default(), ..Guest::default() };
    world.guest("a", idle.clone());
    world.guest("b", Guest { fetched: Some(fetched.clone()), ..idle });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[])).await.unwrap();
    until(&agent, "a", "running").await;
    until(&agent, "b", "preparing").await;
    assert_eq!(desired_status(&agent).await, json!({ "code": 406, "description": "b: fetching and compiling" }));
    fetched.add_permits(1);
    until(&agent, "b", "running").await;
    assert_eq!(desired_status(&agent).await, json!({ "code": 200, "description": "" }));
    agent.shut_down(Duration::from_secs(5)).await;
}
