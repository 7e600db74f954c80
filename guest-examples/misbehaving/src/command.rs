//! Reads commands. Carries none out.

use serde_json::Value;

/// What to do. Sizes are bytes unless the name says otherwise; a number that is left out is the one in brackets.
#[derive(Debug)]
pub(crate) enum Command {
    /// `{"do":"echo"}`: sends the message back, unchanged, on output `out`.
    Echo,
    /// `{"do":"trap"}`: an `unreachable` instruction.
    Trap,
    /// `{"do":"panic"}`: a Rust panic, with its text on standard error.
    Panic,
    /// `{"do":"recurse"}`: calls itself until the stack is used up.
    Recurse,
    /// `{"do":"loop"}`: runs for ever.
    Loop,
    /// `{"do":"spin","ms":N}` [1000]: runs for a while, without a host call but the clock.
    Spin { ms: u64 },
    /// `{"do":"sleep","ms":N}` [1000]: waits in the host.
    Sleep { ms: u64 },
    /// `{"do":"eat","mib":N}` [4096]: takes memory, MiB by MiB, touches it, and keeps it.
    Eat { mib: u64 },
    /// `{"do":"keep","count":N,"bytes":N}` [100000, 0]: makes messages and never drops them.
    Keep { count: u64, bytes: u64 },
    /// `{"do":"oversize","bytes":N}` [1 MiB]: sends one message with such a body on output `out`.
    Oversize { bytes: u64 },
    /// `{"do":"send","body":JSON}`: sends a message with this text on output `out`.
    Send { body: String },
    /// `{"do":"properties","count":N,"bytes":N}` [100000, 100]: hands the host one list of so many properties.
    Properties { count: u64, bytes: u64 },
    /// `{"do":"flood","count":N,"bytes":N,"output":TEXT}` [10000, 64, `flood`]: sends as fast as it can. Each message
    /// has the property `n`, from 1. Answers with `flood: {accepted, full, failed}` in the reported twin and the log. With
    /// `"receipts":PATH` each message has the property `run`, which tells floods apart, and for each that was accepted a line `RUN N
    /// SEQUENCE` is added to that file.
    Flood { count: u64, bytes: u64, output: String, receipts: Option<String> },
    /// `{"do":"log","lines":N,"bytes":N}` [10000, 100]: writes lines to standard output.
    Log { lines: u64, bytes: u64 },
    /// `{"do":"exit","code":N}` [0]: ends the instance.
    Exit { code: i32 },
    /// `{"do":"sick","status":N}` [503]: from now on its method `alive` answers with this status.
    Sick { status: i32 },
    /// `{"do":"retry","ms":N}` [the host's back-off]: asks for the message again.
    Retry { ms: Option<u64> },
    /// `{"do":"reject"}`: gives the message up.
    Reject,
    /// `{"do":"invoke","target":TEXT,"name":TEXT,"payload":JSON,"responseMs":N,"connectMs":N}` [payload `null`, the host's time-outs]:
    /// calls a method of another module. Answers with `invoke: {status, payload}` or `invoke: {error}` in the log, and as the answer of
    /// the method `do`.
    Invoke { target: String, name: String, payload: String, response_ms: Option<u64>, connect_ms: Option<u64> },
}

impl Command {
    /// The error says what was expected.
    pub(crate) fn read(json: &Value) -> Result<Self, String> {
        let number = |name: &str, default: u64| json.get(name).and_then(Value::as_u64).unwrap_or(default);
        let name = json.get("do").and_then(Value::as_str).ok_or("expected an object such as {\"do\":\"echo\"}")?;
        Ok(match name {
            "echo" => Self::Echo,
            "trap" => Self::Trap,
            "panic" => Self::Panic,
            "recurse" => Self::Recurse,
            "loop" => Self::Loop,
            "spin" => Self::Spin { ms: number("ms", 1000) },
            "sleep" => Self::Sleep { ms: number("ms", 1000) },
            "eat" => Self::Eat { mib: number("mib", 4096) },
            "keep" => Self::Keep { count: number("count", 100_000), bytes: number("bytes", 0) },
            "oversize" => Self::Oversize { bytes: number("bytes", 1 << 20) },
            "send" => Self::Send { body: json.get("body").map(Value::to_string).unwrap_or_default() },
            "properties" => Self::Properties { count: number("count", 100_000), bytes: number("bytes", 100) },
            "flood" => Self::Flood {
                count: number("count", 10_000),
                bytes: number("bytes", 64),
                output: json.get("output").and_then(Value::as_str).unwrap_or("flood").into(),
                receipts: json.get("receipts").and_then(Value::as_str).map(Into::into),
            },
            "log" => Self::Log { lines: number("lines", 10_000), bytes: number("bytes", 100) },
            "exit" => Self::Exit { code: number("code", 0) as i32 },
            "sick" => Self::Sick { status: number("status", 503) as i32 },
            "retry" => Self::Retry { ms: json.get("ms").and_then(Value::as_u64) },
            "reject" => Self::Reject,
            "invoke" => {
                let text = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
                let millis = |name: &str| json.get(name).and_then(Value::as_u64);
                Self::Invoke {
                    target: text("target"),
                    name: text("name"),
                    payload: json.get("payload").map(Value::to_string).unwrap_or_default(),
                    response_ms: millis("responseMs"),
                    connect_ms: millis("connectMs"),
                }
            }
            other => return Err(format!("unknown command `{other}`")),
        })
    }
}
