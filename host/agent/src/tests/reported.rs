//! What the device reports of a deployment on its way.

use std::{sync::Arc, time::Duration};

use marram_core::ports::{Exports, Settlement};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{
    lifetime::until,
    worlds::{DEADLINE, Guest, World, manifest, manifest_with, message},
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

/// 200 says that all is as it is desired, and a module that runs need not be.
#[tokio::test]
async fn what_is_on_its_way_or_cannot_be_reached_is_no_success() {
    let world = World::default();
    let fetched = Arc::new(Semaphore::new(0));
    let idle = Guest { exports: Exports::default(), ..Guest::default() };
    world.guest("a", idle.clone());
    world.guest("slow", Guest { fetched: Some(fetched.clone()), ..idle });
    let agent = world.agent().await;
    let of = |image: &str| format!(r#"{{"settings":{{"image":"{image}"}}}}"#);
    agent.apply(&manifest(&[("a", "{}")], &[])).await.unwrap();
    until(&agent, "a", "running").await;
    agent.apply(&manifest(&[("a", &of("slow"))], &[])).await.unwrap();
    let status = desired_status(&agent).await;
    assert_eq!(status["code"], 406, "{status}");
    fetched.add_permits(1);
    is_reported(&agent, |status| *status == json!({ "code": 200, "description": "" })).await;
    // An update beside what runs, and what was never here.
    agent.apply(&manifest(&[("a", &of("away")), ("b", &of("away"))], &[])).await.unwrap();
    let is_told = |status: &Value, what: &str| status["description"].as_str().unwrap().contains(what);
    is_reported(&agent, |status| status["code"] == 500 && is_told(status, "a: ") && is_told(status, "b: ")).await;
    let status = desired_status(&agent).await;
    assert_eq!(status["description"].as_str().unwrap().matches("no image away").count(), 2, "{status}");
    agent.shut_down(Duration::from_secs(5)).await;
}

async fn is_reported(agent: &Agent, what: impl Fn(&Value) -> bool) {
    let reported = async {
        while !what(&desired_status(agent).await) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, reported).await;
    assert!(in_time.is_ok(), "{}", desired_status(agent).await);
}

#[tokio::test]
async fn while_the_host_stops_it_reports_that_nothing_is_known_from_then_on() {
    let world = World::default();
    let (begun, may_end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (inside, leave) = (begun.clone(), may_end.clone());
    let handler: Arc<super::worlds::Handler> = Arc::new(move |_, _| {
        let (inside, leave) = (inside.clone(), leave.clone());
        Box::pin(async move {
            inside.add_permits(1);
            let _ = leave.acquire().await;
            Ok(Settlement::Done)
        })
    });
    world.guest("a", Guest { handler, ..Guest::default() });
    let agent = world.agent().await;
    let route = r#"FROM /messages INTO BrokeredEndpoint("/modules/a/inputs/in")"#;
    agent.apply(&manifest_with("memory", &[("a", "{}")], &[route])).await.unwrap();
    until(&agent, "a", "running").await;
    agent.publish("/messages", &message("1")).await.unwrap();
    tokio::time::timeout(DEADLINE, begun.acquire()).await.unwrap().unwrap().forget();
    // `a` is amid a message, so the host cannot have stopped.
    let stopping = tokio::spawn({
        let agent = agent.clone();
        async move { agent.shut_down(Duration::from_secs(60)).await }
    });
    let told = tokio::time::timeout(DEADLINE, async {
        loop {
            let told = agent.reported().await.unwrap();
            if told["$edgeAgent"]["lastDesiredStatus"]["code"] != 200 {
                return told;
            }
            tokio::task::yield_now().await;
        }
    });
    let told = told.await.unwrap();
    let status = &told["$edgeAgent"]["lastDesiredStatus"];
    assert_eq!(*status, json!({ "code": 406, "description": "the host is stopping" }));
    assert_eq!(told["$edgeAgent"]["modules"]["a"]["runtimeStatus"], "unknown");
    let client = told["$edgeHub"]["clients"].as_object().unwrap().values().next().unwrap();
    assert_eq!(client["status"], "Connected", "it is at work still");
    may_end.add_permits(1);
    stopping.await.unwrap();
    assert!(agent.reported().await.is_err(), "nobody is there who could tell");
}
