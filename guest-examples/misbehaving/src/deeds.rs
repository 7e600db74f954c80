//! Carries commands out. Some never return, which is their purpose.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    hint::black_box,
    io::{self, Write},
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    command::Command,
    marram::edge::{
        messaging::{self, SendError},
        methods::{self, CallOptions},
        twin,
        types::{Message, Nack},
    },
};
use serde_json::{Value, json};

thread_local! {
    /// Memory and handles that are never given back.
    static EATEN: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static KEPT: RefCell<Vec<Message>> = const { RefCell::new(Vec::new()) };
    /// With what its method `alive` answers.
    static HEALTH: Cell<i32> = const { Cell::new(200) };
}

/// Carries a command out; `msg` is the message that brought it, if one did.
pub(crate) fn carry_out(command: Command, msg: Option<Message>) -> Result<(), Nack> {
    match command {
        Command::Echo => return echo(msg),
        Command::Trap => trap(),
        Command::Panic => panic!("told to panic"),
        Command::Recurse => println!("recursed to {}", recurse(u64::MAX)),
        Command::Loop => run_for(None),
        Command::Spin { ms } => run_for(Some(Duration::from_millis(ms))),
        Command::Sleep { ms } => thread::sleep(Duration::from_millis(ms)),
        Command::Eat { mib } => eat(mib),
        Command::Keep { count, bytes } => keep(count, bytes),
        Command::Oversize { bytes } => say("oversize", send_new("out", &vec![b'x'; bytes as usize])),
        Command::Send { body } => say("send", send_new("out", body.as_bytes())),
        Command::Properties { count, bytes } => properties(count, bytes as usize),
        Command::Flood { count, bytes, output, receipts } => {
            let receipts = receipts.map(Receipts::open).transpose().map_err(|err| Nack::Reject(err.to_string()))?;
            flood(count, bytes as usize, &output, receipts);
        }
        Command::Log { lines, bytes } => (0..lines).for_each(|_| println!("{}", "x".repeat(bytes as usize))),
        Command::Exit { code } => std::process::exit(code),
        Command::Sick { status } => HEALTH.set(status),
        Command::Retry { ms } => return Err(Nack::RetryAfter(ms)),
        Command::Reject => return Err(Nack::Reject("told to reject".into())),
        Command::Invoke { target, name, payload, response_ms, connect_ms } => {
            println!("{}", json!({ "invoke": invoke(&target, &name, &payload, response_ms, connect_ms) }));
        }
    }
    Ok(())
}

/// Status and payload of its health.
pub(crate) fn health() -> (i32, String) {
    let status = HEALTH.get();
    (status, if status == 200 { String::new() } else { json!({ "message": "told to be sick" }).to_string() })
}

/// Calls a method; the outcome as JSON.
pub(crate) fn invoke(
    target: &str,
    name: &str,
    payload: &str,
    response_timeout_ms: Option<u64>,
    connect_timeout_ms: Option<u64>,
) -> Value {
    match methods::invoke(target, name, payload, CallOptions { response_timeout_ms, connect_timeout_ms }) {
        Ok(answer) => {
            let payload: Value = serde_json::from_str(&answer.payload).expect("the host hands out JSON");
            json!({ "status": answer.status, "payload": payload })
        }
        Err(error) => json!({ "error": format!("{error:?}") }),
    }
}

fn echo(msg: Option<Message>) -> Result<(), Nack> {
    let msg = msg.unwrap_or_else(|| Message::new(b"echo"));
    messaging::send("out", &msg).map(drop).map_err(|_| Nack::RetryAfter(None))
}

#[cfg(target_arch = "wasm32")]
fn trap() {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
fn trap() {
    std::process::abort()
}

/// Not a tail call: each level needs its frame after the deeper one returned.
#[allow(unconditional_recursion)]
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth - 1).wrapping_add(frame[(depth % 64) as usize])
}

/// Runs without a host call but the clock's; for ever without a limit, and then without even that.
fn run_for(limit: Option<Duration>) {
    let start = Instant::now();
    let mut turns = 0u64;
    while limit.is_none_or(|limit| start.elapsed() < limit) {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn eat(mib: u64) {
    for eaten in 1..=mib {
        EATEN.with_borrow_mut(|all| all.push(black_box(vec![1; 1 << 20])));
        if eaten % 16 == 0 {
            println!("ate {eaten} MiB");
        }
    }
    println!("ate {mib} MiB and lives");
}

fn keep(count: u64, bytes: u64) {
    let body = vec![b'x'; bytes as usize];
    for _ in 0..count {
        KEPT.with_borrow_mut(|all| all.push(Message::new(&body)));
    }
    println!("keeps {count} messages and lives");
}

fn properties(count: u64, bytes: usize) {
    let value = "x".repeat(bytes);
    let list: Vec<_> = (0..count).map(|n| (format!("p{n}"), value.clone())).collect();
    let msg = Message::new(b"{}");
    msg.set_properties(&list);
    say("properties", messaging::send("out", &msg));
}

/// What was accepted, where a kill of the host leaves it.
struct Receipts {
    run: String,
    file: File,
}

impl Receipts {
    fn open(path: String) -> io::Result<Self> {
        let run = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos()).to_string();
        Ok(Self { run, file: File::options().append(true).create(true).open(path)? })
    }

    fn write(&mut self, n: u64, sequence: u64) {
        let line = format!("{} {n} {sequence}\n", self.run);
        self.file.write_all(line.as_bytes()).expect("the receipt is written");
    }
}

fn flood(count: u64, bytes: usize, output: &str, mut receipts: Option<Receipts>) {
    let body = vec![b'x'; bytes];
    let (mut accepted, mut full, mut failed) = (0u64, 0u64, 0u64);
    for n in 1..=count {
        let mut properties = vec![("n".into(), n.to_string())];
        if let Some(receipts) = &receipts {
            properties.push(("run".into(), receipts.run.clone()));
        }
        match messaging::send_bytes(output, &body, &properties) {
            Ok(sequence) => {
                accepted += 1;
                if let Some(receipts) = &mut receipts {
                    receipts.write(n, sequence);
                }
            }
            Err(SendError::Full) => full += 1,
            Err(_) => failed += 1,
        }
    }
    let report = json!({ "flood": { "accepted": accepted, "full": full, "failed": failed } }).to_string();
    println!("{report}");
    if let Err(err) = twin::report(&report) {
        eprintln!("cannot report: {err:?}");
    }
}

fn send_new(output: &str, body: &[u8]) -> Result<u64, SendError> {
    messaging::send(output, &Message::new(body))
}

/// The outcome of a send, in the log and in the reported twin.
fn say(what: &str, outcome: Result<u64, SendError>) {
    let report = json!({ what: format!("{outcome:?}") }).to_string();
    println!("{report}");
    if let Err(err) = twin::report(&report) {
        eprintln!("cannot report: {err:?}");
    }
}
