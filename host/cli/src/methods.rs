//! `marram method`: calls methods through the running host.

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{
    args::{Format, Invoke, Method},
    ask::read,
    client::{Call, segment},
    config,
    failure::{Code, Failure},
    input, output,
};

/// From this status on an answer says that something is wrong.
const FIRST_ERROR: i64 = 400;

/// As the control API wants it; the payload stays as it was written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'p> {
    method_name: &'p str,
    payload: &'p RawValue,
    response_timeout_in_seconds: u64,
    connect_timeout_in_seconds: u64,
}

#[derive(Deserialize)]
struct Answer {
    status: i64,
    /// As the host has it: it may hold numbers and texts that a value here cannot.
    payload: Box<RawValue>,
}

pub(crate) fn methods(args: Method) -> Result<(), Failure> {
    match args {
        Method::Invoke(args) => invoke(&args),
    }
}

fn invoke(args: &Invoke) -> Result<(), Failure> {
    let given = match args.payload.as_deref() {
        Some("-") => input::text(Path::new("-"))?,
        Some(payload) => payload.to_owned(),
        None => String::new(),
    };
    let payload = if given.trim().is_empty() { "null" } else { &given };
    let body = Body {
        method_name: &args.name,
        payload: serde_json::from_str(payload).map_err(|error| not_json(&error))?,
        response_timeout_in_seconds: args.timeout,
        connect_timeout_in_seconds: args.connect_timeout,
    };
    let body = serde_json::to_string(&body).map_err(|error| Failure::failed(&error))?;
    let data = config::data_folder(&args.ask.place, None)?;
    let call = Call::post_with(format!("/v1/modules/{}/methods", segment(&args.module)), body);
    let bytes = call.held_for(Duration::from_secs(args.timeout + args.connect_timeout)).send(&data)?;
    let answer: Answer = read(&bytes)?;
    match args.ask.format {
        Format::Json => output::data(&format!("{}\n", String::from_utf8_lossy(&bytes)))?,
        Format::Text => output::data(&text(&answer))?,
    }
    if answer.status < FIRST_ERROR {
        return Ok(());
    }
    let message = format!("`{}` of `{}` answered with status {}", args.name, args.module, answer.status);
    Err(Failure::new(Code::MethodFailed, message))
}

fn not_json(error: &serde_json::Error) -> Failure {
    Failure::new(Code::Usage, format!("the payload is not JSON: {error}"))
        .hint("a text needs its quotation marks, and the shell quotes around them: '\"text\"'")
}

/// Pretty JSON escapes control characters by itself.
fn text(answer: &Answer) -> String {
    let payload = answer.payload.get();
    let pretty = serde_json::from_str::<Value>(payload).and_then(|value| serde_json::to_string_pretty(&value));
    format!("status {}\n{}\n", answer.status, pretty.unwrap_or_else(|_| payload.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn a_payload_may_be_a_number_below_zero() {
        let line = ["marram", "method", "invoke", "valve", "set", "-5", "--timeout", "7"];
        let cli = Cli::try_parse_from(line).unwrap();
        let Command::Method(Method::Invoke(args)) = cli.command else { panic!("{:?}", cli.command) };
        assert_eq!((args.payload.as_deref(), args.timeout), (Some("-5"), 7));
    }

    #[test]
    fn an_answer_is_shown_whatever_the_host_calls_json() {
        let shown = |payload: &str| {
            let body = format!(r#"{{"status":200,"payload":{payload}}}"#);
            text(&read(&body.into()).unwrap_or_else(|_| panic!("{payload}")))
        };
        assert_eq!(shown(r#"{"a":[1]}"#), "status 200\n{\n  \"a\": [\n    1\n  ]\n}\n");
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for odd in ["1e400", r#""\ud800""#, &deep] {
            assert_eq!(shown(odd), format!("status 200\n{odd}\n"));
        }
    }
}
