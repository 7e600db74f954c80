//! The methods of `$edgeAgent`: which there are, and what their payloads say. Carries none out.

use serde::Deserialize;
use serde_json::Value;

use crate::{methods::MethodRequest, module_logs::LogRequest};

/// The major version of the payloads' schema.
const SCHEMA: &str = "1";

/// A call that is understood.
#[derive(Debug, Clone)]
pub enum AgentCall {
    /// Answers, and does nothing.
    Ping,
    /// A module's instance is replaced.
    RestartModule {
        /// Its name; perhaps there is none of it.
        id: String,
    },
    /// Lines of modules.
    GetModuleLogs(LogRequest),
    /// What became of a task that another method began. No method here begins any.
    GetTaskStatus {
        /// The task's.
        correlation_id: String,
    },
}

/// Names as they are told, and counted.
const AGENT_METHODS: [&str; 4] = ["ping", "RestartModule", "GetModuleLogs", "GetTaskStatus"];

/// Methods of IoT Edge that send files to a storage of the cloud.
const WITHOUT_CLOUD: [&str; 2] = ["UploadModuleLogs", "UploadSupportBundle"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default)]
    schema_version: Option<String>,
}

#[derive(Deserialize)]
struct Restart {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskStatus {
    correlation_id: String,
}

impl AgentCall {
    /// Reads a call; the case of its name does not matter.
    ///
    /// # Errors
    /// What is wrong with it: status 400.
    pub fn read(request: &MethodRequest) -> Result<Self, String> {
        let name = request.name();
        let Some(known) = method_name(name) else {
            let known = AGENT_METHODS.join(", ");
            return Err(match WITHOUT_CLOUD.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                true => format!("`{name}` needs the cloud, which this host has no session with; it has {known}"),
                false => format!("there is no method `{name}`; `$edgeAgent` has {known}"),
            });
        };
        if known == "ping" {
            return Ok(Self::Ping);
        }
        let payload: Value = serde_json::from_str(request.payload()).map_err(|error| error.to_string())?;
        if !payload.is_object() {
            return Err(format!("`{known}` needs a payload, an object with `schemaVersion`"));
        }
        let envelope: Envelope = from(&payload)?;
        if let Some(version) = envelope.schema_version.filter(|version| version.split('.').next() != Some(SCHEMA)) {
            return Err(format!("schemaVersion: 1.0 is expected, not `{version}`"));
        }
        match known {
            "RestartModule" => from(&payload).map(|Restart { id }| Self::RestartModule { id }),
            "GetModuleLogs" => LogRequest::read(&payload).map(Self::GetModuleLogs),
            _ => from(&payload).map(|TaskStatus { correlation_id }| Self::GetTaskStatus { correlation_id }),
        }
    }
}

/// The name of a method as it is told, whatever its case.
#[must_use]
pub fn method_name(name: &str) -> Option<&'static str> {
    AGENT_METHODS.into_iter().find(|known| known.eq_ignore_ascii_case(name))
}

fn from<'p, T: Deserialize<'p>>(payload: &'p Value) -> Result<T, String> {
    T::deserialize(payload).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::Timeouts;

    fn read(name: &str, payload: &str) -> Result<AgentCall, String> {
        AgentCall::read(&MethodRequest::new(name, payload, Timeouts::default()).unwrap())
    }

    #[test]
    fn names_are_known_in_any_case() {
        for name in ["ping", "Ping", "PING"] {
            assert!(matches!(read(name, "[1]"), Ok(AgentCall::Ping)));
        }
        let restart = read("restartmodule", r#"{"schemaVersion":"1.7","id":"valve"}"#);
        assert!(matches!(restart, Ok(AgentCall::RestartModule { id }) if id == "valve"));
        let status = read("GETTASKSTATUS", r#"{"schemaVersion":"1.0","correlationId":"7"}"#);
        assert!(matches!(status, Ok(AgentCall::GetTaskStatus { correlation_id }) if correlation_id == "7"));
        assert!(matches!(read("GetModuleLogs", r#"{"items":[{"id":"all"}]}"#), Ok(AgentCall::GetModuleLogs(_))));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (name, payload, why) in [
            ("dance", "", "no method `dance`; `$edgeAgent` has ping, RestartModule"),
            ("uploadModuleLogs", "{}", "needs the cloud"),
            ("RestartModule", "", "needs a payload"),
            ("RestartModule", "{}", "missing field `id`"),
            ("RestartModule", r#"{"schemaVersion":"2.0","id":"a"}"#, "1.0 is expected, not `2.0`"),
            ("GetTaskStatus", r#"{"schemaVersion":1}"#, "string"),
            ("GetTaskStatus", "{}", "missing field `correlationId`"),
            ("GetModuleLogs", "{}", "missing field `items`"),
        ] {
            let told = read(name, payload).unwrap_err();
            assert!(told.contains(why), "{name} {payload}: {told}");
        }
    }
}
