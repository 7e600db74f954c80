//! The page of numbers says what really happened. Over a socket and with real guests: `tests/metrics.rs`.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use marram_core::ports::{Exports, Sent, Settlement, UpstreamEvent};

use super::worlds::{DEADLINE, Guest, World, manifest, manifest_with, message, text};
use crate::Agent;

const A_TO_B: &str = r#"{ "route": "FROM /messages/modules/a/outputs/out INTO BrokeredEndpoint(\"/modules/b/inputs/in\")", "priority": 3 }"#;

/// A guest that sends these (output, text) when it starts.
fn sender(sends: Vec<(&'static str, &'static str)>) -> Guest {
    Guest {
        exports: Exports { start: true, ..Exports::default() },
        start: Arc::new(move |host| {
            for (output, text) in &sends {
                assert!(!matches!(host.try_send(output, &message(text)), Sent::Wait));
            }
            Ok(Ok(()))
        }),
        ..Guest::default()
    }
}

/// Samples by name and labels, without the two labels that all have.
async fn samples(agent: &Agent) -> BTreeMap<String, f64> {
    let page = agent.metrics().await.unwrap();
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let common = [r#",edge_device="device",instance_number="0""#, r#"{edge_device="device",instance_number="0"}"#];
        assert!(common.iter().any(|labels| name.contains(labels)), "{line}");
        let name = common.iter().fold(name.to_owned(), |name, labels| name.replace(labels, ""));
        (name, value.parse().unwrap())
    };
    lines.map(sample).collect()
}

/// Waits until these are among the samples.
pub(super) async fn until(agent: &Agent, wanted: &[(&str, f64)]) -> BTreeMap<String, f64> {
    until_they(agent, wanted, |found, wanted| found == wanted).await
}

/// Waits until these are among the samples, or more than that.
async fn until_at_least(agent: &Agent, wanted: &[(&str, f64)]) -> BTreeMap<String, f64> {
    until_they(agent, wanted, |found, wanted| found >= wanted).await
}

async fn until_they(agent: &Agent, wanted: &[(&str, f64)], are: fn(&f64, &f64) -> bool) -> BTreeMap<String, f64> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let found = samples(agent).await;
        if wanted.iter().all(|(name, value)| found.get(*name).is_some_and(|found| are(found, value))) {
            return found;
        }
        let differ: Vec<_> = wanted.iter().map(|(name, value)| (name, value, found.get(*name))).collect();
        assert!(tokio::time::Instant::now() < deadline, "wanted and found: {differ:#?}\nof {found:#?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_sent_handled_and_given_up_is_counted_by_sender_receiver_and_priority() {
    for durability in ["memory", "crash"] {
        let world = World::default();
        let program = Guest {
            exports: Exports { run: true, ..Exports::default() },
            program: Arc::new(|host| {
                Box::pin(async move {
                    for text in ["good", "bad", "good"] {
                        host.send("out".into(), message(text)).await.unwrap();
                    }
                    host.send("nowhere".into(), message("lost")).await.unwrap();
                    std::future::pending().await
                })
            }),
            ..Guest::default()
        };
        world.guest("a", program);
        world.handler("b", |_, delivery| match &*text(&delivery.accepted.message) {
            "bad" => Ok(Settlement::Reject("bad".into())),
            _ => Ok(Settlement::Done),
        });
        let agent = world.agent().await;
        let up = r#""FROM /messages/modules/a/outputs/out INTO $upstream""#;
        agent.apply(&manifest_with(durability, &[("a", "{}"), ("b", "{}")], &[A_TO_B, up])).await.unwrap();
        let wanted = [
            (r#"edgehub_messages_received_total{route_output="out",id="device/a"}"#, 3.0),
            (r#"edgehub_messages_received_total{route_output="nowhere",id="device/a"}"#, 1.0),
            (r#"edgehub_message_size_bytes_sum{id="device/a"}"#, 15.0),
            (r#"edgehub_message_size_bytes_count{id="device/a"}"#, 4.0),
            (r#"edgehub_message_size_bytes{id="device/a",quantile="0.1"}"#, 3.0),
            (r#"edgehub_message_size_bytes{id="device/a",quantile="0.5"}"#, 4.0),
            (r#"edgehub_message_size_bytes{id="device/a",quantile="0.99"}"#, 4.0),
            (
                r#"edgehub_messages_sent_total{from="device/a",to="device/b",from_route_output="out",to_route_input="in",priority="3"}"#,
                2.0,
            ),
            (
                r#"edgehub_messages_sent_total{from="device/a",to="upstream",from_route_output="out",to_route_input="",priority="2000000000"}"#,
                3.0,
            ),
            (r#"edgehub_messages_dropped_total{reason="rejected",from="device/a",from_route_output="out"}"#, 1.0),
            (r#"edgehub_messages_dropped_total{reason="no_route",from="device/a",from_route_output="nowhere"}"#, 1.0),
            (r#"edgehub_queue_length{endpoint="device/b/in",priority="3"}"#, 0.0),
            (r#"edgehub_queue_length{endpoint="iothub",priority="2000000000"}"#, 0.0),
            (r#"marram_queue_accepted_total{endpoint="b/in"}"#, 3.0),
            (r#"marram_queue_delivered_total{endpoint="b/in"}"#, 2.0),
            (r#"marram_queue_dropped_total{endpoint="b/in",reason="rejected"}"#, 1.0),
            ("edgehub_connected_clients", 2.0),
            ("marram_dead_letters", if durability == "memory" { 0.0 } else { 1.0 }),
        ];
        until(&agent, &wanted).await;
        let status = agent.status().await.unwrap();
        assert_eq!((status.modules[0].sent, status.no_route), (4, 1), "`list` has the same numbers");
        agent.shut_down(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn what_waits_is_told_by_priority_also_behind_the_window_of_a_backlog() {
    let world = World::default();
    world.upstream.down.store(true, SeqCst);
    let agent = world.agent().await;
    let up = r#"{ "route": "FROM /messages/* INTO $upstream", "priority": 7 }"#;
    agent.apply(&manifest_with("crash", &[], &[up])).await.unwrap();
    let large = message(&"x".repeat(100 << 10));
    for _ in 0..10 {
        agent.publish("/messages", &large).await.unwrap();
    }
    let length = r#"edgehub_queue_length{endpoint="iothub",priority="7"}"#;
    let received = r#"edgehub_messages_received_total{route_output="",id="/messages"}"#;
    let found = until(&agent, &[(length, 10.0), (received, 10.0), ("marram_upstream_refuses", 1.0)]).await;
    assert!(found[r#"marram_queue_bytes{endpoint="$upstream"}"#] > 1_000_000.0, "{found:#?}");
    assert_eq!(found["marram_message_log_max_bytes"], 16_777_216.0);
    let retried = r#"edgehub_operation_retry_total{id="device/$edgeHub",operation="SendMessageBatch"}"#;
    until_at_least(&agent, &[(retried, 1.0)]).await;
    world.upstream.down.store(false, SeqCst);
    until(&agent, &[(length, 0.0), ("marram_upstream_refuses", 0.0)]).await;
}

#[tokio::test]
async fn a_sender_that_is_refused_is_counted_with_the_reason() {
    let world = World::default();
    let large: &'static str = "x".repeat(200 << 10).leak();
    world.guest("a", sender(vec![("out", large); 8]));
    let agent = world.agent().await;
    // Nobody takes them: five fit into 1 MiB.
    let route = r#"{ "route": "FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/b/inputs/in\")", "marram": { "sendTimeout": "0s" } }"#;
    agent.apply(&manifest(&[("a", "{}")], &[route])).await.unwrap();
    let refused = r#"edgehub_messages_unack_total{reason="queue_full",from="device/a",from_route_output="out"}"#;
    let failed = r#"edgehub_messages_unack_total{reason="storage_failure",from="device/a",from_route_output="out"}"#;
    let received = r#"edgehub_messages_received_total{route_output="out",id="device/a"}"#;
    until(&agent, &[(refused, 3.0), (failed, 0.0), (received, 5.0)]).await;
}

#[tokio::test]
async fn what_a_removed_queue_has_given_up_stays_counted() {
    let world = World::default();
    world.guest("a", sender(vec![("out", "1"), ("out", "2"), ("other", "3")]));
    world.handler("b", |_, _| Ok(Settlement::Reject("no".into())));
    let agent = world.agent().await;
    let to = |module: &str| {
        format!(r#""FROM /messages/modules/a/outputs/out INTO BrokeredEndpoint(\"/modules/{module}/inputs/in\")""#)
    };
    let away = r#""FROM /messages/modules/a/outputs/other INTO BrokeredEndpoint(\"/modules/away/inputs/in\")""#;
    let modules = [("a", "{}"), ("b", "{}")];
    agent.apply(&manifest(&modules, &[&to("b"), away])).await.unwrap();
    let rejected = r#"edgehub_messages_dropped_total{reason="rejected",from="device/a",from_route_output="out"}"#;
    until(&agent, &[(rejected, 2.0)]).await;
    agent.apply(&manifest(&modules, &[])).await.unwrap();
    let removed =
        r#"edgehub_messages_dropped_total{reason="endpoint_removed",from="device/a",from_route_output="other"}"#;
    let unseen = r#"edgehub_messages_dropped_total{reason="endpoint_removed",from="",from_route_output=""}"#;
    let found = until(&agent, &[(rejected, 2.0), (removed, 1.0), (unseen, 0.0)]).await;
    assert!(!found.keys().any(|name| name.starts_with("edgehub_queue_length")), "{found:#?}");
}

#[tokio::test]
async fn starts_stops_updates_and_time_of_modules_are_counted() {
    let world = World::default();
    world.guest("a", Guest::default());
    let agent = world.agent().await;
    let with = |keys: &str| manifest(&[("a", keys)], &[]);
    agent.apply(&with(r#"{ "version": "1" }"#)).await.unwrap();
    let count = |what: &str, version: &str| {
        format!(r#"edgeAgent_module_{what}_total{{module_name="a",module_version="{version}"}}"#)
    };
    let running = ("edgehub_connected_clients", 1.0);
    let (starts, stops, updates) = (count("start", "1"), count("stop", "1"), count("prepare_update", "1"));
    until(&agent, &[(&starts, 1.0), (&stops, 0.0), (&updates, 0.0), running]).await;
    agent.restart("a").await.unwrap();
    until(&agent, &[(&starts, 2.0), (&stops, 1.0), (&updates, 0.0), running]).await;
    // Text from the manifest, which must not break the page.
    let version = r#"2 \" } 9\n"#;
    agent.apply(&with(&format!(r#"{{ "version": "{version}" }}"#))).await.unwrap();
    let (starts, stops) = (count("start", version), count("stop", version));
    let updates = count("prepare_update", version);
    until(&agent, &[(&starts, 3.0), (&stops, 2.0), (&updates, 1.0), running]).await;
    let was_up = r#"edgeAgent_total_time_running_correctly_seconds{module_name="a"}"#;
    let wanted = r#"edgeAgent_total_time_expected_running_seconds{module_name="a"}"#;
    let before = samples(&agent).await;
    assert!(before[was_up] <= before[wanted], "{before:#?}");
    tokio::time::sleep(Duration::from_millis(20)).await; // what is measured, not waited for
    let later = samples(&agent).await;
    assert!(later[was_up] > before[was_up] && later[wanted] > before[wanted]);
    agent.apply(&with(r#"{ "version": "2", "status": "stopped" }"#)).await.unwrap();
    until(&agent, &[("edgehub_connected_clients", 0.0)]).await;
    let stopped = samples(&agent).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let later = samples(&agent).await;
    assert_eq!((later[was_up], later[wanted]), (stopped[was_up], stopped[wanted]), "it does not go on");
}

#[tokio::test]
async fn what_is_reported_is_counted_where_it_is_stored_and_where_it_is_taken_and_so_is_what_is_tried_again() {
    let world = World::default();
    world.cloud.down.store(true, SeqCst);
    world.guest("m", Guest { exports: Exports { twin: true, ..Exports::default() }, ..Guest::default() });
    world.guest("a", sender(vec![("out", "1")]));
    world.handler("b", |_, delivery| match delivery.attempt {
        1 => Ok(Settlement::Retry(Some(Duration::ZERO))),
        _ => Ok(Settlement::Done),
    });
    let agent = world.agent().await;
    // One that answers its desired properties, which is a report, and two that report nothing.
    agent.apply(&manifest(&[("m", "{}"), ("a", "{}"), ("b", "{}")], &[A_TO_B])).await.unwrap();
    let count = |target: &str| format!(r#"edgehub_reported_properties_total{{target="{target}",id="device/m"}}"#);
    let took = |target: &str, end: &str| {
        format!(r#"edgehub_reported_properties_update_duration_seconds{end}{{target="{target}",id="device/m""#)
    };
    let retried = |id: &str, operation: &str| {
        format!(r#"edgehub_operation_retry_total{{id="device/{id}",operation="{operation}"}}"#)
    };
    let (here, up) = (count("edge_hub"), count("upstream"));
    let (fetched, reported) = (retried("m", "GetTwin"), retried("m", "UpdateReportedProperties"));
    let delivered = retried("b", "SendMessage");
    until_at_least(&agent, &[(&reported, 1.0)]).await;
    agent.upstream_event(UpstreamEvent::Connected).await;
    until_at_least(&agent, &[(&fetched, 1.0)]).await;
    let found = until(&agent, &[(&here, 1.0), (&delivered, 1.0)]).await;
    assert!(!found.contains_key(&up), "{found:#?}");
    assert!(!found.keys().any(|name| name.starts_with("edgehub_reported") && name.contains("device/a")), "{found:#?}");
    world.cloud.down.store(false, SeqCst);
    let counted = took("upstream", "_count") + "}";
    let found = until(&agent, &[(&up, 1.0), (&counted, 1.0), (&here, 1.0)]).await;
    for target in ["edge_hub", "upstream"] {
        let quantile = took(target, "") + r#",quantile="0.5"}"#;
        assert!(found.get(&quantile).is_some_and(|seconds| (0.0..10.0).contains(seconds)), "{found:#?}");
    }
}
