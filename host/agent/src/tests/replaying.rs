//! A dead letter that is sent again is delivered as the routes in force say.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    time::Duration,
};

use marram_core::{message::Message, ports::Settlement};

use super::{
    metrics::until,
    storing::queue_with,
    worlds::{World, manifest_with, message, text},
};
use crate::Agent;

const REJECT: u8 = 0;
const RETRY: u8 = 1;

/// The routes into the input: one for what is urgent, with further keys; one for what is not.
fn routes(urgent: &str) -> [String; 2] {
    let route = |kind: &str| format!(r#"FROM /messages WHERE {kind} INTO BrokeredEndpoint('/modules/b/inputs/in')"#);
    let (urgent_route, other) = (route("kind = 'u'"), route("kind = 'o'"));
    [format!(r#"{{ "route": "{urgent_route}", {urgent} }}"#), format!(r#""{other}""#)]
}

fn manifest(status: &str, routes: &[String]) -> String {
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
    manifest_with("crash", &[("b", &format!(r#"{{"status":"{status}"}}"#))], &routes)
}

fn of_kind(kind: &str, text: &str) -> Arc<Message> {
    let mut made = Message::clone(&message(text));
    made.set_property("kind", kind);
    Arc::new(made)
}

/// A dead letter that the urgent route has brought, and a receiver that does with messages what the number says.
async fn scene() -> (World, Arc<Agent>, Arc<AtomicU8>) {
    let (world, deed) = (World::default(), Arc::new(AtomicU8::new(REJECT)));
    let (log, told) = (world.log.clone(), deed.clone());
    world.handler("b", move |_, delivery| {
        log.push(format!("{} {}", text(&delivery.accepted.message), delivery.attempt));
        Ok(match told.load(SeqCst) {
            REJECT => Settlement::Reject("no".into()),
            _ => Settlement::Retry(Some(Duration::ZERO)),
        })
    });
    let agent = world.agent().await;
    agent.apply(&manifest("running", &routes(r#""priority": 7"#))).await.unwrap();
    agent.publish("/messages", &of_kind("u", "letter")).await.unwrap();
    until(&agent, &[("marram_dead_letters", 1.0)]).await;
    (world, agent, deed)
}

async fn replay_only(agent: &Agent) {
    let [letter] = &agent.dead_letters(None).await.unwrap().letters[..] else { panic!("one") };
    agent.replay_dead_letter(letter.id).await.unwrap();
}

const URGENT: &str = r#"edgehub_queue_length{endpoint="device/b/in",priority="3"}"#;
const PLAIN: &str = r#"edgehub_queue_length{endpoint="device/b/in",priority="2000000000"}"#;

#[tokio::test]
async fn a_replay_has_the_priority_and_the_attempts_of_the_route_that_leads_it_there_now() {
    let (world, agent, deed) = scene().await;
    let now = routes(r#""priority": 3, "marram": { "maxAttempts": 2 }"#);
    agent.apply(&manifest("stopped", &now)).await.unwrap();
    agent.publish("/messages", &of_kind("o", "other")).await.unwrap();
    replay_only(&agent).await;
    until(&agent, &[(URGENT, 1.0), (PLAIN, 1.0)]).await;
    deed.store(RETRY, SeqCst);
    agent.apply(&manifest("running", &now)).await.unwrap();
    until(&agent, &[("marram_dead_letters", 2.0)]).await;
    let lines: Vec<_> = world.log.lines().into_iter().filter(|line| !line.starts_with("start")).collect();
    assert_eq!(lines[..2], ["letter 1", "letter 1"], "before the other one, its attempts begin anew");
    let of_letter: Vec<_> = lines[1..].iter().filter(|line| line.starts_with("letter")).collect();
    assert_eq!(of_letter, ["letter 1", "letter 2"]);
    let of_other = lines.iter().filter(|line| line.starts_with("other")).count();
    assert_eq!(of_other, 20, "its route says nothing");
    let letters = agent.dead_letters(None).await.unwrap().letters;
    assert!(letters.iter().all(|letter| letter.reason == "max_attempts"), "{letters:?}");
}

#[tokio::test]
async fn a_replay_has_the_time_to_live_of_that_route_anew() {
    let (world, agent, _) = scene().await;
    // Longer than the first one lived, so it would have been over if it had gone on.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let now = routes(r#""timeToLiveSecs": 1"#);
    agent.apply(&manifest("stopped", &now)).await.unwrap();
    replay_only(&agent).await;
    tokio::time::sleep(Duration::from_millis(600)).await; // what is tested is that time passes
    assert_eq!(queue_with(&agent, |_| true).await.length, 1, "it lives on");
    tokio::time::sleep(Duration::from_millis(500)).await;
    agent.apply(&manifest("running", &now)).await.unwrap();
    let queue = queue_with(&agent, |queue| queue.length == 0).await;
    assert_eq!(queue.dropped, [("rejected".into(), 1), ("ttl_expiry".into(), 1)].into());
    assert_eq!(world.log.lines().iter().filter(|line| line.starts_with("letter")).count(), 1, "it did not come again");
}

#[tokio::test]
async fn a_replay_that_no_route_leads_there_goes_as_by_a_route_that_says_nothing() {
    let (_world, agent, _) = scene().await;
    // Only the other route leads to the receiver now.
    agent.apply(&manifest("stopped", &routes(r#""priority": 3"#)[1..])).await.unwrap();
    replay_only(&agent).await;
    until(&agent, &[(PLAIN, 1.0)]).await;
    agent.apply(&manifest("stopped", &[])).await.unwrap();
    until(&agent, &[("marram_dead_letters", 1.0)]).await; // given up with its queue
    let [letter] = &agent.dead_letters(None).await.unwrap().letters[..] else { panic!("one") };
    assert!(matches!(agent.replay_dead_letter(letter.id).await, Err(crate::DeadLetterError::NoRoute(_))));
}
