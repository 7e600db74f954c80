//! Calls of methods, in the words of IoT Edge: `methodName`, `payload` and two time-outs in, `status` and `payload` out.

use std::time::Duration;

use hyper::StatusCode;
use marram_core::methods::{BadMethod, InvokeError, MethodRequest, MethodResponse, Timeouts};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Answer, Failure, ok};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Call<'b> {
    method_name: String,
    #[serde(borrow, default)]
    payload: Option<&'b RawValue>,
    #[serde(default)]
    response_timeout_in_seconds: Option<u64>,
    #[serde(default)]
    connect_timeout_in_seconds: Option<u64>,
}

#[derive(Serialize)]
struct Response {
    status: i32,
    payload: Box<RawValue>,
}

pub(super) fn read(body: &str) -> Result<MethodRequest, Failure> {
    let call: Call<'_> = serde_json::from_str(body)
        .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, "bad-request", error.to_string()))?;
    let timeouts = Timeouts {
        response: call.response_timeout_in_seconds.map(Duration::from_secs),
        connect: call.connect_timeout_in_seconds.map(Duration::from_secs),
    };
    let request = MethodRequest::new(&call.method_name, call.payload.map_or("", RawValue::get), timeouts);
    request.map_err(|bad: BadMethod| InvokeError::from(bad).into())
}

pub(super) fn answer(MethodResponse { status, payload }: MethodResponse) -> Result<Answer, Failure> {
    let payload = RawValue::from_string(payload)
        .map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))?;
    ok(&Response { status, payload })
}

impl From<InvokeError> for Failure {
    fn from(error: InvokeError) -> Self {
        let code = match &error {
            InvokeError::Bad(_) => "bad-request",
            InvokeError::Unknown(_) => "unknown-module",
            InvokeError::NotRunning { .. } => "not-running",
            InvokeError::Timeout { .. } => "timeout",
            InvokeError::Denied(_) => "denied",
            InvokeError::Busy(_) => "busy",
            InvokeError::Stopping => "stopping",
        };
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(status, code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_as_iot_edge_writes_it_and_bad_ones_are_refused() {
        let body =
            r#"{"methodName":"m","payload":{"a":[1.50]},"responseTimeoutInSeconds":7,"connectTimeoutInSeconds":3}"#;
        let call = read(body).ok().unwrap();
        assert_eq!((call.name(), call.payload()), ("m", r#"{"a":[1.50]}"#));
        assert_eq!((call.response(), call.connect()), (Duration::from_secs(7), Duration::from_secs(3)));
        let least = read(r#"{"methodName":"m","payload":null}"#).ok().unwrap();
        assert_eq!((least.payload(), least.response()), ("null", Duration::from_secs(30)));
        for (bad, why) in [
            ("{}", "missing field `methodName`"),
            (r#"{"methodName":" "}"#, "blank"),
            (r#"{"methodName":"m","responseTimeoutInSeconds":4}"#, "5 to 300 s, not 4 s"),
            (r#"{"methodName":"m","connectTimeoutInSeconds":301}"#, "0 to 300 s, not 301 s"),
            (r#"{"methodName":"m","timeout":9}"#, "unknown field `timeout`"),
            (r#"{"methodName":"m","payload":{}"#, "EOF"),
        ] {
            let failure = read(bad).err().unwrap();
            assert_eq!((failure.status, failure.code), (StatusCode::BAD_REQUEST, "bad-request"), "{bad}");
            assert!(failure.message.contains(why), "{}", failure.message);
        }
    }
}
