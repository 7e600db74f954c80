//! The methods of `$edgeAgent`, as IoT Edge's agent answers them: 200, 400 for what is wrong with the call, 500 for what fails.

use std::io::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use marram_core::{
    edge_agent::{AgentCall, method_name},
    methods::{MAX_PAYLOAD_BYTES, MethodRequest, MethodResponse},
    module_logs::{Encoding, Filter, Line, LogRequest},
    name::ModuleName,
};
use serde_json::{Value, json};

use super::{Agent, ModuleError};
use crate::logs::{LogLine, LogQuery};

impl Agent {
    /// Answers a call of `$edgeAgent`.
    pub(super) async fn edge_agent(&self, request: &MethodRequest) -> MethodResponse {
        if let Some(name) = method_name(request.name()) {
            self.methods.note_agent_call(name);
        }
        let result = match AgentCall::read(request) {
            Err(why) => return MethodResponse::error(400, &why),
            Ok(AgentCall::Ping) => Ok(Value::Null),
            Ok(AgentCall::RestartModule { id }) => self.restart(&id).await.map(|()| Value::Null),
            Ok(AgentCall::GetTaskStatus { correlation_id }) => {
                Ok(json!({ "status": "Unknown", "message": "", "correlationId": correlation_id }))
            }
            Ok(AgentCall::GetModuleLogs(request)) => self.module_logs(request).await,
        };
        let payload = match result {
            Ok(payload) => payload.to_string(),
            Err(error) => return MethodResponse::error(500, &error.to_string()),
        };
        if payload.len() > MAX_PAYLOAD_BYTES {
            let message = format!(
                "the answer takes {} bytes, at most {MAX_PAYLOAD_BYTES} can travel; ask for fewer lines (`tail`, `since`, \
                 `until`), fewer modules, or for gzip",
                payload.len()
            );
            return MethodResponse::error(400, &message);
        }
        MethodResponse { status: 200, payload }
    }

    async fn module_logs(&self, request: LogRequest) -> Result<Value, ModuleError> {
        let status = self.status().await?;
        let names: Vec<ModuleName> = status.modules.into_iter().map(|module| module.name).collect();
        let mut logs = Vec::new();
        for (name, filter) in request.choose(names.into_iter()) {
            // One that has just been removed is not asked for any more.
            match self.logs(name.as_str(), &LogQuery::default()).await {
                Ok(lines) => logs.push((name, filter.clone(), lines)),
                Err(ModuleError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let (device, now) = (self.device_id.to_string(), self.now());
        // Patterns and gzip take their time over what may be megabytes.
        let work = tokio::task::spawn_blocking(move || {
            let answer = |(name, filter, lines): &(ModuleName, Filter, Vec<LogLine>)| {
                let lines = lines.iter().map(|line| Line::read(line.time, line.stream, &line.text));
                let text = request.write(&device, name, &filter.select(lines, now));
                match request.encoding {
                    Encoding::None => json!({ "id": name, "payloadBytes": null, "payload": text }),
                    Encoding::Gzip => json!({ "id": name, "payloadBytes": gzip(&text), "payload": null }),
                }
            };
            Value::Array(logs.iter().map(answer).collect())
        });
        work.await.map_err(|error| ModuleError::Refused(format!("the logs could not be read: {error}")))
    }
}

/// Base64 of gzip.
fn gzip(text: &str) -> String {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Into memory: it does not fail.
    let bytes = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).unwrap_or_default();
    STANDARD.encode(bytes)
}
