use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, atomic::AtomicU64},
    task::Poll,
    time::Duration,
};

use marram_core::{
    deployment::{DEFAULT_PRIORITY, Deployment, Durability, RouteOptions, RouteSpec},
    message::{MAX_MESSAGE_BYTES, Message},
    name::ModuleName,
    ports::{ModuleHost, ModuleInfo, SendError, Sent},
    route::Route,
};

use super::worlds::{MemoryDisk, Messages, message, open_log};
use crate::state::StateCells;
use crate::{
    clock::Clock,
    endpoint::INPUT_QUEUE_BYTES,
    link::{LinkParts, ModuleLink},
    logs::LogBuffer,
    methods::Methods,
    router::{BODIES_READ, Router},
    storage::Storage,
    twins::Twins,
};

/// A router with one route, live first, whose messages are in a log in this folder.
pub(super) async fn router_with(messages: &Messages, route: &str) -> Arc<Router> {
    let router = router_in(messages);
    let mut routes = deployment(&[(route, Duration::ZERO)]).routes.clone();
    routes[0].options.durability = Durability::Crash;
    routes[0].options.queue.live_first = true;
    router.apply(Arc::new(Deployment { routes, ..Deployment::default() })).await;
    router
}

fn deployment(routes: &[(&str, Duration)]) -> Arc<Deployment> {
    let spec = |(n, (text, send_timeout)): (usize, &(&str, Duration))| RouteSpec {
        name: n.to_string(),
        route: Route::parse(text).unwrap(),
        priority: DEFAULT_PRIORITY,
        time_to_live: None,
        options: RouteOptions {
            send_timeout: *send_timeout,
            durability: Durability::Memory,
            ..RouteOptions::default()
        },
    };
    Arc::new(Deployment { routes: routes.iter().enumerate().map(spec).collect(), ..Deployment::default() })
}

pub(super) async fn link(router: &Arc<Router>) -> ModuleLink {
    let name = ModuleName::new("m").unwrap();
    let clock = Clock::start();
    ModuleLink::new(LinkParts {
        info: ModuleInfo { device_id: "d".into(), module_id: name.clone(), deployment_version: 1, restart_count: 0 },
        clock,
        router: router.clone(),
        sequence: Arc::new(AtomicU64::new(0)),
        twin: Twins::new(Arc::new(MemoryDisk::default()), clock, None).cell(&name).await.unwrap(),
        state: StateCells::new(Arc::new(MemoryDisk::default())).cell(&name),
        methods: Arc::new(Methods::new(clock, router.clone())),
        hears_timers: true,
        has_durable_timers: false,
        stop: Arc::default(),
        received: Arc::default(),
        logs: Arc::new(LogBuffer::new(name, clock)),
    })
}

const TO_A: &str = "FROM /messages/* INTO BrokeredEndpoint(\"/modules/a/inputs/i\")";
const TO_B: &str = "FROM /messages/* INTO BrokeredEndpoint(\"/modules/b/inputs/i\")";
const AT_ONCE: Duration = Duration::ZERO;

pub(super) async fn router(routes: &[(&str, Duration)]) -> Arc<Router> {
    let router = router_in(&Messages::default());
    router.apply(deployment(routes)).await;
    router
}

fn router_in(messages: &Messages) -> Arc<Router> {
    let (clock, removed) = (Clock::start(), Arc::default());
    let (log, _) = open_log(messages.path());
    let storage = Storage::start(Box::new(log), &[], clock, None, Arc::clone(&removed)).unwrap();
    Arc::new(Router::new(clock, 0, storage, removed))
}

fn len(router: &Router, module: &str) -> usize {
    router.inputs_of(module)[0].stats().len
}

/// Settles one message of `a`.
fn make_room(router: &Router) {
    let endpoint = &router.inputs_of("a")[0];
    let mut batch = endpoint.take(Clock::start().uptime(), 1);
    batch.settle_first(1);
    endpoint.finish(batch, Clock::start().uptime());
}

/// Goes on with a future once.
pub(super) async fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
}

#[tokio::test]
async fn a_message_without_a_route_is_accepted_counted_and_numbered() {
    let router = router(&[]).await;
    let link = link(&router).await;
    assert_eq!(link.try_send("o", &message("x")), Sent::Accepted(1));
    assert_eq!(link.try_send("o", &message("x")), Sent::Accepted(2));
    assert_eq!(router.sources().no_route(), 2);
}

#[tokio::test]
async fn a_message_goes_to_all_its_receivers_or_to_none() {
    let router = router(&[(TO_A, AT_ONCE), (TO_B, AT_ONCE)]).await;
    let link = link(&router).await;
    let big = message(&"x".repeat(MAX_MESSAGE_BYTES));
    let mut accepted = 0;
    while link.try_send("o", &big) == Sent::Accepted(accepted + 1) {
        accepted += 1;
    }
    assert_eq!((len(&router, "a"), len(&router, "b")), (accepted as usize, accepted as usize));
    // Make room in `a` only: `b` still refuses, so `a` must not get it either.
    make_room(&router);
    assert_eq!(link.try_send("o", &big), Sent::Refused(SendError::Full));
    assert_eq!((len(&router, "a"), len(&router, "b")), (accepted as usize - 1, accepted as usize));
    // The refused one took no number.
    router.apply(deployment(&[(TO_A, AT_ONCE)])).await;
    assert_eq!(link.try_send("o", &big), Sent::Accepted(accepted + 1));
}

#[tokio::test]
async fn two_routes_to_one_endpoint_make_one_copy() {
    let router = router(&[(TO_A, AT_ONCE), (TO_A, AT_ONCE)]).await;
    let link = link(&router).await;
    link.try_send("o", &message("x"));
    assert_eq!(len(&router, "a"), 1);
}

#[tokio::test]
async fn conditions_choose_the_receivers_of_each_message() {
    let routes = [
        ("FROM /* WHERE kind = 'a' INTO BrokeredEndpoint('/modules/a/inputs/i')", AT_ONCE),
        (
            "FROM /* WHERE kind = 'b' OR $connectionModuleId = 'm' AND kind = 'ab' INTO BrokeredEndpoint('/modules/b/inputs/i')",
            AT_ONCE,
        ),
        ("FROM /* WHERE kind = 'ab' INTO BrokeredEndpoint('/modules/a/inputs/i')", AT_ONCE),
    ];
    let router = router(&routes).await;
    let link = link(&router).await;
    for (kind, lengths) in [("a", (1, 0)), ("b", (1, 1)), ("ab", (2, 2)), ("c", (2, 2))] {
        let mut sent = marram_core::message::Message::default();
        sent.set_property("kind", kind);
        assert!(matches!(link.try_send("o", &Arc::new(sent)), Sent::Accepted(_)));
        assert_eq!((len(&router, "a"), len(&router, "b")), lengths, "{kind}");
    }
    assert_eq!(router.sources().no_route(), 1);
    router.apply(deployment(&[("FROM /* WHERE kind = 'x' INTO $upstream", AT_ONCE)])).await;
    assert_eq!(link.try_send("o", &message("y")), Sent::Accepted(5), "one receiver, and its condition is undefined");
    assert_eq!(router.sources().no_route(), 2);
}

/// How often conditions read a body until a message is accepted.
async fn readings(link: &ModuleLink, message: &Arc<Message>) -> usize {
    let before = BODIES_READ.get();
    match link.try_send("o", message) {
        Sent::Accepted(_) => {}
        Sent::Storing(storing) => assert!(storing.0.await.is_ok()),
        Sent::Wait => drop(link.send("o".into(), message.clone()).await.unwrap()),
        Sent::Refused(error) => panic!("{error}"),
    }
    BODIES_READ.get() - before
}

/// Two routes with conditions on the body.
const BY_BODY: [(&str, Duration); 2] = [
    ("FROM /* WHERE $body.a = 1 INTO BrokeredEndpoint('/modules/a/inputs/i')", Duration::from_secs(30)),
    ("FROM /* WHERE $body.a = 2 INTO BrokeredEndpoint('/modules/b/inputs/i')", Duration::from_secs(30)),
];

/// A message for the first of them.
pub(super) fn json(bytes: usize) -> Arc<Message> {
    let mut message = Message::new(format!(r#"{{"a":1,"long":"{}"}}"#, "x".repeat(bytes)).into());
    message.system_mut().content_type = Some("application/json".into());
    message.system_mut().content_encoding = Some("utf-8".into());
    Arc::new(message)
}

#[tokio::test]
async fn a_body_is_read_once_wherever_its_message_is_stored() {
    for durability in [Durability::Memory, Durability::Crash, Durability::Power] {
        for count in [1, 2] {
            let messages = Messages::default();
            let router = router_in(&messages);
            let mut routes = deployment(&BY_BODY[..count]).routes.clone();
            routes.iter_mut().for_each(|route| route.options.durability = durability);
            router.apply(Arc::new(Deployment { routes, ..Deployment::default() })).await;
            let link = link(&router).await;
            let json = json(10);
            // The first one finds a log that has no file yet, later ones of `crash` one that is idle.
            for n in 1..=5 {
                assert_eq!(readings(&link, &json).await, 1, "{durability:?}, {count} routes, message {n}");
            }
            assert_eq!(len(&router, "a"), 5);
        }
    }
}

#[tokio::test]
async fn a_body_is_read_once_by_a_sender_that_waits_for_room_but_anew_for_other_routes() {
    for count in [1, 2] {
        let router = router(&BY_BODY[..count]).await;
        let link = link(&router).await;
        let json = json(MAX_MESSAGE_BYTES / 2);
        while matches!(link.try_send("o", &json), Sent::Accepted(_)) {}
        let before = BODIES_READ.get(); // by the one that waits, too
        let mut waiting = pin!(link.send("o".into(), json.clone()));
        assert!(poll(&mut waiting).await.is_pending());
        make_room(&router);
        waiting.await.unwrap();
        assert_eq!(BODIES_READ.get(), before, "{count} routes");

        let mut waiting = pin!(link.send("o".into(), json.clone()));
        assert!(poll(&mut waiting).await.is_pending());
        router.apply(deployment(&[BY_BODY[1]])).await;
        waiting.await.unwrap();
        assert_eq!(BODIES_READ.get(), before + 2, "{count} routes");
        assert_eq!(len(&router, "b"), 0, "and goes where these lead");
    }
}

#[tokio::test]
async fn queues_are_bounded_by_bytes() {
    let router = router(&[(TO_A, AT_ONCE)]).await;
    let link = link(&router).await;
    while matches!(link.try_send("o", &message("")), Sent::Accepted(_)) {}
    let stats = router.inputs_of("a")[0].stats();
    assert!(stats.bytes <= INPUT_QUEUE_BYTES && stats.bytes > INPUT_QUEUE_BYTES - 200, "{}", stats.bytes);
}

#[tokio::test]
async fn a_sender_waits_for_room_and_gets_it() {
    let router = router(&[(TO_A, Duration::from_secs(30))]).await;
    let link = link(&router).await;
    let big = message(&"x".repeat(MAX_MESSAGE_BYTES / 2));
    while matches!(link.try_send("o", &big), Sent::Accepted(_)) {}
    let waiting = tokio::spawn(link.send("o".into(), big.clone()));
    tokio::task::yield_now().await;
    make_room(&router);
    let result = tokio::time::timeout(super::worlds::DEADLINE, waiting).await.unwrap().unwrap();
    assert!(result.is_ok(), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sender_hears_full_after_the_send_time_out_and_nothing_is_stored() {
    let router = router(&[(TO_A, Duration::from_secs(3))]).await;
    let link = link(&router).await;
    let big = message(&"x".repeat(MAX_MESSAGE_BYTES / 2));
    while matches!(link.try_send("o", &big), Sent::Accepted(_)) {}
    let before = len(&router, "a");
    let started = tokio::time::Instant::now();
    assert_eq!(link.send("o".into(), big).await, Err(SendError::Full));
    assert_eq!(started.elapsed().as_secs(), 3);
    assert_eq!(len(&router, "a"), before);
}

#[tokio::test]
async fn a_removed_endpoint_gives_up_what_waits_and_counts_it() {
    let router = router(&[(TO_A, AT_ONCE), (TO_B, AT_ONCE)]).await;
    let link = link(&router).await;
    link.try_send("o", &message("x"));
    let a = router.inputs_of("a")[0].clone();
    router.apply(deployment(&[(TO_B, AT_ONCE)])).await;
    assert_eq!(a.stats().given_up.totals(), [("endpoint_removed", 1)].into());
    assert_eq!(len(&router, "b"), 1, "the other queue stays as it is");
    assert!(matches!(link.try_send("o", &message("y")), Sent::Accepted(2)));
    assert_eq!(len(&router, "b"), 2);
}

#[tokio::test]
async fn bad_outputs_and_large_messages_are_refused_with_the_reason() {
    let router = router(&[]).await;
    let link = link(&router).await;
    assert!(
        matches!(link.try_send("a/b", &message("x")), Sent::Refused(SendError::Denied(why)) if why.contains("'/'"))
    );
    let large = message(&"x".repeat(MAX_MESSAGE_BYTES + 1));
    assert_eq!(link.try_send("o", &large), Sent::Refused(SendError::TooLarge(262_144)));
    link.close();
    assert_eq!(link.try_send("o", &message("x")), Sent::Refused(SendError::ShuttingDown));
}

#[tokio::test]
async fn senders_to_the_same_receivers_do_not_lock_each_other_out() {
    let router = router(&[(TO_A, AT_ONCE), (TO_B, AT_ONCE)]).await;
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let router = router.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let link = runtime.block_on(link(&router));
                for _ in 0..1000 {
                    assert!(matches!(link.try_send("o", &message("x")), Sent::Accepted(_)));
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    assert_eq!((len(&router, "a"), len(&router, "b")), (4000, 4000));
}

#[tokio::test]
async fn what_comes_from_no_module_goes_by_the_routes_in_force() {
    let router = router(&[(TO_A, AT_ONCE)]).await;
    let x = message("x");
    let publish = || router.publish("/messages/far", &x);
    publish().await.unwrap();
    router.publish("/messages/once", &x).await.unwrap();
    assert_eq!(len(&router, "a"), 2);
    let a = Arc::downgrade(&router.inputs_of("a")[0]);
    router.apply(deployment(&[(TO_B, AT_ONCE)])).await;
    publish().await.unwrap();
    assert_eq!(len(&router, "b"), 1);
    // Nothing that was found before keeps the old queue. The log's owner forgets it a moment later.
    let gone = async {
        while a.strong_count() > 0 {
            router.given_up();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("nobody keeps it");
}
