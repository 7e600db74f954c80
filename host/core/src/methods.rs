//! Direct methods: what a call may be, what its answer means, whose turn it is ([`Mailbox`]) and who waits for whom ([`Waits`]).
//! Names, sizes and times are those of IoT Edge. Calls nobody: the agent does.

mod mailbox;
mod waits;

use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::json;

pub use self::{
    mailbox::{MAX_WAITING, Mailbox, Refused, Target, Verdict},
    waits::{Cycle, Waits},
};

/// Longest name of a method, in characters.
pub const MAX_METHOD_NAME: usize = 100;
/// Longest payload of a call and of its answer, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 128 * 1024;
/// Deepest nesting of a payload. Parsers have bounds of their own, and a caller should not send what the callee cannot read.
pub const MAX_DEPTH: usize = 100;
/// Shortest wait for an answer.
pub const MIN_RESPONSE: Duration = Duration::from_secs(5);
/// Longest wait for an answer, and longest wait for the module to run.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(300);
/// Wait for an answer, unless the caller says otherwise. That for the module to run is then zero.
pub const DEFAULT_RESPONSE: Duration = Duration::from_secs(30);

/// The module runs, but takes no calls: .NET's client answers the same for a name that nobody handles.
pub const NOT_IMPLEMENTED: i32 = 501;
/// The handler trapped, was stopped, or gave no JSON.
pub const HANDLER_FAILED: i32 = 500;

/// How long a caller is ready to wait; what it does not say is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// For the answer, from when the module runs.
    pub response: Option<Duration>,
    /// For the module to run.
    pub connect: Option<Duration>,
}

/// A call that may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodRequest {
    name: Box<str>,
    payload: Box<str>,
    response: Duration,
    connect: Duration,
}

impl MethodRequest {
    /// Checks a call. The payload is JSON text; an empty one is `null`.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn new(name: &str, payload: &str, timeouts: Timeouts) -> Result<Self, BadMethod> {
        if name.trim().is_empty() {
            return Err(BadMethod::BlankName);
        }
        let characters = name.chars().count();
        if characters > MAX_METHOD_NAME {
            return Err(BadMethod::LongName(characters));
        }
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(BadMethod::LargePayload(payload.len()));
        }
        let payload = match payload.trim() {
            "" => "null",
            text => text,
        };
        is_json(payload).map_err(BadMethod::NotJson)?;
        let response = timeouts.response.unwrap_or(DEFAULT_RESPONSE);
        if !(MIN_RESPONSE..=MAX_TIMEOUT).contains(&response) {
            return Err(BadMethod::ResponseTimeout(response));
        }
        let connect = timeouts.connect.unwrap_or_default();
        if connect > MAX_TIMEOUT {
            return Err(BadMethod::ConnectTimeout(connect));
        }
        Ok(Self { name: name.into(), payload: payload.into(), response, connect })
    }

    /// The method's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// JSON text.
    #[must_use]
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// How long the caller waits for the answer.
    #[must_use]
    pub fn response(&self) -> Duration {
        self.response
    }

    /// How long it waits for the module to run.
    #[must_use]
    pub fn connect(&self) -> Duration {
        self.connect
    }
}

/// Why a call may not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMethod {
    /// Nothing but white space.
    #[error("the name of a method may not be empty or blank")]
    BlankName,
    /// So many characters.
    #[error("the name of a method has at most {MAX_METHOD_NAME} characters, this one has {0}")]
    LongName(usize),
    /// So many bytes.
    #[error("a payload has at most {MAX_PAYLOAD_BYTES} bytes, this one has {0}")]
    LargePayload(usize),
    /// The parser's words.
    #[error("the payload is not JSON: {0}")]
    NotJson(String),
    /// What was asked for.
    #[error("the response time-out is {} to {} s, not {} s", MIN_RESPONSE.as_secs(), MAX_TIMEOUT.as_secs(), .0.as_secs_f64())]
    ResponseTimeout(Duration),
    /// What was asked for.
    #[error("the connect time-out is 0 to {} s, not {} s", MAX_TIMEOUT.as_secs(), .0.as_secs_f64())]
    ConnectTimeout(Duration),
}

/// A handler's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodResponse {
    /// The handler's word, in the manner of HTTP.
    pub status: i32,
    /// JSON text of at most [`MAX_PAYLOAD_BYTES`].
    pub payload: String,
}

impl MethodResponse {
    /// What a handler has answered: as it is, or [`HANDLER_FAILED`] if that is no answer.
    #[must_use]
    pub fn of_handler(status: i32, payload: String) -> Self {
        if payload.len() > MAX_PAYLOAD_BYTES {
            let bytes = payload.len();
            return Self::failed(&format!("the answer has {bytes} bytes, at most {MAX_PAYLOAD_BYTES} are passed on"));
        }
        if payload.trim().is_empty() {
            return Self::empty(status);
        }
        match is_json(&payload) {
            Ok(()) => Self { status, payload },
            Err(error) => Self::failed(&format!("the answer is not JSON: {error}")),
        }
    }

    /// An answer without a payload.
    #[must_use]
    pub fn empty(status: i32) -> Self {
        Self { status, payload: "null".into() }
    }

    /// An answer that says in words what is wrong, as `{"message": …}`.
    #[must_use]
    pub fn error(status: i32, message: &str) -> Self {
        Self { status, payload: json!({ "message": message }).to_string() }
    }

    /// The handler could not answer.
    #[must_use]
    pub fn failed(message: &str) -> Self {
        Self::error(HANDLER_FAILED, message)
    }

    /// The module takes no calls.
    #[must_use]
    pub fn not_implemented(module: &str) -> Self {
        let message = format!("module `{module}` handles no methods (it does not export `method-handler`)");
        Self::error(NOT_IMPLEMENTED, &message)
    }
}

fn is_json(text: &str) -> Result<(), String> {
    serde_json::from_str::<IgnoredAny>(text).map(drop).map_err(|error| error.to_string())?;
    match depth(text) {
        0..=MAX_DEPTH => Ok(()),
        depth => Err(format!("it is nested {depth} deep, at most {MAX_DEPTH} are passed on")),
    }
}

/// How deep arrays and objects of a JSON text are nested.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Why a call was not answered by its handler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvokeError {
    /// It may not be made.
    #[error(transparent)]
    Bad(#[from] BadMethod),
    /// No module of that name is deployed.
    #[error("there is no module `{0}` in the deployment; `marram list` shows the names")]
    Unknown(String),
    /// It did not run in time.
    #[error("module `{module}` does not run, and did not within the connect time-out of {} s", .connect.as_secs_f64())]
    NotRunning {
        /// Which.
        module: String,
        /// How long the caller was ready to wait.
        connect: Duration,
    },
    /// It runs, but did not answer in time. Whether it has done what was asked is not known.
    #[error(
        "module `{module}` did not answer within {} s: it is busy, or its handler takes longer; what was asked may be done all \
         the same",
        .response.as_secs_f64()
    )]
    Timeout {
        /// Which.
        module: String,
        /// How long the caller waited.
        response: Duration,
    },
    /// The caller may not call it.
    #[error("{0}")]
    Denied(String),
    /// So many calls wait for it already.
    #[error("{MAX_WAITING} calls wait for module `{0}` already; try again later")]
    Busy(String),
    /// The host is ending, or the module that calls is to end.
    #[error("the host or the calling module is stopping")]
    Stopping,
}

impl InvokeError {
    /// As a status of HTTP, which is how IoT Edge tells it.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Bad(_) => 400,
            Self::Denied(_) => 403,
            Self::Unknown(_) | Self::NotRunning { .. } => 404,
            Self::Busy(_) | Self::Stopping => 503,
            Self::Timeout { .. } => 504,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(response: u64, connect: u64) -> Timeouts {
        Timeouts { response: Some(Duration::from_secs(response)), connect: Some(Duration::from_secs(connect)) }
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let request = MethodRequest::new("reset", " ", Timeouts::default()).unwrap();
        assert_eq!(
            (request.payload(), request.response(), request.connect()),
            ("null", DEFAULT_RESPONSE, Duration::ZERO)
        );
    }

    #[test]
    fn a_call_beyond_a_limit_is_refused_and_one_at_it_is_not() {
        let name = |count: usize| MethodRequest::new(&"é".repeat(count), "", Timeouts::default()).map(drop);
        assert_eq!((name(100), name(101)), (Ok(()), Err(BadMethod::LongName(101))));
        let blank = MethodRequest::new(" \t", "", Timeouts::default());
        assert_eq!(blank, Err(BadMethod::BlankName));
        let payload = |bytes: usize| {
            MethodRequest::new("m", &format!("\"{}\"", "x".repeat(bytes - 2)), Timeouts::default()).map(drop)
        };
        let over = MAX_PAYLOAD_BYTES + 1;
        assert_eq!((payload(over - 1), payload(over)), (Ok(()), Err(BadMethod::LargePayload(over))));
        let timeouts = |response, connect| MethodRequest::new("m", "", seconds(response, connect)).map(drop);
        assert_eq!((timeouts(5, 0), timeouts(300, 300)), (Ok(()), Ok(())));
        for response in [4, 301] {
            assert_eq!(timeouts(response, 0), Err(BadMethod::ResponseTimeout(Duration::from_secs(response))));
        }
        assert_eq!(timeouts(30, 301), Err(BadMethod::ConnectTimeout(Duration::from_secs(301))));
    }

    #[test]
    fn what_is_no_json_is_refused_in_a_call_and_status_500_in_an_answer() {
        for bad in ["{", "nul", "{}{}", "[1,]", &"[".repeat(200_000)[..100_000]] {
            assert!(matches!(MethodRequest::new("m", bad, Timeouts::default()), Err(BadMethod::NotJson(_))));
            let answer = MethodResponse::of_handler(200, bad.to_owned());
            assert!(answer.status == 500 && answer.payload.contains("not JSON"), "{answer:?}");
        }
        let large = MethodResponse::of_handler(200, format!("\"{}\"", "x".repeat(MAX_PAYLOAD_BYTES)));
        assert!(large.status == 500 && large.payload.contains("at most 131072"), "{large:?}");
        assert_eq!(MethodResponse::of_handler(-7, String::new()), MethodResponse::empty(-7));
    }

    #[test]
    fn a_payload_is_nested_at_most_a_hundred_deep() {
        let nested = |depth: usize| format!("{}{}", r#"{"[":["\\\"[",1],"x":["#.repeat(depth), "]}".repeat(depth));
        for (payload, deep) in [(nested(50), 100), (nested(51), 102), (r#"["[[[","\"[{"]"#.into(), 1), ("7".into(), 0)]
        {
            assert_eq!(depth(&payload), deep, "{payload}");
            let call = MethodRequest::new("m", &payload, Timeouts::default());
            assert_eq!(call.is_ok(), deep <= 100, "{call:?}");
            let answer = MethodResponse::of_handler(200, payload);
            assert_eq!(answer.status == 500 && answer.payload.contains("nested 102 deep"), deep > 100, "{answer:?}");
        }
    }

    proptest! {
        #[test]
        fn depth_is_that_of_the_value(json in "[ {}\\[\\]\"a0,:\\\\]{0,12}") {
            fn deep(value: &serde_json::Value) -> usize {
                match value {
                    serde_json::Value::Array(items) => 1 + items.iter().map(deep).max().unwrap_or_default(),
                    serde_json::Value::Object(items) => 1 + items.values().map(deep).max().unwrap_or_default(),
                    _ => 0,
                }
            }
            let Ok(value) = serde_json::from_str(&json) else { return Ok(()) };
            prop_assert_eq!(depth(&json), deep(&value));
        }

        #[test]
        fn a_call_that_may_be_made_keeps_all_limits(
            name in "\\PC{0,110}", payload in "[ {}\\[\\]\"a0,:]{0,12}", response in 0..400_u64, connect in 0..400_u64
        ) {
            let Ok(request) = MethodRequest::new(&name, &payload, seconds(response, connect)) else { return Ok(()) };
            prop_assert!(!request.name().trim().is_empty() && request.name().chars().count() <= MAX_METHOD_NAME);
            prop_assert!(serde_json::from_str::<serde_json::Value>(request.payload()).is_ok());
            prop_assert!((5..=300).contains(&request.response().as_secs()) && request.connect().as_secs() <= 300);
        }

        #[test]
        fn an_answer_is_always_json_within_the_limit(status in any::<i32>(), payload in "[ {}\\[\\]\"a0,:]{0,12}", times in 1..20_000_usize) {
            let answer = MethodResponse::of_handler(status, payload.repeat(times));
            prop_assert!(answer.payload.len() <= MAX_PAYLOAD_BYTES);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&answer.payload).is_ok());
            prop_assert!(answer.status == status || answer.status == HANDLER_FAILED);
        }
    }
}
