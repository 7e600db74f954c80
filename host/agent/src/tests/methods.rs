use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use marram_core::{
    methods::{InvokeError, MethodRequest, MethodResponse, Timeouts},
    ports::{BoxFuture, DirectMethods, Exit, Exports, ModuleHost, Sent, Settlement},
};
use tokio::sync::Semaphore;

use super::{
    lifetime::until,
    worlds::{DEADLINE, Guest, Method, World, manifest, message, text},
};
use crate::Agent;

const A_TO_B: &str = r#""FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#;
/// Long enough for all that is to happen in it.
const LONG: u64 = 60;

type Answer = Result<MethodResponse, InvokeError>;

fn call(name: &str, response: u64, connect: u64) -> MethodRequest {
    let seconds = |n| Some(Duration::from_secs(n));
    MethodRequest::new(name, "", Timeouts { response: seconds(response), connect: seconds(connect) }).unwrap()
}

/// Calls in a task of its own.
fn calling(agent: &Arc<Agent>, target: &'static str, request: MethodRequest) -> tokio::task::JoinHandle<Answer> {
    let agent = agent.clone();
    tokio::spawn(async move { agent.invoke(target, request).await })
}

async fn waits(agent: &Agent, target: &str, calls: usize) {
    let mailbox = agent.method_box(target);
    let all = async {
        while mailbox.waiting() != calls {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap_or_else(|_| panic!("{} calls wait", mailbox.waiting()));
}

fn ok(answer: Answer) -> i32 {
    answer.unwrap().status
}

fn listening() -> Guest {
    Guest { exports: Exports { method: true, ..Exports::default() }, ..Guest::default() }
}

fn method(
    method: impl Fn(Arc<dyn ModuleHost>, String, String) -> BoxFuture<'static, Result<(i32, String), Exit>>
    + Send
    + Sync
    + 'static,
) -> Arc<Method> {
    Arc::new(method)
}

#[tokio::test]
async fn a_call_waits_for_the_running_handler_and_goes_before_the_messages_that_wait() {
    let world = World::default();
    let sender = Guest {
        exports: Exports { start: true, ..Exports::default() },
        start: Arc::new(|host: &dyn ModuleHost| {
            for n in 0..10 {
                assert!(matches!(host.try_send("out", &message(&n.to_string())), Sent::Accepted(_)));
            }
            Ok(Ok(()))
        }),
        ..Guest::default()
    };
    world.guest("a", sender);
    let gate = Arc::new(Semaphore::new(0));
    let (log, of_methods, entered) = (world.log.clone(), world.log.clone(), gate.clone());
    let handler: Arc<super::worlds::Handler> = Arc::new(move |_, delivery| {
        let (text, log, gate) = (text(&delivery.accepted.message), log.clone(), entered.clone());
        Box::pin(async move {
            log.push(format!("begins {text}"));
            if text == "3" {
                gate.acquire().await.unwrap().forget();
            }
            log.push(format!("ends {text}"));
            Ok(Settlement::Done)
        })
    });
    let called = method(move |_, name, _| {
        of_methods.push(format!("call {name}"));
        Box::pin(async { Ok((200, String::new())) })
    });
    let exports = Exports { input: true, method: true, ..Exports::default() };
    world.guest("b", Guest { exports, handler, method: called, ..Guest::default() });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[A_TO_B])).await.unwrap();
    world.log.until("the handler is busy", |lines| lines.contains(&"begins 3".into())).await;
    let mut calls = Vec::new();
    for (n, name) in ["x", "y", "z"].into_iter().enumerate() {
        calls.push(calling(&agent, "b", call(name, LONG, 0)));
        waits(&agent, "b", n + 1).await;
    }
    gate.add_permits(1);
    for call in calls {
        assert_eq!(ok(call.await.unwrap()), 200);
    }
    let lines = world.log.until("all", |lines| lines.contains(&"ends 9".into())).await;
    let from = lines.iter().position(|line| line == "begins 3").unwrap();
    let expected = ["begins 3", "ends 3", "call x", "call y", "call z", "begins 4", "ends 4"];
    assert_eq!(lines[from..from + expected.len()], expected);
}

#[tokio::test]
async fn calls_without_end_do_not_keep_messages_away() {
    let world = World::default();
    world.guest(
        "a",
        Guest {
            exports: Exports { start: true, ..Exports::default() },
            start: Arc::new(|host: &dyn ModuleHost| {
                (0..5).for_each(|n| drop(host.try_send("out", &message(&n.to_string()))));
                Ok(Ok(()))
            }),
            ..Guest::default()
        },
    );
    let log = world.log.clone();
    let handler: Arc<super::worlds::Handler> = Arc::new(move |_, delivery| {
        log.push(format!("handled {}", text(&delivery.accepted.message)));
        Box::pin(async { Ok(Settlement::Done) })
    });
    // There is always another: each call brings the next.
    let agent: Arc<Mutex<Option<Arc<Agent>>>> = Arc::default();
    let own = agent.clone();
    let called = method(move |_, _, _| {
        if let Some(agent) = &*own.lock().unwrap() {
            drop(calling(agent, "b", call("next", LONG, 0)));
        }
        Box::pin(async {
            // So that it waits when this one returns.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            Ok((200, String::new()))
        })
    });
    let exports = Exports { input: true, method: true, ..Exports::default() };
    world.guest("b", Guest { exports, handler, method: called, ..Guest::default() });
    let running = world.agent().await;
    *agent.lock().unwrap() = Some(running.clone());
    running.apply(&manifest(&[("b", "{}")], &[A_TO_B])).await.unwrap();
    until(&running, "b", "running").await;
    drop(calling(&running, "b", call("first", LONG, 0)));
    running.apply(&manifest(&[("a", "{}"), ("b", "{}")], &[A_TO_B])).await.unwrap();
    world.log.until("all handled", |lines| lines.contains(&"handled 4".into())).await;
    assert!(running.calls_of("b") > 0, "calls were answered meanwhile");
    agent.lock().unwrap().take();
}

#[tokio::test]
async fn whoever_does_not_run_is_waited_for_as_long_as_the_connect_time_says() {
    let world = World::default();
    world.guest("b", listening());
    let agent = world.agent().await;
    let of = |status: &str| manifest(&[("b", &format!(r#"{{"status":"{status}"}}"#))], &[]);
    assert_eq!(agent.invoke("b", call("m", 5, 0)).await, Err(InvokeError::Unknown("b".into())));
    agent.apply(&of("stopped")).await.unwrap();
    let not_running = |seconds| InvokeError::NotRunning { module: "b".into(), connect: Duration::from_secs(seconds) };
    assert_eq!(agent.invoke("b", call("m", 5, 0)).await, Err(not_running(0)));
    assert_eq!(agent.invoke("b", call("m", 5, 1)).await, Err(not_running(1)));
    let waiting = calling(&agent, "b", call("m", LONG, LONG));
    waits(&agent, "b", 1).await;
    agent.apply(&of("running")).await.unwrap();
    assert_eq!(ok(waiting.await.unwrap()), 200);

    agent.apply(&of("stopped")).await.unwrap();
    until(&agent, "b", "stopped").await;
    let waiting = calling(&agent, "b", call("m", LONG, LONG));
    waits(&agent, "b", 1).await;
    agent.apply(&manifest(&[], &[])).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Err(InvokeError::Unknown("b".into())), "it will not come");
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_given_up_and_the_handler_runs_on() {
    let world = World::default();
    let gate = Arc::new(Semaphore::new(0));
    let (log, entered) = (world.log.clone(), gate.clone());
    let called = method(move |_, name, _| {
        let (log, gate) = (log.clone(), entered.clone());
        Box::pin(async move {
            log.push(format!("begins {name}"));
            gate.acquire().await.unwrap().forget();
            log.push(format!("ends {name}"));
            Ok((200, name))
        })
    });
    world.guest("b", Guest { method: called, ..listening() });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("b", "{}")], &[])).await.unwrap();
    let slow = calling(&agent, "b", call("slow", 5, LONG));
    world.log.until("it runs", |lines| lines.contains(&"begins slow".into())).await;
    let queued = calling(&agent, "b", call("queued", 5, LONG));
    let timeout = Err(InvokeError::Timeout { module: "b".into(), response: Duration::from_secs(5) });
    assert_eq!(slow.await.unwrap(), timeout);
    assert_eq!(queued.await.unwrap(), timeout);
    gate.add_permits(2);
    let next = agent.invoke("b", call("next", LONG, 0)).await.unwrap();
    assert_eq!((next.status, next.payload.contains("not JSON")), (500, true), "{next:?}");
    let lines = world.log.lines();
    assert_eq!(
        lines[1..],
        ["begins slow", "ends slow", "begins next", "ends next"],
        "what nobody waits for is not begun"
    );
}

#[tokio::test]
async fn whoever_has_waited_for_a_module_to_run_waits_for_its_answer_no_longer_than_he_said() {
    let world = World::default();
    world.guest("b", Guest { method: method(|_, _, _| Box::pin(std::future::pending())), ..listening() });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("b", r#"{"status":"stopped"}"#)], &[])).await.unwrap();
    let waiting = calling(&agent, "b", call("m", 5, LONG));
    waits(&agent, "b", 1).await;
    agent.apply(&manifest(&[("b", "{}")], &[])).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(LONG / 2), waiting).await.expect("within five seconds");
    assert_eq!(answer.unwrap(), Err(InvokeError::Timeout { module: "b".into(), response: Duration::from_secs(5) }));
}

#[tokio::test]
async fn a_module_without_a_handler_of_methods_answers_501() {
    let world = World::default();
    world.guest("handler", Guest::default());
    let program = Guest { exports: Exports { run: true, ..Exports::default() }, ..Guest::default() };
    world.guest("program", program.clone());
    world.guest("receiver", Guest { inbox: true, ..program });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("handler", "{}"), ("program", "{}"), ("receiver", "{}")], &[])).await.unwrap();
    for module in ["handler", "program", "receiver"] {
        let answer = agent.invoke(module, call("m", 5, LONG)).await.unwrap();
        assert!(answer.status == 501 && answer.payload.contains("method-handler"), "{module} {answer:?}");
    }
}

#[tokio::test]
async fn a_trap_is_status_500_and_those_behind_wait_for_the_next_instance() {
    let world = World::default();
    let gate = Arc::new(Semaphore::new(0));
    let entered = gate.clone();
    let called = method(move |_, name, _| {
        let gate = entered.clone();
        Box::pin(async move {
            if name == "trap" {
                gate.acquire().await.unwrap().forget();
                return Err(Exit::new(Exit::TRAP, "unreachable executed"));
            }
            Ok((200, String::new()))
        })
    });
    world.guest("b", Guest { method: called, ..listening() });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("b", "{}")], &[])).await.unwrap();
    let trap = calling(&agent, "b", call("trap", LONG, LONG));
    until(&agent, "b", "running").await;
    waits(&agent, "b", 0).await;
    let hasty = calling(&agent, "b", call("hasty", LONG, 0));
    waits(&agent, "b", 1).await;
    let patient = calling(&agent, "b", call("patient", LONG, LONG));
    waits(&agent, "b", 2).await;
    gate.add_permits(1);
    let answer = trap.await.unwrap().unwrap();
    assert!(answer.status == 500 && answer.payload.contains("unreachable executed"), "{answer:?}");
    assert!(matches!(hasty.await.unwrap(), Err(InvokeError::NotRunning { .. })));
    until(&agent, "b", "backoff").await;
    agent.restart("b").await.unwrap();
    assert_eq!(ok(patient.await.unwrap()), 200);
}

#[tokio::test]
async fn whoever_waits_for_itself_in_a_circle_is_told_at_once() {
    let world = World::default();
    // Each passes the call on to the module that it is named after: `a` to `b`, `b` to `c`, `c` to `a`.
    for (name, next) in [("a", "b"), ("b", "c"), ("c", "a"), ("d", "d"), ("e", "$edgeAgent"), ("f", "nobody")] {
        let passes = method(move |host, name, _| {
            Box::pin(async move {
                match host.invoke(next.into(), call(&name, LONG, 0)).await {
                    Ok(answer) => Ok((answer.status, answer.payload)),
                    Err(error) => Ok((error.status().into(), format!("\"{error}\""))),
                }
            })
        });
        world.guest(name, Guest { method: passes, ..listening() });
    }
    let agent = world.agent().await;
    let modules = ["a", "b", "c", "d", "e", "f"].map(|name| (name, "{}"));
    agent.apply(&manifest(&modules, &[])).await.unwrap();
    for (target, expected) in [
        ("a", (403, "\"modules would wait for each other: c → a → b → c\"")),
        ("d", (403, "\"modules would wait for each other: d → d\"")),
        ("e", (403, "\"`$edgeAgent` is the host's: the operator and the cloud may call it, modules may not\"")),
        ("f", (404, "\"there is no module `nobody` in the deployment; `marram list` shows the names\"")),
    ] {
        for module in modules {
            until(&agent, module.0, "running").await;
        }
        let answer =
            tokio::time::timeout(DEADLINE, agent.invoke(target, call("m", LONG, LONG))).await.unwrap().unwrap();
        assert_eq!((answer.status, &*answer.payload), expected);
    }
}

/// Updates `b` amid a call: the statuses of that call, and of one that comes while the old version ends.
async fn update_amid_a_call(new: Guest) -> (i32, i32) {
    let world = World::default();
    let gate = Arc::new(Semaphore::new(0));
    let entered = gate.clone();
    let old = method(move |_, _, _| {
        let gate = entered.clone();
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Ok((1, String::new()))
        })
    });
    world.guest("old", Guest { method: old, ..listening() });
    world.guest("new", new);
    let agent = world.agent().await;
    agent.apply(&manifest(&[("b", &of_image("old"))], &[])).await.unwrap();
    let by_old = calling(&agent, "b", call("m", LONG, LONG));
    until(&agent, "b", "running").await;
    waits(&agent, "b", 0).await;
    agent.apply(&manifest(&[("b", &of_image("new"))], &[])).await.unwrap();
    // The old one is asked to end once the new one is up; it ends after its call.
    until(&agent, "b", "stopping").await;
    let by_new = calling(&agent, "b", call("m", LONG, 0));
    waits(&agent, "b", 1).await;
    gate.add_permits(1);
    (ok(by_old.await.unwrap()), ok(by_new.await.unwrap()))
}

fn of_image(image: &str) -> String {
    format!(r#"{{"settings":{{"image":"{image}"}}}}"#)
}

#[tokio::test]
async fn during_an_update_calls_wait_for_the_new_version_and_none_is_refused() {
    let answers = method(|_, _, _| Box::pin(async { Ok((2, String::new())) }));
    assert_eq!(update_amid_a_call(Guest { method: answers, ..listening() }).await, (1, 2));
}

#[tokio::test]
async fn an_update_that_answers_is_waited_for_where_the_old_version_does_not() {
    let world = World::default();
    let gate = Arc::new(Semaphore::new(0));
    let (log, entered) = (world.log.clone(), gate.clone());
    let handler: Arc<super::worlds::Handler> = Arc::new(move |_, _| {
        let gate = entered.clone();
        log.push("busy");
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Ok(Settlement::Done)
        })
    });
    world.guest("old", Guest { handler, ..Guest::default() });
    world.guest("new", listening());
    let agent = world.agent().await;
    let route = r#""FROM /messages INTO BrokeredEndpoint(\"/modules/b/inputs/in\")""#;
    let of = |image: &str| manifest(&[("b", &of_image(image))], &[route]);
    agent.apply(&of("old")).await.unwrap();
    until(&agent, "b", "running").await;
    assert_eq!(ok(agent.invoke("b", call("m", LONG, LONG)).await), 501);
    agent.publish("/messages", &message("x")).await.unwrap();
    world.log.until("it is busy", |lines| lines.contains(&"busy".into())).await;
    agent.apply(&of("new")).await.unwrap();
    until(&agent, "b", "stopping").await;
    let waiting = calling(&agent, "b", call("m", LONG, 0));
    waits(&agent, "b", 1).await;
    gate.add_permits(1);
    assert_eq!(ok(waiting.await.unwrap()), 200);
}

#[tokio::test]
async fn a_call_in_whose_middle_the_module_is_cut_off_is_status_500() {
    let world = World::default();
    world.guest("b", Guest { method: method(|_, _, _| Box::pin(std::future::pending())), ..listening() });
    let agent = world.agent().await;
    agent.apply(&manifest(&[("b", "{}"), ("never-ran", r#"{"status":"stopped"}"#)], &[])).await.unwrap();
    let stuck = calling(&agent, "b", call("m", LONG, LONG));
    until(&agent, "b", "running").await;
    waits(&agent, "b", 0).await;
    let queued = calling(&agent, "b", call("m", LONG, LONG));
    waits(&agent, "b", 1).await;
    agent.shut_down(Duration::from_millis(100)).await;
    let answer = stuck.await.unwrap().unwrap();
    assert!(answer.status == 500 && answer.payload.contains("stopped in the middle"), "{answer:?}");
    assert_eq!(queued.await.unwrap(), Err(InvokeError::Stopping), "nobody will come");
    for module in ["b", "never-ran"] {
        let late = tokio::time::timeout(DEADLINE, agent.invoke(module, call("m", LONG, LONG))).await;
        assert_eq!(late, Ok(Err(InvokeError::Stopping)), "{module}");
    }
}

#[tokio::test]
async fn more_calls_than_may_wait_are_refused() {
    let world = World::default();
    world.guest("b", listening());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("b", r#"{"status":"stopped"}"#)], &[])).await.unwrap();
    let mut calls: Vec<_> = (0..32).map(|_| calling(&agent, "b", call("m", LONG, LONG))).collect();
    waits(&agent, "b", 32).await;
    assert_eq!(agent.invoke("b", call("m", LONG, LONG)).await, Err(InvokeError::Busy("b".into())));
    calls.pop().unwrap().abort();
    waits(&agent, "b", 31).await;
    agent.apply(&manifest(&[("b", "{}")], &[])).await.unwrap();
    for call in calls {
        assert_eq!(ok(call.await.unwrap()), 200);
    }
}

#[tokio::test]
async fn edge_agent_keeps_to_the_response_time_and_reads_logs_for_one_call_at_a_time() {
    let world = World::default();
    let agent = world.agent().await;
    let logs = || {
        MethodRequest::new(
            "GetModuleLogs",
            r#"{"items":{"id":"all"}}"#,
            Timeouts { response: Some(Duration::from_secs(5)), connect: None },
        )
    };
    let other = agent.log_turn().acquire_owned().await.unwrap();
    let timeout = InvokeError::Timeout { module: "$edgeAgent".into(), response: Duration::from_secs(5) };
    assert_eq!(agent.invoke("$edgeAgent", logs().unwrap()).await, Err(timeout));
    assert_eq!(ok(agent.invoke("$edgeAgent", call("ping", 5, 0)).await), 200, "others do not wait");
    drop(other);
    let answer = agent.invoke("$edgeAgent", logs().unwrap()).await.unwrap();
    assert_eq!((answer.status, &*answer.payload), (200, "[]"));
    assert_eq!(agent.log_turn().available_permits(), 1);
}

#[tokio::test]
async fn a_module_that_is_to_end_waits_for_no_answer() {
    let world = World::default();
    let log = world.log.clone();
    let calls = method(move |host, _, _| {
        let log = log.clone();
        Box::pin(async move {
            log.push(format!("first {:?}", host.invoke("b".into(), call("m", LONG, 300)).await));
            log.push(format!("then {:?}", host.invoke("b".into(), call("m", LONG, 300)).await));
            Ok((200, String::new()))
        })
    });
    world.guest("a", Guest { method: calls, ..listening() });
    world.guest("b", listening());
    let agent = world.agent().await;
    let of = |status: &str| {
        let a = format!(r#"{{"status":"{status}"}}"#);
        manifest(&[("a", &a), ("b", r#"{"status":"stopped"}"#)], &[])
    };
    agent.apply(&of("running")).await.unwrap();
    let asked = calling(&agent, "a", call("m", LONG, LONG));
    waits(&agent, "b", 1).await;
    agent.apply(&of("stopped")).await.unwrap();
    world.log.until("both end", |lines| lines.contains(&"then Err(Stopping)".into())).await;
    assert!(world.log.lines().contains(&"first Err(Stopping)".into()));
    assert_eq!(ok(asked.await.unwrap()), 200, "it ends after its call");
}

#[tokio::test]
async fn a_call_that_its_caller_gives_up_is_counted() {
    let world = World::default();
    world.guest("b", listening());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("b", r#"{"status":"stopped"}"#)], &[])).await.unwrap();
    let given_up = calling(&agent, "b", call("m", LONG, LONG));
    waits(&agent, "b", 1).await;
    assert_eq!(agent.calls_of("b"), 0, "it has not ended");
    given_up.abort();
    assert!(given_up.await.unwrap_err().is_cancelled());
    assert_eq!(agent.calls_of("b"), 1);
}

#[tokio::test]
async fn a_call_on_its_way_to_a_module_that_is_removed_is_refused() {
    let world = World::default();
    world.guest("b", listening());
    let agent = world.agent().await;
    agent.apply(&manifest(&[("b", "{}")], &[])).await.unwrap();
    let found = agent.method_box("b");
    agent.apply(&manifest(&[], &[])).await.unwrap();
    assert_eq!(found.call(call("m", LONG, LONG)).await, Err(InvokeError::Unknown("b".into())));
    agent.apply(&manifest(&[("b", "{}")], &[])).await.unwrap();
    assert_eq!(ok(found.call(call("m", LONG, LONG)).await), 200, "it is there again");
}

#[tokio::test]
async fn an_update_to_a_version_that_takes_no_calls_leaves_no_gap() {
    let program = Exports { run: true, ..Exports::default() };
    for exports in [Guest::default().exports, program] {
        assert_eq!(update_amid_a_call(Guest { exports, ..Guest::default() }).await, (1, 501));
    }
}

#[tokio::test]
async fn an_update_may_call_whoever_calls_the_version_that_is_in_charge() {
    let world = World::default();
    let starts = Arc::new(Semaphore::new(0));
    let log = world.log.clone();
    let start: Arc<super::worlds::Start> = Arc::new(move |host: &dyn ModuleHost| {
        let (answer, log) = (host.invoke("b".into(), call("m", LONG, 0)), log.clone());
        tokio::spawn(async move { log.push(format!("{:?}", answer.await.map(|answer| answer.status))) });
        Ok(Ok(()))
    });
    world.guest("old", listening());
    let exports = Exports { start: true, method: true, ..Exports::default() };
    world.guest("new", Guest { exports, start, starts: Some(starts.clone()), ..Guest::default() });
    let passes = method(|host, _, _| {
        Box::pin(async move {
            match host.invoke("a".into(), call("m", LONG, 0)).await {
                Ok(answer) => Ok((answer.status, answer.payload)),
                Err(error) => Ok((error.status().into(), String::new())),
            }
        })
    });
    world.guest("b", Guest { method: passes, ..listening() });
    let agent = world.agent().await;
    let of = |image: &str| manifest(&[("a", &of_image(image)), ("b", "{}")], &[]);
    agent.apply(&of("old")).await.unwrap();
    until(&agent, "a", "running").await;
    until(&agent, "b", "running").await;
    agent.apply(&of("new")).await.unwrap();
    world.log.until("the new one is answered", |lines| lines.contains(&"Ok(200)".into())).await;
    starts.add_permits(1);
}
